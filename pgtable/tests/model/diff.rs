//! Differences between two trees.

use std::collections::BTreeMap;
use std::ops::ControlFlow;

use pgtable::format::{Format, Input, Output};
use pgtable::invalidate::Gather;
use pgtable::tree::PageTable;
use pgtable::{Address, AddressSpace, Gpa, Gva, Leaves, Prot};
use pgtable_ppc64::radix::{Granule, ProcessScoped};
use pgtable_x86::{Controls, Levels, LongMode};
use proptest::prelude::*;

use crate::support::{Arena, Tables, Tlb};

/// Differences found by comparing every page are the differences found by `diff`.
fn differences<F: Format>(format: F, before: &[(u64, u64, u64)], after: &[(u64, u64, u64)]) {
    let arena = Arena::new(8 << 20);
    let tables = Tables::new(&arena);
    let page = 1 << format.geometry().page_shift();
    let tree = |parts: &[(u64, u64, u64)]| {
        let mut tree = PageTable::new(format, arena.memory::<Output<F>>(), &tables).unwrap();
        for &(at, pages, to) in parts {
            let attributes = F::Attributes::from(if to % 2 == 0 { Prot::RW } else { Prot::R });
            // Where it is mapped already it stays.
            let _ = tree.map(
                Input::<F>::new(at * page),
                Output::<F>::new(to * page),
                pages * page,
                attributes,
                Leaves::Largest,
            );
        }
        tree
    };
    let (one, two) = (tree(before), tree(after));
    let (start, _) = one.range();
    let mut changed = BTreeMap::new();
    let flow = one.walker().diff(&two.walker(), start, 1 << 32, |change| {
        for within in (0..change.bytes).step_by(page as usize) {
            let moved = |side: Option<(Output<F>, F::Attributes)>| {
                side.map(|(to, a)| (to.get() + within, a))
            };
            changed
                .insert(change.input.get() + within, (moved(change.before), moved(change.after)));
        }
        ControlFlow::<()>::Continue(())
    });
    assert!(flow.unwrap().is_continue());
    for at in (0..3000).map(|n| n * page) {
        let side = |tree: &PageTable<F, _, &Tables<'_>>| {
            tree.walker()
                .query(Input::<F>::new(at))
                .unwrap()
                .map(|found| (found.output.get(), found.attributes))
        };
        let (old, new) = (side(&one), side(&two));
        assert_eq!(changed.get(&at).copied(), (old != new).then_some((old, new)), "{at:#x}");
    }
}

proptest! {
    #![proptest_config(pgtable_conformance::cases::config(48))]
    #[test]
    fn diff_is_what_page_by_page_comparison_finds(
        before in proptest::collection::vec((0u64..1200, 1u64..700, 0u64..2000), 0..6),
        after in proptest::collection::vec((0u64..1200, 1u64..700, 0u64..2000), 0..6),
        same in proptest::collection::vec((0u64..1200, 1u64..700, 0u64..2000), 0..4),
    ) {
        let both = |own: &[(u64, u64, u64)]| [&same[..], own].concat();
        differences(ProcessScoped::new(Granule::K4), &both(&before), &both(&after));
        differences(LongMode::new(Levels::Four, Controls::new()), &both(&before), &both(&after));
    }
}

/// Leaves of different sizes that overlap in part: the change is the part.
#[test]
fn the_difference_of_a_page() {
    let arena = Arena::new(1 << 20);
    let tables = Tables::new(&arena);
    let tree = || {
        PageTable::new(LongMode::new(Levels::Four, Controls::new()), arena.memory(), &tables)
            .unwrap()
    };
    let (mut one, mut two) = (tree(), tree());
    let (at, to, large) = (Gva::new(4 << 20), Gpa::new(6 << 20), 2 << 20);
    one.map(at, to, large, Prot::RW.into(), Leaves::Largest).unwrap();
    two.map(at, to, large, Prot::RW.into(), Leaves::Exactly(12)).unwrap();
    let page = Gva::new(at.get() + 0x7000);
    let tlb = Tlb::default();
    let mut gather = Gather::new(&tlb, 7);
    two.unmap(Gva::new(at.get() + large - 0x1000), 0x1000, &mut gather).unwrap();
    two.remap(page, Gpa::new(0x9000), 0x1000, Prot::RW.into(), Leaves::Exactly(12), &mut gather)
        .unwrap();
    gather.finish(&&tables).unwrap();
    let mut changes = Vec::new();
    let side = |side: Option<(Gpa, pgtable_x86::PageAttributes)>| side.map(|it| it.0.get());
    let flow = one.walker().diff(&two.walker(), Gva::new(0), 1 << 30, |change| {
        changes.push((change.input.get(), change.bytes, side(change.before), side(change.after)));
        ControlFlow::<()>::Continue(())
    });
    assert_eq!(flow, Ok(ControlFlow::Continue(())));
    let (page, end) = (page.get(), at.get() + large - 0x1000);
    let changed = (page, 0x1000, Some(to.get() + 0x7000), Some(0x9000));
    assert_eq!(changes, [changed, (end, 0x1000, Some(to.get() + large - 0x1000), None)]);
    for tree in [one, two] {
        tree.destroy(Gather::new(&tlb, 7)).map_err(|(_, error)| error).unwrap();
    }
}
