//! Entries of 32 bits, as the SPARC Reference MMU has them, where the conformance kit does not
//! come: memory that gives words by value, logs of what was written, annotations.

use std::cell::RefCell;
use std::sync::atomic::{AtomicU64, Ordering};

use pgtable::invalidate::{Gather, Unused};
use pgtable::memory::{DirectMap, LoadWith, MemoryError, ReadMemory, TableMemory};
use pgtable::tree::PageTable;
use pgtable::walk::Walker;
use pgtable::{Access, AccessKind, Error, Gpa, Gva, Leaves, Prot};
use pgtable_conformance::srmmu::Srmmu;

use crate::support::{Arena, Tables};

const PAGE: u64 = 0x1000;

/// Table memory that lists what was written: address and words of 8 bytes.
struct Logged<'m>(DirectMap<'m, Gpa>, RefCell<Vec<(u64, usize)>>);

impl ReadMemory<Gpa> for Logged<'_> {
    pgtable::words_in_place!(Gpa);
}

impl TableMemory<Gpa> for Logged<'_> {
    fn word(&self, address: Gpa) -> Result<&AtomicU64, MemoryError> {
        self.0.word(address)
    }

    fn table(&self, address: Gpa, words: usize) -> Result<&[AtomicU64], MemoryError> {
        self.0.table(address, words)
    }

    fn wrote(&self, address: Gpa, words: usize) {
        self.1.borrow_mut().push((address.get(), words));
    }
}

/// A log names the 64-bit words that hold the entries: also those of which one half changed.
#[test]
fn case_b1_what_is_logged() {
    let arena = Arena::new(1 << 20);
    let tables = Tables::new(&arena);
    let memory = Logged(arena.memory(), RefCell::default());
    let mut tree = PageTable::new(Srmmu, &memory, &tables).unwrap();
    let map = |tree: &mut PageTable<_, _, _>, page: u64, pages: u64| {
        let prot = pgtable_conformance::srmmu::SrmmuAttributes::from(Prot::RW.for_user());
        let (at, to) = (Gva::new(page * PAGE), Gpa::new((1 << 24) + page * PAGE));
        tree.map(at, to, pages * PAGE, prot, Leaves::Exactly(12)).unwrap();
    };
    map(&mut tree, 0, 1);
    let table = tree.walker().trace(Gva::new(0)).last().unwrap().address.get();
    let log = || {
        let all = memory.1.take();
        let here = all.into_iter().filter(|(at, _)| at & !0xff == table);
        here.map(|(at, words)| ((at - table) / 8, words)).collect::<Vec<_>>()
    };
    log();
    // Pages, and the words in which they stand.
    for (first, pages, want) in
        [(1, 1, (0, 1)), (2, 1, (1, 1)), (3, 2, (1, 2)), (5, 3, (2, 2)), (8, 4, (4, 2))]
    {
        map(&mut tree, first, pages);
        assert_eq!(log(), [want], "{pages} pages from {first}");
    }
    let mut gather = Gather::new(&Unused, ());
    for (first, pages, want) in [(1, 1, (0, 1)), (3, 2, (1, 2)), (8, 4, (4, 2))] {
        tree.unmap(Gva::new(first * PAGE), pages * PAGE, &mut gather).unwrap();
        assert_eq!(log(), [want], "{pages} pages from {first}");
    }
    tree.protect(Gva::new(5 * PAGE), PAGE, Prot::R.for_user(), &mut gather).unwrap();
    assert_eq!(log(), [(2, 1)]);
    gather.finish(&&tables).unwrap();
}

