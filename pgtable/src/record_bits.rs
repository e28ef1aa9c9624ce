//! What hardware records in entries, and by which bits.

use crate::access::{Access, AccessKind};
use crate::shortcut::Pattern;

/// Bits of entries that hold a record.
///
/// An entry that fits `when` has the record if its bits in `mask` equal `recorded`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Mark {
    /// The bits of the record; 0 if there are none.
    pub mask: u64,
    /// What these bits are where the event was recorded: all set (`mask`), or all clear (0, as
    /// AArch64's AP\[2\] under DBM).
    pub recorded: u64,
    /// The entries in which these bits hold the record. The default is all.
    pub when: Pattern,
}

impl Mark {
    /// No bits.
    pub const NONE: Self = Self { mask: 0, recorded: 0, when: Pattern::ANY };

    /// Whether the entry `word` holds the record in these bits.
    #[inline(always)]
    #[must_use]
    pub const fn is_kept_in(self, word: u64) -> bool {
        self.mask != 0 && self.when.odd(word) == 0
    }

    /// Whether the entry `word` has the record in these bits.
    #[inline(always)]
    #[must_use]
    pub const fn is_in(self, word: u64) -> bool {
        self.is_kept_in(word) && word & self.mask == self.recorded
    }

    /// `word` with these bits as they are where the event was recorded.
    #[inline(always)]
    const fn made(self, word: u64) -> u64 {
        word & !self.mask | self.recorded
    }

    /// `word` with these bits as they are where it was not.
    #[inline(always)]
    const fn cleared_from(self, word: u64) -> u64 {
        word & !self.mask | self.recorded ^ self.mask
    }
}

/// One kind of record that is kept in entries.
///
/// No entry fits both `hardware.when` and `software.when`, unless one of them has no bits.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Record {
    /// The bits in which hardware makes the record; [`Mark::NONE`] if it makes none.
    pub hardware: Mark,
    /// The bits in which the record stays where hardware's bits mean something else, so that no
    /// record is lost when the entry changes its kind: AArch64's dirty state is the right to write,
    /// which a read-only page does not have. [`Format::decode`](crate::format::Format::decode) and
    /// [`Format::leaves`](crate::format::Format::leaves) carry it as an attribute, and
    /// [`Attributes::with_prot`](crate::Attributes::with_prot) moves it.
    pub software: Mark,
}

impl Record {
    /// The format has no such record.
    pub const NONE: Self = Self { hardware: Mark::NONE, software: Mark::NONE };

    /// A record that is made by setting these bits, in every entry.
    #[inline(always)]
    #[must_use]
    pub const fn set(mask: u64) -> Self {
        Self::set_when(mask, Pattern::ANY)
    }

    /// A record that is made by setting these bits, in entries that fit `when`.
    #[inline(always)]
    #[must_use]
    pub const fn set_when(mask: u64, when: Pattern) -> Self {
        Self { hardware: Mark { mask, recorded: mask, when }, software: Mark::NONE }
    }

    /// A record that is made by clearing these bits, in entries that fit `when`.
    #[inline(always)]
    #[must_use]
    pub const fn cleared_when(mask: u64, when: Pattern) -> Self {
        Self { hardware: Mark { mask, recorded: 0, when }, software: Mark::NONE }
    }

    /// The same record, which stays in the bits of `software` where hardware does not keep it.
    #[inline(always)]
    #[must_use]
    pub const fn or(self, software: Mark) -> Self {
        Self { software, ..self }
    }

    /// Whether the format has this record.
    #[inline(always)]
    #[must_use]
    pub const fn exists(self) -> bool {
        self.hardware.mask != 0
    }

    /// Whether the record is kept in the entry `word`.
    #[inline(always)]
    #[must_use]
    pub const fn is_kept_in(self, word: u64) -> bool {
        self.hardware.is_kept_in(word) || self.software.is_kept_in(word)
    }

    /// Whether the entry `word` has the record.
    #[inline(always)]
    #[must_use]
    pub const fn is_in(self, word: u64) -> bool {
        self.hardware.is_in(word) || self.software.is_in(word)
    }

    /// `word` with the record, if it is kept there.
    #[inline(always)]
    #[must_use]
    pub const fn made(self, word: u64) -> u64 {
        if self.hardware.is_kept_in(word) {
            self.hardware.made(word)
        } else if self.software.is_kept_in(word) {
            self.software.made(word)
        } else {
            word
        }
    }

    /// `word` without the record, if it is kept there.
    #[inline(always)]
    #[must_use]
    pub const fn cleared_from(self, word: u64) -> u64 {
        if self.hardware.is_kept_in(word) {
            self.hardware.cleared_from(word)
        } else if self.software.is_kept_in(word) {
            self.software.cleared_from(word)
        } else {
            word
        }
    }
}

/// The bits of entries that this crate looks at without decoding. See
/// [`Format::bits`](crate::format::Format::bits).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Bits {
    /// An entry with none of these bits set is absent. If some are set,
    /// [`Format::decode`](crate::format::Format::decode) decides.
    pub present: u64,
    /// In leaves: any access.
    pub accessed: Record,
    /// In leaves: a store.
    pub dirty: Record,
    /// In table entries: a walk through them (x86's A; POWER has none).
    pub table: Record,
    /// The bits of a leaf that software may change while hardware holds its translation. A change
    /// of any other needs break-before-make: the entry made absent and invalidated first.
    pub in_place: u64,
}

impl Bits {
    /// The leaf `word` with what `access` records in it.
    #[inline(always)]
    pub(crate) fn used(self, word: u64, access: Access) -> u64 {
        let used = self.accessed.made(word);
        if access.kind == AccessKind::Write { self.dirty.made(used) } else { used }
    }
}
