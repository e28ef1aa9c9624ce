//! Each table has one owner, whatever ways a guest makes to it: another writer of the tree, another
//! tree of the same allocator, or the same writer by a second way cannot change, unlock or free it.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

#[path = "support/guest.rs"]
mod guest;

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use frag_alloc::{
    Cache, Deferred, Epochs, Frames, Kind, Owner, Policy, Reader as OneReader, Reading, Region,
};
use pgtable::allocator::{AllocError, Contents, TableAllocator, TableLayout, TableState};
use pgtable::invalidate::{Gather, Unused};
use pgtable::memory::DirectMap;
use pgtable::shared::{DeferringAllocator, LockedRange, ReadSide, SharedPageTable, Writer};
use pgtable::tree::PageTable;
use pgtable::{Error, Gpa, Gva, Leaves, Prot, RangeError};
use pgtable_x86::LongMode;

use guest::{FRAMES, Frame, LARGE, PAGE, START, Tables, books, format, load, store};

type Waiting<'t, 'm> = Deferred<Gpa, Region<Gpa, DirectMap<'m, Gpa>>, &'t Frame<'m>, &'t Epochs>;

/// Tables whose readers wait for another writer for a few turns only.
struct Hasty<'t, 'm>(&'t Waiting<'t, 'm>);

/// A reader that gives up soon.
struct Hurried<'e>(OneReader<'e>);

impl ReadSide for Hurried<'_> {
    type Reading<'r>
        = Reading<'r>
    where
        Self: 'r;

    fn read(&mut self) -> Reading<'_> {
        self.0.read()
    }

    fn wait(turns: u32) -> bool {
        turns < 4
    }
}

impl TableAllocator<Gpa> for Hasty<'_, '_> {
    fn allocate(&self, layout: TableLayout) -> Result<Gpa, AllocError> {
        self.0.allocate(layout)
    }

    fn allocate_stale(&self, layout: TableLayout) -> Result<Gpa, AllocError> {
        self.0.allocate_stale(layout)
    }

    fn free(&self, table: Gpa, layout: TableLayout, contents: Contents) -> Result<(), AllocError> {
        self.0.free(table, layout, contents)
    }

    fn state(&self, table: Gpa, layout: TableLayout) -> Option<&TableState> {
        self.0.state(table, layout)
    }
}

impl DeferringAllocator<Gpa> for Hasty<'_, '_> {
    type Reader<'a>
        = Hurried<'a>
    where
        Self: 'a;

    fn reader(&self) -> Option<Hurried<'_>> {
        self.0.reader().map(Hurried)
    }
}

type Shared<'t, 'm> = SharedPageTable<LongMode, DirectMap<'m, Gpa>, Hasty<'t, 'm>>;
type One<'w, 't, 'm> = Writer<'w, LongMode, DirectMap<'m, Gpa>, Hasty<'t, 'm>>;
type Locked<'r, 'w, 't, 'm> = LockedRange<'r, 'w, LongMode, DirectMap<'m, Gpa>, Hasty<'t, 'm>>;

/// Where three tables are mapped, each with one page, and where none is.
const FIRST: u64 = 0;
const SECOND: u64 = LARGE;
const FAR: u64 = 1 << 30;
const NONE: u64 = FAR + LARGE;

