//! The floor of the bench `pgtable`: each operation by hand with the checks of ours. Addresses are
//! canonical, every access to table memory is in bounds, entries fit what the access needs, output
//! addresses fit their field, and exchanges are locked where hardware may be writing.

use std::sync::atomic::{AtomicU64, Ordering};

use super::{ADDRESS, ByHand, ENTRIES, PAGE};
use crate::work::{PAGES, PageTables, Work};

/// Present, not large, and no reserved bit: of tables, and of pages. Supervisor reads need no more.
const COMPARED: u64 = 1 | 1 << 7 | 0x000f_0000_0000_0000 & !ADDRESS;
const PAGE_COMPARED: u64 = COMPARED & !(1 << 7);
const WRITABLE: u64 = 2;
/// Addresses of a batch that are on their way at a time.
const WAY: usize = 32;
/// What a table of the last level covers.
const SPAN: u64 = (ENTRIES as u64) << 12;

/// A page, as an iteration shows it.
#[derive(Clone, Copy)]
pub struct Page {
    pub input: u64,
    pub output: u64,
    /// The bits of its entry that are not the address.
    pub attributes: u64,
}

impl ByHand {
    #[inline(always)]
    fn canonical(at: u64) -> Option<u64> {
        (((at << 16) as i64 >> 16) as u64 == at).then_some(at)
    }

    /// The index in memory of the entry for `at` in the table of the last level.
    #[inline(always)]
    fn last(&self, at: u64) -> Option<usize> {
        let at = Self::canonical(at)?;
        let mut table = 0;
        for shift in [39, 30, 21] {
            let entry = table + (at >> shift) as usize % ENTRIES;
            let word = self.words.get(entry)?.load(Ordering::Relaxed);
            if word & COMPARED != 1 {
                return None;
            }
            table = ((word & ADDRESS) >> 3) as usize;
        }
        Some(table + (at >> 12) as usize % ENTRIES)
    }

    /// Where a supervisor's read of `at` leads.
    #[inline(always)]
    pub fn find(&self, at: u64) -> Option<u64> {
        self.page(self.last(at)?).map(|page| page | at & 0xfff)
    }

    #[inline(always)]
    fn page(&self, entry: usize) -> Option<u64> {
        let word = self.words.get(entry)?.load(Ordering::Relaxed);
        (word & PAGE_COMPARED == 1).then_some(word & ADDRESS)
    }

    /// The sum of where `order` leads: of each block the tables of the last level are found, and
    /// the entries in them asked for, before those of the block before are read.
    pub fn find_all(&self, work: &Work, order: &[u32]) -> Option<u64> {
        let (mut sum, mut before) = (0u64, ([0; WAY], 0));
        for block in order.chunks(WAY) {
            let mut now = [0; WAY];
            for (entry, &index) in now.iter_mut().zip(block) {
                *entry = self.last(work.input(index.into()))?;
                prefetch(self.words.get(*entry)?);
            }
            sum = self.sum(sum, before)?;
            before = (now, block.len());
        }
        self.sum(sum, before)
    }

    #[inline(always)]
    fn sum(&self, sum: u64, (entries, count): ([usize; WAY], usize)) -> Option<u64> {
        entries[..count]
            .iter()
            .try_fold(sum, |sum, &entry| self.page(entry).map(|page| sum.wrapping_add(page)))
    }

    /// The tables of the last level for `bytes` bytes from `at` on, each with its first address.
    fn tables(
        &self,
        at: u64,
        bytes: u64,
    ) -> impl Iterator<Item = Option<(u64, &[AtomicU64; ENTRIES])>> {
        (at..at + bytes).step_by(SPAN as usize).map(|at| {
            let table = self.table(self.seek(Self::canonical(at)?, 0, false)?)?;
            Some((at, table))
        })
    }

    /// Makes pages writable or not, by `store`, which has the word before and after.
    #[inline(always)]
    fn protect(
        &self,
        (at, bytes): (u64, u64),
        writable: bool,
        store: impl Fn(&AtomicU64, u64, u64) -> bool,
    ) -> Option<u64> {
        let set = if writable { WRITABLE } else { 0 };
        let mut pages = 0;
        for table in self.tables(at, bytes) {
            let (_, table) = table?;
            for entry in table {
                let old = entry.load(Ordering::Relaxed);
                if old & 1 == 0 {
                    continue;
                }
                let new = old & !WRITABLE | set;
                if new != old && !store(entry, old, new) {
                    return None;
                }
                pages += 1;
            }
        }
        Some(pages << 12)
    }

