//! An image as table memory: pages are read when they are first asked for, and kept.
//!
//! Nothing is ever dropped while a walker may hold a reference, so what a hostile image could make
//! us read is bounded from the start: an [`Allowance`] of words that may be looked at (work) and of
//! bytes that may be kept (memory). When it is spent every access fails, and [`ImageTables::spent`]
//! says which of the two it was.

use std::cell::{Cell, RefCell};
use std::io;
use std::sync::atomic::AtomicU64;

use elsa::FrozenMap;
use foldhash::fast::RandomState;
use pgtable::Address;
use pgtable::memory::{MemoryError, ReadMemory, Refusal, TableMemory};

use crate::memory::{Memory, Unreadable};
use crate::missing;

/// Bytes of a page, the unit in which tables are read.
const PAGE: u64 = 4096;

/// How much may be read.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Allowance {
    /// Table words that may be looked at, each time counted.
    pub words: u64,
    /// Bytes of tables that may be kept in memory.
    pub bytes: u64,
}

impl Default for Allowance {
    /// 2^28 words (the tables of 1 TiB in 4-KiB pages; seconds, or minutes if each of them is shown
    /// on a line of its own), 1 GiB.
    fn default() -> Self {
        Self { words: 1 << 28, bytes: 1 << 30 }
    }
}

/// What was spent.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// The words that may be looked at.
    Words,
    /// The bytes that may be kept.
    Bytes,
}

type Words = Box<[AtomicU64]>;

/// The memory of an image, as table memory at physical addresses of either space.
pub struct ImageTables<'i> {
    memory: &'i dyn Memory,
    allowance: Allowance,
    /// Bits that are no part of any table word: they are taken off.
    foreign: u64,
    words: Cell<u64>,
    bytes: Cell<u64>,
    spent: Cell<Option<Kind>>,
    failure: RefCell<Option<io::Error>>,
    pages: FrozenMap<u64, Words, RandomState>,
    /// Tables that are larger than a page, or not aligned, or in a page that is not all there: by
    /// address and number of words.
    spans: FrozenMap<(u64, usize), Words, RandomState>,
}

impl<'i> ImageTables<'i> {
    pub(crate) fn new(memory: &'i dyn Memory, allowance: Allowance) -> Self {
        Self {
            memory,
            allowance,
            foreign: 0,
            words: Cell::new(0),
            bytes: Cell::new(0),
            spent: Cell::new(None),
            failure: RefCell::new(None),
            pages: FrozenMap::default(),
            spans: FrozenMap::default(),
        }
    }

    /// The same, with these bits (of a little-endian word) taken off each word: the C-bit of
    /// encrypted memory, which says nothing of an address.
    #[must_use]
    pub fn without(self, foreign: u64) -> Self {
        Self { foreign: foreign.to_le(), ..self }
    }

    /// Why the `bytes` bytes of memory from `address` on cannot be read, if they cannot.
    #[must_use]
    pub fn refusal(&self, address: u64, bytes: u64) -> Option<Unreadable> {
        if let Some((address, held)) = missing(self.memory, address, bytes) {
            return Some(Unreadable::Missing { address, held });
        }
        let mut buffer = vec![0; usize::try_from(bytes.min(1 << 24)).unwrap_or(0)];
        self.memory.read(address, &mut buffer).err()
    }

    /// Whether the image has any of the `bytes` bytes of memory from `address` on.
    #[must_use]
    pub fn has_part(&self, address: u64, bytes: u64) -> bool {
        self.memory.next_stored(address).is_some_and(|stored| stored - address < bytes)
    }

    /// What was spent, if anything: from then on every access fails.
    pub fn spent(&self) -> Option<Kind> {
        self.spent.get()
    }

    /// What the system said, if the image could not be read.
    pub fn failure(&self) -> Option<String> {
        self.failure.borrow().as_ref().map(ToString::to_string)
    }

    /// Whether nothing more can be read.
    pub fn is_over(&self) -> bool {
        self.spent.get().is_some() || self.failure.borrow().is_some()
    }

    /// How much was read until now: words looked at, bytes kept.
    pub fn cost(&self) -> (u64, u64) {
        (self.words.get(), self.bytes.get())
    }

    /// What is left of the allowance.
    pub fn left(&self) -> Allowance {
        Allowance {
            words: self.allowance.words.saturating_sub(self.words.get()),
            bytes: self.allowance.bytes.saturating_sub(self.bytes.get()),
        }
    }

