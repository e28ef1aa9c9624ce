//! Stretches: where runs of entries stand, found one after the other.

use crate::address::{Address, low_bits};
use crate::descent::{ByValue, Node, Stop, decode};
use crate::error::{Error, RangeError};
use crate::format::{Entry, Format, Input, Output};
use crate::geometry::Level;
use crate::group::{Unit, group_of, has_groups, unit};
use crate::lock::Locks;
use crate::memory::{ReadMemory, TableMemory};
use crate::run::{Around, Run};
use crate::table_word::TableWord as _;
use crate::trail::Trail;
use crate::walk::{LeafOf, malformed};
use crate::word::swap;

/// Neighbouring entries of one table, none of which is a table: where they stand.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Stretch {
    node: Node,
    offset: u64,
    entries: usize,
    around: Around,
}

impl Stretch {
    /// The address of the first entry.
    #[inline(always)]
    fn entry<F: Format>(&self) -> Output<F> {
        <Output<F> as Address>::new(self.node.entry::<F>(self.offset))
    }

    /// The address of the first entry, those around included, and how many there are.
    #[inline(always)]
    fn wide<F: Format>(&self) -> (Output<F>, usize) {
        if !has_groups::<F>() {
            return (self.entry::<F>(), self.entries);
        }
        let Around { before, after } = self.around;
        let first =
            self.node.entry::<F>(self.offset).wrapping_sub(u64::from(before) << F::Word::SHIFT);
        let entries = before as usize + self.entries + after as usize;
        (<Output<F> as Address>::new(first), entries)
    }

    /// The same stretch with what stands around it that may belong to a group with one of its
    /// entries.
    fn widened<F: Format>(self, format: &F) -> Self {
        self.widened_by(largest_group(format, self.node))
    }

    /// The same for groups of up to `2^group` entries.
    fn widened_by(self, group: u8) -> Self {
        let first = self.node.index(self.offset);
        let before = first & low_bits(group);
        let after = (first + self.entries as u64).wrapping_neg() & low_bits(group);
        // Both are less than 2^MAX_GROUP.
        let around = Around { before: before as u32, after: after as u32 };
        Self { around, ..self }
    }