/// A walk by value reads and records in the half that its entry is, and a copy says the same.
#[test]
fn case_b2_by_value() {
    let arena = Arena::new(1 << 20);
    let tables = Tables::new(&arena);
    let memory = arena.memory::<Gpa>();
    let mut tree = PageTable::new(Srmmu, memory, &tables).unwrap();
    for page in 0..4u64 {
        let prot = if page == 2 { Prot::R } else { Prot::RW }.for_user();
        let (at, to) = (Gva::new(page * PAGE), Gpa::new((1 << 24) + page * PAGE));
        tree.map(at, to, PAGE, prot.into(), Leaves::Exactly(12)).unwrap();
    }
    let at = |page: u64| Gva::new(page * PAGE + 0x123);
    let table = tree.walker().trace(at(0)).last().unwrap().address.get();
    let words = || {
        let words = [0, 8].map(|at| arena.word(table + at).load(Ordering::Relaxed).to_ne_bytes());
        words.map(|pair| [0, 4].map(|half| pair[half + 3] >> 5 & 3)).concat()
    };
    // R and M stand in bits 5 and 6 of a big-endian word: in its last byte.
    for pair in [0, 8] {
        let both = u64::from_ne_bytes([0, 0, 0, 0x60, 0, 0, 0, 0x60]);
        arena.word(table + pair).fetch_and(!both, Ordering::Relaxed);
    }
    assert_eq!(words(), [0; 4]);
    let by_value = LoadWith(|address| memory.load(address));
    let reader = Walker::new(Srmmu, by_value, tree.root());
    for page in 0..4u64 {
        for access in [Access::READ.by_user(), Access::WRITE.by_user(), Access::FETCH] {
            let found = tree.translate(at(page), access).map(|it| it.output);
            let same = reader.translate(at(page), access).map(|it| it.output);
            assert_eq!(found, same, "{access} of {page}");
            let allowed = match access.kind {
                AccessKind::Read => true,
                AccessKind::Write => page != 2,
                AccessKind::Fetch => false,
            };
            assert_eq!(found.is_ok(), allowed, "{access} of {page}");
        }
    }
    // Recorded by a walker, one half at a time.
    for (page, access, want) in [
        (1, Access::READ.by_user(), [0, 1, 0, 0]),
        (2, Access::READ.by_user(), [0, 1, 1, 0]),
        (0, Access::WRITE.by_user(), [3, 1, 1, 0]),
        (3, Access::WRITE.by_user(), [3, 1, 1, 3]),
    ] {
        tree.walker().access(at(page), access).unwrap();
        assert_eq!(words(), want, "{access} of {page}");
    }
    let copy = reader.snapshot(memory, &tables).unwrap();
    let leaves = |walker: Walker<Srmmu, &DirectMap<'_, Gpa>>| {
        let leaves = walker.iter(Gva::new(0), 1 << 32).unwrap();
        leaves.map(Result::unwrap).collect::<Vec<_>>()
    };
    assert_eq!(leaves(copy.walker()), leaves(tree.walker()));
    assert_eq!(leaves(copy.walker()).len(), 4);
}

/// A number that software keeps has the room of 32 bits less the two that say "present".
#[test]
fn case_b3_room_for_numbers() {
    let arena = Arena::new(1 << 20);
    let tables = Tables::new(&arena);
    let mut tree = PageTable::new(Srmmu, arena.memory::<Gpa>(), &tables).unwrap();
    let mut gather = Gather::new(&Unused, ());
    let at = |page: u64| Gva::new(page * PAGE);
    for (page, value, ok) in
        [(0, 1, true), (1, (1 << 30) - 1, true), (2, 1 << 30, false), (3, u64::MAX, false)]
    {
        let kept = tree.annotate(at(page), PAGE, value, &mut gather);
        assert_eq!(kept.is_ok(), ok, "{value:#x}");
        let unencodable = kept.is_err_and(|error| matches!(error.error, Error::Unencodable { .. }));
        assert_eq!(unencodable, !ok, "{value:#x}");
        assert_eq!(tree.walker().annotation(at(page)), Ok(ok.then_some(value)), "{value:#x}");
    }
    gather.finish(&&tables).unwrap();
}
