//! A guest stage as its owner uses it, through the verbs of `pgtable` that every format has: the
//! 16-KiB root beside 4-KiB tables in one frame allocator, faults, size conflicts, dirty log,
//! ageing, teardown.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::sync::atomic::AtomicU64;

use arch_riscv64::{Extensions, GuestControls, Mode, SvX4, Trap};
use frag_alloc::{Cache, Frames, Kind, Owner, Policy, Region};
use pgtable::{
    Access, DirectMap, Error, Gather, Gpa, Hpa, Leaves, PageTable, Prot, Recorded, Unused, Writers,
};

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
