//! What a store needs before hardware may rely on it: where a barrier is owed after `map`.
//!
//! # Protocol
//! An entry that a verb made present is in memory, and hardware may not see it yet. Some
//! architectures ask for an instruction in between, and without it an access may fault once more:
//!
//! | architecture | after an entry became present |
//! | --- | --- |
//! | POWER | `ptesync` (Power ISA, Book III, "Page Table Updates") |
//! | AArch64 | `DSB ISHST`, then `ISB` where the CPU itself goes on to use the page |
//! | RISC-V | `SFENCE.VMA` of these addresses: harts may cache that an entry is invalid |
//! | RISC-V with Svvptc | nothing: such a hart sees the entry within bounded time |
//! | x86 | nothing |
//! | VT-d, caching mode | an invalidation of these addresses |
//!
//! Every verb that makes entries present, or stores them anew after break-before-make, calls
//! [`TableMemory::appeared`] once its stores are made, with the input addresses, before it returns;
//! also if it stops with an error half-way. A [`Cursor`](crate::tree::Cursor) calls it when it
//! leaves a table, for the part of it in which it mapped. [`Announced`] turns a function into such
//! a memory. Memory without one does nothing, at no cost.
//!
//! A walker that does not snoop the caches needs each stored word flushed: that is
//! [`TableMemory::wrote`], which gets the addresses of the words.

use core::sync::atomic::AtomicU64;

use crate::address::Address;
use crate::memory::{MemoryError, ReadMemory, TableMemory};

/// Input addresses of which entries were made present.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Appeared {
    /// The first, as a number of the stage's input space.
    pub input: u64,
    /// How many bytes. No entry beyond them was made present; some of those in between may be
    /// older, or absent.
    pub bytes: u64,
}

/// Table memory that calls a function where entries appeared: the barrier that an architecture asks
/// for after `map`.
///
/// ```
/// use core::cell::Cell;
/// use core::sync::atomic::{AtomicU64, fence, Ordering};
/// use pgtable::memory::{Announced, Appeared, DirectMap, TableMemory};
/// use pgtable::Gpa;
///
/// let words = [const { AtomicU64::new(0) }; 512];
/// let barriers = Cell::new(0);
/// let memory = Announced::new(DirectMap::new(&words, Gpa::new(0)), |_: Appeared| {
///     fence(Ordering::SeqCst); // ptesync, DSB ISHST or SFENCE.VMA here
///     barriers.set(barriers.get() + 1);
/// });
/// // A tree in `memory` does this at the end of each `map`.
/// memory.appeared(Appeared { input: 0x1000, bytes: 0x1000 });
/// assert_eq!(barriers.get(), 1);
/// ```
#[derive(Clone, Copy, Debug)]
pub struct Announced<M, H> {
    memory: M,
    hook: H,
}

impl<M, H: Fn(Appeared)> Announced<M, H> {
    /// `memory`, whose trees call `hook`.
    pub const fn new(memory: M, hook: H) -> Self {
        Self { memory, hook }
    }

    /// The memory without the function.
    pub const fn inner(&self) -> &M {
        &self.memory
    }
}

impl<A: Address, M: ReadMemory<A>, H> ReadMemory<A> for Announced<M, H> {
    crate::read_within!(A, |announced| announced.memory);
}

impl<A: Address, M: TableMemory<A>, H: Fn(Appeared)> TableMemory<A> for Announced<M, H> {
    #[inline(always)]
    fn word(&self, address: A) -> Result<&AtomicU64, MemoryError> {
        self.memory.word(address)
    }

    #[inline(always)]
    fn table(&self, address: A, words: usize) -> Result<&[AtomicU64], MemoryError> {
        self.memory.table(address, words)
    }

    #[inline(always)]
    fn wrote(&self, address: A, words: usize) {
        self.memory.wrote(address, words);
    }

    #[inline(always)]
    fn appeared(&self, appeared: Appeared) {
        self.memory.appeared(appeared);
        (self.hook)(appeared);
    }
}
