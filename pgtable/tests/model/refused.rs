//! What is refused, and by what name: each error is the caller's to act on, and nothing has
//! changed.

use std::cell::Cell;
use std::sync::atomic::Ordering;

use pgtable::invalidate::{Gather, Unused};
use pgtable::memory::TableMemory;
use pgtable::tree::{PageTable, Writers};
use pgtable::{Attributes, Error, Gpa, Gva, Hpa, Leaves, Prot, RangeError};
use pgtable_ppc64::radix::{Granule, ProcessScoped};
use pgtable_x86::{Controls, Ept, EptControls, Levels, LongMode};

use crate::gather::Failing;
use crate::support::{Arena, Tables, ranges};

const LARGE: u64 = 2 << 20;
const PAGE: u64 = 0x1000;

/// EPT knows no page that may be written and not read (SDM §29.3.3.1).
const WRITE_ONLY: Prot = Prot::new().with_write(true);

#[test]
fn nothing_changes_and_the_error_says_why() {
    let arena = Arena::new(1 << 20);
    let tables = Tables::new(&arena);
    let format = Ept::new(Levels::Four, EptControls::new());
    let mut tree = PageTable::new(format, arena.memory::<Hpa>(), &tables).unwrap();
    tree.map(Gpa::new(LARGE), Hpa::new(LARGE), LARGE, Prot::RW.into(), Leaves::Largest).unwrap();
    tree.map(Gpa::new(3 * LARGE), Hpa::new(0x5000), PAGE, Prot::RW.into(), Leaves::Largest)
        .unwrap();
    tree.map(
        Gpa::new(3 * LARGE + 7 * PAGE),
        Hpa::new(0x9000),
        PAGE,
        Prot::RW.into(),
        Leaves::Largest,
    )
    .unwrap();
    let before: Vec<_> =
        tree.walker().iter(Gpa::new(0), 1 << 40).unwrap().map(Result::unwrap).collect();
    assert_eq!(before.len(), 3);

    // Protecting, from a hole, from a large leaf and from a page on.
    for start in [0, LARGE, 3 * LARGE, 3 * LARGE + 7 * PAGE] {
        let mut gather = Gather::new(&Unused, ());
        let refused =
            tree.protect(Gpa::new(start), 4 * LARGE - start, WRITE_ONLY, &mut gather).unwrap_err();
        let first = before.iter().find(|leaf| leaf.input.get() + leaf.bytes > start).unwrap().input;
        assert!(matches!(refused.error, Error::Unencodable { .. }), "{refused}");
        assert!(refused.at >= Gpa::new(start) && refused.at <= first, "{refused}");
        gather.finish(&&tables).unwrap();
    }
    let at = Gpa::new(5 * LARGE);
    let mapped = tree.map(at, Hpa::new(0), PAGE, WRITE_ONLY.into(), Leaves::Largest);
    assert!(
        matches!(mapped, Err(RangeError { at: there, error: Error::Unencodable { .. } }) if there == at)
    );

    // By cursor, page by page.
    let mut gather = Gather::new(&Unused, ());
    let mut cursor = tree.cursor(&mut gather);
    let rw = || Prot::RW.into();
    let mut map = |input: u64, output: u64, attributes| {
        cursor.map(Gpa::new(input), Hpa::new(output), attributes)
    };
    // Twice: in another table than the cursor stands at, and in the one that it stands at.
    for _ in 0..2 {
        assert!(matches!(map(LARGE + PAGE, 0, rw()), Err(Error::Mapped { at }) if at.level.0 == 1));
        assert!(matches!(map(3 * LARGE, 0, rw()), Err(Error::Mapped { at }) if at.level.0 == 0));
        assert_eq!(map(3 * LARGE + PAGE + 8, 0, rw()), Err(Error::LeafSize));
        assert!(matches!(map(3 * LARGE + PAGE, 0x123, rw()), Err(Error::Unencodable { .. })));
        assert!(matches!(
            map(3 * LARGE + PAGE, 0, WRITE_ONLY.into()),
            Err(Error::Unencodable { .. })
        ));
        assert_eq!(map(1 << 60, 0, rw()), Err(Error::Range));
    }
    for (input, found) in [
        (LARGE + 0x1_2345, Some(LARGE + 0x1_2345)),
        (3 * LARGE + 8, Some(0x5008)),
        (3 * LARGE + PAGE, None),
        (3 * LARGE + 7 * PAGE + 0xfff, Some(0x9fff)),
        (0, None),
        (LARGE, Some(LARGE)),
    ] {
        let seen = cursor.query(Gpa::new(input)).unwrap();
        assert_eq!(seen.map(|it| it.output.get()), found, "{input:#x}");
    }
    assert_eq!(cursor.query(Gpa::new(1 << 60)), Err(Error::Range));
    // The page of a table, one of a larger leaf, and none.
    for (input, was) in [
        (3 * LARGE, true),
        (3 * LARGE, false),
        (LARGE + 3 * PAGE, true),
        (LARGE + 3 * PAGE, false),
        (0, false),
    ] {
        assert_eq!(cursor.unmap(Gpa::new(input)), Ok(was), "{input:#x}");
    }
    cursor.finish().unwrap();
    gather.finish(&&tables).unwrap();
    let left: u64 =
        tree.walker().iter(Gpa::new(0), 1 << 40).unwrap().map(|leaf| leaf.unwrap().bytes).sum();
    assert_eq!(left, LARGE - PAGE + PAGE);
    tree.destroy(Gather::new(&Unused, ())).map_err(|(_, error)| error).unwrap();
    assert_eq!(tables.live(), 0);
}

