//! The shape of a tree as data: how many levels, how many index bits each, where leaves may stand.
//!
//! **Levels are counted from the bottom, everywhere in this workspace: 0 is the last level**, whose
//! entries map the smallest pages; the root has the highest number. An architecture's own
//! numbering (PML4 … PT, or POWER's root = 0) appears in its `Display` and docs only.

use core::fmt;

use arrayvec::ArrayVec;

use crate::address::low_bits;

/// The most levels a tree may have. A power of two, so that a level's number masked by it indexes
/// without a check.
pub const MAX_LEVELS: usize = 8;

/// log2 of the most entries that may be one leaf together ([`Geometry::with_groups`]).
pub const MAX_GROUP: u8 = 8;

/// A level of a tree. 0 is the last one.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct Level(pub u8);

impl fmt::Display for Level {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "level {}", self.0)
    }
}

/// Where an entry stands: its level, and how much address space it covers.
///
/// The two are separate facts: on POWER an entry of level 0 covers 4 KiB or 64 KiB, as the width of
/// its table says.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Position {
    /// The level of the table in which the entry stands.
    pub level: Level,
    /// log2 of the bytes of input address space that the entry covers; of the page, if it is a
    /// leaf.
    pub shift: u8,
}

impl Position {
    /// Bytes of input address space that the entry covers.
    #[inline]
    #[must_use]
    pub const fn size(self) -> u64 {
        1 << self.shift
    }
}

/// One level of a [`Geometry`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct LevelGeometry {
    /// Index bits: a table of this level has `2^width` entries.
    pub width: u8,
    /// Whether an entry of this level may map a page.
    pub leaf: bool,
}

/// The shape of a tree.
///
/// For most formats it is exact. POWER's tables carry the next table's width in the entry: there
/// the geometry says which width this space *makes*, and what a walker may predict before it
/// verifies.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Geometry {
    levels: u8,
    page_shift: u8,
    finest_shift: u8,
    leaf_levels: u8,
    alternative: u8,
    address_bits: u8,
    /// By level: bit `n` if `2^n` neighbouring entries may be one leaf.
    groups: [u16; MAX_LEVELS],
    widths: [u8; MAX_LEVELS],
    shifts: [u8; MAX_LEVELS],
}

impl Geometry {
    /// A tree whose smallest pages are of `2^page_shift` bytes, with `levels` from the last to the
    /// root.
    ///
    /// # Panics
    /// In a constant, at compile time: with no level, more than [`MAX_LEVELS`], pages of less than
    /// 8 bytes, tables of more than 2^20 entries, or 64 address bits or more.
    #[must_use]
    pub const fn new(page_shift: u8, levels: &[LevelGeometry]) -> Self {
        assert!(!levels.is_empty() && levels.len() <= MAX_LEVELS, "1 to MAX_LEVELS levels");
        assert!(page_shift >= 3, "a page holds a word");
        let mut it = Self {
            levels: levels.len() as u8,
            page_shift,
            finest_shift: page_shift,
            leaf_levels: 0,
            alternative: 0,
            address_bits: 0,
            groups: [0; MAX_LEVELS],
            widths: [0; MAX_LEVELS],
            shifts: [0; MAX_LEVELS],
        };
        let mut shift = page_shift;
        let mut level = 0;
        while level < levels.len() {
            it.widths[level] = levels[level].width;
            it.shifts[level] = shift;
            assert!(levels[level].width <= 20, "a table of sensible size");
            if levels[level].leaf {
                it.leaf_levels |= 1 << level;
            }
            shift += levels[level].width;
            assert!(shift < 64, "offsets and lengths are 64-bit numbers");
            level += 1;
        }
        it.address_bits = shift;
        it
    }

    /// The same tree, which may also hold last-level tables of another `width`, and so other pages:
    /// POWER's 4 KiB pages in a tree of 64 KiB pages, and the reverse.
    ///
    /// # Panics
    /// In a constant, at compile time: where `width` leaves no page.
    #[must_use]
    pub const fn with_last_level(mut self, width: u8) -> Self {
        assert!(width > 0 && self.page_shift + self.widths[0] > width, "a page has a size");
        self.alternative = width;
        if width > self.widths[0] {
            self.finest_shift = self.page_shift - (width - self.widths[0]);
        }
        self
    }

