//! Trees whose tables a guest may write: it makes entries lead to tables that are elsewhere in the
//! tree, to the tables above, to tables that are free. Every verb ends, after work that the tree's
//! own size bounds; no table is freed twice; and the allocator's books are right afterwards.

#[path = "../support/guest.rs"]
mod guest;

use std::cell::Cell;
use std::sync::atomic::AtomicU64;

pub use guest::*;
use pgtable_x86::{Controls, Levels, LongMode};

use frag_alloc::{Cache, Deferred, Epochs, Frames, Kind, Owner, Policy, Region};
use pgtable::allocator::{AllocError, Contents, TableAllocator, TableLayout, TableState};
use pgtable::invalidate::{Gather, Unused};
use pgtable::memory::{DirectMap, MemoryError, ReadMemory, TableMemory};
use pgtable::shared::SharedPageTable;
use pgtable::tree::{PageTable, Recorded, Writers};
use pgtable::walk::Walker;
use pgtable::{Error, Gpa, Gva, Leaves, Prot, RangeError};

/// Memory that counts the words that it was asked for.
pub struct Counted<'m> {
    pub memory: DirectMap<'m, Gpa>,
    pub words: Cell<usize>,
}

impl ReadMemory<Gpa> for Counted<'_> {
    pgtable::words_in_place!(Gpa);
}

impl TableMemory<Gpa> for Counted<'_> {
    fn word(&self, address: Gpa) -> Result<&AtomicU64, MemoryError> {
        self.words.set(self.words.get() + 1);
        self.memory.word(address)
    }

    fn table(&self, address: Gpa, words: usize) -> Result<&[AtomicU64], MemoryError> {
        self.words.set(self.words.get() + words);
        self.memory.table(address, words)
    }

    fn wrote(&self, _: Gpa, _: usize) {}
}

/// A tree of four tables in which each entry leads to the table of the next level: 512 ways to
/// each from each.
fn braid(memory: DirectMap<'_, Gpa>, tables: &[Gpa]) {
    for pair in tables.windows(2) {
        let link = load(&memory, pair[0], 0);
        (0..512).for_each(|index| store(&memory, pair[0], index, link));
    }
}

fn is_malformed<T: std::fmt::Debug>(result: Result<T, RangeError<Gva>>) {
    let error = result.map_err(|RangeError { error, .. }| error).unwrap_err();
    assert!(matches!(error, Error::Malformed { .. }), "{error:?}");
}

#[test]
fn case_a1_a_tree_with_two_ways_to_a_table_is_destroyed() {
    with(|memory, frames, cache| {
        let tree = tree(memory, cache, &[PAGE]);
        let root = tree.root();
        store(&memory, root, 1, load(&memory, root, 0));
        let done = tree.destroy(Gather::new(&Unused, ())).map_err(|(_, error)| error).unwrap();
        assert_eq!((done.tables, done.refused), (4, 0));
        books(frames, cache, 0);
    });
}

#[test]
fn case_a1_a_tree_of_circles_is_destroyed() {
    with(|memory, frames, cache| {
        let tree = tree(memory, cache, &[PAGE]);
        let root = tree.root();
        let circle = load(&memory, root, 0) & 0xfff | root.get();
        (0..512).for_each(|index| store(&memory, root, index, circle));
        let done = tree.destroy(Gather::new(&Unused, ())).map_err(|(_, error)| error).unwrap();
        // To the other three no way leads any more: they stay the guest's, and counted.
        assert_eq!((done.tables, done.refused), (1, 0));
        books(frames, cache, 3);
    });
}

