//! Cases by hand: what the random ones reach seldom, or not at all.

use core::cell::{Cell, RefCell};

use frag_alloc::{Cache, Frames, Kind, Owner, Policy, Region};
use pgtable::invalidate::{Invalidate, InvalidateFailed, Stale};
use pgtable::memory::DirectMap;
use pgtable::second_stage::{FaultInError as Error, MemorySlot, Placed};
use pgtable::tree::{Recorded, Writers};
use pgtable::walk::Walker;
use pgtable::{AccessKind, Gpa, Hpa, Prot, Stage2};
use pgtable_ppc64::radix::{Granule, PartitionScoped, Pate, ProcessTableWord};
use pgtable_ppc64::second_stage::{HostPage, SecondStage};

use pgtable_conformance::log::Logged;

use crate::host::{TABLES, Tables, Tlb, direct, leaves, memory};

type Stage<'m> = SecondStage<DirectMap<'m, Hpa>, &'m Tables<'m>>;

const HVA: u64 = 1 << 45;
const MEMORY: MemorySlot =
    MemorySlot { gpa: Gpa::new(0), bytes: 4 << 30, hva: HVA, read_only: false, logged: false };

fn host_page(gpa: u64, shift: u8) -> HostPage {
    HostPage {
        frame: Hpa::new(gpa >> shift << shift | 1 << 40),
        shift,
        attributes: Prot::RWX.for_user().into(),
    }
}

fn fault_in(
    stage: &mut Stage<'_>,
    tlb: &Tlb,
    gpa: u64,
    slot: &MemorySlot,
    shift: u8,
) -> Result<Placed, Error> {
    let mut gather = stage.gather(tlb);
    let ticket = stage.ticket();
    let page = host_page(gpa, shift);
    let placed =
        stage.fault_in(ticket, Gpa::new(gpa), AccessKind::Write, slot, page, &mut gather, |_| ());
    stage.finish(&mut gather).unwrap();
    placed
}

fn with_stage(test: impl for<'m> FnOnce(Stage<'m>, &'m Tlb, &dyn Fn() -> u32)) {
    let (words, tlb) = (memory(), Tlb::default());
    let frames = Tables::frames(&words);
    let tables = Tables::new(&frames, &tlb, 5);
    let stage =
        SecondStage::new(PartitionScoped::new(Granule::K64), direct(&words), &tables, 5).unwrap();
    test(stage, &tlb, &|| frames.census().live);
}

/// Every verb tells the memory of the tables which leaves it changed.
#[test]
fn case_a7_changes_of_leaves_are_logged() {
    let (words, tlb) = (memory(), Tlb::default());
    let logged = Logged::new(&words, Hpa::new(TABLES));
    let end = TABLES + words.len() as u64 * 8;
    let region = Region::new(&logged, Hpa::new(TABLES), (words.len() >> 13) as u32, 16).unwrap();
    let frames = Frames::new(region).unwrap();
    let cache = Cache::new(&frames, Owner(5), Kind::Kernel, Policy::Reuse);
    let format = PartitionScoped::new(Granule::K64);
    let mut stage = SecondStage::new(format, &logged, &cache, 5).unwrap();
    let mut gather = stage.gather(&tlb);
    for kind in [AccessKind::Read, AccessKind::Write] {
        // The second adds to the leaf of the first.
        let prot = Prot::RX.for_user().with_write(kind == AccessKind::Write);
        let page = HostPage { attributes: prot.into(), ..host_page(0, 16) };
        let ticket = stage.ticket();
        stage.fault_in(ticket, Gpa::new(0), kind, &MEMORY, page, &mut gather, |_| ()).unwrap();
        logged.verify(end);
    }
    for verb in 0..7 {
        let gpa = Gpa::new(0);
        match verb {
            0 => assert_eq!(stage.age(gpa, 1 << 16, &mut gather, |_| ()), Ok(true)),
            1 => assert_eq!(stage.clear_dirty(gpa, 1, &mut gather, |_| ()), Ok(1)),
            2 => assert_eq!(stage.record(gpa, AccessKind::Write, &mut gather), Ok(true)),
            3 => assert_eq!(stage.write_protect(gpa, 1 << 16, &mut gather), Ok(1)),
            4 => assert_eq!(stage.redirty(gpa, &mut gather), Ok(true)),
            5 => {
                let (recorded, writers) = (Recorded::Dirty, Writers::Running);
                let told = stage.harvest(gpa, 1 << 16, recorded, writers, &mut [0], &mut gather);
                assert_eq!(told, Ok(1));
            }
            _ => drop(stage.unmap(gpa, 1 << 16, &mut gather, |_| ()).unwrap()),
        }
        logged.verify(end);
    }
    stage.finish(&mut gather).unwrap();
    logged.verify(end);
}

