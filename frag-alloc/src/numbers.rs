//! The numbers of caches, which the tags of their tables name.
//!
//! # Protocol
//! | number | from | to |
//! | --- | --- | --- |
//! | taken | [`Numbers::open`] | [`Numbers::release`]: the cache is dropped |
//! | open | [`Numbers::open`] | [`Numbers::close`]: its pools and pointers are closed |
//!
//! A number is taken by one cache at a time, so the tables of two caches that exist never have one
//! tag. Numbers are handed out in turn: a number comes back after all the others.

use alloc::vec::Vec;

/// How many numbers there are, but for [`SHARED`].
const NUMBERS: u32 = (1 << 20) - 1;
/// The number of all caches for which there was no other: never closed, so that no table of one of
/// them is taken for a closed cache's.
const SHARED: u32 = NUMBERS;

/// Which numbers are taken, and which of them are open.
#[derive(Debug, Default)]
pub(crate) struct Numbers {
    /// The number that is looked at first.
    next: u32,
    /// 64 numbers each.
    words: Vec<Word>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Word {
    taken: u64,
    open: u64,
}

impl Numbers {
    /// A number for a new cache.
    pub(crate) fn open(&mut self) -> u32 {
        let Some(number) = self.vacant() else { return SHARED };
        self.next = (number + 1) % NUMBERS;
        let word = &mut self.words[(number / 64) as usize];
        word.taken |= 1 << (number % 64);
        word.open |= 1 << (number % 64);
        number
    }

    /// The first number from `next` on, around the end, that is not taken; its word exists.
    fn vacant(&mut self) -> Option<u32> {
        let words = NUMBERS.div_ceil(64);
        let first = self.next / 64;
        // The first word is looked at twice: from `next` on, and at the end from its start.
        for turn in 0..=words {
            let index = (first + turn) % words;
            if index as usize == self.words.len() {
                self.words.try_reserve(1).ok()?;
                self.words.push(Word::default());
            }
            let taken = self.words[index as usize].taken;
            let before = if turn == 0 { (1 << (self.next % 64)) - 1 } else { 0 };
            let number = index * 64 + (taken | before).trailing_ones();
            if number < (index * 64 + 64).min(NUMBERS) {
                return Some(number);
            }
        }
        None
    }

    fn word(&mut self, number: u32) -> Option<&mut Word> {
        if number == SHARED { None } else { self.words.get_mut((number / 64) as usize) }
    }

    /// The cache with that number hands out nothing any more.
    pub(crate) fn close(&mut self, number: u32) {
        if let Some(word) = self.word(number) {
            word.open &= !(1 << (number % 64));
        }
    }

    /// The cache with that number is gone.
    pub(crate) fn release(&mut self, number: u32) {
        if let Some(word) = self.word(number) {
            word.taken &= !(1 << (number % 64));
        }
    }

    /// Whether tables with that number may be a pool's.
    pub(crate) fn is_open(&mut self, number: u32) -> bool {
        number == SHARED
            || self.word(number).is_some_and(|word| word.open >> (number % 64) & 1 != 0)
    }
}

#[cfg(all(test, not(pgtable_loom)))]
mod tests {
    use core::sync::atomic::AtomicU64;

    use pgtable::Hpa;
    use pgtable::memory::DirectMap;

    use super::*;
    use crate::{Cache, Frames, Kind, Owner, Policy, Region};

    #[test]
    fn case_a2_no_two_caches_that_exist_have_one_number() {
        let mut numbers = Numbers::default();
        // Every third one stays for ever; the others are closed and dropped.
        let mut kept = std::collections::BTreeSet::new();
        for turn in 0..3 * NUMBERS {
            let number = numbers.open();
            if number == SHARED {
                break;
            }
            assert!(!kept.contains(&number) && numbers.is_open(number), "{number}");
            if turn % 3 == 0 {
                kept.insert(number);
                continue;
            }
            numbers.close(number);
            assert!(!numbers.is_open(number));
            numbers.release(number);
        }
        assert_eq!(kept.len() as u32, NUMBERS, "then there is none");
        assert_eq!((numbers.open(), numbers.is_open(SHARED)), (SHARED, true));
        numbers.close(SHARED);
        assert!(numbers.is_open(SHARED));
        // A closed one that still exists keeps its number; a dropped one leaves it.
        numbers.close(70);
        assert_eq!(numbers.open(), SHARED);
        numbers.release(70);
        assert_eq!((numbers.open(), numbers.open()), (70, SHARED));
    }

    /// A closed cache still frees its tables by its number: no other has it until it is dropped.
    #[test]
    fn case_a2_a_closed_cache_keeps_its_number() {
        let words: Vec<_> = (0..1 << 9).map(|_| AtomicU64::new(0)).collect();
        let start = Hpa::new(0);
        let source = Region::new(DirectMap::new(&words, start), start, 1, 12).unwrap();
        let frames = Frames::new(source).unwrap();
        let around = || {
            (0..NUMBERS).map(|_| {
                let number = frames.open_cache();
                frames.close_cache(number);
                frames.release_cache(number);
                number
            })
        };
        let cache = Cache::new(&frames, Owner(1), Kind::User, Policy::Reuse);
        let number = cache.tag(8).cache();
        cache.close().unwrap();
        assert!(around().all(|other| other != number), "it exists");
        drop(cache);
        assert!(around().any(|other| other == number), "it is gone");
    }

    #[test]
    fn numbers_come_back_last() {
        let mut numbers = Numbers::default();
        for expected in (0..NUMBERS).chain(0..3) {
            let number = numbers.open();
            assert_eq!(number, expected);
            numbers.close(number);
            numbers.release(number);
        }
    }
}
