//! Roots and tables of unusual sizes: PAE's four entries, AArch64's 16 concatenated tables,
//! RISC-V's 16-KiB roots, tables of 2^14 entries and more.

use pgtable::format::{Geometry, LevelGeometry};
use pgtable::invalidate::{Gather, Unused};
use pgtable::tree::PageTable;
use pgtable::{Access, Gpa, Hpa, Leaves, Prot};

use crate::support::{Arena, Tables};
use pgtable_conformance::deep::Deep;

const fn level(width: u8) -> LevelGeometry {
    LevelGeometry { width, leaf: true }
}

static PAE: Geometry = Geometry::new(12, &[level(9), level(9), level(2)]);
static CONCATENATED: Geometry = Geometry::new(12, &[level(9), level(9), level(13)]);
static X4: Geometry = Geometry::new(12, &[level(9), level(9), level(11)]);
static WIDE: Geometry = Geometry::new(12, &[level(15), level(14)]);
static TWO_ENTRIES: Geometry = Geometry::new(16, &[level(13), level(13), level(1)]);

#[test]
fn roots_and_tables_of_any_size() {
    for shape in [&PAE, &CONCATENATED, &X4, &WIDE, &TWO_ENTRIES] {
        let arena = Arena::new(8 << 20);
        let tables = Tables::new(&arena);
        let mut tree = PageTable::new(Deep::new(shape), arena.memory::<Hpa>(), &tables).unwrap();
        let root = shape.root();
        let mut gather = Gather::new(&Unused, ());
        let (page, entry) = (1u64 << shape.page_shift(), 1u64 << shape.shift(root));
        // Every entry of the root, all of it: the count is right, and nothing is mapped twice.
        let last = (1u64 << shape.width(root)) - 1;
        let bytes = 1u64 << shape.address_bits();
        tree.map(Gpa::new(0), Hpa::new(0), bytes, Prot::RW.into(), Leaves::Largest).unwrap();
        let again = tree.map(Gpa::new(entry), Hpa::new(0), page, Prot::RW.into(), Leaves::Largest);
        assert!(again.is_err(), "{shape:?}");
        assert_eq!(tree.unmap(Gpa::new(0), bytes, &mut gather), Ok(bytes));
        // A page in the last entry of the last table.
        let end = Gpa::new(last * entry + (entry - page));
        tree.map(end, Hpa::new(page), page, Prot::RW.into(), Leaves::Exactly(shape.page_shift()))
            .unwrap();
        assert_eq!(tree.translate(end, Access::READ).unwrap().output, Hpa::new(page));
        assert_eq!(tree.unmap(end, page, &mut gather), Ok(page));
        // A table full of pages.
        let width = shape.width(pgtable::Level(0));
        let full = page << width;
        tree.map(
            Gpa::new(0),
            Hpa::new(0),
            full,
            Prot::RW.into(),
            Leaves::Exactly(shape.page_shift()),
        )
        .unwrap();
        assert_eq!(tree.walker().iter(Gpa::new(0), full).unwrap().count(), 1 << width);
        assert_eq!(tree.promote(Gpa::new(0), full, &mut gather), Ok(1));
        assert_eq!(tree.split(Gpa::new(0), full, shape.page_shift(), &mut gather), Ok(1));
        assert_eq!(tree.unmap(Gpa::new(0), full, &mut gather), Ok(full));
        gather.finish(&&tables).unwrap();
        assert_eq!(tables.live(), 1, "{shape:?}");
    }
}