    /// Whether `bytes` more may be kept by whoever collects what the tables say; they are taken off
    /// the allowance.
    pub fn keep(&self, bytes: u64) -> bool {
        Self::charge(&self.bytes, bytes, self.allowance.bytes) || {
            self.spent.set(Some(Kind::Bytes));
            false
        }
    }

    /// Gives back `bytes` that were kept and are no longer.
    pub fn give_back(&self, bytes: u64) {
        self.bytes.set(self.bytes.get().saturating_sub(bytes));
    }

    /// Takes `words` off the allowance: somebody else has looked at so many on its behalf.
    pub fn spend(&self, words: u64) {
        if !Self::charge(&self.words, words, self.allowance.words) {
            self.spent.set(Some(Kind::Words));
        }
    }

    /// Takes over the failure of `other`, which read the same image.
    pub fn fail_as(&self, other: &Self) {
        if let Some(failure) = other.failure.take() {
            *self.failure.borrow_mut() = Some(failure);
        }
    }

    fn charge(counter: &Cell<u64>, amount: u64, limit: u64) -> bool {
        let sum = counter.get().saturating_add(amount);
        counter.set(sum.min(limit));
        sum <= limit
    }

    /// Takes the allowance for `words` words at `address`.
    fn admit(&self, address: u64, words: u64) -> Result<(), MemoryError> {
        let bytes = words.saturating_mul(8);
        let refused = MemoryError { address, bytes, refusal: Refusal::Outside };
        if self.is_over() {
            return Err(refused);
        }
        if !Self::charge(&self.words, words, self.allowance.words) {
            self.spent.set(Some(Kind::Words));
            return Err(refused);
        }
        Ok(())
    }

    /// The words at `address`, whose low three bits do not count.
    fn look(&self, address: u64, words: usize) -> Result<&[AtomicU64], MemoryError> {
        let address = address & !7;
        self.admit(address, words as u64)?;
        let within = address % PAGE;
        let (page, first) = (address - within, within as usize / 8);
        let in_page = within + words as u64 * 8 <= PAGE;
        if in_page {
            if let Some(page) = self.pages.get(&page) {
                return Ok(&page[first..first + words]);
            }
            if missing(self.memory, page, PAGE).is_none() {
                let all = self.pages.insert(page, self.read(page, PAGE as usize / 8)?);
                return Ok(&all[first..first + words]);
            }
        }
        match self.spans.get(&(address, words)) {
            Some(span) => Ok(span),
            None => Ok(self.spans.insert((address, words), self.read(address, words)?)),
        }
    }

    /// Reads `words` words at `address`, all of which must be there.
    #[cold]
    fn read(&self, address: u64, words: usize) -> Result<Words, MemoryError> {
        let bytes = (words as u64).saturating_mul(8);
        let refused = MemoryError { address, bytes, refusal: Refusal::Outside };
        if missing(self.memory, address, refused.bytes).is_some() || !self.keep(refused.bytes) {
            return Err(refused);
        }
        let mut bytes = vec![0; words * 8];
        if let Err(error) = self.memory.read(address, &mut bytes) {
            if let Unreadable::Io(error) = error {
                *self.failure.borrow_mut() = Some(error);
            }
            return Err(refused);
        }
        let word = |chunk: &[u8]| {
            let mut word = [0; 8];
            word.copy_from_slice(chunk);
            AtomicU64::new(u64::from_ne_bytes(word) & !self.foreign)
        };
        Ok(bytes.chunks_exact(8).map(word).collect())
    }
}

impl<A: Address> ReadMemory<A> for ImageTables<'_> {
    pgtable::words_in_place!(A);
}

impl<A: Address> TableMemory<A> for ImageTables<'_> {
    fn word(&self, address: A) -> Result<&AtomicU64, MemoryError> {
        Ok(&self.look(address.get(), 1)?[0])
    }

    fn table(&self, address: A, words: usize) -> Result<&[AtomicU64], MemoryError> {
        self.look(address.get(), words)
    }

    fn wrote(&self, _: A, _: usize) {}
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may panic")]
mod tests {
    use super::*;
    use crate::{Extent, Held, Image};
    use pgtable::Gpa;
    use std::sync::atomic::Ordering;

