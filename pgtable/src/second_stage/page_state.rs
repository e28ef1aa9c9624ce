//! A leaf, and what was recorded in it; the attributes of leaves with other records and rights.

use crate::access::{Attributes, Prot};
use crate::address::Hpa;
use crate::format::{Bits, Entry, SecondStage};
use crate::geometry::{Level, Position};
use crate::walk::LeafOf;

/// A leaf of a second stage, and what was recorded in it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PageState<F: SecondStage> {
    /// The leaf.
    pub leaf: LeafOf<F>,
    /// It was used. Where the format keeps no such record, true.
    pub accessed: bool,
    /// It was written. Where the leaf keeps no such record, whether it may be written: so
    /// [`write_protect`](super::Stage2Tree::write_protect) makes it false there, and a host that
    /// writes pages back by it takes them from [`clear_dirty`](super::Stage2Tree::clear_dirty).
    pub dirty: bool,
}

impl<F: SecondStage> PageState<F> {
    /// The state that the attributes of `leaf` say.
    pub(super) fn of(format: &F, leaf: LeafOf<F>) -> Self {
        let encoded = Encoded::of(format, leaf.attributes, leaf.shift);
        let Bits { accessed, dirty, .. } = encoded.bits;
        let dirty = match dirty.is_kept_in(encoded.word) {
            true => dirty.is_in(encoded.word),
            false => leaf.attributes.prot().write(),
        };
        Self { leaf, accessed: !accessed.exists() || accessed.is_in(encoded.word), dirty }
    }

    /// Whether the leaf keeps a record of stores.
    pub(super) fn keeps_dirty(&self, format: &F) -> bool {
        let Encoded { bits, word, .. } = Encoded::of(format, self.leaf.attributes, self.leaf.shift);
        bits.dirty.is_kept_in(word)
    }

    /// The leaf's attributes without its record of use.
    pub(super) fn aged(&self, format: &F) -> F::Attributes {
        edited(format, self.leaf, |bits, word| bits.accessed.cleared_from(word))
    }

    /// The leaf's attributes without its record of stores; where it keeps none, without the right
    /// to write.
    pub(super) fn cleaned(&self, format: &F) -> F::Attributes {
        let mut leaf = self.leaf;
        if !self.keeps_dirty(format) {
            leaf.attributes = with_write(leaf.attributes, false);
        }
        edited(format, leaf, |bits, word| bits.dirty.cleared_from(word))
    }

    /// The leaf's attributes once it was used, and `dirty` says if for a store.
    pub(super) fn used(&self, format: &F, dirty: bool) -> F::Attributes {
        edited(format, self.leaf, |bits, word| {
            let word = bits.accessed.made(word);
            if dirty { bits.dirty.made(word) } else { word }
        })
    }

    /// The leaf's attributes with these rights, used, and dirty if `dirty`.
    ///
    /// (In between the page is dirty: where read-only and clean share a bit, a clean page cannot
    /// always be made writable.)
    pub(super) fn with(&self, format: &F, prot: Prot, dirty: bool) -> F::Attributes {
        let mut leaf = self.leaf;
        leaf.attributes = self.used(format, true);
        if leaf.attributes.prot() != prot {
            leaf.attributes = leaf.attributes.with_prot(prot);
        }
        edited(format, leaf, |bits, word| {
            let word = bits.accessed.made(word);
            if dirty { bits.dirty.made(word) } else { bits.dirty.cleared_from(word) }
        })
    }

    /// The attributes of this leaf with what `other` allows and has recorded too, if both map the
    /// same page in the same way.
    ///
    /// `None`: they do not; or they differ in rights that [`Prot`] cannot tell apart, so that it is
    /// not known which allows more.
    pub(super) fn joined(&self, format: &F, other: &Self) -> Option<F::Attributes> {
        let (here, there) = (self.leaf, other.leaf);
        let same =
            (here.input, here.output, here.shift) == (there.input, there.output, there.shift);
        let dirty = self.dirty || other.dirty;
        if !same {
            return None;
        }
        if self.used(format, true) == other.used(format, true) {
            return Some(match self.keeps_dirty(format) {
                true if dirty => self.used(format, true),
                _ => self.used(format, false),
            });
        }
        let all = |state: &Self| state.with(format, Prot::RWX.for_user(), true);
        let exact = |state: &Self| is_exact(state.leaf.attributes);
        if all(self) != all(other) || !exact(self) || !exact(other) {
            return None;
        }
        let (mine, others) = (here.attributes.prot(), there.attributes.prot());
        let both = Prot::from_bits(mine.into_bits() | others.into_bits());
        Some(self.with(format, both, dirty))
    }
}

/// `attributes` with the right to write, or without.
pub(super) fn with_write<T: Attributes>(attributes: T, write: bool) -> T {
    let prot = attributes.prot();
    if prot.write() == write { attributes } else { attributes.with_prot(prot.with_write(write)) }
}

/// Whether [`Prot`] says all about the rights of `attributes`: they are the same after other rights
/// stood there. (Execution by one privilege alone is no such right.)
fn is_exact<T: Attributes>(attributes: T) -> bool {
    let prot = attributes.prot();
    let others = Prot::from_bits(prot.into_bits() ^ Prot::RWX.into_bits());
    attributes.with_prot(others).with_prot(prot) == attributes
}

/// Attributes as a word.
struct Encoded {
    at: Position,
    bits: Bits,
    /// A leaf at address 0; 0 if they have no encoding.
    word: u64,
}

impl Encoded {
    /// `attributes` in a leaf of `2^shift` bytes.
    fn of<F: SecondStage>(format: &F, attributes: F::Attributes, shift: u8) -> Self {
        let at = position(format, shift);
        let words = format.leaves(Hpa::new(0), attributes, at);
        Self { at, bits: format.bits(at), word: words.map_or(0, |words| words.first) }
    }
}

/// Where leaves of `2^shift` bytes stand.
fn position<F: SecondStage>(format: &F, shift: u8) -> Position {
    let geometry = format.geometry();
    match (geometry.leaf(shift), geometry.group(shift)) {
        (None, Some((level, group))) => Position { level, shift: shift - group },
        (leaf, _) => Position { level: leaf.map_or(Level(0), |(level, _)| level), shift },
    }
}

/// The attributes of `leaf` after `edit` of its word. They stay if there is no such word.
fn edited<F: SecondStage>(
    format: &F,
    leaf: LeafOf<F>,
    edit: impl FnOnce(Bits, u64) -> u64,
) -> F::Attributes {
    let Encoded { at, bits, word } = Encoded::of(format, leaf.attributes, leaf.shift);
    match format.decode(edit(bits, word), at) {
        Entry::Leaf { attributes, .. } => attributes,
        _ => leaf.attributes,
    }
}
