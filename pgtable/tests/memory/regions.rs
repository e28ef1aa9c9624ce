//! Regions of a type that is none of ours, which claim more than they give.

use std::sync::atomic::Ordering;

use pgtable::Gpa;
use pgtable::memory::{GuestTables, HostAccess, ReadMemory, TableMemory};
use vm_memory::{
    GuestAddress, GuestMemoryBackend, GuestMemoryError, GuestMemoryRegion, GuestMemoryRegionBytes,
    GuestRegionMmap, GuestUsize, MemoryRegionAddress, VolatileSlice,
};

/// A region of a type that is none of ours: it claims more than it gives.
#[derive(Debug)]
struct Liar {
    honest: GuestRegionMmap<()>,
    start: u64,
    claims: u64,
}

impl GuestMemoryRegion for Liar {
    type B = ();

    fn len(&self) -> GuestUsize {
        self.claims
    }

    fn start_addr(&self) -> GuestAddress {
        GuestAddress(self.start)
    }

    fn bitmap(&self) {}

    fn get_slice(
        &self,
        offset: MemoryRegionAddress,
        count: usize,
    ) -> Result<VolatileSlice<'_, ()>, GuestMemoryError> {
        self.honest.get_slice(offset, count.min(self.honest.len() as usize))
    }
}

impl GuestMemoryRegionBytes for Liar {}

struct Lies(Liar);

impl GuestMemoryBackend for Lies {
    type R = Liar;

    fn iter(&self) -> impl Iterator<Item = &Liar> {
        std::iter::once(&self.0)
    }
}

#[test]
fn case_a3_lengths_are_those_of_slices() {
    for (start, claims) in
        [(0, 1 << 40), (0, u64::MAX), (1 << 40, 1 << 20), (u64::MAX - 0xfff, u64::MAX), (0, 0x1000)]
    {
        let honest = GuestRegionMmap::<()>::from_range(GuestAddress(0), 0x1000, None).unwrap();
        let memory = Lies(Liar { honest, start, claims });
        // SAFETY: what the region gives out is mapped for reads and writes.
        let tables = unsafe {
            GuestTables::<Gpa>::assuming(&memory, &[], |_| HostAccess::ReadWrite).unwrap()
        };
        let last = start.wrapping_add(0xff8);
        let there = start.checked_add(0x1000).is_some();
        if there {
            tables.word(Gpa::new(last)).unwrap().store(7, Ordering::Relaxed);
            assert_eq!(tables.load(Gpa::new(last)), Ok(7), "{start:#x}");
        }
        for beyond in [start.wrapping_add(0x1000), start.wrapping_add(1 << 39), u64::MAX - 7] {
            if (start..start.saturating_add(0x1000)).contains(&beyond) {
                continue;
            }
            assert!(tables.load(Gpa::new(beyond)).is_err(), "{start:#x}: {beyond:#x}");
            assert!(tables.word(Gpa::new(beyond)).is_err(), "{start:#x}: {beyond:#x}");
        }
        assert!(tables.table(Gpa::new(last), 2).is_err(), "{start:#x}");
    }
}