    /// The same tree, in which `2^width` neighbouring entries of `level` may also be one leaf: a
    /// group (AArch64's contiguous hint, RISC-V's Svnapot). A group is aligned to its size. Called
    /// again, it adds another size.
    ///
    /// # Panics
    /// In a constant, at compile time: where an entry of `level` is no leaf, or `width` is 0, more
    /// than [`MAX_GROUP`], or not less than the level's.
    #[must_use]
    pub const fn with_groups(mut self, level: Level, width: u8) -> Self {
        assert!(self.is_leaf_level(level), "a group is made of leaves");
        assert!(width > 0 && width <= MAX_GROUP && width < self.width(level), "2 to 256 entries");
        self.groups[level.0 as usize % MAX_LEVELS] |= 1 << width;
        self
    }

    /// How many levels there are.
    #[inline]
    #[must_use]
    pub const fn levels(&self) -> u8 {
        self.levels
    }

    /// The root's level.
    #[inline]
    #[must_use]
    pub const fn root(&self) -> Level {
        Level(self.levels - 1)
    }

    /// Index bits of `level`, which must be one of the tree's.
    #[inline]
    #[must_use]
    pub const fn width(&self, level: Level) -> u8 {
        self.widths[level.0 as usize % MAX_LEVELS]
    }

    /// log2 of the bytes that an entry of `level`, which must be one of the tree's, covers.
    #[inline]
    #[must_use]
    pub const fn shift(&self, level: Level) -> u8 {
        self.shifts[level.0 as usize % MAX_LEVELS]
    }

    /// log2 of the smallest page that this space uses of its own accord.
    #[inline]
    #[must_use]
    pub const fn page_shift(&self) -> u8 {
        self.page_shift
    }

    /// log2 of the smallest page that the tree can hold at all.
    #[inline]
    #[must_use]
    pub const fn finest_shift(&self) -> u8 {
        self.finest_shift
    }

    /// log2 of the bytes of input address space under the root.
    #[inline]
    #[must_use]
    pub const fn address_bits(&self) -> u8 {
        self.address_bits
    }

    /// A mask of the input address bits that the tree translates.
    #[inline]
    #[must_use]
    pub const fn address_mask(&self) -> u64 {
        low_bits(self.address_bits())
    }

    /// Whether an entry of `level` may map a page.
    #[inline]
    #[must_use]
    pub const fn is_leaf_level(&self, level: Level) -> bool {
        level.0 < self.levels && self.leaf_levels & (1 << level.0) != 0
    }

    /// The width of the last-level tables that map pages of `2^shift` bytes, or of the ordinary
    /// ones.
    ///
    /// `None`: the format has no such page.
    #[must_use]
    pub const fn leaf(&self, shift: u8) -> Option<(Level, u8)> {
        let mut level = 0;
        while level < self.levels {
            let index = level as usize;
            if self.leaf_levels & (1 << level) != 0 && self.shifts[index] == shift {
                return Some((Level(level), self.widths[index]));
            }
            level += 1;
        }
        if self.alternative != 0 && self.leaf_levels & 1 != 0 {
            let other = self.page_shift + self.widths[0] - self.alternative;
            if other == shift {
                return Some((Level(0), self.alternative));
            }
        }
        None
    }

    /// Where groups of `2^shift` bytes stand: their level, and log2 of how many entries one has.
    ///
    /// `None`: the format has no such group.
    #[must_use]
    pub const fn group(&self, shift: u8) -> Option<(Level, u8)> {
        let mut level = 0;
        while level < self.levels {
            let width = shift.wrapping_sub(self.shifts[level as usize]);
            if width <= MAX_GROUP && self.groups[level as usize] & 1 << width != 0 {
                return Some((Level(level), width));
            }
            level += 1;
        }
        None
    }

    /// The widths of the groups of `level`: bit `n` if `2^n` neighbouring entries may be one leaf.
    #[inline]
    #[must_use]
    pub const fn groups(&self, level: Level) -> u16 {
        self.groups[level.0 as usize % MAX_LEVELS]
    }

    /// log2 of how many entries the largest group of `level` has; 0 if there are no groups.
    #[inline]
    #[must_use]
    pub const fn largest_group(&self, level: Level) -> u8 {
        match self.groups(level) {
            0 => 0,
            groups => 15 - groups.leading_zeros() as u8,
        }
    }

