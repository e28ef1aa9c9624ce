//! Writers of a shared tree that wait for each other, and for whom they must not wait.

use std::cell::Cell;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use frag_alloc::{Cache, Deferred, Epochs, Frames, Grace, Kind, Owner, Policy, Region};
use pgtable::invalidate::{Gather, Invalidate, InvalidateFailed, Stale, Unused};
use pgtable::memory::{DirectMap, MemoryError, ReadMemory, TableMemory};
use pgtable::shared::{DeferringAllocator, SharedPageTable, Writer};
use pgtable::tree::PageTable;
use pgtable::{Access, Address, Error, Gpa, Gva, Leaves, Prot, RangeError, Stage};
use pgtable_x86::{Controls, Levels, LongMode};

use crate::gather::Failing;
use crate::sharing::{Impatient, Shareable};
use crate::support::{Arena, Tables};

const PAGE: u64 = 1 << 12;
const LARGE: u64 = 1 << 21;

fn format() -> LongMode {
    LongMode::new(Levels::Four, Controls::new())
}

fn map<M: TableMemory<Gpa>, A: DeferringAllocator<Gpa>>(
    writer: &Writer<'_, LongMode, M, A>,
    at: u64,
    bytes: u64,
) -> Result<(), RangeError<Gva>> {
    writer.map(Gva::new(at), Gpa::new((1 << 40) + at), bytes, Prot::RW.into(), Leaves::Largest)
}

/// Waits for the software walkers that were there when it began, as movement asks of it.
struct Waits<'e> {
    epochs: &'e Epochs,
    begun: AtomicBool,
}

impl<S: Stage> Invalidate<S> for Waits<'_> {
    type Identity = ();

    fn invalidate(&self, (): (), _: &Stale<S::Input>) -> Result<(), InvalidateFailed> {
        self.begun.store(true, Ordering::SeqCst);
        // Long enough for the other writer to come and to wait.
        std::thread::sleep(Duration::from_millis(20));
        let cookie = self.epochs.start();
        while !self.epochs.passed(cookie) {
            std::thread::yield_now();
        }
        Ok(())
    }

    fn abandoned(&self, (): (), _: usize, _: Result<(), InvalidateFailed>) {}
}

/// A writer that waits for a table does not read meanwhile, so an invalidation that waits for
/// readers, in the middle of another writer's verb, goes on.
#[test]
fn case_a14_an_invalidation_may_wait_for_readers() {
    let start = Gpa::new(1 << 20);
    let words: Vec<AtomicU64> = (0..8 << 13).map(|_| AtomicU64::new(0)).collect();
    let memory = DirectMap::new(&words, start);
    let frames = Frames::new(Region::new(memory, start, 8, 16).unwrap()).unwrap();
    let epochs = Epochs::new(2);
    let tables = Deferred::new(Cache::new(&frames, Owner(1), Kind::User, Policy::Reuse), &epochs);
    let shared = SharedPageTable::from(PageTable::new(format(), memory, &tables).unwrap());
    let writer = shared.writer().unwrap();
    map(&writer, 0, LARGE).unwrap();
    let by = Waits { epochs: &epochs, begun: AtomicBool::new(false) };
    let took = std::thread::scope(|scope| {
        let beside = scope.spawn(|| {
            let other = shared.writer().unwrap();
            while !by.begun.load(Ordering::SeqCst) {
                std::hint::spin_loop();
            }
            let begun = Instant::now();
            map(&other, LARGE, LARGE).unwrap();
            begun.elapsed()
        });
        let mut gather = Gather::new(&by, ());
        assert_eq!(writer.split(Gva::new(0), LARGE, 12, &mut gather), Ok(1));
        gather.finish(&&tables).unwrap();
        beside.join().unwrap()
    });
    // It took more than 4 s, and failed, when the writer kept its reading while it waited.
    assert!(took < Duration::from_secs(1), "{took:?}");
}