    /// The same entries in place, or as many of them as `memory` has in one piece; then the
    /// iteration, which is at `at`, goes on after them.
    #[inline(always)]
    pub(crate) fn run<'m, F: Format, M: TableMemory<Output<F>>>(
        &self,
        format: &F,
        memory: &'m M,
        at: &mut u64,
    ) -> Result<Run<'m, F>, RangeError<Input<F>>> {
        self.whole(format, memory).or_else(|_| self.first_run(format, memory, at))
    }

    /// The same entries in place, all of them.
    #[inline(always)]
    fn whole<'m, F: Format, M: TableMemory<Output<F>>>(
        &self,
        format: &F,
        memory: &'m M,
    ) -> Result<Run<'m, F>, RangeError<Input<F>>> {
        let (first, entries) = self.wide::<F>();
        match F::Word::words_in(memory, first, entries) {
            Ok(words) => Ok(self.run_of(format, words)),
            Err(error) => Err(RangeError { at: format.address(self.offset), error: error.into() }),
        }
    }

    /// The same entries in place, if `memory` has them so.
    #[inline(always)]
    pub(crate) fn in_place<'m, F: Format, M: ReadMemory<Output<F>>>(
        &self,
        format: &F,
        memory: &'m M,
    ) -> Option<Run<'m, F>> {
        let (first, entries) = self.wide::<F>();
        F::Word::in_place(memory, first, entries).map(|words| self.run_of(format, words))
    }

    /// The first of the same entries in place, as many as `memory` has in one piece: where a table
    /// lies outside of memory in part, what is there is read. The iteration, which is at `at`, goes
    /// on after them.
    ///
    /// What is around them is left out if it is not there: then a group is not whole, and each of
    /// its entries is a leaf by itself, as where words are read by value.
    #[cold]
    fn first_run<'m, F: Format, M: TableMemory<Output<F>>>(
        mut self,
        format: &F,
        memory: &'m M,
        at: &mut u64,
    ) -> Result<Run<'m, F>, RangeError<Input<F>>> {
        let (all, entries) = (*at, self.entries);
        let mut go_on_after = |stretch: &Self| {
            let last = stretch.entries as u64 - 1;
            let next = stretch.node.next_entry(stretch.offset);
            *at = next.wrapping_add(last << stretch.node.shift).min(all);
        };
        let groups = if has_groups::<F>() { largest_group(format, self.node) } else { 0 };
        let first = self.node.index(self.offset);
        // A run ends where groups end, so that none is in two runs.
        let half = |entries: usize| {
            let end = first + entries as u64 / 2;
            (end & !low_bits(groups)).saturating_sub(first) as usize
        };
        self.entries = half(entries);
        while self.entries > 0 {
            let part = self.widened_by(groups);
            if let Ok(run) = part.whole(format, memory) {
                go_on_after(&part);
                return Ok(run);
            }
            self.entries = half(self.entries);
        }
        // Less than the largest group, or not all of it is there.
        for group in (1..=groups).rev() {
            let end = (first | low_bits(group)) + 1;
            self.entries = entries.min((end - first) as usize);
            let part = self.widened_by(group);
            if let Ok(run) = part.whole(format, memory) {
                go_on_after(&part);
                return Ok(run);
            }
        }
        (self.entries, self.around) = (1, Around::default());
        go_on_after(&self);
        self.whole(format, memory)
    }

    #[inline(always)]
    fn run_of<'m, F: Format>(&self, format: &F, words: &'m [F::Word]) -> Run<'m, F> {
        let offset = self.offset & !low_bits(self.node.shift);
        Run { format: *format, node: self.node, offset, words, around: self.around }
    }

    /// The next leaf among the entries, read by value, and the stretch after it.
    pub(crate) fn next_leaf<F: Format, M: ReadMemory<Output<F>>>(
        mut self,
        format: &F,
        memory: &M,
    ) -> Option<(Self, Found<F>)> {
        while self.entries > 0 {
            let offset = self.offset;
            self.entries -= 1;
            self.offset = self.node.next_entry(offset);
            let entry = <Output<F> as Address>::new(self.node.entry::<F>(offset));
            let word = match F::Word::load_from(memory, entry) {
                Ok(word) => swap::<F>(word),
                Err(error) => {
                    let at = format.address(offset);
                    return Some((self, Err(RangeError { at, error: error.into() })));
                }
            };
            let (offset, at) = (offset & !low_bits(self.node.shift), self.node.position());
            let around = Around::default();
            let entry = Run { format: *format, node: self.node, offset, words: &[], around };
            if has_groups::<F>() && matches!(decode(format, word, at), Entry::Leaf { .. }) {
                let (unit, base) = unit_by_value(format, memory, self.node, offset, word);
                let end = base.wrapping_add((unit.entries().end as u64) << at.shift);
                let further = end.wrapping_sub(offset) >> at.shift;
                self.entries = self.entries.saturating_sub(further as usize - 1);
                self.offset = end;
                let leaf = unit.leaf(format, at, base);
                return Some((self, leaf.ok_or_else(|| entry.no_leaf(offset, word))));
            }
            if let Some(leaf) = entry.leaf(self.node.position(), 0, word) {
                return Some((self, leaf));
            }
        }
        None
    }
}

/// log2 of how many entries a group has at most that stands in the table of `node`.
fn largest_group<F: Format>(format: &F, node: Node) -> u8 {
    format.geometry().largest_group(Level(node.level)).min(node.width)
}

