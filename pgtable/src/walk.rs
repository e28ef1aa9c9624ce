//! Reading: translation of an access, the trace of a walk, iteration. Safe on tables that somebody else wrote.

use core::ops::ControlFlow;

use arrayvec::ArrayVec;

use crate::access::Access;
use crate::address::{Address, low_bits};
use crate::descent::{Lost, Node, Stop, Trail, decode, descend};
use crate::error::{Error, RangeError};
use crate::fault::{Cause, Fault};
use crate::format::{Entry, EntryOf, Format, Input, Output};
use crate::geometry::{Level, MAX_LEVELS, Position};
use crate::memory::TableMemory;
use crate::space::{Mapping, Translation};
use crate::word::{Word, any_set};

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

/// Every entry on the way to an address.
pub type Trace<F> = ArrayVec<TraceEntry<F>, MAX_LEVELS>;

/// Reads a tree: a format, the memory its tables stand in, and a root.
///
/// Takes no lock, writes nothing, and trusts no word: the tree may be a hostile guest's, and may change while it is read.
/// Each translation does at most one load per level.
#[derive(Clone, Copy, Debug)]
pub struct Walker<F, M> {
    format: F,
    memory: M,
    root: u64,
}

impl<F: Format, M: TableMemory<Output<F>>> Walker<F, M> {
    /// A walker of the tree of `format` whose root table stands at `root` in `memory`.
    pub fn new(format: F, memory: M, root: Output<F>) -> Self {
        Self { format, memory, root: root.get() }
    }

    /// The format.
    #[must_use]
    pub fn format(&self) -> &F {
        &self.format
    }

    /// The address of the root table.
    #[must_use]
    pub fn root(&self) -> Output<F> {
        <Output<F> as Address>::new(self.root)
    }

