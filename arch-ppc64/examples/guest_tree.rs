//! A guest's radix tree in the guest's own memory, the process table that leads to it, and what the
//! guest would see.

use frag_alloc::{Cache, Frames, Kind, Owner, Policy, guest_frames};
use pgtable::invalidate::{Gather, Unused};
use pgtable::memory::GuestTables;
use pgtable::tree::PageTable;
use pgtable::{Access, Gpa, Gva, Leaves, Prot};
use pgtable_ppc64::radix::{
    Granule, GuestMmu, PageAttributes, ProcessScoped, ProcessTable, Prte, RcPolicy,
};
use vm_memory::{GuestAddress, GuestMemoryMmap};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    // 64 MiB of guest memory; tables are fragments of 32 frames of 64 KiB at 2 MiB.
    let memory = GuestMemoryMmap::<()>::from_ranges(&[(GuestAddress(0), 64 << 20)])?;
    let tables = GuestTables::<Gpa>::new(&memory)?;
    let frames = Frames::new(guest_frames(&memory, Gpa::new(2 << 20), 32, 16)?)?;
    let process = Cache::new(&frames, Owner(42), Kind::User, Policy::Reuse);

    // A tree of 64 KiB pages: 16 MiB of memory at 1 GiB, in the largest leaves that fit; one page
    // of it read only.
    let format = ProcessScoped::new(Granule::K64);
    let mut tree = PageTable::new(format, &tables, &process)?;
    let (gva, gpa) = (Gva::new(1 << 30), Gpa::new(16 << 20));
    tree.map(gva, gpa, 16 << 20, PageAttributes::from(Prot::RW.for_user()), Leaves::Largest)?;

    // No CPU has seen the tree yet, so `Unused` may stand for the invalidation; a running guest
    // needs a real one.
    let mut gather = Gather::new(&Unused, ());
    tree.protect(gva, 64 << 10, Prot::R.for_user(), &mut gather)?;
    gather.finish(tree.tables())?;

    // The process table: what KVM_PPC_CONFIGURE_V3_MMU takes is `table.word()`.
    let table =
        ProcessTable::new(Gpa::new(0x1_0000), 0).ok_or("a process table is aligned to its size")?;
    let root = Prte::of_tree(tree.root().get()).ok_or("a root is aligned to its size")?;
    table.write(&tables, 42, root)?;

    // What the guest would see, interrupt and all.
    let mmu = GuestMmu::new(table.word(), 42, format.with_rc(RcPolicy::HardwareUpdate));
    let found =
        mmu.translate_ea(&tables, Gva::new((1 << 30) + 0x12_3456), Access::READ.by_user())?;
    assert_eq!(found.output, Gpa::new((16 << 20) + 0x12_3456));
    let refused = mmu.translate_ea(&tables, gva, Access::WRITE.by_user()).expect_err("not allowed");
    assert_eq!(refused.interrupt.to_string(), "DSI 0x300, DSISR 0x0a000000: protection, store");

    // Teardown: every table comes back, and every frame is at home.
    tree.destroy(Gather::new(&Unused, ())).map_err(|(_, error)| error)?;
    process.close()?;
    assert!(frames.census().all_home());
    Ok(())
}
