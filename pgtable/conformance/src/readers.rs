//! Readers on other threads while the one writer maps, unmaps, splits, promotes, protects and moves
//! tables: every translation is one that was true at some time while the reader was looking, and
//! what is not touched translates always.
//!
//! Readers take no lock; tables come from frag-alloc and wait there, after the gather freed them,
//! until the readers that may still see them have left. There is so little memory that tables are
//! used again at once.

use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering, fence};
use std::time::{Duration, Instant};

use frag_alloc::{Cache, Deferred, Epochs, Kind, Owner, Policy};
use pgtable::format::{Format, Input, Output};
use pgtable::invalidate::{Gather, Unused};
use pgtable::memory::DirectMap;
use pgtable::tree::PageTable;
use pgtable::walk::Walker;
use pgtable::{Access, Address, Cause, Error, Leaves, Prot, RangeError};

use crate::cases::Random;
use crate::memory::Scarce;

/// Regions of one large page each, every one under a table of the third level of its own. The last
/// is never changed.
const REGIONS: u64 = 8;
const STEADY: u64 = REGIONS - 1;
const REGION: u64 = 1 << 21;
const READERS: usize = 2;

/// What was mapped at a page, in numbers that only grow: an output says the number and the page.
#[derive(Debug, Default)]
struct Truth {
    /// The last number that may have been mapped: stored before it is.
    begun: AtomicU64,
    /// The last number that is not mapped any more: stored after it was unmapped.
    ended: AtomicU64,
}

#[derive(Clone, Copy)]
struct Places {
    shift: u8,
    /// Pages of a region.
    pages: u64,
}

impl Places {
    fn input(self, page: u64) -> u64 {
        ((page / self.pages) << 30) + ((page % self.pages) << self.shift)
    }

    /// The output of the first page of a region, of that number.
    fn output(self, number: u64, page: u64) -> u64 {
        (number * self.pages * REGIONS + page) << self.shift
    }
}

/// Readers look at pages while one writer changes them, for the [`number`](crate::cases::number) of
/// `rounds` changes.
///
/// # Panics
/// If a translation was never true while its reader was looking, or if a table is lost.
pub fn beside_a_writer<F: Format>(format: F, rounds: u32) {
    let rounds = crate::cases::number(rounds);
    if format.geometry().address_bits() < 34 || format.address(0).get() != 0 {
        // No room for the regions.
        return;
    }
    let shift = format.geometry().page_shift();
    let places = Places { shift, pages: REGION >> shift };
    let Some((rights, read)) = crate::words::usable(&format) else { return };
    let Some(scarce) = Scarce::new(format, 6) else { return };
    let (memory, frames) = (scarce.memory::<F>(), scarce.frames::<F>());
    let epochs = Epochs::new(READERS);
    let tables = Deferred::new(Cache::new(&frames, Owner(1), Kind::User, Policy::Reuse), &epochs);
    let truth: Vec<Truth> = (0..places.pages * REGIONS).map(|_| Truth::default()).collect();
    let mut space = PageTable::new(format, memory, &tables).expect("nothing fails");

    let root = AtomicU64::new(space.root().get());
    let mut writer = Writer { places, truth: &truth, number: 0, root: &root, rights };
    writer
        .map(&mut space, STEADY * places.pages, places.pages, Leaves::Exactly(shift))
        .expect("nothing fails");
    let (done, translated) = (AtomicBool::new(false), AtomicUsize::new(0));
    std::thread::scope(|scope| {
        for seed in 1..=READERS as u64 {
            let (epochs, truth, root, done, translated) =
                (&epochs, &truth, &root, &done, &translated);
            scope.spawn(move || {
                // If this reader fails, the others and the writer end too.
                struct End<'d>(&'d AtomicBool);
                impl Drop for End<'_> {
                    fn drop(&mut self) {
                        self.0.store(true, Ordering::Relaxed);
                    }
                }
                let _end = End(done);
                let mut reader = epochs.reader().expect("nothing fails");
                let random = Random::new(seed);
                while !done.load(Ordering::Relaxed) {
                    let reading = reader.read();
                    for _ in 0..random.below(16) {
                        let page = random.below(places.pages * REGIONS);
                        let ended = truth[page as usize].ended.load(Ordering::Acquire);
                        // Each look begins at the root, which moves.
                        let walker = Walker::new(
                            format,
                            memory,
                            Output::<F>::new(root.load(Ordering::Acquire)),
                        );
                        let found =
                            look(&walker, places, page, ended, (read, &truth[page as usize]));
                        translated.fetch_add(usize::from(found), Ordering::Relaxed);
                        assert!(
                            found || page / places.pages != STEADY,
                            "page {page} was never unmapped"
                        );
                    }
                    drop(reading);
                }
            });
        }
        let began = Instant::now();
        let (mut round, random) = (0, Random::new(0x9e37_79b9));
        while !done.load(Ordering::Relaxed)
            && (round < rounds || translated.load(Ordering::Relaxed) < 10_000)
        {
            writer.step(&mut space, &random);
            // What may be used again is, at once.
            tables.collect().expect("nothing fails");
            round += 1;
            assert!(began.elapsed() < Duration::from_secs(300), "the readers do not come to read");
        }
        done.store(true, Ordering::Relaxed);
    });
    space.destroy(Gather::new(&Unused, ())).map_err(|(_, error)| error).expect("nothing fails");
    drop(tables);
    assert!(frames.census().all_home(), "{:?}", frames.census());
}