/// An entry that means nothing stops a verb there: what stands before it is done, and nothing after
/// it.
#[test]
fn as_far_as_a_malformed_entry() {
    for (writers, broken) in [(Writers::Running, 11), (Writers::Stopped, 11), (Writers::Stopped, 3)]
    {
        let arena = Arena::new(1 << 20);
        let tables = Tables::new(&arena);
        let memory = arena.memory::<Hpa>();
        let mut tree =
            PageTable::new(Ept::new(Levels::Four, EptControls::new()), memory, &tables).unwrap();
        let at = |page: u64| Gpa::new(LARGE + page * PAGE);
        tree.map(at(0), Hpa::new(0), 24 * PAGE, Prot::RW.into(), Leaves::Exactly(12)).unwrap();
        let entry = tree.walker().trace(at(broken)).last().unwrap().address;
        let word = memory.word(entry).unwrap();
        // Written and not read.
        let was = word.swap(2, Ordering::Relaxed);
        let mut gather = Gather::new(&Unused, ());
        let refused =
            tree.protect_beside(at(0), 24 * PAGE, Prot::R, writers, &mut gather).unwrap_err();
        assert_eq!(refused.at, at(broken));
        let Error::Malformed { entry: there, word: 2, at: position } = refused.error else {
            panic!("{refused}")
        };
        assert_eq!((there, position.level.0, position.shift), (entry.get(), 0, 12));
        assert_eq!(
            ranges(gather.stale()),
            [(at(0).get(), at(broken - 1).get(), 12)],
            "{writers:?}"
        );
        // Nor is it what is mapped there already, nor anything to map over: alone, as the first of
        // several, as a table's entry.
        let above = tree.walker().trace(at(0))[2].address;
        let mut map = |page: u64, pages: u64| {
            let mapped =
                tree.map(at(page), Hpa::new(0), pages * PAGE, Prot::RW.into(), Leaves::Exactly(12));
            mapped.map_err(|it| (it.at, it.error))
        };
        for pages in [1, 4] {
            let refused = map(broken, pages).unwrap_err();
            assert!(
                matches!(refused, (_, Error::Malformed { entry: there, .. }) if there == entry.get()),
                "{refused:?}"
            );
            assert_eq!(refused.0, at(broken));
        }
        let table = memory.word(above).unwrap();
        let linked = table.swap(2, Ordering::Relaxed);
        for page in [0, 100] {
            let refused = map(page, 1).unwrap_err();
            assert!(
                matches!(refused, (_, Error::Malformed { entry: there, .. }) if there == above.get()),
                "{refused:?}"
            );
        }
        table.store(linked, Ordering::Relaxed);
        word.store(was, Ordering::Relaxed);
        for leaf in tree.walker().iter(at(0), 24 * PAGE).unwrap().map(Result::unwrap) {
            assert_eq!(leaf.attributes.prot().write(), leaf.input >= at(broken), "{}", leaf.input);
        }
        gather.finish(&tables).unwrap();
        tree.destroy(Gather::new(&Unused, ())).map_err(|(_, error)| error).unwrap();
    }
}

