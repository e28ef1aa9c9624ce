//! A tree that this process owns and changes. For the protocol see [`tree`](crate::tree).

use core::ops::ControlFlow;
use core::sync::atomic::AtomicBool;

use arrayvec::ArrayVec;

use crate::access::{Access, Prot};
use crate::address::Address;
use crate::allocator::{AllocError, Contents, TableAllocator, TableLayout};
use crate::appear::Appeared;
use crate::descent::{ByValue, Lost, Node, Stop, Trail, decode};
use crate::error::{Error, RangeError};
use crate::fault::Fault;
use crate::format::{Entry, Format, Input, Output, Presence};
use crate::gather::{Finished, Gather, GatherError, Invalidate};
use crate::geometry::{Level, MAX_LEVELS};
use crate::keep::Kept;
use crate::lock::{Locks, Own, Owned};
use crate::memory::{MemoryError, TableMemory};
use crate::ranges::Uses;
use crate::space::{AddressSpace, Leaves};
use crate::state::{Owner, TableState, UNKNOWN};
use crate::table_word::TableWord as _;
use crate::walk::{LeafOf, TranslationOf, Walker, translate};
use crate::word::{Word, any_set};
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
        translate(&self.format, ByValue(&self.memory), self.root, input, access)
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
        self.free_subtree(Node::root(&self.format, self.root), &mut finished);
        Ok(finished)
    }

    /// Frees the table of `node` and all below it. The depth is bounded by the levels, and the work
    /// by the live tables of the allocator: each is marked as having left before it is descended
    /// into, and one that has left, or is none of this allocator's, is not touched.
    pub(crate) fn free_subtree(&self, node: Node, done: &mut Finished) {
        let Some(state) = self.state(node).filter(|state| state.adopt(self.tree)) else { return };
        let live = state.live();
        state.leave(self.tree);
        let address = <Output<F> as Address>::new(node.table);
        if node.level > 0 && live > 0 {
            let present = self.format.bits(node.position()).present;
            let words = self.words(node.table, 1 << node.width);
            done.unread += usize::from(words.is_err());
            for memory in words.unwrap_or_default() {
                let word = Word::<F>::new(memory).load();
                if let (true, Entry::Table { table, width }) =
                    (any_set::<F>(memory, present), decode(&self.format, word, node.position()))
                {
                    self.free_subtree(node.below(table.get(), width), done);
                }
            }
        }
        let contents = if live == 0 { Contents::Zeroed } else { Contents::Stale };
        match self.tables.free(address, layout::<F>(node), contents) {
            Ok(()) => done.tables += 1,
            Err(_) => done.refused += 1,
        }
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

    /// Tables of `owner` of levels `from.level - 1` down to `level`, the last of `width` index
    /// bits, linked to each other along `offset` but not to the tree. The last holds anything if
    /// its `contents` may be stale. Nothing is left behind on failure.
    pub(crate) fn grow(
        &self,
        from: Node,
        offset: u64,
        (level, width): (u8, u8),
        contents: Contents,
        owner: Owner,
    ) -> Result<ArrayVec<Node, MAX_LEVELS>, Error> {
        let mut nodes = ArrayVec::new();
        let mut above = from;
        while above.level > level {
            let below = Level(above.level - 1);
            let width = if below.0 == level { width } else { self.format.geometry().width(below) };
            let layout = TableLayout::of::<F>(width, below);
            let contents = if below.0 == level { contents } else { Contents::Zeroed };
            match self.allocate(layout, contents, owner) {
                Ok(table) => above = above.below(table.get(), width),
                Err(error) => {
                    self.shrink(&nodes, owner);
                    return Err(error.into());
                }
            }
            // No tree has more levels than MAX_LEVELS.
            let _ = nodes.try_push(above);
        }
        for pair in nodes.windows(2) {
            if let Err(error) = self.link(pair[0], offset, pair[1], owner) {
                self.shrink(&nodes, owner);
                return Err(error);
            }
        }
        Ok(nodes)
    }

    /// A table of `owner`, which holds what is wanted and has no live entry.
    pub(crate) fn allocate(
        &self,
        layout: TableLayout,
        contents: Contents,
        owner: Owner,
    ) -> Result<Output<F>, AllocError> {
        let table = allocate(&self.tables, layout, contents, owner)?;
        self.entries.more(layout.shift - F::Word::SHIFT);
        Ok(table)
    }

    /// The state of the table of `node`; `None` if it is no live table of this tree's allocator.
    #[inline(always)]
    pub(crate) fn state(&self, node: Node) -> Option<&TableState> {
        self.tables.state(<Output<F> as Address>::new(node.table), layout::<F>(node))
    }

    /// Takes back tables of `owner` that were never linked to the tree, after an error, which the
    /// caller tells. (It would be hidden if an allocator that keeps no account of single tables, as
    /// that of boot tables, were heard here.)
    pub(crate) fn shrink(&self, nodes: &[Node], owner: Owner) {
        for node in nodes {
            let _ = self.free_unseen(*node, Contents::Stale, owner);
        }
    }

    /// Frees the table of `node`, which `owner` has, and which no hardware and no reader can have
    /// seen.
    pub(crate) fn free_unseen(
        &self,
        node: Node,
        contents: Contents,
        owner: Owner,
    ) -> Result<(), Error> {
        if !self.state(node).is_some_and(|state| state.leave(owner)) {
            return Err(AllocError::NotLive { address: node.table }.into());
        }
        self.entries.fewer(node.width);
        let table = <Output<F> as Address>::new(node.table);
        Ok(self.tables.free(table, layout::<F>(node), contents)?)
    }

    /// The table of `node`, which `owner` has, left the tree: it is freed after the invalidation.
    /// There is room for it in `gather`.
    pub(crate) fn retire<I: Invalidate<F::Stage>>(
        &self,
        node: Node,
        owner: Owner,
        contents: Contents,
        gather: &mut Gather<'_, F::Stage, I>,
    ) {
        if self.state(node).is_some_and(|state| state.leave(owner)) {
            self.queue(node, contents, gather);
        }
    }

    /// The table of `node` has left the tree: it is freed after the invalidation. There is room for
    /// it in `gather`.
    pub(crate) fn queue<I: Invalidate<F::Stage>>(
        &self,
        node: Node,
        contents: Contents,
        gather: &mut Gather<'_, F::Stage, I>,
    ) {
        self.entries.fewer(node.width);
        gather.retire(<Output<F> as Address>::new(node.table), layout::<F>(node), contents);
    }

    /// Stores the entry of `above`, a table that `owner` has, that makes `below` the table for
    /// `offset`.
    pub(crate) fn link(
        &self,
        above: Node,
        offset: u64,
        below: Node,
        owner: Owner,
    ) -> Result<(), Error> {
        let word = self.table_word(above, below)?;
        let slot = self.word(above.entry::<F>(offset))?;
        self.publish(Word::new(slot), above.entry::<F>(offset), word);
        self.count(above, 1, owner);
        Ok(())
    }

    /// Stores `word` into `slot`, the entry at `entry`, after all that was stored before.
    #[inline(always)]
    pub(crate) fn publish(&self, slot: Word<'_, F>, entry: u64, word: u64) {
        slot.publish(word);
        self.wrote(entry, 1);
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

    pub(crate) fn table_word(&self, above: Node, below: Node) -> Result<u64, Error> {
        let table = <Output<F> as Address>::new(below.table);
        Ok(self.format.table(table, below.width, above.position())?)
    }

    /// `entries` more are live in the table of `node`, if `owner` has it.
    #[inline(always)]
    pub(crate) fn count(&self, node: Node, entries: u32, owner: Owner) {
        if let Some(state) = self.state(node) {
            state.add(owner, entries);
        }
    }

    /// How many entries of `node`'s table are live, if `owner` has it. They are counted if a writer
    /// was interrupted that changed them.
    pub(crate) fn live(&self, node: Node, owner: Owner) -> Option<u32> {
        match self.state(node)?.live_of(owner)? {
            UNKNOWN.. => self.recount(node, owner),
            live => Some(live),
        }
    }

    #[cold]
    fn recount(&self, node: Node, owner: Owner) -> Option<u32> {
        let words = self.words(node.table, 1 << node.width);
        let (words, entries) = (words.ok()?, Presence::at(&self.format, node.position()));
        let counts = |memory: &&F::Word| {
            !entries.is_absent(&self.format, memory)
                || self.check_unannotated(node, Word::<F>::new(memory).load()).is_err()
        };
        let live = words.iter().filter(counts).count() as u32;
        self.wrote(node.table, words.len());
        self.state(node)?.counted(owner, live);
        Some(live)
    }

    /// `entries` fewer are live in the table of `level` on the trail; if none is left it leaves the
    /// tree, and so on upwards to where the trail begins. (Or it stays, empty, if the gather is
    /// full and cannot be flushed.)
    pub(crate) fn discount<L: Locks, I: Invalidate<F::Stage>>(
        &self,
        trail: &mut Trail<L>,
        offset: u64,
        level: u8,
        entries: u32,
        gather: &mut Gather<'_, F::Stage, I>,
    ) -> Result<(), Error> {
        let (mut entries, owner) = (entries, trail.locks.owner());
        for level in level..=trail.top() {
            let node = trail.node(level);
            let left = match self.state(node).and_then(|state| state.sub(owner, entries)) {
                Some(UNKNOWN..) => self.live(node, owner),
                left => left,
            };
            if left != Some(0) || level == trail.top() {
                return Ok(());
            }
            gather.make_room(&self.tables).map_err(Error::Invalidate)?;
            let above = trail.node(level + 1);
            let slot = self.word(above.entry::<F>(offset))?;
            Word::<F>::new(slot).store(0);
            self.wrote(above.entry::<F>(offset), 1);
            trail.left(level);
            self.retire(node, owner, Contents::Zeroed, gather);
            entries = 1;
        }
        Ok(())
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

/// A table of `tables` that holds what is wanted, with a state that says so and names its `owner`:
/// a table's state belongs to the tree, so nothing else initialises it.
fn allocate<O: Address, A: TableAllocator<O>>(
    tables: &A,
    layout: TableLayout,
    contents: Contents,
    owner: Owner,
) -> Result<O, AllocError> {
    let table = match contents {
        Contents::Zeroed => tables.allocate(layout)?,
        Contents::Stale => tables.allocate_stale(layout)?,
    };
    if let Some(state) = tables.state(table, layout) {
        state.begin(owner);
        return Ok(table);
    }
    tables.free(table, layout, contents)?;
    Err(AllocError::Stateless { address: table.get() })
}

/// The layout that the table of `node` was allocated with.
pub(crate) fn layout<F: Format>(node: Node) -> TableLayout {
    TableLayout::of::<F>(node.width, Level(node.level))
}

impl<F, M, A> AddressSpace for PageTable<F, M, A>
where
    F: Format,
    M: TableMemory<Output<F>>,
    A: TableAllocator<Output<F>>,
{
    type Stage = F::Stage;
    type Attributes = F::Attributes;
    type Fault = Fault<F>;

    fn map(
        &mut self,
        input: Input<F>,
        output: Output<F>,
        bytes: u64,
        attributes: F::Attributes,
        leaves: Leaves,
    ) -> Result<(), RangeError<Input<F>>> {
        Self::map(self, input, output, bytes, attributes, leaves)
    }

    fn unmap<I: Invalidate<F::Stage>>(
        &mut self,
        input: Input<F>,
        bytes: u64,
        gather: &mut Gather<'_, F::Stage, I>,
    ) -> Result<u64, RangeError<Input<F>>> {
        Self::unmap(self, input, bytes, gather)
    }

    fn unmap_with<I: Invalidate<F::Stage>>(
        &mut self,
        input: Input<F>,
        bytes: u64,
        each: impl FnMut(LeafOf<F>),
        gather: &mut Gather<'_, F::Stage, I>,
    ) -> Result<u64, RangeError<Input<F>>> {
        Self::unmap_with(self, input, bytes, each, gather)
    }

    fn modify<I: Invalidate<F::Stage>>(
        &mut self,
        input: Input<F>,
        bytes: u64,
        edit: impl FnMut(LeafOf<F>) -> F::Attributes,
        gather: &mut Gather<'_, F::Stage, I>,
    ) -> Result<u64, RangeError<Input<F>>> {
        Self::modify(self, input, bytes, edit, gather)
    }

    fn protect<I: Invalidate<F::Stage>>(
        &mut self,
        input: Input<F>,
        bytes: u64,
        prot: Prot,
        gather: &mut Gather<'_, F::Stage, I>,
    ) -> Result<u64, RangeError<Input<F>>> {
        Self::protect(self, input, bytes, prot, gather)
    }

    fn write_protect<I: Invalidate<F::Stage>>(
        &mut self,
        input: Input<F>,
        bytes: u64,
        gather: &mut Gather<'_, F::Stage, I>,
    ) -> Result<u64, RangeError<Input<F>>> {
        Self::write_protect(self, input, bytes, gather)
    }

    fn set_attributes<I: Invalidate<F::Stage>>(
        &mut self,
        input: Input<F>,
        bytes: u64,
        attributes: F::Attributes,
        gather: &mut Gather<'_, F::Stage, I>,
    ) -> Result<u64, RangeError<Input<F>>> {
        Self::set_attributes(self, input, bytes, attributes, gather)
    }

    fn translate(&self, input: Input<F>, access: Access) -> Result<TranslationOf<F>, Fault<F>> {
        Self::translate(self, input, access)
    }

    fn for_each<B>(
        &self,
        input: Input<F>,
        bytes: u64,
        visit: impl FnMut(LeafOf<F>) -> ControlFlow<B>,
    ) -> Result<ControlFlow<B>, RangeError<Input<F>>> {
        self.walker().for_each(input, bytes, visit)
    }

    fn page_shift(&self) -> u8 {
        self.format.geometry().page_shift()
    }

    fn leaf_shifts(&self) -> ArrayVec<u8, 32> {
        self.format.geometry().leaf_shifts()
    }

    fn range(&self) -> (Input<F>, u64) {
        let mask = self.format.geometry().address_mask();
        let start = self.format.address(0);
        // Where addresses are sign-extended, only half of them lie in a row.
        let whole = start.checked_add(mask).and_then(|last| self.format.offset(last)) == Some(mask);
        (start, if whole { mask } else { mask >> 1 } + 1)
    }
}
