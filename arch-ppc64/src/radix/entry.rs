//! The two kinds of entry of a radix tree: directory entry and page table entry (Power ISA v3.0B
//! Book III, "Radix Tree Translation").
//!
//! Both have V and L at the same place: V = 1, L = 0 is a directory entry, V = 1, L = 1 a leaf, at
//! whatever level it stands. V = 0 is no entry, and the other bits are software's.

use bitfield_struct::bitfield;

/// A page directory entry (PDE, ISA "Radix Tree Page Directory Entry"): where the next table is,
/// and how large.
///
/// It carries no permissions.
#[bitfield(u64, order = Msb)]
#[derive(PartialEq, Eq, Hash)]
pub struct Pde {
    /// 0: valid.
    pub v: bool,
    /// 1: leaf; 0 in a PDE.
    pub l: bool,
    /// 2:3: reserved.
    #[bits(2)]
    pub reserved_2: u8,
    /// 4:55: Next Level Base, in units of 256 bytes. Aligned to the size of the table.
    #[bits(52)]
    pub nlb: u64,
    /// 56:58: reserved.
    #[bits(3)]
    pub reserved_56: u8,
    /// 59:63: Next Level Size: log2 of the next table's entries.
    #[bits(5)]
    pub nls: u8,
}

impl Pde {
    /// A directory entry with nothing else in it.
    pub(crate) const VALID: u64 = Self::new().with_v(true).into_bits();
    /// The size of the next table.
    pub(crate) const NLS: u64 = Self::new().with_nls((1 << Self::NLS_BITS) - 1).into_bits();
    /// The bits of the next table's address.
    pub(crate) const ADDRESS: u64 = Self::new().with_nlb((1 << Self::NLB_BITS) - 1).into_bits();
    /// The bits that software must leave zero.
    pub(crate) const RESERVED: u64 = Self::new().with_reserved_2(3).with_reserved_56(7).into_bits();

    /// The address of the next table.
    #[inline(always)]
    #[must_use]
    pub const fn table(self) -> u64 {
        self.into_bits() & Self::ADDRESS
    }
}

/// A page table entry (PTE, ISA "Radix Tree Page Table Entry"): a leaf, of 4 KiB, 64 KiB, 2 MiB or
/// 1 GiB by the level where it stands.
#[bitfield(u64, order = Msb)]
#[derive(PartialEq, Eq, Hash)]
pub struct Pte {
    /// 0: valid.
    pub v: bool,
    /// 1: leaf; 1 in a PTE.
    pub l: bool,
    /// 2: software bit 0.
    pub sw0: bool,
    /// 3:6: reserved.
    #[bits(4)]
    pub reserved_3: u8,
    /// 7:51: Real Page Number, in units of 4 KiB. Aligned to the size of the page.
    #[bits(45)]
    pub rpn: u64,
    /// 52:54: software bits 1 to 3, in this order from the left.
    #[bits(3)]
    pub sw: u8,
    /// 55: Reference.
    pub r: bool,
    /// 56: Change.
    pub c: bool,
    /// 57: reserved.
    pub reserved_57: bool,
    /// 58:59: page attributes.
    #[bits(2)]
    pub att: Att,
    /// 60:63: Encoded Access Authority.
    #[bits(4)]
    pub eaa: Eaa,
}

/// What a walk tests and makes whole words by: the fields' masks, computed at compile time. (The
/// accessors of a bitfield are functions of this crate that another crate's walk may not have
/// inlined.)
impl Pte {
    /// The bits of the page's address.
    pub(crate) const ADDRESS: u64 = Self::new().with_rpn((1 << Self::RPN_BITS) - 1).into_bits();
    /// The bits that software must leave zero.
    pub(crate) const RESERVED: u64 =
        Self::new().with_reserved_3(15).with_reserved_57(true).into_bits();
    /// What makes a word a leaf.
    pub(crate) const LEAF: u64 = Self::new().with_v(true).with_l(true).into_bits();
    /// The bits that say what the page is, besides its address.
    pub(crate) const ATTRIBUTES: u64 = !(Self::ADDRESS | Self::RESERVED | Self::LEAF);
    /// Reference.
    pub(crate) const R: u64 = Self::new().with_r(true).into_bits();
    /// Change.
    pub(crate) const C: u64 = Self::new().with_c(true).into_bits();
    /// Privileged state only.
    pub(crate) const PRIVILEGED: u64 =
        Self::new().with_eaa(Eaa::new().with_privileged(true)).into_bits();
    /// Loads.
    pub(crate) const READ: u64 = Self::new().with_eaa(Eaa::new().with_read(true)).into_bits();
    /// Loads and stores.
    pub(crate) const WRITE: u64 = Self::new().with_eaa(Eaa::new().with_write(true)).into_bits();
    /// Fetches.
    pub(crate) const EXECUTE: u64 = Self::new().with_eaa(Eaa::new().with_execute(true)).into_bits();
    /// The kind of storage.
    pub(crate) const ATT: u64 = Self::new().with_att(Att::Tolerant).into_bits();
    /// Non-idempotent I/O, as the kind of storage.
    pub(crate) const NON_IDEMPOTENT: u64 = Self::new().with_att(Att::NonIdempotent).into_bits();

