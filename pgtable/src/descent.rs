//! The descent: from a table towards the page that covers an address.
//!
//! Its parameter, a [`Recogniser`], recognises tables: by shortcuts (the module `quick`: single
//! translations, anchored, batches, two stages, verbs of single pages), or by decoding
//! ([`descend`]: everything else, and whatever the shortcuts do not recognise, from the root
//! again). The loop over levels stands here in two forms, and nowhere else: written out for what is
//! small ([`down`]), and as a loop for decoding, whose step is too large to stand there seven
//! times.
//!
//! A descent is bounded on any memory content: each step goes one level down, and every load goes
//! through [`ReadMemory`]. Each decision is made on one reading of each word. A walk reads each
//! word at most twice: by the shortcuts, and by decoding.
//!
//! Walkers descend by value ([`ByValue`]), writers in place ([`InPlace`]): one descent, which keeps
//! what [`Reading`] gives it.

use crate::address::{Address, low_bits};
use crate::error::Error;
use crate::format::{Entry, EntryOf, Format, Output};
use crate::geometry::{Level, MAX_LEVELS, Position};
use crate::memory::{MemoryError, ReadMemory, TableMemory};
use crate::table_word::TableWord as _;
use crate::word::{Word, swap};

/// A table, as the entry above it (or the root register) describes it.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Node {
    /// Its address in the stage's output space.
    pub(crate) table: u64,
    /// Its level.
    pub(crate) level: u8,
    /// Its index bits.
    pub(crate) width: u8,
    /// log2 of what one of its entries covers.
    pub(crate) shift: u8,
}

impl Node {
    /// The root table of a tree of `format`.
    #[inline(always)]
    pub(crate) fn root<F: Format>(format: &F, table: u64) -> Self {
        let geometry = format.geometry();
        let level = geometry.root();
        Self { table, level: level.0, width: geometry.width(level), shift: geometry.shift(level) }
    }

    #[inline(always)]
    pub(crate) fn position(self) -> Position {
        Position { level: Level(self.level), shift: self.shift }
    }

    /// Which entry covers `offset`.
    #[inline(always)]
    pub(crate) fn index(self, offset: u64) -> u64 {
        (offset >> self.shift) & low_bits(self.width)
    }

    /// The address of the entry that covers `offset`. A table is aligned to its size wherever the
    /// format says so; where a hostile one is not, this wraps and table memory refuses.
    #[inline(always)]
    pub(crate) fn entry<F: Format>(self, offset: u64) -> u64 {
        self.table.wrapping_add(self.index(offset) << F::Word::SHIFT)
    }

    /// log2 of what the whole table covers.
    #[inline(always)]
    pub(crate) fn span(self) -> u8 {
        self.shift + self.width
    }

    /// The offset one past the entry that covers `offset`.
    #[inline(always)]
    pub(crate) fn next_entry(self, offset: u64) -> u64 {
        (offset | low_bits(self.shift)).wrapping_add(1)
    }

    /// How many entries from the one that covers `offset` on lie in this table and before `end`.
    #[inline(always)]
    pub(crate) fn entries(self, offset: u64, end: u64) -> usize {
        let table_end = (offset | low_bits(self.span())).wrapping_add(1);
        let stop = if table_end == 0 { end } else { table_end.min(end) };
        (stop.wrapping_sub(offset & !low_bits(self.shift)).wrapping_add(low_bits(self.shift))
            >> self.shift) as usize
    }

    /// The table that `table` with `width` index bits is, one level further down.
    #[inline(always)]
    pub(crate) fn below(self, table: u64, width: u8) -> Self {
        Self { table, level: self.level - 1, width, shift: self.shift - width }
    }
}

/// How a descent reads entries.
pub(crate) trait Reading<F: Format>: Copy {
    /// What it keeps of an entry besides the word.
    type Slot: Copy;

    /// Whether entries that lead past levels are followed.
    const SKIPS: bool;

    /// Reads the word at `entry`, once.
    fn read(self, entry: u64) -> Result<(Self::Slot, u64), MemoryError>;
}

/// Reads words by value: for walkers.
#[derive(Debug)]
pub(crate) struct ByValue<'m, M>(pub(crate) &'m M);

/// Reads words in place, and keeps where they stand: for writers.
#[derive(Debug)]
pub(crate) struct InPlace<'m, M>(pub(crate) &'m M);

impl<M> Clone for ByValue<'_, M> {
    #[inline(always)]
    fn clone(&self) -> Self {
        *self
    }
}

