//! Words that somebody else writes while they are read: each is read once, and what was read is
//! what is judged.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};

use pgtable::format::{Format, Input, Output};
use pgtable::invalidate::{Gather, Invalidate, InvalidateFailed, Stale, Unused};
use pgtable::memory::{DirectMap, MemoryError, ReadMemory, TableMemory};
use pgtable::tree::PageTable;
use pgtable::walk::Walker;
use pgtable::{Access, Address, Cause, Leaves, Prot, Stage1};
use pgtable_ppc64::radix::{Granule, PartitionScoped, ProcessScoped};
use pgtable_x86::{Controls, Ept, EptControls, Levels, LongMode, Npt, NptControls};

use crate::support::{Arena, Tables};

/// Memory that notes how often each word was asked for. Who wants to read a word has to ask for it.
struct Asked<M> {
    memory: M,
    times: RefCell<BTreeMap<u64, usize>>,
}

impl<M> Asked<M> {
    /// The most often that one word was asked for since the last call, and how many were.
    fn most(&self) -> (usize, usize) {
        let times = self.times.take();
        (times.values().copied().max().unwrap_or(0), times.len())
    }
}

impl<A: Address, M: TableMemory<A>> ReadMemory<A> for Asked<M> {
    pgtable::words_in_place!(A);
}

impl<A: Address, M: TableMemory<A>> TableMemory<A> for Asked<M> {
    fn word(&self, address: A) -> Result<&AtomicU64, MemoryError> {
        *self.times.borrow_mut().entry(address.get()).or_default() += 1;
        self.memory.word(address)
    }

    fn table(&self, address: A, words: usize) -> Result<&[AtomicU64], MemoryError> {
        for word in 0..words as u64 {
            *self.times.borrow_mut().entry(address.get() + word * 8).or_default() += 1;
        }
        self.memory.table(address, words)
    }

    fn wrote(&self, address: A, words: usize) {
        self.memory.wrote(address, words);
    }
}

/// Each verb that reads, over leaves of several sizes and holes.
fn once<F: Format>(format: F) {
    let arena = Arena::new(1 << 20);
    let tables = Tables::new(&arena);
    let memory = arena.memory::<Output<F>>();
    let mut tree = PageTable::new(format, memory, &tables).unwrap();
    let shift = format.geometry().page_shift();
    let attributes = F::Attributes::from(Prot::RW);
    let large = (Input::<F>::new(1 << 30), Output::<F>::new(1 << 30));
    tree.map(large.0, large.1, 2 << 21, attributes, Leaves::Largest).unwrap();
    let small = (Input::<F>::new(4 << 30), Output::<F>::new(1 << 31));
    tree.map(small.0, small.1, 5 << shift, attributes, Leaves::Exactly(shift)).unwrap();

    let asked = Asked { memory, times: RefCell::default() };
    let walker = Walker::new(format, &asked, tree.root());
    let levels = usize::from(format.geometry().levels());
    for input in
        [1u64 << 30, (1 << 30) + (1 << 21), 3 << 30, 4 << 30, (4 << 30) + (6 << shift), 1 << 40]
    {
        let input = Input::<F>::new(input + 8);
        let _ = walker.translate(input, Access::READ);
        let (most, words) = asked.most();
        assert!(most <= 2 && words <= levels, "translate {input}: {most} times, {words} words");
        let _ = walker.query(input);
        let (most, words) = asked.most();
        assert!(most <= 2 && words <= levels, "query {input}: {most} times, {words} words");
        let _ = walker.trace(input);
        assert_eq!(asked.most().0, 1, "trace {input}");
    }
    let mut gather = Gather::new(&Unused, ());
    tree.unmap(large.0, 2 << 21, &mut gather).unwrap();
    tree.unmap(small.0, 5 << shift, &mut gather).unwrap();
    gather.finish(&&tables).unwrap();
}

#[test]
fn each_word_of_a_walk_is_read_at_most_twice() {
    for granule in [Granule::K4, Granule::K64] {
        once(ProcessScoped::new(granule));
        once(PartitionScoped::new(granule));
    }
    for levels in [Levels::Four, Levels::Five] {
        once(LongMode::new(levels, Controls::new()));
        once(Ept::new(levels, EptControls::new()));
        once(Npt::new(levels, NptControls::new()));
    }
}