    #[inline(always)]
    fn descend(&self, offset: u64) -> Result<Stop<'_, F>, Lost> {
        descend(&self.format, &self.memory, Node::root(&self.format, self.root), offset, 0, |_, _, _, _| ())
    }

    /// Translates one access.
    ///
    /// # Errors
    /// The [`Fault`] that the hardware raises for it.
    #[inline]
    pub fn translate(&self, input: Input<F>, access: Access) -> Result<TranslationOf<F>, Fault<F>> {
        let Some(offset) = self.format.offset(input) else {
            return Err(self.fault(input, access, Cause::Address, None));
        };
        let stop = match self.descend(offset) {
            Ok(stop) => stop,
            Err(lost) => return Err(self.fault(input, access, Cause::TableAccess, Some((lost.node, offset)))),
        };
        let at = stop.node.position();
        match stop.decode(&self.format) {
            Entry::Leaf { output, attributes } => match self.format.check(stop.word, at, stop.path, access) {
                Ok(()) => Ok(translation(output, offset, at, attributes)),
                Err(arch) => Err(Fault { arch, ..self.fault(input, access, Cause::Denied, Some((stop.node, offset))) }),
            },
            Entry::Absent => Err(self.fault(input, access, Cause::NotPresent, Some((stop.node, offset)))),
            Entry::Malformed | Entry::Table { .. } => {
                Err(self.fault(input, access, Cause::Malformed, Some((stop.node, offset))))
            }
        }
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
            Entry::Leaf { output, attributes } => Ok(Some(translation(output, offset, at, attributes))),
            Entry::Absent => Ok(None),
            Entry::Malformed | Entry::Table { .. } => Err(malformed(&stop, offset)),
        }
    }

    /// Every entry that a walk to `input` reads, the last one included; empty if the address is none of this space.
    #[must_use]
    pub fn trace(&self, input: Input<F>) -> Trace<F> {
        let mut trace = Trace::<F>::new();
        let Some(offset) = self.format.offset(input) else { return trace };
        let from = Node::root(&self.format, self.root);
        let mut push = |at: Position, address: u64, word: u64| {
            let entry = decode(&self.format, word, at);
            // A walk has no more entries than a tree has levels.
            let _ = trace.try_push(TraceEntry { at, address: <Output<F> as Address>::new(address), word, entry });
        };
        let stop = descend(&self.format, &self.memory, from, offset, 0, |_, at, address, word| push(at, address, word));
        if let Ok(stop) = stop {
            push(stop.node.position(), stop.node.entry(offset), stop.word);
        }
        trace
    }

    /// Calls `visit` for each leaf in the `bytes` bytes from `input` on, in order, until it breaks.
    ///
    /// # Errors
    /// [`RangeError`]: a range that is none of this space, a malformed entry, a table outside table memory. Everything
    /// before that address was visited.
    pub fn for_each<B>(
        &self,
        input: Input<F>,
        bytes: u64,
        mut visit: impl FnMut(LeafOf<F>) -> ControlFlow<B>,
    ) -> Result<ControlFlow<B>, RangeError<Input<F>>> {
        let format = self.format;
        let (mut offset, end) = bounds(&format, input, bytes, 0)?;
        let present = format.present_mask();
        let mut trail = Trail::new(Node::root(&format, self.root));
        while offset < end {
            let fail = |error| RangeError { at: format.address(offset), error };
            let stop = trail.seek(&format, &self.memory, offset, 0).map_err(|lost| fail(lost.error.into()))?;
            let node = stop.node;
            if node.level > 0 {
                match stop.decode(&format) {
                    Entry::Absent => {}
                    Entry::Leaf { output, attributes } => {
                        let leaf = leaf(&format, node, offset, output, attributes);
                        if let ControlFlow::Break(value) = visit(leaf) {
                            return Ok(ControlFlow::Break(value));
                        }
                    }
                    Entry::Malformed | Entry::Table { .. } => return Err(fail(malformed(&stop, offset))),
                }
                offset = node.next_entry(offset);
                continue;
            }
            let address = <Output<F> as Address>::new(node.entry(offset));
            let run = self
                .memory
                .table(address, node.entries(offset, end))
                .map_err(|error| RangeError { at: format.address(offset), error: error.into() })?;
            let at = node.position();
            for memory in run {
                if any_set::<F>(memory, present) {
                    let word = Word::<F>::new(memory).load();
                    match decode(&format, word, at) {
                        Entry::Leaf { output, attributes } => {
                            let leaf = leaf(&format, node, offset, output, attributes);
                            if let ControlFlow::Break(value) = visit(leaf) {
                                return Ok(ControlFlow::Break(value));
                            }
                        }
                        Entry::Absent => {}
                        Entry::Malformed | Entry::Table { .. } => {
                            let error = Error::Malformed { at, entry: node.entry(offset), word };
                            return Err(RangeError { at: format.address(offset), error });
                        }
                    }
                }
                offset = node.next_entry(offset);
            }
        }
        Ok(ControlFlow::Continue(()))
    }

    #[cold]
    fn fault(&self, address: Input<F>, access: Access, cause: Cause, node: Option<(Node, u64)>) -> Fault<F> {
        Fault {
            address,
            access,
            cause,
            level: node.map(|(node, _)| Level(node.level)),
            entry: node.map(|(node, offset)| <Output<F> as Address>::new(node.entry(offset))),
            arch: self.format.fault(cause, access),
        }
    }
}

#[inline(always)]
fn translation<A: Address, T>(output: A, offset: u64, at: Position, attributes: T) -> Translation<A, T> {
    let within = offset & low_bits(at.shift);
    Translation { output: A::new(output.get().wrapping_add(within)), shift: at.shift, attributes }
}

#[inline(always)]
fn leaf<F: Format>(format: &F, node: Node, offset: u64, output: Output<F>, attributes: F::Attributes) -> LeafOf<F> {
    Mapping {
        input: format.address(offset & !low_bits(node.shift)),
        output,
        bytes: 1 << node.shift,
        shift: node.shift,
        attributes,
    }
}

/// The error for the malformed entry at which `stop` stands.
#[cold]
pub(crate) fn malformed<F: Format>(stop: &Stop<'_, F>, offset: u64) -> Error {
    Error::Malformed { at: stop.node.position(), entry: stop.node.entry(offset), word: stop.word }
}

/// The range of `bytes` bytes from `input` on as offsets into the tree: start and end.
///
/// Both must be multiples of `2^shift`, and every address of the range must belong to the space (so a range cannot cross x86's canonical hole).
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
    // The tree covers less than 2^64 bytes unless it has 64 address bits; then its very last page is out of reach.
    match last.checked_add(1) {
        Some(end) if aligned && last.wrapping_sub(start) == bytes - 1 => Ok((start, end)),
        _ => Err(outside),
    }
}
