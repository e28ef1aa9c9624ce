//! The peers: each crate behind [`PageTables`](bench_harness::work::PageTables), called as its own
//! documentation says.

use crate::row::Row;

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

/// The rows of `bench_harness::by_hand`, which checks what ours checks.
pub const CHECKED: &[Row] = &[
    Row::Map,
    Row::TranslateHot,
    Row::TranslateCold,
    Row::BatchHot,
    Row::BatchCold,
    Row::TranslateInOrder,
    Row::Iterate,
    Row::IterateExternal,
    Row::Unmap,
    Row::UnmapAlone,
    Row::MapRange,
    Row::ProtectRange,
    Row::ProtectStopped,
    Row::UnmapRange,
    Row::UnmapMixed,
    Row::ChurnAlone,
    Row::ChurnBeside,
];
