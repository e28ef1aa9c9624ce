//! What the allocator does, case by case: every row of the fragment geometry, errors, the life of a
//! frame.

use std::cell::Cell;
use std::sync::atomic::{AtomicU64, Ordering};

use frag_alloc::{
    Cache, Census, Closed, Error, Frames, Hooks, Kind, Local, Owner, Policy, Refused, Region,
};
use pgtable::allocator::{AllocError, Contents, TableAllocator, TableLayout};
use pgtable::memory::{DirectMap, TableMemory};
use pgtable::{Hpa, Level};

const START: u64 = 0x4000_0000;

fn words(frames: usize, shift: u8) -> Vec<AtomicU64> {
    (0..frames << (shift - 3)).map(|_| AtomicU64::new(!0)).collect()
}

fn region(words: &[AtomicU64], shift: u8) -> Region<Hpa, DirectMap<'_, Hpa>> {
    let frames = (words.len() >> (shift - 3)) as u32;
    Region::new(DirectMap::new(words, Hpa::new(START)), Hpa::new(START), frames, shift)
        .expect("aligned and within")
}

/// Counts constructions and destructions; refuses the first `refuse`.
#[derive(Debug, Default)]
struct Counting {
    constructed: Cell<u32>,
    destructed: Cell<u32>,
    refuse: Cell<u32>,
}

impl Hooks<Hpa> for &Counting {
    fn construct(&self, _: Hpa, _: u8) -> Result<(), Refused> {
        if self.refuse.get() > 0 {
            self.refuse.set(self.refuse.get() - 1);
            return Err(Refused);
        }
        self.constructed.set(self.constructed.get() + 1);
        Ok(())
    }

    fn destruct(&self, _: Hpa, _: u8) {
        self.destructed.set(self.destructed.get() + 1);
    }
}

/// The rows of the powerpc geometry: frame, table, tables per frame.
const ROWS: [(&str, u8, u8, u32); 12] = [
    ("hash 4K PTE", 12, 12, 1),
    ("hash 4K PMD", 12, 10, 4),
    ("hash 64K PTE and its second half", 16, 12, 16),
    ("hash 64K PMD", 16, 13, 8),
    ("hash 64K PMD and its second half", 16, 14, 4),
    ("hash 64K PGD", 16, 11, 32),
    ("radix 4K PTE", 12, 12, 1),
    ("radix 4K PGD", 12, 16, 1),
    ("radix 64K PTE", 16, 8, 256),
    ("radix 64K PMD", 16, 12, 16),
    ("radix 64K PGD", 16, 16, 1),
    ("x86 in 64K frames", 16, 12, 16),
];

#[test]
fn every_row_allocates_zeroed_aligned_distinct_tables_and_gives_everything_back() {
    for (name, frame, table, per_frame) in ROWS {
        for policy in [Policy::Reuse, Policy::Linux] {
            for kind in [Kind::User, Kind::Kernel] {
                let words = words(64, frame);
                let hooks = Counting::default();
                let memory = DirectMap::new(&words, Hpa::new(START));
                let source =
                    Region::with_hooks(memory, Hpa::new(START), 64, frame, &hooks).unwrap();
                let frames = Frames::new(source).unwrap();
                let cache = Cache::new(&frames, Owner(7), kind, policy);
                let layout = TableLayout { shift: table, level: Level(0) };
                let wanted = per_frame * 2 + per_frame / 2;
                let mut tables: Vec<Hpa> =
                    (0..wanted).map(|_| cache.allocate(layout).unwrap()).collect();
                for table in &tables {
                    assert!(table.is_aligned_to(layout), "{name}: {table}");
                    assert!(cache.state(*table, layout).is_some(), "{name}");
                    let words = memory.table(*table, layout.bytes() / 8).unwrap();
                    assert!(
                        words.iter().all(|word| word.load(Ordering::Relaxed) == 0),
                        "{name}: not zeroed"
                    );
                    words[0].store(1, Ordering::Relaxed);
                }
                let per_table = (layout.bytes() >> frame).max(1) as u32;
                let census = frames.census();
                assert_eq!(census.live, wanted, "{name}");
                assert_eq!(census.table_frames, wanted.div_ceil(per_frame) * per_table, "{name}");
                tables.sort();
                tables.dedup();
                assert_eq!(tables.len(), wanted as usize, "{name}: handed out twice");
                for table in tables {
                    cache.free(table, layout, Contents::Stale).unwrap();
                    assert_eq!(
                        cache.free(table, layout, Contents::Stale),
                        Err(AllocError::NotLive { address: table.get() }),
                        "{name}: freed twice"
                    );
                }
                cache.close().unwrap();
                assert!(frames.census().all_home(), "{name}: {:?}", frames.census());
                assert_eq!(frames.source().available(), 64, "{name}");
                let constructed = if kind == Kind::User { wanted.div_ceil(per_frame) } else { 0 };
                assert_eq!(hooks.constructed.get(), constructed, "{name}");
                assert_eq!(hooks.destructed.get(), constructed, "{name}");
            }
        }
    }
}

