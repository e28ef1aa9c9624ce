//! A hashed page table in memory, and finding the entry of a virtual page. How entries come and go
//! stands in `writers`.
//!
//! Any number of threads may do all of this at once; the protocol is that of [`Slot`](super::Slot).

use core::marker::PhantomData;
use core::sync::atomic::AtomicU64;

use pgtable::Address;
use pgtable::memory::{MemoryError, TableMemory};

use super::group::{Group, Pattern};
use super::hpte::{Hpte, HpteV, Layout};
use super::order::{ENTRY_SHIFT, GROUP_ENTRIES, GROUP_SHIFT, HptOrder, PageHash};
use super::return_code::ReturnCode;
use super::slot::{Busy, Slot};
use super::virtual_page::VirtualPage;

/// Why a table could not be used.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum HptError {
    /// Its address is not a multiple of its size.
    #[error("a hashed page table of 2^{} bytes cannot stand at {base:#x}", order.get())]
    Misaligned {
        /// The address.
        base: u64,
        /// The table's size.
        order: HptOrder,
    },
    /// Part of it lies outside table memory.
    #[error(transparent)]
    Memory(#[from] MemoryError),
    /// An entry stays locked: somebody else wrote this memory, or died with the lock.
    #[error(transparent)]
    Busy(#[from] Busy),
}

impl From<HptError> for ReturnCode {
    fn from(error: HptError) -> Self {
        match error {
            HptError::Busy(_) => Self::Busy,
            HptError::Memory(_) | HptError::Misaligned { .. } => Self::Hardware,
        }
    }
}

/// An entry that was found.
#[derive(Clone, Copy, Debug)]
pub struct Found<'m> {
    /// Which it is of all entries of the table.
    pub ptex: u64,
    /// What it says.
    pub hpte: Hpte,
    /// Where it stands.
    pub slot: Slot<'m, AtomicU64>,
}

/// What a look at one group shows.
#[derive(Clone, Copy, Debug)]
pub(super) enum Look {
    /// No entry of that first doubleword.
    Absent,
    /// The group is not in memory; or the first of them has another L, or was gone before all of it
    /// was seen.
    Odd,
    /// The first of them.
    Seen(Seen),
}

/// An entry as it was seen: whatever is not as it should be in it is a matter for [`Hpt::find`].
#[derive(Clone, Copy, Debug)]
pub(super) struct Seen {
    pub(super) ptex: u64,
    /// Its doublewords, in the layout of the table.
    pub(super) v: u64,
    pub(super) r: u64,
}

/// A hashed page table (HPT) that stands in memory `M`, addressed by `A`.
#[derive(Clone, Copy, Debug)]
pub struct Hpt<A, M> {
    memory: M,
    base: u64,
    pub(super) order: HptOrder,
    pub(super) layout: Layout,
    /// The number of the last group: the bits of a hash that number one.
    last_group: u64,
    /// What a search compares of first doublewords in this layout, in memory's byte order; with L,
    /// and without.
    search: u64,
    search_with_l: u64,
    space: PhantomData<A>,
}

impl<A: Address, M: TableMemory<A>> Hpt<A, M> {
    /// The table of `order` at `base`, as it is. A new one must be zero.
    ///
    /// # Errors
    /// [`HptError::Misaligned`]; [`HptError::Memory`] if its first or its last group is not in
    /// `memory`.
    pub fn new(memory: M, base: A, order: HptOrder, layout: Layout) -> Result<Self, HptError> {
        if !base.is_aligned(order.get()) || base.checked_add(order.bytes() - 1).is_none() {
            return Err(HptError::Misaligned { base: base.get(), order });
        }
        let last_group = order.groups() - 1;
        let [search, search_with_l] =
            [HpteV::SEARCH, HpteV::SEARCH | HpteV::L].map(|mask| layout.stored(mask).to_be());
        let (base, space) = (base.get(), PhantomData);
        let it = Self { memory, base, order, layout, last_group, search, search_with_l, space };
        it.group(0)?;
        it.group(last_group)?;
        Ok(it)
    }

