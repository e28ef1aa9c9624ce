//! Two writers on threads, beside a guest that writes their tables.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use frag_alloc::{Cache, Deferred, Epochs, Frames, Kind, Owner, Policy, Region};
use pgtable::allocator::Contents;
use pgtable::invalidate::{Gather, Unused};
use pgtable::memory::DirectMap;
use pgtable::shared::SharedPageTable;
use pgtable::tree::PageTable;
use pgtable::{Error, Gpa, Gva, Leaves, Prot};

use crate::guest::{FRAMES, LARGE, PAGE, START, books, format, load, store};
use crate::{Hasty, One, error};

/// Verbs that each of two threads does.
const ROUNDS: usize = 4_000;
/// Tables in one frame: those of the last frame are a stranger's.
const IN_FRAME: u64 = 16;

fn random(state: &mut u64, bound: u64) -> u64 {
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    (*state >> 11) % bound
}

/// A verb, alone or in a range; any error but a wrong range is the guest's doing. What became stale
/// is finished without a table that was retired twice.
fn anything(writer: &One<'_, '_, '_>, tables: &Hasty<'_, '_>, state: &mut u64) {
    let mut gather = Gather::new(&Unused, ());
    let at = random(state, 6) * LARGE + random(state, 4) * PAGE;
    let bytes = [PAGE, 3 * PAGE, LARGE, 3 * LARGE][random(state, 4) as usize];
    let (input, output, rw) = (Gva::new(at), Gpa::new(1 << 30), Prot::RW.into());
    let small = bytes.min(3 * PAGE);
    let done = match random(state, 8) {
        0 | 1 => writer.map(input, output, small, rw, Leaves::Largest),
        2 => writer.unmap(input, bytes, &mut gather).map(drop),
        3 => writer.unmap_with(input, bytes, |_| (), &mut gather).map(drop),
        4 => writer.protect(input, bytes, Prot::RW, &mut gather).map(drop),
        verb => writer.lock(input, bytes).and_then(|mut range| {
            let _ = range.map(input, output, small, rw, Leaves::Largest);
            let _ = range.unmap(input, PAGE.min(bytes), &mut gather);
            let _ = range.query(input);
            let done = range.unmap(input, bytes, &mut gather).map(drop);
            match verb {
                5 => range.finish(&mut gather),
                6 => drop(range),
                _ => done?,
            }
            Ok(())
        }),
    };
    assert_ne!(error(done), Some(Error::Range));
    gather.finish(tables).unwrap();
}

/// A guest's store into one of the first entries of one of its tables, or of what was one: a way to
/// any table of any owner, a page, a copy of another entry, nothing.
fn guest_stores(memory: &DirectMap<'_, Gpa>, state: &mut u64) {
    let all = u64::from(FRAMES) * IN_FRAME;
    let table = |number: u64| Gpa::new(START + (number << 12));
    let own = table(random(state, all - IN_FRAME));
    let word = match random(state, 8) {
        0 | 1 => 0,
        2 => (1 << 30) | 7,
        3..6 => table(random(state, all)).get() | 7,
        _ => load(memory, table(random(state, all - IN_FRAME)), random(state, 8)),
    };
    store(memory, own, random(state, 8), word);
}

/// Two writers beside a guest that writes their tables all the time. Each table that the allocator
/// handed out came back at most once, a stranger's in the same memory never changed, and what is
/// left is accounted for.
#[test]
fn case_a1_writers_beside_a_guest_that_writes() {
    for seed in 1..5 {
        let words: Vec<AtomicU64> = (0..FRAMES << 13).map(|_| AtomicU64::new(0)).collect();
        let memory = DirectMap::new(&words, Gpa::new(START));
        let region = Region::new(memory, Gpa::new(START), FRAMES, 16).unwrap();
        let frames = Frames::new(region).unwrap();
        // A stranger has the frame at the end: that the guest does not write.
        let strange = Cache::new(&frames, Owner(2), Kind::User, Policy::Reuse);
        let last = START + (u64::from(FRAMES - 1) << 16);
        let (theirs, others): (Vec<Gpa>, Vec<Gpa>) =
            std::iter::from_fn(|| strange.take(12).ok()).partition(|it| it.get() >= last);
        for table in others {
            strange.give(table, 12, Contents::Stale).unwrap();
        }
        let pattern = |table: Gpa, index: u64| table.get() << 8 | index;
        for &table in &theirs {
            (0..512).for_each(|index| store(&memory, table, index, pattern(table, index)));
        }
        let epochs = Epochs::new(2);
        let cache = Cache::new(&frames, Owner(1), Kind::User, Policy::Reuse);
        let tables = Deferred::new(cache, &epochs);
        let shared =
            SharedPageTable::from(PageTable::new(format(), memory, Hasty(&tables)).unwrap());
        let over = AtomicBool::new(false);
        std::thread::scope(|scope| {
            let writers = [1, 2].map(|number| {
                let shared = &shared;
                scope.spawn(move || {
                    let (writer, mut state) = (shared.writer().unwrap(), seed * 16 + number);
                    for _ in 0..ROUNDS {
                        anything(&writer, shared.tables(), &mut state);
                    }
                })
            });
            scope.spawn(|| {
                let mut state = seed * 16 + 7;
                while !over.load(Ordering::Relaxed) {
                    (0..8).for_each(|_| guest_stores(&memory, &mut state));
                    std::thread::yield_now();
                }
            });
            let joined = writers.map(std::thread::ScopedJoinHandle::join);
            over.store(true, Ordering::Relaxed);
            joined.into_iter().for_each(Result::unwrap);
        });
        let done = shared.into_inner().destroy(Gather::new(&Unused, ()));
        let done = done.map_err(|(_, error)| error).unwrap();
        assert_eq!((done.refused, done.unread), (0, 0), "{seed}");
        let _: [usize; 3] = [0; 3].map(|_| tables.collect().unwrap());
        for &table in &theirs {
            for index in 0..512 {
                assert_eq!(load(&memory, table, index), pattern(table, index), "{table}");
            }
            strange.give(table, 12, Contents::Stale).unwrap();
        }
        strange.close().unwrap();
        books(&frames, tables.cache(), frames.census().live);
    }
}
