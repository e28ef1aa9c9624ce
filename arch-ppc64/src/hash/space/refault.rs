//! Making the entry of a page that is mapped and was used: Linux's `hash_page`.

use core::sync::atomic::Ordering;

use pgtable::allocator::TableAllocator;
use pgtable::memory::TableMemory;
use pgtable::{Access, AccessKind, Gpa, Gva, low_bits};

use super::pte::{BUSY, C, R, V};
use super::slots::Slots;
use super::{HashedSpace, Leaf};
use crate::hash::authority::judge;
use crate::hash::hpte::{Hpte, HpteR};
use crate::hash::mmu::{HashFault, HashTranslation};
use crate::hash::order::{GROUP_SHIFT, Hidx};
use crate::hash::segment::Segment;
use crate::hash::slot::{Busy, PATIENCE};
use crate::hash::table::HptError;
use crate::hash::virtual_page::VirtualPage;

/// How often another entry is evicted before it is given up: every entry of both groups, several
/// times.
const EVICTIONS: u32 = 64;

impl<M, A, H> HashedSpace<M, A, H>
where
    M: TableMemory<Gpa>,
    A: TableAllocator<Gpa>,
    H: TableMemory<Gpa>,
{
    /// Makes (or corrects) the entry by which `access` at `address` translates, if the page allows
    /// it.
    #[cold]
    pub(super) fn refault(
        &self,
        segment: &Segment,
        address: Gva,
        access: Access,
    ) -> Result<HashTranslation, HashFault> {
        let leaf = self
            .leaf(address)
            .map_err(HptError::from)?
            .ok_or_else(|| HashFault::no_entry(access))?;
        let word = self.lock_page(&leaf, segment, access)?;
        let made = self.make_entry(&leaf, word, segment, address);
        // The page is unlocked whatever happened.
        let hashed = match &made {
            Ok((_, at)) => word & !self.pages.hashed() | self.pages.hashed_at(*at),
            Err(_) => word,
        };
        leaf.word.store(hashed.to_be(), Ordering::Release);
        let (hpte, at) = made?;
        let page = VirtualPage::of(segment, address);
        let ptex =
            self.hpt.order().group(page.hash(), at.secondary()) << GROUP_SHIFT | at.slot() as u64;
        let sizes = self.pages.sizes(leaf.shift);
        let within = address.get() & low_bits(sizes.actual().shift());
        Ok(HashTranslation { real: hpte.r.page(sizes) | within, sizes, ptex, hpte })
    }

    /// Locks the page if it allows `access`, and marks it as referenced, and as changed by a store.
    /// Returns its word, unlocked.
    fn lock_page(
        &self,
        leaf: &Leaf<'_>,
        segment: &Segment,
        access: Access,
    ) -> Result<u64, HashFault> {
        let used = if access.kind == AccessKind::Write { R | C } else { R };
        let mut seen = leaf.word.load(Ordering::Acquire);
        for _ in 0..PATIENCE {
            let word = u64::from_be(seen);
            if word & V == 0 {
                return Err(HashFault::no_entry(access));
            }
            if word & BUSY != 0 {
                core::hint::spin_loop();
                seen = leaf.word.load(Ordering::Acquire);
                continue;
            }
            let r = self.pages.attributes(word | used).entry(0, self.pages.sizes(leaf.shift));
            judge(r, segment, access, self.authority)
                .map_err(|status| HashFault::storage(access, status))?;
            let locked = (word | used | BUSY).to_be();
            match leaf.word.compare_exchange(seen, locked, Ordering::Acquire, Ordering::Acquire) {
                Ok(_) => return Ok(word | used),
                Err(now) => seen = now,
            }
        }
        Err(HptError::from(Busy).into())
    }

    /// Makes the entry for `address` in the page whose word is `word`, and remembers where it is.
    fn make_entry(
        &self,
        leaf: &Leaf<'_>,
        word: u64,
        segment: &Segment,
        address: Gva,
    ) -> Result<(Hpte, Hidx), HashFault> {
        let sizes = self.pages.sizes(leaf.shift);
        let page = VirtualPage::of(segment, address);
        let within = address.get() & low_bits(leaf.shift);
        let piece = (within >> sizes.base().shift()) as usize;
        let real =
            (word & self.pages.rpn(leaf.shift)) | (within & !low_bits(sizes.actual().shift()));
        let r = self.pages.attributes(word).entry(real, sizes);
        let hpte = Hpte { v: page.v().with_l(sizes.lp().is_some()), r };
        if let Slots::Bytes([]) = leaf.slots {
            // A 16M page that somebody else mapped: nowhere to remember its entries.
            return Err(
                HptError::from(pgtable::memory::MemoryError::outside(Gpa::new(0), 0)).into()
            );
        }
        let cached =
            if word & self.pages.hashpte() == 0 { None } else { leaf.slots.get(word, piece) };
        if let Some(at) = cached {
            if self.update(&page, at, r)? {
                return Ok((Hpte { v: hpte.v.with_h(at.secondary()), r }, at));
            }
        }
        for _ in 0..EVICTIONS {
            if let Some(at) = self.hpt.insert_among(&page, hpte, leaf.slots.usable())? {
                leaf.slots.set(piece, at);
                return Ok((Hpte { v: hpte.v.with_h(at.secondary()), r }, at));
            }
            // Odd, so that every place has its turn, in both groups.
            let turn = self.victim.fetch_add(5, Ordering::Relaxed);
            self.hpt.evict(&page, leaf.slots.usable(), Hidx::from_bits(turn as u8))?;
        }
        Err(HptError::from(Busy).into())
    }

    /// Gives the entry for `page` that stands at `at` the second doubleword `r`; false if it is not
    /// there any more.
    fn update(&self, page: &VirtualPage, at: Hidx, r: HpteR) -> Result<bool, HptError> {
        let Some(mut locked) = self.hpt.lock(page, at)? else { return Ok(false) };
        let [_, word] = self.hpt.layout().encode(Hpte { v: page.v(), r });
        locked.update_r(|_| word);
        Ok(true)
    }
}
