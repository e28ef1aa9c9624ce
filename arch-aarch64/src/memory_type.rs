//! Memory types: MAIR_ELx (DDI 0487, "MAIR_EL1") and what both stages make of them together
//! (D8.6.5, D8.6.6).

use crate::stage1_attributes::Shareability;
use crate::stage2_attributes::Stage2Memory;

/// MAIR_EL1 or MAIR_EL2: eight memory types, by index.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Mair(pub u64);

impl Mair {
    /// Linux's: 0 and 1 write-back, 2 not cached, 3 Device-nGnRnE, 4 Device-nGnRE. The indices that
    /// [`Stage1Attributes`](crate::Stage1Attributes) makes of [`pgtable::Memory`].
    pub const USUAL: Self = Self(0x0004_0044_ffff);

    /// The type at `index`: Attr*n*. Only the low three bits of `index` count.
    #[must_use]
    pub const fn attr(self, index: u8) -> u8 {
        (self.0 >> ((index & 7) * 8)) as u8
    }
}

/// Whether an Attr*n* is a device type: 0b0000dd00.
const fn is_device(attr: u8) -> bool {
    attr & 0xf0 == 0
}

/// The cacheability of one half of an Attr*n*, without allocation hints: 1 not cached, 2
/// write-through, 3 write-back.
const fn cacheability(half: u8) -> u8 {
    match half {
        0b0100 => 1,
        0b0000..=0b0011 | 0b1000..=0b1011 => 2,
        _ => 3,
    }
}

/// The half of an Attr*n* that stage 2's cacheability and stage 1's make: the weaker one, with
/// stage 1's allocation hints.
const fn combine_half(stage1: u8, stage2: u8) -> u8 {
    let first = cacheability(stage1);
    match if first < stage2 { first } else { stage2 } {
        1 => 0b0100,
        2 => 0b1000 | stage1 & 3,
        _ => 0b1100 | stage1 & 3,
    }
}

/// The memory type that stage 1's Attr*n* and stage 2's type make together, in the encoding of an
/// Attr*n*: what PAR_EL1 reports after AT S12E1R.
///
/// Without FWB the weaker type counts (D8.6.5). With FWB, stage 2's device types and write-back
/// replace stage 1's type, "not cached" replaces its normal types, and [`Stage2Memory::Stage1`]
/// leaves it (D8.6.6).
#[must_use]
pub const fn combined_memory(stage1: u8, stage2: Stage2Memory, fwb: bool) -> u8 {
    let device = match stage2 {
        Stage2Memory::DeviceNgnrne => Some(0x00),
        Stage2Memory::DeviceNgnre => Some(0x04),
        Stage2Memory::DeviceNgre => Some(0x08),
        Stage2Memory::DeviceGre => Some(0x0c),
        _ => None,
    };
    let (outer, inner) = match (device, stage2) {
        (Some(device), _) if fwb || !is_device(stage1) || device < stage1 => return device,
        (_, Stage2Memory::WriteBack) if fwb => return 0xff,
        _ if is_device(stage1) => return stage1,
        (_, Stage2Memory::NonCacheable) => (1, 1),
        (_, Stage2Memory::WriteThrough) => (2, 2),
        (_, Stage2Memory::Other(bits)) if !fwb => (bits >> 2 & 3, bits & 3),
        _ => (3, 3),
    };
    combine_half(stage1 >> 4, outer) << 4 | combine_half(stage1 & 15, inner)
}

/// The shareability that both stages make together: the wider one (D8.6.7).
#[must_use]
pub const fn combined_shareability(stage1: Shareability, stage2: Shareability) -> Shareability {
    match (stage1, stage2) {
        (Shareability::Outer, _) | (_, Shareability::Outer) => Shareability::Outer,
        (Shareability::Inner, _) | (_, Shareability::Inner) => Shareability::Inner,
        (Shareability::None, Shareability::None) => Shareability::None,
    }
}