/// A table that left is not followed, before it is freed and after; nor is one that is free, or
/// another tree's.
#[test]
fn case_a1_what_left_is_not_taken_out_again() {
    with(|memory, frames, cache| {
        let mut tree = tree(memory, cache, &[PAGE, 3 * LARGE]);
        let mut gather = Gather::new(&Unused, ());
        let pd = way(&tree, PAGE)[2];
        let link = load(&memory, pd, 0);
        store(&memory, pd, 1, link);
        assert_eq!(tree.unmap(Gva::new(0), LARGE, &mut gather), Ok(PAGE));
        for _ in 0..2 {
            // It waits in the gather, and then it is free.
            let at = Gva::new(LARGE);
            is_malformed(tree.unmap(at, LARGE, &mut gather));
            is_malformed(tree.unmap(at, PAGE, &mut gather));
            is_malformed(tree.protect(at, LARGE, Prot::R, &mut gather));
            is_malformed(tree.split(at, LARGE, 12, &mut gather));
            is_malformed(tree.promote(at, LARGE, &mut gather));
            is_malformed(tree.map(at, Gpa::new(0), PAGE, Prot::RW.into(), Leaves::Largest));
            is_malformed(tree.map(at, Gpa::new(0), 2 * PAGE, Prot::RW.into(), Leaves::Largest));
            let (accessed, running) = (Recorded::Accessed, Writers::Running);
            is_malformed(tree.harvest(at, LARGE, accessed, running, &mut [0; 8], &mut gather));
            let moved = tree.relocate(|_, _| false, &mut gather);
            assert!(matches!(moved, Err(Error::Malformed { .. })), "{moved:?}");
            assert!(tree.cursor(&mut gather).unmap(at).is_err());
            assert!(
                tree.cursor(&mut gather).map(at, Gpa::new(0), Prot::RW.into()).is_err(),
                "a cursor maps into a table that left"
            );
            gather.finish(&cache).unwrap();
        }
        let table = link & 0x000f_ffff_ffff_f000;
        // What was mapped there is there still, and nothing else.
        let written = |&index: &u64| load(&memory, Gpa::new(table), index) != 0;
        assert_eq!((0..512).filter(written).collect::<Vec<_>>(), [1]);
        // Another owner's table: nothing of it is touched.
        let theirs = Cache::new(frames, Owner(2), Kind::User, Policy::Reuse);
        let other = theirs.take(12).unwrap();
        let pd = way(&tree, 3 * LARGE)[2];
        store(&memory, pd, 1, other.get() | 7);
        is_malformed(tree.map(
            Gva::new(LARGE),
            Gpa::new(0),
            PAGE,
            Prot::RW.into(),
            Leaves::Largest,
        ));
        is_malformed(tree.unmap(Gva::new(LARGE), LARGE, &mut gather));
        assert!((0..512).all(|index| load(&memory, other, index) == 0), "it was written");
        let done = tree.destroy(gather).map_err(|(_, error)| error).unwrap();
        assert_eq!((done.tables, done.refused), (4, 0));
        assert_eq!(frames.census().live, 1);
        theirs.give(other, 12, Contents::Zeroed).unwrap();
        theirs.close().unwrap();
        books(frames, cache, 0);
    });
}

/// The same for tables that are moved: where one was is not followed, and the root stays the root.
#[test]
fn case_a1_what_moved_is_not_moved_again() {
    with(|memory, frames, cache| {
        let mut tree = tree(memory, cache, &[PAGE]);
        let root = tree.root();
        store(&memory, root, 1, load(&memory, root, 0));
        let mut gather = Gather::new(&Unused, ());
        let moved = tree.relocate(|_, _| true, &mut gather);
        assert!(matches!(moved, Err(Error::Malformed { entry, .. }) if entry == root.get() + 8));
        gather.finish(&cache).unwrap();
        books(frames, cache, 4);
        // An entry that leads back to the root, at each level.
        for (level, table) in way(&tree, PAGE).into_iter().enumerate().take(3) {
            let word = load(&memory, table, 0);
            store(&memory, root, 1, 0);
            store(&memory, table, 5, word & 0xfff | tree.root().get());
            let at = Gva::new(5 << (39 - 9 * level));
            is_malformed(tree.unmap(at, 1 << (39 - 9 * level), &mut gather));
            is_malformed(tree.protect(at, LARGE, Prot::R, &mut gather));
            assert!(tree.relocate(|_, _| false, &mut gather).is_err());
            gather.finish(&cache).unwrap();
            store(&memory, table, 5, 0);
        }
        let root = tree.root();
        assert_ne!(tree.relocate_root(|_| (), &mut gather), Ok(root));
        gather.finish(&cache).unwrap();
        let done = tree.destroy(gather).map_err(|(_, error)| error).unwrap();
        assert_eq!((done.tables, done.refused), (4, 0));
        books(frames, cache, 0);
    });
}

/// Counts that are wrong, since a guest took entries out and put others in, reach no flag of a
/// table's state.
#[test]
fn case_a1_wrong_counts_are_no_more_than_wrong() {
    with(|memory, frames, cache| {
        let mut tree = tree(memory, cache, &[PAGE, 2 * PAGE]);
        let mut gather = Gather::new(&Unused, ());
        let table = way(&tree, PAGE)[3];
        let page = load(&memory, table, 1);
        // More is unmapped than was counted.
        (0..512).for_each(|index| store(&memory, table, index, page));
        assert_eq!(tree.unmap(Gva::new(PAGE), LARGE - PAGE, &mut gather), Ok(LARGE - PAGE));
        // More is counted than fits, since the guest takes out what is mapped.
        for _ in 0..40_000 {
            let page = Gva::new(PAGE);
            tree.map(page, Gpa::new(0), PAGE, Prot::RW.into(), Leaves::Largest).unwrap();
            store(&memory, table, 1, 0);
        }
        let done = tree.destroy(gather).map_err(|(_, error)| error).unwrap();
        assert_eq!((done.tables, done.refused), (4, 0));
        books(frames, cache, 0);
    });
}

