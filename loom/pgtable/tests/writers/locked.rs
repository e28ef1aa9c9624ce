//! A locked range beside a verb: several things as one.

use crate::tiny::{Plain, Tiny};
use pgtable::invalidate::{Gather, Unused};
use pgtable::shared::LockedRange;
use pgtable::tree::{Recorded, Writers};
use pgtable::{Access, Gpa, Hpa, Leaves, Stage2};

use crate::ends::{LARGE, PAGE, deep, ends, map, pages, unmap};
use crate::memory::Memory;
use crate::tables::{Own, Tables, Tree, Writer};

/// Several things to one range under one lock, as one thing to everybody else.
fn locked(
    writer: &Writer<'_>,
    tree: &Tree,
    (at, bytes): (u64, u64),
    verbs: impl Fn(
        &mut LockedRange<'_, '_, Tiny, Own<Memory>, Own<Tables>>,
        &mut Gather<'_, Stage2, Unused>,
    ),
) {
    let mut gather = Gather::new(&Unused, ());
    let mut cursor = writer.lock(Gpa::new(at), bytes).unwrap();
    verbs(&mut cursor, &mut gather);
    cursor.finish(&mut gather);
    gather.finish(tree.tables()).unwrap();
}

#[test]
fn a_large_page_that_is_split_under_a_lock() {
    // The other unmaps one of its pages, before (then it is he who splits it) or after, never in
    // between: the page that was moved is where one put it.
    let first = |writer: &Writer<'_>| map(writer, 0, LARGE);
    let ends = ends(
        Tiny::BOTH,
        true,
        first,
        |writer, tree| {
            locked(writer, tree, (0, LARGE), |cursor, gather| {
                assert!(cursor.split(Gpa::new(0), LARGE, 12, gather).unwrap() <= 1);
                assert_eq!(cursor.unmap(Gpa::new(0), PAGE, gather), Ok(PAGE));
                let elsewhere = Hpa::new(0x20_0000);
                assert_eq!(
                    cursor.map(Gpa::new(0), elsewhere, PAGE, Plain, Leaves::Largest),
                    Ok(())
                );
            });
        },
        |writer, tree| unmap(writer, tree, PAGE, PAGE),
    );
    let mut left = pages(&[2 * PAGE, 3 * PAGE]);
    left.insert((0, 0x20_0000));
    assert_eq!(ends, [(left, 2)].into());
}

#[test]
fn a_table_that_is_promoted_under_a_lock() {
    // Either the table is whole, and becomes a page that the other splits again; or the other was
    // there first, and nothing is promoted.
    let first = |writer: &Writer<'_>| {
        (0..4).for_each(|page| map(writer, page * PAGE, PAGE));
    };
    let ends = ends(
        Tiny::BOTH,
        true,
        first,
        |writer, tree| {
            locked(writer, tree, (0, 2 * LARGE), |cursor, gather| {
                let whole = cursor.query(Gpa::new(PAGE)).unwrap().is_some();
                assert_eq!(cursor.promote(Gpa::new(0), LARGE, gather), Ok(usize::from(whole)));
            });
        },
        |writer, tree| unmap(writer, tree, PAGE, PAGE),
    );
    assert_eq!(ends, [(pages(&[0, 2 * PAGE, 3 * PAGE]), 2)].into());
}

#[test]
fn a_record_that_is_harvested_under_a_lock() {
    // What the page says that it was used for is harvested before the other takes it out, or not at
    // all; never from the page that comes in its place.
    let first = |writer: &Writer<'_>| {
        map(writer, 0, 2 * PAGE);
        writer.read(|walker| walker.access(Gpa::new(PAGE), Access::WRITE).unwrap());
    };
    let ends = ends(
        Tiny::BOTH,
        true,
        first,
        |writer, tree| {
            locked(writer, tree, (0, LARGE), |cursor, gather| {
                let found = cursor.query(Gpa::new(PAGE)).unwrap();
                let mut bits = [0];
                let harvested = cursor.harvest(
                    Gpa::new(0),
                    LARGE,
                    Recorded::Dirty,
                    Writers::Running,
                    &mut bits,
                    gather,
                );
                let used = found.is_some_and(|found| found.output.get() == 0x10_0000 + PAGE);
                assert_eq!((harvested, bits[0]), (Ok(u64::from(used)), u64::from(used) << 1));
            });
        },
        |writer, tree| {
            unmap(writer, tree, PAGE, PAGE);
            writer.map(Gpa::new(PAGE), Hpa::new(0x20_0000), PAGE, Plain, Leaves::Largest).unwrap();
        },
    );
    let mut left = pages(&[0]);
    left.insert((PAGE, 0x20_0000));
    assert_eq!(ends, [(left, 2)].into());
}

/// A range over several tables is one writer's alone: what another unmaps there goes before all
/// that is done to it, or after. (Under a lock on the table above alone it could go between.)
#[test]
fn case_a11_a_locked_range_excludes() {
    let all = [0, LARGE];
    let found = deep(
        move |w| all.iter().for_each(|&page| map(w, page, PAGE)),
        move |w, tree| {
            locked(w, tree, (0, 2 * LARGE), |range, gather| {
                // One after the other, each from the old page to the next one.
                for at in all {
                    range.unmap(Gpa::new(at), PAGE, gather).unwrap();
                    let (page, to) = (Gpa::new(at + PAGE), Hpa::new(0x10_0000 + at + PAGE));
                    range.map(page, to, PAGE, Plain, Leaves::Largest).unwrap();
                }
            });
        },
        |w, tree| unmap(w, tree, 0, 2 * LARGE),
    );
    assert_eq!(found, [(pages(&[]), 1), (pages(&[PAGE, LARGE + PAGE]), 4)].into());
}

/// A range whose tables are made while it is locked.
#[test]
fn case_a11_what_is_made_in_a_locked_range_is_locked() {
    let found = deep(
        |_| (),
        |w, tree| {
            locked(w, tree, (0, 2 * LARGE), |range, _| {
                for at in [0, LARGE] {
                    let to = Hpa::new(0x10_0000 + at);
                    range.map(Gpa::new(at), to, PAGE, Plain, Leaves::Largest).unwrap();
                }
            });
        },
        |w, tree| unmap(w, tree, 0, 2 * LARGE),
    );
    assert_eq!(found, [(pages(&[]), 1), (pages(&[0, LARGE]), 4)].into());
}
