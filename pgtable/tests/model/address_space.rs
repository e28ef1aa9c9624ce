//! Every address space against a flat map, through one harness; a format is one line at the end.

use crate::deep::{Deep, EIGHT, FIVE, FOUR, SIX, THREE, TWO};
use crate::support::harness::{Harness, Op, op};
use crate::support::{Arena, Tables};
use arch_ppc64::radix::{Granule, PartitionScoped, ProcessScoped};
use arch_x86::{Controls, Ept, EptControls, Levels, LongMode, Npt, NptControls};
use pgtable::{AddressSpace, Format, Gather, Output, PageTable};
use pgtable_conformance::lpa::Lpa;
use pgtable_conformance::sv::Sv;
use proptest::prelude::*;

/// Runs `ops` on a tree of `format`, tears it down, and looks for what was left behind.
fn tree<F: Format>(format: F, ops: &[Op]) {
    let arena = Arena::new(8 << 20);
    let tables = Tables::new(&arena);
    let space = PageTable::new(format, arena.memory::<Output<F>>(), &tables).unwrap();
    let mut harness = Harness::new(space, &tables);
    harness.check();
    for op in ops {
        harness.apply(op);
    }

    // Unmapping everything leaves the root alone; so the tree holds no empty table.
    let (start, bytes) = harness.space.range();
    let mut gather = Gather::new(&harness.tlb, 7);
    harness.space.unmap(start, bytes, &mut gather).unwrap();
    gather.finish(&tables).unwrap();
    assert_eq!(tables.live(), 1, "only the root is left");
    harness.space.destroy(Gather::new(&harness.tlb, 7)).map_err(|(_, error)| error).unwrap();
    assert_eq!(tables.live(), 0);
}

/// Builds a tree with `ops` and tears it down as it is.
fn teardown<F: Format>(format: F, ops: &[Op]) {
    let arena = Arena::new(8 << 20);
    let tables = Tables::new(&arena);
    let space = PageTable::new(format, arena.memory::<Output<F>>(), &tables).unwrap();
    let mut harness = Harness::new(space, &tables);
    for op in ops {
        harness.apply(op);
    }
    let live = tables.live();
    let finished =
        harness.space.destroy(Gather::new(&harness.tlb, 7)).map_err(|(_, error)| error).unwrap();
    assert_eq!((finished.tables, tables.live()), (live, 0));
}

macro_rules! formats {
    ($($name:ident: $format:expr;)*) => {$(
        mod $name {
            use super::*;
            proptest! {
                #![proptest_config(ProptestConfig { cases: 64, max_shrink_iters: 2000, failure_persistence: None, ..ProptestConfig::default() })]
                #[test]
                fn against_a_flat_map(ops in proptest::collection::vec(op(), 1..30)) {
                    tree($format, &ops);
                }
                #[test]
                fn teardown_leaves_nothing(ops in proptest::collection::vec(op(), 1..12)) {
                    teardown($format, &ops);
                }
            }
        }
    )*};
}

formats! {
    two_levels: Deep::new(&TWO);
    three_levels: Deep::new(&THREE);
    four_odd_levels: Deep::new(&FOUR);
    five_odd_levels: Deep::new(&FIVE).slow();
    six_levels: Deep::new(&SIX);
    eight_levels: Deep::new(&EIGHT);
    sv39: Sv::SV39;
    sv48: Sv::SV48.with_sum();
    sv39_napot: Sv::SV39.with_napot();
    lpa: Lpa::PLAIN;
    lpa_contiguous: Lpa::CONTIGUOUS;
    radix_64k_process: ProcessScoped::new(Granule::K64);
    radix_4k_process: ProcessScoped::new(Granule::K4);
    radix_64k_partition: PartitionScoped::new(Granule::K64);
    radix_4k_partition: PartitionScoped::new(Granule::K4);
    x86_4_level: LongMode::new(Levels::Four, Controls::new());
    x86_5_level: LongMode::new(Levels::Five, Controls::new());
    npt: Npt::new(Levels::Four, NptControls::new());
    ept_4_level: Ept::new(Levels::Four, EptControls::new());
    ept_5_level: Ept::new(Levels::Five, EptControls::new());
}
