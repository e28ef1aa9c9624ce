//! Two stages against two flat maps; the cache that must never be stale.

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::sync::atomic::{AtomicU64, Ordering};

use pgtable::allocator::{AllocError, Contents, TableAllocator, TableLayout, TableState};
use pgtable::cache::{Generation, TranslationCache, Watch};
use pgtable::format::{FirstStage, SecondStage};
use pgtable::invalidate::Gather;
use pgtable::memory::{DirectMap, MemoryError, ReadMemory, TableMemory};
use pgtable::tree::PageTable;
use pgtable::two_stage::{TwoStage, TwoStageFault};
use pgtable::{Access, Gpa, Gva, Hpa, Leaves, Prot, Stage1, Stage2};
use pgtable_conformance::srmmu::Srmmu;
use pgtable_ppc64::radix::{Granule, PartitionScoped, ProcessScoped};
use pgtable_x86::{Controls, Ept, EptControls, Levels, LongMode, Npt, NptControls};
use proptest::prelude::*;

use crate::support::{Arena, Tables, Tlb};

/// The guest's tables stand at other guest-physical than host-physical addresses: this far apart.
const APART: u64 = 0x7_0000_0000;

/// The same memory at guest-physical addresses, for whoever builds the guest's tables.
struct Guest<'m>(DirectMap<'m, Gpa>);

impl ReadMemory<Gpa> for Guest<'_> {
    pgtable::words_in_place!(Gpa);
}

impl TableMemory<Gpa> for Guest<'_> {
    fn word(&self, address: Gpa) -> Result<&AtomicU64, MemoryError> {
        self.0.word(Gpa::new(address.get() - APART))
    }

    fn table(&self, address: Gpa, words: usize) -> Result<&[AtomicU64], MemoryError> {
        self.0.table(Gpa::new(address.get() - APART), words)
    }

    fn wrote(&self, address: Gpa, words: usize) {
        self.0.wrote(Gpa::new(address.get() - APART), words);
    }
}

struct GuestTables<'m>(&'m Tables<'m>);

impl TableAllocator<Gpa> for GuestTables<'_> {
    fn allocate(&self, layout: TableLayout) -> Result<Gpa, AllocError> {
        self.0.allocate(layout).map(|table: Gpa| Gpa::new(table.get() + APART))
    }

    fn free(&self, table: Gpa, layout: TableLayout, contents: Contents) -> Result<(), AllocError> {
        self.0.free(Gpa::new(table.get() - APART), layout, contents)
    }

    fn state(&self, table: Gpa, layout: TableLayout) -> Option<&TableState> {
        TableAllocator::<Gpa>::state(self.0, Gpa::new(table.get() - APART), layout)
    }
}

#[derive(Clone, Debug)]
enum Op {
    MapGuest { page: u64, to: u64, prot: Prot },
    UnmapGuest { page: u64 },
    MapHost { page: u64, to: u64, prot: Prot },
    UnmapHost { page: u64 },
    ProtectHost { page: u64, prot: Prot },
    Access { page: u64, access: Access },
}

fn op() -> impl Strategy<Value = Op> {
    let prot = prop_oneof![
        Just(Prot::RWX.for_user()),
        Just(Prot::RW.for_user()),
        Just(Prot::R.for_user())
    ];
    let access = prop_oneof![
        Just(Access::READ.by_user()),
        Just(Access::WRITE.by_user()),
        Just(Access::FETCH.by_user())
    ];
    let page = || 0u64..12;
    prop_oneof![
        2 => (page(), page(), prot.clone()).prop_map(|(page, to, prot)| Op::MapGuest { page, to, prot }),
        1 => page().prop_map(|page| Op::UnmapGuest { page }),
        3 => (page(), page(), prot.clone()).prop_map(|(page, to, prot)| Op::MapHost { page, to, prot }),
        1 => page().prop_map(|page| Op::UnmapHost { page }),
        1 => (page(), prot).prop_map(|(page, prot)| Op::ProtectHost { page, prot }),
        6 => (page(), access).prop_map(|(page, access)| Op::Access { page, access }),
    ]
}

fn allows(prot: Prot, access: Access) -> bool {
    match access.kind {
        pgtable::AccessKind::Read => prot.read(),
        pgtable::AccessKind::Write => prot.write(),
        pgtable::AccessKind::Fetch => prot.execute(),
    }
}

