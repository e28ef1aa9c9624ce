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

use crate::address::{Address, low_bits};
use crate::format::{Bits, Entry, Format, Groups, Output};
use crate::geometry::{MAX_GROUP, Position};
use crate::space::Mapping;
use crate::translate::translation;
use crate::walk::{LeafOf, TranslationOf};
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
