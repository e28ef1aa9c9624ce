//! What each bit of the control registers does to translation: the list by which
//! [`Paging::of`](crate::Paging::of) decides, so that no bit is overlooked.
//!
//! DDI 0487, D24.2, with the features of Armv9.5. A bit that is in no row is reserved, and refused.

pub use pgtable::vcpu::Effect;

pgtable::control_registers! {
    /// A register that takes part in translation.
    pub enum ControlRegister: CONTROL_BITS {
        /// TCR_EL1, or TCR_EL2 with E2H = 1.
        Tcr = "TCR",
        /// TCR_EL2 with E2H = 0.
        TcrEl2 = "TCR_EL2",
        /// TCR2_EL1 or TCR2_EL2.
        Tcr2 = "TCR2",
        /// SCTLR_EL1 or SCTLR_EL2.
        Sctlr = "SCTLR",
        /// HCR_EL2.
        Hcr = "HCR_EL2",
        /// VTCR_EL2.
        Vtcr = "VTCR_EL2",
    }
}

/// Some bits of a control register.
pub type ControlBits = pgtable::vcpu::ControlBits<ControlRegister>;

/// A bit that is set and not modelled, or reserved.
pub type RefusedBit = pgtable::vcpu::RefusedBit<ControlRegister>;

use ControlRegister::{Hcr, Sctlr, Tcr, Tcr2, TcrEl2, Vtcr};
use Effect::{Modelled, None as Nothing, Refused};

