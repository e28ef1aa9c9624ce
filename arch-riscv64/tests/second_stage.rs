//! The owner of a guest stage, against the kit's list of leaves: each mode, with records by
//! hardware (Svadu) and by software, and with NAPOT pages.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::sync::atomic::AtomicU64;

use frag_alloc::{Cache, Frames, Kind, Owner, Policy, Region};
use pgtable::memory::DirectMap;
use pgtable::second_stage::{HostPage, MemorySlot, Stage2Tree};
use pgtable::{Access, Gpa, Hpa, Prot};
use pgtable_conformance::tlb::Tlb;
use pgtable_riscv64::{Extensions, GuestControls, Mode, SvX4, Trap};

const fn guest(mode: Mode, adue: bool, svnapot: bool) -> SvX4 {
    let extensions = Extensions { adue, svnapot, ..Extensions::new() };
    SvX4::new(mode, GuestControls { extensions, ..GuestControls::new() })
}

pgtable_conformance::second_stage! {
    sv39x4: guest(Mode::Sv39, false, false);
    sv39x4_records: guest(Mode::Sv39, true, false);
    sv48x4_napot: guest(Mode::Sv48, true, true);
    sv57x4: guest(Mode::Sv57, false, true);
}

/// The root of 16 KiB comes from the same frames as tables of 4 KiB, and reaches the highest
/// address; each fault is the guest's trap, and is over once the page is faulted in.
#[test]
fn traps_until_the_last_page() {
    for mode in Mode::ALL {
        let words: Vec<_> = (0..1 << 17).map(|_| AtomicU64::new(0)).collect();
        let memory = DirectMap::new(&words, Hpa::new(0));
        let frames = Frames::new(Region::new(memory, Hpa::new(0), 16, 16).unwrap()).unwrap();
        let tables = Cache::new(&frames, Owner(1), Kind::User, Policy::Reuse);
        let (format, tlb) = (guest(mode, false, false), Tlb::default());
        let mut stage = Stage2Tree::new(format, memory, &tables, 3).unwrap();
        assert_eq!(stage.root().get() & 0x3fff, 0, "the root has 16 KiB");
        assert_eq!(format.hgatp(stage.root(), 3).mode(), mode.code());
        let end = 1u64 << (14 + 9 * mode.levels());
        let (start, hva) = (Gpa::new(0), 1 << 40);
        let slot = MemorySlot { gpa: start, bytes: end, hva, read_only: false, logged: false };
        for gpa in [0, 0x1000, end - 0x1000].map(Gpa::new) {
            let store = Access::WRITE.by_user();
            let trap = Trap::from(&stage.walker().translate(gpa, store).unwrap_err());
            assert_eq!((trap.exception.code(), trap.gpa(true)), (23, Some(gpa)));
            let frame = Hpa::new(1 << 40 | gpa.get() & 0xff_f000);
            let page = HostPage { frame, shift: 12, attributes: Prot::RWX.into() };
            let (ticket, mut gather) = (stage.ticket(), stage.gather(&tlb));
            stage.fault_in(ticket, gpa, store.kind, &slot, page, &mut gather, |_| ()).unwrap();
            stage.finish(&mut gather).unwrap();
            assert_eq!(stage.walker().translate(gpa, store).unwrap().output, frame);
        }
        let beyond = stage.walker().translate(Gpa::new(end), Access::READ.by_user());
        assert_eq!(Trap::from(&beyond.unwrap_err()).gpa(true), Some(Gpa::new(end)));
        stage.destroy(&tlb).map_err(|(_, error)| error).unwrap();
        assert_eq!(tables.close().unwrap().live, 0, "every table came back");
    }
}