/// Many writers: the same, and nothing waits for itself.
#[test]
fn case_a1_many_writers() {
    let words: Vec<AtomicU64> = (0..FRAMES << 13).map(|_| AtomicU64::new(0)).collect();
    let memory = DirectMap::new(&words, Gpa::new(START));
    let frames = Frames::new(Region::new(memory, Gpa::new(START), FRAMES, 16).unwrap()).unwrap();
    let epochs = Epochs::new(1);
    let tables = Deferred::new(Cache::new(&frames, Owner(1), Kind::User, Policy::Reuse), &epochs);
    let shared = SharedPageTable::from(PageTable::new(format(), memory, &tables).unwrap());
    let writer = shared.writer().unwrap();
    for at in [PAGE, 3 * LARGE] {
        writer.map(Gva::new(at), Gpa::new(0), PAGE, Prot::RW.into(), Leaves::Largest).unwrap();
    }
    let way: Vec<Gpa> = shared.walker().trace(Gva::new(0)).iter().map(|it| it.address).collect();
    let mut gather = Gather::new(&Unused, ());
    let (pd, at) = (way[2], Gva::new(LARGE));
    store(&memory, pd, 1, load(&memory, pd, 0));
    // Two ways to one table, in a range that is locked whole.
    is_malformed(writer.lock(Gva::new(0), 2 * LARGE).map(|_| ()));
    is_malformed(writer.lock(Gva::new(0), 1 << 30).map(|_| ()));
    // Everything was unlocked.
    assert_eq!(writer.unmap(Gva::new(0), LARGE, &mut gather), Ok(PAGE));
    for _ in 0..2 {
        is_malformed(writer.unmap(at, LARGE, &mut gather));
        is_malformed(writer.unmap(at, PAGE, &mut gather));
        is_malformed(writer.protect(at, LARGE, Prot::R, &mut gather));
        is_malformed(writer.map(at, Gpa::new(0), PAGE, Prot::RW.into(), Leaves::Largest));
        is_malformed(writer.lock(at, PAGE).map(|_| ()));
        gather.finish(&&tables).unwrap();
    }
    // A table that is linked into a locked range by somebody else is none of it.
    let mut range = writer.lock(Gva::new(2 * LARGE), 2 * LARGE).unwrap();
    let other = tables.take(12).unwrap();
    store(&memory, pd, 2, other.get() | 7);
    let within = Gva::new(2 * LARGE);
    is_malformed(range.map(within, Gpa::new(0), PAGE, Prot::RW.into(), Leaves::Largest));
    is_malformed(range.unmap(within, LARGE, &mut gather));
    is_malformed(range.query(within));
    assert_eq!(range.unmap(Gva::new(3 * LARGE), LARGE, &mut gather), Ok(PAGE));
    store(&memory, pd, 2, 0);
    range.finish(&mut gather);
    gather.finish(&&tables).unwrap();
    drop(writer);
    tables.give(other, 12, Contents::Zeroed).unwrap();
    let done = shared.into_inner().destroy(gather).map_err(|(_, error)| error).unwrap();
    let waited: usize = (0..2).map(|_| tables.collect().unwrap()).sum();
    assert!(waited > 0);
    assert!(frames.census().live == 0 && done.refused == 0, "{done:?} {:?}", frames.census());
}