impl<M> Copy for ByValue<'_, M> {}

impl<M> Clone for InPlace<'_, M> {
    #[inline(always)]
    fn clone(&self) -> Self {
        *self
    }
}

impl<M> Copy for InPlace<'_, M> {}

impl<F: Format, M: ReadMemory<Output<F>>> Reading<F> for ByValue<'_, M> {
    type Slot = ();

    const SKIPS: bool = true;

    #[inline(always)]
    fn read(self, entry: u64) -> Result<((), u64), MemoryError> {
        match F::Word::load_from(self.0, <Output<F> as Address>::new(entry)) {
            Ok(word) => Ok(((), swap::<F>(word))),
            Err(error) => Err(error),
        }
    }
}

impl<'m, F: Format, M: TableMemory<Output<F>>> Reading<F> for InPlace<'m, M> {
    type Slot = Word<'m, F>;

    const SKIPS: bool = false;

    #[inline(always)]
    fn read(self, entry: u64) -> Result<(Word<'m, F>, u64), MemoryError> {
        match F::Word::word_in(self.0, <Output<F> as Address>::new(entry)) {
            Ok(memory) => {
                let slot = Word::new(memory);
                Ok((slot, slot.load()))
            }
            Err(error) => Err(error),
        }
    }
}

/// Where a descent stopped: at an entry that is no table, or at the level that was asked for.
#[derive(Debug)]
pub(crate) struct Stop<F: Format, S> {
    /// The table in which the entry stands.
    pub(crate) node: Node,
    /// The entry in memory, for a writer.
    pub(crate) slot: S,
    /// What it held when it was read.
    pub(crate) word: u64,
    /// What the table entries on the way restrict.
    pub(crate) path: F::Path,
}

impl<F: Format, S> Stop<F, S> {
    /// What the entry is.
    #[inline(always)]
    pub(crate) fn decode(&self, format: &F) -> EntryOf<F> {
        decode(format, self.word, self.node.position())
    }
}

/// The entry that leads to a table.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Link {
    pub(crate) at: Position,
    pub(crate) entry: u64,
    pub(crate) word: u64,
}

impl Link {
    /// The error for an entry that somebody else wrote.
    pub(crate) fn malformed(self) -> Error {
        let Self { at, entry, word } = self;
        Error::Malformed { at, entry, word }
    }
}

/// A descent left table memory, or came to a table that its writer cannot have.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Lost {
    /// The table that is not there.
    pub(crate) node: Node,
    /// Why.
    pub(crate) error: MemoryError,
}

/// What `word` at `at` is; a table that could not be descended into (no level below, no width,
/// wider than what it covers) is malformed, whatever a format says.
#[inline(always)]
pub(crate) fn decode<F: Format>(format: &F, word: u64, at: Position) -> EntryOf<F> {
    match format.decode(word, at) {
        Entry::Table { width, .. } if at.level.0 == 0 || width == 0 || width >= at.shift => {
            Entry::Malformed
        }
        Entry::Table { .. } if F::SKIPS && format.skipped(word, at) > 0 => Entry::Malformed,
        entry => entry,
    }
}

/// The table to which the entry `word` at `at` leads past levels, if it does so.
pub(crate) fn past_levels<F: Format>(format: &F, word: u64, at: Position) -> Option<Node> {
    if !F::SKIPS {
        return None;
    }
    let Entry::Table { table, width } = format.decode(word, at) else { return None };
    let skipped = format.skipped(word, at);
    if skipped == 0 {
        return None;
    }
    let level = Level(at.level.0.checked_sub(1)?.checked_sub(skipped)?);
    let geometry = format.geometry();
    let below = Node { table: table.get(), level: level.0, width, shift: geometry.shift(level) };
    (width == geometry.width(level) && below.span() < at.shift).then_some(below)
}

/// What `word` at `at` is to a reader, who follows entries past levels.
#[inline]
pub(crate) fn decode_followed<F: Format>(format: &F, word: u64, at: Position) -> EntryOf<F> {
    match past_levels(format, word, at) {
        Some(_) => format.decode(word, at),
        None => decode(format, word, at),
    }
}

/// The table to which the entry `word` of `node`'s table leads, past levels too.
pub(crate) fn table_below<F: Format>(format: &F, node: Node, word: u64) -> Option<Node> {
    match decode(format, word, node.position()) {
        Entry::Table { table, width } => Some(node.below(table.get(), width)),
        Entry::Malformed => past_levels(format, word, node.position()),
        Entry::Absent | Entry::Leaf { .. } => None,
    }
}

