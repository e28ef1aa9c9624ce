//! Virtual pages: what an effective address is by its segment, and what is hashed.

use pgtable::{Gva, low_bits};

use super::hpte::{Hpte, HpteV};
use super::order::{HptOrder, PageHash};
use super::page_size::PageSize;
use super::segment::{Segment, SegmentSize};

/// log2 of the unit in which an entry has a virtual address (AVPN).
const AVPN_UNIT: u8 = 23;

/// A page of a segment's base size, by its virtual address: 78 bits, VSID above, offset in the
/// segment below.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct VirtualPage {
    /// The segment's VSID.
    pub vsid: u64,
    /// The page's offset in the segment, a multiple of its size.
    pub offset: u64,
    /// The segment's size.
    pub segment: SegmentSize,
    /// The page's size.
    pub base: PageSize,
}

impl VirtualPage {
    /// The page in which `address` lies, which lies in `segment`.
    #[inline]
    #[must_use]
    pub const fn of(segment: &Segment, address: Gva) -> Self {
        let offset =
            address.get() & low_bits(segment.size.shift()) & !low_bits(segment.base.shift());
        Self { vsid: segment.vsid, offset, segment: segment.size, base: segment.base }
    }

    /// Its hash.
    #[inline]
    #[must_use]
    pub const fn hash(&self) -> PageHash {
        PageHash(self.vsid_hash() ^ self.offset >> self.base.shift())
    }

    /// The VSID's part of the hash.
    #[inline]
    const fn vsid_hash(&self) -> u64 {
        match self.segment {
            SegmentSize::M256 => self.vsid,
            SegmentSize::T1 => self.vsid ^ self.vsid << 25,
        }
    }

    /// Its virtual address, as far as an entry has it.
    #[inline]
    #[must_use]
    pub const fn avpn(&self) -> u64 {
        self.vsid << (self.segment.shift() - AVPN_UNIT) | self.offset >> AVPN_UNIT
    }

    /// The first doubleword of a valid entry for it in its primary group, but for L.
    #[inline]
    #[must_use]
    pub const fn v(&self) -> HpteV {
        HpteV::of_page(self.segment.b(), self.avpn()).with_v(true)
    }

    /// The hash by which `hpte`, standing in `group` of a table of `order`, goes to a table of
    /// another order: its page's, if it stands where its page is looked for; else what KVM and QEMU
    /// make of it (`resize_hpt_rehash_hpte`, `rehash_hpte`). `None` as of
    /// [`of_entry`](Self::of_entry).
    #[must_use]
    pub(crate) const fn rehash(hpte: Hpte, group: u64, order: HptOrder) -> Option<PageHash> {
        let Some(page) = Self::of_entry(hpte, group, order) else { return None };
        if page.base.shift() >= AVPN_UNIT {
            return Some(page.hash());
        }
        let group = if hpte.v.h() { !group } else { group };
        // What AVPN and group both have is not compared: the offset's lower bits, which AVPN has
        // not, are among the group's.
        let number =
            page.offset >> page.base.shift() | (page.vsid_hash() ^ group) & (order.groups() - 1);
        Some(PageHash(page.vsid_hash() ^ number))
    }

    /// The page of which `hpte`, standing in `group` of a table of `order`, is an entry: the bits
    /// that AVPN has not are in the hash. `None` if the entry names no segment size or no page
    /// size.
    #[inline]
    #[must_use]
    pub const fn of_entry(hpte: Hpte, group: u64, order: HptOrder) -> Option<Self> {
        let (Some(segment), Some(sizes)) = (SegmentSize::of_b(hpte.v.b()), hpte.sizes()) else {
            return None;
        };
        let base = sizes.base();
        let avpn = hpte.v.avpn();
        let above = segment.shift() - AVPN_UNIT;
        let offset = (avpn & low_bits(above)) << AVPN_UNIT & !low_bits(base.shift());
        let it = Self { vsid: avpn >> above, offset, segment, base };
        if base.shift() >= AVPN_UNIT {
            return Some(it);
        }
        let hash = if hpte.v.h() { !group } else { group };
        let low = ((it.vsid_hash() ^ hash) & (order.groups() - 1)) << base.shift();
        Some(Self { offset: offset | low & low_bits(AVPN_UNIT), ..it })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hash::{HpteR, PageSizes};

    #[test]
    fn hash_and_avpn() {
        let vrma = Segment {
            vsid: 0x1ff_ffff,
            size: SegmentSize::T1,
            base: PageSize::K64,
            ks: false,
            kp: true,
            n: false,
            class: false,
        };
        let user =
            Segment { vsid: 0xf9_463f_51f7, size: SegmentSize::M256, base: PageSize::K4, ..vrma };
        for (segment, address, hash, v) in [
            // KVM's VRMA entry for guest real 0x3ff0000: v 4001ffffff0003d5 with software bits and
            // L.
            (
                vrma,
                0x3ff_0000,
                0x1ff_ffff_u64 ^ 0x1ff_ffff << 25 ^ 0x3ff,
                0x4001_ffff_ff00_0381_u64,
            ),
            (vrma, 0, 0x1ff_ffff ^ 0x1ff_ffff << 25, 0x4001_ffff_ff00_0001),
            (
                user,
                0x1234_5678,
                0xf9_463f_51f7 ^ 0x2345,
                0x000f_9463_f51f_7001 | 0x234_5000 >> 16 & 0xf80,
            ),
        ] {
            let page = VirtualPage::of(&segment, Gva::new(address));
            assert_eq!(page.hash(), PageHash(hash), "{address:#x}");
            assert_eq!(page.v().into_bits(), v, "{address:#x}: {:#x}", page.v().into_bits());
        }
    }

    #[test]
    fn an_entry_and_its_group_give_the_page_back() {
        for sizes in PageSizes::ALL {
            for (size, vsid) in
                [(SegmentSize::M256, 0x2_1357_9bdf_1234), (SegmentSize::T1, 0x25_2468_ace1)]
            {
                if size == SegmentSize::M256 && sizes.base() == PageSize::G16 {
                    continue;
                }
                let segment = Segment {
                    vsid,
                    size,
                    base: sizes.base(),
                    ks: false,
                    kp: false,
                    n: false,
                    class: false,
                };
                for order in [18, 24, 46] {
                    let order = HptOrder::new(order).unwrap();
                    for address in [0, 0x0123_4567, 0x0fff_ffff, 0xab_cdef_0123, 0xff_ffff_ffff] {
                        let page = VirtualPage::of(&segment, Gva::new(address));
                        for h in [false, true] {
                            let r = HpteR::new().with_sizes(sizes);
                            let hpte =
                                Hpte { v: page.v().with_l(sizes.lp().is_some()).with_h(h), r };
                            let group = order.group(page.hash(), h);
                            assert_eq!(
                                VirtualPage::of_entry(hpte, group, order),
                                Some(page),
                                "{sizes:?} {order:?}"
                            );
                            let hash = VirtualPage::rehash(hpte, group, order).unwrap();
                            let bits = (1 << 46 >> 7) - 1;
                            assert_eq!((hash.0 ^ page.hash().0) & bits, 0, "{sizes:?} {order:?}");
                        }
                    }
                }
            }
        }
    }
}