/// One look at a page, of which all numbers up to `ended` were unmapped before; whether it
/// translated.
fn look<F: Format>(
    walker: &Walker<F, DirectMap<'_, Output<F>>>,
    places: Places,
    page: u64,
    ended: u64,
    (access, truth): (Access, &Truth),
) -> bool {
    let found = walker.translate(Input::<F>::new(places.input(page) + 5), access);
    fence(Ordering::SeqCst);
    let begun = truth.begun.load(Ordering::Relaxed);
    match found {
        Ok(translation) => {
            let frame = translation.output.get() - 5;
            let (number, of) = (places.output(1, 0), places.output(0, 1));
            let (number, of) = (frame / number, frame % number / of);
            assert_eq!(of, page, "page {page} leads to page {of}'s frame of number {number}");
            assert!(
                number > ended && number <= begun,
                "{number} was not true between {ended} and {begun}: page {page}"
            );
            true
        }
        Err(fault) => {
            assert_eq!(fault.cause, Cause::NotPresent, "{fault}");
            false
        }
    }
}

struct Writer<'t> {
    places: Places,
    truth: &'t [Truth],
    number: u64,
    root: &'t AtomicU64,
    /// The rights of pages.
    rights: Prot,
}

type Tree<F, M, A> = PageTable<F, M, A>;

impl Writer<'_> {
    fn of(&self, first: u64, pages: u64) -> &[Truth] {
        &self.truth[first as usize..(first + pages) as usize]
    }

    fn map<F, M, A>(
        &mut self,
        space: &mut Tree<F, M, A>,
        first: u64,
        pages: u64,
        leaves: Leaves,
    ) -> Result<(), Error>
    where
        F: Format,
        M: pgtable::memory::TableMemory<Output<F>>,
        A: pgtable::allocator::TableAllocator<Output<F>>,
    {
        self.number += 1;
        self.of(first, pages)
            .iter()
            .for_each(|page| page.begun.store(self.number, Ordering::Relaxed));
        fence(Ordering::SeqCst);
        let (input, output) = (self.places.input(first), self.places.output(self.number, first));
        let bytes = pages << self.places.shift;
        let (input, output) = (Input::<F>::new(input), Output::<F>::new(output));
        let RangeError { error, .. } =
            match space.map(input, output, bytes, self.rights.into(), leaves) {
                Ok(()) => return Ok(()),
                Err(error) => error,
            };
        // Part of it may be mapped.
        self.unmap(space, first, pages).and(Err(error))
    }

    fn unmap<F, M, A>(
        &mut self,
        space: &mut Tree<F, M, A>,
        first: u64,
        pages: u64,
    ) -> Result<(), Error>
    where
        F: Format,
        M: pgtable::memory::TableMemory<Output<F>>,
        A: pgtable::allocator::TableAllocator<Output<F>>,
    {
        let mut gather = Gather::new(&Unused, ());
        let input = Input::<F>::new(self.places.input(first));
        let result = space.unmap(input, pages << self.places.shift, &mut gather);
        gather.finish(space.tables()).expect("nothing fails");
        result.map_err(|error| error.error)?;
        for page in self.of(first, pages) {
            page.ended.store(page.begun.load(Ordering::Relaxed), Ordering::Release);
        }
        Ok(())
    }

    fn step<F, M, A>(&mut self, space: &mut Tree<F, M, A>, random: &Random)
    where
        F: Format,
        M: pgtable::memory::TableMemory<Output<F>>,
        A: pgtable::allocator::TableAllocator<Output<F>>,
    {
        let Places { shift, pages } = self.places;
        let region = random.below(STEADY) * pages;
        let input = |page: u64| Input::<F>::new(self.places.input(page));
        let (page, count) = (random.below(pages), 1 + random.below(4));
        let (page, count) = (region + page, count.min(pages - page));
        let mut gather = Gather::new(&Unused, ());
        let result = match random.below(12) {
            0 => self
                .unmap(space, region, pages)
                .and_then(|()| self.map(space, region, pages, Leaves::Largest)),
            1 | 2 => self
                .unmap(space, region, pages)
                .and_then(|()| self.map(space, region, pages, Leaves::Exactly(shift))),
            3 => self.unmap(space, region, pages),
            4..8 => self.unmap(space, page, count).and_then(|()| {
                if random.below(3) > 0 {
                    self.map(space, page, count, Leaves::Largest)
                } else {
                    Ok(())
                }
            }),
            8 => {
                let prot = [self.rights.with_write(false), self.rights][random.below(2) as usize];
                let changed = space.protect(input(page), count << shift, prot, &mut gather);
                changed.map(|_| ()).map_err(|error| error.error)
            }
            9 => space
                .split(input(region), REGION, shift, &mut gather)
                .map(|_| ())
                .map_err(|error| error.error),
            10 => space
                .promote(input(region), REGION, &mut gather)
                .map(|_| ())
                .map_err(|error| error.error),
            _ => {
                let moved = space.relocate(|_, _| true, &mut gather);
                let switch = |root: Output<F>| self.root.store(root.get(), Ordering::Release);
                moved.and_then(|_| space.relocate_root(switch, &mut gather)).map(|_| ())
            }
        };
        gather.finish(space.tables()).expect("nothing fails");
        match result {
            // Everything waits for a reader.
            Err(Error::Alloc(_)) => std::thread::yield_now(),
            result => result.expect("nothing fails"),
        }
    }
}
