//! Iteration over what is mapped: by runs of one table (the fast form, which everything else is
//! built on), by leaves, as an `Iterator`, coalesced.

use core::ops::ControlFlow;

use crate::address::{Address, low_bits};
use crate::descent::{ByValue, Node, Stop, Trail, decode};
use crate::error::{Error, RangeError};
use crate::format::{Entry, Format, Input, Output, base_shift};
use crate::geometry::{Level, Position};
use crate::group::{Unit, group_of, has_groups, unit, unit_in};
use crate::lock::Locks;
use crate::memory::{ReadMemory, TableMemory};
use crate::space::Mapping;
use crate::table_word::TableWord as _;
use crate::walk::{LeafOf, Walker, bounds, malformed};
use crate::word::{load_any, swap};

/// Neighbouring entries of one table, none of which is a table, in place.
///
/// They may be absent, and they may change while they are looked at; each is read once, by
/// [`leaves`](Self::leaves).
#[derive(Debug)]
pub struct Run<'m, F: Format> {
    format: F,
    node: Node,
    offset: u64,
    /// The entries, and for formats with groups, those before and after them that may belong to a
    /// group with one of them.
    words: &'m [F::Word],
    /// How many of those stand before and after.
    around: Around,
}

impl<F: Format> Clone for Run<'_, F> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<F: Format> Copy for Run<'_, F> {}

/// How many entries before and after those that are asked for are looked at too.
#[derive(Clone, Copy, Debug, Default)]
struct Around {
    before: u32,
    after: u32,
}

impl<'m, F: Format> Run<'m, F> {
    /// Where the entries stand.
    #[must_use]
    pub fn at(&self) -> Position {
        self.node.position()
    }

    /// The first address that the first entry covers.
    #[must_use]
    pub fn input(&self) -> Input<F> {
        self.format.address(self.offset)
    }

    pub(crate) fn format(&self) -> &F {
        &self.format
    }

    pub(crate) fn offset(&self) -> u64 {
        self.offset
    }

    /// The address of the first entry: for [`TableMemory::wrote`], if the entries are stored to.
    #[must_use]
    pub fn entry(&self) -> Output<F> {
        <Output<F> as Address>::new(self.node.entry::<F>(self.offset))
    }

    /// Whether `word`, as loaded from memory, is a leaf here.
    #[inline(always)]
    pub(crate) fn is_leaf(&self, word: u64) -> bool {
        matches!(decode(&self.format, swap::<F>(word), self.at()), Entry::Leaf { .. })
    }

