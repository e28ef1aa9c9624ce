//! Granules, tree shapes, and how output addresses stand in descriptors.

use core::sync::atomic::AtomicU64;

use pgtable::format::{
    Entry, Field, Geometry, LevelGeometry, Pattern, Shortcuts, Step, Unencodable, Words,
};
use pgtable::{Address, Level, Position, low_bits};

use crate::descriptor::{Stage1Descriptor, TableDescriptor};

/// The most output address bits that the 64-bit descriptors hold.
pub(crate) const MAX_OUTPUT_BITS: u8 = 52;
/// The most output address bits without LPA or LPA2.
pub(crate) const USUAL_OUTPUT_BITS: u8 = 48;
/// A descriptor of either stage is valid, and is a table's or a page's.
pub(crate) const VALID: u64 = TableDescriptor::new().with_valid(true).into_bits();
pub(crate) const TABLE: u64 = TableDescriptor::new().with_table(true).into_bits();
/// The contiguous hint, of either stage.
const CONTIGUOUS: u64 = Stage1Descriptor::new().with_contiguous(true).into_bits();
/// The last level in Arm's numbering, in which levels are counted towards the pages.
pub(crate) const LAST_LEVEL: i8 = 3;
/// The most levels: with LPA2 and 4-KiB granules.
pub(crate) const MOST_LEVELS: usize = 5;
/// log2 of the bytes of a descriptor.
const ENTRY_SHIFT: u8 = 3;
/// Below this bit no address stands in a descriptor in place.
const FRAME_SHIFT: u8 = 12;

/// The translation granule: the size of a table and of the smallest page (DDI 0487, D8.1.1).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub enum Granule {
    /// 4 KiB: 9 index bits a level.
    #[default]
    K4,
    /// 16 KiB: 11 index bits a level.
    K16,
    /// 64 KiB: 13 index bits a level.
    K64,
}

impl Granule {
    /// log2 of its bytes.
    #[inline(always)]
    #[must_use]
    pub const fn shift(self) -> u8 {
        match self {
            Self::K4 => 12,
            Self::K16 => 14,
            Self::K64 => 16,
        }
    }

    /// The index bits of a table of one granule.
    #[inline(always)]
    #[must_use]
    pub const fn stride(self) -> u8 {
        self.shift() - 3
    }

    /// log2 of how many entries at `level`, counted from the bottom, the contiguous hint joins
    /// (D8.7.1); 0 where there is none.
    #[must_use]
    pub const fn contiguous(self, level: Level) -> u8 {
        match (self, level.0) {
            (Self::K4, 0..=2) => 4,
            (Self::K16, 0) => 7,
            (Self::K16, 1) | (Self::K64, 0 | 1) => 5,
            _ => 0,
        }
    }

    /// How many levels a tree of `input_bits` bits has, if its root is at most one granule.
    #[must_use]
    pub const fn levels(self, input_bits: u8) -> u8 {
        let indexed = input_bits.saturating_sub(self.shift());
        if indexed == 0 { 1 } else { indexed.div_ceil(self.stride()) }
    }
}

/// A level in Arm's numbering, −1 to 3: the last level is 3.
pub(crate) const fn arm_level(level: Level) -> i8 {
    LAST_LEVEL - if level.0 > 4 { 4 } else { level.0 as i8 }
}

/// Why a format cannot have the shape that was asked for.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ShapeError {
    /// The input address size (64 − TxSZ) is out of the range that the granule and the features
    /// allow. Hardware may fault or use the nearest size (D8.1.9).
    #[error("an input address size of {bits} bits is not one of {min} to {max}")]
    InputSize {
        /// What was asked for.
        bits: u8,
        /// The fewest bits.
        min: u8,
        /// The most bits.
        max: u8,
    },
    /// A stage-2 walk cannot start at this level with this input address size: hardware takes a
    /// translation fault at level 0 for every access (D8.2.8 to D8.2.10).
    #[error("a walk of {bits} input address bits cannot start at level {level}")]
    StartLevel {
        /// The start level in Arm's numbering.
        level: i8,
        /// The input address size.
        bits: u8,
    },
    /// The output address size is none of TCR.PS's.
    #[error("no output address size has {bits} bits")]
    OutputSize {
        /// What was asked for.
        bits: u8,
    },
}

