//! Reading: translation of an access, the trace of a walk. Safe on tables that somebody else wrote.
//!
//! # Protocol
//! A [`Walker`] is a format, the memory in which the tables stand, and a root. It takes no lock and
//! keeps nothing: each call begins at the root, reads each entry once for each decision, and is
//! bounded on any content. The tables may be a hostile guest's, may change while they are read, and
//! may stand in memory that can only be read. A table that another thread frees meanwhile must not
//! be handed out again before the walk ends: see [`shared`](crate::shared).
//!
//! Verbs that write nothing are the walker's: translation (one, or a batch), iteration over leaves,
//! runs and tables, comparison, and copying into a new tree. [`Walker::access`] records accessed
//! and dirty as hardware does.

use arrayvec::ArrayVec;

pub use crate::diff::{Change, Side};
pub use crate::iterate::LeafIter;
pub use crate::run::{Run, RunLeaves};
pub use crate::tables::{Table, TableEntry};

use crate::access::Access;
use crate::address::{Address, low_bits};
use crate::descent::{ByValue, Lost, Node, Stop, decode_followed, descend, past_levels};
use crate::error::{Error, RangeError};
use crate::fault::Fault;
use crate::format::{Entry, EntryOf, Format, Input, Output};
use crate::geometry::{MAX_LEVELS, Position};
use crate::group::translation_by;
use crate::memory::ReadMemory;
use crate::quick::Unusual;
use crate::space::{Mapping, Translation};
use crate::translate::{find, find_if, read_large, translate, translate_quickly};

/// What a [`Walker`] of format `F` translates to.
pub type TranslationOf<F> = Translation<Output<F>, <F as Format>::Attributes>;

/// What a [`Walker`] of format `F` iterates over.
pub type LeafOf<F> = Mapping<Input<F>, Output<F>, <F as Format>::Attributes>;

/// One entry that a walk read, from the root down.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct TraceEntry<F: Format> {
    /// Where it stands in the tree.
    pub at: Position,
    /// Its address.
    pub address: Output<F>,
    /// What it holds, in the architecture's bit order.
    pub word: u64,
    /// What that is.
    pub entry: EntryOf<F>,
}

/// A leaf that was found, with everything that it takes to judge another access to it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Leaf<F: Format> {
    pub(crate) word: u64,
    pub(crate) at: Position,
    pub(crate) path: F::Path,
    pub(crate) output: u64,
    pub(crate) attributes: F::Attributes,
}

impl<F: Format> Leaf<F> {
    /// The translation of `offset`, which the leaf covers.
    #[inline(always)]
    pub(crate) fn translation(&self, format: &F, offset: u64) -> TranslationOf<F> {
        let said = (<Output<F> as Address>::new(self.output), self.attributes);
        translation_by(format, self.word, self.at, said, offset)
    }
}

/// Every entry on the way to an address.
pub type Trace<F> = ArrayVec<TraceEntry<F>, MAX_LEVELS>;

/// Reads a tree: a format, the memory its tables stand in, and a root.
///
/// Needs words by value only ([`ReadMemory`]), takes no lock, writes nothing, and trusts no word:
/// the tree may be a hostile guest's, may stand in memory that can only be read, and may change
/// while it is read. A translation reads each entry on its way at most twice, and makes each
/// decision on one reading.
#[derive(Clone, Copy, Debug)]
pub struct Walker<F, M> {
    format: F,
    memory: M,
    root: u64,
}

impl<F: Format, M: ReadMemory<Output<F>>> Walker<F, M> {
    /// A walker of the tree of `format` whose root table stands at `root` in `memory`.
    ///
    /// ```
    /// # use pgtable_conformance::prelude::*;
    /// # pgtable_conformance::example!(mapped: arena, tables, tree, gather);
    /// # let (memory, root) = (arena.memory::<Gpa>(), tree.root());
    /// // A guest's tables, wherever its root register says that they are.
    /// let walker = Walker::new(Sv::SV48, &memory, root);
    /// assert!(walker.translate(Gva::new(0x1000), Access::READ).is_ok());
    /// # gather.finish(tree.tables())?;
    /// # Ok::<(), Box<dyn core::error::Error>>(())
    /// ```
    pub fn new(format: F, memory: M, root: Output<F>) -> Self {
        Self { format, memory, root: root.get() }
    }

