//! The fragment allocator.
#![no_std]
#![deny(missing_docs)]

extern crate alloc;
#[cfg(any(feature = "std", test))]
extern crate std;

mod cache;
mod census;
mod deferred;
mod descriptor;
mod error;
mod frames;
mod grace;
#[cfg(feature = "vm-memory")]
mod guest;
mod linux;
mod local;
mod pool;
mod query;
mod source;
mod sync;
mod tagged;

pub use cache::{Cache, Closed, Policy};
pub use census::Census;
pub use deferred::Deferred;
pub use descriptor::{GRANULE, Kind, Owner};
pub use error::Error;
pub use frames::Frames;
pub use grace::{Epochs, Grace, Reader, Reading};
#[cfg(feature = "vm-memory")]
pub use guest::{GuestError, guest_frames};
pub use local::Local;
pub use query::{FrameRef, TableFrame};
pub use source::{FrameSource, Hooks, Refused, Region, Span};
pub use tagged::{TableKind, TableSizes, TaggedTable};
