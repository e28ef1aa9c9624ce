//! The system registers that say how a processor translates.
//!
//! DDI 0487, D24.2: TCR_EL1 and TCR_EL2, VTCR_EL2, SCTLR_ELx, HCR_EL2, the TTBRs and the ID
//! registers. Only fields that take part in translation have accessors; the list of all bits is
//! [`CONTROL_BITS`](crate::CONTROL_BITS).

use bitfield_struct::bitfield;
use pgtable::low_bits;

use crate::shape::{Granule, USUAL_OUTPUT_BITS};

/// TCR_EL1; also TCR_EL2 with HCR_EL2.E2H = 1.
#[bitfield(u64)]
#[derive(PartialEq, Eq, Hash)]
pub struct Tcr {
    /// T0SZ: 64 less the bits of addresses of the lower range.
    #[bits(6)]
    pub t0sz: u8,
    __: bool,
    /// EPD0: accesses to the lower range are faults.
    pub epd0: bool,
    /// IRGN0 and ORGN0: cacheability of walks.
    #[bits(4)]
    pub rgn0: u8,
    /// SH0: shareability of walks; with DS also of pages.
    #[bits(2)]
    pub sh0: u8,
    /// TG0: 0 is 4 KiB, 1 is 64 KiB, 2 is 16 KiB.
    #[bits(2)]
    pub tg0: u8,
    /// T1SZ: 64 less the bits of addresses of the upper range.
    #[bits(6)]
    pub t1sz: u8,
    /// A1: the ASID is TTBR1's.
    pub a1: bool,
    /// EPD1: accesses to the upper range are faults.
    pub epd1: bool,
    /// IRGN1 and ORGN1: cacheability of walks.
    #[bits(4)]
    pub rgn1: u8,
    /// SH1: shareability of walks; with DS also of pages.
    #[bits(2)]
    pub sh1: u8,
    /// TG1: 1 is 16 KiB, 2 is 4 KiB, 3 is 64 KiB.
    #[bits(2)]
    pub tg1: u8,
    /// IPS: the output address size.
    #[bits(3)]
    pub ips: u8,
    __: bool,
    /// AS: ASIDs have 16 bits.
    pub as16: bool,
    /// TBI0: the top byte of lower addresses does not count.
    pub tbi0: bool,
    /// TBI1: the top byte of upper addresses does not count.
    pub tbi1: bool,
    /// HA: hardware sets the access flag.
    pub ha: bool,
    /// HD: hardware manages dirty state.
    pub hd: bool,
    /// HPD0: what table descriptors of the lower range restrict does not count.
    pub hpd0: bool,
    /// HPD1: what table descriptors of the upper range restrict does not count.
    pub hpd1: bool,
    #[bits(8)]
    __: u8,
    /// TBID0: TBI0 is for data only.
    pub tbid0: bool,
    /// TBID1: TBI1 is for data only.
    pub tbid1: bool,
    #[bits(2)]
    __: u8,
    /// E0PD0: accesses of EL0 to the lower range are faults.
    pub e0pd0: bool,
    /// E0PD1: accesses of EL0 to the upper range are faults.
    pub e0pd1: bool,
    #[bits(2)]
    __: u8,
    /// DS: 52-bit addresses with 4-KiB and 16-KiB granules.
    pub ds: bool,
    #[bits(4)]
    __: u8,
}

/// TCR_EL2 with HCR_EL2.E2H = 0.
#[bitfield(u64)]
#[derive(PartialEq, Eq, Hash)]
pub struct TcrEl2 {
    /// T0SZ.
    #[bits(6)]
    pub t0sz: u8,
    #[bits(2)]
    __: u8,
    /// IRGN0 and ORGN0.
    #[bits(4)]
    pub rgn0: u8,
    /// SH0.
    #[bits(2)]
    pub sh0: u8,
    /// TG0: as in [`Tcr`].
    #[bits(2)]
    pub tg0: u8,
    /// PS: the output address size.
    #[bits(3)]
    pub ps: u8,
    __: bool,
    /// TBI.
    pub tbi: bool,
    /// HA.
    pub ha: bool,
    /// HD.
    pub hd: bool,
    /// RES1.
    pub res1: bool,
    /// HPD.
    pub hpd: bool,
    #[bits(4)]
    __: u8,
    /// TBID.
    pub tbid: bool,
    __: bool,
    /// RES1.
    pub res1_high: bool,
    /// DS.
    pub ds: bool,
    #[bits(31)]
    __: u32,
}

