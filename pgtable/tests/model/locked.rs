//! Several operations under one lock: a [`LockedRange`](pgtable::LockedRange) does what the one
//! writer of an exclusive tree does, verb by verb, and holds no more than it has to.

use std::ops::ControlFlow;

use arch_ppc64::radix::{Granule, ProcessScoped};
use arch_x86::{Controls, Ept, EptControls, Levels, LongMode};
use pgtable::{
    Access, Address, DirectMap, Error, Format, Gather, Gpa, Gva, Input, Leaves, Output, PageTable,
    Prot, RangeError, Recorded, SharedPageTable, Unused, Writers,
};
use proptest::prelude::*;

use crate::sharing::{Impatient, Shareable};
use crate::support::{Arena, Tables};

/// What one entry of the second level covers, in every format here.
const LARGE: u64 = 1 << 21;
/// The range that is locked: across the border of two tables of the second level, so that what is
/// locked is above both.
const START: u64 = (1 << 30) - 2 * LARGE;
const BYTES: u64 = 4 * LARGE;

/// One operation, on pages from the start of the range.
#[derive(Clone, Debug)]
enum Op {
    Map { page: u64, pages: u64, output: u64, leaves: Leaves },
    Unmap { page: u64, pages: u64 },
    Protect { page: u64, pages: u64, prot: Prot },
    Split { page: u64, pages: u64 },
    Promote,
    Use { page: u64, store: bool },
    Harvest { page: u64, pages: u64, recorded: Recorded, writers: Writers },
}

/// On pages of `2^shift` bytes.
fn op(shift: u8) -> impl Strategy<Value = Op> {
    let large = LARGE >> shift;
    let all = BYTES >> shift;
    let page = prop_oneof![2 => 0..all, 1 => (0..4u64).prop_map(move |part| part * large)];
    let pages = prop_oneof![2 => 1..40u64, 1 => Just(large), 1 => 1..=all];
    let leaves = prop_oneof![2 => Just(Leaves::Largest), 1 => Just(Leaves::Exactly(shift))];
    let place = (page, pages).prop_map(move |(page, pages)| (page, pages.min(all - page)));
    let recorded = prop_oneof![Just(Recorded::Accessed), Just(Recorded::Dirty)];
    let writers = prop_oneof![Just(Writers::Running), Just(Writers::Stopped)];
    let prot = prop_oneof![Just(Prot::R), Just(Prot::RW), Just(Prot::RWX)];
    prop_oneof![
        4 => (place.clone(), 0..3u64, leaves).prop_map(move |((page, pages), output, leaves)| {
            // In step with the input, so that a part may be one leaf again; or not.
            Op::Map { page, pages, output: output * (3 * large + 1) + page, leaves }
        }),
        2 => place.clone().prop_map(|(page, pages)| Op::Unmap { page, pages }),
        2 => (place.clone(), prot).prop_map(|((page, pages), prot)| Op::Protect { page, pages, prot }),
        2 => place.clone().prop_map(|(page, pages)| Op::Split { page, pages }),
        2 => Just(Op::Promote),
        3 => (0..all, any::<bool>()).prop_map(|(page, store)| Op::Use { page, store }),
        2 => (place, recorded, writers)
            .prop_map(|((page, pages), recorded, writers)| Op::Harvest { page, pages, recorded, writers }),
    ]
}

