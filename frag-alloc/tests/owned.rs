//! What a VMM owns: one struct with memory, frames, allocator and tree, in several threads.
#![cfg(feature = "vm-memory")]
#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::sync::{Arc, Barrier};
use std::thread;

use frag_alloc::{
    Cache, Deferred, DeferredGuestCache, Epochs, Frames, GuestCache, GuestFrames, GuestTree, Kind,
    Owner, Policy, SharedGuestTree, guest_frames,
};
use pgtable::invalidate::{Gather, Unused};
use pgtable::memory::{GuestTables, TableMemory, TrackedTables};
use pgtable::tree::PageTable;
use pgtable::{Access, Gpa, Gva, Leaves, Prot};
use pgtable_x86::{Controls, Levels, LongMode};
use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};

const PAGE: u64 = 4096;
const START: Gpa = Gpa::new(2 << 20);
const PAGES: u64 = 600;

struct Vm {
    memory: Arc<GuestMemoryMmap>,
    frames: Arc<GuestFrames>,
    tables: Arc<DeferredGuestCache>,
    tree: SharedGuestTree<LongMode>,
}

fn memory() -> Arc<GuestMemoryMmap> {
    let ranges = [(GuestAddress(0), 0xa_0000), (GuestAddress(1 << 20), 7 << 20)];
    Arc::new(GuestMemoryMmap::from_ranges(&ranges).unwrap())
}

fn format() -> LongMode {
    LongMode::new(Levels::Four, Controls::new())
}

fn frames(memory: &Arc<GuestMemoryMmap>) -> Arc<GuestFrames> {
    Arc::new(Frames::new(guest_frames(Arc::clone(memory), START, 16, 16).unwrap()).unwrap())
}

impl Vm {
    fn new(threads: usize) -> Self {
        let memory = memory();
        let frames = frames(&memory);
        let cache = Cache::new(Arc::clone(&frames), Owner(1), Kind::User, Policy::Reuse);
        let tables = Arc::new(Deferred::new(cache, Epochs::new(threads)));
        let tree = PageTable::new(format(), Arc::clone(&frames), Arc::clone(&tables)).unwrap();
        Self { memory, frames, tables, tree: tree.into() }
    }

    /// Maps every other page, then unmaps every fourth.
    fn vcpu(&self, first: u64, start: &Barrier) {
        let writer = self.tree.writer().unwrap();
        start.wait();
        let mut gather = Gather::new(&Unused, ());
        for page in (first..PAGES).step_by(2) {
            let (gva, gpa) = (Gva::new(page * PAGE), Gpa::new(page * PAGE));
            writer.map(gva, gpa, PAGE, Prot::RW.into(), Leaves::Largest).unwrap();
        }
        for page in (first..PAGES).step_by(4) {
            assert_eq!(writer.unmap(Gva::new(page * PAGE), PAGE, &mut gather), Ok(PAGE));
        }
        gather.finish(self.tree.tables()).unwrap();
    }

    /// Frees the tree, whose tables are all there.
    fn end(self) {
        let done = self.tree.into_inner().destroy(Gather::new(&Unused, ())).map_err(|(_, it)| it);
        assert_eq!(done.unwrap().refused, 0);
        self.tables.collect().unwrap();
        self.tables.cache().close().unwrap();
        assert!(self.frames.census().all_home());
    }
}

#[test]
fn one_struct_owns_it_all() {
    let (vm, start) = (Arc::new(Vm::new(2)), Arc::new(Barrier::new(2)));
    let vcpus = [0, 1].map(|first| {
        let (vm, start) = (Arc::clone(&vm), Arc::clone(&start));
        thread::spawn(move || vm.vcpu(first, &start))
    });
    vcpus.into_iter().for_each(|vcpu| vcpu.join().unwrap());
    for page in 0..PAGES {
        let found = vm.tree.walker().translate(Gva::new(page * PAGE), Access::READ);
        assert_eq!(found.is_ok(), page % 4 >= 2, "page {page}");
    }
    // The tables stand in the guest's own memory.
    let root: u64 = vm.memory.read_obj(GuestAddress(vm.tree.root().get())).unwrap();
    assert_eq!(root & 1, 1, "{root:#x}");
    Arc::into_inner(vm).unwrap().end();
}

#[test]
fn one_thread_needs_no_grace_period() {
    let frames = frames(&memory());
    let tables: Arc<GuestCache> =
        Arc::new(Cache::new(Arc::clone(&frames), Owner(1), Kind::User, Policy::Reuse));
    let mut tree: GuestTree<LongMode> =
        PageTable::new(format(), Arc::clone(&frames), Arc::clone(&tables)).unwrap();
    let moved = thread::spawn(move || {
        tree.map(Gva::new(0), Gpa::new(0), PAGE, Prot::RW.into(), Leaves::Largest).unwrap();
        tree
    });
    let tree = moved.join().unwrap();
    assert!(tree.translate(Gva::new(8), Access::WRITE).is_ok());
    tree.destroy(Gather::new(&Unused, ())).map_err(|(_, error)| error).unwrap();
    tables.close().unwrap();
    assert!(frames.census().all_home());
}

/// Owned tables keep the memory, as long as they live and no longer.
#[test]
fn owned_tables_keep_the_memory() {
    let memory = memory();
    let gone = Arc::downgrade(&memory);
    let tables = GuestTables::<'static, Gpa>::new(Arc::clone(&memory)).unwrap();
    let tracked = TrackedTables::<'static, _, Gpa>::new(Arc::clone(&memory)).unwrap();
    let frames = frames(&memory);
    drop(memory);
    for kept in [&tables as &dyn TableMemory<Gpa>, &tracked, &frames] {
        assert!(kept.word(Gpa::new(0x9_fff8)).is_ok());
        assert!(kept.word(Gpa::new(0xa_0000)).is_err());
        kept.word(START).unwrap().store(7, std::sync::atomic::Ordering::Relaxed);
    }
    drop((tables, tracked));
    assert!(gone.upgrade().is_some());
    drop(frames);
    assert!(gone.upgrade().is_none());
}

/// A memory map that changes is another one: tables of the old one keep it.
#[test]
fn a_map_that_changes() {
    let memory = memory();
    let before = GuestTables::<'static, Gpa>::new(Arc::clone(&memory)).unwrap();
    let (less, removed) = memory.remove_region(GuestAddress(0), 0xa_0000).unwrap();
    drop((memory, removed));
    let after = GuestTables::<'static, Gpa>::new(Arc::new(less)).unwrap();
    assert!(before.word(Gpa::new(0)).is_ok());
    assert!(after.word(Gpa::new(0)).is_err());
    assert!(after.word(START).is_ok());
}
