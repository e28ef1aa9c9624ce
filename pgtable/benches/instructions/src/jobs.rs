//! What a VMM does once for each VM: boot tables, and table memory over a ragged memory map.

use bench_harness::arena::Arena;
use pgtable::memory::{DirectMap, GuestTables, TableMemory};
use pgtable::{Gpa, Prot};
use pgtable_x86::{BootMapping, Controls, Levels, LongMode, boot_tables};
use vm_memory::{GuestAddress, GuestMemoryMmap};

use crate::count;

/// Where boot tables stand, and the memory that they map, by 2-MiB pages.
const TABLES: u64 = 0x4000_0000;
const MAPPED: u64 = 4 << 30;

/// Regions of guest memory that end at no multiple of their size.
const RAGGED: [(GuestAddress, usize); 4] = [
    (GuestAddress(0), 0x9_f000),
    (GuestAddress(0x10_0000), 0x2f1_3000),
    (GuestAddress(0x1_0000_0000), 0x74_5000),
    (GuestAddress(0x1_4000_0000), 0x1_b000),
];

pub fn rows() {
    let arena = Arena::new(TABLES, 1 << 16);
    // SAFETY: arenas are valid as long as the process, and nothing resets this one.
    let memory = unsafe { DirectMap::from_raw(arena.host, arena.bytes, Gpa::new(TABLES)) };
    let format = LongMode::new(Levels::Four, Controls { gib_pages: false, ..Controls::new() });
    let mapping = [BootMapping::identity(MAPPED, Prot::RWX.into())];
    count("x86, boot tables, a 2-MiB page", MAPPED >> 21, || {
        let range = Gpa::new(TABLES)..Gpa::new(TABLES + (1 << 16));
        boot_tables(format, &memory, range, mapping).unwrap();
    });
    let memory: GuestMemoryMmap = GuestMemoryMmap::from_ranges(&RAGGED).unwrap();
    count("table memory over four ragged regions, new", 1, || {
        let tables = GuestTables::new(&memory).unwrap();
        assert!(TableMemory::<Gpa>::word(&tables, Gpa::new(0x1_4001_a000)).is_ok());
    });
}