    /// The pages of a range, one after the other.
    pub fn pages(&self, at: u64, bytes: u64) -> Pages<'_> {
        Pages { hand: self, table: &[], here: at, next: at, end: at + bytes }
    }
}

/// Brings the word nearer.
#[inline(always)]
fn prefetch(word: &AtomicU64) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: a hint, for an address that is valid.
    unsafe {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        _mm_prefetch::<_MM_HINT_T0>(word.as_ptr().cast());
    }
    #[cfg(not(target_arch = "x86_64"))]
    std::hint::black_box(word.load(Ordering::Relaxed));
}

/// See [`ByHand::pages`].
pub struct Pages<'h> {
    hand: &'h ByHand,
    table: &'h [AtomicU64],
    /// The address of the first entry of `table`.
    here: u64,
    /// The address of the table after it.
    next: u64,
    end: u64,
}

impl Iterator for Pages<'_> {
    type Item = Page;

    #[inline]
    fn next(&mut self) -> Option<Page> {
        loop {
            while let Some((entry, rest)) = self.table.split_first() {
                let (word, input) = (entry.load(Ordering::Relaxed), self.here);
                (self.table, self.here) = (rest, input + 4096);
                if word & PAGE_COMPARED == 1 {
                    let (output, attributes) = (word & ADDRESS, word & !ADDRESS);
                    return Some(Page { input, output, attributes });
                }
            }
            if self.next >= self.end {
                return None;
            }
            self.here = self.next;
            self.next += SPAN;
            self.table = self.hand.table(self.hand.seek(self.here, 0, false)?)?;
        }
    }
}

impl PageTables for ByHand {
    fn reset(&mut self) {
        self.words.iter().for_each(|word| word.store(0, Ordering::Relaxed));
        self.live.iter().for_each(|live| live.set(0));
        self.free.borrow_mut().clear();
        self.top.set(1);
    }

    #[inline(always)]
    fn map(&mut self, input: u64, output: u64) {
        if let Some(index) = self.last(input) {
            let entry = self.words.get(index).unwrap();
            assert!(entry.load(Ordering::Relaxed) == 0 && output & !ADDRESS == 0);
            self.count(index / ENTRIES, 1).unwrap();
            entry.store(output | PAGE, Ordering::Relaxed);
        } else {
            ByHand::map(self, input, output, 1).unwrap();
        }
    }

    #[inline(always)]
    fn translate(&self, input: u64) -> Option<u64> {
        self.find(input)
    }

    #[inline(always)]
    fn unmap(&mut self, input: u64) {
        ByHand::unmap(self, input, 1).unwrap();
    }

    #[inline(never)]
    fn map_range(&mut self, input: u64, output: u64, bytes: u64) {
        self.map_all(input, output, bytes).unwrap();
    }

    #[inline(never)]
    fn unmap_range(&mut self, input: u64, bytes: u64, present: u64) {
        assert_eq!(self.tear_down(input, bytes), Some(present >> 12));
    }

    #[inline(never)]
    fn protect_range(&mut self, input: u64, bytes: u64, writable: bool) {
        let exchange = |entry: &AtomicU64, old, new| {
            entry.compare_exchange(old, new, Ordering::AcqRel, Ordering::Relaxed).is_ok()
        };
        assert_eq!(self.protect((input, bytes), writable, exchange), Some(bytes));
    }

    #[inline(never)]
    fn protect_range_stopped(&mut self, input: u64, bytes: u64, writable: bool) {
        let store = |entry: &AtomicU64, _, new| {
            entry.store(new, Ordering::Relaxed);
            true
        };
        assert_eq!(self.protect((input, bytes), writable, store), Some(bytes));
    }

    #[inline(never)]
    fn iterate(&self, input: u64, bytes: u64) -> u64 {
        let mut sum = 0u64;
        for table in self.tables(input, bytes) {
            let (_, table) = table.unwrap();
            for entry in table {
                let word = entry.load(Ordering::Relaxed);
                if word & PAGE_COMPARED == 1 {
                    sum = sum.wrapping_add(word & ADDRESS);
                } else {
                    assert_eq!(word & 1, 0, "no page");
                }
            }
        }
        sum
    }

    #[inline(never)]
    fn iterate_external(&self, input: u64, bytes: u64) -> u64 {
        let mut sum = 0u64;
        for page in self.pages(input, bytes) {
            sum = sum.wrapping_add(page.output);
        }
        sum
    }

    #[inline(never)]
    fn translate_batch(&self, work: &Work, order: &[u32]) -> u64 {
        assert_eq!(order.len() as u64, PAGES);
        self.find_all(work, order).unwrap()
    }
}