#[test]
fn what_was_unmapped_meanwhile_faults_again() {
    with_stage(|mut stage, tlb, _| {
        let again = |stage: &mut Stage<'_>, ticket| {
            let mut gather = stage.gather(tlb);
            let page = host_page(0, 16);
            let placed = stage.fault_in(
                ticket,
                Gpa::new(0),
                AccessKind::Read,
                &MEMORY,
                page,
                &mut gather,
                |_| (),
            );
            stage.finish(&mut gather).unwrap();
            placed
        };
        let ticket = stage.ticket();
        let mut gather = stage.gather(tlb);
        stage.unmap(Gpa::new(1 << 30), 0x1_0000, &mut gather, |_| ()).unwrap();
        stage.finish(&mut gather).unwrap();
        assert_eq!(again(&mut stage, ticket), Err(Error::Again));

        let ticket = stage.ticket();
        stage.invalidation_begins();
        stage.invalidation_begins();
        assert_eq!(again(&mut stage, ticket), Err(Error::Again));
        let during = stage.ticket();
        stage.invalidation_ends();
        assert_eq!(again(&mut stage, during), Err(Error::Again));
        stage.invalidation_ends();
        assert_eq!(again(&mut stage, ticket), Err(Error::Again));
        assert_eq!(again(&mut stage, during), Err(Error::Again));
        let ticket = stage.ticket();
        assert_eq!(again(&mut stage, ticket), Ok(Placed::New));
        assert_eq!(again(&mut stage, ticket), Ok(Placed::Already));
    });
}

/// KVM's hazard: the old translations and the page-walk cache must be gone before the memory of the
/// table is used for anything else. `Tables` checks the latter, the TLB the former.
#[test]
fn what_is_mapped() {
    with_stage(|mut stage, tlb, _| {
        fault_in(&mut stage, tlb, 0x3_0000, &MEMORY, 16).unwrap();
        let found = stage.state_at(Gpa::new(0x3_4567)).unwrap().unwrap().leaf;
        assert_eq!(
            (found.input.get(), found.output.get() & 0xf_ffff, found.shift),
            (0x3_0000, 0x3_0000, 16)
        );
        assert_eq!(stage.state_at(Gpa::new(0x4_0000)), Ok(None));
        assert_eq!(stage.state_at(Gpa::new(u64::MAX)), Ok(None));
    });
}

#[test]
fn a_table_in_the_way_of_a_leaf_and_the_reverse() {
    with_stage(|mut stage, tlb, tables| {
        let logged = MemorySlot { logged: true, ..MEMORY };
        for page in 0..32 {
            assert_eq!(fault_in(&mut stage, tlb, page << 16, &logged, 21), Ok(Placed::New));
        }
        assert_eq!((leaves(&stage).len(), tables()), (32, 4));
        tlb.fill(&stage);
        assert_eq!(fault_in(&mut stage, tlb, 5 << 16, &MEMORY, 21), Ok(Placed::New));
        tlb.verify(&stage);
        assert_eq!((leaves(&stage).len(), tables()), (1, 3));
        assert_eq!(leaves(&stage)[0].shift, 21);

        tlb.fill(&stage);
        assert_eq!(fault_in(&mut stage, tlb, 5 << 16, &MEMORY, 30), Ok(Placed::New));
        tlb.verify(&stage);
        assert_eq!((leaves(&stage).len(), tables()), (1, 2));

        tlb.fill(&stage);
        assert_eq!(fault_in(&mut stage, tlb, 5 << 16, &logged, 30), Ok(Placed::New));
        tlb.verify(&stage);
        assert_eq!((leaves(&stage).len(), tables()), (1, 4));
        assert_eq!(leaves(&stage)[0].input, Gpa::new(5 << 16));
    });
}

#[test]
fn who_may_not_be_mapped() {
    with_stage(|mut stage, tlb, _| {
        let rom = MemorySlot { read_only: true, ..MEMORY };
        assert_eq!(fault_in(&mut stage, tlb, 0, &rom, 16), Err(Error::ReadOnly));
        assert_eq!(fault_in(&mut stage, tlb, 0, &MEMORY, 12), Err(Error::TooSmall { shift: 12 }));
        assert!(matches!(fault_in(&mut stage, tlb, 4 << 30, &MEMORY, 16), Err(Error::Tree(_))));
        let beyond = MemorySlot { gpa: Gpa::new(1 << 52), ..MEMORY };
        assert!(matches!(fault_in(&mut stage, tlb, 1 << 52, &beyond, 16), Err(Error::Tree(_))));
        let mut gather = stage.gather(tlb);
        assert_eq!(stage.record(Gpa::new(1 << 52), AccessKind::Write, &mut gather), Ok(false));
        stage.finish(&mut gather).unwrap();
        assert_eq!(leaves(&stage).len(), 0);
    });
}

