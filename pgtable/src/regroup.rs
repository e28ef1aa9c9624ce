//! Groups made of ordinary leaves, and ordinary leaves made of groups.

use arrayvec::ArrayVec;

use crate::address::low_bits;
use crate::allocator::TableAllocator;
use crate::descent::{InPlace, Node};
use crate::error::{Error, RangeError};
use crate::format::{Bits, Entry, Format, Groups, Input, Output};
use crate::gather::{Gather, Invalidate};
use crate::geometry::{Level, MAX_GROUP};
use crate::group::{Unit, group_of, ordinary, unit_in};
use crate::interrupted::OnPanic;
use crate::lock::Locks;
use crate::memory::TableMemory;
use crate::table::PageTable;
use crate::trail::Trail;
use crate::word::Word;

/// The entries of a group, taken out of their table.
type Taken = ArrayVec<u64, { 1 << MAX_GROUP }>;

impl<F, M, A> PageTable<F, M, A>
where
    F: Format,
    M: TableMemory<Output<F>>,
    A: TableAllocator<Output<F>>,
{
    /// The entries of the group of `2^group` entries around `offset` in the table of `node`, and
    /// the offset that the first covers.
    fn group_around(&self, node: Node, offset: u64, group: u8) -> Result<(&[F::Word], u64), Error> {
        let group = group.min(node.width);
        let base = offset & !low_bits(node.shift + group);
        let words = self.words(node.entry::<F>(base), 1 << group)?;
        Ok((words, base))
    }

    /// The leaf to which `word` belongs, the entry for `offset` in the table of `node`.
    pub(crate) fn unit_at(&self, node: Node, offset: u64, word: u64) -> Result<Unit, Error> {
        let at = node.position();
        let (words, base) = self.group_around(node, offset, group_of(&self.format, word, at))?;
        let index = (offset.wrapping_sub(base) >> node.shift) as usize;
        Ok(unit_in(&self.format, (at, base), words, index, word))
    }

    /// Replaces the groups in the table of `node` that a change of the addresses from `offset` to
    /// before `end` would leave incomplete; returns whether there was one.
    ///
    /// `word` is the entry for `offset`.
    pub(crate) fn ungroup_ends<L: Locks, I: Invalidate<F::Stage>>(
        &self,
        locks: &mut L,
        node: Node,
        word: u64,
        (offset, end): (u64, u64),
        gather: &mut Gather<'_, F::Stage, I>,
    ) -> Result<bool, Error> {
        let at = node.position();
        let cut = |offset: u64, word| {
            let leaf = matches!(self.format.decode(word, at), Entry::Leaf { .. });
            let group = if leaf { group_of(&self.format, word, at) } else { 0 };
            let span = low_bits(at.shift + group);
            (span > low_bits(at.shift), offset & !span, offset | span)
        };
        let (grouped, first, last) = cut(offset, word);
        if grouped && (first < offset || last >= end) {
            self.ungroup(locks, node, offset, word, gather)?;
            return Ok(true);
        }
        let last_offset = (offset | low_bits(node.span())).min(end - 1);
        let slot = self.word(node.entry::<F>(last_offset))?;
        let word = Word::<F>::new(slot).load();
        let (grouped, _, last) = cut(last_offset, word);
        if node.level == 0 && grouped && last >= end {
            self.ungroup(locks, node, last_offset, word, gather)?;
            return Ok(true);
        }
        Ok(false)
    }

    /// Replaces the entries of the group around `offset` in the table of `node` by ordinary leaves
    /// that say the same; `word` is its entry for `offset`. Entries that are none of the group
    /// stay.
    ///
    /// The caller looks at the entries again, and finds a group again if somebody else wrote one:
    /// so often, then they are malformed.
    pub(crate) fn ungroup<L: Locks, I: Invalidate<F::Stage>>(
        &self,
        locks: &mut L,
        node: Node,
        offset: u64,
        word: u64,
        gather: &mut Gather<'_, F::Stage, I>,
    ) -> Result<(), Error> {
        let (format, at) = (&self.format, node.position());
        let group = group_of(format, word, at);
        if !locks.again(group) {
            return Err(Error::Malformed { at, entry: node.entry::<F>(offset), word });
        }
        let (words, base) = self.group_around(node, offset, group)?;
        let bits = format.bits(at);
        let whole = self.unit_at(node, offset, word)?.group > 0;
        let belongs = |word| {
            matches!(format.decode(word, at), Entry::Leaf { .. })
                && group_of(format, word, at) == group
        };
        self.replace(node, base, words, belongs, gather, |taken| {
            let all = taken.iter().fold(0, |all, &word| all | records_in(&bits, word));
            let mut new = Taken::new();
            for (&word, index) in taken.iter().zip(0..) {
                let offset = base + (index << node.shift);
                let word = if belongs(word) {
                    ordinary(format, word, at, offset).ok_or(Error::Unencodable { at })?
                } else {
                    word
                };
                // As many as were taken.
                let _ = new.try_push(if whole { with_records(&bits, word, all) } else { word });
            }
            Ok(Some(new))
        })
        .map(|_| ())
    }

    /// Makes groups of `2^group` entries of the ordinary leaves, and of the smaller groups, in the
    /// part of the tree from `start` to before `end`, on `level`; returns how many.
    pub(crate) fn group_range<L: Locks, I: Invalidate<F::Stage>>(
        &self,
        trail: &mut Trail<L>,
        (start, end): (u64, u64),
        (level, group): (Level, u8),
        gather: &mut Gather<'_, F::Stage, I>,
    ) -> Result<usize, RangeError<Input<F>>> {
        let shift = self.format.geometry().shift(level);
        let size = 1u64 << (shift + group);
        let (mut offset, mut made) = (start.next_multiple_of(size), 0);
        while offset < end && end - offset >= size {
            let mut step = || {
                let stop = trail
                    .seek(&self.format, InPlace(&self.memory), offset, level.0)
                    .map_err(Self::lost)?;
                if stop.node.level > level.0 {
                    return Ok(stop.node.next_entry(offset).next_multiple_of(size));
                }
                let leaf = matches!(stop.decode(&self.format), Entry::Leaf { .. });
                let had = group_of(&self.format, stop.word, stop.node.position());
                if leaf && stop.node.shift == shift && had < group {
                    made += usize::from(self.make_group(stop.node, offset, group, gather)?);
                }
                Ok(offset + size)
            };
            offset =
                step().map_err(|error| RangeError { at: self.format.address(offset), error })?;
        }
        Ok(made)
    }

    /// Makes one group of the `2^group` entries from `base` on in the table of `node`, if together
    /// they say one thing.
    fn make_group<I: Invalidate<F::Stage>>(
        &self,
        node: Node,
        base: u64,
        group: u8,
        gather: &mut Gather<'_, F::Stage, I>,
    ) -> Result<bool, Error> {
        let (words, base) = self.group_around(node, base, group)?;
        let at = node.position();
        let grouped = |words: &mut dyn Iterator<Item = u64>| {
            let (output, attributes) = self.uniform(at, base, words)?;
            let words = self.format.group_leaves(output, attributes, at, group).ok()?;
            let step = if matches!(F::GROUPS, Groups::Apart) { words.step } else { 0 };
            let word = |n: u64| words.first.wrapping_add(step.wrapping_mul(n));
            Some((0..1u64 << group).map(word).collect::<Taken>())
        };
        if grouped(&mut words.iter().map(|memory| Word::<F>::new(memory).load())).is_none() {
            return Ok(false);
        }
        self.replace(
            node,
            base,
            words,
            |_| true,
            gather,
            |taken| Ok(grouped(&mut taken.iter().copied())),
        )
    }

    /// Takes those of `words` out that `wanted` names, entries of `node`'s table of which the first
    /// covers `base`, invalidates, and stores what `make` makes of all of them; or what they held,
    /// if that is nothing. Returns whether it made anything.
    fn replace<I: Invalidate<F::Stage>>(
        &self,
        node: Node,
        base: u64,
        words: &[F::Word],
        wanted: impl Fn(u64) -> bool,
        gather: &mut Gather<'_, F::Stage, I>,
        make: impl FnOnce(&[u64]) -> Result<Option<Taken>, Error>,
    ) -> Result<bool, Error> {
        let taken: Taken = words
            .iter()
            .map(|memory| {
                let slot = Word::<F>::new(memory);
                let word = slot.load();
                if wanted(word) { slot.take() } else { word }
            })
            .collect();
        let last = base + ((words.len() as u64 - 1) << node.shift);
        gather.pages(self.format.address(base), self.format.address(last), node.shift);
        let store = |new: &Taken| {
            for ((memory, &word), &old) in words.iter().zip(new).zip(&taken) {
                if wanted(old) {
                    Word::<F>::new(memory).store(word);
                }
            }
            self.wrote(node.entry::<F>(base), words.len());
            self.appeared(base, (words.len() as u64) << node.shift);
        };
        let interrupted = OnPanic::new(|| store(&taken));
        let flushed = gather.flush(&self.tables).map_err(Error::Invalidate);
        let made = flushed.and_then(|()| make(&taken));
        interrupted.disarm();
        store(made.as_ref().ok().and_then(Option::as_ref).unwrap_or(&taken));
        made.map(|made| made.is_some())
    }
}

/// Which records `word` has: accessed 1, dirty 2.
fn records_in(bits: &Bits, word: u64) -> u8 {
    u8::from(bits.accessed.is_in(word)) | u8::from(bits.dirty.is_in(word)) << 1
}

/// `word` with `records`, as [`records_in`] names them.
fn with_records(bits: &Bits, word: u64, records: u8) -> u64 {
    let word = if records & 1 != 0 { bits.accessed.made(word) } else { word };
    if records & 2 != 0 { bits.dirty.made(word) } else { word }
}
