//! `ptdump` on images that our own crates built, that QEMU might have written, and that somebody
//! hostile made.

#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod arm;
mod cases;
mod cores;
mod hashed;
mod hostile;
mod narrow;
mod power;
mod processes;
mod program;
mod questions;
mod riscv;
mod schema;
mod sparse;
mod support;
mod synthetic;
mod trees;