#[test]
fn read_only_memory_is_mapped_for_reading_and_never_dirty() {
    with_stage(|mut stage, tlb, _| {
        let rom = MemorySlot { read_only: true, ..MEMORY };
        let mut gather = stage.gather(tlb);
        let ticket = stage.ticket();
        let page = host_page(0, 16);
        stage
            .fault_in(ticket, Gpa::new(0), AccessKind::Fetch, &rom, page, &mut gather, |_| ())
            .unwrap();
        stage.finish(&mut gather).unwrap();
        let it = leaves(&stage)[0].attributes;
        assert_eq!((it.eaa().into_bits(), it.r(), it.c()), (0b0101, true, false));
        let mut gather = stage.gather(tlb);
        assert_eq!(stage.record(Gpa::new(0), AccessKind::Write, &mut gather), Ok(false));
        stage.finish(&mut gather).unwrap();
    });
}

/// A page that was only read is not dirty while its slot is logged; it is, for good measure, while
/// nobody asks.
#[test]
fn only_stores_dirty_a_logged_page() {
    with_stage(|mut stage, tlb, _| {
        for (logged, kind, dirty) in [
            (true, AccessKind::Read, false),
            (true, AccessKind::Fetch, false),
            (true, AccessKind::Write, true),
            (false, AccessKind::Read, true),
        ] {
            let slot = MemorySlot { logged, ..MEMORY };
            let mut gather = stage.gather(tlb);
            stage.unmap(Gpa::new(0), 1 << 30, &mut gather, |_| ()).unwrap();
            let ticket = stage.ticket();
            stage
                .fault_in(ticket, Gpa::new(0), kind, &slot, host_page(0, 16), &mut gather, |_| ())
                .unwrap();
            stage.finish(&mut gather).unwrap();
            assert_eq!(leaves(&stage)[0].attributes.c(), dirty, "{kind:?}, logged: {logged}");
        }
    });
}

#[test]
fn how_hardware_finds_it() {
    with_stage(|stage, _, _| {
        let process_table = ProcessTableWord::from_bits(0x8000_0000_0013_0004);
        let pate = Pate::of_tree(stage.root(), process_table).unwrap();
        assert_eq!(pate.tree.into_bits(), 0xc000_0000_0000_00ad | TABLES);
        assert_eq!(pate.process_table.into_bits(), 0x8000_0000_0013_0004);
    });
}

/// Looks into the tree at the moment of each invalidation.
struct Looking<'m> {
    tree: Cell<Option<(DirectMap<'m, Hpa>, Hpa)>>,
    at: Gpa,
    seen: RefCell<Vec<Option<u8>>>,
}

impl Invalidate<Stage2> for Looking<'_> {
    type Identity = u32;

    fn invalidate(&self, _: u32, _: &Stale<Gpa>) -> Result<(), InvalidateFailed> {
        let (memory, root) = self.tree.get().unwrap();
        let found =
            Walker::new(PartitionScoped::new(Granule::K64), memory, root).query(self.at).unwrap();
        self.seen.borrow_mut().push(found.map(|it| it.shift));
        Ok(())
    }

    fn abandoned(&self, _: u32, _: usize, _: Result<(), InvalidateFailed>) {}
}

/// Hardware must never hold two sizes, or two pages, for one address.
#[test]
fn break_before_make() {
    let words = memory();
    let tlb = Tlb::default();
    let frames = Tables::frames(&words);
    let tables = Tables::new(&frames, &tlb, 5);
    let memory = direct(&words);
    let mut stage =
        SecondStage::new(PartitionScoped::new(Granule::K64), memory, &tables, 5).unwrap();
    let by = Looking {
        tree: Cell::new(Some((memory, stage.walker().root()))),
        at: Gpa::new(0),
        seen: RefCell::default(),
    };
    let logged = MemorySlot { logged: true, ..MEMORY };
    let moved = |shift| HostPage { frame: Hpa::new(1 << 41), ..host_page(0, shift) };
    for (name, slot, page, during) in [
        ("nothing there", &MEMORY, host_page(0, 21), &[][..]),
        ("the same", &MEMORY, host_page(0, 21), &[]),
        ("another page", &MEMORY, moved(21), &[None]),
        ("smaller", &logged, moved(21), &[None]),
        ("larger", &MEMORY, moved(21), &[None]),
        ("larger yet", &MEMORY, moved(30), &[None]),
    ] {
        let mut gather = stage.gather(&by);
        let ticket = stage.ticket();
        stage
            .fault_in(ticket, Gpa::new(0), AccessKind::Read, slot, page, &mut gather, |_| ())
            .unwrap();
        assert_eq!(by.seen.take(), during, "{name}: before the leaf is stored");
        stage.finish(&mut gather).unwrap();
        by.seen.take();
    }
}
