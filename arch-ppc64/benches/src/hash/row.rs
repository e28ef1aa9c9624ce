//! The rows of the table, as data.

/// How large a table is against the caches.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Heat {
    /// 256 KiB.
    Warm,
    /// 32 MiB.
    Cold,
}

/// How full it is, in per cent.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Load {
    Half = 50,
    High = 85,
}

/// What is done with every key, in random order.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Operation {
    Enter,
    Translate,
    /// Many in one call, where there is such.
    Batch,
    Remove,
}

/// How many entries a page has of which a range is unmapped.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Entries {
    /// 64K pages, each of one entry.
    Whole,
    /// 64K pages that may have sixteen entries, and have all.
    All,
    /// That have four.
    Four,
    /// That have one.
    One,
}

/// What is measured.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Row {
    Table(Heat, Load, Operation),
    Unmap(Entries),
    Resize,
}

impl Operation {
    pub fn changes(self) -> bool {
        matches!(self, Self::Enter | Self::Remove)
    }
}

impl Heat {
    /// log2 of the entries that the table has room for.
    pub fn entries_shift(self) -> u8 {
        match self {
            Self::Warm => 14,
            Self::Cold => 21,
        }
    }
}

impl Load {
    /// How many entries that are.
    pub fn keys(self, heat: Heat) -> usize {
        (1 << heat.entries_shift()) * self as usize / 100
    }
}

/// Pages that are unmapped.
pub const PAGES: u64 = 1 << 16;
/// log2 of the bytes of the table that is resized, and how full it is.
pub const RESIZED: u8 = 24;

impl Row {
    /// All, in an order in which most begin with what the one before left.
    pub fn all() -> Vec<Self> {
        let mut rows = Vec::new();
        for heat in [Heat::Warm, Heat::Cold] {
            for load in [Load::Half, Load::High] {
                for operation in
                    [Operation::Enter, Operation::Translate, Operation::Batch, Operation::Remove]
                {
                    rows.push(Self::Table(heat, load, operation));
                }
            }
        }
        rows.extend([Entries::Whole, Entries::All, Entries::Four, Entries::One].map(Self::Unmap));
        rows.push(Self::Resize);
        rows
    }
}

impl bench_harness::Row for Row {
    fn title(&self) -> &'static str {
        use {Heat::*, Load::*, Operation::*};
        match self {
            Self::Table(Warm, Half, Enter) => "enter, warm, 50%",
            Self::Table(Warm, Half, Translate) => "translate, warm, 50%",
            Self::Table(Warm, Half, Batch) => "batch, warm, 50%",
            Self::Table(Warm, Half, Remove) => "remove, warm, 50%",
            Self::Table(Warm, High, Enter) => "enter, warm, 85%",
            Self::Table(Warm, High, Translate) => "translate, warm, 85%",
            Self::Table(Warm, High, Batch) => "batch, warm, 85%",
            Self::Table(Warm, High, Remove) => "remove, warm, 85%",
            Self::Table(Cold, Half, Enter) => "enter, cold, 50%",
            Self::Table(Cold, Half, Translate) => "translate, cold, 50%",
            Self::Table(Cold, Half, Batch) => "batch, cold, 50%",
            Self::Table(Cold, Half, Remove) => "remove, cold, 50%",
            Self::Table(Cold, High, Enter) => "enter, cold, 85%",
            Self::Table(Cold, High, Translate) => "translate, cold, 85%",
            Self::Table(Cold, High, Batch) => "batch, cold, 85%",
            Self::Table(Cold, High, Remove) => "remove, cold, 85%",
            Self::Unmap(Entries::Whole) => "unmap, 64K entries",
            Self::Unmap(Entries::All) => "unmap, 16 of 16 4K entries",
            Self::Unmap(Entries::Four) => "unmap, 4 of 16 4K entries",
            Self::Unmap(Entries::One) => "unmap, 1 of 16 4K entries",
            Self::Resize => "resize, 2^24 to 2^25 bytes, 85%",
        }
    }

    fn operations(&self) -> u64 {
        match self {
            Self::Table(heat, load, _) => load.keys(*heat) as u64,
            Self::Unmap(_) => PAGES,
            Self::Resize => (1 << (RESIZED - 4)) * Load::High as u64 / 100,
        }
    }
}
