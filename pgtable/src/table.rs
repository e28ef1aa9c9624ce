//! A tree that this process owns and changes. For the protocol see [`tree`](crate::tree).

use core::sync::atomic::AtomicBool;

use crate::access::Access;
use crate::address::Address;
use crate::allocator::{Contents, TableAllocator, TableLayout};
use crate::appear::Appeared;
use crate::descent::{ByValue, Lost, Node, Stop};
use crate::error::{Error, RangeError};
use crate::fault::Fault;
use crate::format::{Entry, Format, Input, Output};
use crate::gather::{Finished, Gather, GatherError, Invalidate};
use crate::keep::Kept;
use crate::lock::{Locks, Own, Owned};
use crate::memory::{MemoryError, TableMemory};
use crate::quick::Unusual;
use crate::ranges::Uses;
use crate::state::Owner;
use crate::table_word::TableWord as _;
use crate::trail::Trail;
use crate::translate::{translate_quickly, translate_slowly};
use crate::tree_tables::allocate;
use crate::walk::{TranslationOf, Walker};
use crate::word::Word;
use crate::work::{Allowance, Entries};

/// A tree of format `F`, whose tables stand in memory `M` and come from `A`.
///
/// Dropping it frees nothing, since hardware may still walk it: see [`destroy`](Self::destroy).
#[derive(Debug)]
pub struct PageTable<F, M, A> {
    pub(crate) format: F,
    pub(crate) memory: M,
    pub(crate) tables: A,
    pub(crate) root: u64,
    /// This tree, as the owner of its tables.
    pub(crate) tree: Owner,
    pub(crate) kept: Kept,
    /// What locked ranges were numbered when the tree was shared before.
    pub(crate) ranges_before: Uses,
    pub(crate) entries: Entries,
    /// Some entry may be annotated.
    pub(crate) annotated: AtomicBool,
}