/// The leaf to which `word` belongs, the entry for `offset` in the table of `node`; its neighbours
/// are read by value. With the offset from which its indices count.
fn unit_by_value<F: Format, M: ReadMemory<Output<F>>>(
    format: &F,
    memory: &M,
    node: Node,
    offset: u64,
    word: u64,
) -> (Unit, u64) {
    let at = node.position();
    let group = group_of(format, word, at).min(node.width);
    let base = offset & !low_bits(at.shift + group);
    let index = (offset.wrapping_sub(base) >> at.shift) as usize;
    let read = |index: usize| {
        let entry = node.entry::<F>(base.wrapping_add((index as u64) << at.shift));
        F::Word::load_from(memory, <Output<F> as Address>::new(entry)).ok().map(swap::<F>)
    };
    (unit(format, (at, base), (index, 1 << group), word, read), base)
}

/// A stretch, if any is left, and where the iteration stands after it.
pub(crate) type Next = (Place, Option<Stretch>);

/// A leaf, or why there is none.
pub(crate) type Found<F> = Result<LeafOf<F>, RangeError<Input<F>>>;

/// Where an iteration stands.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Place {
    pub(crate) trail: Trail,
    pub(crate) offset: u64,
    pub(crate) end: u64,
}

impl Place {
    /// The next stretch, if any is left, and where it goes on after it. (By value: what an iterator
    /// keeps may then stay in registers.)
    #[inline]
    pub(crate) fn next<F: Format, M: ReadMemory<Output<F>>>(
        mut self,
        format: &F,
        memory: &M,
    ) -> Result<Next, RangeError<Input<F>>> {
        let stretch = next_stretch(format, memory, &mut self.trail, &mut self.offset, self.end)?;
        Ok((self, stretch))
    }
}

/// The next run from `at` on and before `end`, if any is left; moves `at` on.
#[inline]
pub(crate) fn next_run<'m, F: Format, M: TableMemory<Output<F>>, L: Locks>(
    format: &F,
    memory: &'m M,
    trail: &mut Trail<L>,
    at: &mut u64,
    end: u64,
) -> Result<Option<Run<'m, F>>, RangeError<Input<F>>> {
    let stretch = next_stretch(format, memory, trail, at, end)?;
    stretch.map(|stretch| stretch.run(format, memory, at)).transpose()
}

/// Where the next run from `at` on and before `end` stands, if any is left; moves `at` on.
#[inline]
fn next_stretch<F: Format, M: ReadMemory<Output<F>>, L: Locks>(
    format: &F,
    memory: &M,
    trail: &mut Trail<L>,
    at: &mut u64,
    end: u64,
) -> Result<Option<Stretch>, RangeError<Input<F>>> {
    while *at < end {
        let offset = *at;
        let fail = |error| RangeError { at: format.address(offset), error };
        let stop = trail
            .seek(format, ByValue(memory), offset, 0)
            .map_err(|lost| fail(lost.error.into()))?;
        let node = stop.node;
        let entries = if node.level == 0 { node.entries(offset, end) } else { 1 };
        *at = node.next_entry(offset).wrapping_add((entries as u64 - 1) << node.shift).min(end);
        if node.level > 0 && !is_leaf(format, &stop, offset).map_err(fail)? {
            continue;
        }
        let mut stretch = Stretch { node, offset, entries, around: Around::default() };
        if has_groups::<F>() {
            if node.level > 0 {
                let (unit, _) = unit_by_value(format, memory, node, offset, stop.word);
                if unit.group == 0 {
                    return Ok(Some(stretch));
                }
                let next = (offset | low_bits(node.shift + unit.group)).wrapping_add(1).min(end);
                (stretch.entries, *at) = (node.entries(offset, next), next);
            }
            stretch = stretch.widened(format);
        }
        return Ok(Some(stretch));
    }
    Ok(None)
}

fn is_leaf<F: Format>(format: &F, stop: &Stop<F, ()>, offset: u64) -> Result<bool, Error> {
    match stop.decode(format) {
        Entry::Leaf { .. } => Ok(true),
        Entry::Absent => Ok(false),
        Entry::Malformed | Entry::Table { .. } => {
            Err(malformed(format, stop.node, stop.word, offset))
        }
    }
}
