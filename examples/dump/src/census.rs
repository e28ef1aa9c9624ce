//! Counting: how many tables of each level, how full, in how many frames.

use std::collections::BTreeMap;

use serde::Serialize;

/// The tables of one level. A table that several entries lead to counts once.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize)]
pub struct LevelCensus {
    /// The level, counted from 0, the last.
    pub level: u8,
    /// How many tables.
    pub tables: u64,
    /// Their size in bytes, all together.
    pub bytes: u64,
    /// Entries that they have room for.
    pub slots: u64,
    /// Entries that lead to a table or a page.
    pub live: u64,
    /// Those that lead to a page.
    pub leaves: u64,
    /// Entries that are present and no valid entry of their level.
    pub malformed: u64,
    /// Entries that lead to a table which another entry leads to as well.
    pub shared: u64,
    /// Entries that lead to a table outside the image.
    pub missing: u64,
}

impl LevelCensus {
    pub(super) fn of_level(level: u8) -> Self {
        Self { level, ..Self::default() }
    }
}

/// A tree, counted.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct TreeCensus {
    /// Its levels, the root first.
    pub levels: Vec<LevelCensus>,
    /// The size in bytes of the frames that tables are cut from.
    pub frame_bytes: u64,
    /// How many frames hold tables.
    pub frames: u64,
    /// The most tables in one frame.
    pub most_in_a_frame: u64,
    /// Tables that are smaller than a frame, so that several share one: fragments.
    pub fragments: u64,
    /// How many pages of each size in bytes are mapped.
    pub pages: BTreeMap<u64, u64>,
}

impl TreeCensus {
    /// Of the levels from 0 up; of each frame how many tables stand in it, and their bytes.
    pub(super) fn new(
        mut levels: Vec<LevelCensus>,
        frame_bytes: u64,
        frames: impl Iterator<Item = (u64, u64)>,
        pages: BTreeMap<u64, u64>,
    ) -> Self {
        levels.reverse();
        let (count, most) =
            frames.fold((0, 0), |(count, most), (tables, _)| (count + 1, tables.max(most)));
        let small =
            |level: &&LevelCensus| level.tables > 0 && level.bytes / level.tables < frame_bytes;
        let fragments = levels.iter().filter(small).map(|level| level.tables).sum();
        Self { levels, frame_bytes, frames: count, most_in_a_frame: most, fragments, pages }
    }

    /// How many tables there are.
    pub fn tables(&self) -> u64 {
        self.levels.iter().map(|level| level.tables).sum()
    }

    /// Their size in bytes, all together.
    pub fn bytes(&self) -> u64 {
        self.levels.iter().map(|level| level.bytes).sum()
    }

    /// How many bytes are mapped.
    pub fn mapped(&self) -> u64 {
        self.pages
            .iter()
            .fold(0, |sum, (size, count)| sum.saturating_add(size.saturating_mul(*count)))
    }
}

/// A hashed page table, counted.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize)]
pub struct HashCensus {
    /// Its size in bytes.
    pub bytes: u64,
    /// Its groups of eight entries.
    pub groups: u64,
    /// Its entries that are valid.
    pub valid: u64,
    /// Those that are not evicted (Linux's software bit).
    pub bolted: u64,
    /// Those that stand in their secondary group.
    pub secondary: u64,
    /// Those whose segment or page size is none that there is.
    pub malformed: u64,
    /// How many groups have 0, 1, … 8 valid entries.
    pub fill: [u64; 9],
    /// Groups that the image does not have.
    pub missing: u64,
    /// How many pages of each size in bytes are mapped.
    pub pages: BTreeMap<u64, u64>,
}

/// What was counted.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Census {
    /// A tree.
    Tree(TreeCensus),
    /// A hashed page table.
    Hash(HashCensus),
}

impl Census {
    /// How many tables, or groups of a hashed page table, the image does not have.
    #[must_use]
    pub fn missing(&self) -> u64 {
        match self {
            Self::Tree(census) => census.levels.iter().map(|level| level.missing).sum(),
            Self::Hash(census) => census.missing,
        }
    }
}
