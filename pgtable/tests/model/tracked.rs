//! Memory is told of every word of a table that a verb writes: random verbs, and a comparison of
//! all words.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::support::{Arena, Tables};
use pgtable::allocator::{AllocError, Contents, TableAllocator, TableLayout, TableState};
use pgtable::format::{Format, Input, Output};
use pgtable::invalidate::{Gather, Unused};
use pgtable::memory::{DirectMap, MemoryError, ReadMemory, TableMemory};
use pgtable::tree::{PageTable, Recorded, Writers};
use pgtable::walk::Walker;
use pgtable::{Access, Address, Error, Leaves, Prot};
use pgtable_conformance::words::bits;
use pgtable_ppc64::radix::{Granule, ProcessScoped, RcPolicy};
use pgtable_x86::{Controls, Ept, EptControls, Levels, LongMode};
use proptest::prelude::*;

/// Memory that lists the words it is told of.
struct Listed<'m, A> {
    inner: DirectMap<'m, A>,
    wrote: RefCell<BTreeSet<u64>>,
}

impl<A: Address> ReadMemory<A> for Listed<'_, A> {
    pgtable::words_in_place!(A);
}

impl<A: Address> TableMemory<A> for Listed<'_, A> {
    fn word(&self, address: A) -> Result<&AtomicU64, MemoryError> {
        self.inner.word(address)
    }

    fn table(&self, address: A, words: usize) -> Result<&[AtomicU64], MemoryError> {
        self.inner.table(address, words)
    }

    fn wrote(&self, address: A, words: usize) {
        self.wrote.borrow_mut().extend((0..words as u64).map(|word| address.get() + word * 8));
    }
}

/// An allocator that says what it writes: zeros, into what comes back.
struct Told<'t, A>(&'t Tables<'t>, &'t Listed<'t, A>);

impl<A: Address> TableAllocator<A> for Told<'_, A> {
    fn allocate(&self, layout: TableLayout) -> Result<A, AllocError> {
        self.0.allocate(layout)
    }

    fn free(&self, table: A, layout: TableLayout, contents: Contents) -> Result<(), AllocError> {
        self.1.wrote(table, layout.bytes() / 8);
        self.0.free(table, layout, contents)
    }

    fn state(&self, table: A, layout: TableLayout) -> Option<&TableState> {
        self.0.state(table, layout)
    }
}

/// A verb (a number), a page, a count of pages.
type Step = (u8, u64, u64);

fn step() -> impl Strategy<Value = Step> {
    let page = prop_oneof![Just(0u64), 0u64..40, 500u64..1030];
    let count = prop_oneof![1u64..5, Just(512u64), Just(1024u64), 1u64..1100];
    (0u8..12, page, count)
}

