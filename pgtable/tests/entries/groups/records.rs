//! What hardware records in any entry of a group.

use pgtable::invalidate::{Gather, Unused};
use pgtable::tree::{Recorded, Writers};
use pgtable::walk::{LeafOf, Walker};
use pgtable::{Access, Attributes, Gpa, Gva, Leaves, Memory, Prot};
use pgtable_conformance::lpa::{Lpa, LpaAttributes};
use pgtable_conformance::sv::{Sv, SvAttributes};

use super::{K4, K64, M2, NAPOT, Tree, map, tree, words};
use crate::support::{Arena, Tables};

/// What hardware records in one entry counts for all: it is harvested for every page of the group,
/// and stays with each page when the group is broken.
#[test]
fn records_of_any_entry_count_for_all() {
    const D: u64 = 1 << 7;
    let arena = Arena::new(1 << 20);
    let tables = Tables::new(&arena);
    let format = NAPOT.with_hardware_updates();
    let mut tree = tree(format, &arena, &tables);
    map(&mut tree, 0, 0, 3 * K64, Leaves::Largest);
    let harvest = |tree: &mut Tree<'_, Sv>, at: u64, pages: u64, writers| {
        let (mut bitmap, mut gather) = ([0], Gather::new(&Unused, ()));
        tree.harvest(Gva::new(at), pages * K4, Recorded::Dirty, writers, &mut bitmap, &mut gather)
            .unwrap();
        bitmap[0]
    };
    let dirty = |tree: &Tree<'_, Sv>| {
        let words = words(&arena, tree, 0, 48);
        words.iter().filter(|word| **word & D != 0).count()
    };
    assert_eq!(harvest(&mut tree, 0, 48, Writers::Running), (1 << 48) - 1);
    for writers in [Writers::Running, Writers::Stopped] {
        assert_eq!((dirty(&tree), harvest(&mut tree, 0, 48, writers)), (0, 0));
        tree.walker().access(Gva::new(K64 + 5 * K4 + 8), Access::WRITE).unwrap();
        assert_eq!(dirty(&tree), 1);
        // A part of the group is told and not cleared.
        assert_eq!(harvest(&mut tree, K64 + 4 * K4, 4, writers), 0xf);
        assert_eq!(dirty(&tree), 1);
        assert_eq!(harvest(&mut tree, 0, 48, writers), 0xffff << 16);
    }
    // Iteration and unmap_with tell of it, and the parts of a broken group are all dirty.
    tree.walker().access(Gva::new(7 * K4), Access::WRITE).unwrap();
    let is_dirty = |leaf: LeafOf<Sv>| leaf.attributes == SvAttributes::from(Prot::RW);
    let told: Vec<_> = tree
        .walker()
        .iter(Gva::new(0), 3 * K64)
        .unwrap()
        .map(Result::unwrap)
        .map(is_dirty)
        .collect();
    assert_eq!(told, [true, false, false]);
    let mut gather = Gather::new(&Unused, ());
    assert_eq!(tree.split(Gva::new(0), 3 * K64, 12, &mut gather), Ok(3));
    assert_eq!(dirty(&tree), 16);
    assert_eq!(harvest(&mut tree, 0, 48, Writers::Running), 0xffff);
    tree.walker().access(Gva::new(9 * K4), Access::WRITE).unwrap();
    assert_eq!(tree.promote(Gva::new(0), 3 * K64, &mut gather), Ok(3));
    let mut told = Vec::new();
    tree.unmap_with(
        Gva::new(0),
        3 * K64,
        |leaf| told.push((leaf.shift, is_dirty(leaf))),
        &mut gather,
    )
    .unwrap();
    assert_eq!(told, [(16, true), (16, false), (16, false)]);
}

/// What hardware records while a group is being changed is not lost: it is judged again.
#[test]
fn late_records_are_kept_by_a_change() {
    let late = |leaves, edit: fn(LpaAttributes) -> LpaAttributes, dirty: &[u64]| {
        let arena = Arena::new(4 << 20);
        let tables = Tables::new(&arena);
        let mut tree = tree(Lpa::CONTIGUOUS, &arena, &tables);
        let clean = LpaAttributes::from(Prot::RW).with_clean(true);
        tree.map(Gva::new(0), Gpa::new(0), M2, clean, leaves).unwrap();
        let mut gather = Gather::new(&Unused, ());
        let walker = Walker::new(Lpa::CONTIGUOUS, arena.memory::<Gpa>(), tree.root());
        let mut store = Some(9 * K64);
        let modify = |leaf: LeafOf<Lpa>| {
            // A store by hardware between the edit and its being stored.
            let here = |at: &mut u64| *at - leaf.input.get() < leaf.bytes;
            if let Some(at) = store.take_if(here) {
                walker.access(Gva::new(at), Access::WRITE).unwrap();
            }
            edit(leaf.attributes)
        };
        assert_eq!(tree.modify(Gva::new(0), M2, modify, &mut gather), Ok(M2));
        gather.finish(&&tables).unwrap();
        for page in 0..32 {
            let found = tree.walker().query(Gva::new(page * K64)).unwrap().unwrap();
            let before = if dirty.contains(&page) { clean.with_clean(false) } else { clean };
            assert_eq!(found.attributes, edit(before), "{page}");
        }
    };
    let read_only = |old: LpaAttributes| old.with_prot(Prot::R);
    // In place: the entry in which hardware recorded.
    late(Leaves::Exactly(16), read_only, &[9]);
    late(Leaves::Exactly(21), read_only, &[9]);
    // Taken out: what any entry of the group recorded counts for all.
    let device = |old: LpaAttributes| old.with_prot(Prot::R).with_memory(Memory::Device);
    late(Leaves::Exactly(16), device, &[9]);
    late(Leaves::Exactly(21), device, &(0..32).collect::<Vec<_>>());
}
