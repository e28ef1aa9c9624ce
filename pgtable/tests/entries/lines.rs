//! Cache lines of entries, of which some are present: those go, and nothing else is told or
//! counted. Ranges across tables, and a cursor that comes back.

use std::cell::RefCell;
use std::sync::atomic::Ordering;

use pgtable::invalidate::{Gather, Invalidate, InvalidateFailed, Stale, Unused};
use pgtable::memory::DirectMap;
use pgtable::tree::PageTable;
use pgtable::{Error, Gpa, Gva, Leaves, Prot, Stage1};
use pgtable_x86::{Controls, Levels, LongMode};

use crate::support::{Arena, Tables, ranges};

const PAGE: u64 = 1 << 12;

/// Lists what it is told.
#[derive(Default)]
struct Told(RefCell<Vec<(u64, u64, u8)>>);

impl Invalidate<Stage1> for Told {
    type Identity = ();

    fn invalidate(&self, (): (), stale: &Stale<Gva>) -> Result<(), InvalidateFailed> {
        self.0.borrow_mut().extend(ranges(stale));
        Ok(())
    }

    fn abandoned(&self, (): (), _: usize, _: Result<(), InvalidateFailed>) {
        panic!("a gather was dropped");
    }
}

#[test]
fn every_pattern_of_a_line_is_unmapped() {
    for pattern in 1_u64..=255 {
        let arena = Arena::new(1 << 20);
        let tables = Tables::new(&arena);
        let format = LongMode::new(Levels::Four, Controls::new());
        let memory: DirectMap<'_, Gpa> = arena.memory();
        let mut tree = PageTable::new(format, memory, &tables).unwrap();
        // The line, and one page before and one behind it, which stay.
        let line = (0..8).filter(|page| pattern >> page & 1 != 0).map(|page| 8 + page);
        for page in line.chain([7, 16]) {
            let at = (Gva::new(page * PAGE), Gpa::new(page * PAGE));
            tree.map(at.0, at.1, PAGE, Prot::RW.into(), Leaves::Largest).unwrap();
        }
        let told = Told::default();
        let mut unmapped = |page: u64, pages: u64| {
            let mut gather = Gather::new(&told, ());
            let done = tree.unmap(Gva::new(page * PAGE), pages * PAGE, &mut gather);
            gather.finish(tree.tables()).unwrap();
            (done.unwrap() / PAGE, told.0.take(), tables.live())
        };
        let [first, last] =
            [pattern.trailing_zeros(), pattern.ilog2()].map(|page| 8 + u64::from(page));
        let stale = vec![(first * PAGE, last * PAGE, 12)];
        assert_eq!(unmapped(8, 8), (u64::from(pattern.count_ones()), stale, 4), "{pattern:#x}");
        assert_eq!(unmapped(7, 1), (1, vec![(7 * PAGE, 7 * PAGE, 12)], 4), "{pattern:#x}");
        // The count was right: the tables go with the last page.
        let (done, _, left) = unmapped(16, 1);
        assert_eq!((done, left), (1, 1), "{pattern:#x}");
    }
}

/// Ranges as long as a table or longer, which begin and end within tables or between them: what
/// lies around them stays.
#[test]
fn ranges_across_tables_leave_their_neighbours() {
    const TABLE: u64 = 512;
    for first in [0, 1, TABLE - 1, TABLE, TABLE + 1] {
        for pages in [TABLE - 1, TABLE, TABLE + 1, 2 * TABLE - 1, 2 * TABLE] {
            let arena = Arena::new(1 << 20);
            let tables = Tables::new(&arena);
            let format = LongMode::new(Levels::Four, Controls::new());
            let mut tree = PageTable::new(format, arena.memory(), &tables).unwrap();
            let all = 4 * TABLE;
            let leaves = Leaves::Exactly(12);
            tree.map(Gva::new(0), Gpa::new(0), all * PAGE, Prot::RW.into(), leaves).unwrap();
            let mut gather = Gather::new(&Unused, ());
            let done = tree.unmap(Gva::new(first * PAGE), pages * PAGE, &mut gather);
            assert_eq!(done, Ok(pages * PAGE), "{first}, {pages}");
            gather.finish(tree.tables()).unwrap();
            for page in 0..all {
                let there = tree.walker().query(Gva::new(page * PAGE)).unwrap().is_some();
                let gone = (first..first + pages).contains(&page);
                assert_eq!(there, !gone, "{first}, {pages}: page {page}");
            }
        }
    }
}

/// A cursor comes back to where the table that it emptied left the tree.
#[test]
fn a_cursor_comes_back() {
    let arena = Arena::new(1 << 20);
    let tables = Tables::new(&arena);
    let format = LongMode::new(Levels::Four, Controls::new());
    let mut tree = PageTable::new(format, arena.memory(), &tables).unwrap();
    let mut gather = Gather::new(&Unused, ());
    let (here, there) = (Gva::new(0x5000), Gva::new(1 << 21));
    let mut cursor = tree.cursor(&mut gather);
    for _ in 0..3 {
        for at in [here, there] {
            cursor.map(at, Gpa::new(0x7000), Prot::RW.into()).unwrap();
        }
        for at in [here, there] {
            assert_eq!(cursor.unmap(at), Ok(true));
        }
    }
    cursor.map(here, Gpa::new(0x9000), Prot::RW.into()).unwrap();
    cursor.finish().unwrap();
    gather.finish(tree.tables()).unwrap();
    let found = tree.walker().query(here).unwrap().map(|found| found.output);
    assert_eq!(found, Some(Gpa::new(0x9000)));
    assert!(tree.walker().query(there).unwrap().is_none());
    assert_eq!(tables.live(), 4);
}

/// An entry that is absent, though some of its bits are set, is room for a page; an address within
/// a page is none of a page.
#[test]
fn a_cursor_maps_over_what_is_absent() {
    let arena = Arena::new(1 << 20);
    let tables = Tables::new(&arena);
    let format = LongMode::new(Levels::Four, Controls::new());
    let mut tree = PageTable::new(format, arena.memory(), &tables).unwrap();
    let (page, beside) = (Gva::new(5 * PAGE), Gva::new(0));
    tree.map(beside, Gpa::new(0), PAGE, Prot::RW.into(), Leaves::Largest).unwrap();
    let entry = tree.walker().trace(page).last().unwrap().address;
    arena.word(entry.get()).store(0xffe, Ordering::Relaxed);
    let mut gather = Gather::new(&Unused, ());
    let mut cursor = tree.cursor(&mut gather);
    let within = cursor.map(Gva::new(5 * PAGE + 8), Gpa::new(0x9000), Prot::RW.into());
    assert_eq!(within, Err(Error::LeafSize));
    cursor.map(page, Gpa::new(0x9000), Prot::RW.into()).unwrap();
    cursor.finish().unwrap();
    let found = tree.walker().query(page).unwrap().map(|found| found.output);
    assert_eq!(found, Some(Gpa::new(0x9000)));
    assert_eq!(tree.unmap(beside, 16 * PAGE, &mut gather), Ok(2 * PAGE));
    gather.finish(tree.tables()).unwrap();
    assert_eq!(tables.live(), 1);
}
