//! Page-table fragments: where page tables come from, and go back to.
//!
//! A page table is often much smaller than a page: 256 bytes of a 64 KiB page, on POWER with the
//! radix MMU. This crate cuts *frames* into tables of any power of two from 256 bytes up, for any
//! number of address spaces, and gives the frames back. It is the
//! [`TableAllocator`](pgtable::allocator::TableAllocator) that pgtable's trees are built with.
//!
//! - A descriptor per frame with two counts that never meet: `refs`, which anybody may hold for a
//!   moment, and `fragments`, which only tables hold. Underflow, a table freed twice, a frame
//!   handed out twice: errors that name the frame.
//! - A [`Cache`] per address space: user tables with a constructor and a destructor (run exactly
//!   once per frame, whoever holds a reference), kernel tables without. Freed tables are handed out
//!   again, fuller frames first, and empty frames go home; or, with [`Policy::Linux`], exactly as
//!   Linux does it.
//! - A [`Local`] front per thread: a table is taken and given back without a lock.
//! - [`Deferred`]: tables freed under readers without a lock wait for a grace period, of the
//!   embedder's own RCU ([`Grace`]) or of [`Epochs`].
//! - [`Frames::try_get`]: what is at this physical address, whose is it, what lives in it;
//!   [`Frames::quarantine`]: never again.
//! - [`Frames::census`]: every counter, summed up.
//! - Frames from any [`FrameSource`]: a slice, guest memory (feature `vm-memory`), your own. Out of
//!   memory is a value.
//!
//! ```
//! use core::sync::atomic::AtomicU64;
//! use frag_alloc::{Cache, Frames, Kind, Owner, Policy, Region};
//! use pgtable::allocator::{AllocError, Contents, TableAllocator, TableLayout};
//! use pgtable::memory::DirectMap;
//! use pgtable::{Hpa, Level};
//!
//! // Four frames of 64 KiB, at host-physical 0x100_0000.
//! let words: Vec<AtomicU64> = (0..4 << 13).map(|_| AtomicU64::new(0)).collect();
//! let start = Hpa::new(0x100_0000);
//! let frames = Frames::new(Region::new(DirectMap::new(&words, start), start, 4, 16)?)?;
//!
//! // The tables of one guest.
//! let cache = Cache::new(&frames, Owner(1), Kind::User, Policy::Reuse);
//! let leaf = TableLayout { shift: 8, level: Level(0) };
//! let table = cache.allocate(leaf)?;
//! assert_eq!(frames.census().live, 1);
//!
//! // Whose is this address?
//! let found = frames.try_get(table)?.and_then(|frame| frame.table_frame());
//! assert_eq!(found.map(|frame| frame.owner), Some(Owner(1)));
//!
//! cache.free(table, leaf, Contents::Zeroed)?;
//! let twice = cache.free(table, leaf, Contents::Zeroed);
//! assert_eq!(twice, Err(AllocError::NotLive { address: table.get() }));
//! cache.close()?;
//! assert!(frames.census().all_home());
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # The bug that it exists for
//! Linux once kept the number of tables in a page in the page's own reference count. The count was
//! set by a plain store, which lost the reference of anybody who had just taken one; he returned it
//! all the same, the page was released one table too early, and the count underflowed (fixed by
//! Linux commit 4231aba000f5, which gave it a word of its own). `loom/frag-alloc/tests/designs.rs`
//! has a model checker find it, and the faults of two repairs that were weighed; the same suites
//! run this crate's own code in every interleaving that they reach.
//!
//! # How to read it
//! Bottom up: `descriptor` (the counts), `frames` (the life of a frame), `pool` (which tables are
//! free), [`Cache`], [`Local`], [`Deferred`]. Each opens with its protocol. `linux` is the
//! algorithm it descends from.
//!
//! # What it does not do
//! Tables don't move: when few scattered tables live on, their frames stay, until the owner moves
//! them. A frame holds up to 256 tables of the smallest size ([`FrameSource::SMALLEST`]; 64 KiB, if
//! that is 256 bytes), in one contiguous span of up to 2^31 of them per frame table.
//! There is no unbounded waiting, except for the spin lock of a pool: its holder does tens of
//! nanoseconds of work.
//!
//! # Features
//! | feature | what for |
//! | --- | --- |
//! | `std` | a thread that waits for a pool yields to the scheduler |
//! | `vm-memory` | `guest_frames`: frames in a range of guest memory; `GuestFrames`, `GuestCache`, `GuestTree`, `SharedGuestTree`: the forms that a VMM owns |
//!
//! Without features the crate is `no_std` with `alloc`.
//!
//! # Figures
//! `cargo bench --manifest-path frag-alloc/benches/Cargo.toml` measures it beside general
//! allocators and Linux's algorithm. `cargo test --release --manifest-path loom/Cargo.toml` runs
//! the models.
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
mod host;
mod linux;
mod lives;
mod local;
mod memory;
mod numbers;
mod pool;
mod query;
mod source;
mod states;
mod sync;
mod tagged;

pub use cache::{Cache, Closed, Policy};
pub use census::Census;
pub use deferred::Deferred;
pub use descriptor::{GRANULE, Kind, Owner};
pub use error::Error;
pub use frames::Frames;
pub use grace::{Epochs, Grace, Reader, Readers, Reading};
#[cfg(feature = "vm-memory")]
pub use guest::{
    DeferredGuestCache, GuestCache, GuestError, GuestFrameSource, GuestFrames, GuestTree,
    SharedGuestTree, guest_frames,
};
pub use host::{HostCache, HostFrames, HostStage2};
pub use local::Local;
pub use query::{FrameRef, TableFrame};
pub use source::{FrameSource, Hooks, Refused, Region, Span};
pub use tagged::{TableKind, TableSizes, TaggedTable};

#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
