//! Which virtual segments an address space has: Linux's allocation of VSIDs (`asm/book3s/64/mmu-hash.h`).

use pgtable::{Gva, low_bits};

use super::pages::Pages;
use super::tree::segment;
use crate::hash::segment::{Segment, SegmentSize};

/// log2 of the bytes that one context has VSIDs for.
pub(crate) const CONTEXT_BITS: u8 = 49;
/// How many bits a context has.
const ID_BITS: u8 = 19;
/// Linux's multiplier, which spreads neighbouring segments over the table (`VSID_MULTIPLIER_256M` and `_1T`).
const MULTIPLIER: u64 = 12_538_073;

/// An address space's number: its VSIDs are no other's.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Context(u32);

impl Context {
    /// Context `id`; `None` for 0 and from 2^19 - 1 on.
    #[must_use]
    pub const fn new(id: u32) -> Option<Self> {
        if id > 0 && (id as u64) < low_bits(ID_BITS) { Some(Self(id)) } else { None }
    }

    /// Its number.
    #[must_use]
    pub const fn id(self) -> u32 {
        self.0
    }

    /// The segment in which `address` lies: of 256M in the first terabyte, then of 1T, as in a user process of Linux. `None` beyond 2^49.
    #[inline]
    pub(crate) const fn segment(self, address: Gva, pages: Pages) -> Option<Segment> {
        if address.get() & !low_bits(CONTEXT_BITS) != 0 {
            return None;
        }
        let size = if address.get() < 1 << SegmentSize::T1.shift() { SegmentSize::M256 } else { SegmentSize::T1 };
        Some(segment(self.vsid(address, size), size, pages))
    }

    #[inline]
    const fn vsid(self, address: Gva, size: SegmentSize) -> u64 {
        let esid_bits = CONTEXT_BITS - size.shift();
        let proto = (self.0 as u64) << esid_bits | address.get() >> size.shift();
        proto * MULTIPLIER % low_bits(ID_BITS + esid_bits)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn vsids_are_scrambled_and_can_be_undone() {
        let context = Context::new(0x5_4321).unwrap();
        // The modular inverses of the multiplier.
        for (size, inverse) in [(SegmentSize::M256, 665_548_017_062_u128), (SegmentSize::T1, 209_034_062)] {
            let bits = 68 - size.shift();
            for esid in [0, 1, 5, 255] {
                let vsid = context.vsid(Gva::new(esid << size.shift()), size);
                let proto = u64::try_from(u128::from(vsid) * inverse % u128::from(low_bits(bits))).unwrap();
                assert_eq!(proto, 0x5_4321 << (49 - size.shift()) | esid, "{size:?} {esid}");
            }
        }
        assert_eq!((Context::new(0), Context::new((1 << 19) - 1)), (None, None));
        assert_eq!(context.segment(Gva::new(1 << 49), Pages::K4), None);
        assert_eq!(context.segment(Gva::new((1 << 40) - 1), Pages::K4).unwrap().size, SegmentSize::M256);
        assert_eq!(context.segment(Gva::new(1 << 40), Pages::K64).unwrap().size, SegmentSize::T1);
    }
}
