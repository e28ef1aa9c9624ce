//! What an unmap leaves to be invalidated, when it empties tables.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::cell::Cell;
use std::num::NonZeroU16;
use std::sync::atomic::AtomicU64;

use pgtable::allocator::{AllocError, Contents, TableAllocator, TableLayout, TableState};
use pgtable::invalidate::{Gather, Unused};
use pgtable::memory::DirectMap;
use pgtable::tree::PageTable;
use pgtable::{Gpa, Gva, Leaves, Prot};
use pgtable_x86::{
    CEILING, Controls, Flush, InvpcidType, InvvpidType, Levels, LongMode, Pcid, invpcid, invvpid,
};

const TABLES: usize = 8;

/// Pages from address 0 on, one after the other.
#[derive(Default)]
struct Tables {
    used: Cell<usize>,
    states: [TableState; TABLES],
}

impl TableAllocator<Gpa> for Tables {
    fn allocate(&self, layout: TableLayout) -> Result<Gpa, AllocError> {
        let table = self.used.get();
        if table == TABLES {
            return Err(AllocError::Exhausted { layout });
        }
        self.used.set(table + 1);
        Ok(Gpa::new(table as u64 * 0x1000))
    }

    fn free(&self, _: Gpa, _: TableLayout, _: Contents) -> Result<(), AllocError> {
        Ok(())
    }

    fn state(&self, table: Gpa, _: TableLayout) -> Option<&TableState> {
        self.states.get(table.get() as usize / 0x1000)
    }
}

#[test]
fn tables_that_left_the_tree() {
    let words: Vec<AtomicU64> = (0..TABLES * 512).map(|_| AtomicU64::new(0)).collect();
    let tables = Tables::default();
    let format = LongMode::new(Levels::Four, Controls::new());
    let mut space = PageTable::new(format, DirectMap::new(&words, Gpa::new(0)), &tables).unwrap();
    let page = |n: u64| Gva::new(0x40_0000 + n * 0x1000);
    space.map(page(0), Gpa::new(0x1000), 0x2000, Prot::RW.into(), Leaves::Largest).unwrap();
    let (pcid, vpid) = (Pcid::new(1).unwrap(), NonZeroU16::new(1).unwrap());

    // Its neighbour keeps the table: the page alone is stale.
    let mut gather = Gather::new(&Unused, ());
    space.unmap(page(0), 0x1000, &mut gather).unwrap();
    let stale = gather.stale();
    assert!(!stale.tables());
    assert!(
        invpcid(stale, pcid, false, CEILING).all(|it| it.kind == InvpcidType::IndividualAddress)
    );
    assert!(invvpid(stale, vpid, CEILING).all(|it| it.kind == InvvpidType::IndividualAddress));
    gather.finish(&tables).unwrap();

    // Now the table goes too, and with it what the paging-structure caches may hold.
    let mut gather = Gather::new(&Unused, ());
    space.unmap(page(1), 0x1000, &mut gather).unwrap();
    let stale = gather.stale();
    assert!(stale.tables());
    let Flush::Pages(pages) = Flush::of(stale, CEILING) else {
        panic!("INVLPG reaches those caches")
    };
    assert_eq!(pages.collect::<Vec<_>>(), [page(1)]);
    assert!(
        invpcid(stale, pcid, false, CEILING).map(|it| it.kind).eq([InvpcidType::SingleContext])
    );
    assert!(invvpid(stale, vpid, CEILING).map(|it| it.kind).eq([InvvpidType::SingleContext]));
    gather.finish(&tables).unwrap();
}