    /// The entries in memory order of bytes, as hardware sees them.
    #[must_use]
    pub fn words(&self) -> &'m [F::Word] {
        if !has_groups::<F>() {
            return self.words;
        }
        let (before, after) = (self.around.before as usize, self.around.after as usize);
        self.words.get(before..self.words.len() - after).unwrap_or_default()
    }

    /// The offset that the first entry covers, those around included.
    fn base(&self) -> u64 {
        self.offset.wrapping_sub(u64::from(self.around.before) << self.node.shift)
    }

    /// The offset that the entry of that index covers, those around counted too.
    pub(crate) fn offset_of(&self, index: usize) -> u64 {
        self.base().wrapping_add((index as u64) << self.node.shift)
    }

    /// The entries of `unit`.
    pub(crate) fn entries_of(&self, unit: Unit) -> &'m [F::Word] {
        self.words.get(unit.entries()).unwrap_or_default()
    }

    /// The next present entry, or the group to which it belongs, from the `next`th on; moves `next`
    /// on. For formats with groups.
    pub(crate) fn next_unit(&self, next: &mut usize) -> Option<Unit> {
        let (present, at) = (self.format.bits(self.at()).present, self.at());
        let before = self.around.before as usize;
        while let Some(memory) = self.words().get(*next) {
            let index = before + *next;
            *next += 1;
            let Some(word) = load_any::<F>(memory, present) else { continue };
            let unit = match decode(&self.format, word, at) {
                Entry::Absent => continue,
                Entry::Leaf { .. } => {
                    unit_in(&self.format, (at, self.base()), self.words, index, word)
                }
                Entry::Malformed | Entry::Table { .. } => Unit { first: index, group: 0, word },
            };
            *next = unit.entries().end - before;
            return Some(unit);
        }
        None
    }

    /// The next leaf, as [`next_unit`](Self::next_unit).
    fn next_leaf(&self, next: &mut usize) -> Option<Result<LeafOf<F>, RangeError<Input<F>>>> {
        let unit = self.next_unit(next)?;
        let leaf = unit.leaf(&self.format, self.at(), self.base());
        Some(leaf.ok_or_else(|| self.no_leaf(self.offset_of(unit.first), unit.word)))
    }

    /// The leaves among the entries, in order. An entry that is present and no leaf is an error.
    #[inline(always)]
    pub fn leaves(&self) -> RunLeaves<'m, F> {
        RunLeaves { run: *self, next: 0 }
    }

    /// Calls `visit` for each leaf, until it breaks: the innermost loop of iteration, and the
    /// fastest.
    ///
    /// # Errors
    /// [`Error::Malformed`] for an entry that is present and no leaf.
    #[inline(always)]
    pub fn visit<B>(
        &self,
        mut visit: impl FnMut(LeafOf<F>) -> ControlFlow<B>,
    ) -> Result<ControlFlow<B>, RangeError<Input<F>>> {
        let shift = base_shift(&self.format);
        let (here, usual) = (self.at(), Position { level: Level(0), shift });
        // The same, but in the usual case of a place that many formats know as a constant.
        if here == usual {
            self.visit_at(usual, &mut visit)
        } else {
            self.visit_at(here, &mut visit)
        }
    }

    #[inline(always)]
    fn visit_at<B>(
        &self,
        at: Position,
        visit: &mut impl FnMut(LeafOf<F>) -> ControlFlow<B>,
    ) -> Result<ControlFlow<B>, RangeError<Input<F>>> {
        let present = self.format.bits(at).present;
        if has_groups::<F>() {
            let (words, mut next) = (self.words(), 0);
            while let Some(memory) = words.get(next) {
                let word = load_any::<F>(memory, present);
                let leaf = match word {
                    Some(word) if group_of(&self.format, word, at) > 0 => self.next_leaf(&mut next),
                    _ => {
                        next += 1;
                        word.and_then(|word| self.leaf(at, next - 1, word))
                    }
                };
                match leaf.map(|leaf| leaf.map(&mut *visit)).transpose()? {
                    Some(ControlFlow::Break(value)) => return Ok(ControlFlow::Break(value)),
                    Some(ControlFlow::Continue(())) | None => {}
                }
            }
            return Ok(ControlFlow::Continue(()));
        }
        for (index, memory) in self.words.iter().enumerate() {
            if let Some(word) = load_any::<F>(memory, present) {
                if let Some(leaf) = self.leaf(at, index, word) {
                    if let ControlFlow::Break(value) = visit(leaf?) {
                        return Ok(ControlFlow::Break(value));
                    }
                }
            }
        }
        Ok(ControlFlow::Continue(()))
    }

    /// The leaf that `word`, the entry of that index, is; `None` if it is absent.
    #[inline(always)]
    fn leaf(
        &self,
        at: Position,
        index: usize,
        word: u64,
    ) -> Option<Result<LeafOf<F>, RangeError<Input<F>>>> {
        let offset = self.offset + ((index as u64) << at.shift);
        match self.format.decode(word, at) {
            Entry::Leaf { output, attributes } => {
                let input = self.format.address(offset);
                Some(Ok(Mapping { input, output, bytes: at.size(), shift: at.shift, attributes }))
            }
            Entry::Absent => None,
            Entry::Malformed | Entry::Table { .. } => Some(Err(self.no_leaf(offset, word))),
        }
    }

    #[cold]
    fn no_leaf(&self, offset: u64, word: u64) -> RangeError<Input<F>> {
        let error = Error::Malformed {
            at: self.node.position(),
            entry: self.node.entry::<F>(offset),
            word,
        };
        RangeError { at: self.format.address(offset), error }
    }
}

