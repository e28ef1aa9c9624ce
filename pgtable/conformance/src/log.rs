//! Memory that knows which stores it was told of.

use std::cell::RefCell;
use std::sync::atomic::{AtomicU64, Ordering};

use pgtable::Address;
use pgtable::memory::{DirectMap, MemoryError, ReadMemory, TableMemory};

/// Words that are compared at once.
const LINE: usize = 64;

/// Table memory in one block that compares its words with what it was told of them
/// ([`TableMemory::wrote`]).
#[derive(Debug)]
pub struct Logged<'m, A> {
    map: DirectMap<'m, A>,
    words: &'m [AtomicU64],
    start: u64,
    /// What each word held when it was told of last.
    known: RefCell<Vec<u64>>,
}

impl<'m, A: Address> Logged<'m, A> {
    /// The memory from `start` on, which consists of `words`. What they hold is known.
    #[must_use]
    pub fn new(words: &'m [AtomicU64], start: A) -> Self {
        let known = words.iter().map(|word| word.load(Ordering::Relaxed)).collect();
        let (map, start) = (DirectMap::new(words, start), start.get());
        Self { map, words, start, known: RefCell::new(known) }
    }

    /// The `words` words from `address` on are known as they are now.
    pub fn told(&self, address: u64, words: usize) {
        let first = (address - self.start) as usize / 8;
        let mut known = self.known.borrow_mut();
        for (known, word) in known.iter_mut().zip(self.words).skip(first).take(words) {
            *known = word.load(Ordering::Relaxed);
        }
    }

    /// Every word before `end` is as it was told of last.
    ///
    /// # Panics
    /// If one is not.
    pub fn verify(&self, end: u64) {
        let count = (end - self.start) as usize / 8;
        let known = self.known.borrow();
        // A line at a time: most are as they were.
        let lines = self.words.chunks(LINE).zip(known.chunks(LINE)).take(count.div_ceil(LINE));
        let untold = |(words, known): (&[AtomicU64], &[u64])| {
            let pairs = words.iter().zip(known);
            let differ = |(word, &known): (&AtomicU64, &u64)| word.load(Ordering::Relaxed) ^ known;
            let first = || pairs.clone().position(|pair| differ(pair) != 0);
            (pairs.clone().fold(0, |all, pair| all | differ(pair)) != 0).then(first).flatten()
        };
        let untold = lines.enumerate().find_map(|(line, pair)| Some(line * LINE + untold(pair)?));
        if let Some(index) = untold {
            let address = self.start + index as u64 * 8;
            let now = self.words[index].load(Ordering::Relaxed);
            panic!("{now:#x} was stored at {address:#x}, and the memory was not told");
        }
    }
}

impl<A: Address> ReadMemory<A> for Logged<'_, A> {
    pgtable::words_in_place!(A);
}

impl<A: Address> TableMemory<A> for Logged<'_, A> {
    fn word(&self, address: A) -> Result<&AtomicU64, MemoryError> {
        self.map.word(address)
    }

    fn table(&self, address: A, words: usize) -> Result<&[AtomicU64], MemoryError> {
        self.map.table(address, words)
    }

    fn wrote(&self, address: A, words: usize) {
        self.told(address.get(), words);
    }
}
