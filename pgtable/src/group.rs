//! Groups: neighbouring entries of one table that are one leaf ([`Groups`]).
//!
//! # Protocol
//! A group is made, changed and taken out as a whole. Before a part of it is changed, it is
//! replaced by ordinary leaves: all entries are made absent, the whole is invalidated, and then the
//! leaves are stored, each with every record that any entry of the group had. Hardware may use one
//! entry for all addresses of a group, and records in the one that it used.
//!
//! Entries that say that they belong to a group, but do not agree with their neighbours, are leaves
//! by themselves. They stand only in tables that somebody else wrote.
//!
//! For formats without groups all of this is nothing, at compile time.

use core::ops::Range;

use arrayvec::ArrayVec;

use crate::address::{Address, low_bits};
use crate::allocator::TableAllocator;
use crate::descent::{InPlace, Node, Trail};
use crate::error::{Error, RangeError};
use crate::format::{Bits, Entry, Format, Groups, Input, Output};
use crate::gather::{Gather, Invalidate};
use crate::geometry::{Level, MAX_GROUP, Position};
use crate::interrupted::OnPanic;
use crate::lock::Locks;
use crate::memory::TableMemory;
use crate::space::Mapping;
use crate::table::PageTable;
use crate::walk::{LeafOf, TranslationOf, translation};
use crate::word::Word;

/// Whether a format has groups.
#[inline(always)]
pub(crate) const fn has_groups<F: Format>() -> bool {
    !matches!(F::GROUPS, Groups::None)
}

/// log2 of how many entries the group has to which the leaf `word` at `at` belongs; 0 if it belongs
/// to none.
#[inline(always)]
pub(crate) fn group_of<F: Format>(format: &F, word: u64, at: Position) -> u8 {
    if !has_groups::<F>() {
        return 0;
    }
    format.group(word, at).min(MAX_GROUP).min(63u8.saturating_sub(at.shift))
}

/// Which output the entry for `offset`, which belongs to a group of `2^group` entries at `at` and
/// is decoded as a leaf with `output`, maps its own part to.
#[inline(always)]
fn own_output<F: Format>(output: Output<F>, offset: u64, at: Position, group: u8) -> Output<F> {
    match F::GROUPS {
        Groups::Alike if group > 0 => {
            let within = offset & low_bits(at.shift + group) & !low_bits(at.shift);
            <Output<F> as Address>::new(output.get().wrapping_add(within))
        }
        _ => output,
    }
}

/// Which output the leaf `word` for `offset` at `at` maps its own part to, which is decoded with
/// `output`.
#[inline(always)]
pub(crate) fn own_output_of<F: Format>(
    format: &F,
    output: Output<F>,
    offset: u64,
    at: Position,
    word: u64,
) -> Output<F> {
    own_output::<F>(output, offset, at, group_of(format, word, at))
}

/// The translation of `offset` by the leaf `word` at `at`, which is decoded as a leaf with `output`
/// and `attributes`.
#[inline(always)]
pub(crate) fn translation_by<F: Format>(
    format: &F,
    word: u64,
    at: Position,
    (output, attributes): (Output<F>, F::Attributes),
    offset: u64,
) -> TranslationOf<F> {
    let group = group_of(format, word, at);
    let own = own_output::<F>(output, offset, at, group);
    TranslationOf::<F> { shift: at.shift + group, ..translation(own, offset, at, attributes) }
}

/// The leaf `word` for `offset` at `at` as an ordinary leaf that says the same of its own part,
/// with the same records. `None` if it is no leaf, or has no such encoding.
#[inline(always)]
pub(crate) fn ordinary<F: Format>(format: &F, word: u64, at: Position, offset: u64) -> Option<u64> {
    let group = group_of(format, word, at);
    if group == 0 {
        return Some(word);
    }
    let Entry::Leaf { output, attributes } = format.decode(word, at) else { return None };
    let own = own_output::<F>(output, offset, at, group);
    format.leaves(own, attributes, at).ok().map(|words| words.first)
}

/// `word` without what hardware recorded in it.
#[inline(always)]
pub(crate) fn unrecorded(bits: &Bits, word: u64) -> u64 {
    bits.dirty.cleared_from(bits.accessed.cleared_from(word))
}

