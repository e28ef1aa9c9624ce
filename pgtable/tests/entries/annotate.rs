//! Annotations: numbers that software keeps in absent entries.

use std::collections::BTreeMap;
use std::ops::ControlFlow;

use pgtable::format::{Format, Input, Output};
use pgtable::invalidate::{Gather, Unused};
use pgtable::memory::DirectMap;
use pgtable::tree::PageTable;
use pgtable::{Access, Address, Cause, Error, Leaves, Prot, RangeError};
use pgtable_conformance::lpa::Lpa;
use pgtable_conformance::sv::Sv;
use pgtable_ppc64::radix::{Granule, PartitionScoped};
use pgtable_x86::{Ept, EptControls, Levels, Npt, NptControls};
use proptest::prelude::*;

use crate::support::{Arena, Tables};

const LARGE: u64 = 1 << 30;

type Tree<'t, F> = PageTable<F, DirectMap<'t, Output<F>>, &'t Tables<'t>>;

fn tree<'t, F: Format>(format: F, arena: &'t Arena, tables: &'t Tables<'t>) -> Tree<'t, F> {
    PageTable::new(format, arena.memory(), tables).unwrap()
}

/// (input, bytes, value) of each annotation.
fn annotations<F: Format>(tree: &Tree<'_, F>) -> Vec<(u64, u64, u64)> {
    let mut all = Vec::new();
    let flow = tree.walker().for_each_annotation(Input::<F>::new(0), 4 * LARGE, |it| {
        all.push((it.input.get(), it.bytes, it.value));
        ControlFlow::<()>::Continue(())
    });
    assert!(flow.unwrap().is_continue());
    all
}

fn map<F: Format>(
    tree: &mut Tree<'_, F>,
    at: u64,
    bytes: u64,
    leaves: Leaves,
) -> Result<(), RangeError<Input<F>>> {
    tree.map(Input::<F>::new(at), Output::<F>::new(at), bytes, Prot::RW.into(), leaves)
}

fn is_annotated<F: Format>(result: Result<(), RangeError<Input<F>>>, at: u64, value: u64) {
    let RangeError { at: found, error } = result.unwrap_err();
    assert_eq!(found.get(), at, "{error}");
    assert!(matches!(error, Error::Annotated { value: it, .. } if it == value), "{error}");
}

