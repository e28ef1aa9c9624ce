//! The control registers' bits that concern paging, as words.
//!
//! SDM §2.5 (CR0, CR3, CR4), §4.5 (CR3), §2.2.1 (EFER); APM §3.1. Other bits keep whatever value
//! they have.

use bitfield_struct::bitfield;
use pgtable::{Gpa, low_bits};

use crate::shape::PAGE_SHIFT;

/// CR0.
#[bitfield(u64)]
#[derive(PartialEq, Eq, Hash)]
pub struct Cr0 {
    /// Protection enable.
    pub pe: bool,
    #[bits(15)]
    __: u16,
    /// Write protect: supervisor-mode writes respect R/W = 0.
    pub wp: bool,
    #[bits(14)]
    __: u16,
    /// Paging.
    pub pg: bool,
    #[bits(32)]
    __: u32,
}

/// CR3, while CR4.PCIDE = 0.
#[bitfield(u64)]
#[derive(PartialEq, Eq, Hash)]
pub struct Cr3 {
    #[bits(3)]
    __: u8,
    /// Page-level write-through, for accesses to the root table.
    pub pwt: bool,
    /// Page-level cache disable, for accesses to the root table.
    pub pcd: bool,
    #[bits(7)]
    __: u8,
    /// Bits 51:12 of the root table's physical address.
    #[bits(40)]
    pub frame: u64,
    #[bits(9)]
    __: u16,
    /// Linear-address masking of user-mode addresses, bits 62:57.
    pub lam_u57: bool,
    /// Linear-address masking of user-mode addresses, bits 62:48.
    pub lam_u48: bool,
    __: bool,
}

impl Cr3 {
    /// CR3 for a root table at `root`, with write-back tables and no PCID. Bits of `root` beyond
    /// 51:12 do not count.
    #[must_use]
    pub const fn of(root: Gpa) -> Self {
        Self::new().with_frame(root.get() >> PAGE_SHIFT & low_bits(40))
    }

    /// The address of the root table, whether or not CR4.PCIDE = 1.
    #[must_use]
    pub const fn root(self) -> Gpa {
        Gpa::new(self.frame() << PAGE_SHIFT)
    }
}

/// A process-context identifier, 0 to 4095.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct Pcid(u16);

impl Pcid {
    /// `None` from 4096 on.
    #[must_use]
    pub const fn new(pcid: u16) -> Option<Self> {
        if pcid < 1 << 12 { Some(Self(pcid)) } else { None }
    }

    /// The number.
    #[must_use]
    pub const fn get(self) -> u16 {
        self.0
    }
}

/// CR3, while CR4.PCIDE = 1; also the operand of the MOV that loads it.
#[bitfield(u64)]
#[derive(PartialEq, Eq, Hash)]
pub struct Cr3Pcid {
    /// The process-context identifier.
    #[bits(12)]
    pub pcid: u16,
    /// Bits 51:12 of the root table's physical address.
    #[bits(40)]
    pub frame: u64,
    #[bits(9)]
    __: u16,
    /// Linear-address masking of user-mode addresses, bits 62:57.
    pub lam_u57: bool,
    /// Linear-address masking of user-mode addresses, bits 62:48.
    pub lam_u48: bool,
    /// In the operand of a MOV: keep the translations of this PCID. Reads as 0.
    pub no_flush: bool,
}

impl Cr3Pcid {
    /// CR3 for the root table at `root` under `pcid`. A MOV of it invalidates what is cached under
    /// `pcid`, global translations excepted, unless [`with_no_flush`](Self::with_no_flush).
    #[must_use]
    pub const fn of(root: Gpa, pcid: Pcid) -> Self {
        Self::new().with_pcid(pcid.0).with_frame(Cr3::of(root).frame())
    }
}

/// CR3 in PAE paging, where the root table has 32 bytes and is aligned to that.
#[bitfield(u64)]
#[derive(PartialEq, Eq, Hash)]
pub struct Cr3Pae {
    #[bits(3)]
    __: u8,
    /// Page-level write-through, for accesses to the root table.
    pub pwt: bool,
    /// Page-level cache disable, for accesses to the root table.
    pub pcd: bool,
    /// Bits 31:5 of the root table's physical address.
    #[bits(27)]
    pub table: u32,
    #[bits(32)]
    __: u32,
}

impl Cr3Pae {
    /// CR3 for a root table at `root`, with write-back tables. Bits of `root` beyond 31:5 do not
    /// count.
    #[must_use]
    pub const fn of(root: Gpa) -> Self {
        Self::new().with_table((root.get() >> 5 & low_bits(27)) as u32)
    }

    /// The address of the root table.
    #[must_use]
    pub const fn root(self) -> Gpa {
        Gpa::new((self.table() as u64) << 5)
    }
}

/// CR4.
#[bitfield(u64)]
#[derive(PartialEq, Eq, Hash)]
pub struct Cr4 {
    #[bits(4)]
    __: u8,
    /// Page-size extensions: 4-MiB pages in 32-bit paging.
    pub pse: bool,
    /// Physical-address extension: 8-byte entries.
    pub pae: bool,
    __: bool,
    /// Page-global enable.
    pub pge: bool,
    #[bits(4)]
    __: u8,
    /// 57-bit linear addresses: 5 levels.
    pub la57: bool,
    #[bits(4)]
    __: u8,
    /// Process-context identifiers.
    pub pcide: bool,
    #[bits(2)]
    __: u8,
    /// Supervisor-mode execution prevention.
    pub smep: bool,
    /// Supervisor-mode access prevention.
    pub smap: bool,
    /// Protection keys for user-mode addresses.
    pub pke: bool,
    /// Control-flow enforcement: shadow stacks.
    pub cet: bool,
    /// Protection keys for supervisor-mode addresses.
    pub pks: bool,
    #[bits(2)]
    __: u8,
    /// Linear-address space separation.
    pub lass: bool,
    /// Linear-address masking of supervisor-mode addresses.
    pub lam_sup: bool,
    #[bits(35)]
    __: u64,
}

