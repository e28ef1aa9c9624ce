//! An IOMMU that a device owns.
#![cfg(feature = "iommu")]
#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::num::NonZeroUsize;
use std::sync::Arc;
use std::thread;

use pgtable::iommu::TableIommu;
use pgtable::memory::GuestTables;
use pgtable::vcpu::build_boot_tables;
use pgtable::{Gpa, Gva, Prot};
use pgtable_x86::{BootMapping, Controls, Levels, LongMode};
use vm_memory::bitmap::AtomicBitmap;
use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap, IommuMemory};

/// A device's side of it borrows nothing, so it goes to the device's own thread: the driver's
/// memory, and the tables in it, belong to both.
#[test]
fn a_device_owns_its_side() {
    let ranges = [(GuestAddress(0), 1 << 20)];
    let memory = Arc::new(GuestMemoryMmap::<AtomicBitmap>::from_ranges(&ranges).unwrap());
    let tables = GuestTables::<'static, Gpa>::new(Arc::clone(&memory)).unwrap();
    let format = LongMode::new(Levels::Four, Controls::new());
    let page = BootMapping::new(Gva::new(0x7000), Gpa::new(0x3000), 0x1000, Prot::RW.into());
    let area = Gpa::new(0x9000)..Gpa::new(0x1_0000);
    let (root, _) = build_boot_tables(format, &tables, area, [page]).unwrap();
    let iommu = TableIommu::<_, _, 4>::new(format, tables, root);
    let seen = AtomicBitmap::new(1 << 20, NonZeroUsize::new(0x1000).unwrap());
    let device = IommuMemory::new((*memory).clone(), iommu, true, seen);
    thread::spawn(move || {
        device.write_slice(b"a device", GuestAddress(0x7010)).unwrap();
        assert!(device.write_slice(b"a device", GuestAddress(0x8000)).is_err());
    })
    .join()
    .unwrap();
    let mut text = [0; 8];
    memory.read_slice(&mut text, GuestAddress(0x3010)).unwrap();
    assert_eq!(&text, b"a device");
}