    /// The address of the page, as the entry has it: bits below the page's size are not cleared.
    #[inline(always)]
    #[must_use]
    pub const fn page(self) -> u64 {
        self.into_bits() & Self::ADDRESS
    }
}

/// Encoded Access Authority (ISA "Radix Tree Page Table Entry" and "Storage Protection"): what a
/// leaf allows, and to whom.
#[bitfield(u8, order = Msb)]
#[derive(PartialEq, Eq, Hash)]
pub struct Eaa {
    #[bits(4)]
    __: u8,
    /// Bit 0: privileged state only. Partition scope ignores it.
    pub privileged: bool,
    /// Bit 1: loads.
    pub read: bool,
    /// Bit 2: loads and stores.
    pub write: bool,
    /// Bit 3: instruction fetches.
    pub execute: bool,
}

/// Page attributes (ISA "Radix Tree Page Table Entry"): what kind of storage a leaf maps.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
#[repr(u8)]
pub enum Att {
    /// Ordinary memory.
    #[default]
    Normal = 0,
    /// Strong Access Order.
    StrongAccessOrder = 1,
    /// Non-idempotent I/O: guarded, caching inhibited. Nothing is ever fetched from it.
    NonIdempotent = 2,
    /// Tolerant I/O: caching inhibited.
    Tolerant = 3,
}

impl Att {
    /// The two bits.
    #[must_use]
    pub const fn into_bits(self) -> u8 {
        self as u8
    }

    /// From the two low bits of `bits`.
    #[must_use]
    pub const fn from_bits(bits: u8) -> Self {
        match bits & 3 {
            0 => Self::Normal,
            1 => Self::StrongAccessOrder,
            2 => Self::NonIdempotent,
            _ => Self::Tolerant,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn masks_are_the_manuals() {
        for (name, mask, want) in [
            ("PDE NLB", Pde::ADDRESS, 0x0fff_ffff_ffff_ff00),
            ("PDE reserved", Pde::RESERVED, 0x3000_0000_0000_00e0),
            ("PDE V", Pde::new().with_v(true).into_bits(), 1 << 63),
            ("PDE L", Pde::new().with_l(true).into_bits(), 1 << 62),
            ("PDE NLS", Pde::new().with_nls(31).into_bits(), 0x1f),
            ("PTE RPN", Pte::ADDRESS, 0x01ff_ffff_ffff_f000),
            ("PTE reserved", Pte::RESERVED, 0x1e00_0000_0000_0040),
            ("PTE SW0", Pte::new().with_sw0(true).into_bits(), 0x2000_0000_0000_0000),
            ("PTE SW1..3", Pte::new().with_sw(7).into_bits(), 0xe00),
            ("PTE R", Pte::R, 0x100),
            ("PTE C", Pte::C, 0x80),
            ("PTE ATT", Pte::new().with_att(Att::Tolerant).into_bits(), 0x30),
            ("PTE EAA", Pte::new().with_eaa(Eaa::from_bits(15)).into_bits(), 0xf),
            ("EAA PRIV", Eaa::new().with_privileged(true).into_bits().into(), 8),
            ("EAA READ", Eaa::new().with_read(true).into_bits().into(), 4),
            ("EAA WRITE", Eaa::new().with_write(true).into_bits().into(), 2),
            ("EAA EXEC", Eaa::new().with_execute(true).into_bits().into(), 1),
        ] {
            assert_eq!(mask, want, "{name}");
        }
    }
}