/// What both stages' trees have in common: shape and addresses.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Shape {
    pub(crate) geometry: Geometry,
    // What walks and changes of single pages begin with is computed once.
    levels: Levels,
    /// By level: how far an offset is shifted right to bring an entry's byte offset into place; the
    /// index bits.
    index_shifts: [u8; MOST_LEVELS],
    widths: [u8; MOST_LEVELS],
    /// The indices of a table of one granule.
    indices: u64,
    /// The input address bits that are translated.
    pub(crate) input_mask: u64,
    /// The bits that no output address of a page has: of the range, and below a granule.
    no_output: u64,
    /// The bits that no usual table has, whose address stands in place,
    pub(crate) not_in_tables: u64,
    /// and no usual page, which is none of a group.
    not_in_pages: u64,
    pub(crate) granule: Granule,
    /// Bits of an output address from here on are an address size fault.
    pub(crate) output_bits: u8,
    /// FEAT_LPA2 is in use (TCR.DS, with 4-KiB and 16-KiB granules).
    pub(crate) ds: bool,
    /// Trees have groups of contiguous leaves.
    contiguous: bool,
    /// The address bits that stand in a descriptor where they stand in the address, shifted right
    /// by [`FRAME_SHIFT`]: so the compiler sees that the others are zero.
    frames: u64,
    /// The bits of a descriptor that hold the address bits from 48 (LPA) or 50 (LPA2) on …
    high: u64,
    /// … and how far they are shifted left to be the address.
    high_shift: u8,
}

impl Shape {
    /// `lpa`: the implementation has 52 physical address bits (FEAT_LPA). `min` and `max` bound
    /// `input_bits`; a tree of `levels` levels has a root of at most 16 granules.
    pub(crate) const fn new(
        granule: Granule,
        (input_bits, min, max): (u8, u8, u8),
        levels: u8,
        output_bits: u8,
        lpa: bool,
        ds: bool,
        contiguous: bool,
    ) -> Result<Self, ShapeError> {
        if input_bits < min || input_bits > max {
            return Err(ShapeError::InputSize { bits: input_bits, min, max });
        }
        if !matches!(output_bits, 32 | 36 | 40 | 42 | 44 | 48 | 52) {
            return Err(ShapeError::OutputSize { bits: output_bits });
        }
        let k64 = matches!(granule, Granule::K64);
        let ds = ds && !k64;
        let (in_place_bits, high, high_shift) = match (k64 && lpa, ds) {
            (true, _) => (48, 0xf << 12, 36),
            (false, true) => (50, 0b11 << 8, 42),
            (false, false) => (48, 0, 0),
        };
        let large = k64 && lpa || ds;
        let widest = if large { MAX_OUTPUT_BITS } else { USUAL_OUTPUT_BITS };
        let geometry = geometry(granule, input_bits, levels, large, contiguous);
        let (index_shifts, widths) = by_level(&geometry);
        let output_bits = if output_bits < widest { output_bits } else { widest };
        let hint = if contiguous { CONTIGUOUS } else { 0 };
        let unusual = low_bits(in_place_bits) & !low_bits(output_bits) | high;
        let frames = (low_bits(in_place_bits) & !low_bits(granule.shift())) >> FRAME_SHIFT;
        Ok(Self {
            geometry,
            levels: Levels::of(levels),
            index_shifts,
            widths,
            indices: low_bits(granule.stride()),
            input_mask: geometry.address_mask(),
            no_output: !low_bits(output_bits) | low_bits(granule.shift()),
            not_in_tables: unusual,
            not_in_pages: unusual | hint,
            granule,
            contiguous,
            output_bits,
            ds,
            frames,
            high,
            high_shift,
        })
    }

    /// The address in a descriptor.
    #[inline(always)]
    pub(crate) const fn join(&self, word: u64) -> u64 {
        word & self.in_place() | (word & self.high) << (self.high_shift & 63)
    }

    /// An address as it stands in a descriptor.
    #[inline(always)]
    pub(crate) const fn split(&self, address: u64) -> u64 {
        address & self.in_place() | address >> (self.high_shift & 63) & self.high
    }

