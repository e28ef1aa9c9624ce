//! The quick descent: to the last level through tables of the usual kind, for single translations
//! and single pages. Where it does not come there it says how far it came, and [`Halt::go_on`] goes
//! on from that.

use crate::address::Address;
use crate::descent::{Lost, Node, Reading, decode};
use crate::format::{Entry, Format};
use crate::geometry::{Level, Position};
use crate::memory::MemoryError;

/// A last-level entry that was reached through tables that are all as the geometry predicts.
pub(crate) struct Last<S> {
    /// The table in which it stands.
    pub(crate) table: u64,
    /// The entry in memory, for a writer.
    pub(crate) slot: S,
    /// What it held when it was read.
    pub(crate) word: u64,
}

impl<S> Last<S> {
    /// The last-level table, which is as the geometry says.
    #[inline(always)]
    pub(crate) fn node<F: Format>(&self, format: &F) -> Node {
        Node::predicted(format, self.table, 0)
    }
}

/// Where a quick descent gave up: at the entry for the offset in this table. Numbers only: nothing
/// had to be in memory for it.
#[derive(Clone, Copy)]
pub(crate) struct Halt {
    pub(crate) table: u64,
    pub(crate) level: u8,
    pub(crate) seen: Seen,
}

/// What a quick descent saw where it gave up.
#[derive(Clone, Copy)]
pub(crate) enum Seen {
    /// It has not looked.
    Nothing,
    /// The entry.
    Word(u64),
    /// That the entry is not there.
    Refused(MemoryError),
}

impl Halt {
    /// At the beginning.
    #[inline(always)]
    pub(crate) fn at_root<F: Format>(format: &F, root: u64) -> Self {
        Self { table: root, level: format.geometry().root().0, seen: Seen::Nothing }
    }

    /// Goes on to where the descent ends, through whatever tables there are: the table there, the
    /// word, and what the way from here on restricts.
    pub(crate) fn go_on<F: Format, R: Reading<F>>(
        self,
        format: &F,
        memory: R,
        offset: u64,
    ) -> Result<(Node, u64, F::Path), Lost> {
        let read = |node: Node| match memory.read(node.entry(offset)) {
            Ok((_, word)) => Ok(word),
            Err(error) => Err(Lost { node, error }),
        };
        let (mut node, mut path) =
            (Node::predicted(format, self.table, self.level), F::Path::default());
        let mut word = match self.seen {
            Seen::Nothing => read(node)?,
            Seen::Word(word) => word,
            Seen::Refused(error) => return Err(Lost { node, error }),
        };
        while let Entry::Table { table, width } = decode(format, word, node.position()) {
            path = format.restrict(path, word);
            node = node.below(table.get(), width);
            word = read(node)?;
        }
        Ok((node, word, path))
    }
}

/// Descends from the root at `root` to the last level, through tables that `table` recognises: what
/// single translations and single pages are made of.
///
/// It is straight-line code for trees of four and of five levels, has no case but one, and carries
/// one number from level to level: so it is small enough to stand in the caller's loop, with all
/// that the format compares with in registers.
#[inline(always)]
pub(crate) fn descend_to_last<F: Format, R: Reading<F>>(
    format: &F,
    memory: R,
    root: u64,
    offset: u64,
    table: impl Fn(u64, Position) -> Option<u64>,
) -> Result<Last<R::Slot>, Halt> {
    finish_quickly(
        format,
        memory,
        descend_quickly(format, memory, root, offset, &table)?,
        offset,
        &table,
    )
}

/// The first part of [`descend_to_last`]: to the table of level 1.
#[inline(always)]
pub(crate) fn descend_quickly<F: Format, R: Reading<F>>(
    format: &F,
    memory: R,
    root: u64,
    offset: u64,
    table: impl Fn(u64, Position) -> Option<u64>,
) -> Result<u64, Halt> {
    let step = |above, level| step(format, memory, (above, level), offset, &table);
    let top = match format.geometry().root().0 {
        4 => step(root, 4)?,
        3 => root,
        level => return Err(Halt { table: root, level, seen: Seen::Nothing }),
    };
    step(step(top, 3)?, 2)
}

/// The second part: from the table `upper` of level 1 on.
#[inline(always)]
pub(crate) fn finish_quickly<F: Format, R: Reading<F>>(
    format: &F,
    memory: R,
    upper: u64,
    offset: u64,
    table: impl Fn(u64, Position) -> Option<u64>,
) -> Result<Last<R::Slot>, Halt> {
    let table = step(format, memory, (upper, 1), offset, table)?;
    let (slot, word) = read(format, memory, (table, 0), offset)?;
    Ok(Last { table, slot, word })
}

/// The entry for `offset` of a table of that level.
#[inline(always)]
fn read<F: Format, R: Reading<F>>(
    format: &F,
    memory: R,
    (table, level): (u64, u8),
    offset: u64,
) -> Result<(R::Slot, u64), Halt> {
    let entry = table.wrapping_add(format.entry_offset(level, offset));
    match memory.read(entry) {
        Ok(read) => Ok(read),
        Err(error) => Err(Halt { table, level, seen: Seen::Refused(error) }),
    }
}

/// The table for `offset` below a table of that level, as `table` recognises it.
#[inline(always)]
fn step<F: Format, R: Reading<F>>(
    format: &F,
    memory: R,
    (above, level): (u64, u8),
    offset: u64,
    table: impl Fn(u64, Position) -> Option<u64>,
) -> Result<u64, Halt> {
    let (_, word) = read(format, memory, (above, level), offset)?;
    let below = table(word, Position { level: Level(level), shift: format.shift(level) });
    below.ok_or(Halt { table: above, level, seen: Seen::Word(word) })
}