fn run<F1: FirstStage, F2: SecondStage>(stage1: F1, stage2: F2, ops: &[Op]) {
    let guest_arena = Arena::new(2 << 20);
    let guest_tables = Tables::new(&guest_arena);
    let host_arena = Arena::new(4 << 20);
    let host_tables = Tables::new(&host_arena);
    let shift = stage1.geometry().page_shift().max(stage2.geometry().page_shift());
    let page = 1u64 << shift;

    let guest_memory = Guest(guest_arena.memory());
    let mut guest = PageTable::new(stage1, &guest_memory, GuestTables(&guest_tables)).unwrap();
    let host_memory =
        Joined { tables: host_arena.memory(), guest: guest_arena.memory(), loads: 0.into() };
    let mut host = PageTable::new(stage2, &host_memory, &host_tables).unwrap();
    // The guest's table memory is mapped whole.
    let all = F2::Attributes::from(Prot::RWX.for_user());
    let tables_at = Gpa::new(0x4000_0000 + APART);
    host.map(tables_at, Hpa::new(GUEST_AT), 2 << 20, all, Leaves::AtMost(21)).unwrap();

    let generation = Generation::new();
    let tlb = Tlb::default();
    let by = Watch::new(&tlb, &generation);
    let cache = TranslationCache::<F2, 16>::new(&generation);
    let mut model1 = BTreeMap::new();
    let mut model2 = BTreeMap::new();
    let gva = |n: u64| Gva::new((1 << 30) + n * page);
    let gpa = |n: u64| Gpa::new((5 << 30) + n * page);
    let hpa = |n: u64| Hpa::new((9 << 30) + n * page);
    for op in ops {
        let mut of_guest = Gather::<Stage1, _>::new(&tlb, 1);
        let mut of_host = Gather::<Stage2, _>::new(&by, 1);
        match *op {
            Op::MapGuest { page: at, to, prot } => {
                let mapped =
                    guest.map(gva(at), gpa(to), page, F1::Attributes::from(prot), Leaves::Largest);
                assert_eq!(mapped.is_ok(), !model1.contains_key(&at));
                model1.entry(at).or_insert((to, prot));
            }
            Op::UnmapGuest { page: at } => {
                guest.unmap(gva(at), page, &mut of_guest).unwrap();
                model1.remove(&at);
            }
            Op::MapHost { page: at, to, prot } => {
                let mapped =
                    host.map(gpa(at), hpa(to), page, F2::Attributes::from(prot), Leaves::Largest);
                assert_eq!(mapped.is_ok(), !model2.contains_key(&at));
                model2.entry(at).or_insert((to, prot));
            }
            Op::UnmapHost { page: at } => {
                host.unmap(gpa(at), page, &mut of_host).unwrap();
                model2.remove(&at);
            }
            Op::ProtectHost { page: at, prot } => {
                host.protect(gpa(at), page, prot, &mut of_host).unwrap();
                model2.entry(at).and_modify(|entry| entry.1 = prot);
            }
            Op::Access { .. } => {}
        }
        of_guest.finish(guest.tables()).unwrap();
        of_host.finish(&&host_tables).unwrap();
        let Op::Access { page: at, access } = *op else { continue };

        let cold = TwoStage::new(stage1, guest.root(), host.walker());
        host_memory.loads.set(0);
        let uncached = cold.translate(gva(at), access);
        let levels = usize::from(stage1.geometry().levels()) + 1;
        assert!(
            host_memory.loads.get() < levels * (2 * usize::from(stage2.geometry().levels()) + 1),
            "more loads than a walk has"
        );
        let warm = TwoStage::new(stage1, guest.root(), host.walker()).with_cache(&cache);
        let cached = warm.translate(gva(at), access);
        assert_eq!(cached, uncached, "the cache is stale");
        let (one, two) = (model1.get(&at), model1.get(&at).and_then(|(to, _)| model2.get(to)));
        match (uncached, one, two) {
            (Ok(found), Some((_, prot1)), Some((to, prot2))) => {
                assert_eq!(found.output(), hpa(*to));
                assert!(allows(*prot1, access) && allows(*prot2, access));
            }
            (Err(TwoStageFault::Stage1(fault)), one, _) => {
                assert_eq!(fault.address, gva(at));
                assert!(one.is_none_or(|(_, prot)| !allows(*prot, access)), "{fault}");
            }
            (
                Err(TwoStageFault::Stage2 { table: None, fault, address, .. }),
                Some((to, prot1)),
                two,
            ) => {
                assert_eq!((fault.address, address), (gpa(*to), gva(at)));
                assert!(
                    allows(*prot1, access) && two.is_none_or(|(_, prot)| !allows(*prot, access)),
                    "{fault}"
                );
            }
            (found, ..) => panic!("{found:?} with {one:?} and {two:?}"),
        }
    }

    // The guest's root leaves the second stage: now it is a table that faults, and the fault says
    // which.
    let mut gather = Gather::<Stage2, _>::new(&by, 1);
    host.unmap(tables_at, 2 << 20, &mut gather).unwrap();
    gather.finish(&&host_tables).unwrap();
    let warm = TwoStage::new(stage1, guest.root(), host.walker()).with_cache(&cache);
    match warm.translate(gva(0), Access::READ.by_user()) {
        Err(TwoStageFault::Stage2 { table: Some(at), fault, .. }) => {
            assert_eq!(at.level, stage1.geometry().root());
            assert_eq!(
                fault.arch,
                stage2.fault_of_guest_table(fault.arch, Access::READ.by_user()),
                "the fault says that it hit a table"
            );
            assert_eq!(fault.address.get() & !0xffff, guest.root().get() & !0xffff);
        }
        found => panic!("{found:?}"),
    }
    guest.destroy(Gather::new(&tlb, 1)).map_err(|(_, error)| error).unwrap();
    host.destroy(Gather::new(&tlb, 1)).map_err(|(_, error)| error).unwrap();
}

