//! Shadow tables of nested guests.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod cases;
#[path = "../second_stage/host.rs"]
mod host;
mod l1;
mod model;
