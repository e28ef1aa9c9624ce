//! The floor below every floor: one flat array with a word for each page, no tree at all.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::row::Row;
use bench_harness::work::{INPUT, PAGES, PageTables};

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
];

const PRESENT: u64 = 1;
const WRITABLE: u64 = 2;
const ADDRESS: u64 = !0xfff;

/// An array of words.
pub struct Flat {
    words: Box<[AtomicU64]>,
    /// Protect by compare-exchange, not by a load and a store.
    pub exchange: bool,
}

impl Flat {
    pub fn new(exchange: bool) -> Self {
        Self { words: (0..PAGES).map(|_| AtomicU64::new(0)).collect(), exchange }
    }

    #[inline(always)]
    fn word(&self, input: u64) -> &AtomicU64 {
        &self.words[(input.wrapping_sub(INPUT) >> 12) as usize]
    }

    fn run(&self, input: u64, bytes: u64) -> &[AtomicU64] {
        &self.words[(input.wrapping_sub(INPUT) >> 12) as usize..][..(bytes >> 12) as usize]
    }
}

impl PageTables for Flat {
    fn reset(&mut self) {
        self.words.iter().for_each(|word| word.store(0, Ordering::Relaxed));
    }

    #[inline(always)]
    fn map(&mut self, input: u64, output: u64) {
        self.word(input).store(output | PRESENT | WRITABLE, Ordering::Relaxed);
    }

    #[inline(always)]
    fn translate(&self, input: u64) -> Option<u64> {
        let word = self.word(input).load(Ordering::Relaxed);
        (word & PRESENT != 0).then_some(word & ADDRESS)
    }

    #[inline(always)]
    fn unmap(&mut self, input: u64) {
        self.word(input).store(0, Ordering::Relaxed);
    }

    #[inline(never)]
    fn map_range(&mut self, input: u64, output: u64, bytes: u64) {
        let mut word = output | PRESENT | WRITABLE;
        for slot in self.run(input, bytes) {
            slot.store(word, Ordering::Relaxed);
            word += 4096;
        }
    }

    #[inline(never)]
    fn unmap_range(&mut self, input: u64, bytes: u64, _: u64) {
        self.run(input, bytes).iter().for_each(|slot| slot.store(0, Ordering::Relaxed));
    }

    #[inline(never)]
    fn protect_range(&mut self, input: u64, bytes: u64, writable: bool) {
        let writable = if writable { WRITABLE } else { 0 };
        for slot in self.run(input, bytes) {
            let old = slot.load(Ordering::Relaxed);
            let new = old & !WRITABLE | writable;
            if self.exchange {
                slot.compare_exchange(old, new, Ordering::AcqRel, Ordering::Relaxed).unwrap();
            } else {
                slot.store(new, Ordering::Relaxed);
            }
        }
    }

    #[inline(never)]
    fn iterate(&self, input: u64, bytes: u64) -> u64 {
        let words = self.run(input, bytes).iter().map(|slot| slot.load(Ordering::Relaxed));
        words
            .filter(|word| word & PRESENT != 0)
            .fold(0, |sum, word| sum.wrapping_add(word & ADDRESS))
    }
}
