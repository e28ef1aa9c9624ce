//! A cache of translations beside the walker that it stands for: the same answers whatever changes,
//! and no walk for what it knows.

use std::cell::Cell;
use std::sync::atomic::AtomicU64;

use pgtable::cache::{Generation, TranslationCache, Watch};
use pgtable::format::{Format, Input, Output};
use pgtable::invalidate::{Gather, Invalidate, InvalidateFailed, Stale};
use pgtable::memory::{DirectMap, MemoryError, ReadMemory, TableMemory};
use pgtable::tree::PageTable;
use pgtable::{Access, Address, Leaves, Prot, Stage};
use pgtable_ppc64::radix::{Granule, ProcessScoped};
use pgtable_x86::{Controls, Ept, EptControls, Levels, LongMode};

use crate::support::{Arena, Tables, Tlb};

/// Memory that counts how many words are asked for.
struct Counted<'m, A>(DirectMap<'m, A>, Cell<usize>);

impl<A: Address> ReadMemory<A> for Counted<'_, A> {
    pgtable::words_in_place!(A);
}

impl<A: Address> TableMemory<A> for Counted<'_, A> {
    fn word(&self, address: A) -> Result<&AtomicU64, MemoryError> {
        self.1.set(self.1.get() + 1);
        self.0.word(address)
    }

    fn table(&self, address: A, words: usize) -> Result<&[AtomicU64], MemoryError> {
        self.0.table(address, words)
    }

    fn wrote(&self, address: A, words: usize) {
        self.0.wrote(address, words);
    }
}

fn random(state: &mut u64, bound: u64) -> u64 {
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    (*state >> 11) % bound
}

/// Pages of all sizes come, change and go; after each change caches of several sizes answer for
/// every address as the walker does, faults included.
fn as_the_walker<F: Format>(format: F) {
    let arena = Arena::new(4 << 20);
    let tables = Tables::new(&arena);
    let mut tree = PageTable::new(format, arena.memory::<Output<F>>(), &tables).unwrap();
    let generation = Generation::new();
    let tlb = Tlb::default();
    let by = Watch::new(&tlb, &generation);
    let (one, few, many) = (
        TranslationCache::<F, 1>::new(&generation),
        TranslationCache::<F, 7>::new(&generation),
        TranslationCache::<F, 64>::new(&generation),
    );
    let unit = 1 << format.geometry().page_shift();
    let large = 21;
    // Three large pages, of which neighbours share nothing but the size of the cache, and one far
    // away.
    let starts = [0, 1, 2, 1 << 10].map(|n| (1_u64 << 30) + (n << large));
    let mut state = 0x9e37_79b9_7f4a_7c15;
    for _ in 0..300 {
        let start = starts[random(&mut state, 4) as usize];
        let (at, pages) = (start + random(&mut state, 12) * unit, 1 + random(&mut state, 4));
        let prot =
            [Prot::R, Prot::RW, Prot::RWX, Prot::RW.for_user()][random(&mut state, 4) as usize];
        let attributes = F::Attributes::from(prot);
        let mut gather = Gather::new(&by, 1);
        match random(&mut state, 8) {
            0 => _ = tree.unmap(Input::<F>::new(start), 1 << large, &mut gather).unwrap(),
            1 => _ = tree.unmap(Input::<F>::new(at), pages * unit, &mut gather).unwrap(),
            2 => _ = tree.protect(Input::<F>::new(at), pages * unit, prot, &mut gather).unwrap(),
            3 => {
                let output = Output::<F>::new((5 << 30) + (random(&mut state, 8) << large));
                _ = tree.map(
                    Input::<F>::new(start),
                    output,
                    1 << large,
                    attributes,
                    Leaves::Largest,
                );
            }
            _ => {
                let output = Output::<F>::new((9 << 30) + random(&mut state, 64) * unit);
                _ = tree.map(
                    Input::<F>::new(at),
                    output,
                    pages * unit,
                    attributes,
                    Leaves::Largest,
                );
            }
        }
        gather.finish(tree.tables()).unwrap();
        let walker = tree.walker();
        for _ in 0..40 {
            let start = starts[random(&mut state, 4) as usize];
            let input =
                Input::<F>::new(start + random(&mut state, 16) * unit + random(&mut state, unit));
            for access in [Access::READ, Access::WRITE.by_user(), Access::FETCH] {
                let want = walker.translate(input, access);
                assert_eq!(one.translate(&walker, input, access), want, "{access} at {input}");
                assert_eq!(few.translate(&walker, input, access), want, "{access} at {input}");
                assert_eq!(many.translate(&walker, input, access), want, "{access} at {input}");
            }
        }
    }
}

