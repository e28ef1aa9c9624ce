//! Which virtual segments an address space has: Linux's allocation of VSIDs
//! (`asm/book3s/64/mmu-hash.h`).

use pgtable::{Gva, low_bits};

use super::pages::Pages;
use super::tree::segment;
use crate::hash::segment::{Segment, SegmentSize};

/// log2 of the bytes that one context has VSIDs for.
pub(crate) const CONTEXT_BITS: u8 = 49;
/// How many bits a context has.
const ID_BITS: u8 = 19;
/// Linux's multiplier, which spreads neighbouring segments over the table (`VSID_MULTIPLIER_256M`
/// and `_1T`).
const MULTIPLIER: u64 = 12_538_073;
/// Its inverses, modulo 2^40 - 1 and 2^28 - 1 (`VSID_MULINV_256M` and `_1T`).
const INVERSE_256M: u128 = 665_548_017_062;
const INVERSE_1T: u128 = 209_034_062;

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

    /// The segment in which `address` lies: of 256M in the first terabyte, then of 1T, as in a user
    /// process of Linux. `None` beyond 2^49.
    #[inline]
    pub(crate) const fn segment(self, address: Gva, pages: Pages) -> Option<Segment> {
        if address.get() & !low_bits(CONTEXT_BITS) != 0 {
            return None;
        }
        let size = if address.get() < 1 << SegmentSize::T1.shift() {
            SegmentSize::M256
        } else {
            SegmentSize::T1
        };
        Some(segment(self.vsid(address, size), size, pages))
    }

    /// The virtual segment of `size` in which the low 49 bits of `address` lie.
    #[inline]
    #[must_use]
    pub const fn vsid(self, address: Gva, size: SegmentSize) -> u64 {
        let esid_bits = CONTEXT_BITS - size.shift();
        let proto =
            (self.0 as u64) << esid_bits | (address.get() & low_bits(CONTEXT_BITS)) >> size.shift();
        proto * MULTIPLIER % low_bits(ID_BITS + esid_bits)
    }

    /// Whose segment `vsid` is, of `size`, and where it begins: the inverse of
    /// [`vsid`](Self::vsid). `None` if it is none of Linux's.
    ///
    /// ```
    /// use pgtable_ppc64::hash::{Context, SegmentSize};
    /// use pgtable::Gva;
    ///
    /// let context = Context::new(8).ok_or("a context")?;
    /// let vsid = context.vsid(Gva::new(0x7fff_1234_5678), SegmentSize::T1);
    /// assert_eq!(Context::of_vsid(vsid, SegmentSize::T1), Some((context, Gva::new(0x7f00_0000_0000))));
    /// # Ok::<(), Box<dyn core::error::Error>>(())
    /// ```
    #[must_use]
    pub const fn of_vsid(vsid: u64, size: SegmentSize) -> Option<(Self, Gva)> {
        let esid_bits = CONTEXT_BITS - size.shift();
        let modulus = low_bits(ID_BITS + esid_bits);
        if vsid >= modulus {
            return None;
        }
        let inverse = match size {
            SegmentSize::M256 => INVERSE_256M,
            SegmentSize::T1 => INVERSE_1T,
        };
        let proto = (vsid as u128 * inverse % modulus as u128) as u64;
        match Self::new((proto >> esid_bits) as u32) {
            Some(context) => {
                Some((context, Gva::new((proto & low_bits(esid_bits)) << size.shift())))
            }
            None => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn vsids_are_scrambled_and_can_be_undone() {
        let context = Context::new(0x5_4321).unwrap();
        for size in [SegmentSize::M256, SegmentSize::T1] {
            for esid in [0, 1, 5, 255] {
                let start = Gva::new(esid << size.shift());
                let vsid = context.vsid(Gva::new(start.get() + 0x123_4567), size);
                assert_eq!(Context::of_vsid(vsid, size), Some((context, start)), "{size:?} {esid}");
            }
            assert_eq!(Context::of_vsid(0, size), None, "context 0 is nobody's");
            assert_eq!(Context::of_vsid(low_bits(68 - size.shift()), size), None);
            assert_eq!(Context::of_vsid(u64::MAX, size), None);
        }
        assert_eq!((Context::new(0), Context::new((1 << 19) - 1)), (None, None));
        assert_eq!(context.segment(Gva::new(1 << 49), Pages::K4), None);
        assert_eq!(
            context.segment(Gva::new((1 << 40) - 1), Pages::K4).unwrap().size,
            SegmentSize::M256
        );
        assert_eq!(context.segment(Gva::new(1 << 40), Pages::K64).unwrap().size, SegmentSize::T1);
    }
}
