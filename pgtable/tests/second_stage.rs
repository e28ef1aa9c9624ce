//! Slots, and the owner of a second stage, by hand: what the kit's random operations reach seldom.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

use pgtable::format::Format;
use pgtable::memory::DirectMap;
use pgtable::second_stage::{FaultInError, HostPage, MemorySlot, Placed, Stage2Tree};
use pgtable::walk::Walker;
use pgtable::{Access, AccessKind, Attributes, Gpa, Hpa, Mapping, Memory, Prot};
use pgtable_conformance::memory::{Arena, Tables};
use pgtable_conformance::tlb::Tlb;
use pgtable_ppc64::radix::{Granule, PartitionScoped};
use pgtable_x86::{Ept, EptAttributes, EptControls, Levels, logged_pages};

const M2: u64 = 2 << 20;
const G1: u64 = 1 << 30;
const MEMORY: MemorySlot =
    MemorySlot { gpa: Gpa::new(0), bytes: 4 * G1, hva: 64 * G1, read_only: false, logged: false };

#[test]
fn page_sizes() {
    let logged = MemorySlot { logged: true, ..MEMORY };
    let askew_64k = MemorySlot { hva: 64 * G1 + 0x1_0000, ..MEMORY };
    let askew_4k = MemorySlot { hva: 64 * G1 + 0x1000, ..MEMORY };
    let askew_2m = MemorySlot { hva: 64 * G1 + M2, ..MEMORY };
    let short = MemorySlot { bytes: M2 + 0x1_0000, ..MEMORY };
    let late = MemorySlot { gpa: Gpa::new(0x1_0000), hva: 64 * G1 + 0x1_0000, bytes: G1, ..MEMORY };
    let (k4, k64) = (Granule::K4, Granule::K64);
    for (name, slot, gpa, host, granule, want) in [
        ("1G", MEMORY, 0x1234_5678, 30, k64, Some(30)),
        ("a host page of 16G gives 1G", MEMORY, 0x1234_5678, 34, k64, Some(30)),
        ("2M", MEMORY, 0x1234_5678, 21, k64, Some(21)),
        ("64K", MEMORY, 0x1234_5678, 16, k64, Some(16)),
        ("16M gives 2M", MEMORY, 0x1234_5678, 24, k4, Some(21)),
        ("64K as 4K", MEMORY, 0x1234_5678, 16, k4, Some(12)),
        ("4K", MEMORY, 0x1234_5678, 12, k4, Some(12)),
        ("4K cannot be 64K", MEMORY, 0x1234_5678, 12, k64, None),
        ("logged", logged, 0x1234_5678, 30, k64, Some(16)),
        ("logged 4K", logged, 0x1234_5678, 30, k4, Some(12)),
        ("logged, too small", logged, 0x1234_5678, 12, k64, None),
        ("askew by 64K", askew_64k, 0x1234_5678, 30, k64, Some(16)),
        ("askew by 4K", askew_4k, 0x1234_5678, 30, k64, None),
        ("askew by 4K", askew_4k, 0x1234_5678, 30, k4, Some(12)),
        ("askew by 2M", askew_2m, 0x1234_5678, 30, k64, Some(21)),
        ("1G would leave the slot", short, 0x1_0000, 30, k64, Some(21)),
        ("2M would leave the slot", short, M2, 30, k64, Some(16)),
        ("2M would begin before the slot", late, 0x1_0000, 30, k64, Some(16)),
        ("2M within", late, M2, 30, k64, Some(21)),
        ("outside", short, M2 + 0x1_0000, 30, k64, None),
        ("before", late, 0, 30, k64, None),
    ] {
        let format = PartitionScoped::new(granule);
        let shift = slot.leaf_shift(Gpa::new(gpa), host, format.geometry());
        assert_eq!(shift, want, "{name}: {gpa:#x}");
    }
    assert_eq!(late.host_address(Gpa::new(0x1_2345)), Some(64 * G1 + 0x1_2345));
    assert_eq!(late.host_address(Gpa::new(0xffff)), None);
}