/// Ranges that are none of the space, and outputs that no entry can hold.
#[test]
fn where_a_range_cannot_be() {
    let arena = Arena::new(1 << 20);
    let tables = Tables::new(&arena);
    let memory = arena.memory::<Gpa>();
    let mut tree =
        PageTable::new(LongMode::new(Levels::Four, Controls::new()), memory, &tables).unwrap();
    let outside = |at: u64| RangeError { at: Gva::new(at), error: Error::Range };
    let mut gather = Gather::new(&Unused, ());
    let low_end = 1 << 47;
    let high_start = u64::MAX << 47;
    // Not canonical; across the hole; beyond the last address; no multiples of the smallest page.
    for (at, bytes) in [
        (low_end, PAGE),
        (low_end - PAGE, 2 * PAGE),
        (low_end - PAGE, high_start - low_end + 2 * PAGE),
        (high_start - PAGE, 2 * PAGE),
        (u64::MAX - PAGE + 1, 2 * PAGE),
        (0x800, PAGE),
        (PAGE, 0x800),
        (PAGE + 1, PAGE - 1),
        (1, low_end - 1),
    ] {
        let error = match (at | bytes) % PAGE {
            0 => Error::Range,
            _ => Error::Unaligned { shift: 12 },
        };
        let refused = Err(RangeError { at: Gva::new(at), error });
        assert_eq!(tree.unmap(Gva::new(at), bytes, &mut gather), refused, "{at:#x}, {bytes:#x}");
        assert_eq!(tree.protect(Gva::new(at), bytes, Prot::R, &mut gather), refused);
    }
    assert_eq!(
        tree.walker().iter(Gva::new(low_end - PAGE), 2 * PAGE).map(|_| ()),
        Err(outside(low_end - PAGE))
    );
    for (at, bytes) in
        [(0, low_end), (high_start, low_end), (low_end - PAGE, PAGE), (u64::MAX - PAGE + 1, PAGE)]
    {
        assert_eq!(tree.unmap(Gva::new(at), bytes, &mut gather), Ok(0), "{at:#x}, {bytes:#x}");
    }

    // The last page of a run decides (SDM §5.5.4: 52 bits at most).
    let end = 1 << 52;
    let mut map = |at: u64, output: u64, pages: u64| {
        let leaves = Leaves::Exactly(12);
        let mapped =
            tree.map(Gva::new(at), Gpa::new(output), pages * PAGE, Prot::RW.into(), leaves);
        mapped.map_err(|it| (it.at.get(), it.error))
    };
    for (output, pages) in [(end - 3 * PAGE, 4), (end, 1), (end - PAGE, 512)] {
        let refused = map(LARGE, output, pages).unwrap_err();
        assert!(matches!(refused, (LARGE, Error::Unencodable { .. })), "{refused:?}");
    }
    assert!(matches!(map(LARGE, u64::MAX - PAGE + 1, 2), Err((LARGE, Error::Unencodable { .. }))));
    assert_eq!(map(LARGE, end - 3 * PAGE, 3), Ok(()));
    assert!(matches!(map(LARGE + 3 * PAGE, end - PAGE, 2), Err((_, Error::Unencodable { .. }))));
    // In a table that is there, too.
    for output in [end, 0x800, 1 << 63] {
        let refused = map(LARGE + 5 * PAGE, output, 1);
        assert!(
            matches!(refused, Err((_, Error::Unencodable { .. } | Error::LeafSize))),
            "{output:#x}: {refused:?}"
        );
    }

    assert_eq!(tree.unmap(Gva::new(LARGE), LARGE, &mut gather), Ok(3 * PAGE));
    gather.finish(&tables).unwrap();
    tree.destroy(Gather::new(&Unused, ())).map_err(|(_, error)| error).unwrap();
}