    /// log2 of every leaf size that the tree can hold, groups included, ascending.
    #[must_use]
    pub fn leaf_shifts(&self) -> ArrayVec<u8, 32> {
        let is_leaf = |shift: &u8| self.leaf(*shift).or(self.group(*shift)).is_some();
        (self.finest_shift()..self.address_bits()).filter(is_leaf).take(32).collect()
    }

    /// log2 of the largest page that fits `alignment` (the OR of everything that must be a multiple
    /// of it) and is at most `2^max` bytes, or `None` where not even the smallest fits. Groups are
    /// pages too.
    #[inline]
    #[must_use]
    pub const fn largest_leaf(&self, alignment: u64, max: u8) -> Option<u8> {
        let mut level = self.levels;
        while level > 0 {
            level -= 1;
            let shift = self.shifts[level as usize];
            let mut groups = self.groups[level as usize];
            while groups != 0 {
                let group = shift + 15 - groups.leading_zeros() as u8;
                if group <= max && alignment & low_bits(group) == 0 {
                    return Some(group);
                }
                groups &= !(1 << (group - shift));
            }
            if self.leaf_levels & (1 << level) != 0
                && shift <= max
                && alignment & low_bits(shift) == 0
            {
                return Some(shift);
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn level(width: u8, leaf: bool) -> LevelGeometry {
        LevelGeometry { width, leaf }
    }

    const RADIX_64K: Geometry =
        Geometry::new(16, &[level(5, true), level(9, true), level(9, true), level(13, false)])
            .with_last_level(9);

    #[test]
    fn shapes() {
        assert_eq!(RADIX_64K.address_bits(), 52);
        assert_eq!(RADIX_64K.root(), Level(3));
        assert_eq!((RADIX_64K.page_shift(), RADIX_64K.finest_shift()), (16, 12));
        assert_eq!(RADIX_64K.address_mask(), (1 << 52) - 1);
        for (shift, want) in [
            (16, Some((Level(0), 5))),
            (12, Some((Level(0), 9))),
            (21, Some((Level(1), 9))),
            (30, Some((Level(2), 9))),
            (39, None),
            (13, None),
        ] {
            assert_eq!(RADIX_64K.leaf(shift), want, "2^{shift}");
        }
    }

    #[test]
    fn every_page_size() {
        assert_eq!(RADIX_64K.leaf_shifts().as_slice(), [12, 16, 21, 30]);
    }

    /// AArch64 with 4-KiB pages: 16 entries at each level; and a level with two sizes.
    #[test]
    fn groups() {
        const SHAPE: Geometry =
            Geometry::new(12, &[level(9, true), level(9, true), level(9, true)])
                .with_groups(Level(0), 4)
                .with_groups(Level(1), 4)
                .with_groups(Level(1), 2);
        assert_eq!(SHAPE.leaf_shifts().as_slice(), [12, 16, 21, 23, 25, 30]);
        for (shift, want) in [
            (16, Some((Level(0), 4))),
            (23, Some((Level(1), 2))),
            (25, Some((Level(1), 4))),
            (12, None),
            (21, None),
            (34, None),
            (0, None),
            (63, None),
        ] {
            assert_eq!(SHAPE.group(shift), want, "2^{shift}");
            assert_eq!(SHAPE.leaf(shift).is_some(), [12, 21].contains(&shift), "2^{shift}");
        }
        assert_eq!([0, 1, 2].map(|level| SHAPE.largest_group(Level(level))), [4, 4, 0]);
        for (alignment, max, want) in [
            (0, 29, Some(25)),
            (0, 24, Some(23)),
            (1 << 23, 64, Some(23)),
            (1 << 22, 64, Some(21)),
            (1 << 16, 64, Some(16)),
            (1 << 15, 64, Some(12)),
        ] {
            assert_eq!(SHAPE.largest_leaf(alignment, max), want, "{alignment:#x} {max}");
        }
    }

    #[test]
    fn the_largest_leaf_that_fits() {
        for (alignment, max, want) in [
            (0, 64, Some(30)),
            (0, 29, Some(21)),
            (0x20_0000, 64, Some(21)),
            (0x1_0000, 64, Some(16)),
            (0x1000, 64, None),
            (0, 15, None),
        ] {
            assert_eq!(RADIX_64K.largest_leaf(alignment, max), want, "{alignment:#x} {max}");
        }
    }
}