/// `word` with every record that `other` has.
#[inline(always)]
pub(crate) fn joined(bits: &Bits, word: u64, other: u64) -> u64 {
    [bits.accessed, bits.dirty]
        .iter()
        .fold(word, |word, record| if record.is_in(other) { record.made(word) } else { word })
}

/// A leaf among neighbouring entries: one entry, or a whole group.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Unit {
    /// The index of its first entry.
    pub(crate) first: usize,
    /// log2 of how many entries it has.
    pub(crate) group: u8,
    /// What its first entry says, with the records that any of its entries has.
    pub(crate) word: u64,
}

impl Unit {
    /// The indices of its entries.
    pub(crate) fn entries(self) -> Range<usize> {
        self.first..self.first + (1 << self.group)
    }

    /// The leaf, if it is one: it stands at `at` among entries of which the first covers `base`.
    #[inline(always)]
    pub(crate) fn leaf<F: Format>(self, format: &F, at: Position, base: u64) -> Option<LeafOf<F>> {
        let Entry::Leaf { output, attributes } = format.decode(self.word, at) else { return None };
        let offset = base + ((self.first as u64) << at.shift);
        let output = match self.group {
            // It may say that it belongs to a group, and stand alone.
            0 => own_output::<F>(output, offset, at, group_of(format, self.word, at)),
            _ => output,
        };
        let shift = at.shift + self.group;
        let input = format.address(offset);
        Some(Mapping { input, output, bytes: 1 << shift, shift, attributes })
    }
}

/// The leaf to which `word` belongs, the entry of that `index` among `count` neighbouring entries
/// at `at`, of which the first covers `base`; `read` reads the others.
///
/// That is a group only if all entries of the group are among them and agree.
#[inline]
pub(crate) fn unit<F: Format>(
    format: &F,
    (at, base): (Position, u64),
    (index, count): (usize, usize),
    word: u64,
    read: impl Fn(usize) -> Option<u64>,
) -> Unit {
    let alone = Unit { first: index, group: 0, word };
    let group = group_of(format, word, at);
    if group == 0 {
        return alone;
    }
    whole_group(format, (at, base), (index, count), word, group, read).unwrap_or(alone)
}

#[inline(never)]
fn whole_group<F: Format>(
    format: &F,
    (at, base): (Position, u64),
    (index, count): (usize, usize),
    word: u64,
    group: u8,
    read: impl Fn(usize) -> Option<u64>,
) -> Option<Unit> {
    let bits = format.bits(at);
    let within = (base >> at.shift).wrapping_add(index as u64) & low_bits(group);
    let first = index.checked_sub(within as usize)?;
    if first + (1 << group) > count {
        return None;
    }
    let Entry::Leaf { output, attributes } = format.decode(word, at) else { return None };
    let output = match F::GROUPS {
        Groups::Apart => output.get().checked_sub(within << at.shift)?,
        _ => output.get(),
    };
    let output = <Output<F> as Address>::new(output);
    let words = format.group_leaves(output, attributes, at, group).ok()?;
    let step = if matches!(F::GROUPS, Groups::Apart) { words.step } else { 0 };
    let (mut expected, mut all) = (words.first, words.first);
    for index in first..first + (1 << group) {
        let word = read(index)?;
        if unrecorded(&bits, word) != unrecorded(&bits, expected) {
            return None;
        }
        all = joined(&bits, all, word);
        expected = expected.wrapping_add(step);
    }
    Some(Unit { first, group, word: all })
}

/// [`unit`] among entries in place.
#[inline(always)]
pub(crate) fn unit_in<F: Format>(
    format: &F,
    at: (Position, u64),
    words: &[F::Word],
    index: usize,
    word: u64,
) -> Unit {
    let read = |index| words.get(index).map(|memory| Word::<F>::new(memory).load());
    unit(format, at, (index, words.len()), word, read)
}

/// Makes the entries of `unit` absent, which stands at `at` among `words`; returns it with every
/// record that hardware made until then.
pub(crate) fn taken_out<F: Format>(
    format: &F,
    at: Position,
    words: &[F::Word],
    unit: Unit,
) -> Unit {
    let bits = format.bits(at);
    let taken = words.get(unit.entries()).unwrap_or_default().iter();
    let word = taken.fold(unit.word, |all, memory| {
        let word = Word::<F>::new(memory).take();
        if unit.group == 0 { word } else { joined(&bits, all, word) }
    });
    Unit { word, ..unit }
}

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
