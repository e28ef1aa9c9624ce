//! What is stale is said to the page. A gather whose invalidation fails keeps everything, and can
//! be finished later.

use std::cell::Cell;

use pgtable::invalidate::{Gather, GatherError, Invalidate, InvalidateFailed, Stale, Unused};
use pgtable::tree::{PageTable, Recorded, Writers};
use pgtable::{Access, Gpa, Gva, Leaves, Prot, Stage, Stage1};
use pgtable_x86::{Controls, Levels, LongMode};

use crate::support::{self, Arena, Tables};

/// Fails as often as it is told to, and counts what it was asked and what was lost.
#[derive(Default)]
pub(crate) struct Failing {
    pub failures: Cell<usize>,
    pub ranges: Cell<usize>,
    pub lost: Cell<usize>,
}

impl<S: Stage> Invalidate<S> for Failing {
    type Identity = ();

    fn invalidate(&self, (): (), stale: &Stale<S::Input>) -> Result<(), InvalidateFailed> {
        self.ranges.set(stale.ranges().len());
        match self.failures.get() {
            0 => Ok(()),
            more => {
                self.failures.set(more - 1);
                Err(InvalidateFailed)
            }
        }
    }

    fn abandoned(&self, (): (), tables: usize, _: Result<(), InvalidateFailed>) {
        self.lost.set(self.lost.get() + tables);
    }
}

#[test]
fn finishing_is_tried_again() {
    let arena = Arena::new(1 << 20);
    let tables = Tables::new(&arena);
    let format = LongMode::new(Levels::Four, Controls::new());
    let mut tree = PageTable::new(format, arena.memory::<Gpa>(), &tables).unwrap();
    tree.map(Gva::new(0x1000), Gpa::new(0x7000), 0x1000, Prot::RW.into(), Leaves::Largest).unwrap();
    let by = Failing { failures: Cell::new(2), ..Failing::default() };
    let mut gather = Gather::new(&by, ());
    assert_eq!(tree.unmap(Gva::new(0x1000), 0x1000, &mut gather), Ok(0x1000));
    for _ in 0..2 {
        assert_eq!(gather.finish(&tables), Err(GatherError::Invalidate(InvalidateFailed)));
        assert_eq!(
            (tables.live(), by.ranges.get()),
            (4, 1),
            "nothing is freed, and nothing forgotten"
        );
    }
    let finished = gather.finish(&tables).unwrap();
    assert_eq!((finished.tables, finished.invalidations, tables.live()), (3, 1, 1));

    // The same gather serves again, and what it says is of the second time alone.
    tree.map(Gva::new(0x1000), Gpa::new(0x7000), 0x1000, Prot::RW.into(), Leaves::Largest).unwrap();
    assert_eq!(tree.unmap(Gva::new(0x1000), 0x1000, &mut gather), Ok(0x1000));
    assert_eq!(gather.finish(&tables).unwrap(), finished);
    assert!(tree.translate(Gva::new(0x1000), Access::READ).is_err());
    drop(gather);
    assert_eq!(by.lost.get(), 0);

    // Who gives up after a failure loses the tables, and is told so.
    tree.map(Gva::new(0x1000), Gpa::new(0x7000), 0x1000, Prot::RW.into(), Leaves::Largest).unwrap();
    by.failures.set(1);
    let mut gather = Gather::new(&by, ());
    assert_eq!(tree.unmap(Gva::new(0x1000), 0x1000, &mut gather), Ok(0x1000));
    assert_eq!(gather.finish(&tables), Err(GatherError::Invalidate(InvalidateFailed)));
    drop(gather);
    assert_eq!((by.lost.get(), tables.live()), (3, 4));
}

