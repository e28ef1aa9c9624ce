//! Model checks of grace periods, and of tables that wait for them.

mod model;

use frag_alloc::{Deferred, Epochs, Grace, Policy};
use loom::cell::UnsafeCell;
use loom::sync::Arc;
use loom::sync::atomic::{AtomicU32, Ordering};
use loom::thread;
use model::{TABLE, check, check_to_depth};
use pgtable::allocator::Contents;

/// A reader that found the table linked has left before it is used again.
#[test]
fn no_table_is_used_again_under_a_reader() {
    check(|| {
        let epochs = Arc::new(Epochs::new(1));
        // The link to a table, and the table's word: 0 while it is what it was.
        let tree = Arc::new((AtomicU32::new(1), AtomicU32::new(0)));
        let (same_epochs, same_tree) = (epochs.clone(), tree.clone());
        let reader = thread::spawn(move || {
            let mut reader = same_epochs.reader().unwrap();
            let reading = reader.read();
            if same_tree.0.load(Ordering::Relaxed) == 1 {
                assert_eq!(same_tree.1.load(Ordering::Relaxed), 0, "used again under a reader");
            }
            drop(reading);
        });
        tree.0.store(0, Ordering::Relaxed);
        let cookie = epochs.start();
        if epochs.passed(cookie) {
            tree.1.store(1, Ordering::Relaxed);
        }
        reader.join().unwrap();
        assert!(epochs.passed(cookie));
    });
}

/// Two threads free tables that wait, the cache closes meanwhile: everything comes home, once.
#[test]
fn deferred_frees_against_teardown() {
    check_to_depth(|| {
        let (frames, counts) = model::frames(1);
        let epochs = Epochs::new(0);
        let cache = frag_alloc::Cache::new(
            frames.clone(),
            frag_alloc::Owner(1),
            frag_alloc::Kind::User,
            Policy::Reuse,
        );
        let tables = Arc::new(Deferred::new(cache, epochs));
        let (first, second) = (tables.take(TABLE).unwrap(), tables.take(TABLE).unwrap());
        let other = tables.clone();
        let thread = thread::spawn(move || {
            other.give(first, TABLE, Contents::Zeroed).unwrap();
            other.collect().unwrap();
        });
        tables.give(second, TABLE, Contents::Zeroed).unwrap();
        tables.cache().close().unwrap();
        thread.join().unwrap();
        while tables.waiting() > 0 {
            tables.collect().unwrap();
        }
        model::assert_all_home(&frames, &counts, 1);
    });
}

struct Tree {
    link: AtomicU32,
    table: UnsafeCell<u32>,
}

// SAFETY: the model finds out whether accesses of `table` are ordered.
unsafe impl Sync for Tree {}
// SAFETY: as above.
unsafe impl Send for Tree {}

/// A reader reads several times through one slot: what it read each time happened before the table
/// is used again.
#[test]
fn case_a4_every_reading_of_a_slot_happened_before() {
    for readings in 1..=3 {
        check_to_depth(move || {
            let epochs = Arc::new(Epochs::new(1));
            let tree = Arc::new(Tree { link: AtomicU32::new(1), table: UnsafeCell::new(0) });
            let (same_epochs, same_tree) = (epochs.clone(), tree.clone());
            let thread = thread::spawn(move || {
                let mut reader = same_epochs.reader().unwrap();
                for _ in 0..readings {
                    let reading = reader.read();
                    if same_tree.link.load(Ordering::Acquire) == 1 {
                        // SAFETY: the model says so if it is not.
                        same_tree.table.with(|table| assert_eq!(unsafe { *table }, 0));
                    }
                    drop(reading);
                }
                // The slot's next owner's store is another matter: below.
                core::mem::forget(reader);
            });
            tree.link.store(0, Ordering::Release);
            let cookie = epochs.start();
            if epochs.passed(cookie) {
                // SAFETY: as above.
                tree.table.with_mut(|table| unsafe { *table = 1 });
            }
            thread.join().unwrap();
        });
    }
}

/// The same when the second reading is another reader's, to whom the slot was left.
#[test]
fn case_a4_a_slot_that_changed_hands() {
    check_to_depth(|| {
        let epochs = Arc::new(Epochs::new(1));
        let tree = Arc::new(Tree { link: AtomicU32::new(1), table: UnsafeCell::new(0) });
        let read = |epochs: Arc<Epochs>, tree: Arc<Tree>| {
            move || {
                let Some(mut reader) = epochs.reader() else { return };
                let _reading = reader.read();
                if tree.link.load(Ordering::Acquire) == 1 {
                    // SAFETY: the model says so if it is not.
                    tree.table.with(|table| assert_eq!(unsafe { *table }, 0));
                }
            }
        };
        let threads = [(); 2].map(|()| thread::spawn(read(epochs.clone(), tree.clone())));
        tree.link.store(0, Ordering::Release);
        let cookie = epochs.start();
        if epochs.passed(cookie) {
            // SAFETY: as above.
            tree.table.with_mut(|table| unsafe { *table = 1 });
        }
        for thread in threads {
            thread.join().unwrap();
        }
    });
}
