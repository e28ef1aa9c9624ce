//! Hysteresis: the table that became empty last stays, one at a time, and leaves when it is asked
//! to; what is mapped is not concerned.

use crate::support::{Arena, Tables};
use pgtable::invalidate::{Gather, Unused};
use pgtable::tree::PageTable;
use pgtable::{Leaves, Prot};
use pgtable_x86::{Controls, Levels, LongMode};

/// The point of it: a page that comes and goes costs no table each time.
#[test]
fn a_page_that_comes_and_goes() {
    let arena = Arena::new(1 << 20);
    let tables = Tables::new(&arena);
    let format = LongMode::new(Levels::Four, Controls::new());
    let mut space = PageTable::new(format, arena.memory(), &tables).unwrap();
    let input = pgtable::Gva::new(0x1234_5000);
    space.keep_last_empty(true);
    for time in 0..3 {
        space
            .map(input, pgtable::Gpa::new(0x1000), 0x1000, Prot::RW.into(), Leaves::Largest)
            .unwrap();
        let mut gather = Gather::new(&Unused, ());
        assert_eq!(space.unmap(input, 0x1000, &mut gather), Ok(0x1000));
        assert_eq!(gather.finish(&tables).unwrap().tables, 0, "time {time}");
        assert_eq!(tables.live(), 4);
    }
    let mut gather = Gather::new(&Unused, ());
    space.trim(&mut gather).unwrap();
    assert_eq!(gather.finish(&tables).unwrap().tables, 3);
    space.destroy(Gather::new(&Unused, ())).map_err(|(_, error)| error).unwrap();
}

/// A table that stays takes what is mapped next, page after page; a page that would stand in its
/// place comes as smaller ones.
#[test]
fn what_is_mapped_into_a_table_that_stayed() {
    let arena = Arena::new(1 << 20);
    let tables = Tables::new(&arena);
    let mut space =
        PageTable::new(LongMode::new(Levels::Four, Controls::new()), arena.memory(), &tables)
            .unwrap();
    space.keep_last_empty(true);
    let (start, to, large) = (pgtable::Gva::new(2 << 20), pgtable::Gpa::new(6 << 20), 2 << 20);
    for bytes in [0x3000, large] {
        space.map(start, to, 0x1000, Prot::RW.into(), Leaves::Largest).unwrap();
        let mut gather = Gather::new(&Unused, ());
        assert_eq!(space.unmap(start, 0x1000, &mut gather), Ok(0x1000));
        space.map(start, to, bytes, Prot::RW.into(), Leaves::Largest).unwrap();
        let leaves: Vec<_> =
            space.walker().iter(start, large).unwrap().map(Result::unwrap).collect();
        assert_eq!(leaves.len() as u64, bytes >> 12);
        for leaf in leaves {
            assert_eq!(leaf.output.get() - to.get(), leaf.input.get() - start.get());
        }
        assert_eq!(space.unmap(start, bytes, &mut gather), Ok(bytes));
        gather.finish(&tables).unwrap();
    }
    space.destroy(Gather::new(&Unused, ())).map_err(|(_, error)| error).unwrap();
}
