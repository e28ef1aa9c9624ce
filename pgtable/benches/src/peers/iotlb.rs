//! `vm-memory`'s `Iotlb`: a tree of ranges instead of a page table.

use vm_memory::{GuestAddress, Iotlb, Permissions};

use crate::row::Row;
use bench_harness::work::PageTables;

pub const ROWS: &[Row] =
    &[Row::Map, Row::TranslateHot, Row::TranslateCold, Row::TranslateInOrder, Row::Unmap];

/// The cache of an IOMMU.
pub struct Cache(Iotlb);

impl Cache {
    pub fn new() -> Self {
        Self(Iotlb::new())
    }
}

impl PageTables for Cache {
    fn reset(&mut self) {
        self.0.invalidate_all();
    }

    #[inline(always)]
    fn map(&mut self, input: u64, output: u64) {
        self.0
            .set_mapping(GuestAddress(input), GuestAddress(output), 4096, Permissions::ReadWrite)
            .unwrap();
    }

    #[inline(always)]
    fn translate(&self, input: u64) -> Option<u64> {
        let mut found = Iotlb::lookup(&self.0, GuestAddress(input), 8, Permissions::Read).ok()?;
        found.next().map(|range| range.base.0)
    }

    #[inline(always)]
    fn unmap(&mut self, input: u64) {
        self.0.invalidate_mapping(GuestAddress(input), 4096);
    }
}