    /// The address bits that stand in a descriptor where they stand in the address.
    #[inline(always)]
    const fn in_place(&self) -> u64 {
        self.frames << FRAME_SHIFT
    }

    /// Whether `address` has bits beyond the output address size.
    #[inline(always)]
    pub(crate) const fn is_out_of_range(&self, address: u64) -> bool {
        address >> self.output_bits != 0
    }

    /// What `word` at `at` is, whose attributes `attributes` reads.
    ///
    /// Reserved encodings are invalid descriptors: a block at a level that has none, and 0b01 at
    /// the last level.
    #[inline(always)]
    pub(crate) fn decode<A: Address, T>(
        &self,
        word: u64,
        at: Position,
        attributes: impl FnOnce(u64) -> T,
    ) -> Entry<A, T> {
        let leaf = |address| Entry::Leaf { output: A::new(address), attributes: attributes(word) };
        // What is most often met, by one compare.
        if at.level.0 == 0 && self.page().fits(word) {
            return leaf(word & self.in_place());
        }
        let table = word & TABLE != 0;
        if word & VALID == 0 || !(table || at.level.0 != 0 && self.is_leaf_level(at)) {
            return Entry::Absent;
        }
        let table = table && at.level.0 != 0;
        // What of a block's address is below its size counts for nothing, not for the range either
        // (pseudocode `AArch64.LeafBase`).
        let below = if table { 0 } else { low_bits(at.shift) };
        let address = self.join(word) & !below;
        if self.is_out_of_range(address) {
            return Entry::Malformed;
        }
        if table {
            return Entry::Table { table: A::new(address), width: self.granule.stride() };
        }
        leaf(address)
    }

    /// Usual pages.
    #[inline(always)]
    pub(crate) const fn page(&self) -> Pattern {
        usual(self.not_in_pages)
    }

    /// The byte offsets of the entries of a table of one granule.
    #[inline(always)]
    pub(crate) const fn index_mask(&self) -> u64 {
        self.indices << ENTRY_SHIFT
    }

    /// The steps through usual tables to usual pages; addresses stand in place. `index_masks`: the
    /// byte offsets of entries, by level; there may be more bits than offsets have.
    #[inline(always)]
    pub(crate) fn shortcuts(&self, page: Pattern, index_masks: [u64; MOST_LEVELS]) -> Shortcuts {
        let tables = usual(self.not_in_tables);
        let address = Field::in_place(self.in_place());
        // Written out, so that it stands in registers.
        let step = |level: usize, usual| {
            let (shift, mask) = (self.index_shifts[level] + ENTRY_SHIFT, index_masks[level]);
            Step::of_mask::<AtomicU64>(shift, mask, usual, address).with_width(self.widths[level])
        };
        let [first, second, third] = [step(0, page), step(1, tables), step(2, tables)];
        let [fourth, fifth, none] = [step(3, tables), step(4, tables), Step::NONE];
        let steps = [first, second, third, fourth, fifth, none, none, none];
        Shortcuts::new(self.levels as u8, steps)
    }

    /// The words of leaves at `at` from `output` on, whose attributes are `word`.
    #[inline(always)]
    pub(crate) fn leaves(
        &self,
        word: Option<u64>,
        output: u64,
        at: Position,
    ) -> Result<Words, Unencodable> {
        let aligned = at.level.0 == 0 || output & low_bits(at.shift) == 0;
        let fits = self.is_leaf_level(at) && output & self.no_output == 0 && aligned;
        let word = word.filter(|_| fits).ok_or(Unencodable { at })?;
        let page = if at.level.0 == 0 { TABLE } else { 0 };
        let first = word | VALID | page | self.split(output);
        // A carry out of the bits in place would not reach the others.
        let end = self.output_bits.min(64 - self.in_place().leading_zeros() as u8);
        Ok(Words::contiguous(first, output & low_bits(end), at.shift, end, 0))
    }

    #[inline(always)]
    pub(crate) const fn is_leaf_level(&self, at: Position) -> bool {
        at.level.0 == 0 || self.geometry.is_leaf_level(at.level)
    }

