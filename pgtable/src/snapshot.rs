//! A snapshot of a tree; a tree built anew from a list of what it maps.

use crate::address::Address;
use crate::allocator::{Contents, TableAllocator};
use crate::descent::{Link, Node, decode, table_below};
use crate::error::{Error, RangeError};
use crate::format::{Entry, Format, Input, Output};
use crate::gather::Finished;
use crate::geometry::Level;
use crate::memory::{ReadMemory, TableMemory};
use crate::space::Leaves;
use crate::table::PageTable;
use crate::table_word::TableWord as _;
use crate::tree_tables::layout;
use crate::walk::{LeafOf, Walker};
use crate::word::{Word, swap};
use crate::work::Allowance;

/// A tree that nobody has seen: its tables are given back unless it is [kept](Self::keep).
struct Unseen<'t, F, M, A>(&'t mut PageTable<F, M, A>)
where
    F: Format,
    M: TableMemory<Output<F>>,
    A: TableAllocator<Output<F>>;

impl<F, M, A> Unseen<'_, F, M, A>
where
    F: Format,
    M: TableMemory<Output<F>>,
    A: TableAllocator<Output<F>>,
{
    /// It is whole.
    fn keep(self) {
        core::mem::forget(self);
    }
}

impl<F, M, A> Drop for Unseen<'_, F, M, A>
where
    F: Format,
    M: TableMemory<Output<F>>,
    A: TableAllocator<Output<F>>,
{
    fn drop(&mut self) {
        // There is nothing to invalidate. A table that its own allocator does not take back is none
        // of the caller's error.
        self.0.free_subtree(Node::root(&self.0.format, self.0.root), &mut Finished::default());
    }
}

impl<F, M, A> PageTable<F, M, A>
where
    F: Format,
    M: TableMemory<Output<F>>,
    A: TableAllocator<Output<F>>,
{
    /// A tree of `format` that maps what `mappings` lists: what another tree's iteration gave, a
    /// saved state.
    ///
    /// Each mapping gets leaves of its own size. Fastest in order.
    ///
    /// ```
    /// # use pgtable_conformance::prelude::*;
    /// # pgtable_conformance::example!(mapped: arena, tables, tree, gather);
    /// # let memory = arena.memory::<Gpa>();
    /// let saved: Vec<_> = tree.walker().iter(Gva::new(0), 1 << 30)?.collect::<Result<_, _>>()?;
    /// let again = PageTable::rebuild(Sv::SV48, memory, &tables, saved)?;
    /// assert_eq!(again.translate(Gva::new(0x1000), Access::READ)?.output, Gpa::new(0x80_1000));
    /// # gather.finish(tree.tables())?;
    /// # Ok::<(), Box<dyn core::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// As [`map`](Self::map), and as [`new`](Self::new) at the lowest address; nothing is left
    /// allocated.
    pub fn rebuild(
        format: F,
        memory: M,
        tables: A,
        mappings: impl IntoIterator<Item = LeafOf<F>>,
    ) -> Result<Self, RangeError<Input<F>>> {
        let mut tree = Self::new(format, memory, tables)
            .map_err(|error| RangeError { at: format.address(0), error })?;
        let unseen = Unseen(&mut tree);
        for it in mappings {
            let leaves = Leaves::Exactly(it.shift);
            unseen.0.map(it.input, it.output, it.bytes, it.attributes, leaves)?;
        }
        unseen.keep();
        Ok(tree)
    }

    /// Fills the table of `to`, which is empty, with what that of `from` in `source` says, and so
    /// on downwards. Tables that stay empty stay allocated, so that the work is bounded by the
    /// allocator whatever `source` says.
    fn copy_from<M2: ReadMemory<Output<F>>>(
        &self,
        source: &M2,
        from: Node,
        to: Node,
    ) -> Result<(), Error> {
        let copies = self.words(to.table, 1 << from.width)?;
        for (index, copy) in copies.iter().enumerate() {
            let copy = Word::<F>::new(copy);
            let entry = from.table.wrapping_add((index as u64) << F::Word::SHIFT);
            let word = swap::<F>(F::Word::load_from(source, <Output<F> as Address>::new(entry))?);
            match decode(&self.format, word, from.position()) {
                Entry::Absent => {}
                Entry::Leaf { .. } => {
                    copy.store(word);
                    self.count(to, 1, self.tree);
                }
                Entry::Table { .. } | Entry::Malformed => {
                    let malformed = Error::Malformed { at: from.position(), entry, word };
                    let below = table_below(&self.format, from, word).ok_or(malformed)?;
                    let made = self.copy_link(word, copy, to, below)?;
                    self.count(to, 1, self.tree);
                    self.copy_from(source, below, made)?;
                }
            }
        }
        self.wrote(to.table, copies.len());
        Ok(())
    }

    /// Makes `slot`, an empty entry of the table of `to`, the way to a new table in the place of
    /// `below`, to which `word` leads in its source. Where `word` leads past levels, this tree gets
    /// tables of those levels, whose first entries lead on.
    fn copy_link(
        &self,
        word: u64,
        slot: Word<'_, F>,
        to: Node,
        below: Node,
    ) -> Result<Node, Error> {
        let level = below.level + 1;
        let width = self.format.geometry().width(Level(level));
        let mut made = self.grow(to, 0, (level, width), Contents::Zeroed, self.tree)?;
        let last = made.last().copied().unwrap_or(to);
        let mut linked = || {
            let table = self.allocate(layout::<F>(below), Contents::Zeroed, self.tree)?;
            let node = Node { table: table.get(), ..below };
            // No tree has more levels than MAX_LEVELS.
            let _ = made.try_push(node);
            let link = self.relink(word, last, below, node)?;
            if last.level == to.level {
                return Ok((link, node));
            }
            self.publish(Word::new(self.word(last.table)?), last.table, link);
            self.count(last, 1, self.tree);
            Ok((self.table_word(to, *made.first().unwrap_or(&node))?, node))
        };
        match linked() {
            Ok((link, node)) => {
                slot.publish(link);
                Ok(node)
            }
            Err(error) => {
                self.shrink(&made, self.tree);
                Err(error)
            }
        }
    }

    /// Takes tables that are empty out of this tree, which nobody has seen, below that of `node`: a
    /// tree of ours holds no empty tables.
    fn drop_empty(&self, node: Node, allowance: &mut Allowance<'_>) -> Result<(), Error> {
        let words = self.words(node.table, 1 << node.width)?;
        for (index, memory) in words.iter().enumerate() {
            let slot = Word::<F>::new(memory);
            let word = slot.load();
            let Entry::Table { table, width } = decode(&self.format, word, node.position()) else {
                continue;
            };
            let below = node.below(table.get(), width);
            let entry = node.table.wrapping_add((index as u64) << F::Word::SHIFT);
            let malformed = Link { at: node.position(), entry, word }.malformed();
            let Some(state) =
                self.state(below).filter(|it| it.adopt(self.tree) && allowance.enter(width))
            else {
                return Err(malformed);
            };
            if below.level > 0 && state.live() > 0 {
                self.drop_empty(below, allowance)?;
            }
            if state.live() == 0 {
                slot.store(0);
                self.wrote(entry, 1);
                if let Some(above) = self.state(node) {
                    above.sub(self.tree, 1);
                }
                self.free_unseen(below, Contents::Zeroed, self.tree)?;
            }
        }
        Ok(())
    }
}