/// IA32_EFER.
#[bitfield(u64)]
#[derive(PartialEq, Eq, Hash)]
pub struct Efer {
    #[bits(8)]
    __: u8,
    /// Long-mode enable.
    pub lme: bool,
    __: bool,
    /// Long mode active.
    pub lma: bool,
    /// Execute-disable enable.
    pub nxe: bool,
    #[bits(8)]
    __: u8,
    /// Upper address ignore (AMD): bits 63:57 of addresses are tags; translation takes each of them
    /// as bit 56.
    pub uaie: bool,
    #[bits(43)]
    __: u64,
}

/// The four registers that say how a vCPU translates.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct Registers {
    /// CR0.
    pub cr0: Cr0,
    /// CR3.
    pub cr3: Cr3,
    /// CR4.
    pub cr4: Cr4,
    /// EFER.
    pub efer: Efer,
}

impl Registers {
    /// From the raw values, as `KVM_GET_SREGS` or a debugger has them.
    #[must_use]
    pub const fn from_raw(cr0: u64, cr3: u64, cr4: u64, efer: u64) -> Self {
        Self {
            cr0: Cr0::from_bits(cr0),
            cr3: Cr3::from_bits(cr3),
            cr4: Cr4::from_bits(cr4),
            efer: Efer::from_bits(efer),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Each bit alone, against the manual's figures.
    #[test]
    fn positions() {
        for (name, word, bits) in [
            ("CR0.PE", Cr0::new().with_pe(true).into_bits(), 1 << 0),
            ("CR0.WP", Cr0::new().with_wp(true).into_bits(), 1 << 16),
            ("CR0.PG", Cr0::new().with_pg(true).into_bits(), 1 << 31),
            ("CR3.PWT", Cr3::new().with_pwt(true).into_bits(), 1 << 3),
            ("CR3.PCD", Cr3::new().with_pcd(true).into_bits(), 1 << 4),
            ("CR3.LAM_U57", Cr3::new().with_lam_u57(true).into_bits(), 1 << 61),
            ("CR3.LAM_U48", Cr3::new().with_lam_u48(true).into_bits(), 1 << 62),
            ("CR3 no flush", Cr3Pcid::new().with_no_flush(true).into_bits(), 1 << 63),
            ("CR4.PSE", Cr4::new().with_pse(true).into_bits(), 1 << 4),
            ("CR4.PAE", Cr4::new().with_pae(true).into_bits(), 1 << 5),
            ("CR4.PGE", Cr4::new().with_pge(true).into_bits(), 1 << 7),
            ("CR4.LA57", Cr4::new().with_la57(true).into_bits(), 1 << 12),
            ("CR4.PCIDE", Cr4::new().with_pcide(true).into_bits(), 1 << 17),
            ("CR4.SMEP", Cr4::new().with_smep(true).into_bits(), 1 << 20),
            ("CR4.SMAP", Cr4::new().with_smap(true).into_bits(), 1 << 21),
            ("CR4.PKE", Cr4::new().with_pke(true).into_bits(), 1 << 22),
            ("CR4.CET", Cr4::new().with_cet(true).into_bits(), 1 << 23),
            ("CR4.LASS", Cr4::new().with_lass(true).into_bits(), 1 << 27),
            ("CR4.LAM_SUP", Cr4::new().with_lam_sup(true).into_bits(), 1 << 28),
            ("CR4.PKS", Cr4::new().with_pks(true).into_bits(), 1 << 24),
            ("EFER.LME", Efer::new().with_lme(true).into_bits(), 1 << 8),
            ("EFER.LMA", Efer::new().with_lma(true).into_bits(), 1 << 10),
            ("EFER.NXE", Efer::new().with_nxe(true).into_bits(), 1 << 11),
            ("EFER.UAIE", Efer::new().with_uaie(true).into_bits(), 1 << 20),
            ("CR3 of PAE", Cr3Pae::of(Gpa::new(u64::MAX)).into_bits(), 0xffff_ffe0),
            ("CR3.PCD of PAE", Cr3Pae::new().with_pcd(true).into_bits(), 1 << 4),
        ] {
            assert_eq!(word, bits, "{name}: {word:#x}");
        }
    }

    #[test]
    fn cr3() {
        assert_eq!(Cr3::of(Gpa::new(0x1234_5678)).into_bits(), 0x1234_5000);
        assert_eq!(Cr3::of(Gpa::new(u64::MAX)).into_bits(), 0x000f_ffff_ffff_f000);
        assert_eq!(Cr3::from_bits(0x8000_0000_1234_5018).root(), Gpa::new(0x1234_5000));
        let pcid = Pcid::new(0xabc).unwrap();
        let cr3 = Cr3Pcid::of(Gpa::new(0x1000), pcid);
        assert_eq!(cr3.into_bits(), 0x1abc);
        assert_eq!(cr3.with_no_flush(true).into_bits(), 0x8000_0000_0000_1abc);
        assert_eq!(Pcid::new(4096), None);
    }
}