#[test]
fn a_slot_at_the_end_of_everything() {
    let slot = MemorySlot { gpa: Gpa::new(u64::MAX - 0xffff), bytes: 0x1_0000, hva: 0, ..MEMORY };
    assert!(slot.contains(Gpa::new(u64::MAX)) && !slot.contains(Gpa::new(0)));
    let format = PartitionScoped::new(Granule::K64);
    assert_eq!(slot.leaf_shift(Gpa::new(u64::MAX), 30, format.geometry()), Some(16));
}

type Stage<'m> = Stage2Tree<Ept, DirectMap<'m, Hpa>, &'m Tables<'m>, u32>;

struct Guest<'m> {
    stage: Stage<'m>,
    tlb: &'m Tlb,
}

impl Guest<'_> {
    fn fault_in(
        &mut self,
        gpa: u64,
        kind: AccessKind,
        slot: &MemorySlot,
        attributes: EptAttributes,
    ) -> Result<Placed, FaultInError> {
        let page = HostPage { frame: Hpa::new(G1 + (gpa & !(M2 - 1))), shift: 21, attributes };
        let mut gather = self.stage.gather(self.tlb);
        let ticket = self.stage.ticket();
        let gpa = Gpa::new(gpa);
        let placed = self.stage.fault_in(ticket, gpa, kind, slot, page, &mut gather, |_| ());
        self.stage.finish(&mut gather).unwrap();
        placed
    }

    fn allows(&self, gpa: u64, access: Access) -> bool {
        self.stage.walker().translate(Gpa::new(gpa), access).is_ok()
    }

    /// What is dirty in the first 2 MiB, and cleared.
    fn dirty(&mut self) -> Vec<u64> {
        let mut gather = self.stage.gather(self.tlb);
        let mut dirty = Vec::new();
        let found = self.stage.clear_dirty(Gpa::new(0), M2, &mut gather, |state| {
            dirty.push(state.leaf.input.get());
        });
        self.stage.finish(&mut gather).unwrap();
        assert_eq!(found, Ok(dirty.len() as u64));
        dirty
    }
}

