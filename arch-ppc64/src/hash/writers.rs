//! How entries come into a table and leave it: beside others who do the same, or alone.
//!
//! The usual case stands in the caller's loop: a place in the primary group, an entry there whose
//! page is of the segment's own size, nobody in the way. Everything else is further away, and waits
//! where it has to.

use core::sync::atomic::AtomicU64;

use pgtable::Address;
use pgtable::memory::{MemoryError, TableMemory};

use super::hpte::{Hpte, HpteR, HpteV, Layout};
use super::order::{GROUP_ENTRIES, GROUP_SHIFT, Hidx, PageHash};
use super::page_size::PageSizes;
use super::search::Bits;
use super::slot::{Busy, Locked, Slot, TURNS};
use super::table::{Hpt, HptError};
use super::virtual_page::VirtualPage;

impl<A: Address, M: TableMemory<A>> Hpt<A, M> {
    /// Enters `hpte` for `page`, whose H is set as its place requires: into the primary group, or
    /// if that is full into the secondary. `None` if both are full, or if the layout has no room
    /// for the page's virtual address. That no other entry for the page exists is the caller's
    /// affair.
    ///
    /// # Errors
    /// [`HptError`].
    #[inline(always)]
    pub fn insert(&self, page: &VirtualPage, hpte: Hpte) -> Result<Option<Hidx>, HptError> {
        self.insert_among(page, hpte, u16::MAX)
    }

    /// As [`insert`](Self::insert), only into the places that `places` names with a bit for each
    /// [`Hidx`].
    ///
    /// # Errors
    /// [`HptError`].
    #[inline(always)]
    pub fn insert_among(
        &self,
        page: &VirtualPage,
        hpte: Hpte,
        places: u16,
    ) -> Result<Option<Hidx>, HptError> {
        let hpte = Hpte { v: hpte.v.with_h(false).with_v(true), ..hpte };
        self.insert_by(page.hash(), hpte, places, Slot::enter)
    }

    /// As [`insert_among`](Self::insert_among), by `enter`, which fills a free entry and says
    /// whether it did.
    #[inline(always)]
    fn insert_by<'m>(
        &'m self,
        hash: PageHash,
        hpte: Hpte,
        places: u16,
        enter: impl Fn(Slot<'m, AtomicU64>, [u64; 2]) -> bool,
    ) -> Result<Option<Hidx>, HptError> {
        let Some(words) = self.layout.encode_whole(hpte) else { return Ok(None) };
        match self.group(self.group_of(hash, false))?.enter_at_once(words, places as u8, enter) {
            Some(slot) => Ok(Some(Hidx::new(false, slot))),
            None => self.insert_further(hash, words, places),
        }
    }

    /// No place in the primary group: in the secondary, or waiting for one.
    #[inline(never)]
    fn insert_further(
        &self,
        hash: PageHash,
        [v, r]: [u64; 2],
        places: u16,
    ) -> Result<Option<Hidx>, HptError> {
        let [primary, secondary] = places.to_le_bytes();
        if let Some(slot) =
            self.group(self.group_of(hash, false))?.enter_waiting([v, r], primary)?
        {
            return Ok(Some(Hidx::new(false, slot)));
        }
        let slot = self.group(self.group_of(hash, true))?.enter([v | HpteV::H, r], secondary)?;
        Ok(slot.map(|slot| Hidx::new(true, slot)))
    }

