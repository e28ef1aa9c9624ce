//! Annotations: what software keeps in absent entries.
//!
//! Hardware ignores an absent entry but for the bits that say so. A hypervisor keeps there who owns
//! a page that a guest has given away, where a page was swapped to, or that a page was never
//! populated.
//!
//! # Protocol
//! - An annotation is a number other than zero. It stands in the bits of an absent entry that do
//!   not say whether the entry is present ([`Bits::present`](crate::format::Bits)), so it cannot be
//!   taken for a present entry, whatever the number is.
//! - It covers what its entry covers. A range is annotated in the largest entries that fit; where a
//!   part of such an entry is annotated anew, a table is made for it, whose other entries keep the
//!   old annotation.
//! - An annotated entry counts as live: its table stays in the tree until the annotation is
//!   cleared. So `live` of a [`TableState`](crate::allocator::TableState) counts present entries
//!   and annotated ones.
//! - Only present entries are mapped: translation, iteration, [`unmap`](PageTable::unmap) and every
//!   other verb pass annotations over. `map` does not overwrite one ([`Error::Annotated`]): clear
//!   it first. Frees of the whole tree take annotations along; [`Walker::snapshot`] leaves them
//!   out.
//!
//! A walker reads as an annotation whatever number an absent entry holds, also in tables that a
//! guest wrote. Trees that never were annotated are mapped over such words, as ever.

use core::ops::ControlFlow;
use core::sync::atomic::Ordering;

use crate::allocator::{Contents, TableAllocator};
use crate::descent::{ByValue, InPlace, Node, Stop};
use crate::error::{Error, RangeError};
use crate::format::{Entry, Format, Input, Output};
use crate::gather::{Gather, Invalidate};
use crate::geometry::{Level, Position};
use crate::lock::Locks;
use crate::memory::{ReadMemory, TableMemory};
use crate::state::Owner;
use crate::table::PageTable;
use crate::table_word::TableWord as _;
use crate::trail::Trail;
use crate::walk::{Walker, bounds, malformed};
use crate::word::Word;

/// An annotated entry, as [`Walker::for_each_annotation`] shows it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Annotation<A> {
    /// The first address that it covers.
    pub input: A,
    /// How many bytes it covers.
    pub bytes: u64,
    /// The number.
    pub value: u64,
}

/// The bits of absent entries at `at` that hold an annotation.
fn room<F: Format>(format: &F, at: Position) -> u64 {
    F::Word::MASK & !format.bits(at).present
}

/// The absent word at `at` that holds `value`: its bits, from the lowest on, in the bits that there
/// are.
fn encode<F: Format>(format: &F, value: u64, at: Position) -> Result<u64, Error> {
    let (mut room, mut value, mut word) = (room(format, at), value, 0);
    while value != 0 {
        let bit = room & room.wrapping_neg();
        if bit == 0 {
            return Err(Error::Unencodable { at });
        }
        word |= if value & 1 != 0 { bit } else { 0 };
        (room, value) = (room ^ bit, value >> 1);
    }
    Ok(word)
}

/// The number that the entry `word` at `at` holds, if it is absent and holds one.
fn decode<F: Format>(format: &F, word: u64, at: Position) -> Option<u64> {
    let mut room = room(format, at);
    if word == 0 || word & !room != 0 {
        return None;
    }
    let (mut value, mut next) = (0, 0);
    while room != 0 {
        let bit = room & room.wrapping_neg();
        value |= u64::from(word & bit != 0) << next;
        (room, next) = (room ^ bit, next + 1);
    }
    Some(value)
}

impl<F: Format, M: ReadMemory<Output<F>>> Walker<F, M> {
    /// The number that software keeps at `input`; `None` if something is mapped there, or if the
    /// entry is empty.
    ///
    /// ```
    /// # use pgtable_conformance::prelude::*;
    /// # pgtable_conformance::example!(mapped: tree, gather);
    /// tree.annotate(Gva::new(0x20_0000), 0x1000, 42, &mut gather)?;
    /// assert_eq!(tree.walker().annotation(Gva::new(0x20_0000))?, Some(42));
    /// # gather.finish(tree.tables())?;
    /// # Ok::<(), Box<dyn core::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// [`Error::Range`], [`Error::Malformed`], [`Error::Memory`].
    pub fn annotation(&self, input: Input<F>) -> Result<Option<u64>, Error> {
        let offset = self.format().offset(input).ok_or(Error::Range)?;
        let mut trail = Trail::new(self.root_node());
        let stop = trail
            .seek(self.format(), ByValue(self.memory()), offset, 0)
            .map_err(|lost| lost.error)?;
        annotation_at(self.format(), &stop, offset)
    }

