//! Trees that are reshaped or copied as a whole: promoted and split again, snapshots, trees built
//! anew from the list of what a tree maps.

use std::ops::ControlFlow;

use pgtable::format::{Format, Groups, Output};
use pgtable::tree::PageTable;
use pgtable::{Address, AddressSpace, Error, Leaves, Level, Position};

use crate::flat::Flat;
use crate::machine::{Machine, Tree};
use crate::memory::{Arena, Tables};
use crate::mmu::Caches;
use crate::ops::Op;
use crate::tree::ARENA;

/// Small pages that say one thing become the largest leaf, and come back.
///
/// # Panics
/// If they do not.
pub fn there_and_back<F: Format>(format: F, caches: Caches) {
    let arena = Arena::new(ARENA);
    let tables = Tables::new(&arena);
    let machine = Machine::new(format, &arena, &tables, caches);
    let mut tree = machine.tree().expect("room for a root");
    let page = format.geometry().page_shift();
    let most = (page + 18).min(format.geometry().address_bits() - 2);
    let larger = |shift: &u8| *shift > page && *shift <= most;
    let Some(large) = tree.leaf_shifts().into_iter().rfind(larger) else {
        return machine.destroy(tree);
    };
    let Some((rw, _)) = crate::words::usable(&format) else { return machine.destroy(tree) };
    if restricts(&format) {
        // No leaf may stand for a table that restricts.
        return machine.destroy(tree);
    }
    let attributes = F::Attributes::from(rw);
    let (input, bytes) = (format.address(1 << large), 1u64 << large);
    let odd = format.address((1 << large) + (bytes >> 1) + (1 << page));
    machine.watch([input, odd].into_iter().filter_map(|at| format.offset(at)));
    let small = Leaves::Exactly(page);
    tree.map(input, Output::<F>::new(3 << large), bytes, attributes, small).expect("room");
    let full = tables.live();
    // Groups are made in tables that stay.
    let groups = F::GROUPS != Groups::None;
    let gone = |promoted: usize, gone: usize| gone == promoted || groups && gone < promoted;
    let promote = |tree: &mut Tree<'_, F>| {
        let mut gather = machine.gather();
        let promoted = tree.promote(input, bytes, &mut gather).expect("nothing fails");
        gather.finish(&&machine).expect("nothing fails");
        promoted
    };
    // One page in the middle differs: nothing of that part is promoted.
    let mut gather = machine.gather();
    tree.protect(odd, 1 << page, rw.with_write(false), &mut gather).expect("room");
    gather.finish(&&machine).expect("nothing fails");
    let promoted = promote(&mut tree);
    assert!(gone(promoted, full - tables.live()));
    let size = |tree: &Tree<'_, F>| tree.walker().query(odd).ok().flatten().map(|it| it.shift);
    assert_eq!(size(&tree), Some(page));

    let mut gather = machine.gather();
    tree.set_attributes(odd, 1 << page, attributes, &mut gather).expect("room");
    gather.finish(&&machine).expect("nothing fails");
    let promoted = promoted + promote(&mut tree);
    assert_eq!(size(&tree), Some(large));
    assert!(gone(promoted, full - tables.live()));

    let mut gather = machine.gather();
    tree.split(input, bytes, page, &mut gather).expect("room");
    gather.finish(&&machine).expect("nothing fails");
    machine.verify();
    assert_eq!((size(&tree), tables.live()), (Some(page), full));
    machine.destroy(tree);
}

/// Whether the tables that `format` makes restrict what leaves allow.
fn restricts<F: Format>(format: &F) -> bool {
    let geometry = format.geometry();
    (1..geometry.levels()).any(|level| {
        let at = Position { level: Level(level), shift: geometry.shift(Level(level)) };
        let width = geometry.width(Level(level - 1));
        let word = format.table(Output::<F>::new(0), width, at);
        word.is_ok_and(|word| format.restrict(F::Path::default(), word, at) != F::Path::default())
    })
}

/// Snapshots, and trees built anew from the list of what a tree maps, say what the tree says.
///
/// # Panics
/// If they say anything else.
pub fn random<F: Format>(format: F, caches: Caches, cases: u32) {
    let strategy = (crate::ops::ops(12), crate::ops::budget(), crate::ops::ops(4));
    crate::cases::run(cases, &proptest::strategy::Strategy::boxed(strategy), &|case| {
        let (build, budget, then) = case;
        let (here, there) = (Arena::new(ARENA), Arena::new(ARENA));
        let (tables, others) = (Tables::new(&here), Tables::new(&there));
        let machine = Machine::new(format, &here, &tables, caches);
        let other = Machine::new(format, &there, &others, caches);
        copied((&machine, &other), build, *budget, then);
    });
}

fn copied<'m, F: Format>(
    (machine, other): (&'m Machine<'m, F>, &'m Machine<'m, F>),
    build: &[Op],
    budget: usize,
    then: &[Op],
) {
    let tree = machine.tree().expect("room for a root");
    let mut flat = Flat::new(tree, machine);
    build.iter().for_each(|op| flat.apply(op));
    machine.watch([]);
    let (start, bytes) = flat.space.range();
    let live = machine.tables.live();
    let same = |one: &Tree<'_, F>, two: &Tree<'_, F>| {
        let flow = one.walker().diff(&two.walker(), start, bytes, ControlFlow::Break);
        assert_eq!(flow, Ok(ControlFlow::Continue(())));
    };
    other.tables.budget.set(budget);
    match flat.space.walker().snapshot(other, other) {
        Ok(copy) => {
            assert_eq!(other.tables.live(), live);
            same(&flat.space, &copy);
            other.destroy(copy);
        }
        Err(Error::Alloc(_)) => assert_ne!(budget, usize::MAX),
        Err(error) => panic!("{error}"),
    }
    assert_eq!(other.tables.live(), 0);
    let list: Vec<_> = flat.space.walker().iter(start, bytes).expect("the space").collect();
    let list = list.into_iter().map(|leaf| leaf.expect("nothing is malformed"));
    match PageTable::rebuild(*flat.space.format(), other, other, list) {
        Ok(copy) => {
            same(&flat.space, &copy);
            other.destroy(copy);
        }
        Err(error) => {
            assert!(budget != usize::MAX && matches!(error.error, Error::Alloc(_)), "{error}");
        }
    }
    assert_eq!(other.tables.live(), 0);
    other.tables.budget.set(usize::MAX);

    // A snapshot is a tree like any other: it goes on, apart from the first.
    let copy = flat.space.walker().snapshot(other, other).expect("room");
    other.load(copy.root());
    let mut forked = Flat::new(copy, other);
    forked.model.clone_from(&flat.model);
    then.iter().for_each(|op| forked.apply(op));
    flat.check();
    let mut gather = other.gather();
    forked.space.unmap(start, bytes, &mut gather).expect("all can be unmapped");
    gather.finish(&other).expect("nothing fails");
    assert_eq!(other.tables.live(), 1, "only the root is left: every count is right");
    other.destroy(forked.space);
    machine.destroy(flat.space);
}