    /// The lock on the entry for `page` if it stands at `at`; `None` if it does not.
    ///
    /// # Errors
    /// [`HptError`].
    #[inline]
    pub fn lock(
        &self,
        page: &VirtualPage,
        at: Hidx,
    ) -> Result<Option<Locked<'_, AtomicU64>>, HptError> {
        let h = at.secondary();
        let slot = self.group(self.group_of(page.hash(), h))?.slot(at.slot());
        let want = page.v().with_h(h).into_bits();
        let mask = self.layout.stored(HpteV::SEARCH);
        let Some(locked) = slot.lock_if(|v| (v ^ want) & mask == 0)? else { return Ok(None) };
        let hpte = self.layout.decode([locked.v(), locked.r()]);
        let fits = hpte.sizes().is_some_and(|sizes| sizes.base() == page.base);
        let same = (hpte.v.into_bits() ^ want) & HpteV::SEARCH == 0;
        Ok((fits && same).then_some(locked))
    }

    /// Takes out the entry for `page` if it stands at `at`: touches that one entry and no other.
    /// Returns it, with what was recorded in it until now; `None` if it is not there. Its
    /// translation may live on in hardware until it is invalidated.
    ///
    /// # Errors
    /// [`HptError`].
    #[inline(always)]
    pub fn remove_at(&self, page: &VirtualPage, at: Hidx) -> Result<Option<Hpte>, HptError> {
        let slot = self.slot_at(page.hash(), at)?;
        let own = self.own(page, at.secondary());
        match own.and_then(|own| self.take_at_once(slot, own)) {
            Some(hpte) => Ok(Some(hpte)),
            None => self.remove_at_waiting(page, at),
        }
    }

    /// Where an entry for a page of this hash stands that was put `at`.
    #[inline(always)]
    pub(super) fn slot_at(
        &self,
        hash: PageHash,
        at: Hidx,
    ) -> Result<Slot<'_, AtomicU64>, MemoryError> {
        self.group(self.group_of(hash, at.secondary())).map(|group| group.slot(at.slot()))
    }

    /// What the two doublewords of the entry for `page` say, if it is of the size that the segment
    /// has; `None` if the layout has no room for it.
    #[inline(always)]
    fn own(&self, page: &VirtualPage, h: bool) -> Option<(HpteV, Bits)> {
        let sizes = PageSizes::only(page.base);
        let v = page.v().with_h(h).with_l(sizes.lp().is_some());
        match self.layout {
            Layout::V3 if !self.layout.reaches(v) => None,
            layout => Some((v, Bits::of_sizes(layout, page.segment, sizes))),
        }
    }

    /// It is not there, or locked, or somebody changes it just now.
    #[inline(never)]
    pub(super) fn remove_at_waiting(
        &self,
        page: &VirtualPage,
        at: Hidx,
    ) -> Result<Option<Hpte>, HptError> {
        Ok(self.lock(page, at)?.map(|locked| self.take(locked)))
    }

    /// Takes out the entry for `page`, searching for it. As [`remove_at`](Self::remove_at).
    ///
    /// # Errors
    /// [`HptError`].
    #[inline(always)]
    pub fn remove(&self, page: &VirtualPage) -> Result<Option<Hpte>, HptError> {
        self.remove_by(page, |slot, own| self.take_at_once(slot, own))
    }

    /// As [`remove`](Self::remove), by `take`, which takes an entry out if it is as it should be.
    #[inline(always)]
    fn remove_by<'m>(
        &'m self,
        page: &VirtualPage,
        take: impl Fn(Slot<'m, AtomicU64>, (HpteV, Bits)) -> Option<Hpte>,
    ) -> Result<Option<Hpte>, HptError> {
        let Some(own) = self.own(page, false) else { return Ok(None) };
        let first = self.first(page.hash(), own.0, false)?;
        if let Some(hpte) = first.and_then(|slot| take(slot, own)) {
            return Ok(Some(hpte));
        }
        self.remove_further(page, first.is_none())
    }

    /// Not at once from the primary group; in which, if it is `absent`, there is none.
    #[inline(never)]
    fn remove_further(&self, page: &VirtualPage, absent: bool) -> Result<Option<Hpte>, HptError> {
        if absent {
            let Some(own) = self.own(page, true) else { return Ok(None) };
            let first = self.first(page.hash(), own.0, true)?;
            if let Some(hpte) = first.and_then(|slot| self.take_at_once(slot, own)) {
                return Ok(Some(hpte));
            }
        }
        for _ in 0..TURNS {
            let Some(found) = self.find(page)? else { return Ok(None) };
            let at = Hidx::new(found.hpte.v.h(), found.ptex as usize);
            if let Some(hpte) = self.remove_at_waiting(page, at)? {
                return Ok(Some(hpte));
            }
        }
        Err(Busy.into())
    }

    /// Takes out the entry in `slot` if it says just this, is not locked, and stays so; otherwise
    /// it is left alone.
    #[inline(always)]
    pub(super) fn take_at_once(
        &self,
        slot: Slot<'_, AtomicU64>,
        (first, second): (HpteV, Bits),
    ) -> Option<Hpte> {
        let v = slot.v();
        if !self.is(v, first) {
            return None;
        }
        // What the second doubleword says counts once the entry is hidden: if it is one of another
        // size, it is put back.
        let hidden = slot.hide_if(v)?;
        let r = hidden.r();
        if !second.fit(r, HpteR::new(), HpteR::new()) {
            return None;
        }
        hidden.clear();
        Some(self.layout.decode([v, r]))
    }

    /// Whether the first doubleword `v` is `first`, as far as a search compares, with the same L.
    #[inline(always)]
    fn is(&self, v: u64, first: HpteV) -> bool {
        (v ^ first.into_bits()) & self.layout.stored(HpteV::SEARCH | HpteV::L) == 0
    }

    #[inline]
    pub(super) fn take(&self, mut locked: Locked<'_, AtomicU64>) -> Hpte {
        let v = locked.v();
        locked.hide();
        self.layout.decode([v, locked.clear()])
    }

    /// Makes room for `page`: takes out one entry that is not bolted, of those places that `places`
    /// names with a bit for each [`Hidx`], looking from `from` on. Returns it and where it stood;
    /// `None` if all are bolted or locked. Its translation may live on in hardware.
    ///
    /// # Errors
    /// [`HptError`].
    pub fn evict(
        &self,
        page: &VirtualPage,
        places: u16,
        from: Hidx,
    ) -> Result<Option<(u64, Hpte)>, HptError> {
        let loose = |v| HpteV::from_bits(v).v() && !HpteV::from_bits(v).bolted();
        for turn in 0..2 * GROUP_ENTRIES as u8 {
            let at = Hidx::from_bits(from.into_bits().wrapping_add(turn));
            if places >> at.into_bits() & 1 == 0 {
                continue;
            }
            let group = self.group_of(page.hash(), at.secondary());
            let (entries, index) = (self.group(group)?, at.slot());
            if let Some(locked) = entries.slot(index).try_lock_if(loose) {
                return Ok(Some((group << GROUP_SHIFT | index as u64, self.take(locked))));
            }
        }
        Ok(None)
    }

    /// The table for one who uses it alone.
    pub fn alone(&mut self) -> Alone<'_, A, M> {
        Alone { hpt: self }
    }
}