/// A gather that is dropped as it is tells of it: hardware of what is stale, and the embedder of
/// the tables that it had, if it had any.
#[test]
fn dropped_unfinished() {
    let arena = Arena::new(1 << 20);
    let tables = Tables::new(&arena);
    let format = LongMode::new(Levels::Four, Controls::new());
    let mut tree = PageTable::new(format, arena.memory::<Gpa>(), &tables).unwrap();
    tree.map(Gva::new(0), Gpa::new(0x7000), 0x2000, Prot::RW.into(), Leaves::Largest).unwrap();
    let by = Failing::default();
    let mut gather = Gather::new(&by, ());
    assert_eq!(tree.unmap(Gva::new(0), 0x1000, &mut gather), Ok(0x1000));
    drop(gather);
    assert_eq!((by.ranges.take(), by.lost.get(), tables.live()), (1, 0, 4));
    drop(Gather::<Stage1, _>::new(&by, ()));
    assert_eq!(by.ranges.get(), 0, "there was nothing to say");
    tree.destroy(Gather::new(&by, ())).map_err(|(_, error)| error).unwrap();
}

type Collected = Gather<'static, Stage1, Unused>;

/// What is stale, which is not everything.
fn ranges(gather: &Collected) -> Vec<(u64, u64, u8)> {
    assert!(!gather.stale().everything());
    support::ranges(gather.stale())
}

#[test]
fn neighbours_become_one_range() {
    let page = |number: u64| number << 12;
    let mut gather = Collected::new(&Unused, ());
    assert!(gather.stale().is_empty());
    for (first, last, shift) in
        [(1, 2, 12), (3, 3, 12), (4, 4, 21), (0x204, 0x204, 12), (0x206, 0x207, 12), (9, 9, 12)]
    {
        gather.pages(Gva::new(page(first)), Gva::new(page(last)), shift);
    }
    let expected = [
        (page(1), page(3), 12),
        // Of another size, which is what comes next; and again.
        (page(4), page(4), 21),
        (page(0x204), page(0x204), 12),
        (page(0x206), page(0x207), 12),
        (page(9), page(9), 12),
    ];
    assert_eq!(ranges(&gather), expected);
    assert_eq!(
        gather
            .stale()
            .ranges()
            .iter()
            .map(pgtable::invalidate::StaleRange::pages)
            .collect::<Vec<_>>(),
        [3, 1, 1, 2, 1]
    );

    // The space ends; what begins at 0 is no neighbour of its end. Nor does an empty gather go on
    // at 0.
    let end = u64::MAX << 12;
    let mut gather = Collected::new(&Unused, ());
    for first in [0, end, 0] {
        gather.pages(Gva::new(first), Gva::new(first), 12);
    }
    assert_eq!(ranges(&gather), [(0, 0, 12), (end, end, 12), (0, 0, 12)]);
}

