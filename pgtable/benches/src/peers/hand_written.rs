//! The floor: what one would write by hand for exactly this geometry, four levels of nine bits, and
//! nothing else.
//!
//! No bounds check, no `Result`, no live count; tables are never freed.

use crate::row::Row;
use bench_harness::arena::Frames;
use bench_harness::work::PageTables;

pub const ROWS: &[Row] = &[
    Row::Map,
    Row::TranslateHot,
    Row::TranslateCold,
    Row::TranslateInOrder,
    Row::Iterate,
    Row::Unmap,
    Row::MapRange,
    Row::ProtectRange,
    Row::UnmapRange,
    Row::UnmapMixed,
    Row::ChurnAlone,
    Row::ChurnBeside,
];

const PRESENT: u64 = 1;
const WRITABLE: u64 = 2;
const TABLE: u64 = PRESENT | WRITABLE;
const ADDRESS: u64 = 0x000f_ffff_ffff_f000;
/// What a table of leaves covers.
const SPAN: u64 = 512 << 12;

/// Four levels of plain words.
pub struct HandWritten {
    frames: Frames,
    root: u64,
    /// From physical addresses to pointers.
    offset: u64,
}

impl HandWritten {
    pub fn new() -> Self {
        let mut frames = Frames::default();
        let root = frames.allocate().unwrap();
        Self { offset: frames.arena.offset(), frames, root }
    }

    /// Where its tables stand.
    #[cfg(feature = "memflow")]
    pub fn arena(&self) -> bench_harness::arena::Arena {
        self.frames.arena
    }

    /// The address of its root.
    #[cfg(feature = "memflow")]
    pub fn root(&self) -> u64 {
        self.root
    }

    /// The entry of `table` for `input` at the level whose entries cover `2^shift` bytes.
    #[inline(always)]
    fn entry(&self, table: u64, input: u64, shift: u8) -> *mut u64 {
        (table.wrapping_add(self.offset) + ((input >> shift & 511) << 3)) as *mut u64
    }

    /// The table that `entry` links.
    #[inline(always)]
    fn next(&self, entry: *mut u64) -> Option<u64> {
        // SAFETY: an entry of a table of the arena.
        let word = unsafe { entry.read() };
        (word & PRESENT != 0).then_some(word & ADDRESS)
    }

    /// The leaf entry for `input`, if there are tables down to it.
    #[inline(always)]
    fn leaf(&self, input: u64) -> Option<*mut u64> {
        let level2 = self.next(self.entry(self.root, input, 39))?;
        let level1 = self.next(self.entry(level2, input, 30))?;
        let level0 = self.next(self.entry(level1, input, 21))?;
        Some(self.entry(level0, input, 12))
    }

    /// The table that `entry` links; made if there is none.
    #[inline(always)]
    fn next_or_new(&mut self, entry: *mut u64) -> u64 {
        if let Some(table) = self.next(entry) {
            return table;
        }
        let table = self.frames.allocate().unwrap();
        // SAFETY: an entry of a table of the arena.
        unsafe { entry.write(table | TABLE) };
        table
    }

    /// The leaf entry for `input`; its tables are made.
    #[inline(always)]
    fn leaf_or_new(&mut self, input: u64) -> *mut u64 {
        let level2 = self.next_or_new(self.entry(self.root, input, 39));
        let level1 = self.next_or_new(self.entry(level2, input, 30));
        let level0 = self.next_or_new(self.entry(level1, input, 21));
        self.entry(level0, input, 12)
    }

    /// All leaf entries of a range of whole tables.
    fn runs(&self, input: u64, bytes: u64) -> impl Iterator<Item = &mut [u64]> {
        (input..input + bytes).step_by(SPAN as usize).map(|at| {
            // SAFETY: a table of the arena has 512 entries, and nobody else uses them.
            unsafe { std::slice::from_raw_parts_mut(self.leaf(at).unwrap(), 512) }
        })
    }
}

impl PageTables for HandWritten {
    fn reset(&mut self) {
        self.frames.clear();
        self.root = self.frames.allocate().unwrap();
    }

    #[inline(always)]
    fn map(&mut self, input: u64, output: u64) {
        let entry = self.leaf_or_new(input);
        // SAFETY: an entry of a table of the arena.
        unsafe { entry.write(output | PRESENT | WRITABLE) };
    }

    #[inline(always)]
    fn translate(&self, input: u64) -> Option<u64> {
        self.next(self.leaf(input)?).map(|page| page | input & 0xfff)
    }

    #[inline(always)]
    fn unmap(&mut self, input: u64) {
        // SAFETY: an entry of a table of the arena.
        unsafe { self.leaf(input).unwrap().write(0) };
    }

    #[inline(never)]
    fn map_range(&mut self, input: u64, output: u64, bytes: u64) {
        let mut word = output | PRESENT | WRITABLE;
        for at in (input..input + bytes).step_by(SPAN as usize) {
            let table = self.leaf_or_new(at);
            // SAFETY: a table of the arena has 512 entries, and nobody else uses them.
            for entry in unsafe { std::slice::from_raw_parts_mut(table, 512) } {
                *entry = word;
                word += 4096;
            }
        }
    }

    #[inline(never)]
    fn unmap_range(&mut self, input: u64, bytes: u64, _: u64) {
        self.runs(input, bytes).for_each(|table| table.fill(0));
    }

    #[inline(never)]
    fn protect_range(&mut self, input: u64, bytes: u64, writable: bool) {
        let writable = if writable { WRITABLE } else { 0 };
        for table in self.runs(input, bytes) {
            table.iter_mut().for_each(|entry| *entry = *entry & !WRITABLE | writable);
        }
    }

    #[inline(never)]
    fn iterate(&self, input: u64, bytes: u64) -> u64 {
        let mut sum = 0u64;
        for table in self.runs(input, bytes) {
            for entry in table.iter().filter(|&entry| entry & PRESENT != 0) {
                sum = sum.wrapping_add(entry & ADDRESS);
            }
        }
        sum
    }
}
