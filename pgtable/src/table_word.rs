//! The width of a format's table words: 64 bits, or 32 bits.
//!
//! Table memory hands out words of 64 bits ([`TableMemory`]). A format says by [`Format::Word`]
//! whether its entries are such words or their halves. Entries are loaded, stored and exchanged in
//! their own width, so that a store to one entry never touches its neighbour.
//!
//! Everywhere else a word is a `u64`; of a format with 32-bit words the upper half is zero.
//!
//! [`Format::Word`]: crate::format::Format::Word

use core::fmt;
use core::sync::atomic::{AtomicU8, AtomicU16, AtomicU32, AtomicU64, Ordering};

use crate::address::{Address, low_bits};
use crate::format::ByteOrder;
use crate::memory::{MemoryError, ReadMemory, TableMemory};

mod sealed {
    pub trait Sealed {}
    impl Sealed for core::sync::atomic::AtomicU64 {}
    impl Sealed for core::sync::atomic::AtomicU32 {}
}

/// A table word in memory: `AtomicU64`, or `AtomicU32`.
///
/// A raw word has its bytes in memory order, as a native number; [`swap`](Self::swap) brings it
/// into the order that the manual describes, and back.
pub trait TableWord: sealed::Sealed + fmt::Debug + Send + Sync + Sized + 'static {
    /// log2 of its bytes.
    const SHIFT: u8;
    /// Its bytes.
    const BYTES: usize = 1 << Self::SHIFT;

    /// All of its bits.
    const MASK: u64 = low_bits(8 << Self::SHIFT);

    /// A raw word → the value that the manual describes. Its own inverse.
    #[must_use]
    fn swap(order: ByteOrder, word: u64) -> u64;

    /// The raw word.
    #[must_use]
    fn load_raw(&self, order: Ordering) -> u64;

    /// Stores a raw word.
    fn store_raw(&self, word: u64, order: Ordering);

    /// Stores a raw word; returns the one before.
    fn swap_raw(&self, word: u64, order: Ordering) -> u64;

    /// Stores the raw word `new` if the word is `current`; whether it did. The ordering is `AcqRel`
    /// then, and `Relaxed` otherwise.
    #[must_use]
    fn exchange_raw(&self, current: u64, new: u64) -> bool;

    /// Clears all bits but those of the raw word `bits`.
    fn and_raw(&self, bits: u64, order: Ordering);

    /// Sets the bits of the raw word `bits`.
    fn or_raw(&self, bits: u64, order: Ordering);

    /// The word at `address` in `memory`, in place. Address bits below its size do not count.
    ///
    /// # Errors
    /// As [`TableMemory::word`].
    fn word_in<A: Address, M: TableMemory<A> + ?Sized>(
        memory: &M,
        address: A,
    ) -> Result<&Self, MemoryError>;

    /// The `words` words from `address` on in `memory`, in place.
    ///
    /// # Errors
    /// As [`TableMemory::table`].
    fn words_in<A: Address, M: TableMemory<A> + ?Sized>(
        memory: &M,
        address: A,
        words: usize,
    ) -> Result<&[Self], MemoryError>;

    /// The same if `memory` can give them in place, as [`ReadMemory::in_place`].
    fn in_place<A: Address, M: ReadMemory<A> + ?Sized>(
        memory: &M,
        address: A,
        words: usize,
    ) -> Option<&[Self]>;

    /// Notes that the `words` words from `address` on may have been written, as
    /// [`TableMemory::wrote`].
    fn wrote_in<A: Address, M: TableMemory<A> + ?Sized>(memory: &M, address: A, words: usize);

    /// The raw word at `address` in `memory`, by value.
    ///
    /// # Errors
    /// As [`ReadMemory::load`].
    fn load_from<A: Address, M: ReadMemory<A> + ?Sized>(
        memory: &M,
        address: A,
    ) -> Result<u64, MemoryError>;

    /// Stores the raw word `new` at `address` in `memory` if the word there is `current`; whether
    /// it did.
    ///
    /// # Errors
    /// As [`ReadMemory::compare_exchange`].
    fn exchange_in<A: Address, M: ReadMemory<A> + ?Sized>(
        memory: &M,
        address: A,
        current: u64,
        new: u64,
    ) -> Result<bool, MemoryError>;
}

