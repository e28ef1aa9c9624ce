//! An address space on a hashed page table: a software tree that says what is mapped, and the table
//! as a cache of it.
//!
//! ```text
//! map, unmap, protect, iterate ──→ software tree ([`PageTable`] of [`SoftwareTree`]) ──┐ a page's entry is made when it is first
//!                                     │ each page remembers the slots of its entries   │ used (`refault`), in place of another
//!                                     ↓ taking them out touches these and no other     ↓ if both groups are full
//! translate ─────────────────────→ hashed page table ([`Hpt`]) ←───────────────────────┘
//! ```
//!
//! # Protocol
//! Whoever maps, unmaps or protects has the space for himself. Any number of threads translate
//! meanwhile with each other (and hardware with all of them): they make entries under the page's
//! BUSY bit ([`slots`]) and evict others' by the entry's own lock. What is known about use (R, C)
//! stands in the page word before an entry exists that allows it, so evicting loses nothing. An
//! evicted translation may live on in hardware; it is still true, and is invalidated when its page
//! is unmapped, because HASHPTE stays.

mod attributes;
mod change;
mod context;
mod fragments;
mod harvest;
mod leaving;
mod pages;
mod pte;
mod refault;
mod slots;
mod tree;

use core::ops::ControlFlow;
use core::sync::atomic::{AtomicU32, AtomicU64};

use arrayvec::ArrayVec;
use pgtable::allocator::{TableAllocator, TableLayout};
use pgtable::invalidate::{Gather, Invalidate, Stale, StaleRange, Unused};
use pgtable::memory::{MemoryError, TableMemory};
use pgtable::tree::PageTable;
use pgtable::walk::LeafOf;
use pgtable::{
    Access, AddressSpace, Error, Gpa, Gva, Leaves, Level, RangeError, Stage1, Translation,
};

pub use attributes::HashAttributes;
pub use context::Context;
pub use fragments::Fragments;
pub use pages::Pages;
pub use pte::{Pte4K, Pte64K};
pub use tree::SoftwareTree;

use super::authority::Authority;
use super::mmu::{HashFault, HashTranslation, translate};
use super::resize::{Keep, Rehashed, ResizeError, rehash};
use super::segment::Segment;
use super::slb::Found;
use super::table::Hpt;
use super::tlbie::HashTlbie;
use super::virtual_page::VirtualPage;
use context::CONTEXT_BITS;
use slots::{ARRAY_SHIFT, ARRAY_WORDS, Slots};

/// An address space on a hashed page table.
///
/// The tree's tables stand in `M` and are fragments of `A`; the hashed table stands in `H`.
#[derive(Debug)]
pub struct HashedSpace<M, A, H> {
    tree: PageTable<SoftwareTree, M, Fragments<A>>,
    hpt: Hpt<Gpa, H>,
    pages: Pages,
    context: Context,
    authority: Authority,
    /// Whose turn it is to be evicted.
    victim: AtomicU32,
}

/// A page of the tree.
#[derive(Clone, Copy, Debug)]
struct Leaf<'m> {
    word: &'m AtomicU64,
    slots: Slots<'m>,
    /// log2 of its size.
    shift: u8,
}

/// How many `tlbie` [`HashedSpace::tlbies`] lists: four for each entry of POWER9's TLB, beyond
/// which dropping all translations of the partition is the cheaper by far.
pub const MOST_TLBIES: u64 = 4096;

/// The layout of a 16M page's slot array.
const ARRAY: TableLayout = TableLayout { shift: ARRAY_SHIFT, level: Level(0) };

