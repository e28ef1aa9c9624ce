//! Frames in guest memory.
#![cfg(feature = "vm-memory")]

use frag_alloc::{Cache, Frames, Kind, Owner, Policy, guest_frames};
use pgtable::allocator::{Contents, TableAllocator, TableLayout};
use pgtable::memory::TableMemory;
use pgtable::{Gpa, Level};
use vm_memory::{
    Bytes, GuestAddress, GuestMemoryBackend, GuestMemoryError, GuestMemoryMmap, GuestMemoryRegion,
    GuestRegionMmap, MemoryRegionAddress, VolatileSlice,
};

#[test]
fn tables_stand_where_the_guest_sees_them() {
    let ranges = [(GuestAddress(0), 0x20_0000), (GuestAddress(0x100_0000), 0x10_0000)];
    let memory = GuestMemoryMmap::<()>::from_ranges(&ranges).unwrap();
    for (start, frames, ok) in [
        (0x10_0000, 16, true),
        (0x100_0000, 16, true),
        (0x100_0000, 17, false),
        (0x108_0100, 1, false),
    ] {
        assert_eq!(guest_frames(&memory, Gpa::new(start), frames, 16).is_ok(), ok, "{start:#x}");
    }
    let frames = Frames::new(guest_frames(&memory, Gpa::new(0x10_0000), 16, 16).unwrap()).unwrap();
    let cache = Cache::new(&frames, Owner(1), Kind::User, Policy::Reuse);
    let layout = TableLayout { shift: 16, level: Level(3) };
    let root = cache.allocate(layout).unwrap();
    cache.free(root, layout, Contents::Stale).unwrap();
    memory.write_obj(0xffff_u64, GuestAddress(root.get())).unwrap();
    let root = cache.allocate(layout).unwrap();
    assert_eq!(
        memory.read_obj::<u64>(GuestAddress(root.get())).unwrap(),
        0,
        "zeroed in the guest's memory"
    );
    cache.free(root, layout, Contents::Stale).unwrap();
    assert!(frames.census().all_home());
}

/// A region that does not begin with a word has none at a multiple of eight: it is refused, not
/// read across its words.
#[test]
fn words_are_aligned_in_host_memory_too() {
    for (base, ok) in [(0, true), (4, false), (8, true)] {
        let memory = GuestMemoryMmap::<()>::from_ranges(&[(GuestAddress(base), 0x4_0000)]).unwrap();
        assert_eq!(
            guest_frames(&memory, Gpa::new(0x1_0000), 1, 16).is_ok(),
            ok,
            "a region from {base}"
        );
    }
}

/// Guest memory in safe code that says more of itself than there is.
struct Mem(GuestRegionMmap<()>);

impl GuestMemoryBackend for Mem {
    type R = GuestRegionMmap<()>;

    fn iter(&self) -> impl Iterator<Item = &GuestRegionMmap<()>> {
        std::iter::once(&self.0)
    }

    fn get_slice(
        &self,
        _: GuestAddress,
        count: usize,
    ) -> Result<VolatileSlice<'_, ()>, GuestMemoryError> {
        self.0.get_slice(MemoryRegionAddress(0), count.min(0x1000))
    }
}

/// Frames are where there is memory, and as much of it as there is.
#[test]
fn case_a3_lengths_of_guest_memory_are_not_believed() {
    let region = |bytes| GuestRegionMmap::<()>::from_range(GuestAddress(0), bytes, None).unwrap();
    for (bytes, frames, shift, ok) in [
        (0x1000, 1 << 20, 16, false),
        (0x1000, 1, 12, true),
        (0x1000, 2, 12, false),
        (0x1_0000, 16, 12, true),
        (0x1_0000, 1, 16, true),
    ] {
        let memory = Mem(region(bytes));
        let made = guest_frames(&memory, Gpa::new(0), frames, shift);
        assert_eq!(made.is_ok(), ok, "{frames} of 2^{shift} in {bytes:#x}");
        if let Ok(made) = made {
            assert!(made.word(Gpa::new(bytes as u64 - 8)).is_ok());
            assert!(made.word(Gpa::new(bytes as u64)).is_err());
        }
    }
}
