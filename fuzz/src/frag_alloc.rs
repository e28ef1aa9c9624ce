//! Sequences on the fragment allocator, by its owners and by passers-by.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicU64, Ordering};

use arbitrary::{Result, Unstructured};
use frag_alloc::{
    Cache, Deferred, Error, Frames, Grace, Hooks, Kind, Local, Owner, Policy, Refused, Region,
};
use pgtable::Hpa;
use pgtable::allocator::Contents;
use pgtable::memory::{DirectMap, TableMemory};

const START: u64 = 0x20_0000;
/// log2 of a frame: sixteen of the smallest tables.
const SHIFT: u8 = 12;
const FRAMES: u32 = 12;
/// The most steps of a case.
const MOST: usize = 400;

/// Grace periods that pass when the case says so.
#[derive(Default)]
struct Manual {
    started: Cell<u64>,
    passed: Cell<u64>,
}

impl Grace for Manual {
    fn start(&self) -> u64 {
        self.started.set(self.started.get() + 1);
        self.started.get()
    }

    fn passed(&self, cookie: u64) -> bool {
        self.passed.get() >= cookie
    }
}

/// Which frames are constructed; refuses when told to.
#[derive(Default)]
struct Constructor {
    refuse: Cell<bool>,
    frames: RefCell<BTreeSet<Hpa>>,
}

impl Hooks<Hpa> for &Constructor {
    fn construct(&self, frame: Hpa, _: u8) -> std::result::Result<(), Refused> {
        if self.refuse.take() {
            return Err(Refused);
        }
        assert!(self.frames.borrow_mut().insert(frame), "{frame} is constructed twice");
        Ok(())
    }

    fn destruct(&self, frame: Hpa, _: u8) {
        assert!(self.frames.borrow_mut().remove(&frame), "{frame} was not constructed");
    }
}

/// What is alive: its size, and which cache it belongs to.
type Alive = BTreeMap<Hpa, (u8, usize)>;

/// The owner of the tables that are freed under readers.
const DEFERRED: usize = 2;

/// Takes and frees by three owners (two caches with a front each, one with deferred frees), wrong
/// frees, speculative references, constructors that refuse, quarantine, little memory.
///
/// # Oracles
/// A map of what is alive: tables are aligned, zeroed, never overlap anything alive, in quarantine
/// or waiting for readers, and keep what was written to them; wrong frees are errors and change
/// nothing. In the end both counters of every frame are zero, each constructor was answered by its
/// destructor, and every frame is home.
pub fn frag_alloc(data: &[u8]) {
    let _ = run(Unstructured::new(data));
}

fn nth(alive: &Alive, which: u8) -> Option<(Hpa, u8, usize)> {
    let count = alive.len().max(1);
    alive
        .iter()
        .nth(usize::from(which) % count)
        .map(|(&table, &(shift, owner))| (table, shift, owner))
}

fn overlaps(table: Hpa, shift: u8, other: Hpa, other_shift: u8) -> bool {
    table.get() < other.get() + (1 << other_shift) && other.get() < table.get() + (1 << shift)
}

fn frame_of(address: Hpa) -> u64 {
    address.get() >> SHIFT
}