/// The methods on a word, of an atomic of the integer `$int`.
macro_rules! on_a_word {
    ($int:ty) => {
        #[inline(always)]
        fn swap(order: ByteOrder, word: u64) -> u64 {
            let word = word as $int;
            u64::from(match order {
                ByteOrder::Little => word.to_le(),
                ByteOrder::Big => word.to_be(),
            })
        }

        #[inline(always)]
        fn load_raw(&self, order: Ordering) -> u64 {
            u64::from(self.load(order))
        }

        #[inline(always)]
        fn store_raw(&self, word: u64, order: Ordering) {
            self.store(word as $int, order);
        }

        #[inline(always)]
        fn swap_raw(&self, word: u64, order: Ordering) -> u64 {
            u64::from(Self::swap(self, word as $int, order))
        }

        #[inline(always)]
        fn exchange_raw(&self, current: u64, new: u64) -> bool {
            let (current, new) = (current as $int, new as $int);
            self.compare_exchange(current, new, Ordering::AcqRel, Ordering::Relaxed).is_ok()
        }

        #[inline(always)]
        fn and_raw(&self, bits: u64, order: Ordering) {
            self.fetch_and(bits as $int, order);
        }

        #[inline(always)]
        fn or_raw(&self, bits: u64, order: Ordering) {
            self.fetch_or(bits as $int, order);
        }
    };
}

impl TableWord for AtomicU64 {
    const SHIFT: u8 = 3;

    on_a_word!(u64);

    #[inline(always)]
    fn word_in<A: Address, M: TableMemory<A> + ?Sized>(
        memory: &M,
        address: A,
    ) -> Result<&Self, MemoryError> {
        memory.word(address)
    }

    #[inline(always)]
    fn words_in<A: Address, M: TableMemory<A> + ?Sized>(
        memory: &M,
        address: A,
        words: usize,
    ) -> Result<&[Self], MemoryError> {
        memory.table(address, words)
    }

    #[inline(always)]
    fn in_place<A: Address, M: ReadMemory<A> + ?Sized>(
        memory: &M,
        address: A,
        words: usize,
    ) -> Option<&[Self]> {
        memory.in_place(address, words)
    }

    #[inline(always)]
    fn wrote_in<A: Address, M: TableMemory<A> + ?Sized>(memory: &M, address: A, words: usize) {
        memory.wrote(address, words);
    }

    #[inline(always)]
    fn load_from<A: Address, M: ReadMemory<A> + ?Sized>(
        memory: &M,
        address: A,
    ) -> Result<u64, MemoryError> {
        memory.load(address)
    }

    #[inline(always)]
    fn exchange_in<A: Address, M: ReadMemory<A> + ?Sized>(
        memory: &M,
        address: A,
        current: u64,
        new: u64,
    ) -> Result<bool, MemoryError> {
        memory.compare_exchange(address, current, new)
    }
}

impl TableWord for AtomicU32 {
    const SHIFT: u8 = 2;

    on_a_word!(u32);

    #[inline(always)]
    fn word_in<A: Address, M: TableMemory<A> + ?Sized>(
        memory: &M,
        address: A,
    ) -> Result<&Self, MemoryError> {
        let [first, second] = halves(memory.word(pair_of(address))?);
        Ok(if upper(address) == 0 { first } else { second })
    }

    #[inline]
    fn words_in<A: Address, M: TableMemory<A> + ?Sized>(
        memory: &M,
        address: A,
        words: usize,
    ) -> Result<&[Self], MemoryError> {
        let pairs = memory.table(pair_of(address), pairs(address, words))?;
        split(pairs, address, words).ok_or(MemoryError::outside(address, words))
    }

    #[inline]
    fn in_place<A: Address, M: ReadMemory<A> + ?Sized>(
        memory: &M,
        address: A,
        words: usize,
    ) -> Option<&[Self]> {
        split(memory.in_place(pair_of(address), pairs(address, words))?, address, words)
    }

    #[inline(always)]
    fn wrote_in<A: Address, M: TableMemory<A> + ?Sized>(memory: &M, address: A, words: usize) {
        memory.wrote(pair_of(address), pairs(address, words));
    }

    #[inline(always)]
    fn load_from<A: Address, M: ReadMemory<A> + ?Sized>(
        memory: &M,
        address: A,
    ) -> Result<u64, MemoryError> {
        memory.load_u32(address).map(u64::from)
    }

    #[inline(always)]
    fn exchange_in<A: Address, M: ReadMemory<A> + ?Sized>(
        memory: &M,
        address: A,
        current: u64,
        new: u64,
    ) -> Result<bool, MemoryError> {
        memory.compare_exchange_u32(address, current as u32, new as u32)
    }
}

/// The address of the 64-bit word of which the word at `address` is a half.
#[inline(always)]
fn pair_of<A: Address>(address: A) -> A {
    A::new(address.get() & !7)
}

/// 1 if the word at `address` is the second half of a 64-bit word, or 0.
#[inline(always)]
fn upper<A: Address>(address: A) -> usize {
    (address.get() >> 2 & 1) as usize
}

/// How many 64-bit words hold the `words` halves from `address` on.
#[inline(always)]
fn pairs<A: Address>(address: A, words: usize) -> usize {
    words.saturating_add(upper(address)).div_ceil(2)
}

