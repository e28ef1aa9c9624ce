//! Each table has one owner, whatever ways a guest makes to it: another writer of the tree, another
//! tree of the same allocator, or the same writer by a second way cannot change, unlock or free it.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod beside_a_guest;
mod forgotten;
#[path = "../support/guest.rs"]
mod guest;
mod ways;

use std::sync::atomic::AtomicU64;

use frag_alloc::{
    Cache, Deferred, Epochs, Frames, Kind, Owner, Policy, Reader as OneReader, Reading, Region,
};
use guest::{FRAMES, Frame, LARGE, PAGE, START, Tables, books, format};
use pgtable::allocator::{AllocError, Contents, TableAllocator, TableLayout, TableState};
use pgtable::invalidate::{Gather, Unused};
use pgtable::memory::DirectMap;
use pgtable::shared::{DeferringAllocator, LockedRange, ReadSide, SharedPageTable, Writer};
use pgtable::tree::PageTable;
use pgtable::{Error, Gpa, Gva, Leaves, Prot, RangeError};
use pgtable_x86::LongMode;

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