/// What every format does with annotations.
fn kept<F: Format>(format: F) {
    let geometry = format.geometry();
    let (page, shift) = (1u64 << geometry.page_shift(), geometry.shift(pgtable::Level(1)));
    let large = 1u64 << shift;
    let at = Input::<F>::new;
    let arena = Arena::new(8 << 20);
    let tables = Tables::new(&arena);
    let mut tree = tree(format, &arena, &tables);
    let mut gather = Gather::new(&Unused, ());

    // A large entry and two pages, in as few entries as there can be.
    assert_eq!(tree.annotate(at(large), large + 2 * page, 0x1234, &mut gather), Ok(()));
    let want =
        [(large, large, 0x1234), (2 * large, page, 0x1234), (2 * large + page, page, 0x1234)];
    assert_eq!(annotations(&tree), want);
    for (input, value) in [
        (0, None),
        (large, Some(0x1234)),
        (2 * large - 1, Some(0x1234)),
        (2 * large + 2 * page - 1, Some(0x1234)),
        (2 * large + 2 * page, None),
    ] {
        assert_eq!(tree.walker().annotation(at(input)), Ok(value), "{input:#x}");
        // Nothing is mapped there.
        assert_eq!(tree.walker().query(at(input)), Ok(None));
        let fault = tree.translate(at(input), Access::READ).unwrap_err();
        assert_eq!(fault.cause, Cause::NotPresent);
    }
    assert_eq!(tree.walker().iter(at(0), 4 * large).unwrap().count(), 0);

    // Part of a large one: the rest keeps what it had.
    assert_eq!(tree.annotate(at(large + page), page, 5, &mut gather), Ok(()));
    let all = annotations(&tree);
    let pages = large / page;
    assert_eq!(all.len() as u64, pages + 2);
    for (n, &(input, bytes, value)) in (0..).zip(&all) {
        let want = if n == 1 { 5 } else { 0x1234 };
        assert_eq!((input, bytes, value), (large + n * page, page, want));
    }

    // What is annotated is not mapped over, by whatever verb, and says so where it stands.
    is_annotated::<F>(map(&mut tree, large, large, Leaves::Largest), large, 0x1234);
    is_annotated::<F>(map(&mut tree, large + page, page, Leaves::Largest), large + page, 5);
    is_annotated::<F>(
        map(&mut tree, 0, 2 * large, Leaves::Exactly(geometry.page_shift())),
        large,
        0x1234,
    );
    assert_eq!(tree.unmap(at(0), large, &mut gather), Ok(large));
    let remapped = tree.remap(
        at(large),
        Output::<F>::new(0),
        page,
        Prot::RW.into(),
        Leaves::Largest,
        &mut gather,
    );
    is_annotated::<F>(remapped, large, 0x1234);
    let mut cursor = tree.cursor(&mut gather);
    let over = cursor.map(at(large + page), Output::<F>::new(0), Prot::RW.into());
    assert!(matches!(over, Err(Error::Annotated { value: 5, .. })), "{over:?}");
    assert_eq!(cursor.unmap(at(large + page)), Ok(false));
    cursor.finish().unwrap();
    assert_eq!(annotations(&tree), all);

    // Verbs on what is mapped pass annotations over; so does an unmap of whole tables.
    assert_eq!(map(&mut tree, 2 * large + 2 * page, 7 * page, Leaves::Largest), Ok(()));
    let whole = 4 * large;
    assert_eq!(tree.protect(at(0), whole, Prot::R, &mut gather), Ok(7 * page));
    assert_eq!(tree.promote(at(0), whole, &mut gather).map(|_| ()), Ok(()));
    assert_eq!(tree.relocate(|_, _| true, &mut gather).map(|moved| moved > 0), Ok(true));
    assert_eq!(tree.unmap(at(0), whole, &mut gather), Ok(7 * page));
    assert_eq!(annotations(&tree), all);

    // Mapped entries are not annotated, and nothing from there on is.
    assert_eq!(map(&mut tree, 2 * large + 9 * page, page, Leaves::Largest), Ok(()));
    let over = tree.annotate(at(2 * large + 8 * page), 3 * page, 9, &mut gather).unwrap_err();
    assert_eq!(over.at.get(), 2 * large + 9 * page);
    assert!(matches!(over.error, Error::Mapped { .. }), "{over}");
    assert_eq!(tree.walker().annotation(at(2 * large + 8 * page)), Ok(Some(9)));
    assert_eq!(tree.walker().annotation(at(2 * large + 10 * page)), Ok(None));
    assert_eq!(tree.unmap(at(2 * large + 9 * page), page, &mut gather), Ok(page));

    // As many bits as an absent entry has to spare.
    let spare = (!format
        .bits(pgtable::Position { level: pgtable::Level(0), shift: geometry.page_shift() })
        .present)
        .count_ones();
    let most = pgtable::low_bits(spare as u8);
    let live = tables.live();
    let refused = tree.annotate(at(3 * large), page, most + 1, &mut gather).unwrap_err();
    assert!(matches!(refused.error, Error::Unencodable { .. }), "{refused}");
    assert_eq!(tables.live(), live, "no empty table is left");
    assert_eq!(tree.annotate(at(3 * large), page, most, &mut gather), Ok(()));
    assert_eq!(tree.walker().annotation(at(3 * large)), Ok(Some(most)));
    assert_eq!(tree.walker().query(at(3 * large)), Ok(None));

    // Cleared, it can be mapped, and empty tables have left.
    assert_eq!(tree.annotate(at(0), whole, 0, &mut gather), Ok(()));
    gather.finish(&&tables).unwrap();
    assert_eq!((annotations(&tree).len(), tables.live()), (0, 1));
    assert_eq!(map(&mut tree, large, large, Leaves::Largest), Ok(()));
    // A tree that is annotated is freed whole.
    assert_eq!(tree.annotate(at(0), page, 1, &mut gather), Ok(()));
    tree.destroy(gather).map_err(|(_, error)| error).unwrap();
    assert_eq!(tables.live(), 0);
}

#[test]
fn every_format_keeps_annotations() {
    kept(PartitionScoped::new(Granule::K4));
    kept(PartitionScoped::new(Granule::K64));
    kept(Ept::new(Levels::Four, EptControls { mode_based_execute: true, ..EptControls::new() }));
    kept(Npt::new(Levels::Five, NptControls::new()));
    kept(Sv::SV39);
    kept(Sv::SV48.with_napot());
    kept(Lpa::CONTIGUOUS);
}