/// Does the same to an exclusive tree and, under one lock, to a shared one: every answer is the
/// same, and so is every leaf at the end of it.
fn same<F: Format>(format: F, ops: &[Op]) {
    let arena = Arena::new(8 << 20);
    let tables = Tables::new(&arena);
    let mut one = PageTable::new(format, arena.memory::<Output<F>>(), &tables).unwrap();
    let shared = shared(format, &arena, &tables);
    let writer = shared.writer().unwrap();
    let shift = format.geometry().page_shift();
    let (mut stale, mut gather) = (Gather::new(&Unused, ()), Gather::new(&Unused, ()));
    let mut cursor = writer.lock(Input::<F>::new(START), BYTES).unwrap();
    let input = |page: u64| Input::<F>::new(START + (page << shift));
    for op in ops {
        match *op {
            Op::Map { page, pages, output, leaves } => {
                let (at, to, bytes) =
                    (input(page), Output::<F>::new(output << shift), pages << shift);
                let attributes = F::Attributes::from(Prot::RW);
                let (exclusive, locked) = (
                    one.map(at, to, bytes, attributes, leaves),
                    cursor.map(at, to, bytes, attributes, leaves),
                );
                assert_eq!(exclusive, locked, "{op:?}");
            }
            Op::Unmap { page, pages } => {
                let (at, bytes) = (input(page), pages << shift);
                assert_eq!(
                    one.unmap(at, bytes, &mut stale),
                    cursor.unmap(at, bytes, &mut gather),
                    "{op:?}"
                );
            }
            Op::Protect { page, pages, prot } => {
                let (at, bytes, attributes) =
                    (input(page), pages << shift, F::Attributes::from(prot));
                let exclusive = one.set_attributes(at, bytes, attributes, &mut stale);
                assert_eq!(
                    exclusive,
                    cursor.set_attributes(at, bytes, attributes, &mut gather),
                    "{op:?}"
                );
            }
            Op::Split { page, pages } => {
                let (at, bytes) = (input(page), pages << shift);
                let exclusive = one.split(at, bytes, shift, &mut stale);
                assert_eq!(exclusive, cursor.split(at, bytes, shift, &mut gather), "{op:?}");
            }
            Op::Promote => {
                let exclusive = one.promote(input(0), BYTES, &mut stale);
                assert_eq!(exclusive, cursor.promote(input(0), BYTES, &mut gather), "{op:?}");
            }
            Op::Use { page, store } => {
                let access = if store { Access::WRITE } else { Access::READ };
                let exclusive = one.walker().access(input(page), access).is_ok();
                assert_eq!(
                    exclusive,
                    shared.walker().access(input(page), access).is_ok(),
                    "{op:?}"
                );
            }
            Op::Harvest { page, pages, recorded, writers } => {
                let (at, bytes, mut bits) = (input(page), pages << shift, [[0; 40]; 2]);
                let exclusive = one.harvest(at, bytes, recorded, writers, &mut bits[0], &mut stale);
                let locked =
                    cursor.harvest(at, bytes, recorded, writers, &mut bits[1], &mut gather);
                assert_eq!((exclusive, bits[0]), (locked, bits[1]), "{op:?}");
            }
        }
        let found = cursor.query(input(0)).unwrap();
        assert_eq!(one.walker().query(input(0)).unwrap(), found);
    }
    cursor.finish(&mut gather);
    let leaves = |walker: pgtable::Walker<F, _>| {
        let mut leaves = Vec::new();
        let visited = walker.for_each(Input::<F>::new(START), BYTES, |leaf| {
            leaves.push(leaf);
            ControlFlow::<()>::Continue(())
        });
        assert_eq!(visited, Ok(ControlFlow::Continue(())));
        leaves
    };
    assert_eq!(leaves(one.walker()), leaves(shared.walker()));
    // No table was lost, none is left behind.
    one.unmap(Input::<F>::new(START), BYTES, &mut stale).unwrap();
    shared.into_inner().unmap(Input::<F>::new(START), BYTES, &mut gather).unwrap();
    for mut gather in [stale, gather] {
        gather.finish(&&tables).unwrap();
    }
    assert_eq!(tables.live(), 2, "only the roots are left");
}

macro_rules! formats {
    ($($name:ident: $format:expr, $shift:expr;)*) => {
        proptest! {
            #![proptest_config(ProptestConfig { cases: 48, max_shrink_iters: 2000, failure_persistence: None, ..ProptestConfig::default() })]
            $(#[test]
            fn $name(ops in proptest::collection::vec(op($shift), 1..30)) {
                same($format, &ops);
            })*
        }
    };
}

formats! {
    radix_64k_under_a_lock: ProcessScoped::new(Granule::K64), 16;
    x86_under_a_lock: LongMode::new(Levels::Four, Controls::new()), 12;
    ept_under_a_lock: Ept::new(Levels::Four, EptControls { accessed_dirty: true, ..EptControls::new() }), 12;
}

/// An empty tree for many writers.
fn shared<'t, F: Format>(
    format: F,
    arena: &'t Arena,
    tables: &'t Tables<'t>,
) -> SharedPageTable<F, DirectMap<'t, Output<F>>, Shareable<'t, Impatient>> {
    PageTable::new(format, arena.memory(), Shareable::new(tables)).unwrap().into()
}

