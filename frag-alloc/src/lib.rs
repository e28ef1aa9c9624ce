//! The fragment allocator.
#![no_std]
#![deny(missing_docs)]

extern crate alloc;
#[cfg(any(feature = "std", test))]
extern crate std;

mod cache;
mod census;
mod descriptor;
mod error;
mod frames;
#[cfg(feature = "vm-memory")]
mod guest;
mod linux;
mod local;
mod pool;
mod query;
mod source;
mod sync;

pub use cache::{Cache, Closed, Policy};
pub use census::Census;
pub use descriptor::{GRANULE, Kind, Owner};
pub use error::Error;
pub use frames::Frames;
#[cfg(feature = "vm-memory")]
pub use guest::{GuestError, guest_frames};
pub use local::Local;
pub use query::{FrameRef, TableFrame};
pub use source::{FrameSource, Hooks, Refused, Region, Span};
