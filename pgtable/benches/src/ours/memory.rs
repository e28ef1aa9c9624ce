//! The memories that our tables stand in: one block, and guest memory of four regions with holes
//! between them.

use pgtable::Gpa;
use pgtable::memory::{DirectMap, GuestTables};
use vm_memory::mmap::MmapRegionBuilder;
use vm_memory::{GuestAddress, GuestMemoryMmap, GuestRegionMmap};

use super::Tables;
use bench_harness::arena::{self, Arena};

/// Where table memory begins.
const START: u64 = 0x4000_0000;
/// How many regions a guest's memory has.
const REGIONS: u64 = 4;

/// One block.
pub fn direct() -> (DirectMap<'static, Gpa>, &'static Tables) {
    let arena = Arena::new(START, arena::BYTES);
    // SAFETY: the arena is valid as long as the process, and whoever resets it has no reference
    // into it.
    let memory = unsafe { DirectMap::from_raw(arena.host, arena.bytes, Gpa::new(START)) };
    (memory, Box::leak(Box::new(Tables::new(vec![arena]))))
}

/// Four regions, each followed by a hole of its size; tables come from them in turn.
pub fn guest() -> (&'static GuestTables<'static, Gpa>, &'static Tables) {
    let bytes = arena::BYTES / REGIONS as usize * 2;
    let arenas: Vec<_> =
        (0..REGIONS).map(|region| Arena::new(START + region * 2 * bytes as u64, bytes)).collect();
    let regions = arenas.iter().map(|arena| {
        // A region that does not say what it allows is refused: it allows nothing.
        let rights = libc::PROT_READ | libc::PROT_WRITE;
        let builder = MmapRegionBuilder::new(arena.bytes).with_mmap_prot(rights);
        // SAFETY: the arena is a mapping of that size, valid as long as the process.
        let region = unsafe { builder.with_raw_mmap_pointer(arena.host) }.build().unwrap();
        GuestRegionMmap::new(region, GuestAddress(arena.start)).unwrap()
    });
    let memory: &GuestMemoryMmap =
        Box::leak(Box::new(GuestMemoryMmap::from_regions(regions.collect()).unwrap()));
    let tables = GuestTables::new(memory).unwrap();
    (Box::leak(Box::new(tables)), Box::leak(Box::new(Tables::new(arenas))))
}
