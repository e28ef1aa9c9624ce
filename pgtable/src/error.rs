//! What can go wrong when a table is changed, by what the caller can do about it.

use crate::allocator::AllocError;
use crate::format::Unencodable;
use crate::gather::InvalidateFailed;
use crate::geometry::Position;
use crate::memory::MemoryError;

/// Why a table could not be changed.
///
/// Texts tell an entry's level by the bytes of address space that it covers: manuals number levels
/// from either end.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The range leaves the address space, or the part of it that was locked, or wraps round. Ask
    /// for another.
    #[error("the range leaves the address space, or the part of it that was locked")]
    Range,
    /// The range does not begin or end at a multiple of the smallest page. Ask for whole pages.
    #[error("the range does not consist of whole pages of 2^{shift} bytes")]
    Unaligned {
        /// log2 of the smallest page's size.
        shift: u8,
    },
    /// No leaf of the wanted size fits: the format has none, an address is not aligned to it, or
    /// the place is held in pages of another size. Ask for another size.
    #[error("no leaf of the wanted size fits here")]
    LeafSize,
    /// Something is mapped there already. Unmap it first, or remap.
    #[error("already mapped by a leaf of 2^{} bytes", at.shift)]
    Mapped {
        /// Where the entry stands.
        at: Position,
    },
    /// Software keeps a number there (an [`Annotation`](crate::tree::Annotation)). Clear it first.
    #[error("software keeps {value:#x} in the absent entry of 2^{} bytes", at.shift)]
    Annotated {
        /// Where the entry stands.
        at: Position,
        /// The number.
        value: u64,
    },
    /// The format cannot say these attributes, or cannot hold that output address, at that place.
    #[error("no entry of 2^{} bytes encodes these attributes or this output address", at.shift)]
    Unencodable {
        /// Where the entry was to stand.
        at: Position,
    },
    /// The allocator has no table. Free memory and try again from where it stopped.
    #[error(transparent)]
    Alloc(#[from] AllocError),
    /// An entry is present and no valid entry of its level: somebody else wrote this table. Do not
    /// go on with it.
    #[error("malformed entry {word:#018x} of 2^{} bytes (table memory {entry:#x})", at.shift)]
    Malformed {
        /// Where the entry stands.
        at: Position,
        /// The address of the entry.
        entry: u64,
        /// What it holds, in the architecture's bit order.
        word: u64,
    },
    /// An entry leads past levels (AMD's IOMMU), which verbs do not follow: a page beside those
    /// below it would need the entry replaced while hardware may hold it. Change a
    /// [`snapshot`](crate::walk::Walker::snapshot), which has the tables in between.
    #[error(
        "the entry {word:#018x} of 2^{} bytes (table memory {entry:#x}) leads past levels: \
         its tree is only read; a snapshot of it may be changed", at.shift
    )]
    SkipsLevels {
        /// Where the entry stands.
        at: Position,
        /// The address of the entry.
        entry: u64,
        /// What it holds, in the architecture's bit order.
        word: u64,
    },
    /// A table lies outside table memory: somebody else wrote this table. Do not go on with it.
    #[error(transparent)]
    Memory(#[from] MemoryError),
    /// Another writer holds a part of the tree that this one needs, for longer than it would wait.
    /// Try again from where it stopped.
    #[error("another writer holds this part of the tree")]
    Contended,
    /// The format keeps no such record (EPT without accessed and dirty flags): hardware records
    /// nothing there. Write-protect the pages and record their faults instead.
    #[error("hardware keeps no such record in these tables")]
    NoRecord,
    /// Stale translations could not be made unreachable, so nothing that they reach was freed.
    #[error(transparent)]
    Invalidate(#[from] InvalidateFailed),
}

impl From<Unencodable> for Error {
    fn from(Unencodable { at }: Unencodable) -> Self {
        Self::Unencodable { at }
    }
}

/// A range operation that stopped: everything before `at` is done, nothing from `at` on was
/// changed.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{at}: {error}")]
pub struct RangeError<A: core::fmt::Display> {
    /// The first address that is not done.
    pub at: A,
    /// Why.
    #[source]
    pub error: Error,
}
