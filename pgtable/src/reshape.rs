//! Changing the size of leaves without changing what they say: splitting and promoting; and moving
//! what is mapped.
//!
//! # Break before make
//! Hardware must not hold two sizes, or two outputs, for one address. So the old entry is taken out
//! and invalidated before the new one is stored; in between, an access to the range faults, and
//! whoever handles the fault tries again.

use crate::access::Access;
use crate::address::{Address, low_bits};
use crate::allocator::{Contents, TableAllocator};
use crate::descent::{InPlace, Node, Stop, decode};
use crate::error::{Error, RangeError};
use crate::format::{Entry, Format, Input, Output};
use crate::gather::{Gather, Invalidate};
use crate::geometry::{Level, MAX_GROUP, Position};
use crate::group::{group_of, has_groups, joined, ordinary, unrecorded};
use crate::interrupted::OnPanic;
use crate::lock::Locks;
use crate::memory::TableMemory;
use crate::space::Leaves;
use crate::table::PageTable;
use crate::trail::Trail;
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
    /// A leaf is absent until its tables are filled, and is invalidated once, also where it is
    /// split by two levels (1 GiB into pages of 4 KiB): accesses to it fault meanwhile, and are
    /// tried again.
    ///
    /// ```
    /// # use pgtable_conformance::prelude::*;
    /// # pgtable_conformance::example!(tree: tree, gather);
    /// tree.map(Gva::new(0), Gpa::new(0), 0x40_0000, Prot::RW.into(), Leaves::Largest)?;
    /// assert_eq!(tree.split(Gva::new(0), 0x40_0000, 12, &mut gather)?, 2);
    /// assert_eq!(tree.translate(Gva::new(0x5000), Access::READ)?.shift, 12);
    /// # gather.finish(tree.tables())?;
    /// # Ok::<(), Box<dyn core::error::Error>>(())
    /// ```
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
                if has_groups::<F>()
                    && self.split_group(&mut trail.locks, &stop, offset, shift, gather)?
                {
                    split += 1;
                    return Ok(offset);
                }
                if node.level == 0 && node.shift <= shift {
                    let next = self.next_group(node, (offset, end), shift)?;
                    return Ok(next.unwrap_or((offset | low_bits(node.span())).wrapping_add(1)));
                }
                if node.shift > shift && self.leaf_at(&stop, offset)?.is_some() {
                    let further = self.split_leaf(trail, &stop, offset, (end, shift), gather)?;
                    split += 1 + further;
                    return Ok(self.after_split(node, offset, further));
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
    /// recorded (which is merged, so that nothing is lost). Where a table stays, and the format's
    /// trees have [groups](crate::format::Groups), it makes groups of entries that say one thing.
    /// Returns how many larger leaves it made.
    ///
    /// ```
    /// # use pgtable_conformance::prelude::*;
    /// # pgtable_conformance::example!(mapped: tree, gather);
    /// assert_eq!(tree.promote(Gva::new(0), 0x20_0000, &mut gather)?, 1);
    /// assert_eq!(tree.translate(Gva::new(0x5000), Access::READ)?.shift, 21);
    /// # gather.finish(tree.tables())?;
    /// # Ok::<(), Box<dyn core::error::Error>>(())
    /// ```
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
        for level in 0..=trail.top() {
            let above = Level(level + 1);
            if level == trail.top() || !geometry.is_leaf_level(above) {
                promoted += self.group_level(trail, (start, end), Level(level), gather)?;
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
            promoted += self.group_level(trail, (start, end), Level(level), gather)?;
        }
        Ok(promoted)
    }

    /// Makes groups of every size, the largest first, on `level` from `start` to before `end`;
    /// returns how many.
    fn group_level<L: Locks, I: Invalidate<F::Stage>>(
        &self,
        trail: &mut Trail<L>,
        range: (u64, u64),
        level: Level,
        gather: &mut Gather<'_, F::Stage, I>,
    ) -> Result<usize, RangeError<Input<F>>> {
        let mut made = 0;
        if has_groups::<F>() {
            let groups = self.format.geometry().groups(level);
            for group in (1..=MAX_GROUP).rev().filter(|group| groups & 1 << group != 0) {
                made += self.group_range(trail, range, (level, group), gather)?;
            }
        }
        Ok(made)
    }

    /// The offset of the next entry of `node`'s table that is one of a group larger than `2^shift`
    /// bytes, from the one for `offset` on.
    fn next_group(
        &self,
        node: Node,
        (offset, end): (u64, u64),
        shift: u8,
    ) -> Result<Option<u64>, Error> {
        if !has_groups::<F>() {
            return Ok(None);
        }
        let (format, at) = (&self.format, node.position());
        let larger = |word| {
            let group = group_of(format, word, at);
            group > 0
                && at.shift + group > shift
                && matches!(decode(format, word, at), Entry::Leaf { .. })
        };
        let run = self.words(node.entry::<F>(offset), node.entries(offset, end))?;
        let next = run.iter().position(|memory| larger(Word::<F>::new(memory).load()));
        Ok(next.map(|index| offset + ((index as u64) << node.shift)))
    }

    /// Replaces the group around the entry at which `stop` stands by ordinary leaves, if it is
    /// larger than `2^shift` bytes.
    fn split_group<L: Locks, I: Invalidate<F::Stage>>(
        &self,
        locks: &mut L,
        stop: &Stop<F, Word<'_, F>>,
        offset: u64,
        shift: u8,
        gather: &mut Gather<'_, F::Stage, I>,
    ) -> Result<bool, Error> {
        let at = stop.node.position();
        let leaf = matches!(stop.decode(&self.format), Entry::Leaf { .. });
        let group = if leaf { group_of(&self.format, stop.word, at) } else { 0 };
        let larger = group > 0 && at.shift + group > shift;
        if larger {
            self.ungroup(locks, stop.node, offset, stop.word, gather)?;
        }
        Ok(larger)
    }

    /// Maps `bytes` bytes from `input` on to those from `output` on, in the place of whatever is
    /// mapped there.
    ///
    /// ```
    /// # use pgtable_conformance::prelude::*;
    /// # pgtable_conformance::example!(mapped: tree, gather);
    /// let (at, to) = (Gva::new(0x1000), Gpa::new(0x9000));
    /// tree.remap(at, to, 0x1000, Prot::R.into(), Leaves::Largest, &mut gather)?;
    /// assert_eq!(tree.translate(at, Access::READ)?.output, to);
    /// # gather.finish(tree.tables())?;
    /// # Ok::<(), Box<dyn core::error::Error>>(())
    /// ```
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
        let owner = trail.locks.owner();
        let live = self.live(node, owner);
        if live.map(u64::from) != Some(1 << node.width) {
            return Ok(false);
        }
        let words = self.words(node.table, 1 << node.width)?;
        let entry = above.entry::<F>(offset);
        let slot = Word::<F>::new(self.word(entry)?);
        let uniform = |link| {
            let base = offset & !low_bits(node.span());
            let words = words.iter().map(|memory| Word::<F>::new(memory).load());
            let (output, attributes) = self.uniform(node.position(), base, words)?;
            let leaf = self.format.leaves(output, attributes, above.position()).ok()?.first;
            self.restricts_nothing(link, above.position(), leaf).then_some(leaf)
        };
        if uniform(slot.load()).is_none() {
            return Ok(false);
        }
        let link = slot.take();
        let last = offset + (low_bits(node.width) << node.shift);
        gather.pages(self.format.address(offset), self.format.address(last), node.shift);
        gather.table_left();
        let size = above.position().size();
        let undo = || {
            self.publish(slot, entry, link);
            self.appeared(offset, size);
        };
        let interrupted = OnPanic::new(undo);
        let flushed = gather.flush(&self.tables);
        interrupted.disarm();
        if let Err(error) = flushed {
            undo();
            return Err(Error::Invalidate(error));
        }
        // Hardware cannot reach the table any more, so what it recorded is now complete; nor has it
        // changed anything else.
        let leaf = uniform(link);
        self.publish(slot, entry, leaf.unwrap_or(link));
        self.appeared(offset, size);
        if leaf.is_none() {
            return Ok(false);
        }
        trail.left(node.level);
        self.retire(node, owner, Contents::Stale, gather);
        Ok(true)
    }

    /// What all `words` say, neighbouring entries at `at` of which the first covers `base`, if that
    /// is one thing: where the first of them leads, and attributes with every record that any has.
    pub(crate) fn uniform(
        &self,
        at: Position,
        base: u64,
        words: impl IntoIterator<Item = u64>,
    ) -> Option<(Output<F>, F::Attributes)> {
        let format = &self.format;
        let bits = format.bits(at);
        let mut words = words.into_iter().zip(0u64..).map(|(word, index)| {
            Some((ordinary(format, word, at, base + (index << at.shift))?, index))
        });
        let (mut all, _) = words.next()??;
        let Entry::Leaf { output, attributes } = format.decode(all, at) else { return None };
        let mut expected = format.leaves(output, attributes, at).ok()?;
        if unrecorded(&bits, all) != unrecorded(&bits, expected.first) {
            return None;
        }
        for word in words {
            let (word, index) = word?;
            expected = expected.skip(1);
            if expected.count == 0 {
                let next = output.checked_add(index << at.shift)?;
                expected = format.leaves(next, attributes, at).ok()?;
            }
            if unrecorded(&bits, word) != unrecorded(&bits, expected.first) {
                return None;
            }
            all = joined(&bits, all, word);
        }
        let Entry::Leaf { attributes, .. } = format.decode(all, at) else { return None };
        Some((output, attributes))
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
}
