//! A guest stage as its owner uses it, through the verbs of `pgtable` that every format has: the
//! 16-KiB root beside 4-KiB tables in one frame allocator, faults, size conflicts, dirty log,
//! ageing, teardown.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::cell::RefCell;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;

use arch_riscv64::{CEILING, Extensions, GuestControls, Mode, SvX4, Trap, hfence_gvma};
use frag_alloc::{Cache, Frames, Kind, Owner, Policy, Region};
use pgtable::invalidate::{Gather, Invalidate, InvalidateFailed, Stale, Unused};
use pgtable::memory::DirectMap;
use pgtable::tree::{PageTable, Recorded, Writers};
use pgtable::{Access, Error, Gpa, Hpa, Leaves, Prot, Stage2};

const PAGE: u64 = 4096;
const MIB: u64 = 1 << 20;
const WRITE: Access = Access::WRITE.by_user();
const READ: Access = Access::READ.by_user();

#[test]
fn an_owners_day() {
    for mode in Mode::ALL {
        for adue in [false, true] {
            owner(mode, adue);
        }
    }
}

fn owner(mode: Mode, adue: bool) {
    let words: Vec<_> = (0..1 << 17).map(|_| AtomicU64::new(0)).collect();
    let memory = DirectMap::new(&words, Hpa::new(0));
    let frames = Frames::new(Region::new(memory, Hpa::new(0), 16, 16).unwrap()).unwrap();
    let tables = Cache::new(&frames, Owner(1), Kind::User, Policy::Reuse);
    let extensions = Extensions { adue, ..Extensions::new() };
    let format = SvX4::new(mode, GuestControls { extensions, ..GuestControls::new() });
    let mut guest = PageTable::new(format, memory, &tables).unwrap();
    assert_eq!(guest.root().get() & 0x3fff, 0, "the root has 16 KiB");
    assert_eq!(format.hgatp(guest.root(), 0).mode(), mode.code());

    // Faults, also at the highest address, which only the wide root reaches.
    let last = Gpa::new((1 << (14 + 9 * mode.levels())) - PAGE);
    let first = Gpa::new(64 * MIB);
    let pages = [last, first, Gpa::new(first.get() + PAGE), Gpa::new(first.get() + 7 * PAGE)];
    let hpa = |gpa: Gpa| Hpa::new((1 << 40) + (gpa.get() & (2 * MIB - 1)));
    for gpa in pages {
        let trap = Trap::from(&guest.translate(gpa, WRITE).unwrap_err());
        assert_eq!((trap.exception.code(), trap.gpa()), (23, Some(gpa)));
        guest.map(gpa, hpa(gpa), PAGE, Prot::RWX.into(), Leaves::Exactly(12)).unwrap();
        assert_eq!(guest.translate(gpa, WRITE).unwrap().output, hpa(gpa));
    }
    let beyond = Gpa::new(last.get() + PAGE);
    assert_eq!(Trap::from(&guest.translate(beyond, READ).unwrap_err()).gpa(), Some(beyond));

    // A huge page where small ones are; then all of them, which become one.
    let huge = guest.map(first, hpa(first), 2 * MIB, Prot::RWX.into(), Leaves::Exactly(21));
    assert!(matches!(huge.unwrap_err().error, Error::Mapped { .. }));
    for n in 0..512 {
        let gpa = Gpa::new(first.get() + n * PAGE);
        match guest.map(gpa, hpa(gpa), PAGE, Prot::RWX.into(), Leaves::Exactly(12)) {
            Ok(()) => {}
            Err(error) => assert!(matches!(error.error, Error::Mapped { .. })),
        }
    }
    let mut gather = Gather::new(&Unused, ());
    guest.promote(first, 2 * MIB, &mut gather).unwrap();
    gather.finish(guest.tables()).unwrap();
    assert_eq!(guest.translate(first, WRITE).unwrap().shift, 21);

    // A dirty log by the entries' own record, page by page.
    let mut gather = Gather::new(&Unused, ());
    guest.split(first, 2 * MIB, 12, &mut gather).unwrap();
    let mut bitmap = [0; 8];
    let harvest = |guest: &mut PageTable<_, _, _>, recorded, bitmap: &mut [u64]| {
        let mut gather = Gather::new(&Unused, ());
        let range = (first, 2 * MIB);
        let found =
            guest.harvest(range.0, range.1, recorded, Writers::Running, bitmap, &mut gather);
        gather.finish(guest.tables()).unwrap();
        found.unwrap()
    };
    gather.finish(guest.tables()).unwrap();
    assert_eq!(harvest(&mut guest, Recorded::Dirty, &mut bitmap), 512, "what software marked");
    bitmap = [0; 8];
    let written = Gpa::new(first.get() + 130 * PAGE);
    let access = guest.walker().access(written, WRITE);
    if adue {
        assert_eq!(access.unwrap().output, hpa(written));
        assert_eq!(harvest(&mut guest, Recorded::Dirty, &mut bitmap), 1);
        assert_eq!(bitmap, [0, 0, 1 << 2, 0, 0, 0, 0, 0]);
    } else {
        // Svade: the store faults, and the owner marks the page.
        assert_eq!(Trap::from(&access.unwrap_err()).exception.code(), 23);
        assert!(guest.translate(written, READ).is_ok(), "still accessed");
    }

    // A dirty log by write protection.
    let mut gather = Gather::new(&Unused, ());
    guest.protect(first, 2 * MIB, Prot::RX, &mut gather).unwrap();
    gather.finish(guest.tables()).unwrap();
    assert!(guest.translate(written, WRITE).is_err());
    assert!(guest.translate(written, Access::FETCH.by_user()).is_ok());

    // Ageing.
    bitmap = [0; 8];
    assert_eq!(harvest(&mut guest, Recorded::Accessed, &mut bitmap), 512);
    assert_eq!(guest.translate(first, READ).is_ok(), adue, "without A, Svade faults");

    let mut gather = Gather::new(&Unused, ());
    assert_eq!(guest.unmap(first, 2 * MIB, &mut gather).unwrap(), 2 * MIB);
    gather.finish(guest.tables()).unwrap();
    let _ = guest.destroy(Gather::new(&Unused, ())).map_err(|(_, error)| error).unwrap();
    assert_eq!(tables.close().unwrap().live, 0, "every table came back");
}

