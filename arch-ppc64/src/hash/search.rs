//! What a search compares, as far as a segment alone decides it: computed once, after which an
//! address costs two shifts, two exclusive ors and a mask.

use pgtable::{Gva, low_bits};

use super::hpte::{HpteR, HpteR3, HpteV, Layout};
use super::order::PageHash;
use super::page_size::{PageSize, PageSizes};
use super::segment::{Segment, SegmentSize};
use super::virtual_page::VirtualPage;

/// How far an effective address is shifted for its offset in the segment to stand where AVPN has
/// it: AVPN counts 8 MiB from bit 56 on.
const AVPN_SHIFT: u32 = 16;

/// Words that are `want` under `mask`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Bits {
    pub(super) want: u64,
    pub(super) mask: u64,
}

impl Bits {
    /// Whether `word`, and of `flags` exactly those of `set`, are so.
    #[inline(always)]
    pub(super) const fn fit(self, word: u64, flags: HpteR, set: HpteR) -> bool {
        (word ^ (self.want | set.into_bits())) & (self.mask | flags.into_bits()) == 0
    }

    /// The same, with R.
    const fn used(self) -> Self {
        let r = HpteR::new().with_r(true).into_bits();
        Self { want: self.want | r, mask: self.mask | r }
    }

    /// What the second doubleword of an entry in this layout says of its sizes, if it is for a page
    /// of `sizes` in a segment of `segment`: LP, and B.
    #[inline(always)]
    pub(super) const fn of_sizes(layout: Layout, segment: SegmentSize, sizes: PageSizes) -> Self {
        // Of 64K pages four bits are LP, of larger ones eight; 4K pages have none.
        let mask = match sizes.actual() {
            PageSize::K4 => 0,
            PageSize::K64 => 4,
            PageSize::M16 | PageSize::G16 => 8,
        };
        let mask = HpteR::new().with_rpn(low_bits(mask)).into_bits();
        let b = layout.b_of_r();
        let want = HpteR::new().with_sizes(sizes).into_bits();
        Self { want: want | HpteR3::new().with_b(segment.b()).into_bits() & b, mask: mask | b }
    }
}

/// A segment, as a search wants it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Search {
    /// The hash, and the first doubleword, of effective address 0, if it lay in the segment: the
    /// address of the segment is in them twice, so that it is gone when an address is put in.
    hash: u64,
    v: u64,
    /// Which bits of a shifted address are AVPN's.
    avpn: u64,
    /// The bits of an address within a page.
    within: u64,
    /// What the second doubleword of an entry for a page of the segment's own size says once the
    /// page was used (R), and where in it the page is, by layout.
    own: [(Bits, u64); 2],
    /// log2 of the base page size.
    shift: u8,
}

impl Search {
    /// In `segment`, in which `address` lies.
    pub(super) const fn new(segment: &Segment, address: Gva) -> Self {
        let esid = address.get() & !low_bits(segment.size.shift());
        let first = VirtualPage::of(segment, Gva::new(0));
        let avpn = (!low_bits(segment.base.shift()) >> AVPN_SHIFT)
            & HpteV::new().with_avpn(low_bits(55)).into_bits();
        let (size, base, sizes) = (segment.size, segment.base, PageSizes::only(segment.base));
        Self {
            hash: first.hash().0 ^ esid >> base.shift(),
            v: first.v().with_l(sizes.lp().is_some()).into_bits() ^ esid >> AVPN_SHIFT & avpn,
            avpn,
            within: low_bits(base.shift()),
            own: [
                (Bits::of_sizes(Layout::V2, size, sizes).used(), Layout::V2.page_of_r()),
                (Bits::of_sizes(Layout::V3, size, sizes).used(), Layout::V3.page_of_r()),
            ],
            shift: base.shift(),
        }
    }

    /// The hash of the page at `address`, which lies in the segment: [`VirtualPage::hash`].
    #[inline(always)]
    pub(super) const fn hash(&self, address: Gva) -> PageHash {
        PageHash(self.hash ^ address.get() >> self.shift)
    }

    /// The first doubleword of its entry, if its page is of the segment's own size:
    /// [`VirtualPage::v`] with L.
    #[inline(always)]
    pub(super) const fn v(&self, address: Gva) -> HpteV {
        HpteV::from_bits(self.v ^ address.get() >> AVPN_SHIFT & self.avpn)
    }

    /// What the second doubleword of one that was used then says.
    #[inline(always)]
    pub(super) const fn own(&self, layout: Layout) -> Bits {
        self.own[layout as usize].0
    }

    /// Where `address` is, if the second doubleword of its entry is `r`.
    #[inline(always)]
    pub(super) const fn real(&self, layout: Layout, r: u64, address: Gva) -> u64 {
        let page = r & self.own[layout as usize].1;
        page ^ (page ^ address.get()) & self.within
    }
}

impl Layout {
    /// The bits of a second doubleword that hold the address of a page of 4 KiB, and of larger ones
    /// LP in the low of them.
    const fn page_of_r(self) -> u64 {
        HpteR::of_page(u64::MAX).into_bits() & !self.b_of_r()
    }

    /// The bits of a second doubleword that hold B.
    #[inline(always)]
    pub(super) const fn b_of_r(self) -> u64 {
        match self {
            Self::V2 => 0,
            Self::V3 => HpteR3::new().with_b(3).into_bits(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hash::Hpte;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn as_by_the_page(vsid: u64, address: u64, within: u64, large: bool, base in 0_usize..4) {
            let (size, base) = (if large { SegmentSize::T1 } else { SegmentSize::M256 }, PageSize::ALL[base]);
            let segment = Segment { vsid, size, base, ks: false, kp: true, n: false, class: false };
            let search = Search::new(&segment, Gva::new(address));
            for other in [address, address & !low_bits(size.shift()) | within & low_bits(size.shift())] {
                let page = VirtualPage::of(&segment, Gva::new(other));
                prop_assert_eq!(search.hash(Gva::new(other)), page.hash());
                prop_assert_eq!(search.v(Gva::new(other)), page.v().with_l(base != PageSize::K4));
            }
        }
    }

    #[test]
    fn each_pair_of_sizes_and_no_other() {
        for (sizes, size) in PageSizes::ALL
            .into_iter()
            .flat_map(|it| [(it, SegmentSize::M256), (it, SegmentSize::T1)])
        {
            for layout in [Layout::V2, Layout::V3] {
                let bits = Bits::of_sizes(layout, size, sizes);
                for (l, b, lp) in (0..=255)
                    .flat_map(|lp| [(false, 0, lp), (true, 0, lp), (false, 1, lp), (true, 1, lp)])
                {
                    let hpte =
                        Hpte { v: HpteV::new().with_l(l).with_b(b), r: HpteR::new().with_rpn(lp) };
                    let [v, r] = layout.encode(hpte);
                    // In the older layout B stands in the first doubleword.
                    let b_fits = layout == Layout::V3 || HpteV::from_bits(v).b() == size.b();
                    let fits = l == sizes.lp().is_some()
                        && b_fits
                        && bits.fit(r, HpteR::new(), HpteR::new());
                    let want = hpte.sizes() == Some(sizes) && b == size.b();
                    assert_eq!(
                        fits, want,
                        "{sizes:?}, {size:?}, {layout:?}, L {l}, B {b}, LP {lp:#x}"
                    );
                }
            }
        }
    }
}
