//! What is refused, and by what name: each error is the caller's to act on, and nothing has changed.

use std::sync::atomic::Ordering;

use arch_x86::{Controls, Ept, EptControls, Levels, LongMode};
use pgtable::{
    Attributes, Error, Gather, Gpa, Gva, Hpa, Leaves, PageTable, Prot, RangeError, TableMemory, Unused, Writers,
};

use crate::support::{Arena, Tables};

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
    tree.map(Gpa::new(3 * LARGE), Hpa::new(0x5000), PAGE, Prot::RW.into(), Leaves::Largest).unwrap();
    tree.map(Gpa::new(3 * LARGE + 7 * PAGE), Hpa::new(0x9000), PAGE, Prot::RW.into(), Leaves::Largest).unwrap();
    let before: Vec<_> = tree.walker().iter(Gpa::new(0), 1 << 40).unwrap().map(Result::unwrap).collect();
    assert_eq!(before.len(), 3);

    // Protecting, from a hole, from a large leaf and from a page on.
    for start in [0, LARGE, 3 * LARGE, 3 * LARGE + 7 * PAGE] {
        let mut gather = Gather::new(&Unused, ());
        let refused = tree.protect(Gpa::new(start), 4 * LARGE - start, WRITE_ONLY.into(), &mut gather).unwrap_err();
        let first = before.iter().find(|leaf| leaf.input.get() + leaf.bytes > start).unwrap().input;
        assert!(matches!(refused.error, Error::Unencodable { .. }), "{refused}");
        assert!(refused.at >= Gpa::new(start) && refused.at <= first, "{refused}");
        gather.finish(&&tables).unwrap();
    }
    let at = Gpa::new(5 * LARGE);
    let mapped = tree.map(at, Hpa::new(0), PAGE, WRITE_ONLY.into(), Leaves::Largest);
    assert!(matches!(mapped, Err(RangeError { at: there, error: Error::Unencodable { .. } }) if there == at));

    // By cursor, page by page.
    let mut gather = Gather::new(&Unused, ());
    let mut cursor = tree.cursor(&mut gather);
    let rw = || Prot::RW.into();
    let mut map = |input: u64, output: u64, attributes| cursor.map(Gpa::new(input), Hpa::new(output), attributes);
    // Twice: in another table than the cursor stands at, and in the one that it stands at.
    for _ in 0..2 {
        assert!(matches!(map(LARGE + PAGE, 0, rw()), Err(Error::Mapped { at }) if at.level.0 == 1));
        assert!(matches!(map(3 * LARGE, 0, rw()), Err(Error::Mapped { at }) if at.level.0 == 0));
        assert_eq!(map(3 * LARGE + PAGE + 8, 0, rw()), Err(Error::LeafSize));
        assert!(matches!(map(3 * LARGE + PAGE, 0x123, rw()), Err(Error::Unencodable { .. })));
        assert!(matches!(map(3 * LARGE + PAGE, 0, WRITE_ONLY.into()), Err(Error::Unencodable { .. })));
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
    for (input, was) in
        [(3 * LARGE, true), (3 * LARGE, false), (LARGE + 3 * PAGE, true), (LARGE + 3 * PAGE, false), (0, false)]
    {
        assert_eq!(cursor.unmap(Gpa::new(input)), Ok(was), "{input:#x}");
    }
    cursor.finish().unwrap();
    gather.finish(&&tables).unwrap();
    let left: u64 = tree.walker().iter(Gpa::new(0), 1 << 40).unwrap().map(|leaf| leaf.unwrap().bytes).sum();
    assert_eq!(left, LARGE - PAGE + PAGE);
    tree.destroy(Gather::new(&Unused, ())).map_err(|(_, error)| error).unwrap();
    assert_eq!(tables.live(), 0);
}

