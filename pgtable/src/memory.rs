//! The memory that tables stand in, as two traits, and the fast implementations of both.
//!
//! # Protocol
//! - [`ReadMemory`] gives words **by value**. A walker needs no more, so an emulator's callback, a
//!   core file, `&[u8]`, and memory with holes, with read-only or with unplugged parts can be
//!   walked.
//! - [`TableMemory`] gives words **in place** (`&AtomicU64`), which safe code may load and store.
//!   Trees that are changed need it. What may not be written is not given in place: a
//!   [`MemoryError`] says [`ReadOnly`](Refusal::ReadOnly).
//!
//! Access is fallible, because a guest's table pointer can point anywhere, and always atomic,
//! because hardware (or a guest) writes the same words. There is no `&mut [u64]` anywhere.
//!
//! Words are aligned to 8 bytes. The low three bits of an address are ignored, not tested: the
//! addresses of this crate have none. Entries of 4 bytes are halves of such words
//! ([`TableWord`](crate::format::TableWord)).
//!
//! Both traits pass through `&M`, and with feature `alloc` through `Box`, `Rc` and `Arc`.

use core::marker::PhantomData;
use core::sync::atomic::AtomicU64;

pub use crate::appear::{Announced, Appeared};
#[cfg(feature = "vm-memory")]
pub use crate::guest_memory::{GiveMemory, HeldMemory, HostMapped};
#[cfg(feature = "alloc")]
pub use crate::guest_memory::{GuestTables, HostAccess, HostRegion, RegionError};
#[cfg(feature = "vm-memory")]
pub use crate::tracked::TrackedTables;

use crate::address::Address;
use crate::table_word::{half, with_half};

/// How often a half of a word is exchanged anew because the other half changed.
const TRIES: usize = 16;

/// Why table memory refuses an access.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[non_exhaustive]
pub enum Refusal {
    /// It has no such words: the address lies outside, in a hole, in a part that is unplugged, or
    /// the words are not contiguous in this process.
    Outside,
    /// It has these words, and they may only be read.
    ReadOnly,
}

/// Table memory could not be reached.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, thiserror::Error)]
#[error("{bytes} bytes at {address:#x} {}", match refusal {
    Refusal::Outside => "are not within table memory",
    Refusal::ReadOnly => "of table memory may only be read",
})]
pub struct MemoryError {
    /// The address that was wanted.
    pub address: u64,
    /// How many bytes from there.
    pub bytes: u64,
    /// Why not.
    pub refusal: Refusal,
}

impl MemoryError {
    /// The error for `words` words at `address` that the memory does not have.
    #[cold]
    #[must_use]
    pub fn outside<A: Address>(address: A, words: usize) -> Self {
        Self {
            address: address.get(),
            bytes: (words as u64).saturating_mul(8),
            refusal: Refusal::Outside,
        }
    }

    /// The error for `words` words at `address` that were to be written and may only be read.
    #[cold]
    #[must_use]
    pub fn read_only<A: Address>(address: A, words: usize) -> Self {
        Self { refusal: Refusal::ReadOnly, ..Self::outside(address, words) }
    }
}

/// Memory that tables are read from, word by word and by value.
///
/// A [`Walker`](crate::walk::Walker) needs no more. The low three bits of an address do not count.
///
/// An implementation may answer anything, and may answer differently each time: nothing that reads
/// through it panics, leaves its bounds or runs forever.
#[diagnostic::on_unimplemented(
    message = "`{Self}` is no memory that tables at addresses of type `{A}` are read from",
    note = "guest memory of `vm-memory`: `pgtable::memory::GuestTables::new(&memory)` (feature `vm-memory`)",
    note = "one block of memory: `pgtable::memory::DirectMap`; others: implement `pgtable::memory::ReadMemory`"
)]
pub trait ReadMemory<A: Address> {
    /// The word at `address`, as a native `u64` with the bytes in memory order. One atomic load;
    /// its ordering may be `Relaxed` (a walker's next address depends on the value).
    ///
    /// # Errors
    /// [`MemoryError`] if the memory has no such word.
    fn load(&self, address: A) -> Result<u64, MemoryError>;

