//! Groups change as a whole, or become ordinary leaves first.

use pgtable::format::Format;
use pgtable::invalidate::{Gather, InvalidateFailed, Unused};
use pgtable::walk::LeafOf;
use pgtable::{Attributes, Error, Gpa, Gva, Leaves, Memory, Prot, RangeError, Stage1};
use pgtable_conformance::lpa::Lpa;

use super::{
    CONTIGUOUS, K4, K64, Listening, M2, N, NAPOT, Tree, leaves, listening, map, tree, words,
};
use crate::support::{Arena, Tables};

/// A change of a part first makes the group ordinary leaves, with nothing mapped while that is
/// invalidated; a change of the whole leaves it a group.
fn in_part<F: Format<Stage = Stage1>>(format: F, shift: u8, bit: u64) {
    let (page, entries) =
        (1u64 << format.geometry().page_shift(), 1u64 << (shift - format.geometry().page_shift()));
    let size = 1u64 << shift;
    let grouped = |words: &[u64]| words.iter().filter(|word| **word & bit != 0).count() as u64;
    type Change<F> =
        fn(&mut Tree<'_, F>, u64, u64, &mut Gather<'_, Stage1, Listening<'_, F>>) -> u64;
    let changes: [(&str, Change<F>, bool); 5] = [
        ("unmap", |tree, at, bytes, gather| tree.unmap(Gva::new(at), bytes, gather).unwrap(), true),
        (
            "unmap_with",
            |tree, at, bytes, gather| {
                let mut told = 0;
                let each = |leaf: LeafOf<F>| told += leaf.bytes;
                let done = tree.unmap_with(Gva::new(at), bytes, each, gather).unwrap();
                assert_eq!(told, done);
                done
            },
            true,
        ),
        (
            "protect",
            |tree, at, bytes, gather| tree.protect(Gva::new(at), bytes, Prot::R, gather).unwrap(),
            false,
        ),
        (
            "modify",
            |tree, at, bytes, gather| {
                let edit = |leaf: LeafOf<F>| leaf.attributes.with_memory(Memory::Device);
                tree.modify(Gva::new(at), bytes, edit, gather).unwrap()
            },
            false,
        ),
        (
            "set_attributes",
            |tree, at, bytes, gather| {
                tree.set_attributes(Gva::new(at), bytes, Prot::RX.into(), gather).unwrap()
            },
            false,
        ),
    ];
    for (name, change, unmaps) in changes {
        // The first page, the last, some in the middle, all but the first.
        for (first, pages) in [(0, 1), (entries - 1, 1), (3, 2), (1, entries - 1), (0, entries)] {
            let arena = Arena::new(4 << 20);
            let tables = Tables::new(&arena);
            let mut tree = tree(format, &arena, &tables);
            map(&mut tree, size, 8 * size, 2 * size, Leaves::Largest);
            assert_eq!(grouped(&words(&arena, &tree, size, 2 * entries)), 2 * entries);
            let (start, bytes) = (size + first * page, pages * page);
            let by = listening(&arena, &tree, size + (first + pages - 1) * page);
            let mut gather = Gather::new(&by, ());
            assert_eq!(
                change(&mut tree, start, bytes, &mut gather),
                bytes,
                "{name} {first} {pages}"
            );
            let case = format!("{name} of {pages} pages from {first} on");
            let whole = pages == entries;
            if !whole {
                let told = by.told.take();
                let out = (vec![(size, 2 * size - page, format.geometry().page_shift())], false);
                assert_eq!(told.first(), Some(&out), "{case}");
            }
            gather.finish(&&tables).unwrap();
            let after = words(&arena, &tree, size, 2 * entries);
            let left = if whole && !unmaps { 2 * entries } else { entries };
            assert_eq!(grouped(&after), left, "{case}");
            for n in 0..2 * entries {
                let at = Gva::new(size + n * page + 5);
                let found = tree.walker().query(at).unwrap();
                let changed = n >= first && n < first + pages;
                assert_eq!(found.is_none(), changed && unmaps, "{case}: page {n}");
                if let Some(found) = found {
                    assert_eq!(found.output.get(), 8 * size + n * page + 5, "{case}: page {n}");
                    let same = found.attributes == F::Attributes::from(Prot::RW);
                    assert_eq!(same, !changed, "{case}: page {n}");
                }
            }
            // The books are right: everything goes, and the tables with it.
            let mut gather = Gather::new(&Unused, ());
            let rest = if unmaps { 2 * size - bytes } else { 2 * size };
            assert_eq!(tree.unmap(Gva::new(0), 4 * size, &mut gather), Ok(rest), "{case}");
            gather.finish(&&tables).unwrap();
            assert_eq!(tables.live(), 1, "{case}");
        }
    }
}

#[test]
fn napot_in_part() {
    in_part(NAPOT, 16, N);
}

#[test]
fn contiguous_in_part() {
    in_part(Lpa::CONTIGUOUS, 21, CONTIGUOUS);
}

/// Rights may change in place, the memory type may not (Arm ARM D8.16): then the whole group is out
/// while it is invalidated.
#[test]
fn a_group_changes_as_a_whole() {
    let arena = Arena::new(4 << 20);
    let tables = Tables::new(&arena);
    let mut tree = tree(Lpa::CONTIGUOUS, &arena, &tables);
    map(&mut tree, 0, 4 * M2, 6 * M2, Leaves::Largest);
    let by = listening(&arena, &tree, 5 * M2);
    let mut gather = Gather::new(&by, ());
    assert_eq!(tree.protect(Gva::new(0), 6 * M2, Prot::R, &mut gather), Ok(6 * M2));
    assert_eq!(by.told.take(), []);
    gather.finish(&&tables).unwrap();
    assert_eq!(by.told.take(), [(vec![(0, 6 * M2 - K64, 16)], true)]);
    let edit = |leaf: LeafOf<Lpa>| {
        assert_eq!(leaf.bytes, M2, "asked once for each group");
        leaf.attributes.with_memory(Memory::Device)
    };
    assert_eq!(tree.modify(Gva::new(0), 6 * M2, edit, &mut gather), Ok(6 * M2));
    gather.finish(&&tables).unwrap();
    // Four groups at a time, the last two with the address that is looked at.
    let told = [(vec![(0, 4 * M2 - K64, 16)], true), (vec![(4 * M2, 6 * M2 - K64, 16)], false)];
    assert_eq!(by.told.take(), told);
    assert_eq!(leaves(&tree, 0, 6 * M2).len(), 6);
    assert!(words(&arena, &tree, 0, 192).iter().all(|word| word & CONTIGUOUS != 0));
}

/// If the invalidation fails, everything is as it was.
#[test]
fn a_group_that_cannot_be_invalidated_stays() {
    let arena = Arena::new(1 << 20);
    let tables = Tables::new(&arena);
    let mut tree = tree(NAPOT, &arena, &tables);
    map(&mut tree, 0, 0, K64, Leaves::Largest);
    let before = words(&arena, &tree, 0, 16);
    let by = Listening { fails: true, ..listening(&arena, &tree, 0) };
    let mut gather = Gather::new(&by, ());
    let refused = RangeError { at: Gva::new(K4), error: Error::Invalidate(InvalidateFailed) };
    assert_eq!(tree.unmap(Gva::new(K4), K4, &mut gather), Err(refused));
    assert_eq!(words(&arena, &tree, 0, 16), before);
    drop(gather);
    // Promotion too.
    map(&mut tree, M2, 0, K64, Leaves::Exactly(12));
    let mut gather = Gather::new(&by, ());
    assert!(tree.promote(Gva::new(M2), K64, &mut gather).is_err());
    assert_eq!(leaves(&tree, M2, M2).len(), 16);
}

/// Blocks above the last level: one page goes out of a group of them.
#[test]
fn a_group_of_blocks_is_broken() {
    let arena = Arena::new(8 << 20);
    let tables = Tables::new(&arena);
    let mut tree = tree(Lpa::CONTIGUOUS, &arena, &tables);
    let (at, to, block) = (1u64 << 40, 1u64 << 44, 1u64 << 29);
    map(&mut tree, at, to, 1 << 34, Leaves::Largest);
    let mut gather = Gather::new(&Unused, ());
    let hole = at + 5 * block + 7 * K64;
    assert_eq!(tree.unmap(Gva::new(hole), K64, &mut gather), Ok(K64));
    for (input, mapped) in [(at, true), (hole - 1, true), (hole, false), (hole + K64, true)] {
        let found = tree.walker().query(Gva::new(input)).unwrap();
        assert_eq!(found.map(|it| it.output.get()), mapped.then(|| input - at + to), "{input:#x}");
    }
    // The other 31 are blocks by themselves, and groups again where that is asked for.
    assert_eq!(
        tree.map(Gva::new(hole), Gpa::new(hole - at + to), K64, Prot::RW.into(), Leaves::Largest),
        Ok(())
    );
    assert_eq!(tree.promote(Gva::new(at), 1 << 34, &mut gather), Ok(2));
    assert_eq!(leaves(&tree, at, 1 << 34), [(at, to, 34)]);
    assert_eq!(tree.unmap(Gva::new(at), 1 << 34, &mut gather), Ok(1 << 34));
    gather.finish(&&tables).unwrap();
    assert_eq!(tables.live(), 1);
}

/// A whole block of a group of them goes, or changes: the others stay what they were.
#[test]
fn one_block_of_a_group() {
    let (at, block) = (1u64 << 40, 1u64 << 29);
    for unmaps in [true, false] {
        let arena = Arena::new(4 << 20);
        let tables = Tables::new(&arena);
        let mut tree = tree(Lpa::CONTIGUOUS, &arena, &tables);
        map(&mut tree, at, at, 1 << 34, Leaves::Largest);
        let mut gather = Gather::new(&Unused, ());
        let (start, bytes) = (Gva::new(at + 3 * block), 2 * block);
        let done = if unmaps {
            tree.unmap(start, bytes, &mut gather)
        } else {
            tree.protect(start, bytes, Prot::R, &mut gather)
        };
        assert_eq!(done, Ok(bytes));
        gather.finish(&&tables).unwrap();
        let shifts: Vec<_> = leaves(&tree, at, 1 << 34).iter().map(|leaf| leaf.2).collect();
        assert_eq!(shifts, vec![29; if unmaps { 30 } else { 32 }]);
        let words = words(&arena, &tree, at, 32);
        assert!(words.iter().all(|word| word & CONTIGUOUS == 0), "{words:x?}");
    }
}

/// A cursor takes one page out of a group, beside pages that it has mapped itself.
#[test]
fn a_cursor_breaks_groups() {
    let arena = Arena::new(1 << 20);
    let tables = Tables::new(&arena);
    let mut tree = tree(NAPOT, &arena, &tables);
    map(&mut tree, 0, 0, K64, Leaves::Largest);
    let mut gather = Gather::new(&Unused, ());
    let mut cursor = tree.cursor(&mut gather);
    cursor.map(Gva::new(K64), Gpa::new(K64), Prot::RW.into()).unwrap();
    assert_eq!(cursor.query(Gva::new(5 * K4 + 1)).unwrap().unwrap().output.get(), 5 * K4 + 1);
    assert_eq!(cursor.unmap(Gva::new(3 * K4)), Ok(true));
    assert_eq!(cursor.unmap(Gva::new(3 * K4)), Ok(false));
    assert_eq!(cursor.query(Gva::new(3 * K4)), Ok(None));
    assert_eq!(cursor.query(Gva::new(5 * K4 + 1)).unwrap().unwrap().shift, 12);
    cursor.finish().unwrap();
    assert_eq!(leaves(&tree, 0, M2).len(), 16);
    assert_eq!(tree.unmap(Gva::new(0), M2, &mut gather), Ok(16 * K4));
    gather.finish(&&tables).unwrap();
    assert_eq!(tables.live(), 1);
}
