//! What entries can be besides a page or a table: groups that are one leaf, annotations in absent
//! entries; entries of 32 bits; and what is told when entries appear.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod annotate;
mod appear;
mod groups;
mod lines;
mod narrow;
mod regrouped;
mod roots;
mod short;
mod skips;
#[path = "../support/mod.rs"]
mod support;