fn run(mut input: Unstructured<'_>) -> Result<()> {
    let flags = input.arbitrary::<u8>()?;
    let policy = if flags & 1 == 0 { Policy::Reuse } else { Policy::Linux };
    let kind = if flags & 2 == 0 { Kind::User } else { Kind::Kernel };
    let words: Vec<_> = (0..(FRAMES as usize) << (SHIFT - 3)).map(|_| AtomicU64::new(!0)).collect();
    let memory = DirectMap::new(&words, Hpa::new(START));
    let hooks = Constructor::default();
    let source =
        Region::with_hooks(memory, Hpa::new(START), FRAMES, SHIFT, &hooks).expect("aligned");
    let frames = Frames::new(source).expect("a small span");
    let caches = [0, 1].map(|owner| Cache::new(&frames, Owner(owner), kind, policy));
    let fronts = caches.each_ref().map(Local::new);
    let grace = Manual::default();
    let deferred = Deferred::new(Cache::new(&frames, Owner(DEFERRED as u32), kind, policy), &grace);

    let mut alive = Alive::new();
    // Freed under readers: size, and the grace period after which it may be used again.
    let mut waiting: BTreeMap<Hpa, (u8, u64)> = BTreeMap::new();
    let mut quarantined = BTreeSet::new();
    let mut held = Vec::new();
    let mut refused = false;

    for _ in 0..MOST {
        if input.is_empty() {
            break;
        }
        let step = input.arbitrary::<u8>()?;
        let detail = input.arbitrary::<u8>()?;
        match step & 15 {
            // Take.
            0..6 => {
                let shift = [8, 8, 8, 9, 10, 11, 12, 13][usize::from(detail & 7)];
                let owner = usize::from(step >> 4 & 3).min(DEFERRED);
                refused |= hooks.refuse.get();
                let taken = match (owner, detail & 8) {
                    (DEFERRED, _) => deferred.take(shift),
                    (_, 0) => caches[owner].take(shift),
                    (_, _) => fronts[owner].take(shift),
                };
                match taken {
                    Ok(table) => {
                        assert_eq!(
                            table.get() % (1 << shift),
                            0,
                            "{table} is not aligned to 2^{shift}"
                        );
                        for (&other, &(other_shift, _)) in &alive {
                            assert!(
                                !overlaps(table, shift, other, other_shift),
                                "{table} overlaps {other}"
                            );
                        }
                        waiting.retain(|&other, &mut (other_shift, after)| {
                            let used_again = overlaps(table, shift, other, other_shift);
                            assert!(
                                !used_again || grace.passed(after),
                                "{table} overlaps {other}, which readers may see"
                            );
                            !used_again
                        });
                        assert!(
                            !quarantined.contains(&frame_of(table)),
                            "{table} is in quarantine"
                        );
                        let words = memory.table(table, 1 << (shift - 3)).expect("within");
                        assert!(
                            words.iter().all(|word| word.load(Ordering::Relaxed) == 0),
                            "{table} is not zeroed"
                        );
                        words.iter().for_each(|word| word.store(table.get(), Ordering::Relaxed));
                        alive.insert(table, (shift, owner));
                    }
                    Err(Error::Exhausted { shift: asked }) => assert_eq!(asked, shift),
                    Err(Error::Constructor { .. }) => assert!(refused && kind == Kind::User),
                    Err(error) => panic!("{error}"),
                }
                refused &= hooks.refuse.get();
            }
            // Free.
            6..10 => {
                let Some((table, shift, owner)) = nth(&alive, detail) else { continue };
                let clean = step & 0x20 != 0;
                for word in memory.table(table, 1 << (shift - 3)).expect("within") {
                    assert_eq!(
                        word.load(Ordering::Relaxed),
                        table.get(),
                        "somebody wrote to {table}"
                    );
                    word.store(if clean { 0 } else { !0 }, Ordering::Relaxed);
                }
                let contents = if clean { Contents::Zeroed } else { Contents::Stale };
                let freed = match (owner, step & 0x10) {
                    (DEFERRED, _) => {
                        waiting.insert(table, (shift, grace.started.get() + 1));
                        deferred.give(table, shift, contents)
                    }
                    (_, 0) => caches[owner].give(table, shift, contents),
                    (_, _) => fronts[owner].give(table, shift, contents),
                };
                assert_eq!(freed, Ok(()), "{table}");
                alive.remove(&table);
                for again in [
                    caches[owner % 2].give(table, shift, contents),
                    deferred.give(table, shift, contents),
                ] {
                    assert!(
                        matches!(again, Err(Error::NotLive { .. })),
                        "{table} freed twice: {again:?}"
                    );
                }
            }
            // Free what is not one's own, or nothing at all.
            10 => {
                let address =
                    Hpa::new(START.wrapping_sub(0x400).wrapping_add(u64::from(detail) << 8));
                if !alive.contains_key(&address) {
                    assert!(caches[0].give(address, 8, Contents::Stale).is_err());
                    assert!(fronts[1].give(address, 8, Contents::Stale).is_err());
                    assert!(deferred.give(address, 8, Contents::Stale).is_err());
                }
                let Some((table, shift, owner)) = nth(&alive, detail) else { continue };
                let stranger = if owner == 0 { &caches[1] } else { &caches[0] };
                assert!(
                    stranger.give(table, shift, Contents::Stale).is_err(),
                    "{table} freed by another"
                );
                if owner < DEFERRED {
                    assert!(
                        caches[owner].give(table, shift ^ 1, Contents::Stale).is_err(),
                        "{table} freed by another size"
                    );
                    let unaligned = Hpa::new(table.get() + 8);
                    assert!(
                        fronts[owner].give(unaligned, shift, Contents::Stale).is_err(),
                        "{unaligned} freed"
                    );
                }
            }
            // A passer-by.
            11 => {
                let address =
                    Hpa::new(START + (u64::from(detail) << 8) % (u64::from(FRAMES) << SHIFT));
                let inside = |(&table, &(shift, owner)): (&Hpa, &(u8, usize))| {
                    overlaps(table, shift, address, 0).then_some((table, shift, owner))
                };
                let found = frames.try_get(address).expect("within");
                match alive.iter().find_map(inside) {
                    Some((table, shift, owner)) => {
                        let frame = found.as_ref().expect("something is alive there");
                        let what = frame.table_frame().expect("a frame of tables");
                        assert_eq!(
                            (what.owner, what.shift, what.kind),
                            (Owner(owner as u32), shift, kind)
                        );
                        assert_eq!(frame.table_at(address), Some(table));
                        assert!(frame.tables().all(|table| alive.contains_key(&table)));
                    }
                    None => {
                        assert_eq!(found.as_ref().and_then(|frame| frame.table_at(address)), None);
                    }
                }
                if step & 0x10 != 0 {
                    held.extend(found);
                }
            }
            12 => drop(held.pop()),
            13 => {
                let cache = usize::from(detail & 1);
                match detail >> 1 & 3 {
                    0 => drop(caches[cache].trim().expect("sound")),
                    1 => fronts[cache].put_back().expect("sound"),
                    2 => drop(deferred.collect().expect("sound")),
                    _ => drop(deferred.cache().trim().expect("sound")),
                }
            }
            14 => match detail & 3 {
                0 if detail >> 2 < 8 => {
                    let address = Hpa::new(START + (u64::from(detail >> 2) << SHIFT));
                    frames.quarantine(address).expect("within");
                    assert_eq!(frames.is_quarantined(address), Ok(true));
                    quarantined.insert(frame_of(address));
                }
                1 => hooks.refuse.set(true),
                _ => {}
            },
            _ => grace.passed.set(grace.started.get()),
        }
        assert_eq!(frames.census().live as usize, alive.len());
    }

    drop(held);
    grace.passed.set(u64::MAX);
    for _ in 0..2 {
        deferred.collect().expect("sound");
    }
    assert_eq!(deferred.waiting(), 0);
    deferred.cache().close().expect("sound");
    drop(deferred);
    drop(fronts);
    for cache in &caches {
        cache.close().expect("sound");
    }
    for (table, (_, owner)) in alive {
        frames.give(table, Owner(owner as u32)).expect("alive");
    }
    let census = frames.census();
    assert!(census.all_home(), "{census:?}");
    assert_eq!((census.refs, census.fragments), (0, 0));
    assert_eq!(*hooks.frames.borrow(), BTreeSet::new(), "constructed, and never destructed");
    if quarantined.is_empty() {
        assert_eq!(frames.source().available(), FRAMES);
    }
    Ok(())
}
