//! Two writers on a tree whose entries a guest writes.

use std::sync::atomic::Ordering;

use crate::tiny::{self, Plain, Tiny};
use loom::sync::Arc;
use pgtable::invalidate::{Gather, Unused};
use pgtable::memory::TableMemory;
use pgtable::shared::LockedRange;
use pgtable::tree::PageTable;
use pgtable::{Gpa, Hpa, Leaves, Stage2};

use crate::ends::{LARGE, PAGE, map};
use crate::memory::{Memory, WHO};
use crate::tables::{Own, Tables, Tree, Writer};

/// What the entry at `at` holds.
fn held(tree: &Tree, at: u64) -> u64 {
    tree.walker().memory().word(Hpa::new(at)).unwrap().load(Ordering::Relaxed)
}

/// A guest's store.
fn guest_stores(tree: &Tree, at: u64, word: u64) {
    let walker = tree.walker();
    walker.memory().word(Hpa::new(at)).unwrap().store(word, Ordering::Relaxed);
    walker.memory().wrote(Hpa::new(at), 1);
}

/// The entry of the first table of level 1 that covers `at`: it is the second table that a tree of
/// three levels allocates.
fn entry(at: u64) -> u64 {
    32 + at / LARGE * 8
}

/// In every interleaving of `one` with `other` on a tree of three levels with one page, at 0, whose
/// entries a guest writes: no table is freed twice, and every table that is not free can be locked.
fn guest(
    one: impl Fn(&Writer<'_>, &Tree) + Send + Sync + Copy + 'static,
    other: impl Fn(&Writer<'_>, &Tree) + Send + Sync + 'static,
) {
    let mut model = loom::model::Builder::new();
    model.preemption_bound = Some(2);
    model.check(move || {
        let memory = Arc::new(Memory::new());
        let hook = tiny::Hook::new({
            let memory = memory.clone();
            move || memory.store()
        });
        let tables = Arc::new(Tables::new(&memory, true));
        let tree = PageTable::new(Tiny::DEEP, Own(memory.clone()), Own(tables.clone())).unwrap();
        let tree = Arc::new(Tree::from(tree));
        let writer = tree.writer().unwrap();
        map(&writer, 0, PAGE);
        guest_stores(&tree, entry(2 * LARGE), held(&tree, entry(0)));
        memory.store();
        let thread = loom::thread::spawn({
            let (tree, memory) = (tree.clone(), memory.clone());
            move || {
                WHO.with(|who| who.set(1));
                one(&tree.writer().unwrap(), &tree);
                memory.store();
            }
        });
        other(&writer, &tree);
        memory.store();
        thread.join().unwrap();
        // A range takes each table of pages that is left, also one that was left locked; the others
        // are unlocked.
        for (table, idle) in tables.idle.iter().enumerate() {
            if idle.load(Ordering::Acquire) || table == 0 {
                continue;
            }
            let level_1 = table == 1;
            if !level_1 {
                guest_stores(&tree, 0, 32 | 1);
                guest_stores(&tree, entry(0), (table as u64 * 32) | 1);
                drop(writer.lock(Gpa::new(0), LARGE).unwrap());
            }
            assert!(tables.states[table].is_open(), "table {table} is locked");
        }
        assert!(tables.states[0].is_open(), "the root is locked");
        drop(hook);
    });
}

/// Does something to a range, if it can be locked.
fn range(
    writer: &Writer<'_>,
    tree: &Tree,
    (at, bytes): (u64, u64),
    verbs: impl Fn(
        &mut LockedRange<'_, '_, Tiny, Own<Memory>, Own<Tables>>,
        &mut Gather<'_, Stage2, Unused>,
    ),
) {
    let mut gather = Gather::new(&Unused, ());
    if let Ok(mut locked) = writer.lock(Gpa::new(at), bytes) {
        verbs(&mut locked, &mut gather);
        locked.finish(&mut gather);
    }
    gather.finish(tree.tables()).unwrap();
}

/// Two ranges, each of which has one of the two ways to a table: each takes out what it can.
#[test]
fn case_a1_two_ranges_with_a_way_each_to_one_table() {
    guest(
        |w, tree| {
            range(w, tree, (0, 2 * LARGE), |range, gather| {
                let _ = range.unmap(Gpa::new(0), LARGE, gather);
            });
        },
        |w, tree| {
            range(w, tree, (2 * LARGE, LARGE), |range, gather| {
                let _ = range.unmap(Gpa::new(2 * LARGE), PAGE, gather);
            });
        },
    );
}

/// A verb by one way beside a range by the other.
#[test]
fn case_a1_a_verb_and_a_range_with_a_way_each_to_one_table() {
    guest(
        |w, tree| {
            let mut gather = Gather::new(&Unused, ());
            let _ = w.unmap(Gpa::new(2 * LARGE), LARGE, &mut gather);
            gather.finish(tree.tables()).unwrap();
        },
        |w, tree| {
            range(w, tree, (0, LARGE), |range, gather| {
                let _ = range.unmap(Gpa::new(0), PAGE, gather);
                let _ =
                    range.map(Gpa::new(PAGE), Hpa::new(0x20_0000), PAGE, Plain, Leaves::Largest);
            });
        },
    );
}

/// A table that a guest hides while a range has it locked: another writer takes it over when the
/// range has ended, and not before.
#[test]
fn case_a1_a_hidden_table_is_taken_over() {
    guest(
        |w, _| {
            let _ = w.map(Gpa::new(PAGE), Hpa::new(0x20_0000), PAGE, Plain, Leaves::Largest);
        },
        |w, tree| {
            range(w, tree, (0, 2 * LARGE), |range, _| {
                let to = Hpa::new(0x20_0000);
                range.map(Gpa::new(2 * PAGE), to, PAGE, Plain, Leaves::Largest).unwrap();
                guest_stores(tree, entry(0), 0);
            });
            guest_stores(tree, entry(0), held(tree, entry(2 * LARGE)));
        },
    );
}
