//! Model checks of the caches: refill, free, reuse and teardown, in both policies.

mod model;

use frag_alloc::{Error, Local, Owner, Policy};
use loom::thread;
use model::{TABLE, check};
use pgtable::allocator::Contents;

/// Two threads find the cache empty. Whoever is second uses the first one's frame, or his own; no
/// table is handed out twice and every frame comes home.
fn racing_refill(policy: Policy) {
    check(move || {
        let (frames, counts) = model::frames(2);
        let cache = model::cache(&frames, policy);
        let other = cache.clone();
        let thread = thread::spawn(move || other.take(TABLE).unwrap());
        let here = cache.take(TABLE).unwrap();
        let there = thread.join().unwrap();
        assert_ne!(here, there);
        for table in [here, there] {
            cache.give(table, TABLE, Contents::Zeroed).unwrap();
        }
        cache.close().unwrap();
        model::assert_all_home(&frames, &counts, 2);
    });
}

#[test]
fn racing_refill_with_reuse() {
    racing_refill(Policy::Reuse);
}

#[test]
fn racing_refill_as_linux_does() {
    racing_refill(Policy::Linux);
}

/// A table is freed on one thread while another allocates: it may get that one, never one that is
/// alive.
#[test]
fn reuse() {
    check(|| {
        let (frames, counts) = model::frames(2);
        let cache = model::cache(&frames, Policy::Reuse);
        let (kept, freed) = (cache.take(TABLE).unwrap(), cache.take(TABLE).unwrap());
        let other = cache.clone();
        let thread = thread::spawn(move || other.give(freed, TABLE, Contents::Zeroed).unwrap());
        let new = cache.take(TABLE).unwrap();
        thread.join().unwrap();
        assert_ne!(new, kept);
        for table in [kept, new] {
            cache.give(table, TABLE, Contents::Zeroed).unwrap();
        }
        cache.close().unwrap();
        model::assert_all_home(&frames, &counts, 2);
    });
}

/// Two threads free the same table: exactly one is told that it was not his.
fn freed_twice_at_once(policy: Policy) {
    check(move || {
        let (frames, counts) = model::frames(1);
        let cache = model::cache(&frames, policy);
        let (kept, freed) = (cache.take(TABLE).unwrap(), cache.take(TABLE).unwrap());
        let other = cache.clone();
        let thread = thread::spawn(move || other.give(freed, TABLE, Contents::Zeroed).is_ok());
        let here = cache.give(freed, TABLE, Contents::Zeroed).is_ok();
        assert!(here ^ thread.join().unwrap());
        assert_eq!(frames.census().live, 1);
        cache.give(kept, TABLE, Contents::Zeroed).unwrap();
        cache.close().unwrap();
        model::assert_all_home(&frames, &counts, 1);
    });
}

#[test]
fn freed_twice_at_once_with_reuse() {
    freed_twice_at_once(Policy::Reuse);
}

#[test]
fn freed_twice_at_once_as_linux_does() {
    freed_twice_at_once(Policy::Linux);
}

/// The cache closes while a table that was queued is freed: whoever is last retires the frame.
fn teardown_against_a_free(policy: Policy) {
    check(move || {
        let (frames, counts) = model::frames(1);
        let cache = model::cache(&frames, policy);
        let table = cache.take(TABLE).unwrap();
        let other = cache.clone();
        let thread = thread::spawn(move || other.give(table, TABLE, Contents::Zeroed).unwrap());
        cache.close().unwrap();
        thread.join().unwrap();
        model::assert_all_home(&frames, &counts, 1);
    });
}

#[test]
fn teardown_against_a_free_with_reuse() {
    teardown_against_a_free(Policy::Reuse);
}

#[test]
fn teardown_against_a_free_as_linux_does() {
    teardown_against_a_free(Policy::Linux);
}

/// The same, when all tables of the frame are out: nothing in the pool holds the frame any more.
#[test]
fn teardown_against_the_last_frees() {
    check(|| {
        let (frames, counts) = model::frames(1);
        let cache = model::cache(&frames, Policy::Reuse);
        let tables = [cache.take(TABLE).unwrap(), cache.take(TABLE).unwrap()];
        let other = cache.clone();
        let thread = thread::spawn(move || {
            for table in tables {
                other.give(table, TABLE, Contents::Zeroed).unwrap();
            }
        });
        cache.close().unwrap();
        thread.join().unwrap();
        model::assert_all_home(&frames, &counts, 1);
    });
}

/// The cache closes while another thread allocates: the table is refused, or handed out and freed
/// later.
#[test]
fn teardown_against_an_allocation() {
    check(|| {
        let (frames, counts) = model::frames(1);
        let cache = model::cache(&frames, Policy::Reuse);
        let other = cache.clone();
        let thread = thread::spawn(move || other.take(TABLE));
        cache.close().unwrap();
        if let Ok(table) = thread.join().unwrap() {
            frames.give(table, Owner(1)).unwrap();
        }
        model::assert_all_home(&frames, &counts, 1);
    });
}

/// A front takes and puts back while another thread frees what came out of it.
#[test]
fn fronts_exchange_tables() {
    check(|| {
        let (frames, counts) = model::frames(2);
        let cache = model::cache(&frames, Policy::Reuse);
        let here = Local::new(&cache);
        let table = here.take(TABLE).unwrap();
        let other = cache.clone();
        let thread = thread::spawn(move || {
            let there = Local::new(&other);
            there.give(table, TABLE, Contents::Zeroed).unwrap();
        });
        let second = here.take(TABLE).unwrap();
        here.give(second, TABLE, Contents::Zeroed).unwrap();
        drop(here);
        thread.join().unwrap();
        cache.close().unwrap();
        model::assert_all_home(&frames, &counts, 2);
    });
}

/// A front hands out what it holds while another thread closes its cache: before that, a table that
/// goes home by its own free; afterwards none, though one was freed into it late.
#[test]
fn case_a2_a_front_while_its_cache_closes() {
    check(|| {
        let (frames, counts) = model::frames(1);
        let cache = model::cache(&frames, Policy::Reuse);
        let front = Local::new(&cache);
        let [first, late] = [front.take(TABLE).unwrap(), front.take(TABLE).unwrap()];
        front.give(first, TABLE, Contents::Zeroed).unwrap();
        let other = cache.clone();
        let thread = thread::spawn(move || other.close().unwrap());
        let taken = front.take(TABLE);
        front.give(late, TABLE, Contents::Zeroed).unwrap();
        thread.join().unwrap();
        assert_eq!(front.take(TABLE), Err(Error::Exhausted { shift: TABLE }));
        if let Ok(table) = taken {
            frames.give(table, Owner(1)).unwrap();
        }
        drop(front);
        model::assert_all_home(&frames, &counts, 1);
    });
}
