//! Memory that is read by value and never written: bytes, and a function.

use crate::address::Address;
use crate::memory::{MemoryError, ReadMemory};

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
