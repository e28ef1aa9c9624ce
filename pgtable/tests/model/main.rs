//! Model tests: random operations on every format against something simple enough to be obviously
//! right.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod cache;
mod diff;
mod found;
mod gather;
#[cfg(feature = "vm-memory")]
mod guest_memory;
mod guest_writes;
mod guest_written;
mod hostile;
#[cfg(feature = "iommu")]
mod iommu;
mod keep;
mod locked;
mod movement;
mod plain;
mod record;
mod refused;
mod reshape;
mod sharing;
#[path = "../support/mod.rs"]
mod support;
mod tracked;
mod two_stage;
mod verbs;
mod waiting;
mod writers;