    /// Stores `new` at `address` if the word there is `current`, as one atomic step; false if it is
    /// another. Both have the bytes in memory order. Called to record accessed and dirty bits.
    ///
    /// Memory that keeps a log of what was written notes a successful exchange in it.
    ///
    /// # Errors
    /// [`MemoryError`]: outside, or [`Refusal::ReadOnly`] where the word may only be read.
    fn compare_exchange(&self, address: A, current: u64, new: u64) -> Result<bool, MemoryError>;

    /// As [`load`](Self::load), the 32-bit word at `address`, for formats with such entries; the
    /// low two bits do not count. By default it is the half of a 64-bit word.
    ///
    /// # Errors
    /// [`MemoryError`] if the memory has no such word.
    #[inline]
    fn load_u32(&self, address: A) -> Result<u32, MemoryError> {
        self.load(address).map(|pair| half(pair, address))
    }

    /// As [`compare_exchange`](Self::compare_exchange), the 32-bit word at `address`. By default a
    /// 64-bit word is exchanged as a whole, if its other half stays; false if that keeps changing.
    ///
    /// # Errors
    /// As [`compare_exchange`](Self::compare_exchange).
    fn compare_exchange_u32(
        &self,
        address: A,
        current: u32,
        new: u32,
    ) -> Result<bool, MemoryError> {
        for _ in 0..TRIES {
            let pair = self.load(address)?;
            if half(pair, address) != current {
                return Ok(false);
            }
            if self.compare_exchange(address, pair, with_half(pair, address, new))? {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Whether the word at `address` exists and may be written.
    fn is_writable(&self, address: A) -> bool;

    /// The `words` words from `address` on in place, if the memory can give them so: a hint, which
    /// makes reading of many words faster. `None` says nothing about whether they exist.
    ///
    /// Words that may only be read are never given in place, since safe code may store to them.
    #[inline(always)]
    fn in_place(&self, address: A, words: usize) -> Option<&[AtomicU64]> {
        let _ = (address, words);
        None
    }
}

/// Memory that tables stand in, with words in place: for trees that are changed, and for speed.
///
/// Two forms of access: one word, for walks that touch one word per table; a whole table, for
/// ranges. The low three bits of an address do not count.
///
/// [`words_in_place!`](crate::words_in_place) writes the [`ReadMemory`] of such a memory.
#[diagnostic::on_unimplemented(
    message = "`{Self}` is no memory that holds tables at addresses of type `{A}`",
    note = "guest memory of `vm-memory`: `pgtable::memory::GuestTables::new(&memory)` (feature `vm-memory`)",
    note = "one block of memory: `pgtable::memory::DirectMap`; others: implement `pgtable::memory::TableMemory`"
)]
pub trait TableMemory<A: Address>: ReadMemory<A> {
    /// The word at `address`. It may be read and written.
    ///
    /// # Errors
    /// [`MemoryError`] if it lies outside, or may only be read.
    fn word(&self, address: A) -> Result<&AtomicU64, MemoryError>;

    /// The `words` words from `address` on. They may be read and written.
    ///
    /// # Errors
    /// [`MemoryError`] if any of them lies outside, may only be read, or does not follow the one
    /// before it in this process.
    fn table(&self, address: A, words: usize) -> Result<&[AtomicU64], MemoryError>;

    /// Notes that the `words` words from `address` on may have been written by this process.
    ///
    /// Called after the stores, by every verb that changes a table, and by
    /// [`ReadMemory::compare_exchange`] of [`words_in_place!`](crate::words_in_place). Memory that
    /// keeps a log of what was written (`TrackedTables`) marks the words in it; memory without a
    /// log does nothing; memory around another passes it on. There is no default, so that no memory
    /// forgets it. What hardware or a guest writes is not seen here, nor is what an allocator
    /// writes unless it calls this too.
    fn wrote(&self, address: A, words: usize);