/// VTCR_EL2.
#[bitfield(u64)]
#[derive(PartialEq, Eq, Hash)]
pub struct Vtcr {
    /// T0SZ: 64 less the bits of guest-physical addresses.
    #[bits(6)]
    pub t0sz: u8,
    /// SL0: the start level, by granule.
    #[bits(2)]
    pub sl0: u8,
    /// IRGN0 and ORGN0.
    #[bits(4)]
    pub rgn0: u8,
    /// SH0.
    #[bits(2)]
    pub sh0: u8,
    /// TG0: as in [`Tcr`].
    #[bits(2)]
    pub tg0: u8,
    /// PS: the output address size.
    #[bits(3)]
    pub ps: u8,
    /// VS: VMIDs have 16 bits.
    pub vs: bool,
    __: bool,
    /// HA.
    pub ha: bool,
    /// HD.
    pub hd: bool,
    #[bits(8)]
    __: u8,
    /// RES1.
    pub res1: bool,
    /// DS.
    pub ds: bool,
    /// SL2: with DS and 4-KiB granules, the walk starts at level −1.
    pub sl2: bool,
    #[bits(30)]
    __: u32,
}

/// SCTLR_EL1 or SCTLR_EL2.
#[bitfield(u64)]
#[derive(PartialEq, Eq, Hash)]
pub struct Sctlr {
    /// M: stage 1 translates.
    pub m: bool,
    __: bool,
    /// C: data accesses are cached where the tables say so.
    pub c: bool,
    #[bits(9)]
    __: u16,
    /// I: instruction fetches are cached where the tables say so.
    pub i: bool,
    #[bits(6)]
    __: u8,
    /// WXN: what is writable is not executable.
    pub wxn: bool,
    #[bits(37)]
    __: u64,
    /// EPAN: PAN counts execute-only pages.
    pub epan: bool,
    #[bits(6)]
    __: u8,
}

/// HCR_EL2.
#[bitfield(u64)]
#[derive(PartialEq, Eq, Hash)]
pub struct Hcr {
    /// VM: stage 2 translates.
    pub vm: bool,
    #[bits(11)]
    __: u16,
    /// DC: stage 1 of EL1&0 is off, and its memory is write-back.
    pub dc: bool,
    #[bits(14)]
    __: u16,
    /// TGE.
    pub tge: bool,
    #[bits(3)]
    __: u8,
    /// RW: EL1 is AArch64.
    pub rw: bool,
    #[bits(2)]
    __: u8,
    /// E2H.
    pub e2h: bool,
    #[bits(11)]
    __: u16,
    /// FWB: stage 2's memory types replace stage 1's.
    pub fwb: bool,
    #[bits(17)]
    __: u32,
}

/// TTBR0_ELx, TTBR1_ELx and VTTBR_EL2.
#[bitfield(u64)]
#[derive(PartialEq, Eq, Hash)]
pub struct Ttbr {
    /// CnP: common, not private.
    pub cnp: bool,
    /// BADDR: bits 47:1 of the root table's address. Where the register is *wide*, its bits 5:2 are
    /// address bits 51:48: under DS, and with 64-KiB granules and PS = 6 on a processor with
    /// FEAT_LPA (`AArch64.S1TTBaseAddress`).
    #[bits(47)]
    pub baddr: u64,
    /// The ASID or the VMID.
    #[bits(16)]
    pub id: u16,
}

impl Ttbr {
    /// A register for the root table at `root`, with an ASID or a VMID; [`VmsaStage1::ttbr`] and
    /// [`VmsaStage2::vttbr`] know whether it is `wide`.
    ///
    /// [`VmsaStage1::ttbr`]: crate::VmsaStage1::ttbr
    /// [`VmsaStage2::vttbr`]: crate::VmsaStage2::vttbr
    #[must_use]
    pub const fn of(root: u64, id: u16, wide: bool) -> Self {
        let high = if wide { root >> 48 & 0xf } else { 0 };
        Self::new().with_id(id).with_baddr(root >> 1 & low_bits(47) | high << 1)
    }

