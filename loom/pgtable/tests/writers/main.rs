//! A model check of many writers on a small tree: in every interleaving (of up to three
//! preemptions), two writers on overlapping and on nested ranges, one beside the other's freeing
//! and splitting.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod ends;
mod guest;
mod locked;
mod memory;
mod tables;
#[path = "../support/tiny.rs"]
mod tiny;
mod verbs;
