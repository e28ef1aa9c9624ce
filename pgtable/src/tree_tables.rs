//! The tables of a tree: taken, linked, counted, given back.

use arrayvec::ArrayVec;

use crate::address::Address;
use crate::allocator::{AllocError, Contents, TableAllocator, TableLayout};
use crate::descent::{Node, decode};
use crate::error::Error;
use crate::format::{Entry, Format, Output, Presence};
use crate::gather::{Finished, Gather, Invalidate};
use crate::geometry::{Level, MAX_LEVELS};
use crate::lock::Locks;
use crate::memory::TableMemory;
use crate::state::{Owner, TableState, UNKNOWN};
use crate::table::PageTable;
use crate::table_word::TableWord as _;
use crate::trail::Trail;
use crate::word::{Word, any_set};

impl<F, M, A> PageTable<F, M, A>
where
    F: Format,
    M: TableMemory<Output<F>>,
    A: TableAllocator<Output<F>>,
{
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
    /// caller tells. What the allocator does not take back is counted ([`PageTable::refused`]): an
    /// error would hide the first one, also where the allocator keeps no account of single tables,
    /// as that of boot tables.
    pub(crate) fn shrink(&self, nodes: &[Node], owner: Owner) {
        for node in nodes {
            if self.free_unseen(*node, Contents::Stale, owner).is_err() {
                self.entries.refuse();
            }
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
}

/// A table of `tables` that holds what is wanted, with a state that says so and names its `owner`:
/// a table's state belongs to the tree, so nothing else initialises it.
pub(crate) fn allocate<O: Address, A: TableAllocator<O>>(
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