/// The leaves of a [`Run`].
#[derive(Clone, Debug)]
pub struct RunLeaves<'m, F: Format> {
    run: Run<'m, F>,
    next: usize,
}

impl<F: Format> Iterator for RunLeaves<'_, F> {
    type Item = Result<LeafOf<F>, RangeError<Input<F>>>;

    #[inline(always)]
    fn next(&mut self) -> Option<Self::Item> {
        if has_groups::<F>() {
            return self.run.next_leaf(&mut self.next);
        }
        let present = self.run.format.bits(self.run.at()).present;
        while let Some(memory) = self.run.words.get(self.next) {
            self.next += 1;
            if let Some(word) = load_any::<F>(memory, present) {
                if let Some(leaf) = self.run.leaf(self.run.at(), self.next - 1, word) {
                    return Some(leaf);
                }
            }
        }
        None
    }
}

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
        let largest = format.geometry().largest_group(Level(self.node.level)).min(self.node.width);
        let first = self.node.index(self.offset);
        let before = first & low_bits(largest);
        let after = (first + self.entries as u64).wrapping_neg() & low_bits(largest);
        // Both are less than 2^MAX_GROUP.
        let around = Around { before: before as u32, after: after as u32 };
        Self { around, ..self }
    }

    /// The same entries in place.
    #[inline(always)]
    fn run<'m, F: Format, M: TableMemory<Output<F>>>(
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
    fn in_place<'m, F: Format, M: ReadMemory<Output<F>>>(
        &self,
        format: &F,
        memory: &'m M,
    ) -> Option<Run<'m, F>> {
        let (first, entries) = self.wide::<F>();
        F::Word::in_place(memory, first, entries).map(|words| self.run_of(format, words))
    }

    #[inline(always)]
    fn run_of<'m, F: Format>(&self, format: &F, words: &'m [F::Word]) -> Run<'m, F> {
        let offset = self.offset & !low_bits(self.node.shift);
        Run { format: *format, node: self.node, offset, words, around: self.around }
    }

    /// The next leaf among the entries, read by value, and the stretch after it.
    fn next_leaf<F: Format, M: ReadMemory<Output<F>>>(
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
type Next = (Place, Option<Stretch>);

/// A leaf, or why there is none.
type Found<F> = Result<LeafOf<F>, RangeError<Input<F>>>;

/// Where an iteration stands.
#[derive(Clone, Copy, Debug)]
struct Place {
    trail: Trail,
    offset: u64,
    end: u64,
}

impl Place {
    /// The next stretch, if any is left, and where it goes on after it. (By value: what an iterator
    /// keeps may then stay in registers.)
    #[inline]
    fn next<F: Format, M: ReadMemory<Output<F>>>(
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
    stretch.map(|stretch| stretch.run(format, memory)).transpose()
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

impl<F: Format, M: TableMemory<Output<F>>> Walker<F, M> {
    /// Calls `visit` for each run of entries in the `bytes` bytes from `input` on, in order, until
    /// it breaks: whole last-level tables (or the part of them in the range) and single larger
    /// leaves. The fast way to look at a range.
    ///
    /// ```
    /// # use pgtable_conformance::prelude::*;
    /// # pgtable_conformance::example!(mapped: tree, gather);
    /// # let walker = tree.walker();
    /// let mut entries = 0;
    /// let _ = walker.for_each_run(Gva::new(0), 1 << 30, |run| {
    ///     entries += run.words().len();
    ///     ControlFlow::<()>::Continue(())
    /// })?;
    /// assert_eq!(entries, 512);
    /// # gather.finish(tree.tables())?;
    /// # Ok::<(), Box<dyn core::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// [`RangeError`]: a range that is none of this space, a malformed entry above the last level,
    /// a table outside table memory. Everything before that address was visited.
    #[inline]
    pub fn for_each_run<B>(
        &self,
        input: Input<F>,
        bytes: u64,
        mut visit: impl FnMut(Run<'_, F>) -> ControlFlow<B>,
    ) -> Result<ControlFlow<B>, RangeError<Input<F>>> {
        let mut place = self.place(input, bytes)?;
        while let (next, Some(stretch)) = place.next(self.format(), self.memory())? {
            place = next;
            if let ControlFlow::Break(value) = visit(stretch.run(self.format(), self.memory())?) {
                return Ok(ControlFlow::Break(value));
            }
        }
        Ok(ControlFlow::Continue(()))
    }
}

impl<F: Format, M: ReadMemory<Output<F>>> Walker<F, M> {
    fn place(&self, input: Input<F>, bytes: u64) -> Result<Place, RangeError<Input<F>>> {
        let (offset, end) = bounds(self.format(), input, bytes, 0)?;
        Ok(Place { trail: Trail::new(self.root_node()), offset, end })
    }

    /// Calls `visit` for each leaf in the `bytes` bytes from `input` on, in order, until it breaks.
    ///
    /// ```
    /// # use pgtable_conformance::prelude::*;
    /// # pgtable_conformance::example!(mapped: tree, gather);
    /// # let walker = tree.walker();
    /// let found = walker.for_each(Gva::new(0), 1 << 30, |page| match page.output.get() {
    ///     0x80_3000 => ControlFlow::Break(page.input),
    ///     _ => ControlFlow::Continue(()),
    /// })?;
    /// assert_eq!(found, ControlFlow::Break(Gva::new(0x3000)));
    /// # gather.finish(tree.tables())?;
    /// # Ok::<(), Box<dyn core::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// [`RangeError`]: a range that is none of this space, a malformed entry, a table outside table
    /// memory. Everything before that address was visited.
    #[inline]
    pub fn for_each<B>(
        &self,
        input: Input<F>,
        bytes: u64,
        mut visit: impl FnMut(LeafOf<F>) -> ControlFlow<B>,
    ) -> Result<ControlFlow<B>, RangeError<Input<F>>> {
        let mut place = self.place(input, bytes)?;
        while let (next, Some(stretch)) = place.next(self.format(), self.memory())? {
            place = next;
            let flow = match stretch.in_place(self.format(), self.memory()) {
                Some(run) => run.visit(&mut visit)?,
                None => self.visit_by_value(stretch, &mut visit)?,
            };
            if let ControlFlow::Break(value) = flow {
                return Ok(ControlFlow::Break(value));
            }
        }
        Ok(ControlFlow::Continue(()))
    }

    /// The leaves of a stretch that memory gives by value only.
    #[inline(never)]
    fn visit_by_value<B>(
        &self,
        mut stretch: Stretch,
        visit: &mut impl FnMut(LeafOf<F>) -> ControlFlow<B>,
    ) -> Result<ControlFlow<B>, RangeError<Input<F>>> {
        while let Some((rest, leaf)) = stretch.next_leaf(self.format(), self.memory()) {
            stretch = rest;
            if let ControlFlow::Break(value) = visit(leaf?) {
                return Ok(ControlFlow::Break(value));
            }
        }
        Ok(ControlFlow::Continue(()))
    }

    /// The leaves in the `bytes` bytes from `input` on, in order. Ends after the first error.
    ///
    /// [`for_each_run`](Self::for_each_run) is the faster form.
    ///
    /// ```
    /// # use pgtable_conformance::prelude::*;
    /// # pgtable_conformance::example!(mapped: tree, gather);
    /// # let walker = tree.walker();
    /// for page in walker.iter(Gva::new(0x1000), 0x2000)? {
    ///     let page = page?;
    ///     println!("{} is {}", page.input, page.output);
    /// }
    /// assert_eq!(walker.iter(Gva::new(0x1000), 0x2000)?.count(), 2);
    /// # gather.finish(tree.tables())?;
    /// # Ok::<(), Box<dyn core::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// [`Error::Range`] for a range that is none of this space; the items' errors are those of
    /// [`for_each`](Self::for_each).
    pub fn iter(
        &self,
        input: Input<F>,
        bytes: u64,
    ) -> Result<LeafIter<'_, F, M>, RangeError<Input<F>>> {
        let place = self.place(input, bytes)?;
        Ok(LeafIter { walker: self, place, run: None, by_value: None, failed: false })
    }

    /// Calls `visit` for each mapping in the `bytes` bytes from `input` on, in order, until it
    /// breaks: neighbouring leaves of one size whose outputs are neighbours too and whose
    /// attributes are equal come as one.
    ///
    /// ```
    /// # use pgtable_conformance::prelude::*;
    /// # pgtable_conformance::example!(mapped: tree, gather);
    /// # let walker = tree.walker();
    /// let mut all = Vec::new();
    /// let _ = walker.for_each_coalesced(Gva::new(0), 1 << 30, |mapping| {
    ///     all.push((mapping.input, mapping.bytes));
    ///     ControlFlow::<()>::Continue(())
    /// })?;
    /// assert_eq!(all, [(Gva::new(0), 0x20_0000)]);
    /// # gather.finish(tree.tables())?;
    /// # Ok::<(), Box<dyn core::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// As [`for_each`](Self::for_each).
    pub fn for_each_coalesced<B>(
        &self,
        input: Input<F>,
        bytes: u64,
        mut visit: impl FnMut(LeafOf<F>) -> ControlFlow<B>,
    ) -> Result<ControlFlow<B>, RangeError<Input<F>>> {
        let mut pending: Option<LeafOf<F>> = None;
        let flow = self.for_each(input, bytes, |leaf| match &mut pending {
            Some(mapping) if continues(mapping, &leaf) => {
                mapping.bytes += leaf.bytes;
                ControlFlow::Continue(())
            }
            _ => pending.replace(leaf).map_or(ControlFlow::Continue(()), &mut visit),
        });
        // What was collected before an error, or before the end, is still to be shown.
        let last = match (&flow, pending) {
            (Ok(ControlFlow::Break(_)), _) | (_, None) => ControlFlow::Continue(()),
            (_, Some(mapping)) => visit(mapping),
        };
        match (flow?, last) {
            (ControlFlow::Continue(()), last) => Ok(last),
            (flow, _) => Ok(flow),
        }
    }
}

fn continues<I: Address, O: Address, T: Eq>(
    mapping: &Mapping<I, O, T>,
    leaf: &Mapping<I, O, T>,
) -> bool {
    mapping.shift == leaf.shift
        && mapping.attributes == leaf.attributes
        && mapping.input.checked_add(mapping.bytes) == Some(leaf.input)
        && mapping.output.checked_add(mapping.bytes) == Some(leaf.output)
}

/// The leaves of a range, as [`Walker::iter`] gives them.
#[derive(Debug)]
pub struct LeafIter<'m, F: Format, M> {
    walker: &'m Walker<F, M>,
    place: Place,
    run: Option<RunLeaves<'m, F>>,
    /// What is left of a stretch that memory gives by value only.
    by_value: Option<Stretch>,
    failed: bool,
}

impl<F: Format, M: ReadMemory<Output<F>>> Iterator for LeafIter<'_, F, M> {
    type Item = Result<LeafOf<F>, RangeError<Input<F>>>;

    #[inline]
    fn next(&mut self) -> Option<Self::Item> {
        if self.failed {
            return None;
        }
        loop {
            if let Some(leaf) = self.run.as_mut().and_then(Iterator::next) {
                self.failed = leaf.is_err();
                return Some(leaf);
            }
            let (format, memory) = (self.walker.format(), self.walker.memory());
            if let Some(stretch) = self.by_value.take() {
                if let Some((rest, leaf)) = stretch.next_leaf(format, memory) {
                    self.by_value = Some(rest);
                    self.failed = leaf.is_err();
                    return Some(leaf);
                }
            }
            match self.place.next(format, memory) {
                Ok((place, Some(stretch))) => {
                    let run = stretch.in_place(format, memory).map(|run| run.leaves());
                    self.by_value = if run.is_none() { Some(stretch) } else { None };
                    (self.place, self.run) = (place, run);
                }
                Ok((_, None)) => return None,
                Err(error) => {
                    self.failed = true;
                    return Some(Err(error));
                }
            }
        }
    }
}
