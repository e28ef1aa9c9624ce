//! A gather whose invalidation fails keeps everything, and can be finished later.

use std::cell::Cell;

use arch_x86::{Controls, Levels, LongMode};
use pgtable::{
    Access, Gather, GatherError, Gpa, Gva, Invalidate, InvalidateFailed, Leaves, PageTable, Prot, Stage, Stale,
};

use crate::support::{Arena, Tables};

/// Fails as often as it is told to, and counts what it was asked and what was lost.
#[derive(Default)]
struct Failing {
    failures: Cell<usize>,
    ranges: Cell<usize>,
    lost: Cell<usize>,
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
        assert_eq!((tables.live(), by.ranges.get()), (4, 1), "nothing is freed, and nothing forgotten");
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
