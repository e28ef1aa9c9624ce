//! Jobs of a VMM, each beside the same work by hand; and what it does once for each VM: boot
//! tables, and table memory over a ragged memory map.

use bench_harness::arena::Arena;
use bench_harness::by_hand::ByHand;
use bench_harness::tables::Tables;
use pgtable::invalidate::{Gather, Unused};
use pgtable::memory::{DirectMap, GuestTables, TableMemory};
use pgtable::tree::{PageTable, Recorded, Writers};
use pgtable::{Access, Gpa, Gva, Leaves, Prot};
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

/// A guest's memory, in pages of 4 KiB; one page in so many is dirty.
const GUEST: u64 = 1 << 30;
const PAGES: u64 = GUEST >> 12;
const EVERY: u64 = 100;
/// Table memory of a job.
const ROOM: usize = 8 << 20;
/// Calls of 1 page, or of a block of 256, which fill two GiB.
const CALLS: u64 = 1 << 11;
const BLOCK: u64 = 256 << 12;
const AT_CALLS: u64 = 0x100_0000_0000;
const AT_SPLIT: u64 = 0x180_0000_0000;
/// Where pages lie: no multiple of a larger page.
const OUTPUT: u64 = 0x10_0000_1000;

/// All tables are pages: their states stand side by side, as the counts do by hand.
type Tree = PageTable<LongMode, DirectMap<'static, Gpa>, Tables<12>>;

/// Whole jobs, ours and by hand.
pub fn rows() {
    ours();
    by_hand();
    once();
}

/// The first address of call `call`, in an order in which no two calls are neighbours.
fn of_call(call: u64) -> u64 {
    AT_CALLS + (call * 1231 % CALLS) * BLOCK
}

fn unmap(tree: &mut Tree, at: u64, bytes: u64) {
    let mut gather = Gather::new(&Unused, ());
    assert_eq!(tree.unmap(Gva::new(at), bytes, &mut gather), Ok(bytes));
    gather.finish(tree.tables()).unwrap();
}

fn ours() {
    let arena = Arena::new(TABLES, ROOM);
    // SAFETY: arenas are valid as long as the process, and nothing resets this one.
    let memory = unsafe { DirectMap::from_raw(arena.host, arena.bytes, Gpa::new(TABLES)) };
    let format = LongMode::new(Levels::Four, Controls::new());
    let mut tree: Tree = PageTable::new(format, memory, Tables::new(vec![arena])).unwrap();
    let (attributes, small) = (Prot::RW.into(), Leaves::Exactly(12));
    for pages in [1, 256] {
        // Tables that were used before, as in a VM that runs for a while.
        tree.map(Gva::new(AT_CALLS), Gpa::new(OUTPUT), CALLS * BLOCK, attributes, small).unwrap();
        unmap(&mut tree, AT_CALLS, CALLS * BLOCK);
        count(&format!("job, map {pages} a call, a page"), CALLS * pages, || {
            for call in 0..CALLS {
                let (input, output) = (Gva::new(of_call(call)), Gpa::new(OUTPUT));
                tree.map(input, output, pages << 12, attributes, small).unwrap();
            }
        });
        count(&format!("job, unmap {pages} a call, a page"), CALLS * pages, || {
            (0..CALLS).for_each(|call| unmap(&mut tree, of_call(call), pages << 12));
        });
    }
    let (at, large) = (Gva::new(AT_SPLIT), Gpa::new(0x40_0000_0000));
    tree.map(at, large, GUEST, attributes, Leaves::Exactly(30)).unwrap();
    count("job, 1G split, a page", PAGES, || {
        let mut gather = Gather::new(&Unused, ());
        tree.split(at, GUEST, 12, &mut gather).unwrap();
        gather.finish(tree.tables()).unwrap();
    });
    unmap(&mut tree, AT_SPLIT, GUEST);
    tree.map(Gva::new(0), Gpa::new(OUTPUT), GUEST, attributes, small).unwrap();
    let mut log = vec![0; PAGES as usize / 64];
    let harvest = |tree: &mut Tree, writers, log: &mut [u64]| {
        let mut gather = Gather::new(&Unused, ());
        let (at, dirty) = (Gva::new(0), Recorded::Dirty);
        let found = tree.harvest(at, GUEST, dirty, writers, log, &mut gather).unwrap();
        gather.finish(tree.tables()).unwrap();
        found
    };
    // Pages are mapped as dirty.
    assert_eq!(harvest(&mut tree, Writers::Stopped, &mut log), PAGES);
    log.fill(0);
    for page in (0..PAGES).step_by(EVERY as usize) {
        tree.walker().access(Gva::new(page << 12), Access::WRITE).unwrap();
    }
    count("job, dirty log, a page", PAGES, || {
        assert_eq!(harvest(&mut tree, Writers::Running, &mut log), PAGES.div_ceil(EVERY));
    });
    count("job, teardown, a table", PAGES / 512, || unmap(&mut tree, 0, GUEST));
}

fn by_hand() {
    let hand = ByHand::new(ROOM);
    for pages in [1, 256] {
        hand.map_all(AT_CALLS, OUTPUT, CALLS * BLOCK).unwrap();
        hand.tear_down(AT_CALLS, CALLS * BLOCK).unwrap();
        count(&format!("job, map {pages} a call, a page, by hand"), CALLS * pages, || {
            for call in 0..CALLS {
                hand.map(of_call(call), OUTPUT, pages as usize).unwrap();
            }
        });
        count(&format!("job, unmap {pages} a call, a page, by hand"), CALLS * pages, || {
            for call in 0..CALLS {
                hand.unmap(of_call(call), pages as usize).unwrap();
            }
        });
    }
    hand.map_large(AT_SPLIT, 0x40_0000_0000).unwrap();
    count("job, 1G split, a page, by hand", PAGES, || hand.split(AT_SPLIT).unwrap());
    assert_eq!(hand.tear_down(AT_SPLIT, GUEST), Some(PAGES));
    hand.map_all(0, OUTPUT, GUEST).unwrap();
    hand.write(0, GUEST, EVERY).unwrap();
    let mut log = vec![0; PAGES as usize / 64];
    count("job, dirty log, a page, by hand", PAGES, || {
        assert_eq!(hand.harvest(0, GUEST, &mut log), Some(PAGES.div_ceil(EVERY)));
    });
    count("job, teardown, a table, by hand", PAGES / 512, || {
        assert_eq!(hand.tear_down(0, GUEST), Some(PAGES));
    });
    let boot = ByHand::new(1 << 21);
    count("x86, boot tables, a 2-MiB page, by hand", MAPPED >> 21, || boot.boot(4).unwrap());
}

fn once() {
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
