//! What entries can be besides a page or a table: groups that are one leaf, annotations in absent
//! entries; and what is told when entries appear.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod annotate;
mod appear;
#[allow(dead_code, reason = "shapes of other tests")]
#[path = "../model/deep.rs"]
mod deep;
mod groups;
mod roots;
mod skips;
#[allow(dead_code, reason = "the harness is for address spaces")]
#[path = "../support/mod.rs"]
mod support;