/// Where the guest's table memory stands in host-physical space.
const GUEST_AT: u64 = 0x20_0000_0000;

/// Host memory: the second stage's tables, and the guest's memory elsewhere. Counts loads.
struct Joined<'m> {
    tables: DirectMap<'m, Hpa>,
    guest: DirectMap<'m, Hpa>,
    loads: std::cell::Cell<usize>,
}

impl ReadMemory<Hpa> for Joined<'_> {
    pgtable::words_in_place!(Hpa);
}

impl TableMemory<Hpa> for Joined<'_> {
    fn word(&self, address: Hpa) -> Result<&AtomicU64, MemoryError> {
        self.loads.set(self.loads.get() + 1);
        match address.get().checked_sub(GUEST_AT) {
            Some(within) => self.guest.word(Hpa::new(self.guest.start().get() + within)),
            None => self.tables.word(address),
        }
    }

    fn table(&self, address: Hpa, words: usize) -> Result<&[AtomicU64], MemoryError> {
        self.tables.table(address, words)
    }

    fn wrote(&self, _: Hpa, _: usize) {}
}

macro_rules! pairs {
    ($($name:ident: $stage1:expr, $stage2:expr;)*) => {
        proptest! {
            #![proptest_config(pgtable_conformance::cases::config(48))]
            $(#[test]
            fn $name(ops in proptest::collection::vec(op(), 1..80)) {
                run($stage1, $stage2, &ops);
            })*
        }
    };
}

pairs! {
    radix_on_radix: ProcessScoped::new(Granule::K64), PartitionScoped::new(Granule::K64);
    radix_4k_on_radix_64k: ProcessScoped::new(Granule::K4), PartitionScoped::new(Granule::K64);
    x86_on_ept: LongMode::new(Levels::Four, Controls::new()), Ept::new(Levels::Four, EptControls::new());
    srmmu_on_ept: Srmmu, Ept::new(Levels::Four, EptControls::new());
    srmmu_on_npt: Srmmu, Npt::new(Levels::Four, NptControls::new());
    x86_on_npt: LongMode::new(Levels::Five, Controls::new()), Npt::new(Levels::Four, NptControls::new());
}

