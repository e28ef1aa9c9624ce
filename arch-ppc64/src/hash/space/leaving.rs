//! Entries on their way out of the hashed table: many are on their way into the cache while the
//! first is taken out.

use core::sync::atomic::AtomicU64;

use arrayvec::ArrayVec;
use pgtable::memory::TableMemory;
use pgtable::{Gpa, Gva};

use crate::hash::hpte::HpteV;
use crate::hash::order::Hidx;
use crate::hash::page_size::PageSizes;
use crate::hash::search::{Bits, Search};
use crate::hash::segment::Segment;
use crate::hash::slot::Slot;
use crate::hash::table::{Hpt, HptError};
use crate::hash::virtual_page::VirtualPage;

/// As many as a processor has misses under way, and some.
const MANY: usize = 32;

/// Entries of pages of one size in one segment.
pub(super) struct Leaving<'h, H> {
    hpt: &'h Hpt<Gpa, H>,
    segment: Segment,
    search: Search,
    /// What an entry's doublewords say of the size.
    l: bool,
    bits: Bits,
    entries: ArrayVec<Entry<'h>, MANY>,
}

/// An entry: where it was put, and what its first doubleword says if it is there still.
struct Entry<'h> {
    slot: Slot<'h, AtomicU64>,
    v: HpteV,
    address: Gva,
    at: Hidx,
}

impl<'h, H: TableMemory<Gpa>> Leaving<'h, H> {
    /// None yet, of pages of `sizes` in `segment`, in which `address` lies.
    pub(super) fn new(
        hpt: &'h Hpt<Gpa, H>,
        segment: Segment,
        address: Gva,
        sizes: PageSizes,
    ) -> Self {
        let search = Search::new(&segment, address);
        let bits = Bits::of_sizes(hpt.layout(), segment.size, sizes);
        Self { hpt, segment, search, l: sizes.lp().is_some(), bits, entries: ArrayVec::new() }
    }

    /// The entry for `address`, which was put `at`.
    ///
    /// # Errors
    /// As [`leave`](Self::leave).
    #[inline(always)]
    pub(super) fn add(&mut self, address: Gva, at: Hidx) -> Result<(), HptError> {
        if self.entries.is_full() {
            self.leave()?;
        }
        let slot = self.hpt.slot_at(self.search.hash(address), at)?;
        slot.touch();
        let v = self.search.v(address).with_l(self.l).with_h(at.secondary());
        // There is room.
        let _ = self.entries.try_push(Entry { slot, v, address, at });
        Ok(())
    }

    /// Takes all out that are still there.
    ///
    /// # Errors
    /// [`HptError`], when as many have been taken out as can be.
    #[inline(never)]
    pub(super) fn leave(&mut self) -> Result<(), HptError> {
        let mut left = Ok(());
        for Entry { slot, v, address, at } in &self.entries {
            if self.hpt.take_at_once(*slot, (*v, self.bits)).is_none() {
                let page = VirtualPage::of(&self.segment, *address);
                left = left.and(self.hpt.remove_at_waiting(&page, *at).map(drop));
            }
        }
        self.entries.clear();
        left
    }
}
