//! Two writers, a verb each or two.

use crate::tiny::Tiny;
use pgtable::{Access, Gpa};

use crate::ends::{HUGE, LARGE, PAGE, deep, ends, map, pages, unmap};
use crate::tables::{Tree, Writer};

#[test]
fn two_make_the_same_table() {
    let ends = ends(
        Tiny::BOTH,
        true,
        |_| (),
        |writer, _| map(writer, 0, PAGE),
        |writer, _| map(writer, PAGE, PAGE),
    );
    assert_eq!(ends, [(pages(&[0, PAGE]), 2)].into());
}

#[test]
fn one_range_twice() {
    // The second to come finds what the first has mapped.
    let first = |writer: &Writer<'_>| map(writer, 0, 2 * PAGE);
    let ends = ends(
        Tiny::BOTH,
        true,
        first,
        |writer, tree| unmap(writer, tree, 0, 2 * PAGE),
        |writer, tree| {
            unmap(writer, tree, PAGE, PAGE);
            map(writer, PAGE, PAGE);
        },
    );
    assert_eq!(ends, [(pages(&[]), 1), (pages(&[PAGE]), 2)].into());
}

#[test]
fn nested_ranges() {
    let first = |writer: &Writer<'_>| {
        map(writer, 0, PAGE);
        map(writer, LARGE, PAGE);
    };
    let ends = ends(
        Tiny::BOTH,
        true,
        first,
        |writer, tree| unmap(writer, tree, 0, 2 * LARGE),
        |writer, _| {
            map(writer, LARGE + PAGE, PAGE);
        },
    );
    assert_eq!(ends, [(pages(&[]), 1), (pages(&[LARGE + PAGE]), 2)].into());
}

/// Unmaps the only page of a table, and maps one elsewhere, into the same table if that may be used
/// again.
fn free_and_use_again(writer: &Writer<'_>, tree: &Tree) {
    unmap(writer, tree, 0, PAGE);
    map(writer, LARGE, PAGE);
}

#[test]
fn a_table_that_is_freed_under_a_waiting_writer() {
    let first = |writer: &Writer<'_>| map(writer, 0, PAGE);
    let ends =
        ends(Tiny::BOTH, true, first, free_and_use_again, |writer, _| map(writer, PAGE, PAGE));
    assert_eq!(ends, [(pages(&[LARGE, PAGE]), 3)].into());
}

/// Why the allocator has to wait for a writer that descends: the writer locks a table that is
/// another by now, and maps its page elsewhere.
#[test]
fn one_that_is_used_again_at_once_is_another_table() {
    let first = |writer: &Writer<'_>| map(writer, 0, PAGE);
    let ends =
        ends(Tiny::BOTH, false, first, free_and_use_again, |writer, _| map(writer, PAGE, PAGE));
    assert!(ends.iter().any(|(mapped, _)| *mapped != pages(&[LARGE, PAGE])), "{ends:?}");
}

#[test]
fn a_large_page_that_both_split() {
    let first = |writer: &Writer<'_>| map(writer, 0, LARGE);
    let ends = ends(
        Tiny::BOTH,
        true,
        first,
        |writer, tree| unmap(writer, tree, 0, PAGE),
        |writer, tree| {
            unmap(writer, tree, PAGE, PAGE);
        },
    );
    assert_eq!(ends, [(pages(&[2 * PAGE, 3 * PAGE]), 2)].into());
}

#[test]
fn translations_beside_two_writers() {
    // Whatever the others do, a page that neither of them touches translates.
    let first = |writer: &Writer<'_>| map(writer, 0, 2 * PAGE);
    let one = |writer: &Writer<'_>, tree: &Tree| unmap(writer, tree, 0, PAGE);
    let ends = ends(Tiny::BOTH, true, first, one, |writer, _| {
        let found = writer.translate(Gpa::new(PAGE), Access::READ).unwrap();
        assert_eq!(found.output.get(), 0x10_0000 + PAGE);
        map(writer, 2 * PAGE, PAGE);
    });
    assert_eq!(ends, [(pages(&[PAGE, 2 * PAGE]), 2)].into());
}

#[test]
fn case_a15_both_take_the_last_pages_of_a_chain() {
    let found = deep(
        |w| [0, PAGE].iter().for_each(|&page| map(w, page, PAGE)),
        |w, tree| unmap(w, tree, 0, PAGE),
        |w, tree| unmap(w, tree, PAGE, PAGE),
    );
    assert_eq!(found, [(pages(&[]), 1)].into());
}

#[test]
fn case_a15_a_whole_range_goes_beside_a_page() {
    let found = deep(
        |w| [0, LARGE].iter().for_each(|&page| map(w, page, PAGE)),
        |w, tree| unmap(w, tree, 0, HUGE),
        |w, _| map(w, PAGE, PAGE),
    );
    assert_eq!(found, [(pages(&[]), 1), (pages(&[PAGE]), 3)].into());
}

#[test]
fn case_a15_two_ranges_of_tables_go() {
    let found = deep(
        |w| [0, LARGE, 2 * LARGE].iter().for_each(|&page| map(w, page, PAGE)),
        |w, tree| unmap(w, tree, 0, 2 * LARGE),
        |w, tree| unmap(w, tree, LARGE, 2 * LARGE),
    );
    assert_eq!(found, [(pages(&[]), 1)].into());
}

#[test]
fn case_a15_a_whole_range_goes_beside_a_page_that_goes_and_comes() {
    let found = deep(
        |w| [0, LARGE].iter().for_each(|&page| map(w, page, PAGE)),
        |w, tree| unmap(w, tree, 0, HUGE),
        |w, tree| {
            unmap(w, tree, LARGE, PAGE);
            map(w, LARGE, PAGE);
        },
    );
    assert_eq!(found, [(pages(&[]), 1), (pages(&[LARGE]), 3)].into());
}
