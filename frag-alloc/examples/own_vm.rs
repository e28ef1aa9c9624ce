//! What a VMM keeps of a guest, in one struct without a lifetime: memory, the frames that tables
//! stand in, their allocator, and a tree that two vCPU threads change at once.

use std::sync::Arc;
use std::thread;

use frag_alloc::{
    Cache, Deferred, DeferredGuestCache, Epochs, Frames, GuestFrames, Kind, Owner, Policy,
    SharedGuestTree, guest_frames,
};
use pgtable::invalidate::{Gather, Unused};
use pgtable::tree::PageTable;
use pgtable::{Access, Gpa, Gva, Leaves, Prot};
use pgtable_x86::{Controls, Levels, LongMode};
use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};

type Failure = Box<dyn std::error::Error + Send + Sync>;

const PAGE: u64 = 4096;
const PAGES: u64 = 1000;

struct Vm {
    memory: Arc<GuestMemoryMmap>,
    frames: Arc<GuestFrames>,
    tables: Arc<DeferredGuestCache>,
    tree: SharedGuestTree<LongMode>,
}

impl Vm {
    /// 16 MiB of memory; tables come from 16 frames of 64 KiB at 8 MiB.
    fn new() -> Result<Self, Failure> {
        let memory = Arc::new(GuestMemoryMmap::from_ranges(&[(GuestAddress(0), 16 << 20)])?);
        let frames = guest_frames(Arc::clone(&memory), Gpa::new(8 << 20), 16, 16)?;
        let frames = Arc::new(Frames::new(frames)?);
        let cache = Cache::new(Arc::clone(&frames), Owner(1), Kind::User, Policy::Reuse);
        let tables = Arc::new(Deferred::new(cache, Epochs::new(2)));
        let format = LongMode::new(Levels::Four, Controls::new());
        let tree = PageTable::new(format, Arc::clone(&frames), Arc::clone(&tables))?;
        Ok(Self { memory, frames, tables, tree: tree.into() })
    }

    /// A vCPU's thread: maps every second page.
    fn vcpu(&self, first: u64) -> Result<(), Failure> {
        let writer = self.tree.writer().ok_or("a reader for each thread")?;
        for page in (first..PAGES).step_by(2) {
            let (gva, gpa) = (Gva::new(page * PAGE), Gpa::new(page * PAGE));
            writer.map(gva, gpa, PAGE, Prot::RW.into(), Leaves::Largest)?;
        }
        Ok(())
    }
}

fn main() -> Result<(), Failure> {
    let vm = Arc::new(Vm::new()?);
    let vcpus = [0, 1].map(|first| {
        let vm = Arc::clone(&vm);
        thread::spawn(move || vm.vcpu(first))
    });
    for vcpu in vcpus {
        vcpu.join().expect("no vCPU panics")?;
    }
    for page in 0..PAGES {
        vm.tree.walker().translate(Gva::new(page * PAGE), Access::WRITE)?;
    }
    // The tables stand in the guest's own memory.
    let root: u64 = vm.memory.read_obj(GuestAddress(vm.tree.root().get()))?;
    println!("{PAGES} pages in {} tables, CR3's first {root:#x}", vm.frames.census().live);

    let vm = Arc::into_inner(vm).ok_or("the threads have ended")?;
    vm.tree.into_inner().destroy(Gather::new(&Unused, ())).map_err(|(_, error)| error)?;
    vm.tables.collect()?;
    vm.tables.cache().close()?;
    assert!(vm.frames.census().all_home());
    Ok(())
}