    /// The format.
    #[must_use]
    pub fn format(&self) -> &F {
        &self.format
    }

    /// The memory that the tables stand in.
    #[must_use]
    pub fn memory(&self) -> &M {
        &self.memory
    }

    #[inline(always)]
    pub(crate) fn root_node(&self) -> Node {
        Node::root(&self.format, self.root)
    }

    /// The address of the root table.
    #[must_use]
    pub fn root(&self) -> Output<F> {
        <Output<F> as Address>::new(self.root)
    }

    #[inline(always)]
    fn descend(&self, offset: u64) -> Result<Stop<F, ()>, Lost> {
        descend(&self.format, ByValue(&self.memory), self.root_node(), offset, 0, |_, _| ())
    }

    /// Translates one access.
    ///
    /// ```
    /// # use pgtable_conformance::prelude::*;
    /// # pgtable_conformance::example!(mapped: tree, gather);
    /// # let walker = tree.walker();
    /// let fault = walker.translate(Gva::new(0x20_0000), Access::WRITE).unwrap_err();
    /// assert_eq!(fault.cause, Cause::NotPresent);
    /// assert_eq!(fault.arch.to_string(), "exception 15");
    /// # gather.finish(tree.tables())?;
    /// # Ok::<(), Box<dyn core::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// The [`Fault`] that the hardware raises for it.
    #[inline(always)]
    pub fn translate(&self, input: Input<F>, access: Access) -> Result<TranslationOf<F>, Fault<F>> {
        translate(&self.format, ByValue(&self.memory), self.root, input, access)
    }

    /// The leaf that translates `input`, which allows `access`, and the offset of `input` in the
    /// tree.
    #[inline]
    pub(crate) fn find(&self, input: Input<F>, access: Access) -> Result<(Leaf<F>, u64), Fault<F>> {
        find(&self.format, ByValue(&self.memory), self.root, input, access)
    }

    /// What is mapped at `input`, whatever access is allowed; `None` if nothing is.
    ///
    /// ```
    /// # use pgtable_conformance::prelude::*;
    /// # pgtable_conformance::example!(mapped: tree, gather);
    /// # let walker = tree.walker();
    /// assert_eq!(walker.query(Gva::new(0x5000))?.map(|page| page.shift), Some(12));
    /// assert!(walker.query(Gva::new(0x20_0000))?.is_none());
    /// # gather.finish(tree.tables())?;
    /// # Ok::<(), Box<dyn core::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// [`Error::Range`], [`Error::Malformed`], [`Error::Memory`].
    #[inline]
    pub fn query(&self, input: Input<F>) -> Result<Option<TranslationOf<F>>, Error> {
        match translate_quickly(&self.format, ByValue(&self.memory), self.root, input, None) {
            Ok(found) => Ok(Some(found)),
            Err(unusual) => self.query_slowly(input, unusual),
        }
    }

    #[cold]
    #[inline(never)]
    fn query_slowly(
        &self,
        input: Input<F>,
        unusual: Unusual,
    ) -> Result<Option<TranslationOf<F>>, Error> {
        if let Some(large) = read_large(&self.format, unusual, input, None) {
            return Ok(Some(large));
        }
        let offset = self.format.offset(input).ok_or(Error::Range)?;
        let stop = self.descend(offset).map_err(|lost| lost.error)?;
        let at = stop.node.position();
        match stop.decode(&self.format) {
            Entry::Leaf { output, attributes } => {
                let said = (output, attributes);
                Ok(Some(translation_by(&self.format, stop.word, at, said, offset)))
            }
            Entry::Absent => Ok(None),
            Entry::Malformed | Entry::Table { .. } => {
                Err(malformed(&self.format, stop.node, stop.word, offset))
            }
        }
    }