/// Tables that lead to themselves, at each place: a walk ends, after two loads for each level at
/// most.
#[test]
fn circles_end() {
    fn circle<F: Format>(format: F, word: impl Fn(u64) -> u64) {
        let words: Vec<AtomicU64> = (0..1 << 13).map(|_| AtomicU64::new(0)).collect();
        let start = Output::<F>::new(1 << 20);
        for memory in &words {
            memory.store(word(start.get()), Ordering::Relaxed);
        }
        let asked = Asked { memory: DirectMap::new(&words, start), times: RefCell::default() };
        let walker = Walker::new(format, &asked, start);
        for input in [0, 0x1234_5678_9000, 0x7fff_ffff_f000] {
            let _ = walker.translate(Input::<F>::new(input), Access::READ);
            let loads: usize = asked.times.take().values().sum();
            assert!(loads <= 2 * usize::from(format.geometry().levels()), "{loads} loads");
        }
    }
    // A table in each entry: itself.
    circle(LongMode::new(Levels::Five, Controls::new()), |table| (table | 0x7).to_le());
    circle(Ept::new(Levels::Four, EptControls::new()), |table| (table | 0x7).to_le());
    for width in [5, 9] {
        circle(ProcessScoped::new(Granule::K64), move |table| (1 << 63 | table | width).to_be());
    }
}

/// Memory in which a guest changes a table entry whenever we are about to mark it as used.
struct Busy<M> {
    memory: M,
    entry: u64,
    asked: Cell<usize>,
}

impl<A: Address, M: TableMemory<A>> ReadMemory<A> for Busy<M> {
    pgtable::words_in_place!(A);
}

impl<A: Address, M: TableMemory<A>> TableMemory<A> for Busy<M> {
    fn word(&self, address: A) -> Result<&AtomicU64, MemoryError> {
        self.asked.set(self.asked.get() + 1);
        let word = self.memory.word(address)?;
        if address.get() == self.entry {
            // A bit that means nothing to hardware.
            word.fetch_xor(1 << 9, Ordering::Relaxed);
        }
        Ok(word)
    }

    fn table(&self, address: A, words: usize) -> Result<&[AtomicU64], MemoryError> {
        self.memory.table(address, words)
    }

    fn wrote(&self, address: A, words: usize) {
        self.memory.wrote(address, words);
    }
}

#[test]
fn an_access_that_a_guest_always_beats_ends() {
    let arena = Arena::new(1 << 20);
    let tables = Tables::new(&arena);
    let memory = arena.memory::<pgtable::Gpa>();
    let mut tree =
        PageTable::new(LongMode::new(Levels::Four, Controls::new()), memory, &tables).unwrap();
    let page = pgtable::Gva::new(0);
    tree.map(page, pgtable::Gpa::new(0x1000), 0x1000, Prot::RW.into(), Leaves::Largest).unwrap();
    // The root's entry was never used.
    memory.word(tree.root()).unwrap().fetch_and(!(1 << 5), Ordering::Relaxed);
    let busy = Busy { memory, entry: tree.root().get(), asked: Cell::new(0) };
    let fault =
        Walker::new(*tree.format(), &busy, tree.root()).access(page, Access::WRITE).unwrap_err();
    assert_eq!(fault.cause, Cause::Contended);
    // Sixteen times: judged, judged again, and the attempt to mark.
    assert!(busy.asked.get() <= 16 * 3 * 4, "{} words", busy.asked.get());
    let left_alone = tree.walker().access(page, Access::WRITE).unwrap();
    assert_eq!(left_alone.output, pgtable::Gpa::new(0x1000));
    let mut gather = Gather::new(&Unused, ());
    tree.unmap(page, 0x1000, &mut gather).unwrap();
    gather.finish(&&tables).unwrap();
}

/// Many places, far apart: a gather holds so many ranges, and then it is everything; so many
/// tables, and then it frees.
#[test]
fn a_gather_holds_so_much() {
    #[derive(Default)]
    struct Log(RefCell<Vec<(usize, bool)>>);
    impl Invalidate<Stage1> for Log {
        type Identity = ();
        fn invalidate(&self, (): (), stale: &Stale<pgtable::Gva>) -> Result<(), InvalidateFailed> {
            self.0.borrow_mut().push((stale.ranges().len(), stale.everything()));
            Ok(())
        }
        fn abandoned(&self, (): (), _: usize, _: Result<(), InvalidateFailed>) {}
    }
    let arena = Arena::new(4 << 20);
    let tables = Tables::new(&arena);
    let format = LongMode::new(Levels::Four, Controls::new());
    let mut tree = PageTable::new(format, arena.memory(), &tables).unwrap();
    let pages = || (0..200).map(|n: u64| pgtable::Gva::new(n << 30));
    for page in pages() {
        tree.map(page, pgtable::Gpa::new(0x1000), 0x1000, Prot::RW.into(), Leaves::Largest)
            .unwrap();
    }
    let log = Log::default();
    let mut gather = Gather::new(&log, ());
    for page in pages() {
        tree.unmap(page, 0x1000, &mut gather).unwrap();
        assert!(gather.stale().ranges().len() <= 16);
    }
    gather.finish(&&tables).unwrap();
    let log = log.0.take();
    // Two tables each, 64 at a time.
    assert!(
        log.len() > 200 * 2 / 64
            && log
                .iter()
                .all(|(ranges, everything)| *ranges <= 16 && (*ranges < 16 || *everything)),
        "{log:?}"
    );
    assert_eq!(tables.live(), 1);
}
