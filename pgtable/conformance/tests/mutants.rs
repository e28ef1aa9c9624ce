//! The kit finds faults: an invalidation that leaves something out makes it fail, for each thing
//! that it can leave out.

use std::panic::{AssertUnwindSafe, catch_unwind};

use pgtable::Prot;
use pgtable_conformance::machine::{Forgets, Machine};
use pgtable_conformance::memory::{Arena, Tables};
use pgtable_conformance::mmu::{Caches, TablesRemoved};
use pgtable_conformance::ops::{Choice, Op, Pages, Place, TreeOp};
use pgtable_conformance::sv::Sv;
use pgtable_conformance::tree::{ARENA, run};

const NEAR: Place = Place { far: 0, near: 0 };
const FAR: Place = Place { far: 3, near: 0 };

fn map(at: Place, pages: Pages) -> TreeOp {
    let (prot, leaves, budget) = (Prot::RWX.for_user(), Choice::Largest, usize::MAX);
    TreeOp::Space(Op::Map { at, pages, output: 0, prot, leaves, budget })
}

fn unmap(at: Place, pages: Pages) -> TreeOp {
    TreeOp::Space(Op::Unmap { at, pages, budget: usize::MAX })
}

/// Whether the operations, and an unmapping of everything, succeed.
fn passes(ops: &[TreeOp], caches: Caches, forgets: Forgets) -> bool {
    let arena = Arena::new(ARENA);
    let tables = Tables::new(&arena);
    let machine = Machine::new(Sv::SV48, &arena, &tables, caches).forgetful(forgets);
    let run = || run(&machine, ops, 1);
    catch_unwind(AssertUnwindSafe(run)).is_ok()
}

#[test]
fn what_is_left_out_is_found() {
    let small = Pages::Small(8);
    // One of two pages keeps the tables; the whole takes them along; one large page.
    let page = [map(NEAR, small), unmap(NEAR, Pages::Small(4))];
    let table = [map(NEAR, small), map(FAR, small), unmap(NEAR, small)];
    let large = [map(NEAR, Pages::Large(1, 2)), unmap(NEAR, Pages::Large(1, 1))];
    let all = [map(NEAR, small)];
    let cases: [(&str, &[TreeOp], Forgets); 4] = [
        ("a range", &page, Forgets::ARange),
        ("tables", &table, Forgets::Tables),
        ("the size", &large, Forgets::Sizes),
        ("everything", &all, Forgets::Everything),
    ];
    for (name, ops, forgets) in cases {
        assert!(passes(ops, Caches::STRICT, Forgets::Nothing), "{name}: nothing is left out");
        assert!(!passes(ops, Caches::STRICT, forgets), "{name} is left out");
    }
    // Where an invalidation by address removes more, it need not be said.
    let x86 = Caches { tables_removed: TablesRemoved::All, by_size: false, ..Caches::STRICT };
    assert!(passes(&large, x86, Forgets::Sizes));
    assert!(passes(&table, x86, Forgets::Tables));
    assert!(!passes(&page, x86, Forgets::ARange));
}
