//! Many writers on one tree: alone they do what the one writer of an exclusive tree does; together,
//! each page is what its owner made of it, and no table is lost or left behind empty.
//!
//! Tables come from frag-alloc and wait there until nobody descends through them any more. There is
//! so little memory that they are used again at once.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};

use arch_ppc64::radix::{Granule, PartitionScoped, ProcessScoped};
use arch_x86::{Controls, Ept, EptControls, Levels, LongMode};
use frag_alloc::{Cache, Deferred, Epochs, Frames, Kind, Owner, Policy, Region};
use pgtable::{
    Access, Address, AddressSpace, DeferringAllocator, DirectMap, Error, Format, Gather, Input,
    Leaves, Output, PageTable, Prot, RangeError, ReadSide, Recorded, SharedPageTable, TableMemory,
    Unused, Writer, Writers,
};
use proptest::prelude::*;

use crate::sharing::{Alone, Impatient, Shareable};
use crate::support::harness::{Harness, Op, op};
use crate::support::{Arena, Tables};

/// Runs `ops` by one writer of a shared tree.
fn alone<F: Format>(format: F, ops: &[Op]) {
    let arena = Arena::new(8 << 20);
    let tables = Tables::new(&arena);
    let shared = SharedPageTable::from(
        PageTable::new(format, arena.memory::<Output<F>>(), Shareable::<Alone>::new(&tables))
            .unwrap(),
    );
    let mut harness = Harness::new(shared.writer().unwrap(), &tables);
    harness.check();
    for op in ops {
        harness.apply(op);
    }
    let (start, bytes) = harness.space.range();
    let mut gather = Gather::new(&harness.tlb, 7);
    harness.space.unmap(start, bytes, &mut gather).unwrap();
    gather.finish(&tables).unwrap();
    assert_eq!(tables.live(), 1, "only the root is left");
}

macro_rules! formats {
    ($($name:ident: $format:expr;)*) => {$(
        mod $name {
            use super::*;
            proptest! {
                #![proptest_config(ProptestConfig { cases: 64, max_shrink_iters: 2000, failure_persistence: None, ..ProptestConfig::default() })]
                #[test]
                fn alone_as_an_exclusive_writer(ops in proptest::collection::vec(op(), 1..30)) {
                    alone($format, &ops);
                }
            }
            #[test]
            fn together() {
                hammer($format);
            }
        }
    )*};
}

formats! {
    radix_64k: ProcessScoped::new(Granule::K64);
    radix_4k: PartitionScoped::new(Granule::K4);
    x86: LongMode::new(Levels::Four, Controls::new());
    ept: Ept::new(Levels::Four, EptControls::new());
}

const THREADS: u64 = 3;
const REGION: u64 = 1 << 21;
/// Regions of one large page each; the pages of the first are divided among all threads, so that
/// they share tables; each thread has one of its own; and over the last, which belongs to nobody,
/// they fight.
const SHARED: u64 = 0;
const FOUGHT: u64 = THREADS + 1;
const ROUNDS: u64 = 20_000;

fn random(state: &mut u64, bound: u64) -> u64 {
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    (*state >> 11) % bound
}

/// Where a region begins: two of them are neighbours, so that they share a table of the second
/// level; the others are apart.
fn region(number: u64) -> u64 {
    if number <= 1 { number * REGION } else { (number << 30) + REGION }
}