/// What is locked is the least that has to be: another writer comes to what is beside it, as soon
/// as there is a table for the range alone. And the table that is locked stays.
#[test]
fn what_is_locked_stays_and_nothing_else() {
    let arena = Arena::new(1 << 20);
    let tables = Tables::new(&arena);
    let shared = shared(LongMode::new(Levels::Four, Controls::new()), &arena, &tables);
    let (one, other) = (shared.writer().unwrap(), shared.writer().unwrap());
    let mut gather = Gather::new(&Unused, ());
    let beside = |at: u64| {
        other.map(Gva::new(at), Gpa::new(0x1000), 0x1000, Prot::RW.into(), Leaves::Largest)
    };
    let contended = |at: u64| Err(RangeError { at: Gva::new(at), error: Error::Contended });

    // A large page is an entry of the table above, in which the neighbours stand too.
    one.map(Gva::new(0), Gpa::new(0), LARGE, Prot::RW.into(), Leaves::Largest).unwrap();
    let mut cursor = one.lock(Gva::new(0), LARGE).unwrap();
    assert_eq!(beside(LARGE), contended(LARGE));
    assert_eq!(cursor.split(Gva::new(0), LARGE, 12, &mut gather), Ok(1));
    beside(LARGE).unwrap();
    assert_eq!(beside(0x1000), contended(0x1000));
    // Its own table is not the cursor's to take out, though every page of it is in a row.
    assert_eq!(cursor.promote(Gva::new(0), LARGE, &mut gather), Ok(0));
    drop(cursor);
    let mut cursor = one.lock(Gva::new(0), 2 * LARGE).unwrap();
    assert_eq!(beside(2 * LARGE), contended(2 * LARGE));
    assert_eq!(cursor.promote(Gva::new(0), 2 * LARGE, &mut gather), Ok(1));
    assert_eq!(cursor.query(Gva::new(0x5000)).unwrap().map(|found| found.shift), Some(21));

    // Beyond the range is an error of every verb, whatever is mapped there.
    let outside = |at: u64| RangeError { at: Gva::new(at), error: Error::Range };
    for (at, bytes) in [(2 * LARGE, 0x1000), (LARGE, 2 * LARGE), (0, 3 * LARGE)] {
        let (at, error) = (Gva::new(at), outside(at));
        assert_eq!(
            cursor.map(at, Gpa::new(0), bytes, Prot::RW.into(), Leaves::Largest),
            Err(error)
        );
        assert_eq!(cursor.unmap(at, bytes, &mut gather), Err(error));
        assert_eq!(cursor.protect(at, bytes, Prot::R, &mut gather), Err(error));
        assert_eq!(cursor.split(at, bytes, 12, &mut gather), Err(error));
        assert_eq!(cursor.promote(at, bytes, &mut gather), Err(error));
        let harvested =
            cursor.harvest(at, bytes, Recorded::Dirty, Writers::Running, &mut [0; 32], &mut gather);
        assert_eq!(harvested, Err(error));
    }
    assert_eq!(cursor.query(Gva::new(2 * LARGE)), Err(outside(2 * LARGE)));
    cursor.finish(&mut gather);
    assert_eq!(one.unmap(Gva::new(0), 4 * LARGE, &mut gather), Ok(LARGE + 0x1000));
    gather.finish(&&tables).unwrap();
    assert_eq!(tables.live(), 1);
}

/// Of the table that is locked, only what is in the range: page by page, on the quick way too.
#[test]
fn pages_beside_the_range() {
    const PAGE: u64 = 0x1000;
    let arena = Arena::new(1 << 20);
    let tables = Tables::new(&arena);
    let shared = shared(LongMode::new(Levels::Four, Controls::new()), &arena, &tables);
    let writer = shared.writer().unwrap();
    let mut gather = Gather::new(&Unused, ());
    writer.map(Gva::new(0), Gpa::new(0), PAGE, Prot::RW.into(), Leaves::Largest).unwrap();
    let mut cursor = writer.lock(Gva::new(3 * PAGE), 3 * PAGE).unwrap();
    let mut map = |page: u64| {
        cursor.map(
            Gva::new(page * PAGE),
            Gpa::new(page * PAGE),
            PAGE,
            Prot::RW.into(),
            Leaves::Exactly(12),
        )
    };
    let outside = |page: u64| Err(RangeError { at: Gva::new(page * PAGE), error: Error::Range });
    let all = [
        (1, true),
        (2, true),
        (3, false),
        (4, false),
        (5, false),
        (6, true),
        (511, true),
        (512, true),
    ];
    for (page, beyond) in all {
        assert_eq!(map(page), if beyond { outside(page) } else { Ok(()) }, "page {page}");
    }
    // Nothing at all is in the range, wherever it is said to be, and in any space.
    assert_eq!(cursor.unmap(Gva::new(3 * PAGE), 0, &mut gather), Ok(0));
    assert_eq!(
        writer.lock(Gva::new(1 << 50), PAGE).map(|_| ()),
        Err(RangeError { at: Gva::new(1 << 50), error: Error::Range })
    );
    cursor.finish(&mut gather);
    assert_eq!(writer.protect(Gva::new(0), 0, Prot::R, &mut gather), Ok(0));
    assert_eq!(writer.lock(Gva::new(0), 0).map(drop), Ok(()));
    for (page, beyond) in all {
        assert_eq!(writer.translate(Gva::new(page * PAGE), Access::READ).is_ok(), !beyond);
    }
    assert_eq!(writer.unmap(Gva::new(0), 1 << 21, &mut gather), Ok(4 * PAGE));
    gather.finish(&&tables).unwrap();
    assert_eq!(tables.live(), 1);
}

