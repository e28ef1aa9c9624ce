//! What stays locked because a range was forgotten, or because a guest hid the table.

use std::sync::atomic::AtomicU64;

use frag_alloc::{Cache, Deferred, Epochs, Frames, Kind, Owner, Policy, Region};
use pgtable::invalidate::{Gather, Unused};
use pgtable::memory::DirectMap;
use pgtable::shared::SharedPageTable;
use pgtable::tree::PageTable;
use pgtable::{Error, Gpa, Gva, Leaves, Prot};

use crate::guest::{FRAMES, LARGE, PAGE, START, format, load, store};
use crate::{FAR, FIRST, Hasty, SECOND, error, map, with};

/// A table that a guest hid while it was locked, and shows again: its lock ended with the range.
#[test]
fn case_a1_a_hidden_table_does_not_stay_locked() {
    with(|shared, memory, [near, _], _| {
        let [one, other] = [0; 2].map(|_| shared.writer().unwrap());
        let mut gather = Gather::new(&Unused, ());
        for finish in [false, true] {
            let range = one.lock(Gva::new(FIRST), 2 * LARGE).unwrap();
            let hidden = load(&memory, near, 0);
            store(&memory, near, 0, 0);
            if finish {
                range.finish(&mut gather);
            } else {
                drop(range);
            }
            store(&memory, near, 0, hidden);
            // A verb, a page, and a range.
            let protected = other.protect(Gva::new(FIRST), LARGE, Prot::RW, &mut gather);
            assert_eq!(protected, Ok(PAGE));
            assert_eq!(map(&other, FIRST + PAGE), Ok(()));
            assert_eq!(other.unmap(Gva::new(FIRST + PAGE), PAGE, &mut gather), Ok(PAGE));
            assert!(one.lock(Gva::new(FIRST), 2 * LARGE).is_ok());
        }
        gather.finish(shared.tables()).unwrap();
    });
}

/// A range that was forgotten stays locked while the tree is shared, and hurts nothing else; the
/// one writer of the tree has it all again.
#[test]
fn case_a1_a_forgotten_range() {
    with(|shared, memory, _, _| {
        let [one, other] = [0; 2].map(|_| shared.writer().unwrap());
        let mut gather = Gather::new(&Unused, ());
        let mut range = one.lock(Gva::new(FIRST), LARGE).unwrap();
        assert_eq!(range.unmap(Gva::new(FIRST), PAGE, &mut gather), Ok(PAGE));
        range.map(Gva::new(PAGE), Gpa::new(0), 2 * PAGE, Prot::RW.into(), Leaves::Largest).unwrap();
        assert!(!gather.stale().is_empty(), "what is stale is the gather's at once");
        std::mem::forget(range);
        for writer in [&one, &other] {
            assert_eq!(error(map(writer, FIRST)), Some(Error::Contended));
            assert_eq!(error(writer.lock(Gva::new(FIRST), PAGE)), Some(Error::Contended));
            assert_eq!(writer.unmap(Gva::new(SECOND), PAGE, &mut gather), Ok(PAGE));
            assert_eq!(map(writer, SECOND), Ok(()));
        }
        gather.finish(shared.tables()).unwrap();
        let _ = memory;
    });
}

/// After that, every verb of the tree's one writer has every table again: nothing is left behind.
#[test]
fn case_a1_what_was_forgotten_is_the_trees_again() {
    let words: Vec<AtomicU64> = (0..FRAMES << 13).map(|_| AtomicU64::new(0)).collect();
    let memory = DirectMap::new(&words, Gpa::new(START));
    let frames = Frames::new(Region::new(memory, Gpa::new(START), FRAMES, 16).unwrap()).unwrap();
    // In the root of a tree with a page and of one without, in a table below it, and in a
    // last-level table.
    for (pages, bytes) in
        [(0, 1 << 40), (1, 1 << 40), (1, 1 << 30), (1, 2 * LARGE), (1, LARGE), (1, PAGE)]
    {
        let epochs = Epochs::new(2);
        let cache = Cache::new(&frames, Owner(1), Kind::User, Policy::Reuse);
        let tables = Deferred::new(cache, &epochs);
        let shared =
            SharedPageTable::from(PageTable::new(format(), memory, Hasty(&tables)).unwrap());
        let writer = shared.writer().unwrap();
        (0..pages).for_each(|page| map(&writer, page * PAGE).unwrap());
        std::mem::forget(writer.lock(Gva::new(FIRST), bytes).unwrap());
        drop(writer);
        let mut tree = shared.into_inner();
        let mut gather = Gather::new(&Unused, ());
        for page in [1, 2, 3] {
            let (at, to) = (Gva::new(page * PAGE), Gpa::new(0));
            tree.map(at, to, PAGE, Prot::RW.into(), Leaves::Largest).unwrap();
        }
        assert_eq!(tree.unmap(Gva::new(0), LARGE, &mut gather), Ok((pages + 3) * PAGE));
        tree.map(Gva::new(FAR), Gpa::new(0), PAGE, Prot::RW.into(), Leaves::Largest).unwrap();
        let done = tree.destroy(gather).map_err(|(_, error)| error).unwrap();
        assert_eq!(done.refused, 0);
        let _: [usize; 2] = [0; 2].map(|_| tables.collect().unwrap());
        assert_eq!(frames.census().live, 0, "{bytes:#x}");
    }
}

/// The same when the tree is shared again, and again: a new range is not taken for one that was
/// forgotten.
#[test]
fn case_a1_what_was_forgotten_is_free_when_the_tree_is_shared_again() {
    let words: Vec<AtomicU64> = (0..FRAMES << 13).map(|_| AtomicU64::new(0)).collect();
    let memory = DirectMap::new(&words, Gpa::new(START));
    let frames = Frames::new(Region::new(memory, Gpa::new(START), FRAMES, 16).unwrap()).unwrap();
    let epochs = Epochs::new(2);
    let cache = Cache::new(&frames, Owner(1), Kind::User, Policy::Reuse);
    let tables = Deferred::new(cache, &epochs);
    let mut tree = PageTable::new(format(), memory, Hasty(&tables)).unwrap();
    for share in 0..8 {
        let shared = SharedPageTable::from(tree);
        let writer = shared.writer().unwrap();
        if share == 0 {
            [0, LARGE].iter().for_each(|&at| map(&writer, at).unwrap());
        }
        for bytes in [2 * LARGE, LARGE, PAGE].into_iter().cycle().take(share) {
            writer
                .lock(Gva::new(0), bytes)
                .unwrap()
                .map(Gva::new(PAGE), Gpa::new(0), PAGE, Prot::RW.into(), Leaves::Largest)
                .ok();
        }
        std::mem::forget(writer.lock(Gva::new(0), 2 * LARGE).unwrap());
        drop(writer);
        tree = shared.into_inner();
    }
    let done = tree.destroy(Gather::new(&Unused, ())).map_err(|(_, error)| error).unwrap();
    assert_eq!((done.refused, done.unread), (0, 0));
    let _: [usize; 2] = [0; 2].map(|_| tables.collect().unwrap());
    assert_eq!(frames.census().live, 0);
}
