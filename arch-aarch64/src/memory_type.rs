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

/// A cacheability as one half of an Attr*n*, with the allocation hints and the transience of the
/// half `like`.
const fn half(cacheability: u8, like: u8) -> u8 {
    let hints = like & 3;
    let lasting = if like & 8 == 0 && hints != 0 { 0 } else { 0b1000 };
    match cacheability {
        1 => 0b0100,
        2 => lasting | hints,
        _ => lasting | 0b0100 | hints,
    }
}

/// The half of an Attr*n* that stage 2's cacheability and stage 1's make: the weaker one, with
/// stage 1's hints (pseudocode `S2CombineS1AttrHints`).
const fn combine_half(stage1: u8, stage2: u8) -> u8 {
    let first = cacheability(stage1);
    half(if first < stage2 { first } else { stage2 }, stage1)
}

/// The half that FWB's write-back makes of stage 1's: with its hints, if it is cached.
const fn write_back_half(stage1: u8) -> u8 {
    if cacheability(stage1) == 1 { 0b1111 } else { half(3, stage1) }
}

/// The memory type that stage 1's Attr*n* and stage 2's type make together, in the encoding of an
/// Attr*n*: what PAR_EL1 reports after AT S12E1R.
///
/// Without FWB the weaker type counts (D8.6.5). With FWB, stage 2's device types and "not cached"
/// replace normal types, and leave a device's type that is as strong; write-back replaces every
/// type and takes the allocation hints of a cached one; [`Stage2Memory::Stage1`] leaves it (D8.6.6,
/// pseudocode `AArch64.S2ApplyFWBMemAttrs`). XS and tags are left out, but for that last one: 0x40,
/// 0xa0 and 0xf0 count as 0x44, 0xaa and 0xff.
#[must_use]
pub const fn combined_memory(stage1: u8, stage2: Stage2Memory, fwb: bool) -> u8 {
    if fwb && matches!(stage2, Stage2Memory::Stage1) {
        return stage1;
    }
    let stage1 = match stage1 {
        0x40 => 0x44,
        0xa0 => 0xaa,
        0xf0 => 0xff,
        other => other,
    };
    let device = match stage2 {
        Stage2Memory::DeviceNgnrne => Some(0x00),
        Stage2Memory::DeviceNgnre => Some(0x04),
        Stage2Memory::DeviceNgre => Some(0x08),
        Stage2Memory::DeviceGre => Some(0x0c),
        _ => None,
    };
    let (outer, inner) = match (device, stage2) {
        (Some(device), _) if !is_device(stage1) || device < stage1 => return device,
        (_, Stage2Memory::WriteBack) if fwb && is_device(stage1) => return 0xff,
        (_, Stage2Memory::WriteBack) if fwb => {
            return write_back_half(stage1 >> 4) << 4 | write_back_half(stage1 & 15);
        }
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