    /// Calls `visit` for each annotated entry in the `bytes` bytes from `input` on, in order, until
    /// it breaks.
    ///
    /// ```
    /// # use pgtable_conformance::prelude::*;
    /// # pgtable_conformance::example!(mapped: tree, gather);
    /// tree.annotate(Gva::new(1 << 30), 1 << 30, 42, &mut gather)?;
    /// let first = tree.walker().for_each_annotation(Gva::new(0), 1 << 38, ControlFlow::Break)?;
    /// let ControlFlow::Break(kept) = first else { panic!("none") };
    /// assert_eq!((kept.input, kept.bytes, kept.value), (Gva::new(1 << 30), 1 << 30, 42));
    /// # gather.finish(tree.tables())?;
    /// # Ok::<(), Box<dyn core::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// As [`for_each`](Self::for_each).
    pub fn for_each_annotation<B>(
        &self,
        input: Input<F>,
        bytes: u64,
        mut visit: impl FnMut(Annotation<Input<F>>) -> ControlFlow<B>,
    ) -> Result<ControlFlow<B>, RangeError<Input<F>>> {
        let format = self.format();
        let (mut offset, end) = bounds(format, input, bytes, 0)?;
        let mut trail = Trail::new(self.root_node());
        while offset < end {
            let fail = |error| RangeError { at: format.address(offset), error };
            let stop = trail
                .seek(format, ByValue(self.memory()), offset, 0)
                .map_err(|lost| fail(lost.error.into()))?;
            let size = stop.node.position().size();
            if let Some(value) = annotation_at(format, &stop, offset).map_err(fail)? {
                let input = format.address(offset & !(size - 1));
                if let ControlFlow::Break(value) = visit(Annotation { input, bytes: size, value }) {
                    return Ok(ControlFlow::Break(value));
                }
            }
            offset = stop.node.next_entry(offset);
        }
        Ok(ControlFlow::Continue(()))
    }
}

/// The annotation at which `stop` stands.
fn annotation_at<F: Format, S>(
    format: &F,
    stop: &Stop<F, S>,
    offset: u64,
) -> Result<Option<u64>, Error> {
    match stop.decode(format) {
        Entry::Absent => Ok(decode(format, stop.word, stop.node.position())),
        Entry::Leaf { .. } => Ok(None),
        Entry::Malformed | Entry::Table { .. } => {
            Err(malformed(format, stop.node, stop.word, offset))
        }
    }
}

