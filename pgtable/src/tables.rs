//! Iteration over the tables of a tree themselves: how many there are, where they stand, what their
//! entries are.
//!
//! For whoever looks at tables that somebody else wrote: a dump, a census. What cannot be descended
//! into (a malformed entry, a table outside memory) ends nothing: it is shown, and the iteration
//! goes on behind it.

use core::ops::ControlFlow;
use core::sync::atomic::AtomicU64;

use crate::address::Address;
use crate::descent::{Node, decode};
use crate::format::{Entry, EntryOf, Format, Input, Output};
use crate::geometry::Position;
use crate::memory::{MemoryError, TableMemory};
use crate::walk::Walker;
use crate::word::Word;

/// A table of a tree, as the entry above it (or the root register) describes it.
#[derive(Clone, Copy, Debug)]
pub struct Table<'m, F> {
    format: F,
    node: Node,
    offset: u64,
    words: Result<&'m [AtomicU64], MemoryError>,
}

/// An entry of a [`Table`], read once.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct TableEntry<F: Format> {
    /// The first address that it covers.
    pub input: Input<F>,
    /// What it holds, in the architecture's bit order.
    pub word: u64,
    /// What that is.
    pub entry: EntryOf<F>,
}

impl<'m, F: Format> Table<'m, F> {
    /// Where its entries stand.
    #[must_use]
    pub fn at(&self) -> Position {
        self.node.position()
    }

    /// Its address.
    #[must_use]
    pub fn address(&self) -> Output<F> {
        <Output<F> as Address>::new(self.node.table)
    }

    /// log2 of how many entries it has.
    #[must_use]
    pub fn width(&self) -> u8 {
        self.node.width
    }

    /// Its size in bytes.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        8 << self.node.width
    }

    /// The first address that it covers.
    #[must_use]
    pub fn input(&self) -> Input<F> {
        self.format.address(self.offset)
    }

    /// Its words, in memory order of bytes.
    ///
    /// # Errors
    /// [`MemoryError`] if it lies outside table memory.
    pub fn words(&self) -> Result<&'m [AtomicU64], MemoryError> {
        self.words
    }

    /// Its entries, in order; none if it lies outside table memory.
    pub fn entries(&self) -> impl Iterator<Item = TableEntry<F>> + use<'m, F> {
        let Self { format, node, offset, words } = *self;
        words.unwrap_or_default().iter().enumerate().map(move |(index, memory)| {
            let word = Word::<F>::new(memory).load();
            let input = format.address(offset + ((index as u64) << node.shift));
            TableEntry { input, word, entry: decode(&format, word, node.position()) }
        })
    }
}

impl<F: Format, M: TableMemory<Output<F>>> Walker<F, M> {
    /// Calls `visit` for each table of the tree, each before those below it, in the order of the
    /// addresses that they cover, until it breaks. A table to which several entries lead is visited
    /// as often: on tables that somebody else wrote it is the caller who bounds the work, by
    /// breaking off.
    pub fn for_each_table<B>(
        &self,
        mut visit: impl FnMut(Table<'_, F>) -> ControlFlow<B>,
    ) -> ControlFlow<B> {
        self.visit_tables(self.root_node(), 0, &mut visit)
    }

    /// Visits the table of `node`, whose first entry covers `offset`, and all below it: no deeper
    /// than the tree has levels.
    fn visit_tables<B>(
        &self,
        node: Node,
        offset: u64,
        visit: &mut impl FnMut(Table<'_, F>) -> ControlFlow<B>,
    ) -> ControlFlow<B> {
        let words = self.memory().table(<Output<F> as Address>::new(node.table), 1 << node.width);
        visit(Table { format: *self.format(), node, offset, words })?;
        if node.level == 0 {
            return ControlFlow::Continue(());
        }
        for (index, memory) in words.unwrap_or_default().iter().enumerate() {
            let word = Word::<F>::new(memory).load();
            if let Entry::Table { table, width } = decode(self.format(), word, node.position()) {
                self.visit_tables(
                    node.below(table.get(), width),
                    offset + ((index as u64) << node.shift),
                    visit,
                )?;
            }
        }
        ControlFlow::Continue(())
    }
}
