//! Trees of three levels on the shipped allocator: tables are taken, linked, unlinked and freed
//! through [`Deferred`], beside readers that walk from the root without a lock, several times each.
//!
//! The words of the tables are the model checker's, one for each table. What a table's next owner
//! stores there is [`GARBAGE`]: a reader that sees it walked into a table that was used again under
//! it.

mod model;

use frag_alloc::{Cache, Deferred, Epochs, Kind, Owner, Policy};
use loom::sync::Arc;
use loom::sync::atomic::{AtomicU64, Ordering};
use loom::thread;
use model::{Source, TABLE, Table, assert_all_home, explore, frames};
use pgtable::Hpa;
use pgtable::allocator::Contents;
use pgtable::shared::DeferringAllocator;

/// In an entry: it leads to a table.
const LINK: u64 = 1;
/// What the last entry says.
const PAGE: u64 = 0x10_0000;
/// What the next owner of a table stores in it.
const GARBAGE: u64 = 0xdead_0000;

struct Tree {
    tables: Deferred<Hpa, Source, Table, Epochs>,
    root: AtomicU64,
    /// The one entry of each table.
    words: Vec<AtomicU64>,
}

impl Tree {
    fn word(&self, table: u64) -> &AtomicU64 {
        &self.words[(table >> TABLE) as usize]
    }

    /// A table in the middle and one below it, as two that the next writer would have them.
    fn link(&self) -> Option<[Hpa; 2]> {
        let middle = self.tables.take(TABLE).ok()?;
        let Ok(last) = self.tables.take(TABLE) else {
            self.tables.cache().give(middle, TABLE, Contents::Stale).unwrap();
            return None;
        };
        self.word(last.get()).store(PAGE, Ordering::Relaxed);
        self.word(middle.get()).store(last.get() | LINK, Ordering::Release);
        self.root.store(middle.get() | LINK, Ordering::Release);
        Some([middle, last])
    }

    /// What a walk from the root finds: nothing, or the page.
    fn walk(&self) -> Option<u64> {
        let mut entry = self.root.load(Ordering::Acquire);
        for level in (0..2).rev() {
            if entry == 0 {
                return None;
            }
            assert_eq!(entry & LINK, LINK, "level {level}: {entry:#x} leads to no table");
            entry = self.word(entry & !LINK).load(Ordering::Acquire);
        }
        (entry != 0).then_some(entry)
    }
}

/// How the tables that left the tree are freed.
type Free = fn(&Tree, Hpa);

/// One thread takes the tree apart, has its tables used again, and builds another one in its place;
/// `readers` walk meanwhile, so many times each.
fn beside_readers(readers: usize, walks: usize, free: Free) {
    // A second reader has as many steps again: one preemption less.
    explore(Some(4 - readers), move || {
        let (frames, counts) = frames(1);
        let cache = Cache::new(frames.clone(), Owner(1), Kind::User, Policy::Reuse);
        let tree = Arc::new(Tree {
            tables: Deferred::new(cache, Epochs::new(readers)),
            root: AtomicU64::new(0),
            words: (0..2).map(|_| AtomicU64::new(0)).collect(),
        });
        let [middle, last] = tree.link().unwrap();
        let threads: Vec<_> = (0..readers)
            .map(|_| {
                let tree = tree.clone();
                thread::spawn(move || {
                    let mut reader = tree.tables.reader().unwrap();
                    for _ in 0..walks {
                        let reading = reader.read();
                        let found = tree.walk();
                        assert!(matches!(found, None | Some(PAGE)), "{found:#x?}");
                        drop(reading);
                    }
                })
            })
            .collect();
        // The last table leaves first, as a verb that prunes does it.
        tree.word(middle.get()).store(0, Ordering::Release);
        free(&tree, last);
        tree.root.store(0, Ordering::Release);
        free(&tree, middle);
        // Another use of whatever may be used again.
        let again = tree.tables.take(TABLE).ok();
        if let Some(table) = again {
            tree.word(table.get()).store(GARBAGE, Ordering::Relaxed);
            tree.tables.cache().give(table, TABLE, Contents::Stale).unwrap();
        }
        let new = tree.link();
        threads.into_iter().for_each(|thread| thread.join().unwrap());
        for table in new.into_iter().flatten() {
            tree.tables.cache().give(table, TABLE, Contents::Stale).unwrap();
        }
        while tree.tables.waiting() > 0 {
            tree.tables.collect().unwrap();
        }
        tree.tables.cache().close().unwrap();
        assert_all_home(&frames, &counts, 1);
    });
}

fn deferred(tree: &Tree, table: Hpa) {
    tree.tables.give(table, TABLE, Contents::Stale).unwrap();
}

#[test]
fn case_a15_a_tree_of_three_levels_is_taken_apart_beside_a_reader() {
    beside_readers(1, 2, deferred);
}

#[test]
fn case_a15_a_tree_of_three_levels_is_taken_apart_beside_two_readers() {
    beside_readers(2, 1, deferred);
}

/// The same with tables that are used again at once: the models see it.
#[test]
#[should_panic]
fn tables_that_wait_for_nobody_are_used_again_under_a_reader() {
    beside_readers(1, 2, |tree, table| {
        tree.tables.cache().give(table, TABLE, Contents::Stale).unwrap();
    });
}
