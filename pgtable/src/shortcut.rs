//! Shortcuts: masked compares by which a walk knows the usual entries without decoding them.

use core::sync::atomic::AtomicU64;

use crate::format::Format;
use crate::geometry::MAX_LEVELS;
use crate::table_word::TableWord;
use crate::word::swap;

/// Words of which some bits are given.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Pattern {
    /// The bits that are compared.
    pub compared: u64,
    /// What they are. No others are set ([`NONE`](Self::NONE) apart).
    pub value: u64,
}

impl Pattern {
    /// Every word.
    pub const ANY: Self = Self { compared: 0, value: 0 };
    /// No word.
    pub const NONE: Self = Self { compared: 0, value: 1 };

    /// Words with all of these bits set.
    #[inline(always)]
    #[must_use]
    pub const fn all_set(bits: u64) -> Self {
        Self { compared: bits, value: bits }
    }

    /// The compared bits of `word` that differ: zero if it fits.
    #[inline(always)]
    #[must_use]
    pub const fn odd(self, word: u64) -> u64 {
        word & self.compared ^ self.value
    }

    /// Whether `word` fits.
    #[inline(always)]
    #[must_use]
    pub const fn fits(self, word: u64) -> bool {
        self.odd(word) == 0
    }

    /// The same for words in the byte order of memory.
    #[inline(always)]
    #[must_use]
    pub fn in_memory<F: Format>(self) -> Self {
        Self { compared: swap::<F>(self.compared), value: swap::<F>(self.value) }
    }

    /// Words that fit both.
    #[inline(always)]
    #[must_use]
    pub const fn and(self, other: Self) -> Self {
        if (self.value ^ other.value) & self.compared & other.compared != 0 {
            return Self::NONE;
        }
        Self { compared: self.compared | other.compared, value: self.value | other.value }
    }

    /// The same with these bits set.
    #[inline(always)]
    #[must_use]
    pub const fn with(self, bits: u64) -> Self {
        Self { compared: self.compared | bits, value: self.value | bits }
    }

    /// The same with these bits clear.
    #[inline(always)]
    #[must_use]
    pub const fn without(self, bits: u64) -> Self {
        Self { compared: self.compared | bits, value: self.value & !bits }
    }
}

/// Where an address stands in a word.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Field {
    /// The bits of the word that hold it. In a [`Step`], bits that are compared do not count, so
    /// all ones say that every other bit is the address's.
    pub mask: u64,
    /// How far the masked word is shifted left to be the address.
    pub left: u8,
}

impl Field {
    /// An address that stands in the word as it is.
    #[inline(always)]
    #[must_use]
    pub const fn in_place(mask: u64) -> Self {
        Self { mask, left: 0 }
    }

    /// The address in `word`.
    #[inline(always)]
    #[must_use]
    pub const fn address(self, word: u64) -> u64 {
        (word & self.mask) << (self.left & 63)
    }
}

/// The usual entries of one level.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Step {
    /// How far an offset is shifted right to bring the byte offset of its entry into place.
    index_shift: u8,
    /// The bits that are that byte offset. More than a table's may be here that no offset has.
    index_mask: u64,
    /// The index bits of a table.
    width: u8,
    /// The entries that need no decoding.
    usual: Pattern,
    /// Where their address stands.
    address: Field,
}

impl Step {
    /// A level that the tree does not have.
    pub const NONE: Self = Self::new(3, 0, Pattern::all_set(u64::MAX), Field::in_place(0));

    /// A step through tables of `2^width` entries of 8 bytes, each of which covers `2^shift` bytes.
    ///
    /// `usual` are entries that the codec takes for a table of the width that the step below has
    /// (above the last level), or for a leaf (at the last level), whose address is `address`. All
    /// bits of its value are compared.
    #[inline(always)]
    #[must_use]
    pub const fn new(shift: u8, width: u8, usual: Pattern, address: Field) -> Self {
        Self::of::<AtomicU64>(shift, width, usual, address)
    }

    /// The same for tables with entries of the width of `W`.
    #[inline(always)]
    #[must_use]
    pub const fn of<W: TableWord>(shift: u8, width: u8, usual: Pattern, address: Field) -> Self {
        Self::of_mask::<W>(shift, Self::index_mask::<W>(width), usual, address)
    }

    /// The bits that [`of_mask`](Self::of_mask) wants for tables of `2^width` entries.
    #[inline(always)]
    #[must_use]
    pub const fn index_mask<W: TableWord>(width: u8) -> u64 {
        crate::address::low_bits(width) << W::SHIFT
    }

