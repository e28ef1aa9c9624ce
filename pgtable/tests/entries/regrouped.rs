//! A guest that writes a group anew whenever a verb has broken it: verbs end all the same.

use std::cell::{Cell, RefCell};
use std::sync::atomic::{AtomicU64, Ordering};

use pgtable::format::Format;
use pgtable::invalidate::{Gather, Unused};
use pgtable::memory::{DirectMap, MemoryError, ReadMemory, TableMemory};
use pgtable::tree::PageTable;
use pgtable::{Error, Gpa, Gva, Leaves, Prot, Stage1};
use pgtable_conformance::lpa::Lpa;
use pgtable_conformance::sv::Sv;

use crate::support::{Arena, Tables};

/// Where the group begins, and leads to.
const AT: u64 = 1 << 40;
/// Groups: their bytes and entries.
const NAPOT: (u64, u64) = (1 << 16, 16);
const PAGES: (u64, u64) = (1 << 21, 32);
const BLOCKS: (u64, u64) = (1 << 34, 32);
/// More stores than this are a verb without end.
const MOST: usize = 1 << 14;

/// Memory that holds these words again after each store that it is told of.
struct Regrouped<'m> {
    map: DirectMap<'m, Gpa>,
    group: RefCell<Vec<(Gpa, u64)>>,
    told: Cell<usize>,
}

impl ReadMemory<Gpa> for Regrouped<'_> {
    pgtable::words_in_place!(Gpa);
}

impl TableMemory<Gpa> for Regrouped<'_> {
    fn word(&self, address: Gpa) -> Result<&AtomicU64, MemoryError> {
        self.map.word(address)
    }

    fn table(&self, address: Gpa, words: usize) -> Result<&[AtomicU64], MemoryError> {
        self.map.table(address, words)
    }

    fn wrote(&self, _: Gpa, _: usize) {
        self.told.set(self.told.get() + 1);
        assert!(self.told.get() <= MOST, "a verb without end");
        for &(entry, word) in self.group.borrow().iter() {
            self.map.word(entry).unwrap().store(word, Ordering::Relaxed);
        }
    }
}

type Tree<'t, F> = PageTable<F, &'t Regrouped<'t>, &'t Tables<'t>>;

/// The leaf that covers `bytes` bytes is a group of `entries` entries, and is one again whenever
/// `verb` has changed it.
fn ends<F: Format<Stage = Stage1>>(
    format: F,
    (bytes, entries): (u64, u64),
    verb: impl Fn(&mut Tree<'_, F>, Gva, &mut Gather<'_, Stage1, Unused>) -> Result<(), Error>,
) {
    let arena = Arena::new(1 << 20);
    let tables = Tables::new(&arena).written_by_others();
    let memory = Regrouped { map: arena.memory(), group: RefCell::default(), told: Cell::new(0) };
    let mut tree = PageTable::new(format, &memory, &tables).unwrap();
    let at = Gva::new(AT);
    tree.map(at, Gpa::new(AT), bytes, Prot::RW.into(), Leaves::Largest).unwrap();
    let first = tree.walker().trace(at).last().unwrap().address;
    let group = (0..entries).map(|n| Gpa::new(first.get() + n * 8));
    let held = |entry: Gpa| memory.map.word(entry).unwrap().load(Ordering::Relaxed);
    memory.group.replace(group.map(|entry| (entry, held(entry))).collect());
    memory.told.set(0);
    let mut gather = Gather::new(&Unused, ());
    let ended = verb(&mut tree, at, &mut gather);
    assert!(matches!(ended, Err(Error::Malformed { .. })), "{format:?}: {ended:?}");
    memory.group.take();
    let done = tree.destroy(gather).map_err(|(_, error)| error).unwrap();
    assert_eq!((done.refused, tables.live()), (0, 0));
}

/// Splitting, unmapping and protecting a part of a group of pages, and of one of blocks.
#[test]
fn case_a6_a_group_that_comes_back() {
    fn each<F: Format<Stage = Stage1>>(format: F, group: (u64, u64)) {
        let page = group.0 / group.1;
        ends(format, group, |tree, at, gather| {
            let shift = page.trailing_zeros() as u8;
            tree.split(at, group.0, shift, gather).map(drop).map_err(|it| it.error)
        });
        for part in [page, group.0 - page] {
            ends(format, group, |tree, at, gather| {
                tree.unmap(at, part, gather).map(drop).map_err(|it| it.error)
            });
            ends(format, group, |tree, at, gather| {
                tree.protect(at, part, Prot::R, gather).map(drop).map_err(|it| it.error)
            });
        }
    }
    each(Sv::SV48.with_napot(), NAPOT);
    each(Lpa::CONTIGUOUS, PAGES);
    each(Lpa::CONTIGUOUS, BLOCKS);
}

/// A cursor takes a page out of a group of blocks.
#[test]
fn case_a6_a_group_of_blocks_that_comes_back_under_a_cursor() {
    ends(Lpa::CONTIGUOUS, BLOCKS, |tree, at, gather| {
        let mut cursor = tree.cursor(gather);
        let unmapped = cursor.unmap(at).map(drop);
        unmapped.and(cursor.finish())
    });
}
