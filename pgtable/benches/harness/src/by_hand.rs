//! The floor: 4-level tables of x86 written out by hand, for one format, one memory and pages of
//! 4 KiB. It checks what ours checks (every access to table memory, that an entry is absent before
//! it is written and present before it is taken, that no count wraps), counts live entries, frees
//! empty tables, and exchanges where hardware may be writing.

mod pages;

use std::cell::{Cell, RefCell};
use std::sync::atomic::{AtomicU64, Ordering};

use crate::arena::Arena;

/// Entries of a table.
const ENTRIES: usize = 512;
/// Present, writable, of users, accessed.
const TABLE: u64 = 0x27;
/// Present, writable, no execute.
const PAGE: u64 = 1 << 63 | 3;
const LARGE: u64 = 1 << 7;
const DIRTY: u64 = 1 << 6;
const ADDRESS: u64 = 0x000f_ffff_ffff_f000;

/// A tree; its tables are those of an arena, by number, and the root is table 0.
pub struct ByHand {
    words: &'static [AtomicU64],
    /// Free tables, which hold anything.
    free: RefCell<Vec<usize>>,
    /// Tables that left the tree, until the invalidation.
    left: RefCell<Vec<usize>>,
    top: Cell<usize>,
    live: Vec<Cell<u32>>,
}

impl ByHand {
    pub fn new(bytes: usize) -> Self {
        let arena = Arena::new(0, bytes);
        // SAFETY: an arena lives as long as the process, and is accessed by atomics alone.
        let words = unsafe { std::slice::from_raw_parts(arena.host.cast(), bytes / 8) };
        let live = (0..bytes / 4096).map(|_| Cell::new(0)).collect();
        Self { words, free: RefCell::default(), left: RefCell::default(), top: Cell::new(1), live }
    }

