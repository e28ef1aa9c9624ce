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

use core::sync::atomic::AtomicU64;

pub use crate::appear::{Announced, Appeared};
pub use crate::direct_map::{DirectMap, TrustedMap};
#[cfg(feature = "vm-memory")]
pub use crate::guest_memory::{GiveMemory, HeldMemory, HostMapped};
#[cfg(feature = "alloc")]
pub use crate::guest_memory::{GuestTables, HostAccess, HostRegion, RegionError};
pub use crate::read_only::LoadWith;
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
    Refusal::Outside => "are not within one piece of table memory",
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

/// The methods of [`ReadMemory`] for a type that passes all on to another memory: written in its
/// `impl` block, with the address type and where the other memory is.
///
/// ```
/// use pgtable::Address;
/// use pgtable::memory::{ReadMemory, TableMemory};
///
/// /// A memory with a name.
/// struct Named<M>(M, &'static str);
///
/// impl<A: Address, M: ReadMemory<A>> ReadMemory<A> for Named<M> {
///     pgtable::read_within!(A, |named| named.0);
/// }
///
/// impl<A: Address, M: TableMemory<A>> TableMemory<A> for Named<M> {
///     pgtable::tables_within!(A, |named| named.0);
/// }
/// ```
#[macro_export]
macro_rules! read_within {
    ($address:ty, |$this:ident| $inner:expr) => {
        #[inline(always)]
        fn load(
            &self,
            address: $address,
        ) -> ::core::result::Result<u64, $crate::memory::MemoryError> {
            let $this = self;
            $crate::memory::ReadMemory::<$address>::load(&$inner, address)
        }

        #[inline(always)]
        fn compare_exchange(
            &self,
            address: $address,
            current: u64,
            new: u64,
        ) -> ::core::result::Result<bool, $crate::memory::MemoryError> {
            let $this = self;
            $crate::memory::ReadMemory::<$address>::compare_exchange(&$inner, address, current, new)
        }

        #[inline(always)]
        fn load_u32(
            &self,
            address: $address,
        ) -> ::core::result::Result<u32, $crate::memory::MemoryError> {
            let $this = self;
            $crate::memory::ReadMemory::<$address>::load_u32(&$inner, address)
        }

        #[inline(always)]
        fn compare_exchange_u32(
            &self,
            address: $address,
            current: u32,
            new: u32,
        ) -> ::core::result::Result<bool, $crate::memory::MemoryError> {
            let $this = self;
            $crate::memory::ReadMemory::<$address>::compare_exchange_u32(
                &$inner, address, current, new,
            )
        }

        #[inline(always)]
        fn is_writable(&self, address: $address) -> bool {
            let $this = self;
            $crate::memory::ReadMemory::<$address>::is_writable(&$inner, address)
        }

        #[inline(always)]
        fn in_place(
            &self,
            address: $address,
            words: usize,
        ) -> ::core::option::Option<&[::core::sync::atomic::AtomicU64]> {
            let $this = self;
            $crate::memory::ReadMemory::<$address>::in_place(&$inner, address, words)
        }
    };
}

/// The methods of [`TableMemory`] for a type that passes all on to another memory: see
/// [`read_within!`](crate::read_within).
#[macro_export]
macro_rules! tables_within {
    ($address:ty, |$this:ident| $inner:expr) => {
        #[inline(always)]
        fn word(
            &self,
            address: $address,
        ) -> ::core::result::Result<&::core::sync::atomic::AtomicU64, $crate::memory::MemoryError> {
            let $this = self;
            $crate::memory::TableMemory::<$address>::word(&$inner, address)
        }

        #[inline(always)]
        fn table(
            &self,
            address: $address,
            words: usize,
        ) -> ::core::result::Result<&[::core::sync::atomic::AtomicU64], $crate::memory::MemoryError>
        {
            let $this = self;
            $crate::memory::TableMemory::<$address>::table(&$inner, address, words)
        }

        #[inline(always)]
        fn wrote(&self, address: $address, words: usize) {
            let $this = self;
            $crate::memory::TableMemory::<$address>::wrote(&$inner, address, words);
        }

        #[inline(always)]
        fn appeared(&self, appeared: $crate::memory::Appeared) {
            let $this = self;
            $crate::memory::TableMemory::<$address>::appeared(&$inner, appeared);
        }
    };
}

/// Both traits for a pointer to a memory.
macro_rules! through {
    ($($pointer:ty),*) => {$(
        impl<A: Address, M: ReadMemory<A> + ?Sized> ReadMemory<A> for $pointer {
            read_within!(A, |pointer| **pointer);
        }

        impl<A: Address, M: TableMemory<A> + ?Sized> TableMemory<A> for $pointer {
            tables_within!(A, |pointer| **pointer);
        }
    )*};
}

through!(&M);

#[cfg(feature = "alloc")]
through!(alloc::boxed::Box<M>, alloc::rc::Rc<M>, alloc::sync::Arc<M>);
