//! One contiguous block of memory, with bounds checks and without.

use core::marker::PhantomData;
use core::sync::atomic::AtomicU64;

use crate::address::Address;
use crate::memory::{MemoryError, ReadMemory, TableMemory};

/// One contiguous block of memory: an offset and a bounds check.
#[derive(Clone, Copy, Debug)]
pub struct DirectMap<'m, A> {
    words: &'m [AtomicU64],
    /// The size of `words` in bytes.
    bytes: u64,
    /// A multiple of 8.
    start: u64,
    space: PhantomData<A>,
}

impl<'m, A: Address> DirectMap<'m, A> {
    /// Memory whose first word stands at address `start`, rounded down to a multiple of 8.
    #[must_use]
    pub fn new(words: &'m [AtomicU64], start: A) -> Self {
        Self { words, bytes: words.len() as u64 * 8, start: start.get() & !7, space: PhantomData }
    }

    /// Memory of `bytes` bytes at `host`, whose first byte has address `start`. All three are
    /// multiples of 8 (odd bytes are left out).
    ///
    /// # Safety
    /// For `'m`, the block is mapped in this process for reads and writes, aligned to 8, and every
    /// access to it in this process is atomic (or made by hardware or a guest, as any access that
    /// this process cannot see). A block that is mapped read-only, not accessible (`PROT_NONE`), or
    /// backed by a file that may be truncated does not qualify.
    #[must_use]
    pub unsafe fn from_raw(host: *mut u8, bytes: usize, start: A) -> Self {
        // SAFETY: the caller vouches for validity, alignment and atomicity; AtomicU64 has the
        // layout of u64.
        let words = unsafe { core::slice::from_raw_parts(host.cast::<AtomicU64>(), bytes / 8) };
        Self::new(words, start)
    }

    /// The same block without bounds checks.
    ///
    /// # Safety
    /// For as long as the result or a copy of it lives, it is asked only for addresses and tables
    /// that lie in the block, and that are multiples of 8. That holds if only trees of this process
    /// stand in it, if all their tables come from an allocator that hands out parts of the block,
    /// and if nothing but this crate and frees of that allocator writes to its words: no guest, no
    /// device, no restored image.
    #[must_use]
    pub unsafe fn trusted(self) -> TrustedMap<'m, A> {
        TrustedMap(self)
    }

    /// Where address 0 would stand in this process, if the block began there: an address of the
    /// block is so many bytes further on. Not to be read.
    #[inline(always)]
    fn zero(&self) -> *const AtomicU64 {
        self.words.as_ptr().wrapping_byte_sub(self.start as usize)
    }

    /// The address of the first byte.
    #[must_use]
    pub fn start(&self) -> A {
        A::new(self.start)
    }

    /// The size in bytes.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// How many bytes from the block's first the word at `address` stands; beyond the block if it
    /// is none of it.
    #[inline(always)]
    fn offset(&self, address: A) -> u64 {
        // SAFETY: nothing but `new` sets it. (The compiler need not clear the low bits of what has
        // none, as the addresses of this crate.)
        unsafe { core::hint::assert_unchecked(self.start & 7 == 0) };
        // An address below the block wraps round to a large number.
        address.get().wrapping_sub(self.start) & !7
    }

    /// Which word of the block `address` is; beyond it if it is none.
    #[inline(always)]
    fn index(&self, address: A) -> usize {
        usize::try_from(self.offset(address) >> 3).unwrap_or(usize::MAX)
    }
}

impl<A: Address> TableMemory<A> for DirectMap<'_, A> {
    #[inline(always)]
    fn word(&self, address: A) -> Result<&AtomicU64, MemoryError> {
        let offset = self.offset(address);
        if offset < self.bytes {
            // SAFETY: `offset` is a multiple of 8 below the size of the block, which fits `usize`.
            Ok(unsafe { &*self.words.as_ptr().byte_add(offset as usize) })
        } else {
            Err(MemoryError::outside(address, 1))
        }
    }

    #[inline(always)]
    fn table(&self, address: A, words: usize) -> Result<&[AtomicU64], MemoryError> {
        let index = self.index(address);
        match self.words.get(index..index.wrapping_add(words)) {
            Some(table) => Ok(table),
            None => Err(MemoryError::outside(address, words)),
        }
    }

    /// No log is kept.
    #[inline(always)]
    fn wrote(&self, _: A, _: usize) {}
}

impl<A: Address> ReadMemory<A> for DirectMap<'_, A> {
    crate::words_in_place!(A);
}

/// A [`DirectMap`] that trusts its addresses: no bounds checks. See [`DirectMap::trusted`].
#[derive(Clone, Copy, Debug)]
pub struct TrustedMap<'m, A>(DirectMap<'m, A>);

impl<'m, A: Address> TrustedMap<'m, A> {
    /// The block, with bounds checks.
    #[must_use]
    pub fn checked(self) -> DirectMap<'m, A> {
        self.0
    }
}

impl<A: Address> TableMemory<A> for TrustedMap<'_, A> {
    #[inline(always)]
    fn word(&self, address: A) -> Result<&AtomicU64, MemoryError> {
        debug_assert!(
            self.0.index(address) < self.0.words.len() && address.get() & 7 == 0,
            "{address} is not in trusted memory"
        );
        // SAFETY: the caller of `trusted` vouches for it.
        Ok(unsafe { &*self.0.zero().wrapping_byte_add(address.get() as usize) })
    }

    #[inline(always)]
    fn table(&self, address: A, words: usize) -> Result<&[AtomicU64], MemoryError> {
        let index = self.0.index(address);
        debug_assert!(
            self.0.words.get(index..index.wrapping_add(words)).is_some(),
            "{words} words at {address} are not in trusted memory"
        );
        // SAFETY: the caller of `trusted` vouches for it.
        Ok(unsafe { self.0.words.get_unchecked(index..index.wrapping_add(words)) })
    }

    /// No log is kept.
    #[inline(always)]
    fn wrote(&self, _: A, _: usize) {}
}

impl<A: Address> ReadMemory<A> for TrustedMap<'_, A> {
    crate::words_in_place!(A);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::address::Hpa;
    use core::sync::atomic::Ordering;

    #[test]
    fn bounds_and_low_bits() {
        let words = [const { AtomicU64::new(7) }; 4];
        let memory = DirectMap::new(&words, Hpa::new(0x1000));
        for (address, ok) in [
            (0x1000, true),
            (0x1018, true),
            (0x1020, false),
            (0xff8, false),
            (0x1001, true),
            (0x101f, true),
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
            (0x1004, 4, true),
            (0x1ff8, 0, false),
        ] {
            assert_eq!(memory.table(Hpa::new(address), count).is_ok(), ok, "{address:#x} {count}");
        }
        memory.word(Hpa::new(0x100f)).unwrap().store(9, Ordering::Relaxed);
        assert_eq!(words[1].load(Ordering::Relaxed), 9);
    }
}