/// An entry that means nothing stops a verb there: what stands before it is done, and nothing after it.
#[test]
fn as_far_as_a_malformed_entry() {
    for (writers, broken) in [(Writers::Running, 11), (Writers::Stopped, 11), (Writers::Stopped, 3)] {
        let arena = Arena::new(1 << 20);
        let tables = Tables::new(&arena);
        let memory = arena.memory::<Hpa>();
        let mut tree = PageTable::new(Ept::new(Levels::Four, EptControls::new()), memory, &tables).unwrap();
        let at = |page: u64| Gpa::new(LARGE + page * PAGE);
        tree.map(at(0), Hpa::new(0), 24 * PAGE, Prot::RW.into(), Leaves::Exactly(12)).unwrap();
        let entry = tree.walker().trace(at(broken)).last().unwrap().address;
        let word = memory.word(entry).unwrap();
        // Written and not read.
        let was = word.swap(2, Ordering::Relaxed);
        let mut gather = Gather::new(&Unused, ());
        let refused = tree.protect_beside(at(0), 24 * PAGE, Prot::R.into(), writers, &mut gather).unwrap_err();
        assert_eq!(refused.at, at(broken));
        let Error::Malformed { entry: there, word: 2, at: position } = refused.error else { panic!("{refused}") };
        assert_eq!((there, position.level.0, position.shift), (entry.get(), 0, 12));
        let stale: Vec<_> = gather.stale().ranges().iter().map(|it| (it.start, it.last)).collect();
        assert_eq!(stale, [(at(0), at(broken - 1))], "{writers:?}");
        // Nor is it what is mapped there already, nor anything to map over: alone, as the first of several, as a table's entry.
        let above = tree.walker().trace(at(0))[2].address;
        let mut map = |page: u64, pages: u64| {
            let mapped = tree.map(at(page), Hpa::new(0), pages * PAGE, Prot::RW.into(), Leaves::Exactly(12));
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
    let mut tree = PageTable::new(LongMode::new(Levels::Four, Controls::new()), memory, &tables).unwrap();
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
    ] {
        assert_eq!(tree.unmap(Gva::new(at), bytes, &mut gather), Err(outside(at)), "{at:#x}, {bytes:#x}");
        assert_eq!(tree.protect(Gva::new(at), bytes, Prot::R.into(), &mut gather), Err(outside(at)));
    }
    assert_eq!(tree.walker().iter(Gva::new(low_end - PAGE), 2 * PAGE).map(|_| ()), Err(outside(low_end - PAGE)));
    for (at, bytes) in [(0, low_end), (high_start, low_end), (low_end - PAGE, PAGE), (u64::MAX - PAGE + 1, PAGE)] {
        assert_eq!(tree.unmap(Gva::new(at), bytes, &mut gather), Ok(0), "{at:#x}, {bytes:#x}");
    }

    // The last page of a run decides (SDM §5.5.4: 52 bits at most), and so does one that wraps round.
    let end = 1 << 52;
    let mut map = |at: u64, output: u64, pages: u64| {
        let leaves = Leaves::Exactly(12);
        let mapped = tree.map(Gva::new(at), Gpa::new(output), pages * PAGE, Prot::RW.into(), leaves);
        mapped.map_err(|it| (it.at.get(), it.error))
    };
    for (output, pages) in [(end - 3 * PAGE, 4), (end, 1), (end - PAGE, 512)] {
        let refused = map(LARGE, output, pages).unwrap_err();
        assert!(matches!(refused, (LARGE, Error::Unencodable { .. })), "{refused:?}");
    }
    assert_eq!(map(LARGE, u64::MAX - PAGE + 1, 2), Err((LARGE, Error::Range)));
    assert_eq!(map(LARGE, end - 3 * PAGE, 3), Ok(()));
    assert!(matches!(map(LARGE + 3 * PAGE, end - PAGE, 2), Err((_, Error::Unencodable { .. }))));

    assert_eq!(tree.unmap(Gva::new(LARGE), LARGE, &mut gather), Ok(3 * PAGE));
    gather.finish(&tables).unwrap();
    tree.destroy(Gather::new(&Unused, ())).map_err(|(_, error)| error).unwrap();
}