/// A braid: 2^36 pages, by four tables. Each verb's work is as the tables' size, not as the
/// range's.
#[test]
fn case_a6_work_is_bounded_by_the_size_of_the_tree() {
    type Verb = fn(
        &mut PageTable<LongMode, &Counted<'_>, &Tables<'_, '_>>,
        &mut Gather<'_, pgtable::Stage1, Unused>,
    ) -> Result<u64, RangeError<Gva>>;
    const ALL: u64 = 1 << 47;
    let verbs: [(&str, Verb); 6] = [
        ("unmap", |tree, gather| tree.unmap(Gva::new(0), ALL, gather)),
        ("protect", |tree, gather| tree.protect(Gva::new(0), ALL, Prot::R, gather)),
        ("split", |tree, gather| tree.split(Gva::new(0), ALL, 12, gather).map(|n| n as u64)),
        ("promote", |tree, gather| tree.promote(Gva::new(0), ALL, gather).map(|n| n as u64)),
        ("harvest", |tree, gather| {
            let (bits, running) = (&mut vec![0; 1 << 24], Writers::Running);
            tree.harvest(Gva::new(0), ALL, Recorded::Accessed, running, bits, gather)
        }),
        ("relocate", |tree, gather| {
            let mut asked = 0;
            let moved = tree.relocate(
                |_, _| {
                    asked += 1;
                    false
                },
                gather,
            );
            assert!(asked <= 2 * 4, "asked {asked} times");
            moved.map(|n| n as u64).map_err(|error| RangeError { at: Gva::new(0), error })
        }),
    ];
    for (name, verb) in verbs {
        with(|memory, frames, cache| {
            let counted = Counted { memory, words: Cell::new(0) };
            let mut tree = PageTable::new(format(), &counted, cache).unwrap();
            tree.map(Gva::new(0), Gpa::new(1 << 30), PAGE, Prot::RW.into(), Leaves::Largest)
                .unwrap();
            let way: Vec<Gpa> =
                tree.walker().trace(Gva::new(0)).iter().map(|entry| entry.address).collect();
            braid(memory, &way);
            counted.words.set(0);
            let mut gather = Gather::new(&Unused, ());
            is_malformed(verb(&mut tree, &mut gather));
            // Twice for each level that it may come to each entry, and the way to each run.
            let most = 2 * 4 * (4 * 512) * 2;
            assert!(counted.words.get() <= most, "{name}: {} words", counted.words.get());
            gather.finish(&cache).unwrap();
            tree.destroy(gather).map_err(|(_, error)| error).unwrap();
            assert!(frames.census().live < 4, "{name}");
            books(frames, cache, frames.census().live);
        });
    }
}

/// A root that leads to itself 512 times.
#[test]
fn case_a6_relocating_a_circle_ends() {
    for levels in [Levels::Four, Levels::Five] {
        with(|memory, frames, cache| {
            let format = LongMode::new(levels, Controls::new());
            let mut tree = PageTable::new(format, memory, cache).unwrap();
            let root = tree.root();
            (0..512).for_each(|index| store(&memory, root, index, root.get() | 7));
            let mut gather = Gather::new(&Unused, ());
            let moved = tree.relocate(|_, _| panic!("asked about the root"), &mut gather);
            assert!(matches!(moved, Err(Error::Malformed { .. })), "{moved:?}");
            let done = tree.destroy(gather).map_err(|(_, error)| error).unwrap();
            assert_eq!(done.tables, 1);
            books(frames, cache, 0);
        });
    }
}

/// Tables of 4 KiB that the frames have room for.
const ALL: usize = FRAMES as usize * 16;

