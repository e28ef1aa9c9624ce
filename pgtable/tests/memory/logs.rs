//! What was written is in the embedder's log, whatever stands between a tree and the memory.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use frag_alloc::{Cache, Frames, Kind, Owner, Policy, Region};
use pgtable::memory::{GuestTables, HostAccess, ReadMemory, TableMemory, TrackedTables};
use pgtable::tree::PageTable;
use pgtable::walk::Walker;
use pgtable::{Access, Gpa, Gva, Hpa, Leaves, Prot};
use pgtable_ppc64::radix::{Granule, PartitionScoped, ProcessTable, Prte, RcPolicy};
use pgtable_ppc64::shadow::L1Memory;
use vm_memory::bitmap::{AtomicBitmap, Bitmap};
use vm_memory::{GuestAddress, GuestMemoryBackend, GuestMemoryMmap};

use crate::LONG;

type Tracked = GuestMemoryMmap<AtomicBitmap>;

fn tracked() -> Tracked {
    Tracked::from_ranges(&[(GuestAddress(0), 1 << 20)]).unwrap()
}

fn dirty(memory: &Tracked) -> Vec<usize> {
    let region = memory.iter().next().unwrap();
    (0..256).filter(|page| region.bitmap().dirty_at(page * 4096)).collect()
}

/// The 4-KiB pages that the log has after a store to this one: all of its host page.
fn after_a_store_to(page: usize) -> Vec<usize> {
    let memory = tracked();
    memory.iter().next().unwrap().bitmap().mark_dirty(page * 4096, 8);
    dirty(&memory)
}

/// A tree is built and changed through a memory; which pages the log has then.
fn logged<M: TableMemory<Gpa>>(memory: &Tracked, through: M) -> Vec<usize> {
    let plain = GuestTables::<Gpa>::new(memory).unwrap();
    let frames = Frames::new(Region::new(&plain, Gpa::new(0), 16, 16).unwrap()).unwrap();
    let cache = Cache::new(&frames, Owner(1), Kind::User, Policy::Reuse);
    let mut tree = PageTable::new(LONG, through, &cache).unwrap();
    let page = (Gva::new(0x1000), Gpa::new(0x5000));
    tree.map(page.0, page.1, 4096, Prot::RW.into(), Leaves::Largest).unwrap();
    dirty(memory)
}

#[test]
fn case_a7_wrappers_pass_on_what_was_written() {
    let memory = tracked();
    let want = logged(&memory, TrackedTables::new(&memory).unwrap());
    assert!(!want.is_empty());
    let through = |name: &str, log: &dyn Fn(&Tracked) -> Vec<usize>| {
        let memory = tracked();
        assert_eq!(log(&memory), want, "{name}");
    };
    through("&", &|memory| logged(memory, TrackedTables::<_, Gpa>::new(memory).unwrap()));
    through("Box", &|memory| logged(memory, Box::new(TrackedTables::new(memory).unwrap())));
    through("Arc", &|memory| logged(memory, Arc::new(TrackedTables::new(memory).unwrap())));
    through("Rc", &|memory| logged(memory, std::rc::Rc::new(TrackedTables::new(memory).unwrap())));
    through("Region", &|memory| {
        let tables = TrackedTables::<_, Gpa>::new(memory).unwrap();
        logged(memory, Region::new(&tables, Gpa::new(0x8_0000), 1, 16).unwrap())
    });
}

/// L1's tree of one page, by hand: R and C are clear.
fn l1_tree(put: impl Fn(u64, u64)) {
    put(0x1_0000, 1 << 63 | 0x2_0000 | 9);
    put(0x2_0000, 1 << 63 | 0x2_1000 | 9);
    put(0x2_1000, 1 << 63 | 0x2_2000 | 5);
    put(0x2_2000, 3 << 62 | 0x5_0000 | 7);
}

#[test]
fn case_a7_records_in_a_nested_hypervisors_tables() {
    let memory = tracked();
    let tables = TrackedTables::<_, Gpa>::new(&memory).unwrap();
    l1_tree(|at, word| {
        tables.word(Gpa::new(at)).unwrap().store(word.to_be(), Ordering::Relaxed);
    });
    assert!(dirty(&memory).is_empty());
    let format = PartitionScoped::new(Granule::K64).with_rc(RcPolicy::HardwareUpdate);
    let walker = Walker::new(format, L1Memory(&tables), Hpa::new(0x1_0000));
    walker.access(Gpa::new(0x123), Access::WRITE).unwrap();
    assert_eq!(dirty(&memory), after_a_store_to(0x22));
    let leaf = u64::from_be(tables.load(Gpa::new(0x2_2000)).unwrap());
    assert_eq!(leaf, 3 << 62 | 0x5_0000 | 0x187);
    // In L1's memory that may only be read nothing is recorded.
    let less = [(Gpa::new(0x2_2000)..Gpa::new(0x2_3000), HostAccess::Read)];
    let tables = TrackedTables::over(GuestTables::restricted(&memory, &less).unwrap(), &memory);
    let walker = Walker::new(format, L1Memory(&tables), Hpa::new(0x1_0000));
    assert!(walker.access(Gpa::new(0x123), Access::WRITE).is_ok());
}

#[test]
fn case_a7_process_tables() {
    let memory = tracked();
    let tables = TrackedTables::<_, Gpa>::new(&memory).unwrap();
    let table = ProcessTable::new(Gpa::new(0x3_0000), 0).unwrap();
    table.write(&tables, 1, Prte::of_tree(0x4_0000).unwrap()).unwrap();
    assert_eq!(dirty(&memory), after_a_store_to(0x30));
}