/// Under mode-based execute control it is the page that says whether XU or X governs a fetch, not
/// who fetches: of all its entries, those above it included.
#[test]
fn fetches_are_judged_by_whose_page_it_is() {
    let host = Arena::new(1 << 20);
    let tables = Tables::new(&host);
    let controls = Controls { smep: false, ..Controls::new() };
    let mut guest =
        PageTable::new(LongMode::new(Levels::Four, controls), host.memory::<Gpa>(), &tables)
            .unwrap();
    let controls = EptControls { mode_based_execute: true, ..EptControls::new() };
    let mut ept =
        PageTable::new(Ept::new(Levels::Four, controls), host.memory::<Hpa>(), &tables).unwrap();
    let (user, supervisor, below) = (Gva::new(0x1000), Gva::new(0x2000), Gva::new(1 << 39));
    for (page, prot) in [
        (user, Prot::RWX.with_user(true)),
        (supervisor, Prot::RWX),
        (below, Prot::RWX.with_user(true)),
    ] {
        guest.map(page, Gpa::new(0x7000), 0x1000, prot.into(), Leaves::Largest).unwrap();
    }
    // A user page below an entry that is the supervisor's.
    let entry = guest.root().get() + 8;
    guest
        .memory()
        .word(Gpa::new(entry))
        .unwrap()
        .fetch_and(!4, std::sync::atomic::Ordering::Relaxed);
    let tables_at = guest.root().get() & !0xfffff;
    ept.map(
        Gpa::new(tables_at),
        Hpa::new(tables_at),
        1 << 20,
        Prot::RW.into(),
        Leaves::Exactly(12),
    )
    .unwrap();
    // Fetches from supervisor-mode addresses only.
    let page = pgtable_x86::EptAttributes::from(Prot::RWX).with_user_execute(false);
    ept.map(Gpa::new(0x7000), Hpa::new(0x7000), 0x1000, page, Leaves::Largest).unwrap();
    let generation = Generation::new();
    let cache = TranslationCache::<Ept, 16>::new(&generation);
    let plain = TwoStage::new(*guest.format(), guest.root(), ept.walker());
    let cached = TwoStage::new(*guest.format(), guest.root(), ept.walker()).with_cache(&cache);
    for _ in 0..2 {
        for (address, allowed) in [(user, false), (supervisor, true), (below, true)] {
            // SMEP is off: a supervisor may fetch from either.
            let fetch = Access::FETCH;
            assert_eq!(plain.translate(address, fetch).is_ok(), allowed, "{address}");
            assert_eq!(cached.translate(address, fetch).is_ok(), allowed, "{address}, cached");
            assert!(cached.translate(address, Access::READ).is_ok(), "{address}");
        }
    }
}

/// One cache serves several guest trees behind the same second stage, and whoever else asks it:
/// each of them forgets by itself where its tables stood.
#[test]
fn who_shares_a_cache_is_not_stale() {
    let arena = Arena::new(1 << 20);
    let tables = Tables::new(&arena);
    let format = LongMode::new(Levels::Four, Controls::new());
    let mut guest = PageTable::new(format, arena.memory::<Gpa>(), &tables).unwrap();
    let ept = Ept::new(Levels::Four, EptControls::new());
    let mut ept = PageTable::new(ept, arena.memory::<Hpa>(), &tables).unwrap();
    let (page, output) = (Gva::new(0x1000), Gpa::new(0x7000));
    guest.map(page, output, 0x1000, Prot::RW.into(), Leaves::Largest).unwrap();
    let tables_at = guest.root().get() & !0xfffff;
    ept.map(
        Gpa::new(tables_at),
        Hpa::new(tables_at),
        1 << 20,
        Prot::RW.into(),
        Leaves::Exactly(12),
    )
    .unwrap();
    ept.map(output, Hpa::new(0x9000), 0x1000, Prot::RW.into(), Leaves::Largest).unwrap();

    let generation = Generation::new();
    let tlb = Tlb::default();
    let by = Watch::new(&tlb, &generation);
    let cache = TranslationCache::<Ept, 16>::new(&generation);
    let root = ept.root();
    let walker = || pgtable::walk::Walker::new(*ept.format(), arena.memory::<Hpa>(), root);
    let stages = TwoStage::new(format, guest.root(), walker()).with_cache(&cache);
    for _ in 0..2 {
        assert_eq!(stages.translate(page, Access::READ).unwrap().output(), Hpa::new(0x9000));
    }
    let walker = walker();

    // The root of the guest's tree goes.
    let mut gather = Gather::new(&by, 7);
    let gone = ept.unmap(Gpa::new(guest.root().get()), 0x1000, &mut gather);
    gather.finish(ept.tables()).unwrap();
    assert_eq!(gone, Ok(0x1000));
    // The cache is current again by somebody else's doing, and knows the page once more.
    assert_eq!(cache.translate(&walker, output, Access::READ).unwrap().output, Hpa::new(0x9000));
    let fault = stages.translate(page, Access::READ).unwrap_err();
    assert!(matches!(fault, TwoStageFault::Stage2 { table: Some(_), .. }), "{fault}");
}