    /// Entries were made present: the place for the barrier that an architecture asks for before
    /// hardware may rely on them. See [`Announced`], which is such a memory.
    ///
    /// Called after the stores, and before the verb returns. By default there is nothing to do;
    /// memory around another passes it on.
    #[inline(always)]
    fn appeared(&self, appeared: Appeared) {
        let _ = appeared;
    }
}

/// The methods of [`ReadMemory`] for a type that has words in place: written in its `impl` block,
/// with the address type.
///
/// ```
/// use core::sync::atomic::AtomicU64;
/// use pgtable::memory::{MemoryError, ReadMemory, TableMemory};
/// use pgtable::{Address, Gpa};
///
/// /// One page at guest address 0.
/// struct Page([AtomicU64; 512]);
///
/// impl TableMemory<Gpa> for Page {
///     fn word(&self, address: Gpa) -> Result<&AtomicU64, MemoryError> {
///         self.table(address, 1)?.first().ok_or(MemoryError::outside(address, 1))
///     }
///
///     fn table(&self, address: Gpa, words: usize) -> Result<&[AtomicU64], MemoryError> {
///         let first = usize::try_from(address.get() / 8).unwrap_or(usize::MAX);
///         let table = self.0.get(first..first.saturating_add(words));
///         table.ok_or(MemoryError::outside(address, words))
///     }
///
///     fn wrote(&self, _: Gpa, _: usize) {} // no log is kept
/// }
///
/// impl ReadMemory<Gpa> for Page {
///     pgtable::words_in_place!(Gpa);
/// }
/// ```
#[macro_export]
macro_rules! words_in_place {
    ($address:ty) => {
        #[inline(always)]
        fn load(
            &self,
            address: $address,
        ) -> ::core::result::Result<u64, $crate::memory::MemoryError> {
            match $crate::memory::TableMemory::<$address>::word(self, address) {
                Ok(word) => Ok(word.load(::core::sync::atomic::Ordering::Relaxed)),
                Err(error) => Err(error),
            }
        }

        #[inline]
        fn compare_exchange(
            &self,
            address: $address,
            current: u64,
            new: u64,
        ) -> ::core::result::Result<bool, $crate::memory::MemoryError> {
            use ::core::sync::atomic::Ordering::{AcqRel, Relaxed};
            let word = $crate::memory::TableMemory::<$address>::word(self, address)?;
            let stored = word.compare_exchange(current, new, AcqRel, Relaxed).is_ok();
            if stored {
                $crate::memory::TableMemory::<$address>::wrote(self, address, 1);
            }
            Ok(stored)
        }

        #[inline]
        fn load_u32(
            &self,
            address: $address,
        ) -> ::core::result::Result<u32, $crate::memory::MemoryError> {
            use ::core::sync::atomic::{AtomicU32, Ordering::Relaxed};
            let word = <AtomicU32 as $crate::format::TableWord>::word_in(self, address)?;
            Ok(word.load(Relaxed))
        }

        #[inline]
        fn compare_exchange_u32(
            &self,
            address: $address,
            current: u32,
            new: u32,
        ) -> ::core::result::Result<bool, $crate::memory::MemoryError> {
            use ::core::sync::atomic::{AtomicU32, Ordering::AcqRel, Ordering::Relaxed};
            let word = <AtomicU32 as $crate::format::TableWord>::word_in(self, address)?;
            let stored = word.compare_exchange(current, new, AcqRel, Relaxed).is_ok();
            if stored {
                <AtomicU32 as $crate::format::TableWord>::wrote_in(self, address, 1);
            }
            Ok(stored)
        }

        #[inline]
        fn is_writable(&self, address: $address) -> bool {
            $crate::memory::TableMemory::<$address>::word(self, address).is_ok()
        }

        #[inline(always)]
        fn in_place(
            &self,
            address: $address,
            words: usize,
        ) -> ::core::option::Option<&[::core::sync::atomic::AtomicU64]> {
            $crate::memory::TableMemory::<$address>::table(self, address, words).ok()
        }
    };
}

/// Both traits for a pointer to a memory.
macro_rules! through {
    ($($pointer:ty),*) => {$(
        impl<A: Address, M: ReadMemory<A> + ?Sized> ReadMemory<A> for $pointer {
            #[inline(always)]
            fn load(&self, address: A) -> Result<u64, MemoryError> {
                (**self).load(address)
            }

            #[inline(always)]
            fn compare_exchange(
                &self,
                address: A,
                current: u64,
                new: u64,
            ) -> Result<bool, MemoryError> {
                (**self).compare_exchange(address, current, new)
            }

            #[inline(always)]
            fn load_u32(&self, address: A) -> Result<u32, MemoryError> {
                (**self).load_u32(address)
            }

            #[inline(always)]
            fn compare_exchange_u32(
                &self,
                address: A,
                current: u32,
                new: u32,
            ) -> Result<bool, MemoryError> {
                (**self).compare_exchange_u32(address, current, new)
            }

            #[inline(always)]
            fn is_writable(&self, address: A) -> bool {
                (**self).is_writable(address)
            }

            #[inline(always)]
            fn in_place(&self, address: A, words: usize) -> Option<&[AtomicU64]> {
                (**self).in_place(address, words)
            }
        }

        impl<A: Address, M: TableMemory<A> + ?Sized> TableMemory<A> for $pointer {
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

            #[inline(always)]
            fn appeared(&self, appeared: Appeared) {
                (**self).appeared(appeared);
            }
        }
    )*};
}

through!(&M);
#[cfg(feature = "alloc")]
through!(alloc::boxed::Box<M>, alloc::rc::Rc<M>, alloc::sync::Arc<M>);

/// Bytes whose first has address 0, to be read only: an image of memory, a dump.
impl<A: Address> ReadMemory<A> for [u8] {
    #[inline]
    fn load(&self, address: A) -> Result<u64, MemoryError> {
        let from = usize::try_from(address.get() & !7).ok();
        let word = from.and_then(|from| self.get(from..)?.first_chunk());
        word.map(|word| u64::from_ne_bytes(*word)).ok_or(MemoryError::outside(address, 1))
    }

