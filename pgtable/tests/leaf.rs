//! One leaf per call, of each size: what stands in its place decides, and no other entry changes.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

#[path = "support/guest.rs"]
mod guest;

use pgtable::format::Entry;
use pgtable::invalidate::{Gather, Unused};
use pgtable::{Access, Error, Gpa, Gva, Leaves, Prot};

use guest::{LARGE, PAGE, Tables, Tree, books, store, tree, with};

const GIB: u64 = 1 << 30;
/// Where the leaf is mapped. The one beside it keeps its table in the tree.
const AT: u64 = 1 << 39;

/// What is there before.
#[derive(Clone, Copy, Debug)]
enum Before {
    Nothing,
    Leaf,
    Annotation,
    /// A page at the end of the range, in a table of its own.
    Table,
}

fn map(tree: &mut Tree<'_, '_>, at: u64, bytes: u64, leaves: Leaves) -> Result<(), Error> {
    let (input, output) = (Gva::new(at), Gpa::new(at));
    tree.map(input, output, bytes, Prot::RW.into(), leaves).map_err(|it| {
        assert_eq!(it.at, input);
        it.error
    })
}

/// Unmaps one leaf, and looks at what its gather says is stale.
fn unmap(tree: &mut Tree<'_, '_>, tables: &Tables<'_, '_>, at: u64, bytes: u64, left: bool) {
    let mut gather = Gather::new(&Unused, ());
    assert_eq!(tree.unmap(Gva::new(at), bytes, &mut gather), Ok(bytes));
    let [range] = gather.stale().ranges() else { panic!("{:?}", gather.stale()) };
    assert_eq!((range.start, range.last), (Gva::new(at), Gva::new(at)));
    assert_eq!((1 << range.shift, gather.stale().tables()), (bytes, left));
    gather.finish(tables).unwrap();
}

#[test]
fn what_stands_there_decides() {
    for bytes in [PAGE, LARGE, GIB] {
        let shift = bytes.trailing_zeros() as u8;
        for leaves in [Leaves::Largest, Leaves::AtMost(shift), Leaves::Exactly(shift)] {
            for before in [Before::Nothing, Before::Leaf, Before::Annotation, Before::Table] {
                if bytes > PAGE || !matches!(before, Before::Table) {
                    one(bytes, leaves, before);
                }
            }
        }
    }
}

fn one(bytes: u64, leaves: Leaves, before: Before) {
    let case = format!("{bytes:#x} {leaves:?} {before:?}");
    with(|memory, frames, tables| {
        let mut tree = tree(memory, tables, &[]);
        map(&mut tree, AT + bytes, bytes, leaves).unwrap();
        let mut gather = Gather::new(&Unused, ());
        match before {
            Before::Nothing => {}
            Before::Leaf => map(&mut tree, AT, bytes, leaves).unwrap(),
            Before::Annotation => tree.annotate(Gva::new(AT), bytes, 5, &mut gather).unwrap(),
            Before::Table => map(&mut tree, AT, PAGE, Leaves::Largest).unwrap(),
        }
        gather.finish(tables).unwrap();
        let live = frames.census().live;
        let mapped = map(&mut tree, AT, bytes, leaves);
        match before {
            Before::Nothing => assert_eq!(mapped, Ok(()), "{case}"),
            Before::Annotation => {
                assert!(matches!(mapped, Err(Error::Annotated { value: 5, .. })), "{case}");
                return;
            }
            Before::Leaf | Before::Table => {
                assert!(matches!(mapped, Err(Error::Mapped { .. })), "{case}: {mapped:?}");
            }
        }
        assert_eq!(frames.census().live, live, "{case}");
        let found = tree.translate(Gva::new(AT), Access::WRITE).unwrap();
        let first = if matches!(before, Before::Table) { PAGE } else { bytes };
        assert_eq!((found.output, 1 << found.shift), (Gpa::new(AT), first), "{case}");
        // Not by an address within it, and not a part of it.
        for (at, bytes) in [(AT + 1, bytes), (AT, bytes + 1)] {
            let mut gather = Gather::new(&Unused, ());
            assert!(tree.unmap(Gva::new(at), bytes, &mut gather).is_err(), "{case}");
            assert!(gather.stale().is_empty(), "{case}");
        }
        let table_left = matches!(before, Before::Table);
        unmap(&mut tree, tables, AT, first, table_left);
        assert!(tree.translate(Gva::new(AT), Access::READ).is_err(), "{case}");
        // The last of its table takes the table along.
        unmap(&mut tree, tables, AT + bytes, bytes, true);
        books(frames, tables, 1);
    });
}

/// The tables on the way to `at`, from the root on.
fn way(tree: &Tree<'_, '_>, at: u64) -> Vec<Gpa> {
    let below = tree.walker().trace(Gva::new(at)).into_iter().filter_map(|it| match it.entry {
        Entry::Table { table, .. } => Some(table),
        _ => None,
    });
    [tree.root()].into_iter().chain(below).collect()
}

/// A table of the last level comes with its first page and goes with its last.
#[test]
fn tables_come_and_go() {
    with(|memory, frames, tables| {
        let mut tree = tree(memory, tables, &[]);
        map(&mut tree, AT + LARGE, PAGE, Leaves::Largest).unwrap();
        let live = frames.census().live;
        for _ in 0..3 {
            map(&mut tree, AT, PAGE, Leaves::Largest).unwrap();
            assert_eq!(frames.census().live, live + 1);
            assert!(tree.translate(Gva::new(AT), Access::WRITE).is_ok());
            unmap(&mut tree, tables, AT, PAGE, true);
            assert_eq!(frames.census().live, live);
            assert!(tree.translate(Gva::new(AT), Access::READ).is_err());
        }
        // What software keeps in the entry above stays.
        let mut gather = Gather::new(&Unused, ());
        tree.annotate(Gva::new(AT), LARGE, 3, &mut gather).unwrap();
        gather.finish(tables).unwrap();
        let mapped = map(&mut tree, AT, PAGE, Leaves::Largest);
        assert!(matches!(mapped, Err(Error::Annotated { value: 3, .. })));
        assert_eq!(frames.census().live, live);
    });
}

/// No table of an upper level leaves, or gets another table, by a circle that a guest made.
#[test]
fn case_b1_no_page_by_a_circle() {
    with(|memory, frames, tables| {
        let mut tree = tree(memory, tables, &[]);
        for at in [AT, AT + LARGE] {
            map(&mut tree, at, PAGE, Leaves::Largest).unwrap();
        }
        let live = frames.census().live;
        let [_, third, second, _] = way(&tree, AT)[..] else { panic!("four levels") };
        // The first entry of the table of level 1 leads to the one above, which has one entry.
        store(&memory, second, 0, third.get() | 7);
        let mut gather = Gather::new(&Unused, ());
        let unmapped = tree.unmap(Gva::new(AT), PAGE, &mut gather).unwrap_err();
        assert!(matches!(unmapped.error, Error::Malformed { .. }), "{unmapped:?}");
        assert!(gather.stale().is_empty() && frames.census().live == live);
        gather.finish(tables).unwrap();
        assert!(tree.translate(Gva::new(AT + LARGE), Access::READ).is_ok());
        // The second entry of the table of level 2 leads to itself.
        store(&memory, third, 1, third.get() | 7);
        for bytes in [PAGE, LARGE] {
            let mapped = map(&mut tree, AT + GIB + 5 * LARGE, bytes, Leaves::Largest);
            assert!(matches!(mapped, Err(Error::Malformed { .. })), "{bytes:#x}: {mapped:?}");
            assert_eq!(frames.census().live, live);
        }
    });
}
