//! The memory that tables stand in, as a trait, and the fast implementation: a direct map.
//!
//! Access is fallible, because a guest's table pointer can point anywhere, and always atomic,
//! because hardware (or a guest) writes the same words. There is no `&mut [u64]` anywhere.

use core::marker::PhantomData;
use core::sync::atomic::AtomicU64;

use crate::address::Address;

/// Table memory could not be reached.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, thiserror::Error)]
#[error("{bytes} bytes at {address:#x} are not within table memory, or not aligned")]
pub struct MemoryError {
    /// The address that was wanted.
    pub address: u64,
    /// How many bytes from there.
    pub bytes: u64,
}

/// Memory that tables stand in.
///
/// Two forms of access: one word, for walks that touch one word per table; a whole table, for
/// ranges.
pub trait TableMemory<A: Address> {
    /// The word at `address`, which must be a multiple of 8.
    ///
    /// # Errors
    /// [`MemoryError`] if it is not, or lies outside.
    fn word(&self, address: A) -> Result<&AtomicU64, MemoryError>;

    /// The `words` words from `address` on, which must be a multiple of 8.
    ///
    /// # Errors
    /// [`MemoryError`] if it is not, or any of them lies outside or not contiguously in the host's
    /// memory.
    fn table(&self, address: A, words: usize) -> Result<&[AtomicU64], MemoryError>;

    /// The `words` words from `address` on may have been written by this process: whoever keeps a
    /// log of written memory notes it (`TrackedTables` does, for `vm-memory`). Called after the
    /// stores, by every verb that changes a table, and by
    /// [`Walker::access`](crate::Walker::access). What hardware or a guest writes is not seen, nor
    /// is what an allocator writes unless it calls this too.
    #[inline(always)]
    fn wrote(&self, address: A, words: usize) {
        let _ = (address, words);
    }
}

impl<A: Address, M: TableMemory<A> + ?Sized> TableMemory<A> for &M {
    #[inline(always)]
    fn word(&self, address: A) -> Result<&AtomicU64, MemoryError> {
        (**self).word(address)
    }

    #[inline(always)]
    fn table(&self, address: A, words: usize) -> Result<&[AtomicU64], MemoryError> {
        (**self).table(address, words)
    }

    #[inline(always)]
    fn wrote(&self, address: A, words: usize) {
        (**self).wrote(address, words);
    }
}

/// One contiguous block of memory: an offset and a bounds check.
#[derive(Clone, Copy, Debug)]
pub struct DirectMap<'m, A> {
    words: &'m [AtomicU64],
    start: u64,
    space: PhantomData<A>,
}

impl<'m, A: Address> DirectMap<'m, A> {
    /// Memory whose first word stands at address `start`, rounded down to a multiple of 8.
    #[must_use]
    pub fn new(words: &'m [AtomicU64], start: A) -> Self {
        Self { words, start: start.get() & !7, space: PhantomData }
    }

    /// Memory of `bytes` bytes at `host`, whose first byte has address `start`. All three are
    /// multiples of 8 (odd bytes are left out).
    ///
    /// # Safety
    /// For `'m`, the block is valid for reads and writes, aligned to 8, and every access to it in
    /// this process is atomic (or made by hardware or a guest, as any access that this process
    /// cannot see).
    #[must_use]
    pub unsafe fn from_raw(host: *mut u8, bytes: usize, start: A) -> Self {
        // SAFETY: the caller vouches for validity, alignment and atomicity; AtomicU64 has the
        // layout of u64.
        let words = unsafe { core::slice::from_raw_parts(host.cast::<AtomicU64>(), bytes / 8) };
        Self::new(words, start)
    }

    /// The address of the first byte.
    #[must_use]
    pub fn start(&self) -> A {
        A::new(self.start)
    }

    /// The size in bytes.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.words.len() as u64 * 8
    }

    #[cold]
    fn outside(address: A, words: usize) -> MemoryError {
        MemoryError { address: address.get(), bytes: (words as u64).saturating_mul(8) }
    }
}

impl<A: Address> TableMemory<A> for DirectMap<'_, A> {
    #[inline(always)]
    fn word(&self, address: A) -> Result<&AtomicU64, MemoryError> {
        // Rotating brings the three alignment bits to the top, so that one compare checks both
        // alignment and bounds.
        let index = address.get().wrapping_sub(self.start).rotate_right(3);
        match self.words.get(index as usize) {
            Some(word) => Ok(word),
            None => Err(Self::outside(address, 1)),
        }
    }

    #[inline(always)]
    fn table(&self, address: A, words: usize) -> Result<&[AtomicU64], MemoryError> {
        let index = address.get().wrapping_sub(self.start).rotate_right(3) as usize;
        match self.words.get(index..index.wrapping_add(words)) {
            Some(table) => Ok(table),
            None => Err(Self::outside(address, words)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::address::Hpa;
    use core::sync::atomic::Ordering;

    #[test]
    fn bounds_and_alignment() {
        let words = [const { AtomicU64::new(7) }; 4];
        let memory = DirectMap::new(&words, Hpa::new(0x1000));
        for (address, ok) in [
            (0x1000, true),
            (0x1018, true),
            (0x1020, false),
            (0xff8, false),
            (0x1001, false),
            (0x1004, false),
            (u64::MAX, false),
        ] {
            assert_eq!(memory.word(Hpa::new(address)).is_ok(), ok, "{address:#x}");
        }
        for (address, count, ok) in [
            (0x1000, 4, true),
            (0x1000, 5, false),
            (0x1018, 1, true),
            (0x1018, usize::MAX, false),
            (0x1020, 0, true),
            (0x1028, 0, false),
            (0x1004, 1, false),
        ] {
            assert_eq!(memory.table(Hpa::new(address), count).is_ok(), ok, "{address:#x} {count}");
        }
        memory.word(Hpa::new(0x1008)).unwrap().store(9, Ordering::Relaxed);
        assert_eq!(words[1].load(Ordering::Relaxed), 9);
    }
}