impl<F: Format, M: ReadMemory<Output<F>>> Walker<F, M> {
    /// A copy of the whole tree, leaf for leaf with what is recorded in it, in tables of `tables`
    /// in `memory`, with a root of its own.
    ///
    /// The tree may change meanwhile, and may be a hostile guest's: each entry is read once for
    /// each way to it. Bound: as many tables are visited as `tables` hands out, since none is given
    /// back before the copy is complete; so `tables` should have a limit. Of a tree that nobody
    /// changes, [`diff`](Self::diff) finds the copy equal.
    ///
    /// ```
    /// # use pgtable_conformance::prelude::*;
    /// # pgtable_conformance::example!(mapped: arena, tables, tree, gather);
    /// # let memory = arena.memory::<Gpa>();
    /// let copy = tree.walker().snapshot(memory, &tables)?;
    /// tree.unmap(Gva::new(0), 0x1000, &mut gather)?;
    /// assert!(copy.translate(Gva::new(0), Access::READ).is_ok());
    /// # gather.finish(tree.tables())?;
    /// # Ok::<(), Box<dyn core::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// [`Error::Alloc`], [`Error::Malformed`], [`Error::Memory`], [`Error::Unencodable`]; nothing
    /// is left allocated.
    pub fn snapshot<M2, A>(&self, memory: M2, tables: A) -> Result<PageTable<F, M2, A>, Error>
    where
        M2: TableMemory<Output<F>>,
        A: TableAllocator<Output<F>>,
    {
        let mut copy = PageTable::new(*self.format(), memory, tables)?;
        let unseen = Unseen(&mut copy);
        let (tree, root) = (&*unseen.0, Node::root(self.format(), unseen.0.root));
        tree.copy_from(self.memory(), self.root_node(), root)?;
        tree.drop_empty(root, &mut Allowance::new(&tree.entries, 1))?;
        unseen.keep();
        Ok(copy)
    }
}