/// What is remembered of a walk is where each level's table stood: another walk's tables are
/// others, though they stand beside them; and nothing of it is true after an invalidation, though a
/// walk that ends early looks at the first level only.
#[test]
fn where_tables_stood() {
    const PAGE: u64 = 0x1000;
    let (guest_arena, host_arena) = (Arena::new(1 << 20), Arena::new(1 << 20));
    let (guest_tables, tables) = (Tables::new(&guest_arena), Tables::new(&host_arena));
    let format = LongMode::new(Levels::Four, Controls::new());
    let guest_memory = Guest(guest_arena.memory());
    let mut guest = PageTable::new(format, &guest_memory, GuestTables(&guest_tables)).unwrap();
    let memory =
        Joined { tables: host_arena.memory(), guest: guest_arena.memory(), loads: 0.into() };
    let mut ept =
        PageTable::new(Ept::new(Levels::Four, EptControls::new()), &memory, &tables).unwrap();
    let far = |n: u64| Gva::new((n << 39) + 0x5000);
    for n in 0..3 {
        guest.map(far(n), Gpa::new((n + 1) << 20), PAGE, Prot::RW.into(), Leaves::Largest).unwrap();
    }
    // A second table of the last level: what the hypervisor puts in the place of the first one
    // later.
    let leaf = guest.walker().trace(far(0)).last().unwrap().address;
    let (table, within) = (Gpa::new(leaf.get() & !0xfff), leaf.get() & 0xfff);
    let layout = TableLayout::of::<LongMode>(9, pgtable::Level(0));
    let other: Gpa = guest.tables().allocate(layout).unwrap();
    // Whatever else is taken for such a table says something else than any of them.
    let word = guest_memory.word(leaf).unwrap().load(Ordering::Relaxed);
    let decoy = word ^ (1u64 << 20).to_le() ^ (9u64 << 20).to_le();
    let mut in_use = vec![];
    assert!(
        guest
            .walker()
            .for_each_table(|it| {
                in_use.push(it.address());
                ControlFlow::<()>::Continue(())
            })
            .is_continue()
    );
    let first = 0x4000_0000 + APART;
    for page in
        (first..first + (1 << 20)).step_by(0x1000).filter(|page| !in_use.contains(&Gpa::new(*page)))
    {
        guest_memory.word(Gpa::new(page + within)).unwrap().store(decoy, Ordering::Relaxed);
    }

    let rw = || Prot::RW.into();
    let host = |at: Gpa| Hpa::new(at.get() - (0x4000_0000 + APART) + GUEST_AT);
    let tables_at = Gpa::new(0x4000_0000 + APART);
    ept.map(tables_at, host(tables_at), 1 << 20, rw(), Leaves::Exactly(12)).unwrap();
    ept.map(Gpa::new(0), Hpa::new(0), 16 << 20, rw(), Leaves::Largest).unwrap();
    let (generation, tlb) = (Generation::new(), Tlb::default());
    let by = Watch::new(&tlb, &generation);
    let cache = TranslationCache::<Ept, 64>::new(&generation);
    let root = ept.root();
    let walker = || pgtable::walk::Walker::new(*ept.format(), &memory, root);
    let stages = TwoStage::new(format, guest.root(), walker()).with_cache(&cache);
    let other_walker = walker();
    let output = |at: Gva| stages.translate(at, Access::READ).map(|found| found.output().get());
    for n in [0, 0, 1, 1, 2, 0, 2, 1, 1, 0, 0] {
        memory.loads.set(0);
        assert_eq!(output(far(n)), Ok((n + 1) << 20), "{n}");
    }
    // The same again: a load for each level of the guest's tree, and none of the second stage.
    assert_eq!(memory.loads.get(), 4);
    let found = stages.translate(far(0), Access::READ).unwrap();
    assert_eq!((found.stage1.shift, found.stage2.shift, found.shift()), (12, 21, 12));

    // The hypervisor puts another page in the place of the table.
    let mut gather = Gather::new(&by, 7);
    let remapped =
        ept.remap(table, host(other), PAGE, Prot::RW.into(), Leaves::Exactly(12), &mut gather);
    gather.finish(ept.tables()).unwrap();
    remapped.unwrap();
    // A walk that ends at the root; somebody else asks for the page that the table leads to now,
    // and to the one that it led to.
    assert!(output(far(7)).is_err());
    for page in [1, 9] {
        assert!(cache.translate(&other_walker, Gpa::new(page << 20), Access::READ).is_ok());
    }
    for n in [0, 0, 1, 0, 2, 1, 2, 2, 0] {
        assert_eq!(output(far(n)), Ok(if n == 0 { 9 << 20 } else { (n + 1) << 20 }), "{n}");
    }
    guest.tables().free(other, layout, Contents::Stale).unwrap();
}
