//! What each bit of the registers that concern translation does to it: the list by which
//! [`Paging::of`](crate::Paging::of) and [`GuestPaging::of`](crate::GuestPaging::of) decide, so
//! that no bit is overlooked.
//!
//! Sections "Supervisor CSRs", "Hypervisor and Virtual Supervisor CSRs", "Machine Environment
//! Configuration Register". A bit that the manual does not define (WPRI) counts as refused.

pub use pgtable::vcpu::Effect;

pgtable::control_registers! {
    /// A register that takes part in translation. vsatp and vsstatus have the bits of satp and
    /// sstatus.
    pub enum ControlRegister: CONTROL_BITS {
        /// satp, vsatp.
        Satp = "satp",
        /// hgatp.
        Hgatp = "hgatp",
        /// sstatus, vsstatus.
        Sstatus = "sstatus",
        /// hstatus.
        Hstatus = "hstatus",
        /// menvcfg.
        Menvcfg = "menvcfg",
        /// henvcfg.
        Henvcfg = "henvcfg",
        /// senvcfg.
        Senvcfg = "senvcfg",
    }
}

/// Some bits of a control register.
pub type ControlBits = pgtable::vcpu::ControlBits<ControlRegister>;

/// A bit that is set and not modelled, or reserved.
pub type RefusedBit = pgtable::vcpu::RefusedBit<ControlRegister>;

use ControlRegister::{Henvcfg, Hgatp, Hstatus, Menvcfg, Satp, Senvcfg, Sstatus};
use Effect::{Modelled, None as Nothing, Refused};

/// Every defined bit of these registers. Bits that are in no row are reserved, and refused.
pub const CONTROL_BITS: &[ControlBits] = &[
    bits(Satp, 0, 44, "PPN", Modelled),
    bits(Satp, 44, 16, "ASID", Nothing), // what fences reach, not what a walk finds; 0 if Bare
    bits(Satp, 60, 4, "MODE", Modelled),
    bits(Hgatp, 2, 42, "PPN", Modelled), // the root has 16 KiB
    bits(Hgatp, 44, 14, "VMID", Nothing),
    bits(Hgatp, 60, 4, "MODE", Modelled),
    bits(Sstatus, 1, 1, "SIE", Nothing),
    bits(Sstatus, 5, 1, "SPIE", Nothing),
    bits(Sstatus, 6, 1, "UBE", Nothing), // the order of the bytes of a user's data
    bits(Sstatus, 8, 1, "SPP", Nothing),
    bits(Sstatus, 9, 2, "VS", Nothing),
    bits(Sstatus, 13, 2, "FS", Nothing),
    bits(Sstatus, 15, 2, "XS", Nothing),
    bits(Sstatus, 18, 1, "SUM", Modelled),
    bits(Sstatus, 19, 1, "MXR", Modelled),
    bits(Sstatus, 23, 1, "SPELP", Nothing),
    bits(Sstatus, 24, 1, "SDT", Nothing),
    bits(Sstatus, 32, 1, "UXL: 32 or 128 bits", Refused),
    bits(Sstatus, 33, 1, "UXL: 64 bits", Nothing),
    bits(Sstatus, 63, 1, "SD", Nothing),
    bits(Hstatus, 5, 1, "VSBE", Refused), // big-endian tables
    bits(Hstatus, 6, 1, "GVA", Nothing),
    bits(Hstatus, 7, 1, "SPV", Nothing),  // of the next SRET
    bits(Hstatus, 8, 1, "SPVP", Nothing), // the privilege of HLV and HSV: the caller's to say
    bits(Hstatus, 9, 1, "HU", Nothing),
    bits(Hstatus, 12, 6, "VGEIN", Nothing),
    bits(Hstatus, 20, 1, "VTVM", Nothing),
    bits(Hstatus, 21, 1, "VTW", Nothing),
    bits(Hstatus, 22, 1, "VTSR", Nothing),
    bits(Hstatus, 32, 1, "VSXL: 32 or 128 bits", Refused),
    bits(Hstatus, 33, 1, "VSXL: 64 bits", Nothing),
    bits(Hstatus, 48, 2, "HUPMM", Nothing), // of HLV and HSV in U-mode alone
    bits(Menvcfg, 0, 1, "FIOM", Nothing),
    bits(Menvcfg, 2, 1, "LPE", Nothing),
    bits(Menvcfg, 3, 1, "SSE", Refused), // W without R becomes a shadow-stack page
    bits(Menvcfg, 4, 2, "CBIE", Nothing),
    bits(Menvcfg, 6, 1, "CBCFE", Nothing),
    bits(Menvcfg, 7, 1, "CBZE", Nothing),
    bits(Menvcfg, 32, 2, "PMM", Modelled),
    bits(Menvcfg, 59, 1, "DTE", Nothing),
    bits(Menvcfg, 60, 1, "CDE", Nothing),
    bits(Menvcfg, 61, 1, "ADUE", Modelled),
    bits(Menvcfg, 62, 1, "PBMTE", Modelled),
    bits(Menvcfg, 63, 1, "STCE", Nothing),
    bits(Henvcfg, 0, 1, "FIOM", Nothing),
    bits(Henvcfg, 2, 1, "LPE", Nothing),
    bits(Henvcfg, 3, 1, "SSE", Refused),
    bits(Henvcfg, 4, 2, "CBIE", Nothing),
    bits(Henvcfg, 6, 1, "CBCFE", Nothing),
    bits(Henvcfg, 7, 1, "CBZE", Nothing),
    bits(Henvcfg, 32, 2, "PMM", Modelled),
    bits(Henvcfg, 59, 1, "DTE", Nothing),
    bits(Henvcfg, 61, 1, "ADUE", Modelled),
    bits(Henvcfg, 62, 1, "PBMTE", Modelled),
    bits(Henvcfg, 63, 1, "STCE", Nothing),
    bits(Senvcfg, 0, 1, "FIOM", Nothing),
    bits(Senvcfg, 2, 1, "LPE", Nothing),
    bits(Senvcfg, 3, 1, "SSE", Nothing), // a user's instructions; entries change by menvcfg's
    bits(Senvcfg, 4, 2, "CBIE", Nothing),
    bits(Senvcfg, 6, 1, "CBCFE", Nothing),
    bits(Senvcfg, 7, 1, "CBZE", Nothing),
    bits(Senvcfg, 8, 1, "UKTE", Refused), // users' accesses to the upper half fault
    bits(Senvcfg, 32, 2, "PMM", Modelled),
];