impl<M, A, H> HashedSpace<M, A, H>
where
    M: TableMemory<Gpa>,
    A: TableAllocator<Gpa>,
    H: TableMemory<Gpa>,
{
    /// An empty space of `context`, with entries in `hpt`: which other contexts, and whoever bolts
    /// entries, may use as well.
    ///
    /// # Errors
    /// [`Error::Alloc`]; [`Error::Memory`] if the tree's root does not stand in `memory`.
    pub fn new(
        hpt: Hpt<Gpa, H>,
        memory: M,
        tables: A,
        pages: Pages,
        context: Context,
    ) -> Result<Self, Error> {
        let tables = Fragments::new(tables, pages.second_halves());
        let tree = PageTable::new(SoftwareTree::new(pages), memory, tables)?;
        let authority = Authority::default();
        Ok(Self { tree, hpt, pages, context, authority, victim: AtomicU32::new(0) })
    }

    /// The hashed table.
    pub fn hpt(&self) -> &Hpt<Gpa, H> {
        &self.hpt
    }

    /// The software tree.
    pub fn tree(&self) -> &PageTable<SoftwareTree, M, Fragments<A>> {
        &self.tree
    }

    /// The allocator that the fragments come from.
    pub fn tables(&self) -> &A {
        self.tree.tables().fragments()
    }

    /// AMR and IAMR with which accesses are translated; at first zero.
    pub fn set_authority(&mut self, authority: Authority) {
        self.authority = authority;
    }

    /// The segment in which `address` lies: what a segment interrupt's handler puts into the SLB.
    /// `None` if it is none of this space.
    pub fn segment(&self, address: Gva) -> Option<Segment> {
        let (_, bytes) = self.range();
        self.context.segment(address, self.pages).filter(|_| address.get() < bytes)
    }

    /// Translates `access` at `address` through the hashed table; an access that it does not
    /// translate is looked up in the software tree, and if it is allowed there its entry is made:
    /// hardware and the handler of its storage interrupts in one.
    ///
    /// # Errors
    /// The interrupt that the program sees.
    #[inline]
    pub fn access(&self, address: Gva, access: Access) -> Result<HashTranslation, HashFault> {
        let segment = self.segment(address).ok_or_else(|| HashFault::segment(access))?;
        let found = Found::new(segment, address);
        match translate(&self.hpt, &found, address, access, self.authority) {
            Err(HashFault::Interrupt(_)) => self.refault(&segment, address, access),
            other => other,
        }
    }

    /// Calls `each` with the operand of every `tlbie` that makes what is `stale` unreachable.
    ///
    /// False, without a call, if everything is stale, of which there is no list, or if the list
    /// would be longer than [`MOST_TLBIES`]: then drop all translations of the partition.
    pub fn tlbies(&self, stale: &Stale<Gva>, mut each: impl FnMut(HashTlbie)) -> bool {
        let (_, bytes) = self.range();
        // What lies beyond the space has no translations.
        let pieces = |range: &StaleRange<Gva>| {
            let base = self.pages.sizes(range.shift).base().shift();
            let end = range.last.get().saturating_add(1 << (range.shift & 63)).min(bytes);
            (base, range.start.get() >> base, end.div_ceil(1 << base))
        };
        let count = |total: u64, range| {
            let (_, first, end) = pieces(range);
            total.saturating_add(end.saturating_sub(first))
        };
        if stale.everything() || stale.ranges().iter().fold(0, count) > MOST_TLBIES {
            return false;
        }
        for range in stale.ranges() {
            let sizes = self.pages.sizes(range.shift);
            let (base, first, end) = pieces(range);
            for address in (first..end).map(|piece| Gva::new(piece << base)) {
                let page = self.segment(address).map(|segment| VirtualPage::of(&segment, address));
                if let Some(operand) = page.and_then(|page| HashTlbie::of_page(&page, sizes)) {
                    each(operand);
                }
            }
        }
        true
    }

    /// Goes over to the empty table `new`, taking every entry along, to the same slot of its new
    /// group; where two meet in a smaller table one of them goes, and refaults. Hardware must not
    /// use the old table any more; everything is stale. Returns the old table.
    ///
    /// # Errors
    /// [`ResizeError`]: the old table stays in use.
    pub fn resize<I: Invalidate<Stage1>>(
        &mut self,
        new: Hpt<Gpa, H>,
        gather: &mut Gather<'_, Stage1, I>,
    ) -> Result<(Hpt<Gpa, H>, Rehashed), ResizeError> {
        let rehashed = rehash(&self.hpt, &new, Keep::All)?;
        gather.everything();
        Ok((core::mem::replace(&mut self.hpt, new), rehashed))
    }

    /// Unmaps everything and frees every table.
    ///
    /// # Errors
    /// As [`AddressSpace::unmap`]; tables that are left then are lost.
    pub fn destroy<I: Invalidate<Stage1>>(
        mut self,
        gather: &mut Gather<'_, Stage1, I>,
    ) -> Result<(), RangeError<Gva>> {
        let (start, bytes) = self.range();
        self.unmap(start, bytes, gather)?;
        match self.tree.destroy(Gather::new(&Unused, ())) {
            Ok(_) => Ok(()),
            Err((_, error)) => Err(RangeError { at: start, error: change::gather_error(error) }),
        }
    }

    /// The page that is mapped at `address`.
    fn leaf(&self, address: Gva) -> Result<Option<Leaf<'_>>, MemoryError> {
        let walker = self.tree.walker();
        let trace = walker.trace(address);
        match trace.last() {
            Some(last) if matches!(last.entry, pgtable::format::Entry::Leaf { .. }) => {
                self.leaf_of(last.address, last.at.level, last.at.shift).map(Some)
            }
            _ => Ok(None),
        }
    }

    /// The page whose word stands at `entry`, in a table of `level`.
    fn leaf_of(&self, entry: Gpa, level: Level, shift: u8) -> Result<Leaf<'_>, MemoryError> {
        let word = self.tree.memory().word(entry)?;
        let slots = match self.second_half(entry, level)? {
            None => Slots::InWord,
            Some(second) if level.0 == 0 => Slots::Nibbles(second),
            Some(second) => {
                match u64::from_be(second.load(core::sync::atomic::Ordering::Relaxed)) {
                    0 => Slots::Bytes(&[]),
                    array => Slots::Bytes(self.tree.memory().table(Gpa::new(array), ARRAY_WORDS)?),
                }
            }
        };
        Ok(Leaf { word, slots, shift })
    }

    /// The word in the second half that belongs to the entry at `entry`, of a table of `level`.
    fn second_half(&self, entry: Gpa, level: Level) -> Result<Option<&AtomicU64>, MemoryError> {
        if level.0 >= self.pages.second_halves() {
            return Ok(None);
        }
        let half = TableLayout::of::<SoftwareTree>(self.pages.geometry().width(level), level);
        self.tree.memory().word(Gpa::new(entry.get().wrapping_add(half.bytes() as u64))).map(Some)
    }
}