/// Every defined bit of the registers.
pub const CONTROL_BITS: &[ControlBits] = &[
    bits(Tcr, 0, 6, "T0SZ", Modelled),
    bits(Tcr, 7, 1, "EPD0", Modelled),
    bits(Tcr, 8, 4, "IRGN0, ORGN0", Nothing),
    bits(Tcr, 12, 2, "SH0", Nothing),
    bits(Tcr, 14, 2, "TG0", Modelled),
    bits(Tcr, 16, 6, "T1SZ", Modelled),
    bits(Tcr, 22, 1, "A1", Nothing), // which ASID: invalidations only
    bits(Tcr, 23, 1, "EPD1", Modelled),
    bits(Tcr, 24, 4, "IRGN1, ORGN1", Nothing),
    bits(Tcr, 28, 2, "SH1", Nothing),
    bits(Tcr, 30, 2, "TG1", Modelled),
    bits(Tcr, 32, 3, "IPS", Modelled),
    bits(Tcr, 36, 1, "AS", Nothing),
    bits(Tcr, 37, 2, "TBI0, TBI1", Modelled),
    bits(Tcr, 39, 2, "HA, HD", Modelled),
    bits(Tcr, 41, 2, "HPD0, HPD1", Modelled),
    bits(Tcr, 43, 8, "HWU", Nothing), // bits of descriptors that PBHA may use
    bits(Tcr, 51, 2, "TBID0, TBID1", Modelled),
    bits(Tcr, 53, 2, "NFD0, NFD1", Nothing), // non-fault accesses only
    bits(Tcr, 55, 2, "E0PD0, E0PD1", Modelled),
    bits(Tcr, 57, 2, "TCMA0, TCMA1", Nothing), // tag checks
    bits(Tcr, 59, 1, "DS", Modelled),
    bits(Tcr, 60, 2, "MTX0, MTX1", Refused),
    bits(TcrEl2, 0, 6, "T0SZ", Modelled),
    bits(TcrEl2, 8, 4, "IRGN0, ORGN0", Nothing),
    bits(TcrEl2, 12, 2, "SH0", Nothing),
    bits(TcrEl2, 14, 2, "TG0", Modelled),
    bits(TcrEl2, 16, 3, "PS", Modelled),
    bits(TcrEl2, 20, 1, "TBI", Modelled),
    bits(TcrEl2, 21, 2, "HA, HD", Modelled),
    bits(TcrEl2, 23, 1, "RES1", Nothing),
    bits(TcrEl2, 24, 1, "HPD", Modelled),
    bits(TcrEl2, 25, 4, "HWU", Nothing),
    bits(TcrEl2, 29, 1, "TBID", Modelled),
    bits(TcrEl2, 30, 1, "TCMA", Nothing),
    bits(TcrEl2, 31, 1, "RES1", Nothing),
    bits(TcrEl2, 32, 1, "DS", Modelled),
    bits(TcrEl2, 33, 1, "MTX", Refused),
    bits(Tcr2, 0, 1, "PnCH", Refused),
    bits(Tcr2, 1, 1, "PIE", Refused),
    bits(Tcr2, 2, 2, "E0POE, POE", Refused),
    bits(Tcr2, 4, 1, "AIE", Refused),
    bits(Tcr2, 5, 1, "D128", Refused),
    bits(Tcr2, 10, 1, "PTTWI", Nothing), // memory type of walks
    bits(Tcr2, 11, 1, "HAFT", Refused),
    bits(Tcr2, 12, 2, "AMEC", Nothing), // memory encryption contexts
    bits(Tcr2, 14, 2, "DisCH", Nothing), // the contiguous bit is a hint
    bits(Tcr2, 16, 3, "A2, FNG0, FNG1", Nothing), // ASIDs
    bits(Sctlr, 0, 1, "M", Modelled),
    bits(Sctlr, 1, 1, "A", Nothing), // alignment is not a walk's affair
    bits(Sctlr, 2, 1, "C", Nothing),
    bits(Sctlr, 3, 16, "SA to nTWE", Nothing), // stack alignment, traps, the I cache
    bits(Sctlr, 19, 1, "WXN", Modelled),
    bits(Sctlr, 20, 3, "TSCXT, IESB, EIS", Nothing),
    bits(Sctlr, 23, 1, "SPAN", Nothing), // PSTATE.PAN on exceptions; the PSTATE is given
    bits(Sctlr, 24, 1, "E0E", Nothing),
    bits(Sctlr, 25, 1, "EE", Refused), // walks in big-endian order
    bits(Sctlr, 26, 31, "UCI to EnALS", Nothing), // cache operations, PAuth, BTI, MTE, TME, LS64
    bits(Sctlr, 57, 1, "EPAN", Modelled),
    bits(Sctlr, 58, 6, "TCSO0 to TIDCP", Nothing),
    bits(Hcr, 0, 1, "VM", Modelled),
    bits(Hcr, 1, 1, "SWIO", Nothing),
    bits(Hcr, 2, 1, "PTW", Refused), // stage-1 walks of device memory fault
    bits(Hcr, 3, 6, "FMO to VSE", Nothing),
    bits(Hcr, 9, 1, "FB", Nothing), // scope of invalidations
    bits(Hcr, 10, 2, "BSU", Nothing),
    bits(Hcr, 12, 1, "DC", Modelled),
    bits(Hcr, 13, 14, "TWI to TVM", Nothing),
    bits(Hcr, 27, 1, "TGE", Modelled),
    bits(Hcr, 28, 3, "TDZ to TRVM", Nothing),
    bits(Hcr, 31, 1, "RW", Modelled),
    bits(Hcr, 32, 2, "CD, ID", Nothing), // cacheability
    bits(Hcr, 34, 1, "E2H", Modelled),
    bits(Hcr, 35, 7, "TLOR to API", Nothing),
    bits(Hcr, 42, 2, "NV, NV1", Refused), // NV1 moves execution rights and turns PAN off
    bits(Hcr, 44, 1, "AT", Nothing),
    bits(Hcr, 45, 1, "NV2", Refused),
    bits(Hcr, 46, 1, "FWB", Modelled),
    bits(Hcr, 47, 10, "FIEN to ATA", Nothing), // GPF too: granule protection comes after
    bits(Hcr, 57, 7, "DCT to TWEDEL", Nothing),
    bits(Vtcr, 0, 8, "T0SZ, SL0", Modelled),
    bits(Vtcr, 8, 4, "IRGN0, ORGN0", Nothing),
    bits(Vtcr, 12, 2, "SH0", Nothing),
    bits(Vtcr, 14, 5, "TG0, PS", Modelled),
    bits(Vtcr, 19, 1, "VS", Nothing),
    bits(Vtcr, 21, 2, "HA, HD", Modelled),
    bits(Vtcr, 25, 4, "HWU", Nothing),
    bits(Vtcr, 29, 2, "NSW, NSA", Nothing), // of Secure state
    bits(Vtcr, 31, 1, "RES1", Nothing),
    bits(Vtcr, 32, 2, "DS, SL2", Modelled),
    bits(Vtcr, 34, 1, "AssuredOnly", Refused),
    bits(Vtcr, 35, 1, "TL1", Refused),
    bits(Vtcr, 36, 1, "S2PIE", Refused),
    bits(Vtcr, 37, 1, "S2POE", Refused),
    bits(Vtcr, 38, 1, "D128", Refused),
    bits(Vtcr, 40, 1, "GCSH", Refused),
    bits(Vtcr, 41, 1, "TL0", Refused),
    bits(Vtcr, 44, 1, "HAFT", Refused),
    bits(Vtcr, 45, 1, "HDBSS", Nothing), // what is recorded besides the dirty state
];
