//! Several operations under one lock.

use crate::access::Prot;
use crate::address::Address;
use crate::allocator::TableAllocator;
use crate::descent::InPlace;
use crate::error::{Error, RangeError};
use crate::format::{Entry, Format, Input, Output};
use crate::gather::{Gather, Invalidate};
use crate::lock::ReadSide;
use crate::memory::TableMemory;
use crate::modify::{Each, Modify, ReadOnly, Replace, Rights};
use crate::record::{Recorded, Writers};
use crate::space::Leaves;
use crate::table::PageTable;
use crate::walk::{LeafOf, TranslationOf, bounds, malformed, translation};
use crate::word::{Word, any_set};

use super::Writer;
use super::held::{Held, TrailOf};

/// A range that one writer has to himself, until this is finished or dropped.
///
/// Dropping it unlocks the range and leaves tables that became empty where they are, for the next
/// [`Writer::unmap`] that comes by; [`finish`](Self::finish) takes them out.
#[derive(Debug)]
pub struct SharedCursor<'w, 't, F, M, A, R>
where
    F: Format,
    A: TableAllocator<Output<F>>,
{
    writer: &'w Writer<'t, F, M, A, R>,
    held: Held<'t, Output<F>, A>,
    start: u64,
    last: u64,
}

impl<'w, 't, F, M, A, R> SharedCursor<'w, 't, F, M, A, R>
where
    F: Format,
    M: TableMemory<Output<F>>,
    A: TableAllocator<Output<F>>,
    R: ReadSide,
{
    /// `writer` has locked, with `held`, what covers the offsets from the first to the last of
    /// `range`.
    pub(super) fn new(
        writer: &'w Writer<'t, F, M, A, R>,
        held: Held<'t, Output<F>, A>,
        (start, last): (u64, u64),
    ) -> Self {
        Self { writer, held, start, last }
    }

    /// That the `bytes` bytes from `input` on are within the range.
    fn check(&self, input: Input<F>, bytes: u64) -> Result<(), RangeError<Input<F>>> {
        let (start, end) = bounds(&self.writer.table.format, input, bytes, 0)?;
        if start < self.start || end > self.last.saturating_add(1) {
            return Err(RangeError { at: input, error: Error::Range });
        }
        Ok(())
    }

    /// As [`PageTable::map`], within the range, and with leaves no larger than an entry of the
    /// table that is locked: for a leaf that covers the whole range, lock a larger one.
    ///
    /// # Errors
    /// As there; [`Error::Range`] beyond the range, [`Error::Contended`].
    pub fn map(
        &mut self,
        input: Input<F>,
        output: Output<F>,
        bytes: u64,
        attributes: F::Attributes,
        leaves: Leaves,
    ) -> Result<(), RangeError<Input<F>>> {
        if self.map_page(input, output, bytes, attributes, leaves) {
            return Ok(());
        }
        self.map_range(input, output, bytes, attributes, leaves)
    }

    /// The common case of [`map`](Self::map): one page of the usual size into the last-level table
    /// that is locked. False, and nothing changed, if it is any other.
    #[inline(always)]
    fn map_page(
        &mut self,
        input: Input<F>,
        output: Output<F>,
        bytes: u64,
        attributes: F::Attributes,
        leaves: Leaves,
    ) -> bool {
        let table = self.writer.table;
        let node = self.held.top();
        let Some(offset) = table.base_page_at(input, bytes, leaves) else { return false };
        let Some(leaf) = table.base_page(node, output, attributes) else { return false };
        if offset < self.start || offset > self.last {
            return false;
        }
        let Ok(memory) = table.memory.word(<Output<F> as Address>::new(node.entry(offset))) else {
            return false;
        };
        if any_set::<F>(memory, table.present(node)) {
            return false;
        }
        Word::<F>::new(memory).store(leaf);
        table.wrote(node.entry(offset), 1);
        table.count(node, 1);
        true
    }

    /// The general case of [`map`](Self::map).
    #[inline(never)]
    fn map_range(
        &mut self,
        input: Input<F>,
        output: Output<F>,
        bytes: u64,
        attributes: F::Attributes,
        leaves: Leaves,
    ) -> Result<(), RangeError<Input<F>>> {
        self.within(input, bytes, |table, trail| {
            table.map_range(trail, input, output, bytes, attributes, leaves)
        })
    }

    /// As [`PageTable::unmap`], within the range.
    ///
    /// # Errors
    /// As there; [`Error::Range`] beyond the range, [`Error::Contended`].
    pub fn unmap<I: Invalidate<F::Stage>>(
        &mut self,
        input: Input<F>,
        bytes: u64,
        gather: &mut Gather<'_, F::Stage, I>,
    ) -> Result<u64, RangeError<Input<F>>> {
        self.within(input, bytes, |table, trail| table.unmap_range(trail, input, bytes, gather))
    }

    verbs!(self: &mut Self, ", within the range ([`Error::Range`] beyond it). The table that is locked stays: what would put a leaf in its place needs a larger range.");

    /// Does `verb` to a part of the range.
    fn within<T>(
        &mut self,
        input: Input<F>,
        bytes: u64,
        verb: impl FnOnce(
            &PageTable<F, M, A>,
            &mut TrailOf<'t, F, A>,
        ) -> Result<T, RangeError<Input<F>>>,
    ) -> Result<T, RangeError<Input<F>>> {
        self.check(input, bytes)?;
        let (table, start, last) = (self.writer.table, self.start, self.last);
        self.held.run(|trail| {
            let done = verb(table, trail)?;
            // There may be a table now that covers the range, and is smaller than the one that was
            // locked. If it is not to be had, the larger one does as well.
            if trail.top() > 0 && bytes > 0 {
                let offset = table.format.offset(input).unwrap_or(start);
                if trail.seek(&table.format, InPlace(&table.memory), offset, 0).is_ok() {
                    trail.narrow(start, last);
                }
            }
            Ok(done)
        })
    }

    /// What is mapped at `input`; `None` if nothing is.
    ///
    /// # Errors
    /// [`Error::Range`] beyond the range, [`Error::Malformed`], [`Error::Memory`],
    /// [`Error::Contended`].
    pub fn query(
        &mut self,
        input: Input<F>,
    ) -> Result<Option<TranslationOf<F>>, RangeError<Input<F>>> {
        self.check(input, 1)?;
        let table = self.writer.table;
        let fail = |error| RangeError { at: input, error };
        self.held.run(|trail| {
            let offset = table.format.offset(input).ok_or(fail(Error::Range))?;
            let stop = trail
                .seek(&table.format, InPlace(&table.memory), offset, 0)
                .map_err(|lost| fail(PageTable::<F, M, A>::lost(lost)))?;
            match stop.decode(&table.format) {
                Entry::Absent => Ok(None),
                Entry::Leaf { output, attributes } => {
                    Ok(Some(translation(output, offset, stop.node.position(), attributes)))
                }
                Entry::Malformed | Entry::Table { .. } => {
                    Err(fail(malformed(stop.node, stop.word, offset)))
                }
            }
        })
    }

    /// Unlocks the range, and takes tables that became empty out of the tree (as
    /// [`Writer::unmap`] does).
    pub fn finish<I: Invalidate<F::Stage>>(self, gather: &mut Gather<'_, F::Stage, I>) {
        self.writer.let_go(self.held, self.start, gather);
    }
}
