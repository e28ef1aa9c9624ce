//! Many writers on one tree: each page is what its owner made of it, and no table is lost or left
//! behind empty.
//!
//! Tables come from frag-alloc and wait there until nobody descends through them any more. There is
//! so little memory that they are used again at once.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};

use frag_alloc::{Cache, Deferred, Epochs, Kind, Owner, Policy};
use pgtable::format::{Format, Input, Output};
use pgtable::invalidate::{Gather, Unused};
use pgtable::memory::TableMemory;
use pgtable::shared::{DeferringAllocator, SharedPageTable, Writer};
use pgtable::tree::{PageTable, Recorded, Writers};
use pgtable::{Access, Address, AddressSpace, Error, Leaves, Prot, RangeError};

use crate::cases::Random;
use crate::memory::Scarce;

const THREADS: u64 = 3;
const REGION: u64 = 1 << 21;
/// Regions of one large page each; the pages of the first are divided among all threads, so that
/// they share tables; each thread has one of its own; and over the last, which belongs to nobody,
/// they fight.
const SHARED: u64 = 0;
const FOUGHT: u64 = THREADS + 1;
/// Where a region begins: two of them are neighbours, so that they share a table of the second
/// level; the others are apart.
fn region(number: u64) -> u64 {
    if number <= 1 { number * REGION } else { (number << 30) + REGION }
}

/// Threads change one tree, for the [`number`](crate::cases::number) of `rounds` operations
/// each.
///
/// # Panics
/// If a page is not what its thread made of it, or if a table is lost.
pub fn together<F: Format>(format: F, rounds: u32) {
    let rounds = crate::cases::number(rounds);
    if format.geometry().address_bits() < 34 || format.address(0).get() != 0 {
        // No room for the regions.
        return;
    }
    let Some(usable) = crate::words::usable(&format) else { return };
    let Some(scarce) = Scarce::new(format, 8) else { return };
    let (memory, frames) = (scarce.memory::<F>(), scarce.frames::<F>());
    let epochs = Epochs::new(THREADS as usize);
    let tables = Deferred::new(Cache::new(&frames, Owner(1), Kind::User, Policy::Reuse), &epochs);
    let shared =
        SharedPageTable::from(PageTable::new(format, memory, &tables).expect("nothing fails"));
    // Bytes that were mapped in the region of nobody, less those that were unmapped.
    let fought = AtomicU64::new(0);

    let models: Vec<BTreeMap<u64, u64>> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..THREADS)
            .map(|number| {
                let (shared, fought) = (&shared, &fought);
                scope.spawn(move || {
                    let writer = shared.writer().expect("nothing fails");
                    let (model, tables) = (BTreeMap::new(), shared.tables());
                    let mut owner = Thread {
                        writer,
                        tables,
                        number,
                        model,
                        random: Random::new(number),
                        usable,
                        fought,
                    };
                    (0..rounds).for_each(|_| owner.step());
                    owner.model
                })
            })
            .collect();
        threads.into_iter().map(|thread| thread.join().expect("nothing fails")).collect()
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
            tree.unmap(Input::<F>::new(at), page, &mut gather).expect("nothing fails");
        }
    }
    gather.finish(&tables).expect("nothing fails");
    tables.collect().expect("nothing fails");
    tables.collect().expect("nothing fails");
    assert_eq!(frames.census().live, 1, "only the root is left");
    tree.destroy(Gather::new(&Unused, ())).map_err(|(_, error)| error).expect("nothing fails");
    drop(tables);
    assert!(frames.census().all_home(), "{:?}", frames.census());
}

