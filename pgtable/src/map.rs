//! Mapping: leaves of the largest size that fits, filled run by run, each new table filled before
//! it is linked.

use core::sync::atomic::AtomicU64;

use crate::address::{Address, low_bits};
use crate::allocator::{Contents, TableAllocator};
use crate::descent::{InPlace, Node, Stop, Trail};
use crate::error::{Error, RangeError};
use crate::format::{Entry, Format, Input, Output};
use crate::lock::Locks;
use crate::memory::TableMemory;
use crate::quick::descend_to_last;
use crate::space::Leaves;
use crate::table::PageTable;
use crate::walk::bounds;
use crate::word::{Word, any_set};

/// The part of a mapping that is still to be made.
#[derive(Clone, Copy)]
struct Rest {
    offset: u64,
    end: u64,
    output: u64,
}

impl Rest {
    fn bytes(self) -> u64 {
        self.end - self.offset
    }

    /// What a new table of `2^span` bytes of addresses at the beginning may hold before it is
    /// filled: anything, if that fills it from end to end.
    fn before(self, span: u8) -> Contents {
        let whole = self.offset & low_bits(span) == 0 && self.bytes() >> span > 0;
        if whole { Contents::Stale } else { Contents::Zeroed }
    }

    /// The largest leaf that may be used at the beginning, and at most `2^max` bytes.
    fn leaf<F: Format>(self, format: &F, leaves: Leaves, max: u8) -> Result<u8, Error> {
        let alignment = self.offset | self.output;
        match leaves {
            Leaves::Exactly(shift) => {
                let fits = alignment & low_bits(shift) == 0 && self.bytes() & low_bits(shift) == 0;
                if fits && shift <= max { Some(shift) } else { None }
            }
            Leaves::AtMost(limit) => format.geometry().largest_leaf(alignment, max.min(limit)),
            Leaves::Largest => format.geometry().largest_leaf(alignment, max),
        }
        .ok_or(Error::LeafSize)
    }
}