    fn compare_exchange(&self, address: A, _: u64, _: u64) -> Result<bool, MemoryError> {
        self.load(address)?;
        Err(MemoryError::read_only(address, 1))
    }

    fn is_writable(&self, _: A) -> bool {
        false
    }
}

/// Memory that a function reads, by value and read only: an emulator's callback, a remote process.
///
/// ```
/// use pgtable::memory::{LoadWith, MemoryError, ReadMemory};
/// use pgtable::{Address, Gpa};
///
/// let peek = |address: Gpa| (address.get() < 0x1000).then(|| address.get() * 2);
/// let memory = LoadWith(|at| peek(at).ok_or(MemoryError::outside(at, 1)));
/// assert_eq!(memory.load(Gpa::new(0x80)), Ok(0x100));
/// assert!(memory.load(Gpa::new(0x1000)).is_err());
/// ```
#[derive(Clone, Copy, Debug)]
pub struct LoadWith<L>(
    /// Gives the word at an address that is a multiple of 8, with its bytes in memory order.
    pub L,
);

impl<A: Address, L: Fn(A) -> Result<u64, MemoryError>> ReadMemory<A> for LoadWith<L> {
    #[inline]
    fn load(&self, address: A) -> Result<u64, MemoryError> {
        (self.0)(A::new(address.get() & !7))
    }

    fn compare_exchange(&self, address: A, _: u64, _: u64) -> Result<bool, MemoryError> {
        self.load(address)?;
        Err(MemoryError::read_only(address, 1))
    }

    fn is_writable(&self, _: A) -> bool {
        false
    }
}

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
    words_in_place!(A);
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
    words_in_place!(A);
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
