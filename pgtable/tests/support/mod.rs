//! What the tests of this crate take from the conformance kit.

#![allow(unused_imports, reason = "not every test uses all of it")]

pub use pgtable_conformance::memory::{Arena, Tables, ranges};
pub use pgtable_conformance::tlb::Tlb;
