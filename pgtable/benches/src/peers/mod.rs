//! The peers: each crate behind [`PageTables`](bench_harness::work::PageTables), called as its own
//! documentation says.

pub mod aarch64_paging;
pub mod flat;
pub mod hand_written;
pub mod hyperlight;
pub mod iotlb;
#[cfg(feature = "memflow")]
pub mod memflow;
pub mod page_table_generic;
pub mod page_table_multiarch;
pub mod x86_64;