    /// Where it stands.
    pub fn base(&self) -> A {
        A::new(self.base)
    }

    /// Its size.
    pub fn order(&self) -> HptOrder {
        self.order
    }

    /// How its entries stand in memory.
    pub fn layout(&self) -> Layout {
        self.layout
    }

    /// The memory that it stands in.
    pub fn memory(&self) -> &M {
        &self.memory
    }

    /// What SDR1, or the first doubleword of a partition table entry, names it by: the address, and
    /// the order less 18.
    pub fn root(&self) -> u64 {
        self.base | u64::from(self.order.get() - HptOrder::MIN.get())
    }

    /// Group `group`, counted modulo the number of groups.
    ///
    /// # Errors
    /// [`MemoryError`] if it is not in memory.
    #[inline(always)]
    pub fn group(&self, group: u64) -> Result<Group<'_, AtomicU64>, MemoryError> {
        let at = self.base + ((group & self.last_group) << (ENTRY_SHIFT + GROUP_SHIFT));
        let words = self.memory.table(A::new(at), 2 * GROUP_ENTRIES)?;
        Group::new(words).ok_or(MemoryError::outside(A::new(at), 2 * GROUP_ENTRIES))
    }

    /// Entry `ptex`; `None` if the table has no such.
    ///
    /// # Errors
    /// [`MemoryError`] if it is not in memory.
    #[inline]
    pub fn slot(&self, ptex: u64) -> Result<Option<Slot<'_, AtomicU64>>, MemoryError> {
        if ptex >= self.order.entries() {
            return Ok(None);
        }
        self.group(ptex >> GROUP_SHIFT).map(|group| Some(group.slot(ptex as usize)))
    }

    /// What entry `ptex` says, own software bits included; `None` if the table has no such entry.
    ///
    /// # Errors
    /// [`HptError`].
    pub fn read(&self, ptex: u64) -> Result<Option<Hpte>, HptError> {
        match self.slot(ptex)? {
            Some(slot) => Ok(Some(self.layout.decode(slot.read()?))),
            None => Ok(None),
        }
    }

    /// The group of pages of this hash, primary or secondary: [`HptOrder::group`].
    #[inline(always)]
    pub(super) fn group_of(&self, hash: PageHash, secondary: bool) -> u64 {
        (if secondary { !hash.0 } else { hash.0 }) & self.last_group
    }

    /// The entry for `page`, as hardware searches for it: primary group first, an entry whose page
    /// sizes do not fit the segment's base size is passed over.
    ///
    /// # Errors
    /// [`HptError`].
    #[inline(always)]
    pub fn find(&self, page: &VirtualPage) -> Result<Option<Found<'_>>, HptError> {
        let (hash, v) = (page.hash(), page.v());
        let group = self.group_of(hash, false);
        let entries = self.group(group)?;
        let matching = entries.matching(self.pattern(v));
        if let Some(found) = self.first_fitting(group, entries, matching, v, page) {
            return Ok(Some(found));
        }
        self.find_elsewhere(page)
    }

    /// The quick part of a search, in one group: the first entry whose first doubleword is `v`,
    /// with H as it has to be there, as far as a search compares; L must be `v`'s too. What else
    /// its second doubleword says of page sizes is not looked at.
    #[inline(always)]
    pub(super) fn look(&self, hash: PageHash, v: HpteV, secondary: bool) -> Look {
        let group = self.group_of(hash, secondary);
        let Ok(entries) = self.group(group) else { return Look::Odd };
        let Some(index) = entries.first_matching(self.pattern(v)) else {
            return Look::Absent;
        };
        let slot = entries.slot(index);
        let Some([v, r]) = slot.read_if(Pattern::in_memory(v.into_bits(), self.search_with_l))
        else {
            return Look::Odd;
        };
        Look::Seen(Seen { ptex: group << GROUP_SHIFT | index as u64, v, r })
    }

    /// The first entry in one group that [`look`](Self::look) would see, for those who read it
    /// themselves. All of the group is compared at once: what is done to an entry waits for its
    /// comparison, so that a wrong guess of the half would cost more than the other half does.
    ///
    /// # Errors
    /// The group is not in memory.
    #[inline(always)]
    pub(super) fn first(
        &self,
        hash: PageHash,
        v: HpteV,
        secondary: bool,
    ) -> Result<Option<Slot<'_, AtomicU64>>, MemoryError> {
        let entries = self.group(self.group_of(hash, secondary))?;
        let matching = entries.matching(self.pattern(v));
        Ok((matching != 0).then(|| entries.slot(matching.trailing_zeros() as usize)))
    }

    /// Brings the primary group of `page` nearer, for a search that comes later.
    #[inline(always)]
    pub fn touch(&self, page: &VirtualPage) {
        self.touch_hash(page.hash());
    }

    /// As [`touch`](Self::touch), for pages of this hash.
    #[inline(always)]
    pub(super) fn touch_hash(&self, hash: PageHash) {
        if let Ok(group) = self.group(self.group_of(hash, false)) {
            group.touch();
        }
    }

    /// Not seen in the primary group at a glance: there nevertheless, since another thread changes
    /// it, or in the secondary.
    #[inline(never)]
    fn find_elsewhere(&self, page: &VirtualPage) -> Result<Option<Found<'_>>, HptError> {
        for h in [false, true] {
            let (group, v) = (self.group_of(page.hash(), h), page.v().with_h(h));
            let entries = self.group(group)?;
            let of_page = |words| self.is_of(words, v, page);
            if let Some((index, words)) = entries.find(self.pattern(v), of_page)? {
                let ptex = group << GROUP_SHIFT | index as u64;
                let hpte = self.layout.decode(words);
                return Ok(Some(Found { ptex, hpte, slot: entries.slot(index) }));
            }
        }
        Ok(None)
    }

    /// The first of the `matching` entries of `group` that is one of `page`, if each can be read at
    /// a glance until then.
    #[inline(always)]
    fn first_fitting<'m>(
        &self,
        group: u64,
        entries: Group<'m, AtomicU64>,
        mut matching: u32,
        v: HpteV,
        page: &VirtualPage,
    ) -> Option<Found<'m>> {
        while matching != 0 {
            let index = matching.trailing_zeros() as usize;
            matching &= matching - 1;
            let slot = entries.slot(index);
            let words = slot.read_if(self.pattern(v))?;
            // Zero may be what an emptied place has.
            if words[1] == 0 {
                return None;
            }
            if self.is_of(words, v, page) {
                let (ptex, hpte) = (group << GROUP_SHIFT | index as u64, self.layout.decode(words));
                return Some(Found { ptex, hpte, slot });
            }
        }
        None
    }

    /// Whether doublewords, of which the first was compared as far as memory has it, are those of
    /// an entry of `page`: of its base page size, of its segment size, and of all the bits of its
    /// virtual address, those included that the layout has no room for.
    #[inline(always)]
    fn is_of(&self, words: [u64; 2], v: HpteV, page: &VirtualPage) -> bool {
        let hpte = self.layout.decode(words);
        hpte.sizes().is_some_and(|sizes| sizes.base() == page.base)
            && (hpte.v.into_bits() ^ v.into_bits()) & HpteV::SEARCH == 0
    }

    #[inline(always)]
    fn pattern(&self, v: HpteV) -> Pattern {
        Pattern::in_memory(v.into_bits(), self.search)
    }

    /// The entries from `first` on that are valid, with their places, until one cannot be read.
    pub fn entries(&self, first: u64) -> impl Iterator<Item = (u64, Hpte)> + '_ {
        (first..self.order.entries())
            .map_while(|ptex| self.read(ptex).ok().flatten().map(|hpte| (ptex, hpte)))
            .filter(|(_, hpte)| hpte.v.v())
    }
}