fn hammer<F: Format>(format: F) {
    let frames_count = 8;
    let start = Output::<F>::new(1 << 20);
    let words: Vec<AtomicU64> = (0..frames_count << 13).map(|_| AtomicU64::new(0)).collect();
    let memory = DirectMap::new(&words, start);
    let frames = Frames::new(Region::new(memory, start, frames_count, 16).unwrap()).unwrap();
    let epochs = Epochs::new(THREADS as usize);
    let tables = Deferred::new(Cache::new(&frames, Owner(1), Kind::User, Policy::Reuse), &epochs);
    let shared = SharedPageTable::from(PageTable::new(format, memory, &tables).unwrap());
    // Bytes that were mapped in the region of nobody, less those that were unmapped.
    let fought = AtomicU64::new(0);

    let models: Vec<BTreeMap<u64, u64>> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..THREADS)
            .map(|number| {
                let (shared, fought) = (&shared, &fought);
                scope.spawn(move || {
                    let writer = shared.writer().unwrap();
                    let (model, tables) = (BTreeMap::new(), shared.tables());
                    let mut owner =
                        Thread { writer, tables, number, model, state: number + 1, fought };
                    (0..ROUNDS).for_each(|_| owner.step());
                    owner.model
                })
            })
            .collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });

    // What is mapped now is what the owners say, and what nobody unmapped.
    let mut tree = shared.into_inner();
    let union: BTreeMap<u64, u64> = models.into_iter().flatten().collect();
    let mut found = BTreeMap::new();
    let mut of_nobody = 0;
    let page = 1u64 << format.geometry().page_shift();
    let (whole, bytes) = tree.range();
    let visited = tree.walker().for_each(whole, bytes, |leaf| {
        if leaf.input.get() >= region(FOUGHT) {
            of_nobody += leaf.bytes;
        } else {
            let pages = (0..leaf.bytes).step_by(page as usize);
            found.extend(pages.map(|at| (leaf.input.get() + at, leaf.output.get() + at)));
        }
        std::ops::ControlFlow::<()>::Continue(())
    });
    assert_eq!(visited, Ok(std::ops::ControlFlow::Continue(())));
    assert_eq!(found, union);
    assert_eq!(of_nobody, fought.load(Ordering::Relaxed));

    // Every count is right: the tables go with the last page in them.
    let mut gather = Gather::new(&Unused, ());
    for region in (0..=FOUGHT).map(region) {
        for at in (region..region + REGION).step_by(page as usize) {
            tree.unmap(Input::<F>::new(at), page, &mut gather).unwrap();
        }
    }
    gather.finish(&tables).unwrap();
    tables.collect().unwrap();
    tables.collect().unwrap();
    assert_eq!(frames.census().live, 1, "only the root is left");
    tree.destroy(Gather::new(&Unused, ())).map_err(|(_, error)| error).unwrap();
    drop(tables);
    assert!(frames.census().all_home(), "{:?}", frames.census());
}

struct Thread<'t, F: Format, M, A: DeferringAllocator<Output<F>>> {
    writer: Writer<'t, F, M, A>,
    tables: &'t A,
    number: u64,
    /// Its pages: where they lead.
    model: BTreeMap<u64, u64>,
    state: u64,
    fought: &'t AtomicU64,
}