/// If no table is left, what was annotated before stays, and nothing else changed.
#[test]
fn without_memory() {
    let arena = Arena::new(1 << 20);
    let tables = Tables::new(&arena);
    let mut tree = tree(Sv::SV48, &arena, &tables);
    let mut gather = Gather::new(&Unused, ());
    let at = pgtable::Gva::new;
    tree.annotate(at(1 << 21), 1 << 21, 7, &mut gather).unwrap();
    let before = (annotations(&tree), tables.live());
    for budget in 0..1 {
        tables.budget.set(budget);
        let refused = tree.annotate(at((1 << 21) + 0x1000), 0x1000, 8, &mut gather).unwrap_err();
        assert!(matches!(refused.error, Error::Alloc(_)), "{refused}");
        assert_eq!((annotations(&tree), tables.live()), before);
    }
    tables.budget.set(1);
    tree.annotate(at((1 << 21) + 0x1000), 0x1000, 8, &mut gather).unwrap();
    gather.finish(&&tables).unwrap();
}

/// Random annotations, mappings and unmappings against a flat map.
fn against_a_flat_map<F: Format>(format: F, ops: &[(u8, u64, u64, u64)]) {
    let page = 1u64 << format.geometry().page_shift();
    let arena = Arena::new(8 << 20);
    let tables = Tables::new(&arena);
    let mut tree = tree(format, &arena, &tables);
    let mut gather = Gather::new(&Unused, ());
    // 0: mapped.
    let mut model = BTreeMap::new();
    for &(op, at, pages, value) in ops {
        let (start, bytes) = (at * page, pages * page);
        let input = Input::<F>::new(start);
        let range = (at..at + pages).map(|n| n * page);
        match op {
            0 => {
                let result = map(&mut tree, start, bytes, Leaves::Largest);
                let done = result.map_or_else(|error| error.at.get(), |()| start + bytes);
                for page in range.filter(|page| *page < done) {
                    assert_eq!(model.insert(page, 0), None, "mapped over {page:#x}");
                }
                assert!(done == start + bytes || model.contains_key(&done));
            }
            1 => {
                let unmapped = tree.unmap(input, bytes, &mut gather).unwrap();
                let before = model.len();
                model.retain(|&page, value| *value != 0 || page < start || page >= start + bytes);
                assert_eq!(unmapped, (before - model.len()) as u64 * page);
            }
            _ => {
                let result = tree.annotate(input, bytes, value, &mut gather);
                let done = result.map_or_else(|error| error.at.get(), |()| start + bytes);
                for page in range.filter(|page| *page < done) {
                    let old =
                        if value == 0 { model.remove(&page) } else { model.insert(page, value) };
                    assert_ne!(old, Some(0), "annotated over {page:#x}");
                }
                assert!(done == start + bytes || model.get(&done) == Some(&0));
            }
        }
        let mut found = BTreeMap::new();
        for (start, bytes, value) in annotations(&tree) {
            (0..bytes).step_by(page as usize).for_each(|n| _ = found.insert(start + n, value));
        }
        for leaf in tree.walker().iter(Input::<F>::new(0), 4 * LARGE).unwrap() {
            let leaf = leaf.unwrap();
            for n in (0..leaf.bytes).step_by(page as usize) {
                assert_eq!(found.insert(leaf.input.get() + n, 0), None);
            }
        }
        assert_eq!(found, model);
    }
    tree.unmap(Input::<F>::new(0), 4 * LARGE, &mut gather).unwrap();
    tree.annotate(Input::<F>::new(0), 4 * LARGE, 0, &mut gather).unwrap();
    gather.finish(&&tables).unwrap();
    assert_eq!(tables.live(), 1, "only the root is left");
}

fn ops() -> impl Strategy<Value = Vec<(u8, u64, u64, u64)>> {
    let at = prop_oneof![0..40u64, 500..520u64, Just(512), Just(1024)];
    let pages = prop_oneof![1..40u64, Just(512), 500..1100u64];
    proptest::collection::vec((0..4u8, at, pages, 0..3u64), 1..20)
}

proptest! {
    #![proptest_config(pgtable_conformance::cases::config(256))]

    #[test]
    fn radix(ops in ops()) {
        against_a_flat_map(PartitionScoped::new(Granule::K64), &ops);
    }

    #[test]
    fn napot(ops in ops()) {
        against_a_flat_map(Sv::SV48.with_napot(), &ops);
    }
}