/// Counts the tables that were ever allocated.
struct Allocations<'t, 'm>(&'t Tables<'t, 'm>, Cell<usize>);

impl TableAllocator<Gpa> for &Allocations<'_, '_> {
    fn allocate(&self, layout: TableLayout) -> Result<Gpa, AllocError> {
        self.1.set(self.1.get() + 1);
        assert!(self.1.get() <= 2 * ALL, "bounded by what it has");
        self.0.allocate(layout)
    }

    fn free(&self, table: Gpa, layout: TableLayout, contents: Contents) -> Result<(), AllocError> {
        self.0.free(table, layout, contents)
    }

    fn state(&self, table: Gpa, layout: TableLayout) -> Option<&TableState> {
        self.0.state(table, layout)
    }
}

/// A snapshot of a braid of empty tables takes what the allocator has, once.
#[test]
fn case_a6_a_snapshot_is_bounded_by_its_allocator() {
    let guest: Vec<AtomicU64> = (0..4 << 9).map(|_| AtomicU64::new(0)).collect();
    let source = DirectMap::new(&guest, Gpa::new(0));
    for level in 0..3u64 {
        for index in 0..512 {
            store(&source, Gpa::new(level << 12), index, (level + 1) << 12 | 3);
        }
    }
    with(|memory, frames, cache| {
        let tables = Allocations(cache, Cell::new(0));
        let walker = Walker::new(format(), source, Gpa::new(0));
        let copied = walker.snapshot(memory, &tables).map(|_| ());
        assert!(matches!(copied, Err(Error::Alloc(AllocError::Exhausted { .. }))), "{copied:?}");
        assert_eq!(tables.1.get(), ALL + 1);
        books(frames, cache, 0);
        // Empty tables of a tree that has few are left out.
        (1..512).for_each(|index| {
            (0..3).for_each(|level| store(&source, Gpa::new(level << 12), index, 0));
        });
        let copy = walker.snapshot(memory, &tables).unwrap();
        assert_eq!(frames.census().live, 1);
        store(&source, Gpa::new(3 << 12), 7, 0x5003);
        store(&source, Gpa::new(2 << 12), 1, 0);
        let full = walker.snapshot(memory, &tables).unwrap();
        assert_eq!(frames.census().live, 1 + 4);
        assert!(full.walker().query(Gva::new(7 * PAGE)).unwrap().is_some());
        for tree in [copy, full] {
            tree.destroy(Gather::new(&Unused, ())).map_err(|(_, error)| error).unwrap();
        }
        books(frames, cache, 0);
    });
}

/// New tables that come back after an error, and that the allocator does not take, are counted: the
/// error is the first one.
#[test]
fn case_b15_what_is_not_taken_back_is_counted() {
    struct Takes<'t, 'm>(&'t Tables<'t, 'm>, Cell<usize>, Cell<usize>);
    impl TableAllocator<Gpa> for &Takes<'_, '_> {
        fn allocate(&self, layout: TableLayout) -> Result<Gpa, AllocError> {
            let left = self.1.get().checked_sub(1).ok_or(AllocError::Exhausted { layout })?;
            self.1.set(left);
            self.0.allocate(layout)
        }

        fn free(&self, table: Gpa, layout: TableLayout, to: Contents) -> Result<(), AllocError> {
            let not_live = AllocError::NotLive { address: table.get() };
            let left = self.2.get().checked_sub(1).ok_or(not_live)?;
            self.2.set(left);
            self.0.free(table, layout, to)
        }

        fn state(&self, table: Gpa, layout: TableLayout) -> Option<&TableState> {
            self.0.state(table, layout)
        }
    }
    // Tables that are given, those that are taken back, and those that are lost.
    for (given, taken, lost) in [(1, 0, 0), (2, 0, 1), (3, 0, 2), (3, 1, 1), (3, 2, 0)] {
        with(|memory, _, cache| {
            let tables = Takes(cache, Cell::new(given), Cell::new(taken));
            let mut tree = PageTable::new(format(), memory, &tables).unwrap();
            for leaves in [Leaves::Exactly(12), Leaves::Largest] {
                let mapped = tree.map(Gva::new(0), Gpa::new(0), PAGE, Prot::RW.into(), leaves);
                let error = mapped.unwrap_err().error;
                assert!(matches!(error, Error::Alloc(AllocError::Exhausted { .. })), "{error}");
                assert_eq!(tree.refused(), lost, "{given} given, {taken} taken");
            }
            tables.2.set(1);
            let done = tree.destroy(Gather::new(&Unused, ())).map_err(|(_, error)| error).unwrap();
            assert_eq!((done.tables, done.refused), (1, lost));
        });
    }
}

/// An allocator that keeps no states is refused, and so is one that keeps none for later tables.
#[test]
fn case_b15_an_allocator_without_states_is_refused() {
    struct Stateless<'t, 'm>(&'t Tables<'t, 'm>, Cell<usize>);
    impl TableAllocator<Gpa> for &Stateless<'_, '_> {
        fn allocate(&self, layout: TableLayout) -> Result<Gpa, AllocError> {
            self.0.allocate(layout)
        }

        fn free(&self, table: Gpa, layout: TableLayout, to: Contents) -> Result<(), AllocError> {
            self.0.free(table, layout, to)
        }

        fn state(&self, table: Gpa, layout: TableLayout) -> Option<&TableState> {
            let left = self.1.get().checked_sub(1)?;
            self.1.set(left);
            self.0.state(table, layout)
        }
    }
    with(|memory, frames, cache| {
        let refused = |error| matches!(error, Error::Alloc(AllocError::Stateless { .. }));
        let tables = Stateless(cache, Cell::new(0));
        let made = PageTable::new(format(), memory, &tables);
        assert!(made.is_err_and(refused));
        books(frames, cache, 0);
        tables.1.set(1);
        let mut tree = PageTable::new(format(), memory, &tables).unwrap();
        let mapped = tree.map(Gva::new(0), Gpa::new(0), PAGE, Prot::RW.into(), Leaves::Largest);
        assert!(mapped.is_err_and(|it| refused(it.error)));
        books(frames, cache, 1);
        tables.1.set(usize::MAX);
        let done = tree.destroy(Gather::new(&Unused, ())).map_err(|(_, error)| error).unwrap();
        assert_eq!(done.tables, 1);
        books(frames, cache, 0);
    });
}
