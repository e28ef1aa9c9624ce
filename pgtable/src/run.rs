//! Runs: neighbouring entries of one table, none of which is a table, in place.

use core::ops::ControlFlow;

use crate::address::Address;
use crate::descent::{Node, decode};
use crate::error::{Error, RangeError};
use crate::format::{Entry, Format, Input, Output, base_shift};
use crate::geometry::{Level, Position};
use crate::group::{Unit, has_groups, unit_in};
use crate::space::Mapping;
use crate::walk::LeafOf;
use crate::word::{load_any, swap};

/// Neighbouring entries of one table, none of which is a table, in place.
///
/// They may be absent, and they may change while they are looked at; each is read once, by
/// [`leaves`](Self::leaves).
#[derive(Debug)]
pub struct Run<'m, F: Format> {
    pub(crate) format: F,
    pub(crate) node: Node,
    pub(crate) offset: u64,
    /// The entries, and for formats with groups, those before and after them that may belong to a
    /// group with one of them.
    pub(crate) words: &'m [F::Word],
    /// How many of those stand before and after.
    pub(crate) around: Around,
}

impl<F: Format> Clone for Run<'_, F> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<F: Format> Copy for Run<'_, F> {}

/// How many entries before and after those that are asked for are looked at too.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Around {
    pub(crate) before: u32,
    pub(crate) after: u32,
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

    /// The address of the first entry: for
    /// [`TableMemory::wrote`](crate::memory::TableMemory::wrote), if the entries are stored to.
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
    /// on.
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
    #[inline(never)]
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
            let mut leaves = self.leaves();
            while leaves.next < leaves.run.words().len() {
                let flow = match leaves.next_single(at) {
                    Some(leaf) => visit(leaf),
                    None => match self.next_leaf(&mut leaves.next) {
                        Some(leaf) => visit(leaf?),
                        None => break,
                    },
                };
                if let ControlFlow::Break(value) = flow {
                    return Ok(ControlFlow::Break(value));
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
    pub(crate) fn leaf(
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
    pub(crate) fn no_leaf(&self, offset: u64, word: u64) -> RangeError<Input<F>> {
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

impl<F: Format> RunLeaves<'_, F> {
    /// Where the entries stand.
    pub(crate) fn at(&self) -> Position {
        self.run.at()
    }

    /// The leaf that the next entry of a run at `at` is, if it is one by itself. Otherwise
    /// [`next`](Iterator::next) gives the next leaf. (A result would be kept in memory.)
    #[inline(always)]
    pub(crate) fn next_single(&mut self, at: Position) -> Option<LeafOf<F>> {
        let format = &self.run.format;
        let word = load_any::<F>(self.run.words().get(self.next)?, format.bits(at).present)?;
        let page = format.shortcuts(None).map(|shortcuts| shortcuts.step(0).usual());
        let usual = || at.level == Level(0) && page.is_some_and(|page| page.fits(word));
        // A usual page is none of a group.
        if has_groups::<F>() && !usual() {
            return None;
        }
        match self.run.leaf(at, self.next, word) {
            Some(Ok(leaf)) => {
                self.next += 1;
                Some(leaf)
            }
            Some(Err(_)) | None => None,
        }
    }
}

impl<F: Format> Iterator for RunLeaves<'_, F> {
    type Item = Result<LeafOf<F>, RangeError<Input<F>>>;

    #[inline(always)]
    fn next(&mut self) -> Option<Self::Item> {
        match self.next_single(self.run.at()) {
            Some(leaf) => Some(Ok(leaf)),
            None => self.run.next_leaf(&mut self.next),
        }
    }
}
