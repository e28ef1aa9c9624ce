//! What each bit of CR0, CR3, CR4 and EFER does to translation while CR0.PG = 1: the list by which
//! [`Paging::of`](crate::Paging::of) decides, so that no bit is overlooked.
//!
//! SDM §2.5 (CR0, CR3, CR4), §4.5 (CR3), §2.2.1 (EFER); APM volume 2 §3.1. A bit that neither
//! manual defines counts as refused.

pub use pgtable::vcpu::Effect;

pgtable::control_registers! {
    /// A register that takes part in translation.
    pub enum ControlRegister: CONTROL_BITS {
        /// CR0.
        Cr0 = "CR0",
        /// CR3.
        Cr3 = "CR3",
        /// CR4.
        Cr4 = "CR4",
        /// IA32_EFER.
        Efer = "EFER",
    }
}

/// Some bits of a control register.
pub type ControlBits = pgtable::vcpu::ControlBits<ControlRegister>;

/// A bit that is set and not modelled, or reserved.
pub type RefusedBit = pgtable::vcpu::RefusedBit<ControlRegister>;

use ControlRegister::{Cr0, Cr3, Cr4, Efer};
use Effect::{Modelled, None as Nothing};

/// Every defined bit of the four registers. Bits that are in no row are reserved, and refused.
pub const CONTROL_BITS: &[ControlBits] = &[
    bits(Cr0, 0, 1, "PE", Modelled), // paging implies it, or is impossible
    bits(Cr0, 1, 1, "MP", Nothing),
    bits(Cr0, 2, 1, "EM", Nothing),
    bits(Cr0, 3, 1, "TS", Nothing),
    bits(Cr0, 4, 1, "ET", Nothing),
    bits(Cr0, 5, 1, "NE", Nothing),
    bits(Cr0, 16, 1, "WP", Modelled),
    bits(Cr0, 18, 1, "AM", Nothing), // SMAP looks at EFLAGS.AC alone
    bits(Cr0, 29, 1, "NW", Nothing),
    bits(Cr0, 30, 1, "CD", Nothing),
    bits(Cr0, 31, 1, "PG", Modelled),
    bits(Cr3, 0, 12, "PCID, PWT, PCD", Nothing),
    bits(Cr3, 12, 40, "the root table", Modelled),
    bits(Cr3, 61, 1, "LAM_U57", Modelled),
    bits(Cr3, 62, 1, "LAM_U48", Modelled),
    bits(Cr3, 63, 1, "no flush", Nothing), // of a MOV's operand; never stored
    bits(Cr4, 0, 1, "VME", Nothing),
    bits(Cr4, 1, 1, "PVI", Nothing),
    bits(Cr4, 2, 1, "TSD", Nothing),
    bits(Cr4, 3, 1, "DE", Nothing),
    bits(Cr4, 4, 1, "PSE", Modelled), // 32-bit paging only
    bits(Cr4, 5, 1, "PAE", Modelled), // LMA implies it, or is impossible
    bits(Cr4, 6, 1, "MCE", Nothing),
    bits(Cr4, 7, 1, "PGE", Nothing), // what invalidations leave, not what a walk finds
    bits(Cr4, 8, 1, "PCE", Nothing),
    bits(Cr4, 9, 1, "OSFXSR", Nothing),
    bits(Cr4, 10, 1, "OSXMMEXCPT", Nothing),
    bits(Cr4, 11, 1, "UMIP", Nothing),
    bits(Cr4, 12, 1, "LA57", Modelled),
    bits(Cr4, 13, 1, "VMXE", Nothing),
    bits(Cr4, 14, 1, "SMXE", Nothing),
    bits(Cr4, 16, 1, "FSGSBASE", Nothing),
    bits(Cr4, 17, 1, "PCIDE", Nothing), // what CR3's low bits mean
    bits(Cr4, 18, 1, "OSXSAVE", Nothing),
    bits(Cr4, 19, 1, "KL", Nothing),
    bits(Cr4, 20, 1, "SMEP", Modelled),
    bits(Cr4, 21, 1, "SMAP", Modelled),
    bits(Cr4, 22, 1, "PKE", Modelled),
    bits(Cr4, 23, 1, "CET", Modelled), // shadow-stack accesses alone are judged by it
    bits(Cr4, 24, 1, "PKS", Modelled),
    bits(Cr4, 25, 1, "UINTR", Nothing),
    bits(Cr4, 27, 1, "LASS", Modelled),
    bits(Cr4, 28, 1, "LAM_SUP", Modelled),
    bits(Cr4, 32, 1, "FRED", Nothing),
    bits(Efer, 0, 1, "SCE", Nothing),
    bits(Efer, 8, 1, "LME", Modelled), // LMA tells, or is impossible
    bits(Efer, 10, 1, "LMA", Modelled),
    bits(Efer, 11, 1, "NXE", Modelled),
    bits(Efer, 12, 1, "SVME", Nothing),
    bits(Efer, 13, 1, "LMSLE", Nothing), // segment limits: before translation
    bits(Efer, 14, 1, "FFXSR", Nothing),
    bits(Efer, 15, 1, "TCE", Nothing), // what invalidations leave
    bits(Efer, 17, 1, "MCOMMIT", Nothing),
    bits(Efer, 18, 1, "INTWB", Nothing),
    bits(Efer, 20, 1, "UAIE", Modelled),
    bits(Efer, 21, 1, "AIBRSE", Nothing),
];