/// Recognises the table below an entry: what distinguishes one descent from another.
pub(crate) trait Recogniser {
    /// A table.
    type Table;
    /// Why there is no table below.
    type End;

    /// The table below `table`, which is of `level`.
    fn below(&mut self, level: u8, table: Self::Table) -> Result<Self::Table, Self::End>;
}

/// The loop over levels: from the table `from` of level `top` down to the table of level `floor`,
/// one level at a time.
///
/// It is written out so that a small recogniser is compiled with the constants of each level, and
/// so that the steps of levels that a format never has disappear.
#[inline(always)]
pub(crate) fn down<R: Recogniser>(
    recogniser: &mut R,
    top: u8,
    floor: u8,
    from: R::Table,
) -> Result<R::Table, R::End> {
    const { assert!(MAX_LEVELS == 8, "one step for each level above the last") };
    let mut table = from;
    if top >= 7 && floor < 7 {
        table = recogniser.below(7, table)?;
    }
    if top >= 6 && floor < 6 {
        table = recogniser.below(6, table)?;
    }
    if top >= 5 && floor < 5 {
        table = recogniser.below(5, table)?;
    }
    if top >= 4 && floor < 4 {
        table = recogniser.below(4, table)?;
    }
    if top >= 3 && floor < 3 {
        table = recogniser.below(3, table)?;
    }
    if top >= 2 && floor < 2 {
        table = recogniser.below(2, table)?;
    }
    if top >= 1 && floor < 1 {
        table = recogniser.below(1, table)?;
    }
    Ok(table)
}

/// Descends from `from` towards `offset`, no further than to a table of level `floor`; `enter` sees
/// each node that it comes to, and the entry that leads there.
pub(crate) fn descend<F: Format, R: Reading<F>>(
    format: &F,
    memory: R,
    from: Node,
    offset: u64,
    floor: u8,
    enter: impl FnMut(Node, Link),
) -> Result<Stop<F, R::Slot>, Lost> {
    let mut decoding = Decoding { format, memory, offset, enter };
    let first = stop_at(memory, from, offset, F::Path::default())?;
    let mut here = first;
    let mut level = from.level;
    while level > floor {
        here = match decoding.below(level, here) {
            Ok(below) => below,
            Err(end) => return end,
        };
        level -= 1;
    }
    Ok(here)
}

/// Recognises every table that the format decodes. A table is given by the entry that was read in
/// it.
struct Decoding<'d, F, R, E> {
    format: &'d F,
    memory: R,
    offset: u64,
    enter: E,
}

impl<F, R, E> Recogniser for Decoding<'_, F, R, E>
where
    F: Format,
    R: Reading<F>,
    E: FnMut(Node, Link),
{
    type Table = Stop<F, R::Slot>;
    type End = Result<Stop<F, R::Slot>, Lost>;

    #[inline(always)]
    fn below(&mut self, level: u8, here: Self::Table) -> Result<Self::Table, Self::End> {
        let (node, at) = (here.node, here.node.position());
        let below = if F::SKIPS && R::SKIPS {
            if node.level < level {
                // The entry above led past this level.
                return Ok(here);
            }
            let below = past_levels(self.format, here.word, at);
            let covered = |below: Node| low_bits(node.shift) & !low_bits(below.span());
            if below.is_some_and(|below| self.offset & covered(below) != 0) {
                // An address bit of a level in between is set: nothing is mapped here.
                return Err(Ok(Stop { word: 0, ..here }));
            }
            below
        } else {
            None
        };
        let below = match (below, here.decode(self.format)) {
            (Some(below), _) => below,
            (None, Entry::Table { table, width }) => node.below(table.get(), width),
            (None, _) => return Err(Ok(here)),
        };
        (self.enter)(below, Link { at, entry: node.entry::<F>(self.offset), word: here.word });
        let path = self.format.restrict(here.path, here.word, at);
        stop_at(self.memory, below, self.offset, path).map_err(Err)
    }
}

/// The entry of `node`'s table that covers `offset`.
#[inline(always)]
fn stop_at<F: Format, R: Reading<F>>(
    memory: R,
    node: Node,
    offset: u64,
    path: F::Path,
) -> Result<Stop<F, R::Slot>, Lost> {
    match memory.read(node.entry::<F>(offset)) {
        Ok((slot, word)) => Ok(Stop { node, slot, word, path }),
        Err(error) => Err(Lost { node, error }),
    }
}
