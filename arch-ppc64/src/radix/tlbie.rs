//! `tlbie` and `tlbiel` for radix: the operands (Power ISA v3.0B Book III, "TLB Invalidate Entry")
//! and the instruction words.

use core::marker::PhantomData;

use bitfield_struct::bitfield;

use super::geometry::PageSize;
use super::scope::Scope;

/// What an invalidation reaches (RIC).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[repr(u8)]
pub enum Ric {
    /// Translations only.
    Tlb = 0,
    /// The page-walk cache only: directory entries.
    WalkCache = 1,
    /// Both, and cached process table entries (partition scope: partition table entries).
    All = 2,
}

/// Register RB: which translations.
#[bitfield(u64, order = Msb)]
#[derive(PartialEq, Eq, Hash)]
pub struct Rb {
    /// 0:51: Effective Page Number (partition scope: of the guest real address), in units of 4 KiB.
    /// With another IS than 0 its low 12 bits are `tlbiel`'s set.
    #[bits(52)]
    pub epn: u64,
    /// 52:53: Invalidation Selector: 0 one page, 1 a process, 2 a partition, 3 everything.
    #[bits(2)]
    pub is: u8,
    #[bits(2)]
    __: u8,
    /// 56:58: Actual Page Size, if IS = 0.
    #[bits(3)]
    pub ap: u8,
    #[bits(5)]
    __: u8,
}

/// Register RS: whose translations.
#[bitfield(u64, order = Msb)]
#[derive(PartialEq, Eq, Hash)]
pub struct Rs {
    /// 0:31: Process ID.
    pub pid: u32,
    /// 32:63: Logical Partition ID.
    pub lpid: u32,
}

/// A radix invalidation (R = 1) in scope `S`: process-scoped (PRS = 1) or partition-scoped (PRS =
/// 0).
///
/// Only legal forms can be made: one page has RIC = 0, and only process scope matches by process.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Tlbie<S> {
    rb: Rb,
    rs: Rs,
    ric: Ric,
    scope: PhantomData<S>,
}

/// The bits of the instruction word that say RIC, PRS and R.
#[bitfield(u32, order = Msb)]
struct Word {
    #[bits(6)]
    opcode: u8,
    #[bits(5)]
    rs: u8,
    __: bool,
    #[bits(2)]
    ric: u8,
    prs: bool,
    r: bool,
    #[bits(5)]
    rb: u8,
    #[bits(10)]
    extended: u16,
    __: bool,
}

impl<S: Scope> Tlbie<S> {
    /// Translations of the page of `size` that holds `address`, which is an effective address
    /// (process scope) or a guest real address (partition scope).
    #[must_use]
    pub const fn page(address: u64, size: PageSize, whose: Rs) -> Self {
        let rb = Rb::new().with_epn(address >> 12).with_ap(size.ap());
        Self { rb, rs: whose, ric: Ric::Tlb, scope: PhantomData }
    }

    /// Whatever `ric` reaches of the whole process, or of the whole partition.
    #[must_use]
    pub const fn space(ric: Ric, whose: Rs) -> Self {
        Self {
            rb: Rb::new().with_is(if S::PROCESS_SCOPED { 1 } else { 2 }),
            rs: whose,
            ric,
            scope: PhantomData,
        }
    }

    /// The same for one set of the TLB: what `tlbiel` does at a time on POWER9, with
    /// [`space`](Self::space). Bits of `set` beyond the low 12 are ignored.
    #[must_use]
    pub const fn with_set(self, set: u16) -> Self {
        Self { rb: self.rb.with_epn(set as u64 & 0xfff), ..self }
    }

    /// Register RB.
    #[must_use]
    pub const fn rb(self) -> Rb {
        self.rb
    }

    /// Register RS.
    #[must_use]
    pub const fn rs(self) -> Rs {
        self.rs
    }

    /// What it reaches.
    #[must_use]
    pub const fn ric(self) -> Ric {
        self.ric
    }

    /// Whether it is process-scoped (PRS).
    #[must_use]
    pub const fn prs(self) -> bool {
        S::PROCESS_SCOPED
    }

    const fn word(self) -> Word {
        Word::new().with_ric(self.ric as u8).with_prs(S::PROCESS_SCOPED).with_r(true)
    }

    const fn instruction(self, extended: u16, rb: u8, rs: u8) -> u32 {
        self.word()
            .with_opcode(31)
            .with_extended(extended)
            .with_rb(rb & 31)
            .with_rs(rs & 31)
            .into_bits()
    }

    /// The word of `tlbie`, with its operands in general registers `rb` and `rs` (0 to 31).
    #[must_use]
    pub const fn tlbie(self, rb: u8, rs: u8) -> u32 {
        self.instruction(306, rb, rs)
    }

    /// The word of `tlbiel`, with its operands in general registers `rb` and `rs` (0 to 31).
    #[must_use]
    pub const fn tlbiel(self, rb: u8, rs: u8) -> u32 {
        self.instruction(274, rb, rs)
    }

    /// The RIC, PRS and R fields alone, where they stand in the instruction word.
    pub(crate) const fn fields(self) -> u64 {
        self.word().into_bits() as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use pgtable::{Stage1, Stage2};

    #[test]
    fn operands() {
        let whose = Rs::new().with_pid(0x42);
        for (address, size, rb) in [
            (0x1234_5678, PageSize::K4, 0x1234_5000),
            (0x1234_0000, PageSize::K64, 0x1234_00a0),
            (0x1234_5678, PageSize::K64, 0x1234_50a0),
            (0x1220_0000, PageSize::M2, 0x1220_0020),
            (0x4000_0000, PageSize::G1, 0x4000_0040),
            (0xc000_0000_0000_1000, PageSize::K4, 0xc000_0000_0000_1000),
        ] {
            let page = Tlbie::<Stage1>::page(address, size, whose);
            assert_eq!(
                (page.rb().into_bits(), page.rs().into_bits(), page.ric()),
                (rb, 0x42 << 32, Ric::Tlb)
            );
        }
        let process = Tlbie::<Stage1>::space(Ric::All, whose);
        assert_eq!(process.rb().into_bits(), 0x400);
        assert_eq!(process.with_set(5).rb().into_bits(), 0x5400);
        assert_eq!(process.with_set(u16::MAX).rb().into_bits(), 0xff_f400);
        let partition = Tlbie::<Stage2>::space(Ric::WalkCache, Rs::new().with_lpid(7));
        assert_eq!((partition.rb().into_bits(), partition.rs().into_bits()), (0x800, 7));
    }

    /// As `binutils` assembles `tlbie rb, rs, ric, prs, r`: 0x7c000264 with RB << 11, RS << 21, RIC
    /// << 18, PRS << 17, R << 16.
    #[test]
    fn instructions() {
        let whose = Rs::new();
        for (name, word, want) in [
            (
                "tlbie 4,5,0,1,1",
                Tlbie::<Stage1>::page(0, PageSize::K4, whose).tlbie(4, 5),
                0x7ca3_2264,
            ),
            ("tlbie 4,5,2,1,1", Tlbie::<Stage1>::space(Ric::All, whose).tlbie(4, 5), 0x7cab_2264),
            (
                "tlbie 4,5,1,0,1",
                Tlbie::<Stage2>::space(Ric::WalkCache, whose).tlbie(4, 5),
                0x7ca5_2264,
            ),
            ("tlbiel 3,0,0,1,1", Tlbie::<Stage1>::space(Ric::Tlb, whose).tlbiel(3, 0), 0x7c03_1a24),
        ] {
            assert_eq!(word, want, "{name}: {word:#x}");
        }
    }
}