/// Which operations of others wait for a range that is locked: those whose tables it holds, and
/// those that could take a table of it out.
#[test]
fn who_has_to_wait() {
    const PAGE: u64 = 0x1000;
    const HUGE: u64 = 1 << 30;
    let arena = Arena::new(1 << 20);
    let tables = Tables::new(&arena);
    let shared = shared(LongMode::new(Levels::Four, Controls::new()), &arena, &tables);
    let (one, other) = (shared.writer().unwrap(), shared.writer().unwrap());
    let mut gather = Gather::new(&Unused, ());
    for at in [0, LARGE, HUGE, HUGE + LARGE, 1 << 39] {
        one.map(Gva::new(at), Gpa::new(at), 4 * PAGE, Prot::RW.into(), Leaves::Exactly(12))
            .unwrap();
    }
    // What is locked, what somebody else protects, and whether that waits. A range locks the lowest
    // table that covers it, and every table below with an entry in it; a verb locks one of which
    // its range is less than all, since what fills a table to its ends may take it out.
    let half = HUGE / 2;
    for (locked, wanted, waits) in [
        ((0, PAGE), (PAGE, PAGE), true),
        ((0, PAGE), (LARGE, PAGE), false),
        ((0, PAGE), (LARGE, LARGE), false),
        ((0, PAGE), (0, LARGE), true),
        ((0, PAGE), (0, HUGE), true),
        ((0, PAGE), (HUGE, LARGE), false),
        ((0, PAGE), (HUGE, HUGE), false),
        ((0, LARGE), (LARGE, PAGE), false),
        ((LARGE, LARGE), (LARGE - PAGE, PAGE), false),
        ((0, 2 * LARGE), (LARGE, PAGE), true),
        ((0, 2 * LARGE), (LARGE, LARGE - PAGE), true),
        ((0, 2 * LARGE), (LARGE, LARGE), true),
        ((LARGE - PAGE, 2 * PAGE), (LARGE - PAGE, 2 * PAGE), true),
        ((LARGE - PAGE, 2 * PAGE), (LARGE - PAGE, PAGE), true),
        ((LARGE - PAGE, 2 * PAGE), (HUGE, LARGE), false),
        // No table is there yet but the one that is locked.
        ((0, half), (half, PAGE), true),
        ((0, half), (HUGE, PAGE), false),
        ((HUGE + 5 * LARGE, 1), (HUGE, LARGE), true),
        ((HUGE + LARGE, PAGE), (HUGE, LARGE), false),
        ((0, HUGE), (HUGE, HUGE), false),
        ((HUGE - PAGE, 2 * PAGE), (0, LARGE), true),
        ((HUGE - PAGE, 2 * PAGE), (0, HUGE - PAGE), true),
        ((HUGE - PAGE, 2 * PAGE), (0, HUGE), true),
        ((HUGE - PAGE, 2 * PAGE), (1 << 39, HUGE), false),
        ((0, 1 << 39), (1 << 39, HUGE), false),
        ((0, (1 << 39) + PAGE), (1 << 39, HUGE), true),
        ((0, (1 << 39) + PAGE), (1 << 39, 1 << 39), true),
    ] {
        let cursor = one.lock(Gva::new(locked.0), locked.1).unwrap();
        let done = other.protect(Gva::new(wanted.0), wanted.1, Prot::R, &mut gather);
        assert_eq!(done.is_err(), waits, "{locked:x?} is locked, {wanted:x?} is wanted");
        drop(cursor);
    }
    assert_eq!(one.unmap(Gva::new(0), 1 << 40, &mut gather), Ok(20 * PAGE));
    gather.finish(&&tables).unwrap();
    assert_eq!(tables.live(), 1);
}

