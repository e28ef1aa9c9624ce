//! The second stage as its owner uses it.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod cases;
mod host;
mod model;
