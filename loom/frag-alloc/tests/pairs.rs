//! Every pair of public operations at once on the tables of one frame: of two tables that a pool
//! reuses, of two that are counted as Linux does, and of one that fills it.
//!
//! In the row "the same table" both operations are on one table, so that every free is also tried
//! as a double free; in "the other table" each has its own. [`Op::Touch`] is what a tree does with
//! an entry that a guest wrote: it asks for the state of a table that somebody frees. (What it
//! stores there then is in another word than all that the allocator decides by; only trees can
//! store it.)
//!
//! What must hold whatever happened: as many tables are alive as were handed out and not freed;
//! each of them can be freed, once, and nothing else; then both counters of every frame are zero,
//! and every frame is home but for one that is quarantined.

mod model;

use std::fmt::Debug;

use frag_alloc::{Cache, Deferred, Epochs, Error, Kind, Owner, Policy};
use loom::sync::Arc;
use loom::sync::atomic::{AtomicU32, Ordering};
use loom::thread;
use model::{FRAME, Source, TABLE, Table, assert_all_home, check, check_to_depth, frames};
use pgtable::allocator::{Contents, TableAllocator, TableLayout, TableState};
use pgtable::{Hpa, Level};

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Op {
    Take,
    Give,
    /// Detach and put, with a grace period between.
    Defer,
    /// Freed without its cache.
    GiveLoose,
    Trim,
    Close,
    Quarantine,
    /// A speculative reference.
    TryGet,
    Touch,
}

const OPS: [Op; 9] = [
    Op::Take,
    Op::Give,
    Op::Defer,
    Op::GiveLoose,
    Op::Trim,
    Op::Close,
    Op::Quarantine,
    Op::TryGet,
    Op::Touch,
];

struct World {
    frames: Table,
    tables: Deferred<Hpa, Source, Table, Epochs>,
    layout: TableLayout,
    taken: AtomicU32,
    freed: AtomicU32,
}

impl World {
    fn counted<T: Debug>(count: &AtomicU32, done: &Result<T, Error<Hpa>>) {
        match done {
            Ok(_) => _ = count.fetch_add(1, Ordering::Relaxed),
            Err(Error::NotLive { .. } | Error::Exhausted { .. }) => {}
            Err(error) => panic!("{error}"),
        }
    }

    fn apply(&self, op: Op, table: Hpa) {
        let (cache, shift) = (self.tables.cache(), self.layout.shift);
        match op {
            Op::Take => {
                let taken = cache.take(shift);
                Self::counted(&self.taken, &taken);
                if let Ok(table) = taken {
                    // (There is no state if the other thread just guessed the table, and freed it.)
                    let state = cache.state(table, self.layout);
                    assert_eq!(state.map_or(0, TableState::live), 0, "a new table is empty");
                }
            }
            Op::Give => Self::counted(&self.freed, &cache.give(table, shift, Contents::Zeroed)),
            Op::Defer => {
                Self::counted(&self.freed, &self.tables.give(table, shift, Contents::Stale));
                self.tables.collect().unwrap();
            }
            Op::GiveLoose => Self::counted(&self.freed, &self.frames.give(table, Owner(1))),
            Op::Trim => _ = cache.trim().unwrap(),
            Op::Close => _ = cache.close().unwrap(),
            Op::Quarantine => self.frames.quarantine(table).unwrap(),
            Op::TryGet => {
                if let Some(frame) = self.frames.try_get(table).unwrap() {
                    assert!(frame.table_frame().is_none_or(|it| it.owner == Owner(1)));
                    assert!(frame.tables().count() <= 2);
                }
            }
            Op::Touch => {
                let state = cache.state(table, self.layout);
                assert_eq!(state.map_or(0, TableState::live), 0, "no tree counts here");
            }
        }
    }
}