impl<F, M, A> PageTable<F, M, A>
where
    F: Format,
    M: TableMemory<Output<F>>,
    A: TableAllocator<Output<F>>,
{
    /// An empty tree: allocates its root.
    ///
    /// ```
    /// # use pgtable_conformance::prelude::*;
    /// # pgtable_conformance::example!(memory: arena, tables);
    /// # let memory = arena.memory::<Gpa>();
    /// let tree = PageTable::new(Sv::SV48, memory, &tables)?;
    /// assert!(tree.walker().query(Gva::new(0x1000))?.is_none());
    /// # Ok::<(), Box<dyn core::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// [`Error::Alloc`]; [`Error::Memory`] if the root does not stand in `memory`.
    pub fn new(format: F, memory: M, tables: A) -> Result<Self, Error> {
        let geometry = format.geometry();
        let layout = TableLayout::of::<F>(geometry.width(geometry.root()), geometry.root());
        let tree = Owner::new_tree();
        let root = allocate(&tables, layout, Contents::Zeroed, tree)?;
        let words = 1 << geometry.width(geometry.root());
        if let Err(error) = F::Word::words_in(&memory, root, words).map(|_| ()) {
            tables.free(root, layout, Contents::Zeroed)?;
            return Err(error.into());
        }
        let entries = Entries::default();
        entries.more(geometry.width(geometry.root()));
        let (root, kept, annotated) = (root.get(), Kept::default(), AtomicBool::new(false));
        let ranges_before = Uses::default();
        Ok(Self { format, memory, tables, root, tree, kept, ranges_before, entries, annotated })
    }

    /// The address of the root table: what CR3, an EPTP, a process or partition table entry is made
    /// of.
    pub fn root(&self) -> Output<F> {
        <Output<F> as Address>::new(self.root)
    }

    /// The format.
    pub fn format(&self) -> &F {
        &self.format
    }

    /// The allocator that tables come from.
    pub fn tables(&self) -> &A {
        &self.tables
    }

    /// The memory that tables stand in.
    pub fn memory(&self) -> &M {
        &self.memory
    }

    /// A reader of this tree.
    pub fn walker(&self) -> Walker<F, &M> {
        Walker::new(self.format, &self.memory, self.root())
    }

    /// Translates one access.
    ///
    /// ```
    /// # use pgtable_conformance::prelude::*;
    /// # pgtable_conformance::example!(mapped: tree, gather);
    /// let page = tree.translate(Gva::new(0x1234), Access::WRITE)?;
    /// assert_eq!(page.output, Gpa::new(0x80_1234));
    /// assert!(tree.translate(Gva::new(0x1234), Access::FETCH).is_err());
    /// # gather.finish(tree.tables())?;
    /// # Ok::<(), Box<dyn core::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// The [`Fault`] that the hardware raises for it.
    #[inline(always)]
    pub fn translate(&self, input: Input<F>, access: Access) -> Result<TranslationOf<F>, Fault<F>> {
        let memory = ByValue(&self.memory);
        match translate_quickly(&self.format, memory, self.root, input, Some(access)) {
            Ok(translation) => Ok(translation),
            Err(unusual) => self.translate_slowly(input, access, unusual),
        }
    }

    /// What a quick walk did not translate. It needs the tree alone, so the loop around a
    /// translation keeps nothing for it.
    #[cold]
    #[inline(never)]
    fn translate_slowly(
        &self,
        input: Input<F>,
        access: Access,
        unusual: Unusual,
    ) -> Result<TranslationOf<F>, Fault<F>> {
        let memory = ByValue(&self.memory);
        translate_slowly(&self.format, memory, self.root, (input, access), unusual)
    }

    /// Frees every table, the root included.
    ///
    /// On tables that others wrote, what is no table of this tree (any more) is passed over, and
    /// what no way leads to stays allocated: [`Finished::tables`] says how many were freed, and
    /// [`Finished::unread`] how many could not be read for those below them. Bound: each live table
    /// of the allocator is visited at most once, and each of its entries looked at once.
    ///
    /// The root must have been taken out of whatever register or table hardware finds it by; then
    /// everything is invalidated, once, and the tables are freed.
    ///
    /// ```
    /// # use pgtable_conformance::prelude::*;
    /// # pgtable_conformance::example!(mapped: tree, gather);
    /// // Its root is in no register any more.
    /// let finished = tree.destroy(gather).map_err(|(_tree, error)| error)?;
    /// assert_eq!(finished.tables, 4);
    /// # Ok::<(), Box<dyn core::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// [`GatherError::Invalidate`]: nothing was freed, and the tree is given back.
    pub fn destroy<I: Invalidate<F::Stage>>(
        self,
        mut gather: Gather<'_, F::Stage, I>,
    ) -> Result<Finished, (Self, GatherError)> {
        gather.everything();
        gather.table_left();
        if let Err(error) = gather.flush(&self.tables) {
            return Err((self, error.into()));
        }
        let mut finished = gather.told();
        finished.refused += self.refused();
        self.free_subtree(Node::root(&self.format, self.root), &mut finished);
        Ok(finished)
    }

    /// How many new tables came back because a verb failed, and were not taken back by their
    /// allocator: they are lost. The verbs' errors say why they failed, and nothing of it. Other
    /// than 0, it is a bug of the allocator, or it keeps no account of single tables.
    ///
    /// ```
    /// # use pgtable_conformance::prelude::*;
    /// # pgtable_conformance::example!(tree: tree, gather);
    /// assert_eq!(tree.refused(), 0);
    /// # gather.finish(tree.tables())?;
    /// # Ok::<(), Box<dyn core::error::Error>>(())
    /// ```
    #[must_use]
    pub fn refused(&self) -> usize {
        self.entries.refused()
    }

    /// The root, as the one writer of an exclusive tree comes to it.
    pub(crate) fn trail(&self) -> Trail<Owned<'_, A, F>> {
        Trail::from(Node::root(&self.format, self.root), 0, Owned::new(self.own(), self.tree))
    }

    /// Which tables a verb may change, and how much work it may do.
    pub(crate) fn own(&self) -> Own<'_, A, F> {
        Own::new(&self.tables, self.root, self.allowance())
    }

    /// The work that a verb may do.
    pub(crate) fn allowance(&self) -> Allowance<'_> {
        Allowance::new(&self.entries, self.format.geometry().levels())
    }

    /// Does `verb` from the root; if it came to a table that is not to be changed, says so.
    pub(crate) fn alone<'t, T>(
        &'t self,
        verb: impl FnOnce(&mut Trail<Owned<'t, A, F>>) -> Result<T, RangeError<Input<F>>>,
    ) -> Result<T, RangeError<Input<F>>> {
        let mut trail = self.trail();
        let done = verb(&mut trail);
        match trail.locks.take_refusal() {
            Some(error) => done.map_err(|RangeError { at, .. }| RangeError { at, error }),
            None => done,
        }
    }

    /// The entry at `entry`, in place.
    #[inline(always)]
    pub(crate) fn word(&self, entry: u64) -> Result<&F::Word, MemoryError> {
        F::Word::word_in(&self.memory, <Output<F> as Address>::new(entry))
    }

    /// The `entries` entries from the one at `first` on, in place.
    #[inline(always)]
    pub(crate) fn words(&self, first: u64, entries: usize) -> Result<&[F::Word], MemoryError> {
        F::Word::words_in(&self.memory, <Output<F> as Address>::new(first), entries)
    }

    /// Tells the memory that the `words` words at `entry` were written.
    #[inline(always)]
    pub(crate) fn wrote(&self, entry: u64, words: usize) {
        F::Word::wrote_in(&self.memory, <Output<F> as Address>::new(entry), words);
    }

    /// Tells the memory that entries for the `bytes` bytes from `offset` on were made present.
    #[inline(always)]
    pub(crate) fn appeared(&self, offset: u64, bytes: u64) {
        let input = self.format.address(offset).get();
        self.memory.appeared(Appeared { input, bytes });
    }

    pub(crate) fn lost(lost: Lost) -> Error {
        lost.error.into()
    }

    /// The leaf at which `stop` stands, or why there is none.
    pub(crate) fn leaf_at(
        &self,
        stop: &Stop<F, Word<'_, F>>,
        offset: u64,
    ) -> Result<Option<F::Attributes>, Error> {
        match stop.decode(&self.format) {
            Entry::Absent => Ok(None),
            Entry::Leaf { attributes, .. } => Ok(Some(attributes)),
            Entry::Malformed | Entry::Table { .. } => {
                Err(crate::walk::malformed(&self.format, stop.node, stop.word, offset))
            }
        }
    }
}