    /// log2 of the entries of the group of the leaf `word` at `at`; 0 if it stands alone.
    #[inline(always)]
    pub(crate) const fn group(&self, word: u64, at: Position) -> u8 {
        if self.contiguous && word & CONTIGUOUS != 0 { self.group_at(at) } else { 0 }
    }

    const fn group_at(&self, at: Position) -> u8 {
        let group = self.granule.contiguous(at.level);
        if has_groups(&self.geometry, at.level, group) { group } else { 0 }
    }

    /// The words of groups of `2^group` leaves at `at`, whose first leaf alone has `words`.
    pub(crate) const fn group_words(
        &self,
        words: Words,
        output: u64,
        at: Position,
        group: u8,
    ) -> Result<Words, Unencodable> {
        let fits = group != 0
            && group == self.group_at(at)
            && self.contiguous
            && output & low_bits(at.shift + group) == 0;
        if fits {
            Ok(Words { first: words.first | CONTIGUOUS, ..words })
        } else {
            Err(Unencodable { at })
        }
    }

    /// The entry at `at` that refers to a table of `width` index bits at `table`; its other bits
    /// are `word`.
    #[inline(always)]
    pub(crate) fn table(
        &self,
        word: u64,
        table: u64,
        width: u8,
        at: Position,
    ) -> Result<u64, Unencodable> {
        let fits = (1..self.geometry.levels()).contains(&at.level.0)
            && width == self.granule.stride()
            && table & self.no_output == 0;
        if fits { Ok(word | self.split(table)) } else { Err(Unencodable { at }) }
    }
}

/// The tree of `levels` levels. Blocks: level 2 everywhere; level 1 with 4-KiB granules, and with
/// others where addresses have 52 bits; level 0 with 4-KiB granules and LPA2 (D8.3.1.2).
const fn geometry(
    granule: Granule,
    input_bits: u8,
    levels: u8,
    large: bool,
    contiguous: bool,
) -> Geometry {
    let stride = granule.stride();
    let blocks = match granule {
        Granule::K4 if large => 3,
        Granule::K4 => 2,
        _ if large => 2,
        _ => 1,
    };
    let mut all = [LevelGeometry { width: stride, leaf: false }; MOST_LEVELS];
    let mut level = 0;
    while level < levels {
        let width =
            if level + 1 < levels { stride } else { input_bits - granule.shift() - stride * level };
        all[level as usize] = LevelGeometry { width, leaf: level <= blocks };
        level += 1;
    }
    let mut geometry = Geometry::new(granule.shift(), all.split_at(levels as usize).0);
    let mut level = 0;
    while contiguous && level < levels {
        let group = granule.contiguous(Level(level));
        if has_groups(&geometry, Level(level), group) {
            geometry = geometry.with_groups(Level(level), group);
        }
        level += 1;
    }
    geometry
}

/// Tables, or pages, without these bits. (The value is a constant, which the compiler makes use
/// of.)
#[inline(always)]
const fn usual(without: u64) -> Pattern {
    Pattern { compared: VALID | TABLE | without, value: VALID | TABLE }
}

/// [`Shape::index_shifts`] and [`Shape::widths`].
const fn by_level(geometry: &Geometry) -> ([u8; MOST_LEVELS], [u8; MOST_LEVELS]) {
    let (mut shifts, mut widths) = ([0; MOST_LEVELS], [0; MOST_LEVELS]);
    let mut level = 0;
    while level < geometry.levels() {
        let at = Level(level);
        shifts[level as usize] = geometry.shift(at) - ENTRY_SHIFT;
        widths[level as usize] = geometry.width(at);
        level += 1;
    }
    (shifts, widths)
}

/// How many levels a tree has. (A number could be any, and a walk would ask for each.)
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
enum Levels {
    One = 1,
    Two,
    Three,
    Four,
    Five,
}

impl Levels {
    const fn of(levels: u8) -> Self {
        match levels {
            ..=1 => Self::One,
            2 => Self::Two,
            3 => Self::Three,
            4 => Self::Four,
            5.. => Self::Five,
        }
    }
}

/// Whether tables of `level` have room for groups of `2^group` leaves.
const fn has_groups(geometry: &Geometry, level: Level, group: u8) -> bool {
    group != 0 && geometry.is_leaf_level(level) && group < geometry.width(level)
}
