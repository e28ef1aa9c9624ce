//! Why a page could not be faulted in, by what the caller does about it.

use crate::address::Gpa;
use crate::error::RangeError;

/// Why a page was not mapped.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FaultInError {
    /// Something was unmapped since the ticket was taken: what is known of the host page may be out
    /// of date. Let the guest run into the fault again.
    #[error("something was unmapped meanwhile")]
    Again,
    /// A store, and the host page (or its slot) cannot be written. Get the page for writing first,
    /// or tell the guest.
    #[error("a store to a host page that cannot be written")]
    ReadOnly,
    /// The host page is smaller than the smallest page of this tree, or they lie askew: the granule
    /// is the wrong one for this host.
    #[error("host pages of 2^{shift} bytes cannot back this tree")]
    TooSmall {
        /// log2 of the host page's size.
        shift: u8,
    },
    /// The tree could not be changed: no memory for tables, or somebody else wrote it.
    #[error(transparent)]
    Tree(#[from] RangeError<Gpa>),
}