    /// The same by the mask of the byte offsets of a table's entries
    /// ([`index_mask`](Self::index_mask)): for a format whose widths are not known at compile time,
    /// and that computes this once.
    #[inline(always)]
    #[must_use]
    pub const fn of_mask<W: TableWord>(
        shift: u8,
        index_mask: u64,
        usual: Pattern,
        address: Field,
    ) -> Self {
        let width = index_mask.count_ones() as u8;
        Self { index_shift: shift - W::SHIFT, index_mask, width, usual, address }
    }

    /// The same for tables of `2^width` entries. The mask of byte offsets may have bits beyond
    /// those, if no offset of the format has them: so one mask does for a smaller root too.
    #[inline(always)]
    #[must_use]
    pub const fn with_width(self, width: u8) -> Self {
        Self { width, ..self }
    }

    /// The same for other entries.
    #[inline(always)]
    #[must_use]
    pub const fn with_usual(self, usual: Pattern) -> Self {
        Self { usual, ..self }
    }

    /// log2 of the bytes that an entry covers.
    #[inline(always)]
    #[must_use]
    pub const fn shift(self) -> u8 {
        self.index_shift + self.entry_shift()
    }

    /// [`shift`](Self::shift) where the width of entries is known: it is not looked for in the
    /// mask.
    #[inline(always)]
    pub(crate) const fn shift_of<F: Format>(self) -> u8 {
        self.index_shift + <F::Word as TableWord>::SHIFT
    }

    /// log2 of the bytes of an entry.
    #[inline(always)]
    #[must_use]
    pub const fn entry_shift(self) -> u8 {
        if self.index_mask & 4 == 0 { 3 } else { 2 }
    }

    /// The index bits of a table.
    #[inline(always)]
    #[must_use]
    pub const fn width(self) -> u8 {
        self.width
    }

    /// The entries that need no decoding.
    #[inline(always)]
    #[must_use]
    pub const fn usual(self) -> Pattern {
        self.usual
    }

    /// Where the address stands in them.
    #[inline(always)]
    #[must_use]
    pub const fn field(self) -> Field {
        self.address
    }

    /// The address of the entry for `offset` in the table at `table`.
    #[inline(always)]
    pub(crate) const fn entry(self, table: u64, offset: u64) -> u64 {
        table.wrapping_add(offset >> (self.index_shift & 63) & self.index_mask)
    }

    /// The address in `word`, if it is a usual entry.
    #[inline(always)]
    #[must_use]
    pub const fn address(self, word: u64) -> Option<u64> {
        // All bits of the value are compared, so a word that fits lends nothing to its other bits,
        // and one that does not fit keeps a compared bit. It takes one instruction less than to
        // mask, to compare, and to mask again.
        let rest = word.wrapping_sub(self.usual.value);
        if rest & self.usual.compared == 0 { Some(self.address.address(rest)) } else { None }
    }
}

/// The usual entries of every level, for one access. See [`Format::shortcuts`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Shortcuts {
    /// The number of levels.
    levels: u8,
    /// By level, as far as there are.
    steps: [Step; MAX_LEVELS],
}

impl Shortcuts {
    /// The shortcuts of a tree of `levels` levels: `steps` by level.
    #[inline(always)]
    #[must_use]
    pub const fn new(levels: u8, steps: [Step; MAX_LEVELS]) -> Self {
        Self { levels, steps }
    }

    /// The shortcuts of a tree of `levels` levels, 2 to 6, whose tables all have `2^width` entries,
    /// over pages of `2^page_shift` bytes: usual tables fit `tables`, usual pages fit `page`, and
    /// the address stands at `address` in both.
    #[inline(always)]
    #[must_use]
    pub const fn uniform(
        levels: u8,
        page_shift: u8,
        width: u8,
        tables: Pattern,
        page: Pattern,
        address: Field,
    ) -> Self {
        let none = Step::NONE;
        let steps = [
            Step::new(page_shift, width, page, address),
            Step::new(page_shift + width, width, tables, address),
            Step::new(page_shift + 2 * width, width, tables, address),
            Step::new(page_shift + 3 * width, width, tables, address),
            Step::new(page_shift + 4 * width, width, tables, address),
            Step::new(page_shift + 5 * width, width, tables, address),
            none,
            none,
        ];
        Self { levels, steps }
    }

    /// The level of the root.
    #[inline(always)]
    #[must_use]
    pub const fn root(&self) -> u8 {
        self.levels - 1
    }

    /// The usual entries of `level`.
    #[inline(always)]
    #[must_use]
    pub const fn step(&self, level: u8) -> Step {
        self.steps[level as usize % MAX_LEVELS]
    }
}