    fn bytes(count: usize) -> Vec<u8> {
        (0..count).map(|n| (n * 7 + n / 251) as u8).collect()
    }

    #[test]
    fn words_are_those_of_the_file() {
        let bytes = bytes(0x5004);
        let image = Image::open(&bytes[..], 0x1_0000).unwrap();
        let tables = image.tables(Allowance::default());
        let want = |address: usize| {
            u64::from_ne_bytes(bytes[address - 0x1_0000..][..8].try_into().unwrap())
        };
        for address in [0x1_0000, 0x1_0ff8, 0x1_1000, 0x1_4ff8] {
            assert_eq!(
                tables.word(Gpa::new(address as u64)).unwrap().load(Ordering::Relaxed),
                want(address)
            );
        }
        for (address, count, ok) in [
            (0x1_0000, 512, true),
            (0x1_0ff8, 3, true),
            (0x1_0000, 0xa00, true),
            (0x1_0000, 0xc01, false),
            (0x1_0004, 1, true),
            (0xfff8, 2, false),
            (0x1_6000, 1, false),
        ] {
            let table = tables.table(Gpa::new(address as u64), count);
            assert_eq!(table.is_ok(), ok, "{address:#x} {count}");
            for (n, word) in table.unwrap_or_default().iter().enumerate() {
                assert_eq!(word.load(Ordering::Relaxed), want((address & !7) + n * 8));
            }
        }
        assert_eq!(tables.spent(), None);
    }

    #[test]
    fn pieces_that_meet_in_a_page() {
        let bytes = bytes(0x3000);
        let piece = |start, bytes, offset| Extent { start, bytes, file: 0, offset };
        let extents = [piece(0x800, 0x900, 3), piece(0x1100, 0x100, 0x1003)];
        let image = Image::raw(vec![Box::new(&bytes[..])], extents).unwrap();
        let tables = image.tables(Allowance::default());
        let word = |address| {
            tables.word(Gpa::new(address)).map(|word| word.load(Ordering::Relaxed).to_ne_bytes())
        };
        assert_eq!(word(0x1000).unwrap(), bytes[0x803..0x80b]);
        assert_eq!(word(0x1100).unwrap(), bytes[0x1003..0x100b]);
        for address in [0x1200, 0x7f8, 0x2000] {
            assert!(word(address).is_err(), "what the image does not hold is not zero");
        }
        let table: &[AtomicU64] = tables.table(Gpa::new(0x10f8), 2).unwrap();
        assert_eq!(table[1].load(Ordering::Relaxed).to_ne_bytes(), bytes[0x1003..0x100b]);
        let refusal = tables.refusal(0x1000, 0x1000);
        assert!(matches!(
            refusal,
            Some(Unreadable::Missing { address: 0x1200, held: Held::Outside })
        ));
        assert!(tables.refusal(0x800, 0xa00).is_none());
    }

    #[test]
    fn foreign_bits_are_taken_off() {
        let words = [1_u64 << 47 | 0x1067, u64::MAX].map(u64::to_le_bytes).concat();
        let image = Image::open(&words[..], 0).unwrap();
        let tables = image.tables(Allowance::default()).without(1 << 47);
        let word = |at| u64::from_le(tables.word(Gpa::new(at)).unwrap().load(Ordering::Relaxed));
        assert_eq!((word(0), word(8)), (0x1067, !(1 << 47)));
    }

    #[test]
    fn an_allowance_is_spent_and_stays_spent() {
        let bytes = bytes(0x10000);
        let image = Image::open(&bytes[..], 0).unwrap();
        let tables = image.tables(Allowance { words: 3, bytes: 1 << 20 });
        assert!(tables.table(Gpa::new(0), 2).is_ok() && tables.word(Gpa::new(0)).is_ok());
        assert!(tables.word(Gpa::new(0)).is_err() && tables.word(Gpa::new(8)).is_err());
        assert_eq!(tables.spent(), Some(Kind::Words));

        let tables = image.tables(Allowance { words: 1 << 20, bytes: 0x2000 });
        assert!(tables.word(Gpa::new(0)).is_ok() && tables.word(Gpa::new(0x1000)).is_ok());
        assert!(tables.word(Gpa::new(0x2000)).is_err());
        assert_eq!((tables.spent(), tables.cost()), (Some(Kind::Bytes), (3, 0x2000)));
    }
}
