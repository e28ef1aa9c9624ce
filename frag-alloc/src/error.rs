//! What can go wrong, by what a caller can do about it.

use pgtable::Address;
use pgtable::allocator::{AllocError, TableLayout};
use pgtable::memory::MemoryError;

use crate::descriptor::Owner;

/// Why the allocator did not do what it was asked. Every variant that concerns a frame names it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error<A: Address> {
    /// The source has no frame left: free some tables, [trim](crate::Cache::trim) other caches, or
    /// give the source more, and try again.
    #[error("no frame left for a table of 2^{shift} bytes")]
    Exhausted {
        /// log2 of the bytes that were asked for.
        shift: u8,
    },
    /// No frame can hold such a table, or no source joins that many frames: another frame size is
    /// needed.
    #[error("tables of 2^{shift} bytes do not fit the frames")]
    Unsupported {
        /// log2 of the bytes that were asked for.
        shift: u8,
    },
    /// The constructor refused the frame; it went back to its source. Trying again takes another
    /// frame.
    #[error("the constructor refused the frame at {frame}")]
    Constructor {
        /// The frame.
        frame: A,
    },
    /// Not a live table of this owner and size: freed twice, never handed out, or another address
    /// space's. Nothing was changed.
    #[error(
        "{table} is not a live table of this owner and size (in the frame at {frame}, whose owner is {owner:?})"
    )]
    NotLive {
        /// The address that was given back.
        table: A,
        /// The frame in which it lies.
        frame: A,
        /// Who owns that frame, if it holds tables.
        owner: Option<Owner>,
    },
    /// The address lies outside the frame table.
    #[error("{address} is not within the frame table")]
    Outside {
        /// The address.
        address: A,
    },
    /// A count would have gone below zero: somebody returned what he did not have. The count was
    /// left as it was.
    #[error("the {count} of the frame at {frame} would go from {value} below zero")]
    Underflow {
        /// The frame.
        frame: A,
        /// `"refs"` or `"fragments"`.
        count: &'static str,
        /// What it was, and still is.
        value: u32,
    },
    /// The source handed out a frame that is in use, unaligned or outside its own span: a defect of
    /// the source. The frame is left alone.
    #[error("the source handed out the frame at {frame}, which is in use or not one of its frames")]
    Source {
        /// The frame.
        frame: A,
    },
    /// The memory of a frame cannot be reached: a defect of the source.
    #[error(transparent)]
    Memory(#[from] MemoryError),
}

impl<A: Address> Error<A> {
    /// The same, as the error of pgtable's allocator trait.
    pub(crate) fn into_alloc(self, layout: TableLayout) -> AllocError {
        match self {
            Self::Unsupported { .. } => AllocError::Unsupported { layout },
            Self::NotLive { table, .. } => AllocError::NotLive { address: table.get() },
            Self::Outside { address } => AllocError::NotLive { address: address.get() },
            Self::Underflow { frame, .. } => AllocError::NotLive { address: frame.get() },
            Self::Exhausted { .. }
            | Self::Constructor { .. }
            | Self::Source { .. }
            | Self::Memory(_) => AllocError::Exhausted { layout },
        }
    }
}
