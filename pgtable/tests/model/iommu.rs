//! Trees as the IOMMU behind `vm_memory::IommuMemory`: what it translates and what it reports
//! missing against the flat map, and devices that read and write while the tree changes.

use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use crate::support::{Arena, Tables};
use pgtable::format::{Format, Input, Output};
use pgtable::invalidate::{Gather, Invalidate, InvalidateFailed, Stale};
use pgtable::iommu::TableIommu;
use pgtable::memory::{GuestTables, TableMemory};
use pgtable::tree::PageTable;
use pgtable::{Access, Address, Gpa, Gva, Hpa, Leaves, Prot, Stage};
use pgtable_conformance::flat::Flat;
use pgtable_conformance::machine::Machine;
use pgtable_conformance::mmu::Caches;
use pgtable_conformance::ops::{Op, ops};
use pgtable_conformance::tree::FlatTree;
use pgtable_ppc64::radix::{Granule, PartitionScoped, ProcessScoped};
use pgtable_x86::{Controls, Ept, EptControls, Levels, LongMode, Npt, NptControls};
use proptest::prelude::*;
use vm_memory::bitmap::{AtomicBitmap, Bitmap};
use vm_memory::iommu::{Error, Iommu, IovaRange, MappedRange};
use vm_memory::{
    Bytes, GuestAddress, GuestMemory, GuestMemoryError, GuestMemoryMmap, IommuMemory, Permissions,
};

/// An invalidation that tells an IOMMU, as an embedder's does.
struct Devices<'i, I>(&'i I);

trait Forget {
    fn forget(&self);
}

impl<F: Format, M: TableMemory<Output<F>>, const N: usize> Forget for TableIommu<F, M, N> {
    fn forget(&self) {
        TableIommu::forget(self);
    }
}

impl<S: Stage, I: Forget> Invalidate<S> for Devices<'_, I> {
    type Identity = ();

    fn invalidate(&self, (): (), _: &Stale<S::Input>) -> Result<(), InvalidateFailed> {
        self.0.forget();
        Ok(())
    }

    fn abandoned(&self, (): (), tables: usize, _: Result<(), InvalidateFailed>) {
        assert!(std::thread::panicking(), "a gather was dropped with {tables} tables");
    }
}

/// A request: which page from the start of which model entry, how far into it, how long, for what.
type Request = (usize, u64, u64, u8);

fn request() -> impl Strategy<Value = Request> {
    (
        0usize..4096,
        0u64..0x3000,
        prop_oneof![3 => 0u64..0x80, 2 => 0u64..0x9000, 1 => 0u64..0x30_0000],
        0u8..4,
    )
}

fn permissions(bits: u8) -> Permissions {
    [Permissions::No, Permissions::Read, Permissions::Write, Permissions::ReadWrite]
        [bits as usize % 4]
}

/// What the IOMMU says about any request is what the space says page by page.
fn requests<F: Format>(format: F, ops: &[Op], requests: &[Request]) {
    let arena = Arena::new(8 << 20);
    let tables = Tables::new(&arena);
    let memory = arena.memory::<Output<F>>();
    let machine = Machine::new(format, &arena, &tables, Caches::STRICT);
    let mut harness = Flat::new(machine.tree().unwrap(), &machine);
    let iommu = TableIommu::<F, _, 4>::new(format, memory, harness.space.root());
    for op in ops {
        harness.apply(op);
        iommu.forget();
        for &(nth, into, length, bits) in requests {
            let near = harness
                .model
                .keys()
                .nth(nth % harness.model.len().max(1))
                .copied()
                .unwrap_or(0x5000);
            let (iova, access) = ((near + into).saturating_sub(0x1800), permissions(bits));
            check(&harness, &iommu, iova, length, access);
        }
    }
    machine.destroy(harness.space);
}