impl<M, A, H> AddressSpace for HashedSpace<M, A, H>
where
    M: TableMemory<Gpa>,
    A: TableAllocator<Gpa>,
    H: TableMemory<Gpa>,
{
    type Stage = Stage1;
    type Attributes = HashAttributes;
    type Fault = HashFault;

    /// Entries are made when the pages are used.
    fn map(
        &mut self,
        input: Gva,
        output: Gpa,
        bytes: u64,
        attributes: HashAttributes,
        leaves: Leaves,
    ) -> Result<(), RangeError<Gva>> {
        self.check_range(input, bytes)?;
        let result = self.tree.map(input, output, bytes, attributes, leaves);
        let done = result.as_ref().map_or_else(|error| error.at.get() - input.get(), |()| bytes);
        self.allocate_arrays(input, done)?;
        result
    }

    fn unmap<I: Invalidate<Stage1>>(
        &mut self,
        input: Gva,
        bytes: u64,
        gather: &mut Gather<'_, Stage1, I>,
    ) -> Result<u64, RangeError<Gva>> {
        self.change(input, bytes, gather, change::Arrays::Free, |tree, bytes, gather| {
            tree.unmap(input, bytes, gather)
        })
    }

    /// The attributes are the software page's.
    fn unmap_with<I: Invalidate<Stage1>>(
        &mut self,
        input: Gva,
        bytes: u64,
        mut each: impl FnMut(LeafOf<SoftwareTree>),
        gather: &mut Gather<'_, Stage1, I>,
    ) -> Result<u64, RangeError<Gva>> {
        self.change(input, bytes, gather, change::Arrays::Free, |tree, bytes, gather| {
            tree.unmap_with(input, bytes, &mut each, gather)
        })
    }

    fn modify<I: Invalidate<Stage1>>(
        &mut self,
        input: Gva,
        bytes: u64,
        edit: impl FnMut(LeafOf<SoftwareTree>) -> HashAttributes,
        gather: &mut Gather<'_, Stage1, I>,
    ) -> Result<u64, RangeError<Gva>> {
        self.change(input, bytes, gather, change::Arrays::Keep, |tree, bytes, gather| {
            tree.modify(input, bytes, edit, gather)
        })
    }

    fn set_attributes<I: Invalidate<Stage1>>(
        &mut self,
        input: Gva,
        bytes: u64,
        attributes: HashAttributes,
        gather: &mut Gather<'_, Stage1, I>,
    ) -> Result<u64, RangeError<Gva>> {
        self.change(input, bytes, gather, change::Arrays::Keep, |tree, bytes, gather| {
            tree.set_attributes(input, bytes, attributes, gather)
        })
    }

    /// As [`access`](HashedSpace::access). The attributes are the software page's.
    fn translate(
        &self,
        input: Gva,
        access: Access,
    ) -> Result<Translation<Gpa, HashAttributes>, HashFault> {
        let translation = self.access(input, access)?;
        let page = self
            .tree
            .walker()
            .query(input)
            .ok()
            .flatten()
            .ok_or_else(|| HashFault::no_entry(access))?;
        let output = Gpa::new(translation.real);
        Ok(Translation { output, shift: page.shift, attributes: page.attributes })
    }

    fn for_each<B>(
        &self,
        input: Gva,
        bytes: u64,
        visit: impl FnMut(LeafOf<SoftwareTree>) -> ControlFlow<B>,
    ) -> Result<ControlFlow<B>, RangeError<Gva>> {
        self.tree.walker().for_each(input, bytes, visit)
    }

    fn page_shift(&self) -> u8 {
        self.pages.geometry().page_shift()
    }

    fn leaf_shifts(&self) -> ArrayVec<u8, 32> {
        self.pages.geometry().leaf_shifts()
    }

    fn range(&self) -> (Gva, u64) {
        (Gva::new(0), 1 << self.pages.geometry().address_bits().min(CONTEXT_BITS))
    }
}
