//! An entry as a guest or a stream gives it, decoded once: what is checked of it is what is stored.

use pgtable::Gpa;

use super::hpte::{Hpte, HpteR, HpteV, Layout};
use super::page_size::{PageSize, PageSizes};
use super::segment::SegmentSize;

/// A valid entry in the words of a table's layout. Everything that is known of it was decoded from
/// these words.
#[derive(Clone, Copy, Debug)]
pub(super) struct CheckedEntry {
    words: [u64; 2],
    hpte: Hpte,
    sizes: PageSizes,
}

impl CheckedEntry {
    /// The entry that `v` and `r` describe, with V set and without this crate's own bits.
    ///
    /// `None` if it names no segment size or no page sizes, or if the layout has no room for `r`.
    /// The upper bits of the virtual address that the layout has no room for are cut off, as KVM
    /// cuts them off: [`v`](Self::v) does not have them.
    pub(super) const fn new(layout: Layout, v: HpteV, r: HpteR) -> Option<Self> {
        let words = layout.encode(Hpte { v: v.visible().with_v(true), r });
        let hpte = layout.decode(words);
        let (Some(sizes), Some(_)) = (hpte.sizes(), SegmentSize::of_b(hpte.v.b())) else {
            return None;
        };
        if hpte.r.into_bits() != r.into_bits() {
            return None;
        }
        Some(Self { words, hpte, sizes })
    }

    /// What is to be stored.
    pub(super) const fn words(&self) -> [u64; 2] {
        self.words
    }

    /// The first doubleword.
    pub(super) const fn v(&self) -> HpteV {
        self.hpte.v
    }

    /// The second doubleword.
    pub(super) const fn r(&self) -> HpteR {
        self.hpte.r
    }

    /// The page that it maps, and its size.
    pub(super) const fn page(&self) -> (Gpa, PageSize) {
        (Gpa::new(self.hpte.r.page(self.sizes)), self.sizes.actual())
    }

    /// Whether the page number has bits below the page's size, other than those that name the size.
    pub(super) const fn has_low_bits(&self) -> bool {
        let lp = match self.sizes.lp() {
            Some(lp) => lp as u64,
            None => 0,
        };
        let low = pgtable::low_bits(self.sizes.actual().shift() - PageSize::K4.shift());
        self.hpte.r.rpn() & low != lp & low
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        /// Whatever is asked, a checked entry is exactly what its words say.
        #[test]
        fn case_b2_what_is_known_is_what_is_stored(v: u64, r: u64, small: bool) {
            let r = if small { r & 0x1_ffff } else { r };
            for layout in [Layout::V2, Layout::V3] {
                let Some(it) = CheckedEntry::new(layout, v.into(), r.into()) else { continue };
                let stored = layout.decode(it.words());
                prop_assert_eq!((stored.v, stored.r), (it.v(), it.r()));
                prop_assert_eq!(it.r().into_bits(), r);
                prop_assert!(layout.holds(stored) && stored.v.v());
                let sizes = stored.sizes().unwrap();
                prop_assert_eq!(it.page(), (Gpa::new(stored.r.page(sizes)), sizes.actual()));
            }
        }
    }
}
