//! The quick descent: to the last level through the usual entries, as a format's [`Shortcuts`] know
//! them.
//!
//! It carries only the table's address from level to level, so that its code is small enough to
//! stand in the caller's loop with the compared values in registers. Where it meets anything else,
//! it says what ([`Unusual`]): that may be a larger leaf. Otherwise its caller starts again at the
//! root.

use core::marker::PhantomData;

use crate::descent::{Node, Reading, Recogniser, down};
use crate::format::Format;
use crate::shortcut::{Shortcuts, Step};

/// An entry that was reached through usual entries.
pub(crate) struct Last<S> {
    /// Its level: the last, but where another was asked for.
    level: u8,
    /// The table in which it stands.
    pub(crate) table: u64,
    /// The entry in memory, for a writer.
    pub(crate) slot: S,
    /// What it held when it was read.
    pub(crate) word: u64,
    /// The usual entries of its level.
    pub(crate) step: Step,
}

impl<S> Last<S> {
    /// The table.
    #[inline(always)]
    pub(crate) fn node<F: Format>(&self) -> Node {
        let (shift, width) = (self.step.shift_of::<F>(), self.step.width());
        Node { table: self.table, level: self.level, width, shift }
    }
}

/// The entry at which a quick descent ended above the last level.
#[derive(Clone, Copy)]
pub(crate) struct Unusual {
    /// Its level; 0 if there is none that could be a larger leaf.
    pub(crate) level: u8,
    /// log2 of what it covers.
    pub(crate) shift: u8,
    /// What it held when it was read.
    pub(crate) word: u64,
}

impl Unusual {
    pub(crate) const NONE: Self = Self { level: 0, shift: 0, word: 0 };
}

/// Descends from the root at `root` to the last level.
#[inline(always)]
pub(crate) fn descend_quickly<F: Format, R: Reading<F>>(
    shortcuts: &Shortcuts,
    memory: R,
    root: u64,
    offset: u64,
) -> Result<Last<R::Slot>, Unusual> {
    // Of a tree of four levels, as most are, no level is asked whether it is there.
    let table = if shortcuts.root() == 3 {
        to_table::<F, R>(shortcuts, memory, (3, root), 0, offset)?
    } else {
        to_table::<F, R>(shortcuts, memory, (shortcuts.root(), root), 0, offset)?
    };
    match entry::<F, R>(shortcuts, memory, (0, table), offset) {
        Some(last) => Ok(last),
        None => Err(Unusual::NONE),
    }
}

/// The entry for `offset` of `table`, of that level.
#[inline(always)]
pub(crate) fn entry<F: Format, R: Reading<F>>(
    shortcuts: &Shortcuts,
    memory: R,
    (level, table): (u8, u64),
    offset: u64,
) -> Option<Last<R::Slot>> {
    let step = shortcuts.step(level);
    match memory.read(step.entry(table, offset)) {
        Ok((slot, word)) => Some(Last { level, table, slot, word, step }),
        Err(_) => None,
    }
}

/// Descends from the table `from` (its level and its address) to the table of level `floor`.
#[inline(always)]
pub(crate) fn to_table<F: Format, R: Reading<F>>(
    shortcuts: &Shortcuts,
    memory: R,
    from: (u8, u64),
    floor: u8,
    offset: u64,
) -> Result<u64, Unusual> {
    to_table_by::<F, R>(shortcuts, memory, from, floor, offset, |_, _| ())
}

/// The same; `enter` sees the level and the address of each table below `from`.
#[inline(always)]
pub(crate) fn to_table_by<F: Format, R: Reading<F>>(
    shortcuts: &Shortcuts,
    memory: R,
    from: (u8, u64),
    floor: u8,
    offset: u64,
    enter: impl FnMut(u8, u64),
) -> Result<u64, Unusual> {
    let mut usual = Usual::<F, R, _> { shortcuts, memory, offset, enter, format: PhantomData };
    // Tables are aligned to words. Said here, it is not asked again at the first entry.
    down(&mut usual, from.0, floor, from.1 & !7)
}

/// Recognises the usual entries. A table is its address.
struct Usual<'u, F, R, E> {
    shortcuts: &'u Shortcuts,
    memory: R,
    offset: u64,
    enter: E,
    format: PhantomData<F>,
}

impl<F: Format, R: Reading<F>, E: FnMut(u8, u64)> Recogniser for Usual<'_, F, R, E> {
    type Table = u64;
    type End = Unusual;

    #[inline(always)]
    fn below(&mut self, level: u8, table: u64) -> Result<u64, Unusual> {
        let step = self.shortcuts.step(level);
        match self.memory.read(step.entry(table, self.offset)) {
            Ok((_, word)) => match step.address(word) {
                Some(table) => {
                    (self.enter)(level - 1, table);
                    Ok(table)
                }
                None => Err(Unusual { level, shift: step.shift_of::<F>(), word }),
            },
            Err(_) => Err(Unusual::NONE),
        }
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