fn check<F: Format>(
    harness: &FlatTree<'_, F>,
    iommu: &impl Iommu,
    iova: u64,
    length: u64,
    access: Permissions,
) {
    // Piece by piece, what the space says.
    let allowed = |at: u64| {
        let page = at & !(harness.unit - 1);
        let (output, _) = harness.model.get(&page)?;
        let ok = |access| harness.space.translate(Input::<F>::new(at), access).is_ok();
        let read = !access.allow(Permissions::Read) || ok(Access::READ);
        let write = !access.allow(Permissions::Write) || ok(Access::WRITE);
        (read && write).then_some(output + (at - page))
    };
    let end = iova + length;
    let (mut want, mut failed) = (Vec::<(u64, u64)>::new(), None::<(u64, u64)>);
    let mut at = iova;
    while at < end {
        let next = ((at | (harness.unit - 1)) + 1).min(end);
        match (allowed(at), &mut failed) {
            (Some(output), None) => {
                want.extend((at..next).step_by(1000).map(|byte| (byte, output + (byte - at))));
            }
            (None, None) => failed = Some((at, next)),
            (None, Some(stretch)) if stretch.1 == at => stretch.1 = next,
            (Some(_), Some(_)) => break,
            (None, Some(_)) => {}
        }
        at = next;
    }
    match (iommu.translate(GuestAddress(iova), length as usize, access), failed) {
        (Ok(pieces), None) => {
            let mut at = iova;
            let mut got = std::collections::BTreeMap::new();
            for MappedRange { base, length } in pieces {
                got.insert(at, (base.0, length as u64));
                at += length as u64;
            }
            assert_eq!(at, end, "the pieces make up the range");
            for (byte, output) in want {
                let (&start, &(base, _)) = got.range(..=byte).next_back().unwrap();
                assert_eq!(base + (byte - start), output, "{byte:#x} of {iova:#x}+{length:#x}");
            }
        }
        (Err(Error::CannotResolve { iova_range, reason }), Some((start, stop))) => {
            assert!(!reason.is_empty());
            let want = IovaRange { base: GuestAddress(start), length: (stop - start) as usize };
            assert_eq!(iova_range, want, "{iova:#x}+{length:#x} {access:?}: {reason}");
        }
        (got, want) => {
            panic!("{iova:#x}+{length:#x} {access:?}: {:?}, but {want:x?}", got.map(|_| ()))
        }
    }
}

macro_rules! formats {
    ($($name:ident: $format:expr;)*) => {
        proptest! {
            #![proptest_config(pgtable_conformance::cases::config(32))]
            $(#[test]
            fn $name(ops in ops(10), wanted in proptest::collection::vec(request(), 1..12)) {
                requests($format, &ops, &wanted);
            })*
        }
    };
}

formats! {
    radix_64k_process: ProcessScoped::new(Granule::K64);
    radix_4k_partition: PartitionScoped::new(Granule::K4);
    x86_4_level: LongMode::new(Levels::Four, Controls::new());
    npt: Npt::new(Levels::Four, NptControls::new());
    ept: Ept::new(Levels::Four, EptControls::new());
}

const PAGE: u64 = 4096;

/// Guest memory whose upper part holds the tables, all of it seen by the device, with dirty
/// bitmaps.
fn guest() -> GuestMemoryMmap<AtomicBitmap> {
    GuestMemoryMmap::from_ranges(&[(GuestAddress(0), 1 << 20), (GuestAddress(1 << 21), 1 << 20)])
        .unwrap()
}

/// Tables cut from the second region of `guest`.
struct Bump<'m> {
    memory: GuestTables<'m, Gpa>,
    next: AtomicU64,
    states: Vec<pgtable::allocator::TableState>,
}

impl<'m> Bump<'m> {
    fn new(guest: &'m GuestMemoryMmap<AtomicBitmap>) -> Self {
        let states = (0..256).map(|_| pgtable::allocator::TableState::new()).collect();
        Self { memory: GuestTables::new(guest).unwrap(), next: AtomicU64::new(1 << 21), states }
    }
}

impl pgtable::allocator::TableAllocator<Gpa> for Bump<'_> {
    fn allocate(
        &self,
        layout: pgtable::allocator::TableLayout,
    ) -> Result<Gpa, pgtable::allocator::AllocError> {
        let table = Gpa::new(self.next.fetch_add(layout.bytes() as u64, Ordering::Relaxed));
        let exhausted = pgtable::allocator::AllocError::Exhausted { layout };
        self.memory.table(table, layout.bytes() / 8).map_err(|_| exhausted)?;
        Ok(table)
    }

    fn free(
        &self,
        _: Gpa,
        _: pgtable::allocator::TableLayout,
        _: pgtable::allocator::Contents,
    ) -> Result<(), pgtable::allocator::AllocError> {
        Ok(())
    }

    fn state(
        &self,
        table: Gpa,
        _: pgtable::allocator::TableLayout,
    ) -> Option<&pgtable::allocator::TableState> {
        self.states.get((table.get().checked_sub(1 << 21)? / PAGE) as usize)
    }
}