/// The halves of `pair`, by address.
#[inline(always)]
fn halves(pair: &AtomicU64) -> &[AtomicU32; 2] {
    // SAFETY: the atomics have the layout of their integers, 8 bytes hold two of 4, and the
    // alignment of 8 suffices. All accesses are atomic. Every processor that Rust supports keeps
    // accesses of both widths to one word coherent; Rust's model does not describe races between
    // the two. Trees access their entries in one width, and readers that are given words by value
    // load the pair beside them.
    unsafe { &*core::ptr::from_ref(pair).cast() }
}

/// The `words` halves from `address` on, which the first of `pairs` has.
#[inline(always)]
fn split<A: Address>(pairs: &[AtomicU64], address: A, words: usize) -> Option<&[AtomicU32]> {
    let first = upper(address);
    // SAFETY: as in `halves`, for each of `pairs`.
    let all =
        unsafe { core::slice::from_raw_parts(pairs.as_ptr().cast::<AtomicU32>(), pairs.len() * 2) };
    all.get(first..first.checked_add(words)?)
}

/// Stores `bytes`, which are the bytes of `word` in memory from the one of that index on: each
/// aligned part of 8, 4, 2 or 1 bytes at once. No other byte is written.
pub(crate) fn store_bytes(word: &AtomicU64, first: usize, bytes: &[u8]) {
    if let (0, &[a, b, c, d, e, f, g, h]) = (first, bytes) {
        return word.store(u64::from_ne_bytes([a, b, c, d, e, f, g, h]), Ordering::Relaxed);
    }
    let place = core::ptr::from_ref(word).cast::<u8>();
    let (mut at, mut rest) = (first, bytes);
    while at < 8 && !rest.is_empty() {
        let fits = |count: usize| at % count == 0 && rest.len() >= count;
        let count = if fits(4) { 4 } else { 1 + usize::from(fits(2)) };
        let (part, behind) = rest.split_at(count);
        // SAFETY: `at` is a multiple of `count` below 8, so the part lies within the word, and is
        // aligned as the word is. The atomics have the layout of their integers. For accesses of
        // several widths see `halves`.
        unsafe {
            let place = place.add(at);
            match *part {
                [a, b, c, d] => (*place.cast::<AtomicU32>())
                    .store(u32::from_ne_bytes([a, b, c, d]), Ordering::Relaxed),
                [a, b] => {
                    (*place.cast::<AtomicU16>())
                        .store(u16::from_ne_bytes([a, b]), Ordering::Relaxed);
                }
                [a, ..] => (*place.cast::<AtomicU8>()).store(a, Ordering::Relaxed),
                [] => {}
            }
        }
        (at, rest) = (at + count, behind);
    }
}

/// The half of `pair`, a raw 64-bit word, at `address`.
#[inline(always)]
pub(crate) fn half<A: Address>(pair: u64, address: A) -> u32 {
    let [a, b, c, d, e, f, g, h] = pair.to_ne_bytes();
    u32::from_ne_bytes(if upper(address) == 0 { [a, b, c, d] } else { [e, f, g, h] })
}

/// `pair` with the half at `address` replaced.
#[inline]
pub(crate) fn with_half<A: Address>(pair: u64, address: A, half: u32) -> u64 {
    let ([a, b, c, d, e, f, g, h], [i, j, k, l]) = (pair.to_ne_bytes(), half.to_ne_bytes());
    u64::from_ne_bytes(if upper(address) == 0 {
        [i, j, k, l, e, f, g, h]
    } else {
        [a, b, c, d, i, j, k, l]
    })
}

#[cfg(test)]
mod tests {
    extern crate std;

    use std::vec::Vec;

    use super::*;
    use crate::address::Hpa;
    use crate::memory::DirectMap;