fn run<F: Format>(format: F, steps: &[Step]) {
    let arena = Arena::new(2 << 20);
    let tables = Tables::new(&arena);
    let memory = Listed { inner: arena.memory::<Output<F>>(), wrote: RefCell::default() };
    let told = Told(&tables, &memory);
    let words = || {
        let all = memory.table(memory.inner.start(), (memory.inner.bytes() / 8) as usize).unwrap();
        all.iter().map(|word| word.load(Ordering::Relaxed)).collect::<Vec<_>>()
    };
    let mut space = PageTable::new(format, &memory, &told).unwrap();
    let shift = format.geometry().page_shift();
    let input = |page: u64| Input::<F>::new((page << shift) + (1 << 30));
    let mut before = words();
    assert_eq!(before.len(), 2 << 17);
    for &(verb, page, count) in steps {
        memory.wrote.borrow_mut().clear();
        let bytes = count << shift;
        let mut gather = Gather::new(&Unused, ());
        let (rw, output) = (F::Attributes::from(Prot::RW), Output::<F>::new(page << shift));
        let done = match verb {
            0 => space
                .map(input(page), output, bytes, rw, Leaves::Largest)
                .map_err(|error| error.error),
            1 => space
                .map(input(page), output, bytes, rw, Leaves::Exactly(shift))
                .map_err(|error| error.error),
            2 => space
                .unmap(input(page), bytes, &mut gather)
                .map(|_| ())
                .map_err(|error| error.error),
            3 => {
                let prot = [Prot::R, Prot::RX][(count % 2) as usize];
                space
                    .protect(input(page), bytes, prot, &mut gather)
                    .map(|_| ())
                    .map_err(|error| error.error)
            }
            4 => space
                .split(input(page), bytes, shift, &mut gather)
                .map(|_| ())
                .map_err(|error| error.error),
            5 => space
                .promote(input(0), 1 << 23, &mut gather)
                .map(|_| ())
                .map_err(|error| error.error),
            6 => {
                let recorded = [Recorded::Accessed, Recorded::Dirty][(count % 2) as usize];
                let harvested = space.harvest(
                    input(page),
                    bytes,
                    recorded,
                    Writers::Running,
                    &mut [0; 32],
                    &mut gather,
                );
                harvested.map(|_| ()).map_err(|error| error.error)
            }
            7 => {
                // As if no walk had come by yet: table entries are made with their bits set.
                let bits = F::BYTE_ORDER.swap(bits(&format).table.hardware.mask);
                for page in page..page + count.min(8) {
                    for entry in &space.walker().trace(input(page)) {
                        if matches!(entry.entry, pgtable::format::Entry::Table { .. }) {
                            memory.word(entry.address).unwrap().fetch_and(!bits, Ordering::Relaxed);
                        }
                    }
                }
                before = words();
                for page in page..page + count.min(8) {
                    let access = [Access::READ, Access::WRITE][(count % 2) as usize];
                    let walker = Walker::new(format, &memory, space.root());
                    let output =
                        |it: Option<pgtable::walk::TranslationOf<F>>| it.map(|it| it.output);
                    let found = output(walker.query(input(page)).unwrap());
                    let used = output(walker.access(input(page), access).ok());
                    assert_eq!(used, output(walker.translate(input(page), access).ok()));
                    assert_eq!(output(walker.query(input(page)).unwrap()), found);
                }
                Ok(())
            }
            8 => space
                .relocate(|table, _| table.get() >> 12 & 1 == count & 1, &mut gather)
                .map(|_| ()),
            9 => space.relocate_root(|_| (), &mut gather).map(|_| ()),
            10 => {
                let mut cursor = space.cursor(&mut gather);
                for page in page..page + count.min(40) {
                    if count % 3 == 0 || cursor.map(input(page), output, rw).is_err() {
                        cursor.unmap(input(page)).unwrap();
                    }
                }
                cursor.finish()
            }
            _ => {
                let remapped =
                    space.remap(input(page), output, bytes, rw, Leaves::Largest, &mut gather);
                remapped.map_err(|error| error.error)
            }
        };
        assert!(matches!(done, Ok(()) | Err(Error::Mapped { .. } | Error::LeafSize)), "{done:?}");
        gather.finish(&told).unwrap();
        let after = words();
        let start = memory.inner.start().get();
        for (index, (old, new)) in before.iter().zip(&after).enumerate() {
            let address = start + index as u64 * 8;
            let listed = memory.wrote.borrow().contains(&address);
            assert!(
                old == new || listed,
                "{address:#x} went from {old:#x} to {new:#x}, unsaid, in {verb} {page} {count}"
            );
        }
        before = after;
    }
    // A copy says it too.
    memory.wrote.borrow_mut().clear();
    let copy = space.walker().snapshot(&memory, &told).unwrap();
    for (index, (old, new)) in before.iter().zip(&words()).enumerate() {
        let address = memory.inner.start().get() + index as u64 * 8;
        assert!(
            old == new || memory.wrote.borrow().contains(&address),
            "{address:#x}, unsaid, in the copy"
        );
    }
    for space in [copy, space] {
        space.destroy(Gather::new(&Unused, ())).map_err(|(_, error)| error).unwrap();
    }
}

proptest! {
    #![proptest_config(pgtable_conformance::cases::config(64))]
    #[test]
    fn x86(steps in proptest::collection::vec(step(), 1..16)) {
        run(LongMode::new(Levels::Four, Controls::new()), &steps);
    }
    #[test]
    fn ept(steps in proptest::collection::vec(step(), 1..16)) {
        run(Ept::new(Levels::Four, EptControls { accessed_dirty: true, ..EptControls::new() }), &steps);
    }
    #[test]
    fn radix(steps in proptest::collection::vec(step(), 1..16)) {
        run(ProcessScoped::new(Granule::K64).with_rc(RcPolicy::HardwareUpdate), &steps);
    }
}