    /// The words of its tables.
    pub fn words(&self) -> &'static [AtomicU64] {
        self.words
    }

    fn table(&self, number: usize) -> Option<&[AtomicU64; ENTRIES]> {
        let first = number.checked_mul(ENTRIES)?;
        self.words.get(first..first.checked_add(ENTRIES)?)?.try_into().ok()
    }

    fn take(&self) -> Option<usize> {
        if let Some(table) = self.free.borrow_mut().pop() {
            return Some(table);
        }
        let table = self.top.get();
        self.top.set(table + 1);
        (table < self.live.len()).then_some(table)
    }

    fn count(&self, table: usize, more: usize) -> Option<()> {
        let live = self.live.get(table)?;
        live.set(live.get().checked_add(more as u32)?);
        Some(())
    }

    /// Counts down; whether nothing is left.
    fn discount(&self, table: usize, fewer: usize) -> Option<bool> {
        let live = self.live.get(table)?;
        live.set(live.get().checked_sub(fewer as u32)?);
        Some(live.get() == 0)
    }

    fn index(at: u64, level: u32) -> usize {
        (at >> (12 + 9 * level)) as usize % ENTRIES
    }

    /// The table of `level` for `at`; made, with those above, if `make`.
    fn seek(&self, at: u64, level: u32, make: bool) -> Option<usize> {
        let mut table = 0;
        for above in (level + 1..4).rev() {
            let entry = &self.table(table)?[Self::index(at, above)];
            let word = entry.load(Ordering::Relaxed);
            table = if word & (1 | LARGE) == 1 {
                ((word & ADDRESS) >> 12) as usize
            } else if word == 0 && make {
                let new = self.take()?;
                for word in self.table(new)? {
                    word.store(0, Ordering::Relaxed);
                }
                self.count(table, 1)?;
                entry.store((new as u64) << 12 | TABLE, Ordering::Release);
                new
            } else {
                return None;
            };
        }
        Some(table)
    }

    /// Maps `pages` pages, which lie in one table of the last level.
    pub fn map(&self, at: u64, output: u64, pages: usize) -> Option<()> {
        let table = self.seek(at, 0, true)?;
        let first = Self::index(at, 0);
        let entries = self.table(table)?.get(first..first + pages)?;
        if output & !ADDRESS != 0 {
            return None;
        }
        for (index, entry) in entries.iter().enumerate() {
            if entry.load(Ordering::Relaxed) != 0 {
                return None;
            }
            entry.store((output + ((index as u64) << 12)) | PAGE, Ordering::Relaxed);
        }
        self.count(table, pages)
    }

    /// Unmaps `pages` pages, which lie in one table of the last level; empty tables go.
    pub fn unmap(&self, at: u64, pages: usize) -> Option<()> {
        let mut table = self.seek(at, 0, false)?;
        let first = Self::index(at, 0);
        for entry in self.table(table)?.get(first..first + pages)? {
            if entry.load(Ordering::Relaxed) & 1 == 0 {
                return None;
            }
            entry.store(0, Ordering::Relaxed);
        }
        let mut gone = self.discount(table, pages)?;
        for level in 1..4 {
            if !gone {
                break;
            }
            let above = self.seek(at, level, false)?;
            self.table(above)?[Self::index(at, level)].store(0, Ordering::Relaxed);
            self.left.borrow_mut().push(table);
            table = above;
            gone = self.discount(table, 1)? && level < 3;
        }
        self.finish()
    }

    /// After the invalidation: tables that left are free. Each must be in memory, and empty.
    fn finish(&self) -> Option<()> {
        for table in self.left.borrow_mut().drain(..) {
            if self.live.get(table)?.get() != 0 {
                return None;
            }
            self.free.borrow_mut().push(table);
        }
        Some(())
    }

    /// Maps `bytes` bytes in pages, 2 MiB at a time.
    pub fn map_all(&self, at: u64, output: u64, bytes: u64) -> Option<()> {
        (0..bytes >> 21).try_for_each(|n| self.map(at + (n << 21), output + (n << 21), ENTRIES))
    }

    /// Maps 1 GiB as one leaf.
    pub fn map_large(&self, at: u64, output: u64) -> Option<()> {
        let table = self.seek(at, 2, true)?;
        self.table(table)?[Self::index(at, 2)].store(output | LARGE | PAGE, Ordering::Relaxed);
        self.count(table, 1)
    }

    /// Splits the leaf of 1 GiB at `at` into pages.
    pub fn split(&self, at: u64) -> Option<()> {
        let entry = &self.table(self.seek(at, 2, false)?)?[Self::index(at, 2)];
        let large = entry.load(Ordering::Relaxed);
        if large & (1 | LARGE) != 1 | LARGE {
            return None;
        }
        let middle = self.take()?;
        for (n, entry) in self.table(middle)?.iter().enumerate() {
            let pages = self.take()?;
            let first = (large & !LARGE) + ((n as u64) << 21);
            for (m, entry) in self.table(pages)?.iter().enumerate() {
                entry.store(first + ((m as u64) << 12), Ordering::Relaxed);
            }
            self.count(pages, ENTRIES)?;
            entry.store((pages as u64) << 12 | TABLE, Ordering::Relaxed);
        }
        self.count(middle, ENTRIES)?;
        entry
            .compare_exchange(
                large,
                (middle as u64) << 12 | TABLE,
                Ordering::AcqRel,
                Ordering::Relaxed,
            )
            .ok()?;
        Some(())
    }

    /// Takes out and frees all tables below the entries of level 2 for `bytes` bytes.
    pub fn tear_down(&self, at: u64, bytes: u64) -> Option<u64> {
        let mut pages = 0;
        for at in (0..bytes >> 30).map(|n| at + (n << 30)) {
            let above = self.seek(at, 2, false)?;
            let middle = self.seek(at, 1, false)?;
            self.table(above)?[Self::index(at, 2)].store(0, Ordering::Relaxed);
            for entry in self.table(middle)? {
                let word = entry.load(Ordering::Relaxed);
                if word & 1 != 0 {
                    let table = ((word & ADDRESS) >> 12) as usize;
                    pages += u64::from(self.live.get(table)?.replace(0));
                    self.left.borrow_mut().push(table);
                }
            }
            self.live.get(middle)?.set(0);
            self.left.borrow_mut().push(middle);
            self.discount(above, 1)?;
        }
        self.finish()?;
        Some(pages)
    }

    /// Stores to one page in `every`, as hardware records it.
    pub fn write(&self, at: u64, bytes: u64, every: u64) -> Option<()> {
        for page in (0..bytes >> 12).step_by(every as usize) {
            let at = at + (page << 12);
            let table = self.seek(at, 0, false)?;
            self.table(table)?[Self::index(at, 0)].fetch_or(DIRTY, Ordering::Relaxed);
        }
        Some(())
    }

    /// Takes the dirty bits of `bytes` bytes into `bitmap`; how many there were.
    pub fn harvest(&self, at: u64, bytes: u64, bitmap: &mut [u64]) -> Option<u64> {
        let mut dirty = 0;
        for n in 0..bytes >> 21 {
            let table = self.table(self.seek(at + (n << 21), 0, false)?)?;
            let log = bitmap.get_mut(n as usize * 8..n as usize * 8 + 8)?;
            for (line, entries) in table.chunks_exact(8).enumerate() {
                let any = entries.iter().fold(0, |any, it| any | it.load(Ordering::Relaxed));
                if any & DIRTY == 0 {
                    continue;
                }
                for (m, entry) in entries.iter().enumerate() {
                    let word = entry.load(Ordering::Relaxed);
                    if word & (1 | DIRTY) == 1 | DIRTY {
                        entry.fetch_and(!DIRTY, Ordering::AcqRel);
                        log[line / 8] |= 1 << (line % 8 * 8 + m);
                        dirty += 1;
                    }
                }
            }
        }
        Some(dirty)
    }

    /// Where the page at `at` lies.
    pub fn look(&self, at: u64) -> Option<u64> {
        let word =
            self.table(self.seek(at, 0, false)?)?[Self::index(at, 0)].load(Ordering::Relaxed);
        (word & 1 != 0).then_some(word & ADDRESS)
    }

    /// Boot tables: the first `gib` GiB in pages of 2 MiB, identical, in tables 0 to `1 + gib`.
    pub fn boot(&self, gib: usize) -> Option<()> {
        let (root, middle) = (self.table(0)?, self.table(1)?);
        for index in 0..ENTRIES {
            root[index].store(if index == 0 { 1 << 12 | TABLE } else { 0 }, Ordering::Relaxed);
            let below = if index < gib { (2 + index as u64) << 12 | TABLE } else { 0 };
            middle[index].store(below, Ordering::Relaxed);
        }
        for n in 0..gib {
            for (index, entry) in self.table(2 + n)?.iter().enumerate() {
                let output = ((n * ENTRIES + index) as u64) << 21;
                entry.store(output | LARGE | 3, Ordering::Relaxed);
            }
        }
        Some(())
    }
}
