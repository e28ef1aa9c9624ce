//! Model checks of the life of a frame: speculative references at every point of it, and who sends
//! it home.

mod model;

use frag_alloc::Policy;
use loom::thread;
use model::{FRAME, TABLE, check, check_to_depth};
use pgtable::Hpa;
use pgtable::allocator::Contents;

/// Someone passes by, from before the frame leaves its source until after it is back.
#[test]
fn a_passer_by_at_any_point_of_a_frames_life() {
    check(|| {
        let (frames, counts) = model::frames(1);
        let cache = model::cache(&frames, Policy::Reuse);
        let same = frames.clone();
        let by = thread::spawn(move || {
            if let Some(frame) = same.try_get(Hpa::new(0)).unwrap() {
                // With the reference held the frame is this owner's, or nobody's.
                assert!(frame.table_frame().is_none_or(|it| it.owner.0 == 1 && it.shift == FRAME));
            }
        });
        let table = cache.take(FRAME).unwrap();
        cache.give(table, FRAME, Contents::Zeroed).unwrap();
        by.join().unwrap();
        model::assert_all_home(&frames, &counts, 1);
    });
}

/// Someone passes by while a frame comes back in another order, large before small: it sends home
/// as many frames as belong together, and none that is in use.
#[test]
fn case_a2_a_passer_by_while_frames_come_in_another_order() {
    check_to_depth(|| {
        let (frames, counts) = model::frames(2);
        let cache = model::cache(&frames, Policy::Reuse);
        let large = cache.take(FRAME + 1).unwrap();
        cache.give(large, FRAME + 1, Contents::Zeroed).unwrap();
        let same = frames.clone();
        let by = thread::spawn(move || drop(same.try_get(Hpa::new(0)).unwrap()));
        let tables = [(); 2].map(|()| cache.take(FRAME).unwrap());
        cache.give(tables[0], FRAME, Contents::Zeroed).unwrap();
        by.join().unwrap();
        assert_eq!(frames.source().available(), 1, "the other one is in use");
        cache.give(tables[1], FRAME, Contents::Zeroed).unwrap();
        model::assert_all_home(&frames, &counts, 2);
    });
}

/// The same, small before large.
#[test]
fn case_a2_a_passer_by_while_frames_are_joined() {
    check_to_depth(|| {
        let (frames, counts) = model::frames(2);
        let cache = model::cache(&frames, Policy::Reuse);
        let small = cache.take(FRAME).unwrap();
        cache.give(small, FRAME, Contents::Zeroed).unwrap();
        let same = frames.clone();
        let by = thread::spawn(move || drop(same.try_get(Hpa::new(0)).unwrap()));
        // A passer-by may hold a frame that the source hands out: that one is refused.
        if let Ok(large) = cache.take(FRAME + 1) {
            cache.give(large, FRAME + 1, Contents::Zeroed).unwrap();
            by.join().unwrap();
            model::assert_all_home(&frames, &counts, 2);
        } else {
            by.join().unwrap();
        }
    });
}

/// While a reference is held, a retired frame is not handed out again: an allocation finds the
/// source empty.
#[test]
fn a_held_frame_does_not_come_back_as_something_else() {
    check_to_depth(|| {
        let (frames, counts) = model::frames(1);
        let cache = model::cache(&frames, Policy::Reuse);
        let table = cache.take(FRAME).unwrap();
        let same = frames.clone();
        let by = thread::spawn(move || {
            let Some(frame) = same.try_get(table).unwrap() else { return };
            let seen = [(); 3].map(|()| frame.table_frame().is_some());
            assert_ne!(seen, [true, false, true], "retired, and reused under a reference");
        });
        cache.give(table, FRAME, Contents::Zeroed).unwrap();
        if let Ok(table) = cache.take(FRAME) {
            cache.give(table, FRAME, Contents::Zeroed).unwrap();
        }
        by.join().unwrap();
        model::assert_all_home(&frames, &counts, 1);
    });
}

/// The two last tables of a frame are freed at once, and someone holds a reference: one destructor,
/// one way home.
#[test]
fn two_last_frees_and_a_passer_by() {
    check(|| {
        let (frames, counts) = model::frames(1);
        let cache = model::cache(&frames, Policy::Linux);
        let tables = [cache.take(TABLE).unwrap(), cache.take(TABLE).unwrap()];
        let threads = tables.map(|table| {
            let cache = cache.clone();
            thread::spawn(move || cache.give(table, TABLE, Contents::Zeroed).unwrap())
        });
        drop(frames.try_get(tables[0]).unwrap());
        for thread in threads {
            thread.join().unwrap();
        }
        model::assert_all_home(&frames, &counts, 1);
    });
}

/// Quarantine against a free that sends the frame home: it is never handed out afterwards.
#[test]
fn a_quarantine_at_any_point_holds() {
    check(|| {
        let (frames, _counts) = model::frames(1);
        let cache = model::cache(&frames, Policy::Reuse);
        let table = cache.take(FRAME).unwrap();
        let same = frames.clone();
        let by = thread::spawn(move || same.quarantine(table).unwrap());
        cache.give(table, FRAME, Contents::Zeroed).unwrap();
        by.join().unwrap();
        assert!(cache.take(FRAME).is_err());
        assert!(frames.census().all_home());
    });
}

/// Quarantine against the free of one of two tables: the freed one is not handed out again.
#[test]
fn a_quarantine_during_a_free_holds() {
    check_to_depth(|| {
        let (frames, _counts) = model::frames(2);
        let cache = model::cache(&frames, Policy::Reuse);
        let tables = [cache.take(TABLE).unwrap(), cache.take(TABLE).unwrap()];
        let (bad, same) = (tables[0].get() >> FRAME, frames.clone());
        let by = thread::spawn(move || same.quarantine(tables[0]).unwrap());
        cache.give(tables[1], TABLE, Contents::Zeroed).unwrap();
        by.join().unwrap();
        assert_ne!(cache.take(TABLE).unwrap().get() >> FRAME, bad);
        cache.give(tables[0], TABLE, Contents::Zeroed).unwrap();
        assert_ne!(cache.take(TABLE).unwrap().get() >> FRAME, bad);
    });
}
