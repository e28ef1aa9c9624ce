//! Table memory as embedders have it: mappings that may not be written or read, regions that lie
//! about their length, logs of what was written behind wrappers, memory that gives words by value
//! only.

#![cfg(feature = "iommu")]
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod by_value;
mod logs;
mod protection;
mod records;
mod regions;

use pgtable::Gpa;
use pgtable_x86::{Controls, Levels, LongMode};

const LONG: LongMode = LongMode::new(Levels::Four, Controls::new());
const ROOT: Gpa = Gpa::new(0x1000);

/// A tree by hand: table entries that are accessed, and a leaf that is neither accessed nor dirty.
const TREE: [(usize, u64); 4] =
    [(0x1000, 0x2067), (0x2000, 0x3067), (0x3000, 0x4067), (0x4000, 0x5007)];