impl<F, M, A> Thread<'_, F, M, A>
where
    F: Format,
    M: TableMemory<Output<F>>,
    A: DeferringAllocator<Output<F>>,
{
    fn page(&self) -> u64 {
        1 << self.writer.read(|walker| walker.format().geometry().page_shift())
    }

    fn random(&mut self, bound: u64) -> u64 {
        random(&mut self.state, bound)
    }

    /// One of this thread's pages that lie between those of others.
    fn between(&mut self) -> u64 {
        let page = self.page();
        let pages = REGION / page / THREADS;
        region(SHARED) + (self.random(pages) * THREADS + self.number) * page
    }

    fn own(&mut self, pages: u64) -> (u64, u64) {
        let page = self.page();
        let first = self.random(REGION / page);
        (region(1 + self.number) + first * page, pages.min(REGION / page - first) * page)
    }

    /// Out of memory while tables wait for readers: no harm was done.
    fn unless_out_of_memory<T>(result: Result<T, RangeError<Input<F>>>) -> Option<T> {
        match result {
            Ok(done) => Some(done),
            Err(RangeError { error: Error::Alloc(_), .. }) => None,
            Err(error) => panic!("{error}"),
        }
    }

    /// The same, and the others are let on. Not for who holds a lock, for which they wait.
    fn may_run_out<T>(result: Result<T, RangeError<Input<F>>>) -> Option<T> {
        let done = Self::unless_out_of_memory(result);
        if done.is_none() {
            std::thread::yield_now();
        }
        done
    }

    fn map(&mut self, at: u64, bytes: u64, leaves: Leaves) {
        let page = self.page();
        let output = (1 + self.random(64)) * 16 * REGION + at % (16 * REGION);
        let attributes = Prot::RW.into();
        let taken = self.model.range(at..at + bytes).next().map(|(&at, _)| at);
        let mapped = self.writer.map(
            Input::<F>::new(at),
            Output::<F>::new(output),
            bytes,
            attributes,
            leaves,
        );
        let done = match mapped {
            Ok(()) => bytes,
            Err(RangeError { at: failed, error }) => {
                assert!(
                    matches!(error, Error::Alloc(_))
                        || (matches!(error, Error::Mapped { .. }) && taken.is_some())
                );
                failed.get() - at
            }
        };
        assert!(taken.is_none_or(|taken| taken >= at + done), "mapped over a mapping");
        self.model.extend((0..done).step_by(page as usize).map(|by| (at + by, output + by)));
    }

    fn unmap(&mut self, at: u64, bytes: u64) {
        let page = self.page();
        let mut gather = Gather::new(&Unused, ());
        let unmapped = self.writer.unmap(Input::<F>::new(at), bytes, &mut gather);
        gather.finish(self.tables).unwrap();
        let done = match &unmapped {
            Ok(_) => bytes,
            Err(error) => error.at.get() - at,
        };
        let before = self.model.len();
        self.model.retain(|&it, _| it < at || it >= at + done);
        let gone = (before - self.model.len()) as u64 * page;
        if let Some(unmapped) = Self::may_run_out(unmapped) {
            assert_eq!(unmapped, gone);
        }
    }

    /// Over the range of nobody: all that can be said is how much was mapped.
    fn fight(&mut self) {
        let page = self.page();
        let pages = REGION / page;
        let (first, count) =
            if self.random(4) == 0 { (0, pages) } else { (self.random(pages), 1 + self.random(4)) };
        let (at, bytes) = (region(FOUGHT) + first * page, count.min(pages - first) * page);
        let mut gather = Gather::new(&Unused, ());
        if self.random(2) == 0 {
            let output = Output::<F>::new(16 * REGION + at % (16 * REGION));
            let leaves = [Leaves::Largest, Leaves::AtMost(page.trailing_zeros() as u8)]
                [self.random(2) as usize];
            let mapped =
                self.writer.map(Input::<F>::new(at), output, bytes, Prot::RW.into(), leaves);
            let done = mapped.map_or_else(|error| error.at.get() - at, |()| bytes);
            self.fought.fetch_add(done, Ordering::Relaxed);
        } else {
            // What a failing verb did is known by walking only, and others are at it; it fails when
            // a large page cannot be split. The whole is always possible.
            let unmapped =
                self.writer.unmap(Input::<F>::new(region(FOUGHT)), REGION, &mut gather).unwrap();
            self.fought.fetch_sub(unmapped, Ordering::Relaxed);
        }
        gather.finish(self.tables).unwrap();
    }

    /// Several things under one lock.
    fn several(&mut self) {
        let page = self.page();
        let usual = page.trailing_zeros() as u8;
        let ((at, bytes), choice) = (self.own(4), self.random(4));
        let mut gather = Gather::new(&Unused, ());
        if choice < 2 {
            let (input, prot) =
                (Input::<F>::new(region(1 + self.number)), [Prot::R, Prot::RW][choice as usize]);
            // More than the region, which a leaf may cover; nobody is in between.
            let around = region(1 + self.number) & !((1 << 30) - 1);
            let mut cursor = if self.number == 0 {
                self.writer.lock(input, REGION).unwrap()
            } else {
                self.writer.lock(Input::<F>::new(around), 1 << 30).unwrap()
            };
            let mapped = self.model.range(input.get()..input.get() + REGION).count() as u64 * page;
            assert_eq!(
                Self::unless_out_of_memory(cursor.protect(input, REGION, prot, &mut gather)),
                Some(mapped)
            );
            let mut bitmap = [0; 8];
            let (recorded, writers) = (Recorded::Dirty, Writers::Running);
            let dirty =
                cursor.harvest(input, REGION, recorded, writers, &mut bitmap, &mut gather).unwrap();
            assert!(dirty * page <= mapped);
            assert_eq!(
                cursor.harvest(input, REGION, recorded, writers, &mut [0; 8], &mut gather),
                Ok(0)
            );
            Self::unless_out_of_memory(cursor.split(input, REGION, usual, &mut gather));
            assert!(cursor.promote(input, REGION, &mut gather).unwrap() <= 1);
            cursor.finish(&mut gather);
        } else {
            let mut cursor = self.writer.lock(Input::<F>::new(at), bytes).unwrap();
            for by in (0..bytes).step_by(page as usize) {
                let found = cursor.query(Input::<F>::new(at + by)).unwrap();
                assert_eq!(
                    found.map(|found| found.output.get()),
                    self.model.get(&(at + by)).copied()
                );
                if Self::unless_out_of_memory(cursor.unmap(
                    Input::<F>::new(at + by),
                    page,
                    &mut gather,
                ))
                .is_none()
                {
                    continue;
                }
                self.model.remove(&(at + by));
                let output = Output::<F>::new(16 * REGION + (at + by) % (16 * REGION));
                let (input, attributes) = (Input::<F>::new(at + by), Prot::RW.into());
                if Self::unless_out_of_memory(cursor.map(
                    input,
                    output,
                    page,
                    attributes,
                    Leaves::Largest,
                ))
                .is_some()
                {
                    self.model.insert(at + by, output.get());
                }
            }
            cursor.finish(&mut gather);
        }
        gather.finish(self.tables).unwrap();
    }

    fn step(&mut self) {
        let page = self.page();
        let usual = page.trailing_zeros() as u8;
        match self.random(16) {
            0..4 => {
                let at = self.between();
                self.map(at, page, Leaves::Exactly(usual));
            }
            4..7 => {
                let at = self.between();
                self.unmap(at, page);
            }
            7 => {
                let (at, bytes) = self.own(8);
                self.map(at, bytes, Leaves::Largest);
            }
            8 => {
                let (at, bytes) = self.own(8);
                self.unmap(at, bytes);
            }
            9 => self.map(region(1 + self.number), REGION, Leaves::Largest),
            10 => self.unmap(region(1 + self.number), REGION),
            11 => self.several(),
            12 => {
                let (at, bytes) = self.own(8);
                let mut gather = Gather::new(&Unused, ());
                let prot = [Prot::R, Prot::RW][self.random(2) as usize];
                let changed = self.writer.protect(Input::<F>::new(at), bytes, prot, &mut gather);
                gather.finish(self.tables).unwrap();
                if let Some(changed) = Self::may_run_out(changed) {
                    assert_eq!(changed, self.model.range(at..at + bytes).count() as u64 * page);
                }
            }
            13 => {
                let at = Input::<F>::new(region(1 + self.number));
                let mut gather = Gather::new(&Unused, ());
                if self.random(2) == 0 {
                    Self::may_run_out(self.writer.split(at, REGION, usual, &mut gather));
                } else {
                    self.writer.promote(at, REGION, &mut gather).unwrap();
                }
                gather.finish(self.tables).unwrap();
            }
            14 => {
                let mut bitmap = [0; 8];
                let mut gather = Gather::new(&Unused, ());
                let at = Input::<F>::new(region(1 + self.number));
                let (recorded, writers) = (Recorded::Dirty, Writers::Running);
                self.writer
                    .harvest(at, REGION, recorded, writers, &mut bitmap, &mut gather)
                    .unwrap();
                gather.finish(self.tables).unwrap();
            }
            _ => self.fight(),
        }
        // Its pages are as it left them, whatever the others do.
        let (own, between) = (self.own(1).0, self.between());
        for at in [own, between] {
            let found = self.writer.translate(Input::<F>::new(at + 5), Access::READ);
            assert_eq!(
                found.ok().map(|found| found.output.get() - 5),
                self.model.get(&at).copied(),
                "{at:#x}"
            );
        }
    }
}

