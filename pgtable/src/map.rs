//! Mapping: leaves of the largest size that fits, filled run by run, each new table filled before
//! it is linked.

use crate::address::{Address, low_bits};
use crate::allocator::{Contents, TableAllocator};
use crate::descent::{InPlace, Node, Stop};
use crate::error::{Error, RangeError};
use crate::fill::{Free, per_word};
use crate::format::{Entry, Format, Input, Output, Words, base_shift};
use crate::geometry::{Level, MAX_GROUP, Position};
use crate::group::has_groups;
use crate::lock::Locks;
use crate::memory::TableMemory;
use crate::space::Leaves;
use crate::state::Owner;
use crate::table::PageTable;
use crate::trail::Trail;
use crate::walk::bounds;
use crate::word::Word;

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

    /// The beginning of this, up to where a larger group than `2^shift` bytes may be used.
    fn before_group<F: Format>(self, format: &F, leaves: Leaves, shift: u8, level: Level) -> Self {
        let most = match leaves {
            Leaves::Exactly(_) => return self,
            Leaves::AtMost(limit) => limit,
            Leaves::Largest => 63,
        };
        let geometry = format.geometry();
        let larger = (1..=MAX_GROUP)
            .filter(|group| geometry.groups(level) & 1 << group != 0)
            .map(|group| geometry.shift(level) + group)
            .find(|&larger| larger > shift && larger <= most);
        let Some(larger) = larger else { return self };
        let next = (self.offset | low_bits(larger)).saturating_add(1);
        let alike = (self.offset ^ self.output) & low_bits(larger) == 0;
        if alike { Self { end: self.end.min(next), ..self } } else { self }
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
    /// Where something was unmapped, finish its gather first: hardware may still hold the old
    /// translation, and some architectures forbid two for one address.
    ///
    /// ```
    /// # use pgtable_conformance::prelude::*;
    /// # pgtable_conformance::example!(tree: tree, gather);
    /// // 2 MiB and a page: one large leaf and a small one.
    /// let (at, to) = (Gva::new(0x20_0000), Gpa::new(0x80_0000));
    /// tree.map(at, to, 0x20_1000, Prot::RW.into(), Leaves::Largest)?;
    /// let error = tree.map(at, to, 0x1000, Prot::R.into(), Leaves::Largest).unwrap_err();
    /// assert!(matches!(error.error, Error::Mapped { .. }));
    /// # gather.finish(tree.tables())?;
    /// # Ok::<(), Box<dyn core::error::Error>>(())
    /// ```
    ///
    /// A gather that holds what was unmapped there is finished before: see
    /// [mapping again](crate::invalidate#mapping-again).
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
        if self.map_leaf::<0>(input, output, bytes, attributes, leaves) {
            return Ok(());
        }
        self.map_otherwise(input, output, bytes, attributes, leaves)
    }

    /// [`map`](Self::map), whatever it is.
    #[inline(never)]
    fn map_otherwise(
        &mut self,
        input: Input<F>,
        output: Output<F>,
        bytes: u64,
        attributes: F::Attributes,
        leaves: Leaves,
    ) -> Result<(), RangeError<Input<F>>> {
        if self.map_first(input, output, bytes, attributes, leaves)
            || self.map_leaf::<1>(input, output, bytes, attributes, leaves)
            || self.map_leaf::<2>(input, output, bytes, attributes, leaves)
        {
            return Ok(());
        }
        self.alone(|trail| self.map_range(trail, input, output, bytes, attributes, leaves))
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
        let mut failed = Ok(());
        while rest.bytes() > 0 && failed.is_ok() {
            match self.map_run(trail, rest, attributes, leaves) {
                Ok(done) => {
                    rest.offset += done;
                    rest.output = rest.output.wrapping_add(done);
                }
                Err(error) => {
                    failed = Err(RangeError { at: self.format.address(rest.offset), error });
                }
            }
        }
        if rest.offset > offset {
            self.appeared(offset, rest.offset - offset);
        }
        failed
    }

    /// The offset of `input`, if `bytes` bytes from there are one page of the base size, and it may
    /// be mapped as such.
    #[inline(always)]
    pub(crate) fn base_page_at(&self, input: Input<F>, bytes: u64, leaves: Leaves) -> Option<u64> {
        self.leaf_at_once(input, (base_shift(&self.format), bytes), leaves)
    }

    /// The leaf for `output` in the table of `node`, if that is one of base pages.
    #[inline(always)]
    pub(crate) fn base_page(
        &self,
        node: Node,
        output: Output<F>,
        attributes: F::Attributes,
    ) -> Option<u64> {
        let at = node.position();
        if at.level.0 != 0 || at.shift != base_shift(&self.format) {
            return None;
        }
        self.format.leaves(output, attributes, at).ok().map(|words| words.first)
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
            let (level, width, group) = match geometry.leaf(shift) {
                Some((level, width)) => (level, width, 0),
                None if has_groups::<F>() => {
                    let (level, group) = geometry.group(shift).ok_or(Error::LeafSize)?;
                    (level, geometry.width(level), group)
                }
                None => return Err(Error::LeafSize),
            };
            let rest = if has_groups::<F>() {
                rest.before_group(&self.format, leaves, shift, level)
            } else {
                rest
            };
            let entry = shift - group;
            let stop = trail
                .seek(&self.format, InPlace(&self.memory), rest.offset, level.0)
                .map_err(Self::lost)?;
            if stop.node.level > level.0 {
                let contents = rest.before(entry + width);
                return self.map_in_new_tables(
                    trail,
                    &stop,
                    rest,
                    attributes,
                    (level.0, width),
                    (group, contents),
                );
            }
            if stop.node.shift > entry
                || (stop.node.shift < entry && matches!(leaves, Leaves::Exactly(_)))
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
            match self.map_in_table(&stop, rest, attributes, (group, trail.locks.owner()))? {
                0 if group > 0 && !matches!(leaves, Leaves::Exactly(_)) => {
                    shift = rest.leaf(&self.format, leaves, shift - 1)?;
                }
                0 => {
                    // Somewhere in the group.
                    let at = Position { shift, ..stop.node.position() };
                    return Err(Error::Mapped { at });
                }
                done => return Ok(done),
            }
        }
    }

    /// Maps into the table at which `stop` stands, and which `owner` has, as far as its entries are
    /// free; returns how many bytes. That is nothing only where a group has no room.
    fn map_in_table(
        &self,
        stop: &Stop<F, Word<'_, F>>,
        rest: Rest,
        attributes: F::Attributes,
        (group, owner): (u8, Owner),
    ) -> Result<u64, Error> {
        let node = stop.node;
        let (run, words) = self.run(node, rest, attributes, group)?;
        let empty = self.state(node).is_some_and(|state| state.live() == 0);
        let free = Free::at(&self.format, node.position(), self.is_annotated());
        let place = (node, group);
        let done = if empty {
            self.fill(run, words, rest.output, attributes, place)?;
            run.len()
        } else if group == 0 {
            self.fill_free(run, words, rest.output, attributes, node, free)?
        } else {
            // A group goes in as a whole.
            let free = run.iter().position(|memory| !free.is(&self.format, memory));
            let free = free.unwrap_or(run.len());
            let done = free & !(low_bits(group) as usize);
            self.fill(&run[..done], words, rest.output, attributes, place)?;
            if done == 0 && free > 0 {
                return Ok(0);
            }
            done
        };
        if done == 0 {
            return Err(match stop.decode(&self.format) {
                Entry::Malformed => {
                    crate::walk::malformed(&self.format, stop.node, stop.word, rest.offset)
                }
                Entry::Absent => match self.check_unannotated(node, stop.word) {
                    Err(annotated) => annotated,
                    Ok(()) => Error::Mapped { at: node.position() },
                },
                _ => Error::Mapped { at: node.position() },
            });
        }
        self.wrote(node.entry::<F>(rest.offset), done);
        self.count(node, done as u32, owner);
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
        (group, contents): (u8, Contents),
    ) -> Result<u64, Error> {
        if self.leaf_at(stop, rest.offset)?.is_some() {
            return Err(Error::Mapped { at: stop.node.position() });
        }
        self.check_unannotated(stop.node, stop.word)?;
        let owner = trail.locks.owner();
        // Looked at where it is: it is large, and a move is a copy.
        let grown = self.grow(stop.node, rest.offset, table, contents, owner);
        let nodes = match &grown {
            Ok(nodes) => nodes,
            Err(error) => return Err(*error),
        };
        let (Some(&top), Some(&node)) = (nodes.first(), nodes.last()) else {
            return Err(Error::LeafSize);
        };
        let filled = self.run(node, rest, attributes, group).and_then(|(run, words)| {
            let done = run.len();
            self.fill(run, words, rest.output, attributes, (node, group))?;
            self.wrote(node.entry::<F>(rest.offset), done);
            self.count(node, done as u32, owner);
            Ok((done, self.table_word(stop.node, top)?))
        });
        match filled {
            Ok((done, link)) => {
                // Before an embedder's code can panic: what is linked is unlocked by the trail.
                trail.locks.made(nodes);
                trail.grown(nodes);
                self.count(stop.node, 1, owner);
                self.publish(stop.slot, stop.node.entry::<F>(rest.offset), link);
                Ok((done as u64) << node.shift)
            }
            Err(error) => {
                self.shrink(nodes, owner);
                Err(error)
            }
        }
    }

    /// The entries of `node`'s table that the beginning of `rest` covers whole, all of which can be
    /// encoded (in groups of `2^group`), and the words of the first of them.
    fn run(
        &self,
        node: Node,
        rest: Rest,
        attributes: F::Attributes,
        group: u8,
    ) -> Result<(&[F::Word], Words), Error> {
        let whole = rest.offset + (rest.bytes() & !low_bits(node.shift + group));
        let entries = node.entries(rest.offset, whole);
        let words = self.encode(rest.output, attributes, (node, group))?;
        let entries_of = |words: Words| words.count.max(1).saturating_mul(per_word::<F>(group));
        let mut known = entries_of(words);
        while known < entries as u64 {
            let next = rest.output.checked_add(known << node.shift).ok_or(Error::Range)?;
            known += entries_of(self.encode(next, attributes, (node, group))?);
        }
        Ok((self.words(node.entry::<F>(rest.offset), entries)?, words))
    }
}