    /// The address of the root table. In a `wide` register it is a multiple of 64.
    #[must_use]
    pub const fn root(self, wide: bool) -> u64 {
        let address = self.baddr() << 1;
        if wide { address & !0x3f | (address >> 2 & 0xf) << 48 } else { address }
    }
}

/// The granule that TG0 says; `None` if it is reserved.
pub(crate) const fn granule0(tg: u8) -> Option<Granule> {
    match tg {
        0 => Some(Granule::K4),
        1 => Some(Granule::K64),
        2 => Some(Granule::K16),
        _ => None,
    }
}

/// The granule that TG1 says; `None` if it is reserved.
pub(crate) const fn granule1(tg: u8) -> Option<Granule> {
    match tg {
        1 => Some(Granule::K16),
        2 => Some(Granule::K4),
        3 => Some(Granule::K64),
        _ => None,
    }
}

/// TG0 for a granule.
pub(crate) const fn tg0(granule: Granule) -> u8 {
    [0, 2, 1][granule as usize]
}

/// TG1 for a granule.
pub(crate) const fn tg1(granule: Granule) -> u8 {
    [2, 1, 3][granule as usize]
}

const OUTPUT_BITS: [u8; 7] = [32, 36, 40, 42, 44, 48, 52];

/// The output address size of PS, IPS or PARange; the reserved value counts as the largest.
pub(crate) const fn output_bits(ps: u8) -> u8 {
    if ps < 7 { OUTPUT_BITS[ps as usize] } else { 52 }
}

/// PS for an output address size.
pub(crate) const fn ps(output_bits: u8) -> u8 {
    let mut ps = 0;
    while ps < 6 && OUTPUT_BITS[ps as usize] < output_bits {
        ps += 1;
    }
    ps
}

/// What a processor has, as far as translation depends on it. By the ID registers:
/// [`Processor::from_id`].
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Processor {
    /// Physical address bits: 32, 36, 40, 42, 44, 48 or 52 (FEAT_LPA).
    pub physical_bits: u8,
    /// FEAT_LVA: 52-bit input addresses with 64-KiB granules.
    pub lva: bool,
    /// FEAT_LPA2 at stage 1, with 4-KiB and 16-KiB granules.
    pub lpa2: [bool; 2],
    /// FEAT_LPA2 at stage 2, with 4-KiB and 16-KiB granules.
    pub lpa2_stage2: [bool; 2],
    /// FEAT_TTST: small tables.
    pub small_tables: bool,
    /// FEAT_HAFDBS: hardware sets the access flag …
    pub access_flag: bool,
    /// … and manages dirty state.
    pub dirty_state: bool,
    /// FEAT_HPDS: TCR.HPDx.
    pub hierarchical_disable: bool,
    /// FEAT_PAN3: SCTLR.EPAN.
    pub epan: bool,
    /// FEAT_E0PD.
    pub e0pd: bool,
    /// FEAT_XNX.
    pub xnx: bool,
    /// FEAT_S2FWB.
    pub fwb: bool,
    /// FEAT_PAuth, which brings TBID.
    pub tbid: bool,
}

impl Processor {
    /// Everything that this crate models.
    pub const MAX: Self = Self {
        physical_bits: 52,
        lva: true,
        lpa2: [true; 2],
        lpa2_stage2: [true; 2],
        small_tables: true,
        access_flag: true,
        dirty_state: true,
        hierarchical_disable: true,
        epan: true,
        e0pd: true,
        xnx: true,
        fwb: true,
        tbid: true,
    };