/// A device writes and reads across pages that lie apart; the dirty bitmap of the I/O addresses
/// knows; what is missing is named.
#[test]
fn a_device_reads_and_writes_through_the_tree() {
    let guest = guest();
    let tables = Bump::new(&guest);
    let memory = GuestTables::<Gpa>::new(&guest).unwrap();
    let format = LongMode::new(Levels::Four, Controls::new());
    let mut space = PageTable::new(format, &memory, &tables).unwrap();
    // Three pages in a row, backed in reverse; the third read-only.
    for page in 0..3 {
        let prot = if page == 2 { Prot::R } else { Prot::RW };
        let (input, output) = (Gva::new(0x10_0000 + page * PAGE), Gpa::new((8 - page) * PAGE));
        space.map(input, output, PAGE, prot.into(), Leaves::Largest).unwrap();
    }
    let bitmap = AtomicBitmap::new(2 << 20, std::num::NonZeroUsize::new(PAGE as usize).unwrap());
    let iommu = TableIommu::<_, _, 8>::new(format, &memory, space.root());
    let device = IommuMemory::new(guest.clone(), iommu, true, bitmap);

    let text = b"across two pages";
    let start = GuestAddress(0x10_0000 + PAGE - 6);
    device.write_slice(text, start).unwrap();
    let mut back = [0; 16];
    device.read_slice(&mut back, start).unwrap();
    assert_eq!(&back, text);
    guest.read_slice(&mut back[..6], GuestAddress(8 * PAGE + PAGE - 6)).unwrap();
    guest.read_slice(&mut back[6..], GuestAddress(7 * PAGE)).unwrap();
    assert_eq!(&back, text, "where the tree says");
    for (page, dirty) in [(0x100, true), (0x101, true), (0x102, false)] {
        assert_eq!(device.bitmap().dirty_at(page * PAGE as usize), dirty, "{page:#x}");
    }

    // The third may be read, and not written; behind it there is nothing.
    let third = GuestAddress(0x10_2000);
    assert_eq!(device.read_obj::<u64>(third).unwrap(), 0);
    for (base, length, access) in [
        (0x10_2000, PAGE, Permissions::Write),
        (0x10_3000, 0x100, Permissions::Read),
        (u64::MAX - 7, 7, Permissions::Read),
    ] {
        let range = IovaRange { base: GuestAddress(base), length: length as usize };
        let start = if base == u64::MAX - 7 { base } else { 0x10_1ff0 };
        let result = device
            .get_slices(GuestAddress(start), (base + length - start) as usize, access)
            .map(|_| ());
        let Err(GuestMemoryError::IommuError(Error::CannotResolve { iova_range, reason })) = result
        else {
            panic!("{base:#x}: {result:?}")
        };
        assert_eq!(iova_range, range, "{reason}");
    }
    assert!(device.check_range(third, 0, Permissions::Write), "nothing is always there");
    assert!(device.check_range(GuestAddress(0x55_0000), 0, Permissions::Write));
    assert!(!device.check_range(GuestAddress(u64::MAX - 3), 8, Permissions::Read), "wraps round");

    // Everything above again, after the page that a window holds is mapped elsewhere.
    let devices = Devices(&**device.iommu());
    let mut gather = Gather::new(&devices, ());
    space
        .remap(
            Gva::new(0x10_2000),
            Gpa::new(0x2_0000),
            PAGE,
            Prot::RW.into(),
            Leaves::Largest,
            &mut gather,
        )
        .unwrap();
    gather.finish(&tables).unwrap();
    device.write_obj(0x1122_u64, third).unwrap();
    assert_eq!(guest.read_obj::<u64>(GuestAddress(0x2_0000)).unwrap(), 0x1122);

    // Another tree.
    let mut other = PageTable::new(format, &memory, &tables).unwrap();
    other
        .map(Gva::new(0x10_2000), Gpa::new(0x3_0000), PAGE, Prot::RW.into(), Leaves::Largest)
        .unwrap();
    device.iommu().set_root(other.root());
    device.write_obj(0x3344_u64, third).unwrap();
    assert_eq!(guest.read_obj::<u64>(GuestAddress(0x3_0000)).unwrap(), 0x3344);
}

