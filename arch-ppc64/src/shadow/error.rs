//! What can go wrong with shadows, by what the caller can do about it.

use pgtable::invalidate::GatherError;
use pgtable::{Gpa, RangeError};

/// Why a shadow could not be changed.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// L1's partition has no shadow: [`insert`](super::Nested::insert) one.
    #[error("L1's partition {l2} has no shadow")]
    NoShadow {
        /// The partition.
        l2: u32,
    },
    /// L1 maps a page that is smaller than the smallest of the shadow: use shadows of 4 KiB
    /// granule.
    #[error("L1 maps a page of 2^{shift} bytes, which the shadow cannot hold")]
    TooSmall {
        /// log2 of the page's size.
        shift: u8,
    },
    /// No memory for the reverse map. Drop shadows, and try again.
    #[error("no memory for the reverse map")]
    NoMemory,
    /// The shadow's tree, or our second stage, could not be changed: no memory for tables (drop
    /// shadows, and try again), or somebody else wrote it.
    #[error(transparent)]
    Tree(#[from] RangeError<Gpa>),
    /// Stale translations could not be made unreachable.
    #[error(transparent)]
    Gather(#[from] GatherError),
}

/// What L1 hears of a hypercall that failed; and what we hear.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum HcallError {
    /// `H_PARAMETER`.
    #[error("H_PARAMETER")]
    Parameter,
    /// `H_P2`: the second argument.
    #[error("H_P2")]
    P2,
    /// `H_P4`: the fourth.
    #[error("H_P4")]
    P4,
    /// `H_P5`: the fifth.
    #[error("H_P5")]
    P5,
    /// L1 is not to blame.
    #[error(transparent)]
    Shadow(#[from] Error),
}

impl HcallError {
    /// What the hypercall returns (PAPR); `H_HARDWARE` where L1 is not to blame.
    #[must_use]
    pub const fn code(&self) -> i64 {
        match self {
            Self::Parameter => -4,
            Self::P2 => -55,
            Self::P4 => -57,
            Self::P5 => -58,
            Self::Shadow(_) => -1,
        }
    }
}