#[test]
fn the_same_answers() {
    as_the_walker(LongMode::new(Levels::Four, Controls::new()));
    as_the_walker(ProcessScoped::new(Granule::K64));
    as_the_walker(Ept::new(Levels::Five, EptControls::new()));
}

/// What was once found is not walked for again, until something is invalidated; then once more.
#[test]
fn what_is_known_is_not_walked_for() {
    const N: u64 = 8;
    let arena = Arena::new(1 << 20);
    let tables = Tables::new(&arena);
    let format = LongMode::new(Levels::Four, Controls::new());
    let memory = Counted(arena.memory(), Cell::new(0));
    let mut tree = PageTable::new(format, &memory, &tables).unwrap();
    let page = |n: u64| pgtable::Gva::new((1 << 30) + n * 0x1000);
    let leaves = Leaves::Exactly(12);
    tree.map(page(0), pgtable::Gpa::new(0), 64 << 12, Prot::RW.into(), leaves).unwrap();
    tree.map(page(512), pgtable::Gpa::new(0), 2 << 20, Prot::RW.into(), Leaves::Largest).unwrap();
    let generation = Generation::new();
    let cache = TranslationCache::<LongMode, { N as usize }>::new(&generation);
    let walks = |n: u64, access: Access| {
        memory.1.set(0);
        cache.translate(&tree.walker(), page(n), access).unwrap();
        memory.1.get() > 0
    };
    for round in 0..3 {
        // A large page is looked up as a whole as long as no small one was met; from then on by its
        // parts.
        assert!(walks(512, Access::READ), "round {round}: it is forgotten, or was never known");
        assert!(!walks(512 + 77, Access::WRITE) && !walks(1023, Access::READ));
        for n in 0..N {
            assert!(walks(n, Access::READ), "page {n} in round {round}");
        }
        for n in (0..N).rev() {
            assert!(
                !walks(n, Access::WRITE) && !walks(n, Access::READ),
                "page {n} in round {round}"
            );
        }
        assert!(walks(512, Access::READ) && !walks(512, Access::READ) && walks(513, Access::READ));
        generation.advance();
    }
    // Two pages that share a place, by turns: each has another one besides.
    let known = |n: &u64| {
        generation.advance();
        let first = walks(*n, Access::READ) && walks(n + N, Access::READ);
        assert!(first && !walks(n + N, Access::READ));
        !walks(*n, Access::READ)
    };
    let both = (0..32).filter(known).count();
    assert!(both >= 24, "{both} of 32: a place is shared by chance only");
}

/// Counts what it hears.
#[derive(Default)]
struct Hears {
    invalidated: Cell<usize>,
    abandoned: Cell<usize>,
}

impl<S: Stage> Invalidate<S> for Hears {
    type Identity = ();

    fn invalidate(&self, (): (), _: &Stale<S::Input>) -> Result<(), InvalidateFailed> {
        self.invalidated.set(self.invalidated.get() + 1);
        Ok(())
    }

    fn abandoned(&self, (): (), _: usize, _: Result<(), InvalidateFailed>) {
        self.abandoned.set(self.abandoned.get() + 1);
    }
}

/// Who watches hears all, and passes it on: an abandoned gather too.
#[test]
fn what_is_watched_is_passed_on() {
    let arena = Arena::new(1 << 20);
    let tables = Tables::new(&arena);
    let format = LongMode::new(Levels::Four, Controls::new());
    let mut tree = PageTable::new(format, arena.memory(), &tables).unwrap();
    let page = pgtable::Gva::new(0x1000);
    let (hears, generation) = (Hears::default(), Generation::new());
    let by = Watch::new(&hears, &generation);
    for (finished, abandoned) in [(true, 0), (false, 1)] {
        tree.map(page, pgtable::Gpa::new(0), 0x1000, Prot::RW.into(), Leaves::Largest).unwrap();
        let mut gather = Gather::new(&by, ());
        tree.unmap(page, 0x1000, &mut gather).unwrap();
        if finished {
            gather.finish(tree.tables()).unwrap();
        }
        drop(gather);
        assert_eq!(hears.abandoned.get(), abandoned);
        assert!(hears.invalidated.get() > 0);
    }
    assert!(std::ptr::eq(*by.inner(), &hears));
}