struct Thread<'t, F: Format, M, A: DeferringAllocator<Output<F>>> {
    writer: Writer<'t, F, M, A>,
    tables: &'t A,
    number: u64,
    /// Its pages: where they lead.
    model: BTreeMap<u64, u64>,
    random: Random,
    /// The rights of its pages, and how they are read.
    usable: (Prot, Access),
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

    fn random(&self, bound: u64) -> u64 {
        self.random.below(bound)
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
        let attributes = self.usable.0.into();
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
        gather.finish(self.tables).expect("nothing fails");
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
                self.writer.map(Input::<F>::new(at), output, bytes, self.usable.0.into(), leaves);
            let done = mapped.map_or_else(|error| error.at.get() - at, |()| bytes);
            self.fought.fetch_add(done, Ordering::Relaxed);
        } else {
            // What a failing verb did is known by walking only, and others are at it; it fails when
            // a large page cannot be split. The whole is always possible.
            let unmapped = self
                .writer
                .unmap(Input::<F>::new(region(FOUGHT)), REGION, &mut gather)
                .expect("nothing fails");
            self.fought.fetch_sub(unmapped, Ordering::Relaxed);
        }
        gather.finish(self.tables).expect("nothing fails");
    }

    /// Several things under one lock.
    fn several(&mut self) {
        let page = self.page();
        let usual = page.trailing_zeros() as u8;
        let ((at, bytes), choice) = (self.own(4), self.random(4));
        let mut gather = Gather::new(&Unused, ());
        if choice < 2 {
            let (input, prot) = (
                Input::<F>::new(region(1 + self.number)),
                [self.usable.0.with_write(false), self.usable.0][choice as usize],
            );
            // More than the region, which a leaf may cover; nobody is in between.
            let around = region(1 + self.number) & !((1 << 30) - 1);
            let mut cursor = if self.number == 0 {
                self.writer.lock(input, REGION).expect("nothing fails")
            } else {
                self.writer.lock(Input::<F>::new(around), 1 << 30).expect("nothing fails")
            };
            let mapped = self.model.range(input.get()..input.get() + REGION).count() as u64 * page;
            assert_eq!(
                Self::unless_out_of_memory(cursor.protect(input, REGION, prot, &mut gather)),
                Some(mapped)
            );
            let mut bitmap = [0; 8];
            let (recorded, writers) = (Recorded::Dirty, Writers::Running);
            let mut harvest = |bitmap: &mut [u64; 8]| {
                let found = cursor.harvest(input, REGION, recorded, writers, bitmap, &mut gather);
                found.or_else(
                    |error| if error.error == Error::NoRecord { Ok(0) } else { Err(error) },
                )
            };
            let dirty = harvest(&mut bitmap).expect("no table is needed");
            assert!(dirty * page <= mapped);
            assert_eq!(harvest(&mut [0; 8]), Ok(0));
            Self::unless_out_of_memory(cursor.split(input, REGION, usual, &mut gather));
            cursor.promote(input, REGION, &mut gather).expect("no table is needed");
            cursor.finish(&mut gather);
        } else {
            let mut cursor = self.writer.lock(Input::<F>::new(at), bytes).expect("nothing fails");
            for by in (0..bytes).step_by(page as usize) {
                let found = cursor.query(Input::<F>::new(at + by)).expect("nothing fails");
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
                let (input, attributes) = (Input::<F>::new(at + by), self.usable.0.into());
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
        gather.finish(self.tables).expect("nothing fails");
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
                let prot =
                    [self.usable.0.with_write(false), self.usable.0][self.random(2) as usize];
                let changed = self.writer.protect(Input::<F>::new(at), bytes, prot, &mut gather);
                gather.finish(self.tables).expect("nothing fails");
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
                    self.writer.promote(at, REGION, &mut gather).expect("nothing fails");
                }
                gather.finish(self.tables).expect("nothing fails");
            }
            14 => {
                let mut bitmap = [0; 8];
                let mut gather = Gather::new(&Unused, ());
                let at = Input::<F>::new(region(1 + self.number));
                let (recorded, writers) = (Recorded::Dirty, Writers::Running);
                let harvested =
                    self.writer.harvest(at, REGION, recorded, writers, &mut bitmap, &mut gather);
                let no_record = |error: RangeError<_>| error.error == Error::NoRecord;
                assert!(harvested.is_ok() || harvested.is_err_and(no_record));
                gather.finish(self.tables).expect("nothing fails");
            }
            _ => self.fight(),
        }
        // Its pages are as it left them, whatever the others do.
        let (own, between) = (self.own(1).0, self.between());
        for at in [own, between] {
            let found = self.writer.translate(Input::<F>::new(at + 5), self.usable.1);
            assert_eq!(
                found.ok().map(|found| found.output.get() - 5),
                self.model.get(&at).copied(),
                "{at:#x}"
            );
        }
    }
}
