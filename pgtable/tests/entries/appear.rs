//! Where entries appear: every verb that makes entries present says so, after its stores, and
//! before it returns; also where it stops half-way.

use std::cell::RefCell;

use pgtable::invalidate::{Gather, Unused};
use pgtable::memory::{Announced, Appeared, DirectMap};
use pgtable::tree::PageTable;
use pgtable::walk::{LeafOf, Walker};
use pgtable::{Access, AddressSpace, Attributes, Gpa, Gva, Leaves, Memory, Prot};
use pgtable_conformance::lpa::Lpa;

use crate::support::{Arena, Tables};

const K64: u64 = 1 << 16;
const M2: u64 = 1 << 21;
const BLOCK: u64 = 1 << 29;

#[test]
fn every_verb_says_what_appeared() {
    let arena = Arena::new(8 << 20);
    let tables = Tables::new(&arena);
    let told = RefCell::new(Vec::new());
    let root = std::cell::Cell::new(0);
    let looker = |at: u64| {
        let walker = Walker::new(Lpa::CONTIGUOUS, arena.memory::<Gpa>(), Gpa::new(root.get()));
        walker.query(Gva::new(at)).unwrap().is_some()
    };
    let hook = |it: Appeared| told.borrow_mut().push((it.input, it.bytes, looker(it.input)));
    let memory: Announced<DirectMap<'_, Gpa>, _> = Announced::new(arena.memory(), hook);
    let mut tree = PageTable::new(Lpa::CONTIGUOUS, memory, &tables).unwrap();
    root.set(pgtable::Address::get(tree.root()));
    let mut gather = Gather::new(&Unused, ());
    let rw = || Prot::RW.into();

    let map = |tree: &mut PageTable<_, _, _>, at, bytes, leaves| {
        tree.map(Gva::new(at), Gpa::new(at), bytes, rw(), leaves)
    };
    // Into new tables, and one page into a table that is there.
    map(&mut tree, 0, 40 * K64, Leaves::Largest).unwrap();
    map(&mut tree, 40 * K64, K64, Leaves::Largest).unwrap();
    assert_eq!(told.take(), [(0, 40 * K64, true), (40 * K64, K64, true)]);
    // One page into a table that is made for it; its rights change in place.
    map(&mut tree, 2 * BLOCK, K64, Leaves::Largest).unwrap();
    assert_eq!(told.take(), [(2 * BLOCK, K64, true)]);
    tree.protect(Gva::new(2 * BLOCK), K64, Prot::R, &mut gather).unwrap();
    assert_eq!(told.take(), []);
    // Half-way, and not at all.
    map(&mut tree, 50 * K64, K64, Leaves::Largest).unwrap();
    map(&mut tree, 45 * K64, 8 * K64, Leaves::Largest).unwrap_err();
    map(&mut tree, 45 * K64, 8 * K64, Leaves::Largest).unwrap_err();
    assert_eq!(told.take(), [(50 * K64, K64, true), (45 * K64, 5 * K64, true)]);
    // Reading, unmapping and a change in place make nothing present.
    tree.translate(Gva::new(5), Access::READ).unwrap();
    tree.unmap(Gva::new(40 * K64), M2, &mut gather).unwrap();
    tree.protect(Gva::new(0), M2, Prot::R, &mut gather).unwrap();
    assert_eq!(told.take(), []);
    // What is taken out and stored anew appears again: attributes, groups, blocks, tables.
    let device = |leaf: LeafOf<Lpa>| leaf.attributes.with_memory(Memory::Device);
    tree.modify(Gva::new(0), M2, device, &mut gather).unwrap();
    assert_eq!(told.take(), [(0, M2, true)]);
    tree.unmap(Gva::new(0), K64, &mut gather).unwrap();
    assert_eq!(told.take(), [(0, M2, true)], "the rest of the group");
    map(&mut tree, BLOCK, BLOCK, Leaves::Largest).unwrap();
    tree.split(Gva::new(BLOCK), BLOCK, 16, &mut gather).unwrap();
    tree.promote(Gva::new(BLOCK), BLOCK, &mut gather).unwrap();
    assert_eq!(told.take(), [(BLOCK, BLOCK, true); 3]);
    // A cursor, once for each table.
    let mut cursor = tree.cursor(&mut gather);
    for page in [3, 4, 9] {
        cursor.map(Gva::new(4 * BLOCK + page * K64), Gpa::new(0), rw()).unwrap();
    }
    cursor.unmap(Gva::new(4 * BLOCK + 3 * K64)).unwrap();
    cursor.finish().unwrap();
    let covered = told.take();
    assert_eq!(covered.len(), 1);
    assert_eq!((covered[0].0, covered[0].1), (4 * BLOCK, BLOCK));
    // Code that is written for any space.
    tree.unmap(Gva::new(0), 1 << 40, &mut gather).unwrap();
    generic(&mut tree, &mut gather);
    assert_eq!(told.take(), [(0, M2, true)]);
    gather.finish(&&tables).unwrap();
}

/// `unmap_with` is a verb of every space.
fn generic<S>(space: &mut S, gather: &mut Gather<'_, S::Stage, Unused>)
where
    S: AddressSpace<Stage = pgtable::Stage1>,
{
    space.map(Gva::new(0), Gpa::new(M2), M2, Prot::RW.into(), Leaves::Largest).unwrap();
    let mut told = Vec::new();
    let each = |leaf: pgtable::MappingOf<S>| told.push((leaf.input, leaf.output, leaf.bytes));
    assert_eq!(space.unmap_with(Gva::new(0), M2, each, gather).unwrap(), M2);
    assert_eq!(told, [(Gva::new(0), Gpa::new(M2), M2)]);
}