/// A writer that gives up waiting gets an error, and has changed nothing.
#[derive(Debug, Default)]
struct Counting;

thread_local! {
    static WAITED: Cell<u32> = const { Cell::new(0) };
}

impl ReadSide for Counting {
    type Reading<'r> = ();

    fn read(&mut self) {}

    fn wait(turns: u32) -> bool {
        WAITED.set(turns + 1);
        turns < 9
    }
}

#[test]
fn waiting_ends() {
    // Of who says nothing else: long after any verb of another is done.
    assert!(Alone::wait(0) && Alone::wait((1 << 25) - 1) && !Alone::wait(1 << 25));
    let arena = Arena::new(1 << 20);
    let tables = Tables::new(&arena);
    let format = LongMode::new(Levels::Four, Controls::new());
    let allocator = Shareable::<Counting>::new(&tables);
    let shared = SharedPageTable::from(PageTable::new(format, arena.memory(), allocator).unwrap());
    let (one, other) = (shared.writer().unwrap(), shared.writer().unwrap());
    let map = |at: u64| {
        let (input, output) = (pgtable::Gva::new(at), pgtable::Gpa::new(0x1000));
        other.map(input, output, 0x1000, Prot::RW.into(), Leaves::Largest)
    };
    map(0x1000).unwrap();
    let cursor = one.lock(pgtable::Gva::new(0), REGION).unwrap();
    let contended = RangeError { at: pgtable::Gva::new(0x2000), error: Error::Contended };
    assert_eq!(map(0x2000), Err(contended));
    assert_eq!(WAITED.get(), 10);
    // What the other does not cover goes on; and so does what he covers, once he is gone.
    map(REGION).unwrap();
    drop(cursor);
    map(0x2000).unwrap();

    // Nested: who covers both waits for who covers one, also on the way down.
    let cursor = one.lock(pgtable::Gva::new(0), REGION).unwrap();
    let mut gather = Gather::new(&Unused, ());
    let around = other.unmap(pgtable::Gva::new(0), 2 * REGION, &mut gather);
    assert_eq!(around, Err(RangeError { at: pgtable::Gva::new(0), error: Error::Contended }));
    drop(cursor);
    assert_eq!(other.unmap(pgtable::Gva::new(0), 2 * REGION, &mut gather), Ok(3 * 0x1000));
    gather.finish(&&tables).unwrap();
    assert_eq!(tables.live(), 1);
}