    /// By ID_AA64MMFR0_EL1, ID_AA64MMFR1_EL1 and ID_AA64MMFR2_EL1, and by ID_AA64ISAR1_EL1 and
    /// ID_AA64ISAR2_EL1.
    #[must_use]
    pub const fn from_id(mmfr: [u64; 3], [isar1, isar2]: [u64; 2]) -> Self {
        const fn field(word: u64, shift: u32) -> u8 {
            (word >> shift & 15) as u8
        }
        let [mmfr0, mmfr1, mmfr2] = mmfr;
        let (k4, k16) = (field(mmfr0, 28) == 1, field(mmfr0, 20) == 2);
        Self {
            physical_bits: output_bits(field(mmfr0, 0)),
            lva: field(mmfr2, 16) >= 1,
            lpa2: [k4, k16],
            // 0: as at stage 1.
            lpa2_stage2: [
                field(mmfr0, 40) == 3 || field(mmfr0, 40) == 0 && k4,
                field(mmfr0, 32) == 3 || field(mmfr0, 32) == 0 && k16,
            ],
            small_tables: field(mmfr2, 28) >= 1,
            access_flag: field(mmfr1, 0) >= 1,
            dirty_state: field(mmfr1, 0) >= 2,
            hierarchical_disable: field(mmfr1, 12) >= 1,
            epan: field(mmfr1, 20) >= 3,
            e0pd: field(mmfr2, 60) >= 1,
            xnx: field(mmfr1, 28) >= 1,
            fwb: field(mmfr2, 40) >= 1,
            // APA, API, GPA, GPI; APA3, GPA3.
            tbid: isar1 & 0xff00_0ff0 != 0 || isar2 & 0xff00 != 0,
        }
    }

    /// The physical address bits, but 48 at most.
    pub(crate) const fn narrow_output_bits(&self) -> u8 {
        if self.physical_bits < USUAL_OUTPUT_BITS { self.physical_bits } else { USUAL_OUTPUT_BITS }
    }

    /// Whether `granule` can have 52-bit addresses by DS, at stage 2 or stage 1.
    pub(crate) const fn has_lpa2(&self, granule: Granule, stage2: bool) -> bool {
        let [k4, k16] = if stage2 { self.lpa2_stage2 } else { self.lpa2 };
        match granule {
            Granule::K4 => k4,
            Granule::K16 => k16,
            Granule::K64 => false,
        }
    }

    /// The output address size of a PS, at most what the processor has.
    pub(crate) const fn output_bits(&self, ps: u8) -> u8 {
        let bits = output_bits(ps);
        if bits < self.physical_bits { bits } else { self.physical_bits }
    }

    /// Whether TTBRs hold address bits 51:48 (DDI 0487, `AArch64.S1TTBaseAddress`): under DS,
    /// whatever PS says; with 64-KiB granules, if PS is 6 and the processor has FEAT_LPA.
    pub(crate) const fn wide_roots(&self, granule: Granule, ds: bool, ps: u8) -> bool {
        ds || matches!(granule, Granule::K64) && ps == 6 && self.physical_bits == 52
    }
}

/// The registers of one translation regime's stage 1, as raw values: `KVM_GET_ONE_REG` has them of
/// a guest, but for HCR_EL2, which its hypervisor sets.
///
/// The default is EL1 in AArch64 with translation off, as KVM's vCPUs start: HCR_EL2.RW alone is
/// set. So a VMM gives the others:
/// `Registers { tcr, ttbr0, ttbr1, sctlr, ..Registers::default() }`.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Registers {
    /// TCR_EL1 or TCR_EL2.
    pub tcr: u64,
    /// TCR2_EL1 or TCR2_EL2; 0 without FEAT_TCR2.
    pub tcr2: u64,
    /// TTBR0_EL1 or TTBR0_EL2.
    pub ttbr0: u64,
    /// TTBR1_EL1 or TTBR1_EL2; unused in the EL2 regime.
    pub ttbr1: u64,
    /// SCTLR_EL1 or SCTLR_EL2.
    pub sctlr: u64,
    /// HCR_EL2. Of a guest of KVM what the default has: `Hcr::new().with_rw(true)`; a hypervisor at
    /// EL2 gives the register as it is. In the EL2&0 regime E2H is set.
    pub hcr: u64,
    /// PSTATE.PAN.
    pub pan: bool,
}

impl Default for Registers {
    fn default() -> Self {
        let hcr = Hcr::new().with_rw(true).into_bits();
        Self { tcr: 0, tcr2: 0, ttbr0: 0, ttbr1: 0, sctlr: 0, hcr, pan: false }
    }
}