/// Nothing is invalidated that did not change, but for the rest of a cache line beside stopped
/// CPUs.
#[test]
fn what_a_verb_makes_stale() {
    const PAGE: u64 = 0x1000;
    const TABLE: u64 = 0x20_0000;
    let arena = Arena::new(1 << 20);
    let tables = Tables::new(&arena);
    let format = LongMode::new(Levels::Four, Controls::new());
    let mut tree = PageTable::new(format, arena.memory::<Gpa>(), &tables).unwrap();
    let at = |page: u64| Gva::new(TABLE + page * PAGE);
    let range = |first: u64, last: u64| (at(first).get(), at(last).get(), 12);
    tree.map(at(0), Gpa::new(TABLE), TABLE, Prot::RW.into(), Leaves::Exactly(12)).unwrap();

    let mut gather = Collected::new(&Unused, ());
    assert_eq!(tree.unmap(at(3), 2 * PAGE, &mut gather), Ok(2 * PAGE));
    assert_eq!(tree.unmap(at(7), PAGE, &mut gather), Ok(PAGE));
    assert_eq!(tree.unmap(at(3), 8 * PAGE, &mut gather), Ok(5 * PAGE));
    assert_eq!(ranges(&gather), [range(3, 4), range(7, 7), range(5, 10)]);
    assert!(!gather.stale().tables());

    // By cursor: one range for each table, from the first to the last.
    let mut gather = Collected::new(&Unused, ());
    let mut cursor = tree.cursor(&mut gather);
    for page in [22, 23, 20, 26] {
        assert_eq!(cursor.unmap(at(page)), Ok(true));
    }
    cursor.map(at(22), Gpa::new(0), Prot::RW.into()).unwrap();
    cursor.finish().unwrap();
    assert_eq!(ranges(&gather), [range(20, 26)]);
    // Mapping makes nothing stale.
    let mut gather = Collected::new(&Unused, ());
    let mut cursor = tree.cursor(&mut gather);
    cursor.map(at(23), Gpa::new(0), Prot::RW.into()).unwrap();
    cursor.finish().unwrap();
    assert!(gather.stale().is_empty());

    assert_eq!(tree.unmap(at(331), PAGE, &mut Collected::new(&Unused, ())), Ok(PAGE));
    let mut protect = |writers, first: u64, count: u64, prot: Prot| {
        let mut gather = Collected::new(&Unused, ());
        let done =
            tree.protect_beside(at(first), count * PAGE, prot, writers, &mut gather).unwrap();
        (done / PAGE, ranges(&gather))
    };
    // From the first to the last that was not so already.
    for (writers, base, stale) in
        [(Writers::Running, 64, range(66, 92)), (Writers::Stopped, 128, range(130, 156))]
    {
        assert_eq!(protect(writers, base + 6, 1, Prot::R), (1, vec![range(base + 6, base + 6)]));
        assert_eq!(protect(writers, base + 6, 1, Prot::R), (1, vec![]));
        assert_eq!(protect(writers, base + 8, 40, Prot::RW), (40, vec![]));
        assert_eq!(protect(writers, base, 2, Prot::R), (2, vec![range(base, base + 1)]));
        assert_eq!(protect(writers, base + 29, 3, Prot::R), (3, vec![range(base + 29, base + 31)]));
        assert_eq!(protect(writers, base, 32, Prot::R), (32, vec![stale]));
    }
    // A line that is as it was, and one with a hole, before one that changes.
    assert_eq!(protect(Writers::Stopped, 320, 24, Prot::R), (23, vec![range(320, 343)]));
    assert_eq!(protect(Writers::Stopped, 320, 36, Prot::R), (35, vec![range(344, 355)]));
    assert_eq!(protect(Writers::Stopped, 320, 36, Prot::R), (35, vec![]));

    // What is harvested: from the first to the last that was recorded.
    let mut harvest = |first: u64, count: u64| {
        let mut gather = Collected::new(&Unused, ());
        let (mut bits, dirty) = ([0; 8], Recorded::Dirty);
        tree.harvest(at(first), count * PAGE, dirty, Writers::Running, &mut bits, &mut gather)
            .unwrap();
        ranges(&gather)
    };
    assert_eq!(harvest(203, 1), [range(203, 203)]);
    assert_eq!(harvest(200, 56), [range(200, 255)]);
    assert_eq!(harvest(192, 72), [range(192, 263)]);
    assert_eq!(harvest(192, 72), []);

    // A table that goes goes as a whole, and a larger leaf as what it is.
    let mut gather = Collected::new(&Unused, ());
    let large = Gva::new(2 * TABLE);
    tree.map(large, Gpa::new(0), TABLE, Prot::RW.into(), Leaves::Largest).unwrap();
    assert_eq!(tree.unmap(at(0), 2 * TABLE, &mut gather), Ok(2 * TABLE - 11 * PAGE));
    assert_eq!(ranges(&gather), [range(0, 511), (large.get(), large.get(), 21)]);
    assert!(gather.stale().tables());
    assert_eq!(gather.finish(&tables).unwrap().tables, 3);
    tree.destroy(Gather::new(&Unused, ())).map_err(|(_, error)| error).unwrap();
}