/// The addresses of the fences that were executed.
#[derive(Default)]
struct Fences(RefCell<Vec<Option<u64>>>);

impl Invalidate<Stage2> for Fences {
    type Identity = ();

    fn invalidate(&self, (): (), stale: &Stale<Gpa>) -> Result<(), InvalidateFailed> {
        let fences = hfence_gvma(stale, None, false, CEILING);
        self.0.borrow_mut().extend(fences.map(|fence| fence.rs1));
        Ok(())
    }

    fn abandoned(&self, (): (), _: usize, _: Result<(), InvalidateFailed>) {}
}

/// A NAPOT page is 16 equal entries; a change of a part makes it 16 pages, and each 4 KiB of it is
/// fenced.
#[test]
fn pages_of_64_kib() {
    let words: Vec<_> = (0..1 << 16).map(|_| AtomicU64::new(0)).collect();
    let memory = DirectMap::new(&words, Hpa::new(0));
    let frames = Frames::new(Region::new(memory, Hpa::new(0), 8, 16).unwrap()).unwrap();
    let tables = Cache::new(&frames, Owner(1), Kind::User, Policy::Reuse);
    let extensions = Extensions { svnapot: true, ..Extensions::new() };
    let format = SvX4::new(Mode::Sv39, GuestControls { extensions, ..GuestControls::new() });
    let mut guest = PageTable::new(format, memory, &tables).unwrap();
    let (gpa, hpa) = (Gpa::new(0x8001_0000), Hpa::new(0x9002_0000));
    guest.map(gpa, hpa, 0x1_0000, Prot::RW.into(), Leaves::Largest).unwrap();
    let entries = guest.walker().trace(Gpa::new(gpa.get() + 0x5000));
    let last = entries.last().unwrap();
    assert_eq!(last.word, 1 << 63 | 0x9_0028 << 10 | 0xd7);
    let first = (last.address.get() / 8 - 5) as usize;
    let held: Vec<_> = words[first..first + 16].iter().map(|word| word.load(Relaxed)).collect();
    assert_eq!(held, [last.word; 16]);
    let found = guest.translate(Gpa::new(gpa.get() + 0xa123), WRITE).unwrap();
    assert_eq!((found.output, found.shift), (Hpa::new(hpa.get() + 0xa123), 16));

    let fences = Fences::default();
    let mut gather = Gather::new(&fences, ());
    guest.unmap(Gpa::new(gpa.get() + 0x3000), PAGE, &mut gather).unwrap();
    gather.finish(guest.tables()).unwrap();
    let mut fenced = fences.0.take();
    fenced.sort_unstable();
    fenced.dedup();
    let pages = (0..16).map(|n| Some((gpa.get() + n * PAGE) >> 2));
    assert_eq!(fenced, pages.collect::<Vec<_>>());
    for n in 0..16 {
        let page = Gpa::new(gpa.get() + n * PAGE);
        match guest.translate(page, WRITE) {
            Ok(found) => {
                assert_eq!((found.output.get(), found.shift), (hpa.get() + n * PAGE, 12));
            }
            Err(fault) => assert_eq!((n, fault.arch.code()), (3, 23)),
        }
    }
    // Without Svnapot the same range is 16 pages.
    let none = SvX4::new(Mode::Sv39, GuestControls::new());
    let mut plain = PageTable::new(none, memory, &tables).unwrap();
    plain.map(gpa, hpa, 0x1_0000, Prot::RW.into(), Leaves::Largest).unwrap();
    assert_eq!(plain.translate(gpa, WRITE).unwrap().shift, 12);
}