impl<F, M, A> PageTable<F, M, A>
where
    F: Format,
    M: TableMemory<Output<F>>,
    A: TableAllocator<Output<F>>,
{
    /// Keeps the number `value` in the absent entries of the `bytes` bytes from `input` on, in the
    /// place of what was kept there; 0 clears. See [`Annotation`].
    ///
    /// # Errors
    /// [`Error::Mapped`] where something is mapped; [`Error::Unencodable`] if the number has more
    /// bits than an absent entry has to spare; [`Error::Alloc`] where a table has to be made;
    /// [`Error::Range`], [`Error::Unaligned`], [`Error::Malformed`], [`Error::Memory`],
    /// [`Error::Invalidate`]. Everything before the error's address is annotated, nothing from it
    /// on was changed.
    ///
    /// ```
    /// # use core::sync::atomic::AtomicU64;
    /// # use pgtable::allocator::TableAllocator;
    /// # use pgtable::format::Format;
    /// # use pgtable::invalidate::{Gather, Unused};
    /// # use pgtable::memory::TableMemory;
    /// # use pgtable::tree::PageTable;
    /// # use pgtable::{Error, Gpa, Hpa, Leaves, Prot, RangeError, Stage2};
    /// # fn give_away<F: Format<Stage = Stage2>, M: TableMemory<Hpa>, A: TableAllocator<Hpa>>(
    /// #     tree: &mut PageTable<F, M, A>,
    /// # ) -> Result<(), RangeError<Gpa>> {
    /// # let (page, bytes, guest) = (Gpa::new(0x8000_0000), 0x20_0000, 7);
    /// let mut gather = Gather::new(&Unused, ());
    /// tree.unmap(page, bytes, &mut gather)?;
    /// tree.annotate(page, bytes, guest, &mut gather)?;
    /// assert_eq!(tree.walker().annotation(page), Ok(Some(guest)));
    /// // It does not come back by mistake.
    /// let over = tree.map(page, Hpa::new(0), bytes, Prot::RW.into(), Leaves::Largest);
    /// assert!(matches!(over.unwrap_err().error, Error::Annotated { .. }));
    /// tree.annotate(page, bytes, 0, &mut gather)?;
    /// # gather.finish(tree.tables()).unwrap();
    /// # Ok(())
    /// # }
    /// ```
    pub fn annotate<I: Invalidate<F::Stage>>(
        &mut self,
        input: Input<F>,
        bytes: u64,
        value: u64,
        gather: &mut Gather<'_, F::Stage, I>,
    ) -> Result<(), RangeError<Input<F>>> {
        self.alone(|trail| self.annotate_range(trail, (input, bytes), value, gather))
    }

    /// [`annotate`](Self::annotate), by any writer.
    pub(crate) fn annotate_range<L: Locks, I: Invalidate<F::Stage>>(
        &self,
        trail: &mut Trail<L>,
        (input, bytes): (Input<F>, u64),
        value: u64,
        gather: &mut Gather<'_, F::Stage, I>,
    ) -> Result<(), RangeError<Input<F>>> {
        let finest = self.format.geometry().finest_shift();
        let (mut offset, end) = bounds(&self.format, input, bytes, finest)?;
        // Before the first annotation is stored: whoever locks a table later sees it.
        self.annotated.store(true, Ordering::Relaxed);
        while offset < end {
            offset = self
                .annotate_entry(trail, (offset, end), value, gather)
                .map_err(|error| RangeError { at: self.format.address(offset), error })?;
        }
        Ok(())
    }

    /// One step: an entry, or a table for a part of it. Returns the offset up to which all is done.
    fn annotate_entry<L: Locks, I: Invalidate<F::Stage>>(
        &self,
        trail: &mut Trail<L>,
        (offset, end): (u64, u64),
        value: u64,
        gather: &mut Gather<'_, F::Stage, I>,
    ) -> Result<u64, Error> {
        let stop =
            trail.seek(&self.format, InPlace(&self.memory), offset, 0).map_err(Self::lost)?;
        let (node, at) = (stop.node, stop.node.position());
        if self.leaf_at(&stop, offset)?.is_some() {
            return Err(Error::Mapped { at });
        }
        let old = decode(&self.format, stop.word, at).unwrap_or(0);
        let next = node.next_entry(offset).min(end);
        if old == value {
            return Ok(next);
        }
        let new = encode(&self.format, value, at)?;
        let whole = offset & (at.size() - 1) == 0 && end - offset >= at.size();
        if !whole {
            self.annotate_below(trail, &stop, (offset, end), old)?;
            return Ok(offset);
        }
        stop.slot.store(new);
        self.wrote(node.entry::<F>(offset), 1);
        match (old, value) {
            (0, _) => self.count(node, 1, trail.locks.owner()),
            (_, 0) => self.discount(trail, offset, node.level, 1, gather)?,
            _ => {}
        }
        Ok(next)
    }

    /// Makes a table in the place of the absent entry at which `stop` stands, every entry of which
    /// keeps `old`. If that is nothing, the first entry for `offset` is left for the caller to fill
    /// at once, and tables are made down to where it is whole.
    fn annotate_below<L: Locks>(
        &self,
        trail: &mut Trail<L>,
        stop: &Stop<F, Word<'_, F>>,
        (offset, end): (u64, u64),
        old: u64,
    ) -> Result<(), Error> {
        let (node, geometry) = (stop.node, self.format.geometry());
        let whole = |level: &u8| {
            let size = 1u64 << geometry.shift(Level(*level));
            *level == 0 || offset & (size - 1) == 0 && end - offset >= size
        };
        let below = node.level.checked_sub(1).ok_or(Error::LeafSize)?;
        let level = if old == 0 { (0..=below).rev().find(whole).unwrap_or(0) } else { below };
        let (owner, width) = (trail.locks.owner(), geometry.width(Level(level)));
        let nodes = self.grow(node, offset, (level, width), Contents::Zeroed, owner)?;
        let (Some(&top), Some(&bottom)) = (nodes.first(), nodes.last()) else {
            return Err(Error::LeafSize);
        };
        match self.keep_in(bottom, old, owner).and_then(|()| self.table_word(node, top)) {
            Ok(link) => {
                // Before an embedder's code can panic: what is linked is unlocked by the trail.
                trail.locks.made(&nodes);
                trail.grown(&nodes);
                if old == 0 {
                    self.count(node, 1, owner);
                }
                self.publish(stop.slot, node.entry::<F>(offset), link);
                Ok(())
            }
            Err(error) => {
                self.shrink(&nodes, owner);
                Err(error)
            }
        }
    }

    /// Every entry of the new table of `node`, which `owner` has, keeps `value`.
    fn keep_in(&self, node: Node, value: u64, owner: Owner) -> Result<(), Error> {
        if value == 0 {
            return Ok(());
        }
        let word = encode(&self.format, value, node.position())?;
        let entries = 1usize << node.width;
        let words = self.words(node.table, entries)?;
        for memory in words {
            Word::<F>::new(memory).store(word);
        }
        self.wrote(node.table, entries);
        self.count(node, entries as u32, owner);
        Ok(())
    }

    /// Whether any entry of the tree was annotated.
    #[inline(always)]
    pub(crate) fn is_annotated(&self) -> bool {
        self.annotated.load(Ordering::Relaxed)
    }

    /// An error if `word`, an absent entry of `node`'s table, is annotated.
    #[inline]
    pub(crate) fn check_unannotated(&self, node: Node, word: u64) -> Result<(), Error> {
        let at = node.position();
        match decode(&self.format, word, at) {
            Some(value) if self.is_annotated() => Err(Error::Annotated { at, value }),
            _ => Ok(()),
        }
    }
}