trait Aligned {
    fn is_aligned_to(&self, layout: TableLayout) -> bool;
}

impl Aligned for Hpa {
    fn is_aligned_to(&self, layout: TableLayout) -> bool {
        self.get() % layout.bytes() as u64 == 0
    }
}

#[test]
fn exhaustion_is_a_value_and_frees_help() {
    let words = words(2, 12);
    let frames = Frames::new(region(&words, 12)).unwrap();
    let cache = Cache::new(&frames, Owner(1), Kind::User, Policy::Reuse);
    let tables: Vec<_> = (0..32).map(|_| cache.take(8).unwrap()).collect();
    assert_eq!(cache.take(8), Err(Error::Exhausted { shift: 8 }));
    assert_eq!(cache.take(12), Err(Error::Exhausted { shift: 12 }));
    cache.give(tables[5], 8, Contents::Stale).unwrap();
    assert_eq!(cache.take(8), Ok(tables[5]));
    assert_eq!(cache.take(7), Err(Error::Unsupported { shift: 7 }));
    assert_eq!(cache.take(30), Err(Error::Unsupported { shift: 30 }));
}

#[test]
fn a_refused_frame_goes_back_and_is_named() {
    let words = words(1, 16);
    let hooks = Counting { refuse: Cell::new(1), ..Counting::default() };
    let memory = DirectMap::new(&words, Hpa::new(START));
    let frames =
        Frames::new(Region::with_hooks(memory, Hpa::new(START), 1, 16, &hooks).unwrap()).unwrap();
    let cache = Cache::new(&frames, Owner(1), Kind::User, Policy::Reuse);
    assert_eq!(cache.take(8), Err(Error::Constructor { frame: Hpa::new(START) }));
    assert!(frames.census().all_home());
    assert!(cache.take(8).is_ok());
    drop(cache);
    assert_eq!(
        (hooks.constructed.get(), hooks.destructed.get()),
        (1, 0),
        "one table is still alive"
    );
}

#[test]
fn what_is_not_a_live_table_is_refused_and_nothing_changes() {
    let words = words(4, 16);
    let frames = Frames::new(region(&words, 16)).unwrap();
    let cache = Cache::new(&frames, Owner(1), Kind::User, Policy::Reuse);
    let other = Cache::new(&frames, Owner(2), Kind::User, Policy::Reuse);
    let front = Local::new(&cache);
    let table = cache.take(8).unwrap();
    let before = frames.census();
    let frame = Hpa::new(START);
    let owner = Some(Owner(1));
    for (address, shift, expected) in [
        (START - 256, 8, Error::Outside { address: Hpa::new(START - 256) }),
        (START + (4 << 16), 8, Error::Outside { address: Hpa::new(START + (4 << 16)) }),
        (START + 256, 8, Error::NotLive { table: Hpa::new(START + 256), frame, owner }),
        (START + 8, 8, Error::NotLive { table: Hpa::new(START + 8), frame, owner }),
        (START, 12, Error::NotLive { table, frame, owner }),
        (
            START + 0x10000,
            8,
            Error::NotLive {
                table: Hpa::new(START + 0x10000),
                frame: Hpa::new(START + 0x10000),
                owner: None,
            },
        ),
    ] {
        assert_eq!(
            cache.give(Hpa::new(address), shift, Contents::Zeroed),
            Err(expected),
            "{address:#x}"
        );
        assert_eq!(
            front.give(Hpa::new(address), shift, Contents::Zeroed),
            Err(expected),
            "front, {address:#x}"
        );
    }
    assert_eq!(other.give(table, 8, Contents::Zeroed), Err(Error::NotLive { table, frame, owner }));
    assert_eq!(
        frames.give(table, Owner(1)),
        Err(Error::NotLive { table, frame, owner }),
        "its cache is open"
    );
    assert_eq!(frames.census(), before);
    cache.give(table, 8, Contents::Stale).unwrap();
}

#[test]
fn tables_that_outlive_their_cache_go_home_one_by_one() {
    let words = words(4, 16);
    let frames = Frames::new(region(&words, 16)).unwrap();
    let cache = Cache::new(&frames, Owner(1), Kind::User, Policy::Reuse);
    let tables: Vec<_> = (0..300).map(|_| cache.take(8).unwrap()).collect();
    assert_eq!(cache.close(), Ok(Closed { frames: 0, live: 300 }));
    assert_eq!(
        frames.census(),
        Census { table_frames: 2, live: 300, refs: 2, fragments: 300, ..Census::default() }
    );
    assert_eq!(cache.take(8), Err(Error::Exhausted { shift: 8 }));
    cache.give(tables[0], 8, Contents::Stale).unwrap();
    drop(cache);
    assert!(frames.give(tables[0], Owner(1)).is_err());
    for &table in &tables[1..] {
        frames.give(table, Owner(1)).unwrap();
    }
    assert!(frames.census().all_home());
    assert_eq!(frames.source().available(), 4);
}