/// `vm-memory`'s own bitmap, over two regions.
#[cfg(feature = "vm-memory")]
#[test]
fn the_bitmap_of_guest_memory_knows() {
    use pgtable::memory::TrackedTables;
    use pgtable::{Gpa, Gva};
    use vm_memory::bitmap::{AtomicBitmap, Bitmap};
    use vm_memory::{GuestAddress, GuestMemoryBackend, GuestMemoryMmap, GuestMemoryRegion};

    /// No two tables share a page of any host: the bitmap counts in those.
    const APART: u64 = 0x1_0000;

    struct Bump(std::cell::Cell<u64>, Vec<TableState>);
    impl TableAllocator<Gpa> for Bump {
        fn allocate(&self, _: TableLayout) -> Result<Gpa, AllocError> {
            // By turns from the two regions.
            Ok(Gpa::new(
                (self.0.replace(self.0.get() + 1) + 1) * APART + ((self.0.get() % 2) << 24),
            ))
        }
        fn free(&self, _: Gpa, _: TableLayout, _: Contents) -> Result<(), AllocError> {
            Ok(())
        }
        fn state(&self, table: Gpa, _: TableLayout) -> Option<&TableState> {
            self.1.get(((table.get() & 0xff_ffff) / APART) as usize)
        }
    }
    let ranges = [(GuestAddress(0), 1 << 20), (GuestAddress(1 << 24), 1 << 20)];
    let guest = GuestMemoryMmap::<AtomicBitmap>::from_ranges(&ranges).unwrap();
    let dirty = || {
        let pages = guest.iter().flat_map(|region| {
            let start = region.start_addr().0;
            let dirty =
                (0..region.len()).step_by(4096).filter(|at| region.bitmap().dirty_at(*at as usize));
            dirty.map(move |at| start + at / APART * APART)
        });
        pages.collect::<BTreeSet<_>>()
    };
    let tables = Bump(0.into(), (0..16).map(|_| TableState::new()).collect());
    let memory = TrackedTables::<_, Gpa>::new(&guest).unwrap();
    let mut space =
        PageTable::new(LongMode::new(Levels::Four, Controls::new()), memory, &tables).unwrap();
    assert_eq!(dirty(), BTreeSet::new());
    let page = Gva::new(0x1234_5000);
    space.map(page, Gpa::new(0x5000), 4096, Prot::RW.into(), Leaves::Largest).unwrap();
    let way: BTreeSet<_> = space
        .walker()
        .trace(page)
        .iter()
        .map(|entry| entry.address.get() / APART * APART)
        .collect();
    assert_eq!(way.len(), 4);
    assert_eq!(dirty(), way, "the tables on the way to the page, in both regions");
    assert_eq!(way.iter().filter(|table| **table >= 1 << 24).count(), 2);
}

/// A root of 64 KiB is as many of the bitmap's pages.
#[cfg(feature = "vm-memory")]
#[test]
fn a_table_of_several_pages() {
    use pgtable::Gpa;
    use pgtable::memory::TrackedTables;
    use vm_memory::bitmap::{AtomicBitmap, Bitmap};
    use vm_memory::{GuestAddress, GuestMemoryBackend, GuestMemoryMmap, GuestMemoryRegion};

    let guest =
        GuestMemoryMmap::<AtomicBitmap>::from_ranges(&[(GuestAddress(0), 4 << 20)]).unwrap();
    let memory = TrackedTables::<_, Gpa>::new(&guest).unwrap();
    memory.wrote(Gpa::new(1 << 20), 8192);
    let region = guest.iter().next().unwrap();
    let dirty = |at: u64| region.bitmap().dirty_at(at as usize);
    assert!((1 << 20..(1 << 20) + (64 << 10)).step_by(4096).all(dirty));
    assert!(!dirty((1 << 20) - 1) && !dirty((1 << 20) + (64 << 10)));
}