    /// Which bytes each access touches, and which are refused.
    #[test]
    fn halves_of_words() {
        let words = [0u64, 0].map(AtomicU64::new);
        let memory = DirectMap::new(&words, Hpa::new(0x1000));
        let bytes = || -> Vec<u8> {
            words.iter().flat_map(|word| word.load(Ordering::Relaxed).to_ne_bytes()).collect()
        };
        for (at, value) in [(0x1000, 1u32), (0x1004, 2), (0x100a, 3), (0x100f, 4)] {
            let address = Hpa::new(at);
            let word = AtomicU32::word_in(&memory, address).unwrap();
            word.store_raw(u64::from(value), Ordering::Relaxed);
            let first = (at - 0x1000) as usize & !3;
            assert_eq!(bytes()[first..first + 4], value.to_ne_bytes(), "{at:#x}");
            assert_eq!(AtomicU32::load_from(&memory, address), Ok(u64::from(value)), "{at:#x}");
        }
        let all = AtomicU32::words_in(&memory, Hpa::new(0x1004), 3).unwrap();
        let all: Vec<_> = all.iter().map(|word| word.load_raw(Ordering::Relaxed)).collect();
        assert_eq!(all, [2, 3, 4]);
        for (at, words, ok) in [
            (0x1000, 4, true),
            (0x1000, 5, false),
            (0x1004, 3, true),
            (0x1004, 4, false),
            (0x100c, 1, true),
            (0x100c, 2, false),
            (0x1010, 1, false),
            (0xffc, 1, false),
            (0x1004, usize::MAX, false),
            (u64::MAX, 1, false),
        ] {
            let address = Hpa::new(at);
            assert_eq!(AtomicU32::words_in(&memory, address, words).is_ok(), ok, "{at:#x} {words}");
            assert_eq!(AtomicU32::in_place(&memory, address, words).is_some(), ok, "{at:#x}");
        }
        for (at, current, new, done) in [(0x1004, 2, 9, true), (0x1004, 2, 8, false)] {
            let stored = AtomicU32::exchange_in(&memory, Hpa::new(at), current, new);
            assert_eq!(stored, Ok(done), "{at:#x}");
        }
        assert_eq!(AtomicU32::load_from(&memory, Hpa::new(0x1004)), Ok(9));
        assert_eq!(AtomicU32::load_from(&memory, Hpa::new(0x1000)), Ok(1), "the neighbour");
    }

    /// Memory that gives 64-bit words by value only: the other half may change meanwhile.
    #[test]
    fn by_value() {
        use core::cell::Cell;

        struct Pair(Cell<u64>, Cell<u32>);
        impl ReadMemory<Hpa> for Pair {
            fn load(&self, _: Hpa) -> Result<u64, MemoryError> {
                Ok(self.0.get())
            }

            fn compare_exchange(&self, _: Hpa, old: u64, new: u64) -> Result<bool, MemoryError> {
                if let Some(left) = self.1.get().checked_sub(1) {
                    // The neighbour changes first.
                    self.1.set(left);
                    self.0.set(with_half(self.0.get(), Hpa::new(4), left));
                }
                let same = self.0.get() == old;
                self.0.set(if same { new } else { self.0.get() });
                Ok(same)
            }

            fn is_writable(&self, _: Hpa) -> bool {
                true
            }
        }

        let pair = |changes| {
            let both = with_half(with_half(0, Hpa::new(0), 7), Hpa::new(4), 9);
            Pair(Cell::new(both), Cell::new(changes))
        };
        for (changes, current, done) in [(0, 7, true), (3, 7, true), (0, 9, false)] {
            let memory = pair(changes);
            let stored = AtomicU32::exchange_in(&memory, Hpa::new(0), current, 8);
            assert_eq!(stored, Ok(done), "{changes} {current}");
            let left = if changes > 0 { 0 } else { 9 };
            let first = if done { 8 } else { 7 };
            assert_eq!(AtomicU32::load_from(&memory, Hpa::new(0)), Ok(first));
            assert_eq!(AtomicU32::load_from(&memory, Hpa::new(4)), Ok(left));
        }
        assert_eq!(AtomicU32::exchange_in(&pair(1000), Hpa::new(0), 7, 8), Ok(false));
    }

    /// Every part of a word: its bytes are stored, and no other.
    #[test]
    fn case_a6_bytes_of_a_word() {
        for first in 0..8 {
            for count in 0..=8 - first {
                let word = AtomicU64::new(u64::MAX);
                let bytes: Vec<u8> = (1..).take(count).collect();
                store_bytes(&word, first, &bytes);
                let mut want = [0xff; 8];
                want[first..first + count].copy_from_slice(&bytes);
                let held = word.load(Ordering::Relaxed).to_ne_bytes();
                assert_eq!(held, want, "{count} from {first} on");
            }
        }
        // What would not fit is left out.
        let word = AtomicU64::new(0);
        store_bytes(&word, 6, &[1; 8]);
        assert_eq!(word.load(Ordering::Relaxed).to_ne_bytes(), [0, 0, 0, 0, 0, 0, 1, 1]);
    }

    #[test]
    fn orders() {
        for (order, short, long) in [
            (ByteOrder::Little, 0x1122_3344u32.to_le(), 0x1122_3344u64.to_le()),
            (ByteOrder::Big, 0x1122_3344u32.to_be(), 0x1122_3344u64.to_be()),
        ] {
            assert_eq!(<AtomicU32 as TableWord>::swap(order, 0x1122_3344), u64::from(short));
            assert_eq!(<AtomicU64 as TableWord>::swap(order, 0x1122_3344), long);
        }
    }
}