/// Does `test` with a shared tree that three writers may have, with the tables above the last level
/// around the first two and around the third, and with the guest's cache. Then it takes every table
/// that is not in the tree, once.
fn with(test: impl FnOnce(&Shared<'_, '_>, DirectMap<'_, Gpa>, [Gpa; 2], &Tables<'_, '_>)) {
    let words: Vec<AtomicU64> = (0..FRAMES << 13).map(|_| AtomicU64::new(0)).collect();
    let memory = DirectMap::new(&words, Gpa::new(START));
    let frames = Frames::new(Region::new(memory, Gpa::new(START), FRAMES, 16).unwrap()).unwrap();
    let epochs = Epochs::new(3);
    let tables = Deferred::new(Cache::new(&frames, Owner(1), Kind::User, Policy::Reuse), &epochs);
    let shared = SharedPageTable::from(PageTable::new(format(), memory, Hasty(&tables)).unwrap());
    let writer = shared.writer().unwrap();
    for at in [FIRST, SECOND, FAR] {
        map(&writer, at).unwrap();
    }
    drop(writer);
    let above = |at| shared.walker().trace(Gva::new(at)).get(2).unwrap().address;
    let directories = [above(FIRST), above(FAR)];
    test(&shared, memory, directories, tables.cache());
    let tree = shared.into_inner();
    let done = tree.destroy(Gather::new(&Unused, ())).map_err(|(_, error)| error).unwrap();
    assert_eq!(done.refused, 0);
    let _: [usize; 2] = [0; 2].map(|_| tables.collect().unwrap());
    books(&frames, tables.cache(), frames.census().live);
}

fn map(writer: &One<'_, '_, '_>, at: u64) -> Result<(), RangeError<Gva>> {
    writer.map(Gva::new(at), Gpa::new(1 << 30), PAGE, Prot::RW.into(), Leaves::Largest)
}

fn error<T>(result: Result<T, RangeError<Gva>>) -> Option<Error> {
    result.err().map(|RangeError { error, .. }| error)
}

fn is_malformed<T: std::fmt::Debug>(result: Result<T, RangeError<Gva>>) {
    assert!(matches!(error(result), Some(Error::Malformed { .. })));
}

/// Every verb of a range that comes to a table at `at` which it has not.
fn has_not(range: &mut Locked<'_, '_, '_, '_>, at: u64) {
    let mut gather = Gather::new(&Unused, ());
    let at = Gva::new(at);
    let (rw, output) = (Prot::RW.into(), Gpa::new(0));
    is_malformed(range.map(at, output, PAGE, rw, Leaves::Largest));
    is_malformed(range.unmap(at, PAGE, &mut gather));
    is_malformed(range.unmap(at, LARGE, &mut gather));
    is_malformed(range.protect(at, LARGE, Prot::R, &mut gather));
    is_malformed(range.promote(at, LARGE, &mut gather));
    is_malformed(range.query(at));
    assert!(gather.stale().is_empty());
}

/// A table that one writer has locked, and a guest linked into the locked range of another: the
/// other does not take it for its own, neither to change nor to unlock it.
#[test]
fn case_a1_a_lock_has_an_owner() {
    with(|shared, memory, [near, far], _| {
        let [one, other, third] = [0; 3].map(|_| shared.writer().unwrap());
        let mine = one.lock(Gva::new(FIRST), LARGE).unwrap();
        let mut theirs = other.lock(Gva::new(FAR), 2 * LARGE).unwrap();
        store(&memory, far, 1, load(&memory, near, 0));
        has_not(&mut theirs, NONE);
        // A verb by that way waits for the owner, and one by the right way does too.
        assert_eq!(error(map(&third, FIRST + PAGE)), Some(Error::Contended));
        drop(theirs);
        for at in [FIRST + PAGE, NONE + PAGE] {
            assert_eq!(error(map(&third, at)), Some(Error::Contended), "{at:#x}");
        }
        assert_eq!(error(other.lock(Gva::new(NONE), PAGE)), Some(Error::Contended));
        drop(mine);
        assert_eq!(map(&third, FIRST + PAGE), Ok(()));
        store(&memory, far, 1, 0);
    });
}

/// The same where the two ranges are one writer's.
#[test]
fn case_a1_two_ranges_of_one_writer_are_two_owners() {
    with(|shared, memory, [near, far], _| {
        let [one, other] = [0; 2].map(|_| shared.writer().unwrap());
        let mine = one.lock(Gva::new(FIRST), LARGE).unwrap();
        let mut second = one.lock(Gva::new(FAR), 2 * LARGE).unwrap();
        store(&memory, far, 1, load(&memory, near, 0));
        has_not(&mut second, NONE);
        second.finish(&mut Gather::new(&Unused, ()));
        assert_eq!(error(map(&other, FIRST + PAGE)), Some(Error::Contended));
        assert_eq!(error(map(&one, FIRST + PAGE)), Some(Error::Contended));
        drop(mine);
        assert_eq!(map(&other, FIRST + PAGE), Ok(()));
        store(&memory, far, 1, 0);
    });
}

/// A second way within the range: the table is taken out once, and what is left of the ways leads
/// nowhere.
#[test]
fn case_a1_a_second_way_within_a_range() {
    with(|shared, memory, [near, _], _| {
        let one = shared.writer().unwrap();
        let mut gather = Gather::new(&Unused, ());
        let mut range = one.lock(Gva::new(FIRST), 1 << 30).unwrap();
        store(&memory, near, 7, load(&memory, near, 0));
        assert_eq!(range.unmap(Gva::new(FIRST), LARGE, &mut gather), Ok(PAGE));
        has_not(&mut range, 7 * LARGE);
        range.finish(&mut gather);
        gather.finish(shared.tables()).unwrap();
        is_malformed(one.unmap(Gva::new(7 * LARGE), LARGE, &mut gather));
        // While the range is being locked, it is an error at once.
        store(&memory, near, 7, load(&memory, near, 1));
        is_malformed(one.lock(Gva::new(FIRST), 1 << 30).map(drop));
        assert_eq!(one.unmap(Gva::new(SECOND), LARGE, &mut gather), Ok(PAGE));
        gather.finish(shared.tables()).unwrap();
    });
}

/// A table that a guest hid while it was locked, and shows again: its lock ended with the range.
#[test]
fn case_a1_a_hidden_table_does_not_stay_locked() {
    with(|shared, memory, [near, _], _| {
        let [one, other] = [0; 2].map(|_| shared.writer().unwrap());
        let mut gather = Gather::new(&Unused, ());
        for finish in [false, true] {
            let range = one.lock(Gva::new(FIRST), 2 * LARGE).unwrap();
            let hidden = load(&memory, near, 0);
            store(&memory, near, 0, 0);
            if finish {
                range.finish(&mut gather);
            } else {
                drop(range);
            }
            store(&memory, near, 0, hidden);
            // A verb, a page, and a range.
            let protected = other.protect(Gva::new(FIRST), LARGE, Prot::RW, &mut gather);
            assert_eq!(protected, Ok(PAGE));
            assert_eq!(map(&other, FIRST + PAGE), Ok(()));
            assert_eq!(other.unmap(Gva::new(FIRST + PAGE), PAGE, &mut gather), Ok(PAGE));
            assert!(one.lock(Gva::new(FIRST), 2 * LARGE).is_ok());
        }
        gather.finish(shared.tables()).unwrap();
    });
}

/// A range that was forgotten stays locked while the tree is shared, and hurts nothing else; the
/// one writer of the tree has it all again.
#[test]
fn case_a1_a_forgotten_range() {
    with(|shared, memory, _, _| {
        let [one, other] = [0; 2].map(|_| shared.writer().unwrap());
        let mut gather = Gather::new(&Unused, ());
        let mut range = one.lock(Gva::new(FIRST), LARGE).unwrap();
        assert_eq!(range.unmap(Gva::new(FIRST), PAGE, &mut gather), Ok(PAGE));
        range.map(Gva::new(PAGE), Gpa::new(0), 2 * PAGE, Prot::RW.into(), Leaves::Largest).unwrap();
        assert!(!gather.stale().is_empty(), "what is stale is the gather's at once");
        std::mem::forget(range);
        for writer in [&one, &other] {
            assert_eq!(error(map(writer, FIRST)), Some(Error::Contended));
            assert_eq!(error(writer.lock(Gva::new(FIRST), PAGE)), Some(Error::Contended));
            assert_eq!(writer.unmap(Gva::new(SECOND), PAGE, &mut gather), Ok(PAGE));
            assert_eq!(map(writer, SECOND), Ok(()));
        }
        gather.finish(shared.tables()).unwrap();
        let _ = memory;
    });
}

/// After that, every verb of the tree's one writer has every table again: nothing is left behind.
#[test]
fn case_a1_what_was_forgotten_is_the_trees_again() {
    let words: Vec<AtomicU64> = (0..FRAMES << 13).map(|_| AtomicU64::new(0)).collect();
    let memory = DirectMap::new(&words, Gpa::new(START));
    let frames = Frames::new(Region::new(memory, Gpa::new(START), FRAMES, 16).unwrap()).unwrap();
    // In the root of a tree with a page and of one without, in a table below it, and in a
    // last-level table.
    for (pages, bytes) in
        [(0, 1 << 40), (1, 1 << 40), (1, 1 << 30), (1, 2 * LARGE), (1, LARGE), (1, PAGE)]
    {
        let epochs = Epochs::new(2);
        let cache = Cache::new(&frames, Owner(1), Kind::User, Policy::Reuse);
        let tables = Deferred::new(cache, &epochs);
        let shared =
            SharedPageTable::from(PageTable::new(format(), memory, Hasty(&tables)).unwrap());
        let writer = shared.writer().unwrap();
        (0..pages).for_each(|page| map(&writer, page * PAGE).unwrap());
        std::mem::forget(writer.lock(Gva::new(FIRST), bytes).unwrap());
        drop(writer);
        let mut tree = shared.into_inner();
        let mut gather = Gather::new(&Unused, ());
        for page in [1, 2, 3] {
            let (at, to) = (Gva::new(page * PAGE), Gpa::new(0));
            tree.map(at, to, PAGE, Prot::RW.into(), Leaves::Largest).unwrap();
        }
        assert_eq!(tree.unmap(Gva::new(0), LARGE, &mut gather), Ok((pages + 3) * PAGE));
        tree.map(Gva::new(FAR), Gpa::new(0), PAGE, Prot::RW.into(), Leaves::Largest).unwrap();
        let done = tree.destroy(gather).map_err(|(_, error)| error).unwrap();
        assert_eq!(done.refused, 0);
        let _: [usize; 2] = [0; 2].map(|_| tables.collect().unwrap());
        assert_eq!(frames.census().live, 0, "{bytes:#x}");
    }
}

/// The same when the tree is shared again, and again: a new range is not taken for one that was
/// forgotten.
#[test]
fn case_a1_what_was_forgotten_is_free_when_the_tree_is_shared_again() {
    let words: Vec<AtomicU64> = (0..FRAMES << 13).map(|_| AtomicU64::new(0)).collect();
    let memory = DirectMap::new(&words, Gpa::new(START));
    let frames = Frames::new(Region::new(memory, Gpa::new(START), FRAMES, 16).unwrap()).unwrap();
    let epochs = Epochs::new(2);
    let cache = Cache::new(&frames, Owner(1), Kind::User, Policy::Reuse);
    let tables = Deferred::new(cache, &epochs);
    let mut tree = PageTable::new(format(), memory, Hasty(&tables)).unwrap();
    for share in 0..8 {
        let shared = SharedPageTable::from(tree);
        let writer = shared.writer().unwrap();
        if share == 0 {
            [0, LARGE].iter().for_each(|&at| map(&writer, at).unwrap());
        }
        for bytes in [2 * LARGE, LARGE, PAGE].into_iter().cycle().take(share) {
            writer
                .lock(Gva::new(0), bytes)
                .unwrap()
                .map(Gva::new(PAGE), Gpa::new(0), PAGE, Prot::RW.into(), Leaves::Largest)
                .ok();
        }
        std::mem::forget(writer.lock(Gva::new(0), 2 * LARGE).unwrap());
        drop(writer);
        tree = shared.into_inner();
    }
    let done = tree.destroy(Gather::new(&Unused, ())).map_err(|(_, error)| error).unwrap();
    assert_eq!((done.refused, done.unread), (0, 0));
    let _: [usize; 2] = [0; 2].map(|_| tables.collect().unwrap());
    assert_eq!(frames.census().live, 0);
}

/// A table of one tree that a guest linked into another tree of the same cache: nothing that the
/// other does touches it.
#[test]
fn case_a1_two_trees_of_one_cache() {
    with(|shared, memory, [near, _], cache| {
        let mut other = PageTable::new(format(), memory, cache).unwrap();
        for page in [FIRST, SECOND] {
            let (at, to) = (Gva::new(page), Gpa::new(0));
            other.map(at, to, PAGE, Prot::RW.into(), Leaves::Largest).unwrap();
        }
        let directory = other.walker().trace(Gva::new(0)).get(2).unwrap().address;
        let own = load(&memory, directory, 0);
        store(&memory, directory, 0, load(&memory, near, 0));
        store(&memory, directory, 3, load(&memory, near, 1));
        let mut gather = Gather::new(&Unused, ());
        let writer = shared.writer().unwrap();
        map(&writer, FIRST + PAGE).unwrap();
        for locked in [false, true] {
            let _range = locked.then(|| writer.lock(Gva::new(FIRST), 2 * LARGE).unwrap());
            for at in [FIRST, 3 * LARGE].map(Gva::new) {
                let (page, free) = (Prot::RW.into(), Gva::new(at.get() + 2 * PAGE));
                is_malformed(other.map(free, Gpa::new(0), PAGE, page, Leaves::Largest));
                is_malformed(other.map(free, Gpa::new(0), 2 * PAGE, page, Leaves::Largest));
                is_malformed(other.unmap(at, PAGE, &mut gather));
                is_malformed(other.unmap(at, LARGE, &mut gather));
                is_malformed(other.protect(at, LARGE, Prot::R, &mut gather));
                is_malformed(other.promote(at, LARGE, &mut gather));
                assert!(other.cursor(&mut gather).map(at, Gpa::new(0), page).is_err());
                assert!(other.relocate(|_, _| true, &mut gather).is_err());
            }
        }
        // By a writer of a shared tree too, which does not wait for it either.
        let live = load(&memory, near, 0);
        store(&memory, near, 5, own);
        is_malformed(writer.map(
            Gva::new(5 * LARGE),
            Gpa::new(0),
            PAGE,
            Prot::RW.into(),
            Leaves::Largest,
        ));
        is_malformed(writer.unmap(Gva::new(5 * LARGE), LARGE, &mut gather));
        is_malformed(writer.lock(Gva::new(5 * LARGE), LARGE).map(drop));
        store(&memory, near, 5, 0);
        // Its count is its own: with the second page that goes the table is empty.
        assert_eq!(load(&memory, near, 0), live);
        for page in [FIRST, FIRST + PAGE] {
            assert_eq!(writer.unmap(Gva::new(page), PAGE, &mut gather), Ok(PAGE));
        }
        assert_eq!(load(&memory, near, 0), 0, "the table left with its last page");
        assert_eq!(writer.unmap(Gva::new(SECOND), PAGE, &mut gather), Ok(PAGE));
        gather.finish(shared.tables()).unwrap();
        let done = other.destroy(Gather::new(&Unused, ())).map_err(|(_, error)| error).unwrap();
        // The guest hid one of its tables, and that is all that stays.
        assert_eq!((done.tables, done.refused), (4, 0));
        cache.give(Gpa::new(own & 0x000f_ffff_ffff_f000), 12, Contents::Stale).unwrap();
    });
}

/// Verbs that each of two threads does.
const ROUNDS: usize = 4_000;
/// Tables in one frame: those of the last frame are a stranger's.
const IN_FRAME: u64 = 16;

fn random(state: &mut u64, bound: u64) -> u64 {
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    (*state >> 11) % bound
}

/// A verb, alone or in a range; any error but a wrong range is the guest's doing. What became stale
/// is finished without a table that was retired twice.
fn anything(writer: &One<'_, '_, '_>, tables: &Hasty<'_, '_>, state: &mut u64) {
    let mut gather = Gather::new(&Unused, ());
    let at = random(state, 6) * LARGE + random(state, 4) * PAGE;
    let bytes = [PAGE, 3 * PAGE, LARGE, 3 * LARGE][random(state, 4) as usize];
    let (input, output, rw) = (Gva::new(at), Gpa::new(1 << 30), Prot::RW.into());
    let small = bytes.min(3 * PAGE);
    let done = match random(state, 8) {
        0 | 1 => writer.map(input, output, small, rw, Leaves::Largest),
        2 => writer.unmap(input, bytes, &mut gather).map(drop),
        3 => writer.unmap_with(input, bytes, |_| (), &mut gather).map(drop),
        4 => writer.protect(input, bytes, Prot::RW, &mut gather).map(drop),
        verb => writer.lock(input, bytes).and_then(|mut range| {
            let _ = range.map(input, output, small, rw, Leaves::Largest);
            let _ = range.unmap(input, PAGE.min(bytes), &mut gather);
            let _ = range.query(input);
            let done = range.unmap(input, bytes, &mut gather).map(drop);
            match verb {
                5 => range.finish(&mut gather),
                6 => drop(range),
                _ => done?,
            }
            Ok(())
        }),
    };
    assert_ne!(error(done), Some(Error::Range));
    gather.finish(tables).unwrap();
}

/// A guest's store into one of the first entries of one of its tables, or of what was one: a way to
/// any table of any owner, a page, a copy of another entry, nothing.
fn guest_stores(memory: &DirectMap<'_, Gpa>, state: &mut u64) {
    let all = u64::from(FRAMES) * IN_FRAME;
    let table = |number: u64| Gpa::new(START + (number << 12));
    let own = table(random(state, all - IN_FRAME));
    let word = match random(state, 8) {
        0 | 1 => 0,
        2 => (1 << 30) | 7,
        3..6 => table(random(state, all)).get() | 7,
        _ => load(memory, table(random(state, all - IN_FRAME)), random(state, 8)),
    };
    store(memory, own, random(state, 8), word);
}

/// Two writers beside a guest that writes their tables all the time. Each table that the allocator
/// handed out came back at most once, a stranger's in the same memory never changed, and what is
/// left is accounted for.
#[test]
fn case_a1_writers_beside_a_guest_that_writes() {
    for seed in 1..5 {
        let words: Vec<AtomicU64> = (0..FRAMES << 13).map(|_| AtomicU64::new(0)).collect();
        let memory = DirectMap::new(&words, Gpa::new(START));
        let region = Region::new(memory, Gpa::new(START), FRAMES, 16).unwrap();
        let frames = Frames::new(region).unwrap();
        // A stranger has the frame at the end: that the guest does not write.
        let strange = Cache::new(&frames, Owner(2), Kind::User, Policy::Reuse);
        let last = START + (u64::from(FRAMES - 1) << 16);
        let (theirs, others): (Vec<Gpa>, Vec<Gpa>) =
            std::iter::from_fn(|| strange.take(12).ok()).partition(|it| it.get() >= last);
        for table in others {
            strange.give(table, 12, Contents::Stale).unwrap();
        }
        let pattern = |table: Gpa, index: u64| table.get() << 8 | index;
        for &table in &theirs {
            (0..512).for_each(|index| store(&memory, table, index, pattern(table, index)));
        }
        let epochs = Epochs::new(2);
        let cache = Cache::new(&frames, Owner(1), Kind::User, Policy::Reuse);
        let tables = Deferred::new(cache, &epochs);
        let shared =
            SharedPageTable::from(PageTable::new(format(), memory, Hasty(&tables)).unwrap());
        let over = AtomicBool::new(false);
        std::thread::scope(|scope| {
            let writers = [1, 2].map(|number| {
                let shared = &shared;
                scope.spawn(move || {
                    let (writer, mut state) = (shared.writer().unwrap(), seed * 16 + number);
                    for _ in 0..ROUNDS {
                        anything(&writer, shared.tables(), &mut state);
                    }
                })
            });
            scope.spawn(|| {
                let mut state = seed * 16 + 7;
                while !over.load(Ordering::Relaxed) {
                    (0..8).for_each(|_| guest_stores(&memory, &mut state));
                    std::thread::yield_now();
                }
            });
            let joined = writers.map(std::thread::ScopedJoinHandle::join);
            over.store(true, Ordering::Relaxed);
            joined.into_iter().for_each(Result::unwrap);
        });
        let done = shared.into_inner().destroy(Gather::new(&Unused, ()));
        let done = done.map_err(|(_, error)| error).unwrap();
        assert_eq!((done.refused, done.unread), (0, 0), "{seed}");
        let _: [usize; 3] = [0; 3].map(|_| tables.collect().unwrap());
        for &table in &theirs {
            for index in 0..512 {
                assert_eq!(load(&memory, table, index), pattern(table, index), "{table}");
            }
            strange.give(table, 12, Contents::Stale).unwrap();
        }
        strange.close().unwrap();
        books(&frames, tables.cache(), frames.census().live);
    }
}