/// Tables to which an entry leads that is not as we make them (it allows less than it could) are
/// tables all the same, on whatever level one stops.
#[test]
fn below_an_entry_that_restricts() {
    let arena = Arena::new(1 << 20);
    let tables = Tables::new(&arena);
    let memory = arena.memory::<Hpa>();
    let mut tree =
        PageTable::new(Ept::new(Levels::Four, EptControls::new()), memory, &tables).unwrap();
    tree.map(Gpa::new(0), Hpa::new(0), PAGE, Prot::RW.into(), Leaves::Exactly(12)).unwrap();
    for level in 1..4 {
        let above = tree.walker().trace(Gpa::new(0))[3 - level].address;
        // Read and write, no execute (SDM §29.3.2).
        memory.word(above).unwrap().fetch_and(!4, Ordering::Relaxed);
        let mut map = |at: u64, shift: u8| {
            let mapped = tree.map(
                Gpa::new(at),
                Hpa::new(at),
                1 << shift,
                Prot::RW.into(),
                Leaves::Exactly(shift),
            );
            mapped.map_err(|it| it.error)
        };
        assert!(matches!(map(0, 21), Err(Error::Mapped { at }) if at.level.0 == 1));
        assert!(matches!(map(0, 30), Err(Error::Mapped { at }) if at.level.0 == 2));
        assert!(matches!(map(0, 12), Err(Error::Mapped { at }) if at.level.0 == 0));
        assert_eq!(
            (map(level as u64 * LARGE, 21), map((level as u64) << 30, 30)),
            (Ok(()), Ok(()))
        );
        let mut gather = Gather::new(&Unused, ());
        assert_eq!(tree.promote(Gpa::new(0), 1 << 39, &mut gather), Ok(0));
        gather.finish(&tables).unwrap();
    }
    let mut gather = Gather::new(&Unused, ());
    assert_eq!(tree.unmap(Gpa::new(0), 1 << 39, &mut gather), Ok(PAGE + 3 * LARGE + (3 << 30)));
    gather.finish(&tables).unwrap();
    tree.destroy(Gather::new(&Unused, ())).map_err(|(_, error)| error).unwrap();
}

/// Pages of the size that is asked for and no other, at multiples of it; and as far as there is
/// room for them.
#[test]
fn sizes_and_places() {
    let arena = Arena::new(1 << 20);
    let tables = Tables::new(&arena);
    let mut tree =
        PageTable::new(ProcessScoped::new(Granule::K64), arena.memory::<Gpa>(), &tables).unwrap();
    let (page, large) = (0x1_0000, LARGE);
    let mut map = |at: u64, bytes: u64, leaves: Leaves| {
        let mapped = tree.map(Gva::new(at), Gpa::new(at), bytes, Prot::RW.into(), leaves);
        mapped.map_err(|it| (it.at.get(), it.error))
    };
    assert_eq!(map(0, page, Leaves::Exactly(16)), Ok(()));
    // A table of pages of 64 KiB is there now: in it ...
    assert_eq!(map(page, page, Leaves::Exactly(21)), Err((page, Error::LeafSize)));
    assert_eq!(map(page, page, Leaves::AtMost(15)), Err((page, Error::LeafSize)));
    assert_eq!(map(page, page, Leaves::AtMost(11)), Err((page, Error::LeafSize)));
    assert_eq!(
        map(page + 0x1000, page, Leaves::Exactly(16)),
        Err((page + 0x1000, Error::LeafSize))
    );
    assert_eq!(map(page + 0x1000, page, Leaves::Largest), Err((page + 0x1000, Error::LeafSize)));
    assert_eq!(map(page, page, Leaves::AtMost(16)), Ok(()));
    // ... as here are small ones.
    assert_eq!(map(large, 0x1000, Leaves::Exactly(12)), Ok(()));
    assert_eq!(map(large + page, page, Leaves::Exactly(16)), Err((large + page, Error::LeafSize)));
    // A large page where a table is: pages of that table, until one is taken.
    assert_eq!(map(2 * large + 5 * page, page, Leaves::Largest), Ok(()));
    let taken = map(2 * large, large, Leaves::Largest);
    assert!(
        matches!(taken, Err((at, Error::Mapped { at: entry })) if at == 2 * large + 5 * page && entry.shift == 16),
        "{taken:?}"
    );
    let taken = map(2 * large, large, Leaves::Exactly(21));
    assert!(
        matches!(taken, Err((at, Error::Mapped { at: entry })) if at == 2 * large && entry.shift == 21),
        "{taken:?}"
    );
    let mut gather = Gather::new(&Unused, ());
    assert_eq!(tree.unmap(Gva::new(0), 4 * large, &mut gather), Ok(2 * page + 0x1000 + 6 * page));
    gather.finish(&tables).unwrap();
    tree.destroy(Gather::new(&Unused, ())).map_err(|(_, error)| error).unwrap();
}