/// A range over several tables is one writer's alone, until it is finished or dropped: no verb of
/// another changes anything in it, and what is beside it goes on.
#[test]
fn case_a11_a_locked_range_is_alone() {
    const PAGE: u64 = 0x1000;
    let arena = Arena::new(1 << 20);
    let tables = Tables::new(&arena);
    let shared = shared(LongMode::new(Levels::Four, Controls::new()), &arena, &tables);
    let (one, other) = (shared.writer().unwrap(), shared.writer().unwrap());
    let mut gather = Gather::new(&Unused, ());
    let rw = || Prot::RW.into();
    let map = |at: u64| other.map(Gva::new(at), Gpa::new(at), PAGE, rw(), Leaves::Largest);
    for at in [0, PAGE, LARGE, LARGE + PAGE, 2 * LARGE] {
        map(at).unwrap();
    }
    let before = tables.live();
    for finished in [true, false] {
        let mut range = one.lock(Gva::new(0), 2 * LARGE).unwrap();
        // What is made in the range is locked too: here a table, and one by splitting.
        let (made, large) = (Gva::new(PAGE), Gva::new(LARGE));
        assert_eq!(range.unmap(Gva::new(0), 2 * LARGE, &mut gather), Ok(4 * PAGE));
        range.map(made, Gpa::new(PAGE), PAGE, rw(), Leaves::Largest).unwrap();
        range.map(large, Gpa::new(LARGE), LARGE, rw(), Leaves::Largest).unwrap();
        assert_eq!(range.split(large, LARGE, 12, &mut gather), Ok(1));
        let found = |at: u64| shared.walker().query(Gva::new(at)).unwrap().is_some();
        for at in [0, PAGE, LARGE, LARGE + PAGE] {
            let (is, at) = (found(at), Gva::new(at));
            let mut others = Gather::new(&Unused, ());
            let contended = RangeError { at, error: Error::Contended };
            assert_eq!(map(at.get()), Err(contended));
            assert_eq!(other.unmap(at, PAGE, &mut others), Err(contended));
            assert_eq!(other.unmap(at, LARGE - at.get() % LARGE, &mut others), Err(contended));
            assert_eq!(other.protect(at, PAGE, Prot::R, &mut others), Err(contended));
            assert_eq!(other.split(at, PAGE, 12, &mut others), Err(contended));
            assert!(other.lock(at, PAGE).is_err_and(|it| it == contended));
            assert_eq!(found(at.get()), is);
            others.finish(&&tables).unwrap();
        }
        map(2 * LARGE + PAGE).unwrap();
        assert_eq!(other.unmap(Gva::new(2 * LARGE + PAGE), PAGE, &mut gather), Ok(PAGE));
        if finished {
            range.finish(&mut gather);
        } else {
            drop(range);
        }
        for (at, bytes) in [(PAGE, PAGE), (LARGE, LARGE)] {
            assert_eq!(other.unmap(Gva::new(at), bytes, &mut gather), Ok(bytes));
        }
        for at in [0, PAGE, LARGE, LARGE + PAGE] {
            map(at).unwrap();
        }
        gather.finish(&&tables).unwrap();
        assert_eq!(tables.live(), before);
    }
}

/// Where pages of another size stand in the table that is locked, none of the usual size is put
/// beside them.
#[test]
fn small_pages_under_a_lock() {
    let arena = Arena::new(1 << 20);
    let tables = Tables::new(&arena);
    let shared = shared(ProcessScoped::new(Granule::K64), &arena, &tables);
    let writer = shared.writer().unwrap();
    let mut gather = Gather::new(&Unused, ());
    let rw = || Prot::RW.into();
    writer.map(Gva::new(0), Gpa::new(0), 0x1000, rw(), Leaves::Exactly(12)).unwrap();
    let mut cursor = writer.lock(Gva::new(0), LARGE).unwrap();
    let error = RangeError { at: Gva::new(0x1_0000), error: Error::LeafSize };
    assert_eq!(
        cursor.map(Gva::new(0x1_0000), Gpa::new(0), 0x1_0000, rw(), Leaves::Exactly(16)),
        Err(error)
    );
    assert_eq!(
        cursor.map(Gva::new(0x1_0000), Gpa::new(0), 0x1_0000, rw(), Leaves::Largest),
        Ok(())
    );
    assert_eq!(
        cursor.query(Gva::new(0x1_2345)).unwrap().map(|it| (it.output.get(), it.shift)),
        Some((0x2345, 12))
    );
    cursor.finish(&mut gather);
    assert_eq!(writer.unmap(Gva::new(0), LARGE, &mut gather), Ok(0x1_1000));
    gather.finish(&&tables).unwrap();
    assert_eq!(tables.live(), 1);
}