    /// Where `access` would go if every right were granted: what a debugger asks.
    ///
    /// ```
    /// # use pgtable_conformance::prelude::*;
    /// # pgtable_conformance::example!(mapped: tree, gather);
    /// # let walker = tree.walker();
    /// // The page may not be executed; a debugger reads it all the same.
    /// assert!(walker.translate(Gva::new(0x5000), Access::FETCH).is_err());
    /// assert!(walker.debug_translate(Gva::new(0x5000), Access::FETCH).is_ok());
    /// # gather.finish(tree.tables())?;
    /// # Ok::<(), Box<dyn core::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// The [`Fault`] for an address at which nothing is mapped.
    pub fn debug_translate(
        &self,
        input: Input<F>,
        access: Access,
    ) -> Result<TranslationOf<F>, Fault<F>> {
        let any = |_, _, _| Ok(());
        let (leaf, offset) =
            find_if(&self.format, ByValue(&self.memory), self.root, (input, access), any)?;
        Ok(leaf.translation(&self.format, offset))
    }

    /// Every entry that a walk to `input` reads, the last one included; empty if the address is
    /// none of this space.
    ///
    /// ```
    /// # use pgtable_conformance::prelude::*;
    /// # pgtable_conformance::example!(mapped: tree, gather);
    /// # let walker = tree.walker();
    /// for step in walker.trace(Gva::new(0x5000)) {
    ///     println!("{}: {} holds {:#x}", step.at.level, step.address, step.word);
    /// }
    /// assert_eq!(walker.trace(Gva::new(0x5000)).len(), 4);
    /// # gather.finish(tree.tables())?;
    /// # Ok::<(), Box<dyn core::error::Error>>(())
    /// ```
    #[must_use]
    pub fn trace(&self, input: Input<F>) -> Trace<F> {
        let mut trace = Trace::<F>::new();
        let Some(offset) = self.format.offset(input) else { return trace };
        let from = self.root_node();
        let mut push = |at: Position, address: u64, word: u64| {
            let entry = decode_followed(&self.format, word, at);
            // A walk has no more entries than a tree has levels.
            let _ = trace.try_push(TraceEntry {
                at,
                address: <Output<F> as Address>::new(address),
                word,
                entry,
            });
        };
        let stop = descend(&self.format, ByValue(&self.memory), from, offset, 0, |_, link| {
            push(link.at, link.entry, link.word);
        });
        if let Ok(stop) = stop {
            push(stop.node.position(), stop.node.entry::<F>(offset), stop.word);
        }
        trace
    }
}

/// The error for the entry `word` for `offset` in the table of `node`: it is malformed, or it leads
/// past levels, where a verb does not follow.
#[cold]
pub(crate) fn malformed<F: Format>(format: &F, node: Node, word: u64, offset: u64) -> Error {
    let (at, entry) = (node.position(), node.entry::<F>(offset));
    match past_levels(format, word, at) {
        Some(_) => Error::SkipsLevels { at, entry, word },
        None => Error::Malformed { at, entry, word },
    }
}

/// The range of `bytes` bytes from `input` on as offsets into the tree: start and end.
///
/// Both must be multiples of `2^shift`, and every address of the range must belong to the space (so
/// a range cannot cross x86's canonical hole).
pub(crate) fn bounds<F: Format>(
    format: &F,
    input: Input<F>,
    bytes: u64,
    shift: u8,
) -> Result<(u64, u64), RangeError<Input<F>>> {
    let outside = RangeError { at: input, error: Error::Range };
    let start = format.offset(input).ok_or(outside)?;
    if bytes == 0 {
        return Ok((start, start));
    }
    let last = input.checked_add(bytes - 1).and_then(|last| format.offset(last)).ok_or(outside)?;
    // The tree covers less than 2^64 bytes unless it has 64 address bits; then its very last page
    // is out of reach.
    match last.checked_add(1) {
        Some(_) if (start | bytes) & low_bits(shift) != 0 => {
            Err(RangeError { at: input, error: Error::Unaligned { shift } })
        }
        Some(end) if last.wrapping_sub(start) == bytes - 1 => Ok((start, end)),
        _ => Err(outside),
    }
}