#[test]
fn a_circle_that_somebody_else_made_is_an_error() {
    let arena = Arena::new(1 << 20);
    let tables = Tables::new(&arena);
    let memory = arena.memory::<pgtable::Gpa>();
    let format = LongMode::new(Levels::Four, Controls::new());
    let allocator = Shareable::<Impatient>::new(&tables);
    let shared = SharedPageTable::from(PageTable::new(format, memory, allocator).unwrap());
    let writer = shared.writer().unwrap();
    // The root's first entry leads to the root.
    let root = shared.root();
    memory.word(root).unwrap().store(root.get() | 7, Ordering::Relaxed);
    let mut gather = Gather::new(&Unused, ());
    let error = writer.unmap(pgtable::Gva::new(0), 1 << 40, &mut gather).unwrap_err();
    assert!(
        matches!(error.error, Error::Malformed { entry, .. } if entry == root.get()),
        "{error}"
    );
    // The same by a table that has left the tree.
    memory.word(root).unwrap().store(0, Ordering::Relaxed);
    let page = (pgtable::Gva::new(0), pgtable::Gpa::new(0x1000));
    writer.map(page.0, page.1, 0x1000, Prot::RW.into(), Leaves::Largest).unwrap();
    let link = memory.word(root).unwrap().load(Ordering::Relaxed);
    writer.unmap(page.0, 0x1000, &mut gather).unwrap();
    memory.word(root).unwrap().store(link, Ordering::Relaxed);
    let error = writer.map(page.0, page.1, 0x1000, Prot::RW.into(), Leaves::Largest).unwrap_err();
    assert!(
        matches!(error.error, Error::Malformed { entry, .. } if entry == root.get()),
        "{error}"
    );
    memory.word(root).unwrap().store(0, Ordering::Relaxed);
    gather.finish(&&tables).unwrap();
}
