//! Several operations under one lock: a [`LockedRange`](pgtable::shared::LockedRange) does what the
//! one writer of an exclusive tree does, verb by verb, and holds no more than it has to.

use pgtable::format::{Format, Output};
use pgtable::invalidate::{Gather, Unused};
use pgtable::memory::DirectMap;
use pgtable::shared::SharedPageTable;
use pgtable::tree::{PageTable, Recorded, Writers};
use pgtable::{Access, Error, Gpa, Gva, Leaves, Prot, RangeError};
use pgtable_ppc64::radix::{Granule, ProcessScoped};
use pgtable_x86::{Controls, Levels, LongMode};

use crate::sharing::{Impatient, Shareable};
use crate::support::{Arena, Tables};

/// What one entry of the second level covers, in every format here.
const LARGE: u64 = 1 << 21;
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
