//! Iteration over the tables of a tree themselves: how many there are, where they stand, what their
//! entries are.
//!
//! For whoever looks at tables that somebody else wrote: a dump, a census. What cannot be descended
//! into (a malformed entry, a table outside memory) ends nothing: it is shown, and the iteration
//! goes on behind it.

use core::ops::ControlFlow;

use crate::address::Address;
use crate::descent::{Node, decode_followed, table_below};
use crate::format::{EntryOf, Format, Input, Output};
use crate::geometry::Position;
use crate::memory::{MemoryError, ReadMemory, TableMemory};
use crate::table_word::TableWord as _;
use crate::walk::Walker;
use crate::word::{Word, swap};

/// A table of a tree, as the entry above it (or the root register) describes it.
#[derive(Debug)]
pub struct Table<'m, F: Format, M> {
    format: F,
    memory: &'m M,
    /// Its words, if memory has them in place.
    words: Option<&'m [F::Word]>,
    node: Node,
    offset: u64,
}

impl<F: Format, M> Clone for Table<'_, F, M> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<F: Format, M> Copy for Table<'_, F, M> {}

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

impl<'m, F: Format, M: ReadMemory<Output<F>>> Table<'m, F, M> {
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
        1 << (self.node.width + F::Word::SHIFT)
    }

    /// The first address that it covers.
    #[must_use]
    pub fn input(&self) -> Input<F> {
        self.format.address(self.offset)
    }

    /// Its entries, in order, each read once. They end where table memory does.
    pub fn entries(&self) -> impl Iterator<Item = TableEntry<F>> + use<'m, F, M> {
        let table = *self;
        table.loads().map(move |(index, word)| {
            let input = table.format.address(table.offset + (index << table.node.shift));
            let entry = decode_followed(&table.format, word, table.node.position());
            TableEntry { input, word, entry }
        })
    }

    /// The index and the word of each entry, up to the first one outside table memory.
    fn loads(&self) -> impl Iterator<Item = (u64, u64)> + use<'m, F, M> {
        let Self { memory, words, node, .. } = *self;
        (0..1 << node.width).map_while(move |index| {
            let entry = node.table.wrapping_add((index as u64) << F::Word::SHIFT);
            let word = match words {
                Some(words) => Word::<F>::new(words.get(index)?).load(),
                None => {
                    let entry = <Output<F> as Address>::new(entry);
                    swap::<F>(F::Word::load_from(memory, entry).ok()?)
                }
            };
            Some((index as u64, word))
        })
    }
}

impl<'m, F: Format, M: TableMemory<Output<F>>> Table<'m, F, M> {
    /// Its words in place, in memory order of bytes.
    ///
    /// # Errors
    /// [`MemoryError`] if it does not lie in table memory as a whole, or may only be read.
    pub fn words(&self) -> Result<&'m [F::Word], MemoryError> {
        match self.words {
            Some(words) => Ok(words),
            None => F::Word::words_in(self.memory, self.address(), 1 << self.node.width),
        }
    }
}

impl<F: Format, M: ReadMemory<Output<F>>> Walker<F, M> {
    /// Calls `visit` for each table of the tree, each before those below it, in the order of the
    /// addresses that they cover, until it breaks. A table to which several entries lead is visited
    /// as often: on tables that somebody else wrote the caller bounds the work, by
    /// breaking off.
    ///
    /// ```
    /// # use pgtable_conformance::prelude::*;
    /// # pgtable_conformance::example!(mapped: tree, gather);
    /// # let walker = tree.walker();
    /// let mut bytes = 0;
    /// let _ = walker.for_each_table(|table| {
    ///     bytes += table.bytes();
    ///     ControlFlow::<()>::Continue(())
    /// });
    /// assert_eq!(bytes, 4 * 0x1000);
    /// # gather.finish(tree.tables())?;
    /// # Ok::<(), Box<dyn core::error::Error>>(())
    /// ```
    pub fn for_each_table<B>(
        &self,
        mut visit: impl FnMut(Table<'_, F, M>) -> ControlFlow<B>,
    ) -> ControlFlow<B> {
        self.visit_tables(self.root_node(), 0, &mut visit)
    }

    /// Visits the table of `node`, whose first entry covers `offset`, and all below it: no deeper
    /// than the tree has levels.
    fn visit_tables<B>(
        &self,
        node: Node,
        offset: u64,
        visit: &mut impl FnMut(Table<'_, F, M>) -> ControlFlow<B>,
    ) -> ControlFlow<B> {
        let (format, memory) = (*self.format(), self.memory());
        let table = <Output<F> as Address>::new(node.table);
        let words = F::Word::in_place(memory, table, 1 << node.width);
        let table = Table { format, memory, words, node, offset };
        visit(table)?;
        if node.level == 0 {
            return ControlFlow::Continue(());
        }
        for (index, word) in table.loads() {
            if let Some(below) = table_below(self.format(), node, word) {
                self.visit_tables(below, offset + (index << node.shift), visit)?;
            }
        }
        ControlFlow::Continue(())
    }
}
