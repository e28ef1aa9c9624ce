//! The quick descent: to the last level through the usual entries, as a format's [`Shortcuts`] know
//! them.
//!
//! It keeps nothing: where it meets anything else, it answers `None`, and its caller starts again
//! at the root. So only the table's address is carried from level to level, and the code is small
//! enough to stand in the caller's loop with the compared values in registers.

use core::marker::PhantomData;

use crate::descent::{Node, Reading, Recogniser, down};
use crate::format::Format;
use crate::shortcut::{Shortcuts, Step};

/// A last-level entry that was reached through usual entries.
pub(crate) struct Last<S> {
    /// The table in which it stands.
    pub(crate) table: u64,
    /// The entry in memory, for a writer.
    pub(crate) slot: S,
    /// What it held when it was read.
    pub(crate) word: u64,
    /// The usual entries of its table.
    pub(crate) step: Step,
}

impl<S> Last<S> {
    /// The last-level table.
    #[inline(always)]
    pub(crate) fn node(&self) -> Node {
        let (shift, width) = (self.step.shift(), self.step.width());
        Node { table: self.table, level: 0, width, shift }
    }
}

/// Descends from the root at `root` to the last level.
#[inline(always)]
pub(crate) fn descend_quickly<F: Format, R: Reading<F>>(
    shortcuts: &Shortcuts,
    memory: R,
    root: u64,
    offset: u64,
) -> Option<Last<R::Slot>> {
    let table = to_table::<F, R>(shortcuts, memory, (shortcuts.root(), root), 0, offset)?;
    last::<F, R>(shortcuts, memory, table, offset)
}

/// Descends from the table `from` (its level and its address) to the table of level `floor`.
#[inline(always)]
pub(crate) fn to_table<F: Format, R: Reading<F>>(
    shortcuts: &Shortcuts,
    memory: R,
    from: (u8, u64),
    floor: u8,
    offset: u64,
) -> Option<u64> {
    let mut usual = Usual::<F, R> { shortcuts, memory, offset, format: PhantomData };
    down(&mut usual, from.0, floor, from.1).ok()
}

/// Recognises the usual entries. A table is its address.
struct Usual<'u, F, R> {
    shortcuts: &'u Shortcuts,
    memory: R,
    offset: u64,
    format: PhantomData<F>,
}

impl<F: Format, R: Reading<F>> Recogniser for Usual<'_, F, R> {
    type Table = u64;
    type End = ();

    #[inline(always)]
    fn below(&mut self, level: u8, table: u64) -> Result<u64, ()> {
        match below::<F, R>(self.shortcuts.step(level), self.memory, table, self.offset) {
            Some(table) => Ok(table),
            None => Err(()),
        }
    }
}

/// The entry for `offset` of the last-level table `table`.
#[inline(always)]
pub(crate) fn last<F: Format, R: Reading<F>>(
    shortcuts: &Shortcuts,
    memory: R,
    table: u64,
    offset: u64,
) -> Option<Last<R::Slot>> {
    let step = shortcuts.step(0);
    match memory.read(step.entry(table, offset)) {
        Ok((slot, word)) => Some(Last { table, slot, word, step }),
        Err(_) => None,
    }
}

/// The table for `offset` below `table`, by a usual entry.
#[inline(always)]
pub(crate) fn below<F: Format, R: Reading<F>>(
    step: Step,
    memory: R,
    table: u64,
    offset: u64,
) -> Option<u64> {
    match memory.read(step.entry(table, offset)) {
        Ok((_, word)) => step.address(word),
        Err(_) => None,
    }
}
