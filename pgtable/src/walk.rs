//! Reading: translation of an access, the trace of a walk. Safe on tables that somebody else wrote.

use arrayvec::ArrayVec;

use crate::access::Access;
use crate::address::{Address, low_bits};
use crate::descent::{ByValue, Lost, Node, Reading, Stop, decode, descend};
use crate::error::{Error, RangeError};
use crate::fault::{Cause, Fault};
use crate::format::{Entry, EntryOf, Format, Input, Output};
use crate::geometry::{Level, MAX_LEVELS, Position};
use crate::memory::ReadMemory;
use crate::quick::{Halt, Last, Seen, descend_to_last};
use crate::space::{Mapping, Translation};

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
    pub(crate) fn translation(&self, offset: u64) -> TranslationOf<F> {
        translation(<Output<F> as Address>::new(self.output), offset, self.at, self.attributes)
    }
}

/// Every entry on the way to an address.
pub type Trace<F> = ArrayVec<TraceEntry<F>, MAX_LEVELS>;

/// Reads a tree: a format, the memory its tables stand in, and a root.
///
/// Needs words by value only ([`ReadMemory`]), takes no lock, writes nothing, and trusts no word: the
/// tree may be a hostile guest's, may stand in memory that can only be read, and may change while it
/// is read. A translation reads each entry on its way once, and decides on what it
/// read.
#[derive(Clone, Copy, Debug)]
pub struct Walker<F, M> {
    format: F,
    memory: M,
    root: u64,
}

impl<F: Format, M: ReadMemory<Output<F>>> Walker<F, M> {
    /// A walker of the tree of `format` whose root table stands at `root` in `memory`.
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
        descend(&self.format, ByValue(&self.memory), self.root_node(), offset, 0, |_, _, _, _| ())
    }

    /// Translates one access.
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
    /// # Errors
    /// [`Error::Range`], [`Error::Malformed`], [`Error::Memory`].
    #[inline]
    pub fn query(&self, input: Input<F>) -> Result<Option<TranslationOf<F>>, Error> {
        let offset = self.format.offset(input).ok_or(Error::Range)?;
        let stop = self.descend(offset).map_err(|lost| lost.error)?;
        let at = stop.node.position();
        match stop.decode(&self.format) {
            Entry::Leaf { output, attributes } => {
                Ok(Some(translation(output, offset, at, attributes)))
            }
            Entry::Absent => Ok(None),
            Entry::Malformed | Entry::Table { .. } => Err(malformed(stop.node, stop.word, offset)),
        }
    }

    /// Where `access` would go if every right were granted: what a debugger asks.
    ///
    /// # Errors
    /// The [`Fault`] for an address at which nothing is mapped.
    pub fn debug_translate(
        &self,
        input: Input<F>,
        access: Access,
    ) -> Result<TranslationOf<F>, Fault<F>> {
        let format = &self.format;
        let fail = |cause, node| Err(fault(format, input, access, cause, node));
        let Some(offset) = format.offset(input) else { return fail(Cause::Address, None) };
        let stop = match self.descend(offset) {
            Ok(stop) => stop,
            Err(lost) => return fail(Cause::TableAccess, Some((lost.node, offset))),
        };
        match stop.decode(format) {
            Entry::Leaf { output, attributes } => {
                Ok(translation(output, offset, stop.node.position(), attributes))
            }
            Entry::Absent => fail(Cause::NotPresent, Some((stop.node, offset))),
            Entry::Malformed | Entry::Table { .. } => {
                fail(Cause::Malformed, Some((stop.node, offset)))
            }
        }
    }

    /// Every entry that a walk to `input` reads, the last one included; empty if the address is
    /// none of this space.
    #[must_use]
    pub fn trace(&self, input: Input<F>) -> Trace<F> {
        let mut trace = Trace::<F>::new();
        let Some(offset) = self.format.offset(input) else { return trace };
        let from = self.root_node();
        let mut push = |at: Position, address: u64, word: u64| {
            let entry = decode(&self.format, word, at);
            // A walk has no more entries than a tree has levels.
            let _ = trace.try_push(TraceEntry {
                at,
                address: <Output<F> as Address>::new(address),
                word,
                entry,
            });
        };
        let memory = ByValue(&self.memory);
        let stop = descend(&self.format, memory, from, offset, 0, |_, at, address, word| {
            push(at, address, word)
        });
        if let Ok(stop) = stop {
            push(stop.node.position(), stop.node.entry(offset), stop.word);
        }
        trace
    }
}

/// Translates one access by the tree under `root`: a page of the usual size through tables of the
/// usual kind at once, all else properly.
#[inline(always)]
pub(crate) fn translate<F: Format, R: Reading<F>>(
    format: &F,
    memory: R,
    root: u64,
    input: Input<F>,
    access: Access,
) -> Result<TranslationOf<F>, Fault<F>> {
    let halt = if format.quick_restricts_nothing(access) {
        match translate_quickly(format, memory, root, input, access) {
            Ok(translation) => return Ok(translation),
            Err(halt) => halt,
        }
    } else {
        Halt::at_root(format, root)
    };
    translate_properly(format, memory, halt, input, access)
}