/// `one` at `shift`-sized tables beside `other`, with the first of the frame's tables alive, and
/// the second, if there is one, alive too or free.
fn pair(policy: Policy, shift: u8, (one, other): (Op, Op), same: bool, second_alive: bool) {
    check(move || {
        let (frames, counts) = frames(1);
        let cache = Cache::new(frames.clone(), Owner(1), Kind::User, policy);
        let world = Arc::new(World {
            tables: Deferred::new(cache, Epochs::new(0)),
            layout: TableLayout { shift, level: Level(0) },
            taken: AtomicU32::new(0),
            freed: AtomicU32::new(0),
            frames,
        });
        let cache = world.tables.cache();
        let all: Vec<Hpa> = (0..1 << (FRAME - shift)).map(|_| cache.take(shift).unwrap()).collect();
        let second = *all.last().unwrap();
        let mut alive = all.len() as u32;
        if all.len() > 1 && !second_alive {
            cache.give(second, shift, Contents::Zeroed).unwrap();
            alive -= 1;
        }
        let there = world.clone();
        let first = all[0];
        let thread = thread::spawn(move || there.apply(one, first));
        world.apply(other, if same { first } else { second });
        thread.join().unwrap();

        let alive =
            alive + world.taken.load(Ordering::Relaxed) - world.freed.load(Ordering::Relaxed);
        while world.tables.waiting() > 0 {
            world.tables.collect().unwrap();
        }
        assert_eq!(world.frames.census().live, alive, "{:?}", world.frames.census());
        let mut freed = 0;
        for _ in 0..2 {
            for &table in &all {
                let here = world.tables.cache().give(table, shift, Contents::Stale);
                let loose = || world.frames.give(table, Owner(1));
                freed += u32::from(here.is_ok() || loose().is_ok());
            }
        }
        assert_eq!(freed, alive, "each that was alive, once");
        world.tables.cache().close().unwrap();
        if world.frames.census().quarantined == 0 {
            assert_all_home(&world.frames, &counts, 1);
        } else {
            assert!(world.frames.census().all_home(), "{:?}", world.frames.census());
            let new = Cache::new(world.frames.clone(), Owner(2), Kind::User, policy);
            assert_eq!(new.take(shift), Err(Error::Exhausted { shift }), "quarantined");
        }
    });
}

/// All pairs of `one` with the others, in all rows.
fn with_all(one: Op) {
    let first = OPS.iter().position(|&op| op == one).unwrap();
    for &other in &OPS[first..] {
        for (policy, shift) in
            [(Policy::Reuse, TABLE), (Policy::Linux, TABLE), (Policy::Reuse, FRAME)]
        {
            for same in [true, false] {
                for second_alive in [true, false] {
                    if shift == TABLE || (same && second_alive) {
                        println!("{one:?} {other:?} {policy:?} 2^{shift} {same} {second_alive}");
                        pair(policy, shift, (one, other), same, second_alive);
                    }
                }
            }
        }
    }
}

#[test]
fn case_a2_take_beside_all() {
    with_all(Op::Take);
}

#[test]
fn case_a2_give_beside_all() {
    with_all(Op::Give);
}

#[test]
fn case_a2_detach_and_put_beside_all() {
    with_all(Op::Defer);
}

#[test]
fn case_a2_give_without_the_cache_beside_all() {
    with_all(Op::GiveLoose);
}

#[test]
fn case_a2_trim_beside_all() {
    with_all(Op::Trim);
}

#[test]
fn case_a2_close_beside_all() {
    with_all(Op::Close);
}

#[test]
fn case_a2_quarantine_try_get_and_touch_beside_each_other() {
    [Op::Quarantine, Op::TryGet, Op::Touch].into_iter().for_each(with_all);
}

/// The audit's: a frame's last table is freed twice at once, and the frame goes to another owner
/// meanwhile. No table is handed out to two, and the second free does not hit the new owner's.
#[test]
fn case_a2_one_table_two_owners() {
    check_to_depth(|| {
        let (frames, counts) = frames(1);
        let [ours, theirs] = [1, 2].map(|owner| {
            Arc::new(Cache::new(frames.clone(), Owner(owner), Kind::User, Policy::Reuse))
        });
        let table = ours.take(FRAME).unwrap();
        let (ours_too, theirs_too) = (ours.clone(), theirs.clone());
        let thread = thread::spawn(move || {
            let freed = ours_too.give(table, FRAME, Contents::Zeroed).is_ok();
            (freed, theirs_too.take(FRAME))
        });
        let here = ours.give(table, FRAME, Contents::Zeroed).is_ok();
        let (there, taken) = thread.join().unwrap();
        assert!(here ^ there, "accepted: {here} {there}");
        if let Ok(table) = taken {
            let layout = TableLayout { shift: FRAME, level: Level(0) };
            assert!(theirs.state(table, layout).is_some() && ours.state(table, layout).is_none());
            theirs.give(table, FRAME, Contents::Zeroed).unwrap();
        }
        assert_all_home(&frames, &counts, 1);
    });
}