#[test]
fn a_front_hands_out_what_it_got_back_and_puts_everything_back() {
    let words = words(4, 16);
    let frames = Frames::new(region(&words, 16)).unwrap();
    let cache = Cache::new(&frames, Owner(1), Kind::User, Policy::Reuse);
    {
        let (here, there) = (Local::new(&cache), Local::new(&cache));
        for _ in 0..4 {
            let tables: Vec<_> = (0..500).map(|_| here.take(8).unwrap()).collect();
            for &table in &tables {
                there.give(table, 8, Contents::Stale).unwrap();
                assert!(here.give(table, 8, Contents::Stale).is_err(), "freed twice");
            }
        }
        let root = here.take(16).unwrap();
        here.give(root, 16, Contents::Stale).unwrap();
    }
    assert!(cache.trim().unwrap() >= 1);
    assert!(frames.census().all_home(), "{:?}", frames.census());
}

#[test]
fn a_quarantined_frame_is_never_handed_out_again() {
    let words = words(3, 16);
    let frames = Frames::new(region(&words, 16)).unwrap();
    let cache = Cache::new(&frames, Owner(1), Kind::User, Policy::Reuse);
    let front = Local::new(&cache);
    let table = front.take(8).unwrap();
    let found = frames.try_get(Hpa::new(table.get() + 300)).unwrap().unwrap();
    assert_eq!(found.table_frame().unwrap().owner, Owner(1));
    assert_eq!(found.tables().collect::<Vec<_>>(), [table]);
    assert_eq!(
        (found.table_at(Hpa::new(table.get() + 255)), found.table_at(Hpa::new(table.get() + 256))),
        (Some(table), None)
    );
    drop(found);
    frames.quarantine(table).unwrap();
    for _ in 0..512 {
        assert_ne!(front.take(8).unwrap().get() >> 16, table.get() >> 16);
    }
    assert_eq!(front.take(8), Err(Error::Exhausted { shift: 8 }));
    front.give(table, 8, Contents::Stale).unwrap();
    front.put_back().unwrap();
    cache.trim().unwrap();
    assert_eq!(frames.census().table_frames, 2);
    assert!(frames.try_get(table).unwrap().is_none());
    assert_eq!(front.take(8), Err(Error::Exhausted { shift: 8 }));
    // One that is with its source is met when it comes from there.
    let free = Frames::new(region(&words, 16)).unwrap();
    free.quarantine(Hpa::new(START)).unwrap();
    let cache = Cache::new(&free, Owner(1), Kind::User, Policy::Reuse);
    assert_eq!(cache.take(16), Ok(Hpa::new(START + 0x10000)));
}

#[test]
fn the_last_reference_sends_the_frame_home_and_the_last_table_destructs() {
    let words = words(1, 16);
    let hooks = Counting::default();
    let memory = DirectMap::new(&words, Hpa::new(START));
    let frames =
        Frames::new(Region::with_hooks(memory, Hpa::new(START), 1, 16, &hooks).unwrap()).unwrap();
    let cache = Cache::new(&frames, Owner(1), Kind::User, Policy::Linux);
    let table = cache.take(16).unwrap();
    let held = frames.try_get(table).unwrap().unwrap();
    cache.give(table, 16, Contents::Stale).unwrap();
    assert_eq!(hooks.destructed.get(), 1);
    assert_eq!(held.table_frame(), None);
    assert_eq!(frames.census(), Census { retired_frames: 1, refs: 1, ..Census::default() });
    assert_eq!(cache.take(16), Err(Error::Exhausted { shift: 16 }));
    drop(held);
    assert!(frames.census().all_home());
    assert_eq!(cache.take(16), Ok(table));
}

#[test]
fn a_table_of_many_frames_is_found_by_any_of_its_addresses() {
    let words = words(64, 12);
    let frames = Frames::new(region(&words, 12)).unwrap();
    let cache = Cache::new(&frames, Owner(9), Kind::Kernel, Policy::Reuse);
    let small = cache.take(12).unwrap();
    let root = cache.take(16).unwrap();
    let found = frames.try_get(Hpa::new(root.get() + 0x5008)).unwrap().unwrap();
    let what = found.table_frame().unwrap();
    assert_eq!((what.start, what.shift, what.owner), (root, 16, Owner(9)));
    assert_eq!(found.tables().collect::<Vec<_>>(), [root]);
    drop(found);
    assert!(cache.give(Hpa::new(root.get() + 0x1000), 12, Contents::Stale).is_err());
    cache.give(root, 16, Contents::Stale).unwrap();
    cache.give(small, 12, Contents::Stale).unwrap();
    assert!(frames.census().all_home());
}
