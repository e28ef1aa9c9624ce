//! The state that takes part in stage-1 translation.

use crate::registers::Processor;
use crate::shape::Granule;

/// A translation regime of stage 1 (D8.1.2).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub enum Regime {
    /// EL1&0: two address ranges, two privileges.
    #[default]
    El10,
    /// EL2 with HCR_EL2.E2H = 0: one address range, one privilege.
    El2,
    /// EL2&0 (HCR_EL2.E2H = 1): as EL1&0.
    El20,
}

impl Regime {
    /// Whether the regime has EL0, and so two address ranges.
    #[inline(always)]
    #[must_use]
    pub const fn has_el0(self) -> bool {
        !matches!(self, Self::El2)
    }
}

/// Which of a regime's two address ranges a tree translates (D8.1.8).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub enum VaRange {
    /// From address 0 on: TTBR0.
    #[default]
    Lower,
    /// Up to the last address: TTBR1.
    Upper,
}

/// The processor's state that takes part in stage-1 translation by one table tree.
///
/// Fields are public: `Stage1Controls { granule: Granule::K16, ..Stage1Controls::new() }`.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Stage1Controls {
    /// The regime.
    pub regime: Regime,
    /// The address range. The EL2 regime has the lower one only.
    pub range: VaRange,
    /// TCR.TG0 or TG1.
    pub granule: Granule,
    /// 64 − TCR.TxSZ: how many bits an address has.
    pub input_bits: u8,
    /// TCR.PS or IPS, at most what the processor has: 32, 36, 40, 42, 44, 48 or 52.
    pub output_bits: u8,
    /// The processor's physical address bits (PARange). With 52 (FEAT_LPA) and 64-KiB granules,
    /// descriptors hold address bits 51:48, and level 1 has blocks.
    pub physical_bits: u8,
    /// FEAT_LVA: 52-bit input addresses with 64-KiB granules.
    pub lva: bool,
    /// TCR.DS (FEAT_LPA2): 52-bit addresses with 4-KiB and 16-KiB granules. Nothing with 64-KiB
    /// granules.
    pub ds: bool,
    /// FEAT_TTST: input addresses of 16 bits (64-KiB granules: 17) or more instead of 25.
    pub small_tables: bool,
    /// Trees of this value have groups of contiguous leaves: 16 with 4-KiB granules, 128 pages or
    /// 32 blocks with 16-KiB granules, 32 with 64-KiB granules (D8.7.1). Without, the hint is
    /// neither made nor looked at: right for walks, and for changes of trees that have no such
    /// hint.
    pub contiguous: bool,
    /// TCR.HA: hardware sets the access flag.
    pub ha: bool,
    /// TCR.HD: hardware manages dirty state, if it sets the access flag.
    pub hd: bool,
    /// TCR.HPDx: what table descriptors restrict does not count.
    pub hpd: bool,
    /// TCR.TBIx: address bits 63:56 do not count. (TBID takes instruction fetches out of it:
    /// [`Paging`](crate::Paging) knows.)
    pub tbi: bool,
    /// SCTLR.WXN: what is writable is not executable.
    pub wxn: bool,
    /// PSTATE.PAN: privileged data accesses to what EL0 can access are not allowed.
    pub pan: bool,
    /// SCTLR.EPAN (FEAT_PAN3): PAN also counts pages that EL0 can execute only.
    pub epan: bool,
}

impl Stage1Controls {
    /// EL1&0, the lower range, 4-KiB granules, 48-bit addresses on both sides; hardware manages
    /// neither access flag nor dirty state.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            regime: Regime::El10,
            range: VaRange::Lower,
            granule: Granule::K4,
            input_bits: 48,
            output_bits: 48,
            physical_bits: 48,
            lva: false,
            ds: false,
            small_tables: false,
            contiguous: false,
            ha: false,
            hd: false,
            hpd: false,
            tbi: false,
            wxn: false,
            pan: false,
            epan: false,
        }
    }

    /// The same on `processor`: physical addresses (48 bits of output at most, which need no DS),
    /// small tables, LVA, access flag and dirty state as it has them.
    #[must_use]
    pub const fn on(self, processor: &Processor) -> Self {
        Self {
            output_bits: processor.narrow_output_bits(),
            physical_bits: processor.physical_bits,
            lva: processor.lva,
            small_tables: processor.small_tables,
            ha: processor.access_flag,
            hd: processor.dirty_state,
            ..self
        }
    }
}

impl Default for Stage1Controls {
    fn default() -> Self {
        Self::new()
    }
}

/// The fewest and the most input address bits of a granule (D8.1.9).
pub(crate) const fn input_limits(granule: Granule, wide: bool, small_tables: bool) -> (u8, u8) {
    let fewest = match (small_tables, granule) {
        (false, _) => 25,
        (true, Granule::K64) => 17,
        (true, _) => 16,
    };
    (fewest, if wide { 52 } else { 48 })
}