/// A device that records leaves accessed and dirty in the tree, each time after they were
/// harvested.
#[test]
fn a_recording_device_leaves_traces() {
    use pgtable::tree::{Recorded, Writers};
    let arena = Arena::new(1 << 20);
    let tables = Tables::new(&arena);
    let format = Ept::new(Levels::Four, EptControls { accessed_dirty: true, ..EptControls::new() });
    let mut space = PageTable::new(format, arena.memory(), &tables).unwrap();
    space.map(Gpa::new(0), Hpa::new(0), 4 * PAGE, Prot::RW.into(), Leaves::Largest).unwrap();
    let iommu = TableIommu::<_, _, 8>::new(format, arena.memory(), space.root()).recording();
    let devices = Devices(&iommu);
    let mut harvest = |recorded| {
        let mut gather = Gather::new(&devices, ());
        let mut bits = [0];
        space
            .harvest(Gpa::new(0), 4 * PAGE, recorded, Writers::Running, &mut bits, &mut gather)
            .unwrap();
        gather.finish(&tables).unwrap();
        bits[0]
    };
    let use_page =
        |page: u64, access| drop(iommu.translate(GuestAddress(page * PAGE), 8, access).unwrap());
    assert_eq!((harvest(Recorded::Accessed), harvest(Recorded::Dirty)), (0b1111, 0b1111));
    for _ in 0..2 {
        use_page(1, Permissions::Read);
        use_page(2, Permissions::Write);
        use_page(3, Permissions::Read);
        use_page(3, Permissions::ReadWrite);
        use_page(0, Permissions::No);
        assert_eq!((harvest(Recorded::Accessed), harvest(Recorded::Dirty)), (0b1110, 0b1100));
    }
}

/// A device that does not record leaves none, one of user mode sees no page of the supervisor's,
/// and who only asks sees all.
#[test]
fn devices_of_other_kinds() {
    use pgtable::tree::{Recorded, Writers};
    let arena = Arena::new(1 << 20);
    let tables = Tables::new(&arena);
    let format = LongMode::new(Levels::Four, Controls { smap: true, ..Controls::new() });
    let mut space = PageTable::new(format, arena.memory(), &tables).unwrap();
    let (user, supervisor) = (Gva::new(0), Gva::new(PAGE));
    space.map(user, Gpa::new(7 * PAGE), PAGE, Prot::RW.for_user().into(), Leaves::Largest).unwrap();
    space.map(supervisor, Gpa::new(9 * PAGE), PAGE, Prot::RW.into(), Leaves::Largest).unwrap();
    let iommu = || TableIommu::<_, _, 2>::new(format, arena.memory(), space.root());
    let all = [Permissions::No, Permissions::Read, Permissions::Write, Permissions::ReadWrite];
    let seen = |iommu: &TableIommu<_, _, 2>, at: Gva| {
        all.map(|access| {
            iommu.forget();
            iommu.translate(GuestAddress(at.get()), 8, access).is_ok()
        })
    };
    assert_eq!(seen(&iommu().by_user(), user), [true; 4]);
    assert_eq!(seen(&iommu().by_user(), supervisor), [true, false, false, false]);
    // SMAP: a supervisor sees no page of user mode, unless it only asks where it is.
    assert_eq!(seen(&iommu(), user), [true, false, false, false]);
    assert_eq!(seen(&iommu(), supervisor), [true; 4]);
    let quiet = iommu();
    let mut gather = Gather::new(&pgtable::invalidate::Unused, ());
    let mut harvest = |space: &mut PageTable<_, _, _>| {
        [Recorded::Accessed, Recorded::Dirty].map(|recorded| {
            space
                .harvest(supervisor, PAGE, recorded, Writers::Running, &mut [0], &mut gather)
                .unwrap()
        })
    };
    assert_eq!(harvest(&mut space), [1, 1]);
    assert_eq!(seen(&quiet, supervisor), [true; 4]);
    assert_eq!(harvest(&mut space), [0, 0]);

    // To the end of what is mapped, and not a byte further; nothing, at the end of the space; and
    // round it.
    let ask = |at: u64, length: u64| {
        quiet.translate(GuestAddress(at), length as usize, Permissions::Read).map(|_| ())
    };
    assert!(ask(PAGE + 8, PAGE - 8).is_ok());
    assert!(matches!(ask(PAGE + 8, PAGE - 7), Err(Error::CannotResolve { iova_range, .. })
        if iova_range == IovaRange { base: GuestAddress(2 * PAGE), length: 1 }));
    assert!(ask(u64::MAX, 0).is_ok() && ask(2 * PAGE, 0).is_ok());
    let (base, length) = (GuestAddress(u64::MAX - 5), 5);
    assert!(
        matches!(ask(base.0, 7), Err(Error::CannotResolve { iova_range, .. }) if iova_range == IovaRange { base, length })
    );
    gather.finish(&tables).unwrap();
    space
        .destroy(Gather::new(&pgtable::invalidate::Unused, ()))
        .map_err(|(_, error)| error)
        .unwrap();
}