/// What was unmapped is told, though the table that became empty could not be taken out.
#[test]
fn case_a12_an_unmap_tells_what_it_unmapped() {
    let arena = Arena::new(1 << 20);
    let tables = Tables::new(&arena);
    let shared = SharedPageTable::from(
        PageTable::new(format(), arena.memory(), Shareable::<Impatient>::new(&tables)).unwrap(),
    );
    let (one, other) = (shared.writer().unwrap(), shared.writer().unwrap());
    for at in [0, LARGE, LARGE + PAGE] {
        map(&one, at, PAGE).unwrap();
    }
    // Another writer has the table above the one that becomes empty.
    let mut gather = Gather::new(&Unused, ());
    let locked = one.lock(Gva::new(LARGE), 2 * LARGE).unwrap();
    let mut others = Gather::new(&Unused, ());
    let live = tables.live();
    assert_eq!(other.unmap(Gva::new(0), PAGE, &mut others), Ok(PAGE));
    assert!(other.translate(Gva::new(0), Access::READ).is_err());
    assert_eq!(other.unmap(Gva::new(0), PAGE, &mut others), Ok(0));
    others.finish(shared.tables()).unwrap();
    assert_eq!(tables.live(), live, "the empty table stays");
    locked.finish(&mut gather);
    // The next one that comes by takes it out.
    assert_eq!(other.unmap(Gva::new(0), PAGE, &mut others), Ok(0));
    others.finish(shared.tables()).unwrap();
    assert_eq!(tables.live(), live - 1);

    // A full gather that cannot be flushed, when the 65th table is to leave.
    let by = Failing::default();
    let mut full = Gather::new(&by, ());
    for n in 2..=66 {
        map(&one, n * LARGE, PAGE).unwrap();
    }
    for n in 2..=65 {
        assert_eq!(one.unmap(Gva::new(n * LARGE), PAGE, &mut full), Ok(PAGE));
    }
    by.failures.set(1);
    assert_eq!(one.unmap(Gva::new(66 * LARGE), PAGE, &mut full), Ok(PAGE));
    assert_eq!(by.failures.get(), 0, "the gather was full");
    full.finish(shared.tables()).unwrap();
    assert_eq!(one.unmap(Gva::new(0), 1 << 30, &mut full), Ok(2 * PAGE));
    full.finish(shared.tables()).unwrap();
    assert_eq!(tables.live(), 1);
}

/// Memory that panics when it is told of a write, if it is to.
struct Panics<M> {
    memory: M,
    next: Cell<bool>,
}

impl<A: Address, M: TableMemory<A>> ReadMemory<A> for Panics<M> {
    pgtable::words_in_place!(A);
}

impl<A: Address, M: TableMemory<A>> TableMemory<A> for Panics<M> {
    fn word(&self, address: A) -> Result<&AtomicU64, MemoryError> {
        self.memory.word(address)
    }

    fn table(&self, address: A, words: usize) -> Result<&[AtomicU64], MemoryError> {
        self.memory.table(address, words)
    }

    fn wrote(&self, _: A, _: usize) {
        assert!(!self.next.take(), "as it was told to");
    }
}

type Panicking<'t, 'm> = Writer<'t, LongMode, Panics<DirectMap<'m, Gpa>>, Shareable<'m, Impatient>>;

/// Does the verb of that name.
fn verb(
    name: &str,
    writer: &Panicking<'_, '_>,
    gather: &mut Gather<'_, pgtable::Stage1, Unused>,
) -> Result<(), RangeError<Gva>> {
    match name {
        "map a page" => map(writer, 2 * PAGE, PAGE),
        "map a range" => map(writer, 8 * LARGE, 3 * PAGE),
        "unmap a page" => writer.unmap(Gva::new(0), PAGE, gather).map(drop),
        "unmap tables" => writer.unmap(Gva::new(0), 4 * LARGE, gather).map(drop),
        "protect" => writer.protect(Gva::new(0), PAGE, Prot::R, gather).map(drop),
        _ => writer.split(Gva::new(4 * LARGE), LARGE, 12, gather).map(drop),
    }
}

/// A panic of the embedder's code leaves no table locked, whichever verb it comes in.
#[test]
fn case_a15_a_panic_leaves_nothing_locked() {
    let verbs = ["map a page", "map a range", "unmap a page", "unmap tables", "protect", "split"];
    for name in verbs {
        let arena = Arena::new(1 << 20);
        let tables = Tables::new(&arena);
        let memory = Panics { memory: arena.memory(), next: Cell::new(false) };
        let shared = SharedPageTable::from(
            PageTable::new(format(), memory, Shareable::<Impatient>::new(&tables)).unwrap(),
        );
        let writer = shared.writer().unwrap();
        for at in [0, PAGE, LARGE, 2 * LARGE] {
            map(&writer, at, PAGE).unwrap();
        }
        map(&writer, 4 * LARGE, LARGE).unwrap();
        let mut gather = Gather::new(&Unused, ());
        let walker = shared.walker();
        walker.memory().next.set(true);
        let panicked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            verb(name, &writer, &mut gather)
        }));
        assert!(panicked.is_err(), "{name}: nothing was written");
        // Every table can be had.
        let all = writer.protect(Gva::new(0), 1 << 30, Prot::R, &mut gather);
        assert!(all.is_ok(), "{name}: {all:?}");
        assert_ne!(
            writer.unmap(Gva::new(0), 1 << 30, &mut gather).map_err(|error| error.error),
            Err(Error::Contended),
            "{name}"
        );
        let _ = gather.finish(&&tables);
    }
}