fn with_guest(controls: EptControls, test: impl FnOnce(Guest<'_>)) {
    let arena = Arena::new(1 << 20);
    let (tables, tlb) = (Tables::new(&arena), Tlb::default());
    let format = Ept::new(Levels::Four, controls);
    let stage = Stage2Tree::new(format, arena.memory(), &tables, 9).unwrap();
    test(Guest { stage, tlb: &tlb });
}

fn rwx() -> EptAttributes {
    Prot::RWX.into()
}

/// A dirty log without dirty flags: each page faults once per round for its first store.
#[test]
fn a_dirty_log_by_faults() {
    let without = EptControls { accessed_dirty: false, ..EptControls::new() };
    with_guest(without, |mut guest| {
        let logged = MemorySlot { logged: true, ..MEMORY };
        // A page that was only read is not dirty, and a store to it faults.
        assert_eq!(guest.fault_in(0x3000, AccessKind::Read, &logged, rwx()), Ok(Placed::New));
        assert!(guest.allows(0x3000, Access::FETCH) && !guest.allows(0x3000, Access::WRITE));
        assert_eq!(guest.fault_in(0x5000, AccessKind::Write, &logged, rwx()), Ok(Placed::New));
        assert_eq!(guest.dirty(), [0x5000]);
        assert_eq!(guest.dirty(), [0; 0]);
        assert!(!guest.allows(0x5000, Access::WRITE) && guest.allows(0x5000, Access::READ));
        // Either way back.
        assert_eq!(guest.fault_in(0x3000, AccessKind::Write, &logged, rwx()), Ok(Placed::Added));
        let mut gather = guest.stage.gather(guest.tlb);
        assert_eq!(guest.stage.redirty(Gpa::new(0x5678), &mut gather), Ok(true));
        guest.stage.finish(&mut gather).unwrap();
        assert!(guest.allows(0x3000, Access::WRITE) && guest.allows(0x5000, Access::WRITE));
        assert_eq!(guest.dirty(), [0x3000, 0x5000]);
        // Ageing unmaps, and shows each page.
        let mut gather = guest.stage.gather(guest.tlb);
        let mut gone = Vec::new();
        let aged =
            guest.stage.age(Gpa::new(0), M2, &mut gather, |state| gone.push(state.leaf.input));
        guest.stage.finish(&mut gather).unwrap();
        assert_eq!((aged, gone), (Ok(true), vec![Gpa::new(0x3000), Gpa::new(0x5000)]));
        assert_eq!(guest.stage.test_age(Gpa::new(0), M2), Ok(false));
    });
}

/// A round of a log that hardware keeps: what it says, and no more, is looked at.
#[test]
fn a_dirty_log_by_hardware() {
    with_guest(EptControls::new(), |mut guest| {
        let logged = MemorySlot { logged: true, ..MEMORY };
        for page in 0..64 {
            let gpa = page << 12;
            assert_eq!(guest.fault_in(gpa, AccessKind::Read, &logged, rwx()), Ok(Placed::New));
        }
        // The processor: D in the leaf, the address in the log, from the end on.
        let mut log = [0; 512];
        for (index, gpa) in [0x7000, 0x1_2000, 0x7008].into_iter().enumerate() {
            guest.stage.walker().access(Gpa::new(gpa), Access::WRITE).unwrap();
            log[511 - index] = gpa & !0xfff;
        }
        let mut gather = guest.stage.gather(guest.tlb);
        let mut dirty = Vec::new();
        let pages = logged_pages(&log, 508);
        let found = guest.stage.clear_logged(pages, &mut gather, |state| {
            dirty.push(state.leaf.input.get());
        });
        guest.stage.finish(&mut gather).unwrap();
        assert_eq!((found, &dirty[..]), (Ok(2), &[0x7000, 0x1_2000][..]));
        assert_eq!(guest.dirty(), [0; 0]);
    });
}

/// Pages that one privilege alone may execute: a fault never grants the other one.
#[test]
fn rights_that_prot_does_not_tell_apart() {
    let controls = EptControls { mode_based_execute: true, ..EptControls::new() };
    with_guest(controls, |mut guest| {
        let user_fetch = Access::FETCH.by_user();
        let kernel_only = rwx().with_user_execute(false);
        assert_eq!(guest.fault_in(0, AccessKind::Fetch, &MEMORY, kernel_only), Ok(Placed::New));
        // Verbs that take the right to write leave it so.
        let mut gather = guest.stage.gather(guest.tlb);
        assert_eq!(guest.stage.write_protect(Gpa::new(0), M2, &mut gather), Ok(1));
        assert_eq!(guest.stage.redirty(Gpa::new(0), &mut gather), Ok(true));
        guest.stage.finish(&mut gather).unwrap();
        let allows = |guest: &Guest<'_>| [Access::FETCH, user_fetch].map(|it| guest.allows(0, it));
        assert_eq!(allows(&guest), [true, false]);
        assert_eq!(guest.fault_in(0, AccessKind::Write, &MEMORY, kernel_only), Ok(Placed::Already));
        // Other rights of this kind replace the leaf.
        assert_eq!(guest.fault_in(0, AccessKind::Fetch, &MEMORY, rwx()), Ok(Placed::New));
        assert_eq!(allows(&guest), [true, true]);
        assert_eq!(guest.fault_in(0, AccessKind::Fetch, &MEMORY, kernel_only), Ok(Placed::New));
        assert_eq!(allows(&guest), [true, false]);
    });
}

/// Another memory type is another leaf, and so is another frame.
#[test]
fn what_is_no_addition() {
    with_guest(EptControls::new(), |mut guest| {
        let uncached = rwx().with_memory(Memory::Uncached);
        for (name, attributes, want) in [
            ("new", rwx(), Placed::New),
            ("the same", rwx(), Placed::Already),
            ("fewer rights", Prot::R.into(), Placed::Already),
            ("another type", uncached, Placed::New),
            ("the same type", uncached, Placed::Already),
        ] {
            let placed = guest.fault_in(0, AccessKind::Read, &MEMORY, attributes);
            assert_eq!(placed, Ok(want), "{name}");
        }
        let mut gather = guest.stage.gather(guest.tlb);
        let (input, output) = (Gpa::new(0), Hpa::new(3 * G1));
        let other = Mapping { input, output, bytes: M2, shift: 21, attributes: uncached };
        let mut gone = Vec::new();
        let placed = guest.stage.place(other, &mut gather, |state| gone.push(state));
        assert_eq!((placed, gone.len()), (Ok(Placed::New), 1));
        assert_eq!((gone[0].leaf.output, gone[0].dirty), (Hpa::new(G1), true));
        guest.stage.finish(&mut gather).unwrap();
        // No leaves of that size.
        let mut gather = guest.stage.gather(guest.tlb);
        for shift in [13, 63, 64, 255] {
            let odd = Mapping { shift, ..other };
            assert!(guest.stage.place(odd, &mut gather, |_| ()).is_err(), "2^{shift}");
        }
        guest.stage.finish(&mut gather).unwrap();
    });
}

/// What somebody else wrote into the tables is an error, and nothing is taken for a leaf.
#[test]
fn a_tree_that_somebody_else_wrote() {
    with_guest(EptControls::new(), |mut guest| {
        guest.fault_in(0x5000, AccessKind::Write, &MEMORY, rwx()).unwrap();
        let walker: Walker<Ept, _> = guest.stage.walker();
        let entry = walker.trace(Gpa::new(0x5000)).last().unwrap().address;
        let word = pgtable::memory::TableMemory::word(walker.memory(), entry).unwrap();
        // Write without read: a misconfiguration.
        word.store(0x8000_0002, core::sync::atomic::Ordering::Relaxed);
        let (gpa, mut gather) = (Gpa::new(0x5000), guest.stage.gather(guest.tlb));
        let stage = &mut guest.stage;
        assert!(stage.state_at(gpa).is_err());
        assert!(stage.record(gpa, AccessKind::Read, &mut gather).is_err());
        assert!(stage.redirty(gpa, &mut gather).is_err());
        assert!(stage.clear_dirty(gpa, 1, &mut gather, |_| ()).is_err());
        assert!(stage.write_protect(gpa, 1, &mut gather).is_err());
        assert!(stage.test_age(gpa, 1).is_err());
        assert!(stage.unmap(gpa, 1, &mut gather, |_| ()).is_err());
        stage.finish(&mut gather).unwrap();
        assert!(guest.fault_in(0x5000, AccessKind::Read, &MEMORY, rwx()).is_err());
    });
}

/// A page that was unmapped may still be held by hardware: the same gather drops it before another
/// page takes the place, and no other.
#[test]
fn what_a_gather_has_stale_goes_before_a_page_comes() {
    for (at, tells) in [(0x3000, true), (M2 - 0x1000, true), (24 * M2, false)] {
        with_guest(EptControls::new(), |mut guest| {
            for gpa in [0, 16 * M2] {
                guest.fault_in(gpa, AccessKind::Write, &MEMORY, rwx()).unwrap();
            }
            let Guest { stage, tlb } = &mut guest;
            let mut gather = stage.gather(*tlb);
            stage.unmap(Gpa::new(0x1000), 1, &mut gather, |_| ()).unwrap();
            assert!(!gather.stale().is_empty() && !gather.stale().tables());
            // Of another size, and elsewhere.
            let ticket = stage.ticket();
            let page = HostPage { frame: Hpa::new(3 * G1 + at), shift: 12, attributes: rwx() };
            let (gpa, read) = (Gpa::new(at), AccessKind::Read);
            let gone = |_| ();
            let placed = stage.fault_in(ticket, gpa, read, &MEMORY, page, &mut gather, gone);
            assert!(placed.is_ok(), "{placed:?}");
            assert_eq!(gather.stale().is_empty(), tells, "{at:#x}");
            stage.finish(&mut gather).unwrap();
        });
    }
}