/// Forgetting waits for who still uses a translation; more translations than windows are refused,
/// and nobody waits for one.
#[test]
fn forgetting_waits() {
    let arena = Arena::new(1 << 20);
    let tables = Tables::new(&arena);
    let format = Ept::new(Levels::Four, EptControls::new());
    let mut space = PageTable::new(format, arena.memory(), &tables).unwrap();
    space.map(Gpa::new(0), Hpa::new(0), 1 << 21, Prot::RW.into(), Leaves::Largest).unwrap();
    let iommu = TableIommu::<_, _, 3>::new(format, arena.memory(), space.root());
    let translate = || iommu.translate(GuestAddress(0x1000), 8, Permissions::Read);
    let (one, two, three) = (translate().unwrap(), translate().unwrap(), translate().unwrap());
    assert!(matches!(translate(), Err(Error::IommuMisconfigured { .. })));
    drop((one, three));
    let forgotten = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            iommu.forget();
            forgotten.store(true, Ordering::SeqCst);
        });
        std::thread::sleep(Duration::from_millis(50));
        assert!(!forgotten.load(Ordering::SeqCst), "a translation is in use");
        drop(two);
    });
    assert!(forgotten.load(Ordering::SeqCst));
}

/// Devices read while pages move from frame to frame. Once the gather is finished, what a page had
/// before is nobody's: no device may read it, and tables are freed at once.
#[test]
fn devices_never_read_what_was_taken_from_them() {
    const PAGES: u64 = 24;
    const TAKEN: u64 = u64::MAX;
    let frames: Vec<AtomicU64> = (0..2 * PAGES).map(|_| AtomicU64::new(TAKEN)).collect();
    let arena = Arena::new(1 << 20);
    let tables = Tables::new(&arena);
    let format = ProcessScoped::new(Granule::K64);
    let size = 1u64 << 16;
    // Each in a leaf table of its own, so that tables come and go.
    let input = |page: u64| Gva::new(page << 21);
    let mut space = PageTable::new(format, arena.memory(), &tables).unwrap();
    let iommu = TableIommu::<_, _, 16>::new(format, arena.memory(), space.root());
    let devices = Devices(&iommu);
    let (done, reads) = (AtomicBool::new(false), AtomicUsize::new(0));
    std::thread::scope(|scope| {
        for seed in 1..3u64 {
            let (iommu, frames, done, reads) = (&iommu, &frames, &done, &reads);
            scope.spawn(move || {
                let mut page = seed;
                while !done.load(Ordering::Relaxed) {
                    page = page.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(seed);
                    let wanted = (page >> 33) % PAGES;
                    let start = GuestAddress(input(wanted).get() + 0x100);
                    let Ok(mut pieces) = iommu.translate(start, 8, Permissions::Read) else {
                        continue;
                    };
                    let frame = (pieces.next().unwrap().base.0 - 0x100) / size;
                    // The access: the translation is still held.
                    let found = frames[frame as usize].load(Ordering::Acquire);
                    assert_eq!(found, wanted, "page {wanted} leads to frame {frame}");
                    drop(pieces);
                    reads.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
        let started = std::time::Instant::now();
        let mut round = 0;
        while round < 2000 || reads.load(Ordering::Relaxed) < 20_000 {
            let page = round * 7 % PAGES;
            let frame = (round * 5) % (2 * PAGES);
            if frames[frame as usize].load(Ordering::Relaxed) != TAKEN {
                round += 1;
                continue;
            }
            let held = frames.iter().position(|it| it.load(Ordering::Relaxed) == page);
            let mut gather = Gather::new(&devices, ());
            space.unmap(input(page), size, &mut gather).unwrap();
            gather.finish(&tables).unwrap();
            if let Some(held) = held {
                frames[held].store(TAKEN, Ordering::Release);
            }
            frames[frame as usize].store(page, Ordering::Release);
            space
                .map(input(page), Gpa::new(frame * size), size, Prot::RW.into(), Leaves::Largest)
                .unwrap();
            round += 1;
            assert!(
                started.elapsed() < Duration::from_secs(120),
                "the devices do not come to read"
            );
        }
        done.store(true, Ordering::Relaxed);
    });
    space.destroy(Gather::new(&devices, ())).map_err(|(_, error)| error).unwrap();
    assert_eq!(tables.live(), 0);
}