impl<F, M, A> PageTable<F, M, A>
where
    F: Format,
    M: TableMemory<Output<F>>,
    A: TableAllocator<Output<F>>,
{
    /// Maps `bytes` bytes from `input` on to those from `output` on.
    ///
    /// # Errors
    /// [`Error::Mapped`] where something is mapped already; [`Error::Range`], [`Error::LeafSize`],
    /// [`Error::Unencodable`], [`Error::Alloc`]. Everything before the error's address is mapped,
    /// nothing from it on was changed.
    #[inline]
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
        self.map_from_root(input, output, bytes, attributes, leaves)
    }

    #[inline(never)]
    fn map_from_root(
        &mut self,
        input: Input<F>,
        output: Output<F>,
        bytes: u64,
        attributes: F::Attributes,
        leaves: Leaves,
    ) -> Result<(), RangeError<Input<F>>> {
        self.map_range(&mut self.trail(), input, output, bytes, attributes, leaves)
    }

    /// The general case of [`map`](Self::map), by any writer.
    pub(crate) fn map_range<L: Locks>(
        &self,
        trail: &mut Trail<L>,
        input: Input<F>,
        output: Output<F>,
        bytes: u64,
        attributes: F::Attributes,
        leaves: Leaves,
    ) -> Result<(), RangeError<Input<F>>> {
        let (offset, end) = bounds(&self.format, input, bytes, 0)?;
        let mut rest = Rest { offset, end, output: output.get() };
        while rest.bytes() > 0 {
            match self.map_run(trail, rest, attributes, leaves) {
                Ok(done) => {
                    rest.offset += done;
                    rest.output = rest.output.wrapping_add(done);
                }
                Err(error) => {
                    return Err(RangeError { at: self.format.address(rest.offset), error });
                }
            }
        }
        Ok(())
    }

    /// The common case of [`map`](Self::map), one page of the usual size into a table that is
    /// there; false, and nothing changed, if it is any other.
    #[inline(always)]
    fn map_page(
        &mut self,
        input: Input<F>,
        output: Output<F>,
        bytes: u64,
        attributes: F::Attributes,
        leaves: Leaves,
    ) -> bool {
        let format = &self.format;
        let Some(offset) = self.usual_page(input, bytes, leaves) else { return false };
        let table = |word, at| format.predicted_table(word, at);
        let Ok(last) = descend_to_last(format, InPlace(&self.memory), self.root, offset, table)
        else {
            return false;
        };
        let node = last.node(format);
        let Some(leaf) = self.usual_leaf(node, output, attributes) else { return false };
        if last.word & format.present_mask() != 0 {
            return false;
        }
        last.slot.store(leaf);
        self.wrote(node.entry(offset), 1);
        self.count(node, 1);
        true
    }

    /// The offset of `input`, if `bytes` bytes from there are one page of the usual size, and it
    /// may be mapped as such.
    #[inline(always)]
    pub(crate) fn usual_page(&self, input: Input<F>, bytes: u64, leaves: Leaves) -> Option<u64> {
        let shift = self.format.shift(0);
        let fits = match leaves {
            Leaves::Largest => true,
            Leaves::AtMost(limit) => limit >= shift,
            Leaves::Exactly(exact) => exact == shift,
        };
        let offset = self.format.offset(input)?;
        (bytes == 1 << shift && fits && offset & low_bits(shift) == 0).then_some(offset)
    }

    /// The leaf for `output` in the table of `node`, if that is one of usual pages.
    #[inline(always)]
    pub(crate) fn usual_leaf(
        &self,
        node: Node,
        output: Output<F>,
        attributes: F::Attributes,
    ) -> Option<u64> {
        let (format, at) = (&self.format, node.position());
        let usual = at.level.0 == 0 && at.shift == format.shift(0);
        if !usual || output.get() & !format.output_mask(at) != 0 {
            return None;
        }
        format.leaf_word(attributes, at).ok().map(|leaf| leaf | output.get())
    }

    /// Maps a run of equal leaves in one table at the beginning of `rest`; returns its length in
    /// bytes.
    fn map_run<L: Locks>(
        &self,
        trail: &mut Trail<L>,
        rest: Rest,
        attributes: F::Attributes,
        leaves: Leaves,
    ) -> Result<u64, Error> {
        let geometry = self.format.geometry();
        let fitting = 63 - rest.bytes().leading_zeros() as u8;
        let mut shift = rest.leaf(&self.format, leaves, fitting)?;
        loop {
            let (level, width) = geometry.leaf(shift).ok_or(Error::LeafSize)?;
            let stop = trail
                .seek(&self.format, InPlace(&self.memory), rest.offset, level.0)
                .map_err(Self::lost)?;
            if stop.node.level > level.0 {
                let contents = rest.before(shift + width);
                return self.map_in_new_tables(
                    trail,
                    &stop,
                    rest,
                    attributes,
                    (level.0, width),
                    contents,
                );
            }
            if stop.node.shift > shift
                || (stop.node.shift < shift && matches!(leaves, Leaves::Exactly(_)))
            {
                return Err(Error::LeafSize);
            }
            // Where a larger leaf would stand there may be a table already: then the pages go into
            // it.
            if level.0 > 0
                && !matches!(leaves, Leaves::Exactly(_))
                && matches!(stop.decode(&self.format), Entry::Table { .. })
            {
                shift = rest.leaf(&self.format, leaves, shift - 1)?;
                continue;
            }
            return self.map_in_table(&stop, rest, attributes);
        }
    }

    /// Maps into the table at which `stop` stands, as far as its entries are free.
    fn map_in_table(
        &self,
        stop: &Stop<F, Word<'_, F>>,
        rest: Rest,
        attributes: F::Attributes,
    ) -> Result<u64, Error> {
        let node = stop.node;
        let (run, first) = self.run(node, rest, attributes)?;
        let empty = self.state(node).is_some_and(|state| state.live() == 0);
        let done = if empty {
            fill_free::<F>(run, first, 1 << node.shift);
            run.len()
        } else {
            fill::<F>(run, first, 1 << node.shift, self.format.present_mask())
        };
        if done == 0 {
            return Err(match stop.decode(&self.format) {
                Entry::Malformed => crate::walk::malformed(stop.node, stop.word, rest.offset),
                _ => Error::Mapped { at: node.position() },
            });
        }
        self.wrote(node.entry(rest.offset), done);
        self.count(node, done as u16);
        Ok((done as u64) << node.shift)
    }

    /// Maps into new tables, the last of which has that level and width and may hold such contents,
    /// below the absent entry at which `stop` stands.
    fn map_in_new_tables<L: Locks>(
        &self,
        trail: &mut Trail<L>,
        stop: &Stop<F, Word<'_, F>>,
        rest: Rest,
        attributes: F::Attributes,
        table: (u8, u8),
        contents: Contents,
    ) -> Result<u64, Error> {
        if self.leaf_at(stop, rest.offset)?.is_some() {
            return Err(Error::Mapped { at: stop.node.position() });
        }
        let nodes = self.grow(stop.node, rest.offset, table, contents)?;
        let (Some(&top), Some(&node)) = (nodes.first(), nodes.last()) else {
            return Err(Error::LeafSize);
        };
        let filled = self.run(node, rest, attributes).and_then(|(run, first)| {
            let done = run.len();
            fill_free::<F>(run, first, 1 << node.shift);
            self.wrote(node.entry(rest.offset), done);
            self.count(node, done as u16);
            self.link(stop.node, rest.offset, top).map(|()| done)
        });
        match filled {
            Ok(done) => {
                trail.grown(&nodes);
                Ok((done as u64) << node.shift)
            }
            Err(error) => {
                self.shrink(&nodes)?;
                Err(error)
            }
        }
    }

    /// The entries of `node`'s table that the beginning of `rest` covers whole, and what the first
    /// of them is to hold.
    fn run(
        &self,
        node: Node,
        rest: Rest,
        attributes: F::Attributes,
    ) -> Result<(&[AtomicU64], u64), Error> {
        let at = node.position();
        let whole = rest.offset + (rest.bytes() & !low_bits(node.shift));
        let entries = node.entries(rest.offset, whole);
        let leaf = self.format.leaf_word(attributes, at).map_err(|_| Error::Unencodable { at })?;
        let last =
            rest.output.checked_add(((entries as u64) << node.shift) - 1).ok_or(Error::Range)?;
        let last = last & !low_bits(node.shift);
        if (rest.output | last) & !self.format.output_mask(at) != 0 {
            return Err(Error::Unencodable { at });
        }
        let table = <Output<F> as Address>::new(node.entry(rest.offset));
        Ok((self.memory.table(table, entries)?, leaf | rest.output))
    }
}

/// Stores `first`, `first + step` … into the entries of `run` until one is present; returns how
/// many it stored.
fn fill<F: Format>(run: &[AtomicU64], first: u64, step: u64, present: u64) -> usize {
    let free = run.iter().position(|memory| any_set::<F>(memory, present)).unwrap_or(run.len());
    fill_free::<F>(&run[..free], first, step);
    free
}

/// Stores `first`, `first + step` … into the entries of `run`, whatever they hold.
fn fill_free<F: Format>(run: &[AtomicU64], first: u64, step: u64) {
    let mut word = first;
    // Eight stores a turn: the compiler does not unroll loops of atomic accesses.
    let mut eights = run.chunks_exact(8);
    for eight in &mut eights {
        for (index, memory) in (0..).zip(eight) {
            Word::<F>::new(memory).store(word.wrapping_add(step.wrapping_mul(index)));
        }
        word = word.wrapping_add(step.wrapping_mul(8));
    }
    for memory in eights.remainder() {
        Word::<F>::new(memory).store(word);
        word = word.wrapping_add(step);
    }
}
