//! Translation for a device: `vm-memory`'s own interval tree beside a page table as its IOMMU.

use pgtable::iommu::TableIommu;
use pgtable::tree::PageTable;
use pgtable::{Gpa, Gva, Leaves, Prot};
use pgtable_x86::{Controls, Levels, LongMode};
use vm_memory::{GuestAddress, Iommu, Iotlb, Permissions};

use super::{Cells, Contestant, Row};
use crate::ours::memory::direct;
use bench_harness::work::Work;

/// Translations per run.
pub const TRANSLATIONS: u64 = 1 << 16;
/// Pages that the device uses.
const PAGES: u64 = 4096;

pub fn columns() -> Vec<Box<dyn Contestant<Row>>> {
    let work = Work::new(12);
    let indices: Vec<_> = work.hot.indices[..TRANSLATIONS as usize].to_vec();
    let sum = indices.iter().map(|&index| work.scattered(index.into())).fold(0, u64::wrapping_add);
    let inputs: Vec<_> =
        indices.iter().map(|&index| GuestAddress(work.input(index.into()))).collect();

    let mut iotlb = Iotlb::new();
    let (memory, tables) = direct();
    let mut tree =
        PageTable::new(LongMode::new(Levels::Four, Controls::new()), memory, tables).unwrap();
    for index in 0..PAGES {
        let (input, output) = (work.input(index), work.scattered(index));
        iotlb
            .set_mapping(GuestAddress(input), GuestAddress(output), 4096, Permissions::ReadWrite)
            .unwrap();
        tree.map(Gva::new(input), Gpa::new(output), 4096, Prot::RW.into(), Leaves::Exactly(12))
            .unwrap();
    }
    let iommu = TableIommu::<_, _, { PAGES as usize }>::new(*tree.format(), memory, tree.root());
    let ours = inputs.clone();
    let by_iotlb = move || {
        let found = |&input: &GuestAddress| {
            Iotlb::lookup(&iotlb, input, 8, Permissions::Read).unwrap().next().unwrap().base.0
        };
        assert_eq!(inputs.iter().map(found).fold(0, u64::wrapping_add), sum);
    };
    let by_tables = move || {
        let _ = &tree;
        let found = |&input: &GuestAddress| {
            iommu.translate(input, 8, Permissions::Read).unwrap().next().unwrap().base.0
        };
        assert_eq!(ours.iter().map(found).fold(0, u64::wrapping_add), sum);
    };
    vec![
        Box::new(Cells::new("Iotlb").with(Row::Device, || (), by_iotlb)),
        Box::new(Cells::new("our tables").with(Row::Device, || (), by_tables)),
    ]
}