#[inline(always)]
fn translate_quickly<F: Format, R: Reading<F>>(
    format: &F,
    memory: R,
    root: u64,
    input: Input<F>,
    access: Access,
) -> Result<TranslationOf<F>, Halt> {
    let offset = format.offset(input).ok_or(Halt::at_root(format, root))?;
    let table = |word, at| format.quick_table(word, at, access);
    let last = descend_to_last(format, memory, root, offset, table)?;
    read_quickly(format, &last, offset, access)
}

/// The translation of `offset` by the last-level entry that a quick descent for `access` came to.
#[inline(always)]
pub(crate) fn read_quickly<F: Format, S>(
    format: &F,
    last: &Last<S>,
    offset: u64,
    access: Access,
) -> Result<TranslationOf<F>, Halt> {
    let page = format.quick_page(last.word, access);
    let (output, attributes) =
        page.ok_or(Halt { table: last.table, level: 0, seen: Seen::Word(last.word) })?;
    let at = Position { level: Level(0), shift: format.shift(0) };
    Ok(translation(output, offset, at, attributes))
}

/// For larger leaves, tables of another shape than the geometry's, rights that several entries
/// decide together, and for all that faults: goes on from where another walk halted, which met
/// nothing that restricts `access`.
#[inline(never)]
pub(crate) fn translate_properly<F: Format, R: Reading<F>>(
    format: &F,
    memory: R,
    halt: Halt,
    input: Input<F>,
    access: Access,
) -> Result<TranslationOf<F>, Fault<F>> {
    let (leaf, offset) = find_from(format, memory, halt, input, access)?;
    Ok(leaf.translation(offset))
}

/// The leaf of the tree under `root` that translates `input`, which allows `access`, and the offset
/// of `input` in the tree.
#[inline]
pub(crate) fn find<F: Format, R: Reading<F>>(
    format: &F,
    memory: R,
    root: u64,
    input: Input<F>,
    access: Access,
) -> Result<(Leaf<F>, u64), Fault<F>> {
    find_from(format, memory, Halt::at_root(format, root), input, access)
}

/// The same from where another walk halted, which met nothing that restricts `access`.
fn find_from<F: Format, R: Reading<F>>(
    format: &F,
    memory: R,
    halt: Halt,
    input: Input<F>,
    access: Access,
) -> Result<(Leaf<F>, u64), Fault<F>> {
    let Some(offset) = format.offset(input) else {
        return Err(fault(format, input, access, Cause::Address, None));
    };
    let (node, word, path) = match halt.go_on(format, memory, offset) {
        Ok(end) => end,
        Err(lost) => {
            return Err(fault(
                format,
                input,
                access,
                Cause::TableAccess,
                Some((lost.node, offset)),
            ));
        }
    };
    let at = node.position();
    let (cause, denied) = match decode(format, word, at) {
        Entry::Leaf { output, attributes } => match format.check(word, at, path, access) {
            Ok(()) => {
                return Ok((Leaf { word, at, path, output: output.get(), attributes }, offset));
            }
            Err(denied) => (Cause::Denied, Some(denied)),
        },
        Entry::Absent => (Cause::NotPresent, None),
        Entry::Malformed | Entry::Table { .. } => (Cause::Malformed, None),
    };
    let fault = fault(format, input, access, cause, Some((node, offset)));
    Err(Fault { arch: denied.unwrap_or(fault.arch), ..fault })
}

#[cold]
#[inline(never)]
fn fault<F: Format>(
    format: &F,
    address: Input<F>,
    access: Access,
    cause: Cause,
    node: Option<(Node, u64)>,
) -> Fault<F> {
    Fault {
        address,
        access,
        cause,
        at: node.map(|(node, _)| node.position()),
        entry: node.map(|(node, offset)| <Output<F> as Address>::new(node.entry(offset))),
        arch: format.fault(cause, access),
    }
}

/// The translation of `offset` by a leaf at `at`.
#[inline(always)]
pub(crate) fn translation<A: Address, T>(
    output: A,
    offset: u64,
    at: Position,
    attributes: T,
) -> Translation<A, T> {
    // A leaf covers less than 2^64 bytes.
    let within = offset & !(u64::MAX << (at.shift & 63));
    Translation { output: A::new(output.get().wrapping_add(within)), shift: at.shift, attributes }
}

/// The error for the malformed entry `word` for `offset` in the table of `node`.
#[cold]
pub(crate) fn malformed(node: Node, word: u64, offset: u64) -> Error {
    Error::Malformed { at: node.position(), entry: node.entry(offset), word }
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
    let aligned = (start | bytes) & low_bits(shift) == 0;
    // The tree covers less than 2^64 bytes unless it has 64 address bits; then its very last page
    // is out of reach.
    match last.checked_add(1) {
        Some(end) if aligned && last.wrapping_sub(start) == bytes - 1 => Ok((start, end)),
        _ => Err(outside),
    }
}