/// As many tables as a gather holds before it has to invalidate.
const MAX_TABLES: u64 = 64;

/// A cursor's books are settled when it is finished, which may fail, and when it is dropped.
#[test]
fn a_cursor_ends() {
    let arena = Arena::new(1 << 20);
    let tables = Tables::new(&arena);
    let mut tree =
        PageTable::new(Ept::new(Levels::Four, EptControls::new()), arena.memory(), &tables)
            .unwrap();
    let by = Failing { failures: Cell::new(usize::MAX), ..Failing::default() };
    let mut gather = Gather::new(&by, ());
    let at = |n: u64| Gpa::new(n * LARGE);
    let mut cursor = tree.cursor(&mut gather);
    // As many tables as a gather holds, one more, and one that stays.
    for n in 0..=MAX_TABLES + 1 {
        cursor.map(at(n), Hpa::new(0), Prot::RW.into()).unwrap();
    }
    drop(cursor);
    let full = tables.live();
    assert_eq!(full as u64, MAX_TABLES + 2 + 3);
    let mut cursor = tree.cursor(&mut gather);
    for n in 0..=MAX_TABLES {
        assert_eq!(cursor.unmap(at(n)), Ok(true));
    }
    assert!(matches!(cursor.finish(), Err(Error::Invalidate(_))));
    assert_eq!(tables.live(), full, "nothing is freed before its invalidation");
    by.failures.set(0);
    gather.finish(&&tables).unwrap();
    // The one beyond what the gather holds had to stay, and goes when its place is looked at again.
    assert_eq!(tables.live(), 1 + 3 + 1);
    let mut gather = Gather::new(&by, ());
    assert_eq!(tree.unmap(at(MAX_TABLES), PAGE, &mut gather), Ok(0));
    gather.finish(&&tables).unwrap();
    assert_eq!(tables.live(), 1 + 3);
    // The same by ranges: what comes after the tables that the gather holds is as it was.
    for n in 0..=MAX_TABLES {
        tree.map(at(n), Hpa::new(0), PAGE, Prot::RW.into(), Leaves::Exactly(12)).unwrap();
    }
    by.failures.set(usize::MAX);
    let mut gather = Gather::new(&by, ());
    let refused = tree.unmap(Gpa::new(0), (MAX_TABLES + 1) * LARGE, &mut gather).unwrap_err();
    assert!(
        refused.at == at(MAX_TABLES) && matches!(refused.error, Error::Invalidate(_)),
        "{refused}"
    );
    by.failures.set(0);
    gather.finish(&&tables).unwrap();
    let left: Vec<_> =
        tree.walker().iter(Gpa::new(0), 1 << 30).unwrap().map(|leaf| leaf.unwrap().input).collect();
    assert_eq!((left, tables.live()), (vec![at(MAX_TABLES), at(MAX_TABLES + 1)], 3 + 2));
    let mut gather = Gather::new(&by, ());
    assert_eq!(tree.unmap(Gpa::new(0), 1 << 30, &mut gather), Ok(2 * PAGE));
    gather.finish(&&tables).unwrap();
    assert_eq!(tables.live(), 1);
    assert_eq!(by.lost.get(), 0);
    tree.destroy(Gather::new(&by, ())).map_err(|(_, error)| error).unwrap();
}
