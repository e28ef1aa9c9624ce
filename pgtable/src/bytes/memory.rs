//! The memory behind a translation, byte by byte.

use core::sync::atomic::AtomicU64;

use crate::address::Address;
use crate::memory::{MemoryError, TableMemory};
use crate::table_word::store_bytes;

/// An access to bytes that stopped part of the way.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("after {done} bytes: {error}")]
pub struct Short<E> {
    /// How many bytes were done.
    pub done: usize,
    /// Why not the next.
    #[source]
    pub error: E,
}

/// Memory whose bytes can be read and written at addresses of space `A`.
///
/// With feature `vm-memory` every `vm_memory::GuestMemory` is one. [`WordBytes`] makes one of any
/// [`TableMemory`].
#[diagnostic::on_unimplemented(
    message = "`{Self}` does not give bytes at addresses of type `{A}`",
    note = "with pgtable's feature `vm-memory`, every `vm_memory::GuestMemory` does: give the memory, not `GuestTables` over it",
    note = "`pgtable::bytes::WordBytes` wraps any `TableMemory`"
)]
pub trait ByteMemory<A: Address> {
    /// Why bytes could not be reached.
    type Error: core::error::Error + 'static;

    /// Reads the bytes from `address` on.
    ///
    /// # Errors
    /// [`Short`]: how many of the first bytes were read, and why not the next.
    fn read(&self, address: A, bytes: &mut [u8]) -> Result<(), Short<Self::Error>>;

    /// Writes the bytes from `address` on.
    ///
    /// # Errors
    /// [`Short`]: how many of the first bytes were written, and why not the next.
    fn write(&self, address: A, bytes: &[u8]) -> Result<(), Short<Self::Error>>;
}

/// The bytes of a [`TableMemory`], reached by its words.
///
/// Whole words are loaded and stored. Of other words, each aligned part of 4, 2 or 1 bytes is
/// stored at once, so that neighbours which hardware or a guest writes meanwhile are kept, and a
/// guest that writes them all the time does not hold up the write. For embedders without
/// `vm-memory`: a bare-metal hypervisor's direct map.
#[derive(Clone, Copy, Debug)]
pub struct WordBytes<M>(pub M);

/// The part of a range of bytes that lies in one word.
struct Part {
    /// The address of the word.
    word: u64,
    /// The first of its bytes.
    first: usize,
    /// How many.
    count: usize,
}

/// The part of the next word, at `done` of the `left + done` bytes from `address` on; `None` past
/// the end of the space.
fn part(address: u64, done: usize, left: usize) -> Option<Part> {
    let at = address.checked_add(done as u64)?;
    let first = (at % 8) as usize;
    Some(Part { word: at - first as u64, first, count: left.min(8 - first) })
}

impl<M> WordBytes<M> {
    /// Calls `each` for the word of every part of the `bytes` bytes from `address` on, with the
    /// range of those bytes that it holds, and the first of its own bytes.
    fn words<'m, A: Address, W>(
        &'m self,
        address: A,
        bytes: usize,
        get: impl Fn(&'m M, A) -> Result<W, MemoryError>,
        mut each: impl FnMut(A, W, core::ops::Range<usize>, usize),
    ) -> Result<(), Short<MemoryError>> {
        let mut done = 0;
        while done < bytes {
            let past = MemoryError::outside(A::new(u64::MAX), 1);
            let part =
                part(address.get(), done, bytes - done).ok_or(Short { done, error: past })?;
            let at = A::new(part.word);
            let word = get(&self.0, at).map_err(|error| Short { done, error })?;
            each(at, word, done..done + part.count, part.first);
            done += part.count;
        }
        Ok(())
    }
}

impl<A: Address, M: TableMemory<A>> ByteMemory<A> for WordBytes<M> {
    type Error = MemoryError;

    fn read(&self, address: A, bytes: &mut [u8]) -> Result<(), Short<MemoryError>> {
        self.words(address, bytes.len(), M::load, |_, word, range, first| {
            let word = word.to_ne_bytes();
            let count = range.len();
            bytes[range].copy_from_slice(&word[first..first + count]);
        })
    }

    fn write(&self, address: A, bytes: &[u8]) -> Result<(), Short<MemoryError>> {
        self.words(address, bytes.len(), M::word, |at, word: &AtomicU64, range, first| {
            store_bytes(word, first, &bytes[range]);
            self.0.wrote(at, 1);
        })
    }
}

#[cfg(feature = "vm-memory")]
mod vm {
    extern crate std;

    use vm_memory::{Bytes, GuestAddress, GuestMemory, GuestMemoryError};

    use super::{ByteMemory, Short};
    use crate::address::Address;

    /// Through `vm-memory`'s own accessors: written pages are marked in its dirty bitmaps, and an
    /// `IommuMemory` translates. They do not look at protection: for memory of which a part is
    /// mapped read-only or not at all in this process, use [`WordBytes`](crate::bytes::WordBytes)
    /// over [`GuestTables`](crate::memory::GuestTables), which refuses.
    impl<A: Address, M: GuestMemory + ?Sized> ByteMemory<A> for M {
        type Error = GuestMemoryError;

        fn read(&self, address: A, bytes: &mut [u8]) -> Result<(), Short<GuestMemoryError>> {
            let length = bytes.len();
            pieces(address.get(), length, |at, done| Bytes::read(self, &mut bytes[done..], at))
        }

        fn write(&self, address: A, bytes: &[u8]) -> Result<(), Short<GuestMemoryError>> {
            pieces(address.get(), bytes.len(), |at, done| Bytes::write(self, &bytes[done..], at))
        }
    }

    /// Calls `access` until it has done `length` bytes: it may do fewer at a time, and says how
    /// many.
    fn pieces(
        address: u64,
        length: usize,
        mut access: impl FnMut(GuestAddress, usize) -> Result<usize, GuestMemoryError>,
    ) -> Result<(), Short<GuestMemoryError>> {
        let mut done = 0;
        while done < length {
            let short = |error| Short { done, error };
            let at = address
                .checked_add(done as u64)
                .ok_or(short(GuestMemoryError::GuestAddressOverflow))?;
            match access(GuestAddress(at), done).map_err(short)? {
                0 => return Err(short(GuestMemoryError::InvalidGuestAddress(GuestAddress(at)))),
                more => done += more,
            }
        }
        Ok(())
    }
}