/// A table that only the holder of this uses: entries come and go by stores, and nothing is paid
/// for others.
///
/// The borrow keeps others from this [`Hpt`]. That no hardware translates by the table, and that no
/// other `Hpt` of the same memory is in use, is what the holder promises. If one is, entries that
/// it makes and changes of R and C that it records can be lost; no memory is at risk.
#[derive(Debug)]
pub struct Alone<'t, A, M> {
    hpt: &'t mut Hpt<A, M>,
}

impl<A: Address, M: TableMemory<A>> Alone<'_, A, M> {
    /// As [`Hpt::insert`].
    ///
    /// # Errors
    /// [`HptError`].
    #[inline(always)]
    pub fn insert(&mut self, page: &VirtualPage, hpte: Hpte) -> Result<Option<Hidx>, HptError> {
        let v = hpte.v.with_h(false).with_v(true).with_hvlock(false).with_modified(true);
        self.hpt.insert_by(page.hash(), Hpte { v, ..hpte }, u16::MAX, |slot, words| {
            slot.put(words);
            true
        })
    }

    /// As [`Hpt::remove`].
    ///
    /// # Errors
    /// [`HptError`].
    #[inline(always)]
    pub fn remove(&mut self, page: &VirtualPage) -> Result<Option<Hpte>, HptError> {
        let hpt = &*self.hpt;
        hpt.remove_by(page, |slot, own: (HpteV, Bits)| {
            let (v, r) = (slot.v(), slot.r());
            if !hpt.is(v, own.0)
                || v & HpteV::HVLOCK != 0
                || !own.1.fit(r, HpteR::new(), HpteR::new())
            {
                return None;
            }
            slot.put([HpteV::MODIFIED, 0]);
            Some(hpt.layout.decode([v, r]))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hash::{HptOrder, PageSize, SegmentSize};
    use pgtable::Gpa;
    use pgtable::memory::DirectMap;
    extern crate std;
    use std::collections::BTreeMap;
    use std::vec::Vec;

    /// What one does alone is what one does among others: every entry comes to the same place, and
    /// the tables hold the same.
    #[test]
    fn alone_as_among_others() {
        let order = HptOrder::new(18).unwrap();
        for layout in [Layout::V2, Layout::V3] {
            let memory =
                || -> Vec<_> { (0..order.bytes() / 8).map(|_| AtomicU64::new(0)).collect() };
            let (words, others) = (memory(), memory());
            let table = |words| {
                Hpt::new(DirectMap::new(words, Gpa::new(0)), Gpa::new(0), order, layout).unwrap()
            };
            let (mut alone, shared) = (table(&words), table(&others));
            let mut alone = alone.alone();
            let mut known = BTreeMap::new();
            // Few groups, so that they overflow into the secondary, and that too.
            for step in 0..6000_u64 {
                let random = step.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32;
                let base = PageSize::ALL[(random & 1) as usize];
                let offset = (random >> 1 & 0x3ff) << 14 << base.shift();
                let page = VirtualPage { vsid: 7, offset, segment: SegmentSize::T1, base };
                if known.remove(&offset).is_some() {
                    let hpte = alone.remove(&page).unwrap();
                    assert!(hpte.is_some());
                    assert_eq!(hpte, shared.remove(&page).unwrap());
                } else {
                    let sizes = PageSizes::only(base);
                    let r = HpteR::of_page(random << 16).with_sizes(sizes).with_r(true);
                    let hpte = Hpte { v: page.v().with_l(sizes.lp().is_some()), r };
                    let at = alone.insert(&page, hpte).unwrap();
                    assert_eq!(at, shared.insert(&page, hpte).unwrap());
                    at.map(|_| known.insert(offset, ()));
                }
            }
            assert!(shared.entries(0).any(|(_, hpte)| hpte.v.h()) && known.len() > 8);
            assert!(alone.hpt.entries(0).eq(shared.entries(0)));
        }
    }
}
