//! Changing the size of leaves without changing what they say: splitting and promoting; and moving
//! what is mapped.
//!
//! # Break before make
//! Hardware must not hold two sizes, or two outputs, for one address. So the old entry is taken out
//! and invalidated before the new one is stored; in between, an access to the range faults, and
//! whoever handles the fault tries again.

use core::sync::atomic::AtomicU64;

use crate::access::Access;
use crate::address::{Address, low_bits};
use crate::allocator::{Contents, TableAllocator};
use crate::descent::{InPlace, Node, Stop, Trail};
use crate::error::{Error, RangeError};
use crate::format::{Entry, Format, Input, Output};
use crate::gather::{Gather, Invalidate};
use crate::geometry::{Level, Position};
use crate::lock::Locks;
use crate::memory::TableMemory;
use crate::space::Leaves;
use crate::state::Owner;
use crate::table::{PageTable, layout};
use crate::walk::bounds;
use crate::word::Word;

impl<F, M, A> PageTable<F, M, A>
where
    F: Format,
    M: TableMemory<Output<F>>,
    A: TableAllocator<Output<F>>,
{
    /// Splits every leaf in the `bytes` bytes from `input` on that is larger than `2^shift` bytes,
    /// until none is: what write-protecting page by page for a dirty log needs first. Returns how
    /// many leaves were split.
    ///
    /// # Errors
    /// [`Error::Range`], [`Error::Alloc`], [`Error::LeafSize`] (there is no smaller leaf),
    /// [`Error::Invalidate`], [`Error::Malformed`], [`Error::Memory`].
    pub fn split<I: Invalidate<F::Stage>>(
        &mut self,
        input: Input<F>,
        bytes: u64,
        shift: u8,
        gather: &mut Gather<'_, F::Stage, I>,
    ) -> Result<usize, RangeError<Input<F>>> {
        self.alone(|trail| self.split_range(trail, input, bytes, shift, gather))
    }

    /// [`split`](Self::split), by any writer.
    pub(crate) fn split_range<L: Locks, I: Invalidate<F::Stage>>(
        &self,
        trail: &mut Trail<L>,
        input: Input<F>,
        bytes: u64,
        shift: u8,
        gather: &mut Gather<'_, F::Stage, I>,
    ) -> Result<usize, RangeError<Input<F>>> {
        let (mut offset, end) = bounds(&self.format, input, bytes, 0)?;
        let mut split = 0;
        while offset < end {
            let mut step = || {
                let stop = trail
                    .seek(&self.format, InPlace(&self.memory), offset, 0)
                    .map_err(Self::lost)?;
                let node = stop.node;
                if node.level == 0 && node.shift <= shift {
                    return Ok((offset | low_bits(node.span())).wrapping_add(1));
                }
                if node.shift > shift && self.leaf_at(&stop, offset)?.is_some() {
                    self.split_leaf(trail, &stop, offset, gather)?;
                    split += 1;
                    return Ok(offset);
                }
                Ok(node.next_entry(offset))
            };
            offset =
                step().map_err(|error| RangeError { at: self.format.address(offset), error })?;
        }
        Ok(split)
    }

    /// Replaces tables in the `bytes` bytes from `input` on by larger leaves wherever a whole table
    /// says one thing: full, outputs in a row and aligned, attributes equal but for what hardware
    /// recorded (which is merged, so that nothing is lost). Returns how many tables left the tree.
    ///
    /// # Errors
    /// [`Error::Range`], [`Error::Invalidate`], [`Error::Malformed`], [`Error::Memory`]. Everything
    /// before the error's address is done.
    pub fn promote<I: Invalidate<F::Stage>>(
        &mut self,
        input: Input<F>,
        bytes: u64,
        gather: &mut Gather<'_, F::Stage, I>,
    ) -> Result<usize, RangeError<Input<F>>> {
        self.alone(|trail| self.promote_range(trail, input, bytes, gather))
    }

    /// [`promote`](Self::promote), by any writer.
    pub(crate) fn promote_range<L: Locks, I: Invalidate<F::Stage>>(
        &self,
        trail: &mut Trail<L>,
        input: Input<F>,
        bytes: u64,
        gather: &mut Gather<'_, F::Stage, I>,
    ) -> Result<usize, RangeError<Input<F>>> {
        let (start, end) = bounds(&self.format, input, bytes, 0)?;
        let geometry = *self.format.geometry();
        let mut promoted = 0;
        // A table that the writer has may be replaced by a leaf of the one above it, if he has that
        // too.
        for level in 0..trail.top() {
            let above = Level(level + 1);
            if !geometry.is_leaf_level(above) {
                continue;
            }
            let size = 1u64 << geometry.shift(above);
            let mut offset = start.next_multiple_of(size);
            while offset < end && end - offset >= size {
                let mut step = || {
                    let stop = trail
                        .seek(&self.format, InPlace(&self.memory), offset, level)
                        .map_err(Self::lost)?;
                    if stop.node.level > level {
                        return Ok(stop.node.next_entry(offset));
                    }
                    promoted += usize::from(self.promote_table(trail, stop.node, offset, gather)?);
                    Ok(offset + size)
                };
                offset = step()
                    .map_err(|error| RangeError { at: self.format.address(offset), error })?;
            }
        }
        Ok(promoted)
    }

    /// Maps `bytes` bytes from `input` on to those from `output` on, in the place of whatever is
    /// mapped there.
    ///
    /// # Errors
    /// As [`map`](Self::map) and [`unmap`](Self::unmap). Everything before the error's address is
    /// remapped; from it on, what was mapped may be unmapped.
    pub fn remap<I: Invalidate<F::Stage>>(
        &mut self,
        input: Input<F>,
        output: Output<F>,
        bytes: u64,
        attributes: F::Attributes,
        leaves: Leaves,
        gather: &mut Gather<'_, F::Stage, I>,
    ) -> Result<(), RangeError<Input<F>>> {
        // Nothing is in its new place yet, however far this came.
        self.unmap(input, bytes, gather)
            .map_err(|RangeError { error, .. }| RangeError { at: input, error })?;
        gather
            .flush(&self.tables)
            .map_err(|error| RangeError { at: input, error: Error::Invalidate(error) })?;
        self.map(input, output, bytes, attributes, leaves)
    }

    /// Replaces the table of `node`, at which the trail ends and whose first entry covers `offset`,
    /// by a leaf of the table above it, if it says one thing.
    fn promote_table<L: Locks, I: Invalidate<F::Stage>>(
        &self,
        trail: &mut Trail<L>,
        node: Node,
        offset: u64,
        gather: &mut Gather<'_, F::Stage, I>,
    ) -> Result<bool, Error> {
        let above = trail.node(node.level + 1);
        let table = <Output<F> as Address>::new(node.table);
        let owner = trail.locks.owner();
        let live = self.state(node).and_then(|state| state.live_of(owner));
        if live.map(u64::from) != Some(1 << node.width) {
            return Ok(false);
        }
        let words = self.memory.table(table, 1 << node.width)?;
        let entry = above.entry(offset);
        let slot = Word::<F>::new(self.memory.word(<Output<F> as Address>::new(entry))?);
        if self.uniform(node, words, above, slot.load()).is_none() {
            return Ok(false);
        }
        let link = slot.take();
        let last = offset + (low_bits(node.width) << node.shift);
        gather.pages(self.format.address(offset), self.format.address(last), node.shift);
        gather.table_left();
        if let Err(error) = gather.flush(&self.tables) {
            self.publish(slot, entry, link);
            return Err(Error::Invalidate(error));
        }
        // Hardware cannot reach the table any more, so what it recorded is now complete; nor has it
        // changed anything else.
        match self.uniform(node, words, above, link) {
            Some(leaf) => self.publish(slot, entry, leaf),
            None => {
                self.publish(slot, entry, link);
                return Ok(false);
            }
        }
        trail.left(node.level);
        self.retire(node, owner, Contents::Stale, gather);
        Ok(true)
    }

    /// The one leaf of the table `above` that says what all `words` of `node`'s table say, if there
    /// is one, with every record that any of them has.
    ///
    /// `link` is the entry of `above`'s table that leads to them: there is none if it restricts
    /// what the leaves allow.
    fn uniform(&self, node: Node, words: &[AtomicU64], above: Node, link: u64) -> Option<u64> {
        let (format, at) = (&self.format, node.position());
        let bits = format.bits(at);
        let unrecorded = |word| bits.dirty.cleared_from(bits.accessed.cleared_from(word));
        let mut all = Word::<F>::new(words.first()?).load();
        let Entry::Leaf { output, attributes } = format.decode(all, at) else { return None };
        let mut expected = format.leaves(output, attributes, at).ok()?;
        for (index, memory) in (0u64..).zip(words) {
            if expected.count == 0 {
                let next = output.checked_add(index << node.shift)?;
                expected = format.leaves(next, attributes, at).ok()?;
            }
            let word = Word::<F>::new(memory).load();
            if unrecorded(word) != unrecorded(expected.first) {
                return None;
            }
            for record in [bits.accessed, bits.dirty] {
                all = if record.is_in(word) { record.made(all) } else { all };
            }
            expected = expected.skip(1);
        }
        let Entry::Leaf { attributes, .. } = format.decode(all, at) else { return None };
        let leaf = format.leaves(output, attributes, above.position()).ok()?.first;
        self.restricts_nothing(link, above.position(), leaf).then_some(leaf)
    }

    /// Whether the entry `link` at `at`, which leads to a table, restricts nothing of what the leaf
    /// `leaf` in its place would allow.
    fn restricts_nothing(&self, link: u64, at: Position, leaf: u64) -> bool {
        let below = self.format.restrict(F::Path::default(), link, at);
        let allows = |path, access| self.format.check(leaf, at, path, access).is_ok();
        [Access::READ, Access::WRITE, Access::FETCH].into_iter().all(|access| {
            [access, access.by_user()]
                .into_iter()
                .all(|access| allows(below, access) == allows(F::Path::default(), access))
        })
    }

    /// Replaces the leaf at which `stop` stands by a table of smaller leaves that say the same.
    /// Break before make: the leaf is taken out and invalidated before the table is linked, since
    /// hardware must not hold two sizes for one address.
    pub(crate) fn split_leaf<L: Locks, I: Invalidate<F::Stage>>(
        &self,
        trail: &mut Trail<L>,
        stop: &Stop<F, Word<'_, F>>,
        offset: u64,
        gather: &mut Gather<'_, F::Stage, I>,
    ) -> Result<(), Error> {
        let node = stop.node;
        let geometry = self.format.geometry();
        let below = crate::Level(node.level.wrapping_sub(1));
        if !geometry.is_leaf_level(below) {
            return Err(Error::LeafSize);
        }
        let owner = trail.locks.owner();
        let table = (below.0, geometry.width(below));
        let nodes = self.grow(node, offset, table, Contents::Stale, owner)?;
        let Some(&table) = nodes.first() else { return Err(Error::LeafSize) };
        let page = self.format.address(offset & !(node.position().size() - 1));
        gather.pages(page, page, node.shift);
        let old = stop.slot.take();
        let made = gather
            .flush(&self.tables)
            .map_err(Error::Invalidate)
            .and_then(|()| self.fill_split(node, old, table, owner));
        match made {
            Ok(word) => {
                trail.locks.made(&nodes);
                trail.grown(&nodes);
                self.publish(stop.slot, node.entry(offset), word);
                Ok(())
            }
            Err(error) => {
                self.publish(stop.slot, node.entry(offset), old);
                self.shrink(&nodes, owner)?;
                Err(error)
            }
        }
    }

    /// Fills the table `below`, which `owner` has, with leaves that say what `old`, a leaf of
    /// `node`'s table, says; returns the entry that links it.
    fn fill_split(&self, node: Node, old: u64, below: Node, owner: Owner) -> Result<u64, Error> {
        let Entry::Leaf { output, attributes } = self.format.decode(old, node.position()) else {
            return Err(Error::Malformed { at: node.position(), entry: node.table, word: old });
        };
        let words = self.format.leaves(output, attributes, below.position())?;
        let entries = layout(below).bytes() / 8;
        let run = self.memory.table(<Output<F> as Address>::new(below.table), entries)?;
        self.fill(run, words, output.get(), attributes, below)?;
        self.wrote(below.table, entries);
        self.count(below, entries as u32, owner);
        self.table_word(node, below)
    }
}
