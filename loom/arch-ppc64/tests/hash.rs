//! Model checks of the protocol of an entry: every interleaving, under Rust's memory model, of the
//! code that ships.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::sync::atomic::Ordering;

use loom::sync::Arc;
use loom::sync::atomic::AtomicU64;
use loom::thread;
use pgtable_ppc64::hash::{Group, HpteV, Pattern, Slot, Word};

/// The model checker's word as a table's.
struct Modelled(AtomicU64);

impl Word for Modelled {
    fn load(&self, order: Ordering) -> u64 {
        self.0.load(order)
    }
    fn store(&self, value: u64, order: Ordering) {
        self.0.store(value, order);
    }
    fn compare_exchange(
        &self,
        current: u64,
        new: u64,
        success: Ordering,
        failure: Ordering,
    ) -> Result<u64, u64> {
        self.0.compare_exchange(current, new, success, failure)
    }
    fn swap(&self, value: u64, order: Ordering) -> u64 {
        self.0.swap(value, order)
    }
    fn fetch_and(&self, value: u64, order: Ordering) -> u64 {
        self.0.fetch_and(value, order)
    }
    fn fetch_or(&self, value: u64, order: Ordering) -> u64 {
        self.0.fetch_or(value, order)
    }
    fn publish(&self, value: u64) {
        self.0.swap(value, Ordering::AcqRel);
    }
    fn relax() {
        thread::yield_now();
    }
}

/// Two words that begin as an entry.
struct Entry([Modelled; 2]);

impl Entry {
    fn new(v: u64, r: u64) -> Arc<Self> {
        Arc::new(Self([v, r].map(|word| Modelled(AtomicU64::new(word.to_be())))))
    }

    fn slot(&self) -> Slot<'_, Modelled> {
        Slot::new(&self.0[0], &self.0[1])
    }
}

/// Does `there` on another thread, and `here` on this one, with one entry; what each returns.
fn beside<T: 'static, U>(
    entry: &Arc<Entry>,
    there: impl FnOnce(Slot<'_, Modelled>) -> T + 'static,
    here: impl FnOnce(Slot<'_, Modelled>) -> U,
) -> (T, U) {
    let same = Arc::clone(entry);
    let thread = thread::spawn(move || there(same.slot()));
    let here = here(entry.slot());
    (thread.join().unwrap(), here)
}

const V: u64 = 1;
const PAGE: u64 = 0x1000 | V;
const OTHER: u64 = 0x2000 | V;
const R: u64 = 0x100;
const C: u64 = 0x80;
const PP: u64 = 3;
/// What `protect` makes of `R`.
const RP: u64 = R | PP;
/// What a search compares.
const PAGE_BITS: u64 = !0x7f | 3;

fn visible(v: u64) -> u64 {
    HpteV::from_bits(v).visible().into_bits()
}

/// Both ways in which an entry is taken out.
const REMOVERS: [fn(Slot<'_, Modelled>) -> Option<u64>; 2] = [remove, remove_at_once];

fn valid(v: u64) -> bool {
    v & V != 0
}

/// Tries every interleaving. Whoever only loads should not be the first thread: with it the checker
/// tries one order only.
fn model(check: impl Fn() + Sync + Send + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(3);
    builder.check(check);
}

/// A processor stores to the page: true if it went through the entry for `PAGE`.
fn store_through(slot: Slot<'_, Modelled>) -> bool {
    loop {
        let v = slot.v();
        if visible(v) != PAGE {
            return false;
        }
        let r = slot.r();
        if r & C != 0 || slot.record(v, r, R | C) {
            return true;
        }
    }
}

fn remove(slot: Slot<'_, Modelled>) -> Option<u64> {
    let mut locked = slot.lock_if(valid).unwrap()?;
    locked.hide();
    Some(locked.clear())
}

/// As `remove`, taking lock and V by one exchange.
fn remove_at_once(slot: Slot<'_, Modelled>) -> Option<u64> {
    loop {
        let v = slot.v();
        if !valid(v) && !HpteV::from_bits(v).hvlock() {
            return None;
        }
        if let Some(hidden) = slot.hide_if(v) {
            let r = hidden.r();
            hidden.clear();
            return Some(r);
        }
        thread::yield_now();
    }
}

fn protect(slot: Slot<'_, Modelled>) -> bool {
    let Some(mut locked) = slot.lock_if(valid).unwrap() else { return false };
    locked.hide();
    locked.update_r(|r| r | PP);
    true
}

#[test]
fn two_enters_share_no_entry() {
    model(|| {
        // Seven entries are taken; both want the last.
        let words = (0..16).map(|index| {
            Modelled(AtomicU64::new(if index % 2 == 0 && index < 14 { V.to_be() } else { 0 }))
        });
        let words: Arc<Vec<_>> = Arc::new(words.collect());
        let threads = [PAGE, OTHER].map(|v| {
            let words = Arc::clone(&words);
            thread::spawn(move || Group::new(&words).unwrap().enter([v, v << 4], 0x80).unwrap())
        });
        let places = threads.map(|thread| thread.join().unwrap());
        assert!(places == [Some(7), None] || places == [None, Some(7)], "{places:?}");
        let [v, r] = Group::new(&words).unwrap().slot(7).read().unwrap();
        assert_eq!(visible(v), if places[0].is_some() { PAGE } else { OTHER });
        assert_eq!(r, visible(v) << 4);
    });
}

#[test]
fn an_enter_that_finds_a_locked_entry_waits_for_it() {
    for remove in REMOVERS {
        model(move || {
            let words: Arc<Vec<_>> =
                Arc::new((0..16).map(|_| Modelled(AtomicU64::new(V.to_be()))).collect());
            let remover = {
                let words = Arc::clone(&words);
                thread::spawn(move || remove(Group::new(&words).unwrap().slot(7)).unwrap())
            };
            let entered = Group::new(&words).unwrap().enter([PAGE, R], 0x80).unwrap();
            remover.join().unwrap();
            let [v, r] = Group::new(&words).unwrap().slot(7).read().unwrap();
            let want = if entered.is_some() { (PAGE, R) } else { (0, 0) };
            assert_eq!((visible(v), r), want);
        });
    }
}

#[test]
fn whoever_sees_an_entry_sees_all_of_it() {
    model(|| {
        let entry = Entry::new(0, 0);
        let read = |slot: Slot<'_, Modelled>| {
            if valid(slot.v()) {
                assert_eq!(slot.r(), R | PP);
            }
        };
        beside(&entry, read, |slot| assert!(slot.enter([PAGE, R | PP])));
    });
}

#[test]
fn who_reads_an_entry_without_its_lock_has_one_entry() {
    model(|| {
        let entry = Entry::new(PAGE, PP);
        let read = |slot: Slot<'_, Modelled>| {
            for (v, r) in [(PAGE, PP), (OTHER, R)] {
                let pattern = Pattern::new(v, !HpteV::new().with_modified(true).into_bits());
                if let Some(words) = slot.read_if(pattern) {
                    assert_eq!(words.map(visible), [v, r]);
                }
            }
        };
        beside(&entry, read, |slot| {
            assert!(remove_at_once(slot).is_some());
            assert!(slot.enter([OTHER, R]));
        });
    });
}

/// Entries of one page, one after the other in one place: `[PAGE, PP]`, then `between` if any, then
/// `[PAGE, R]`.
fn exchange(slot: Slot<'_, Modelled>, between: Option<[u64; 2]>) {
    for words in between.into_iter().chain([[PAGE, R]]) {
        assert!(remove_at_once(slot).is_some());
        assert_eq!(slot.enter_waiting(words), Ok(true));
    }
}

#[test]
fn case_a13_both_doublewords_are_of_one_moment() {
    for between in [None, Some([OTHER, C])] {
        model(move || {
            let entry = Entry::new(PAGE, PP);
            let ([v, r], ()) =
                beside(&entry, |slot| slot.read().unwrap(), |slot| exchange(slot, between));
            let of_one_moment = match visible(v) {
                0 => r == 0,
                PAGE => r == PP || r == R,
                OTHER => between == Some([OTHER, r]),
                _ => false,
            };
            assert!(of_one_moment, "{v:#x} with {r:#x}");
        });
    }
}

#[test]
fn case_a13_a_reader_hinders_nobody() {
    model(|| {
        let entry = Entry::new(PAGE, R);
        let ([v, r], stored) = beside(&entry, |slot| slot.read().unwrap(), store_through);
        assert!(stored);
        assert_eq!((visible(v), r & !C), (PAGE, R));
        // Neither the record nor the mark is lost to the lock that the reader took.
        let now = entry.slot();
        assert_eq!(now.v(), PAGE | HpteV::new().with_modified(true).into_bits());
        assert_eq!(now.r(), R | C);
    });
}

/// A group whose sixth entry is of `PAGE`.
fn group() -> Arc<Vec<Modelled>> {
    let words = (0..16).map(|index| match index {
        10 => PAGE,
        11 => R,
        _ => 0_u64,
    });
    Arc::new(words.map(|word| Modelled(AtomicU64::new(word.to_be()))).collect())
}

/// What a search of the group for `PAGE` on another thread finds, while this one does `here` with
/// the sixth entry.
fn found_beside(here: impl FnOnce(Slot<'_, Modelled>)) -> Option<(usize, [u64; 2])> {
    let words = group();
    let same = Arc::clone(&words);
    let searcher = thread::spawn(move || {
        let pattern = Pattern::new(PAGE, PAGE_BITS);
        Group::new(&same).unwrap().find(pattern, |_| true).unwrap()
    });
    here(Group::new(&words).unwrap().slot(5));
    searcher.join().unwrap()
}

/// Every word of a group is a load that may be early or late: one preemption less.
fn model_of_a_group(check: impl Fn() + Sync + Send + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(2);
    builder.check(check);
}

#[test]
fn case_a10_an_entry_that_stays_is_found() {
    let hide: [fn(Slot<'_, Modelled>); 2] =
        [|slot| assert!(protect(slot)), |slot| drop(slot.hide_if(PAGE))];
    for hide in hide {
        model_of_a_group(move || {
            let found = found_beside(hide);
            let Some((5, [v, R | RP])) = found else { panic!("{found:x?}") };
            assert_eq!(visible(v), PAGE);
        });
    }
}

#[test]
fn case_a10_an_entry_that_goes_is_found_whole_or_not_at_all() {
    model_of_a_group(|| {
        let found = found_beside(|slot| {
            assert_eq!(remove_at_once(slot), Some(R));
            assert_eq!(slot.enter_waiting([PAGE, PP]), Ok(true));
        });
        match found {
            None | Some((5, [_, R | PP])) => {}
            found => panic!("{found:x?}"),
        }
    });
}

#[test]
fn remove_against_protect() {
    for remove in REMOVERS {
        model(move || {
            let entry = Entry::new(PAGE, R);
            let (protected, removed) = beside(&entry, protect, remove);
            let removed = removed.unwrap();
            assert_eq!(removed, if protected { R | PP } else { R });
            assert_eq!(entry.slot().read().map(|[v, r]| (visible(v), r)), Ok((0, 0)));
        });
    }
}

#[test]
fn one_of_two_removes_has_the_entry() {
    model(|| {
        let entry = Entry::new(PAGE, R);
        let (there, here) = beside(&entry, remove, remove_at_once);
        let removed = [there, here];
        assert!(removed == [Some(R), None] || removed == [None, Some(R)], "{removed:?}");
        assert_eq!(entry.slot().read().map(|[v, r]| (visible(v), r)), Ok((0, 0)));
    });
}

#[test]
fn a_store_before_a_remove_is_in_its_answer() {
    for remove in REMOVERS {
        model(move || {
            let entry = Entry::new(PAGE, R);
            let (stored, removed) = beside(&entry, store_through, |slot| {
                let removed = remove(slot).unwrap();
                // The same place, the same second doubleword, another page.
                assert_eq!(slot.enter_waiting([OTHER, R]), Ok(true));
                removed
            });
            if stored {
                assert_eq!(removed & C, C, "an update was lost");
            }
            let [v, r] = entry.slot().read().unwrap();
            assert_eq!((visible(v), r & !C), (OTHER, R));
        });
    }
}

/// A store while the entry is hidden for a moment: it is put back as it was, or with other rights.
#[test]
fn a_store_while_an_entry_is_hidden_is_kept() {
    type Hides = fn(Slot<'_, Modelled>);
    let hides: [(Hides, u64); 2] =
        [(|slot| drop(slot.hide_if(PAGE)), R), (|slot| assert!(protect(slot)), RP)];
    for (hide, after) in hides {
        model(move || {
            let entry = Entry::new(PAGE, R);
            let (stored, ()) = beside(&entry, store_through, hide);
            let [v, r] = entry.slot().read().unwrap();
            assert_eq!((visible(v), r & !C), (PAGE, after));
            assert!(!stored || r & C != 0, "an update was lost");
        });
    }
}

#[test]
fn the_incremental_reader_misses_nothing() {
    model(|| {
        let entry = Entry::new(PAGE | HpteV::new().with_modified(true).into_bits(), R);
        let read = |slot: Slot<'_, Modelled>| {
            slot.take_modified();
            slot.read().unwrap()
        };
        let ([_, seen], stored) = beside(&entry, read, store_through);
        assert!(stored);
        let [v, r] = entry.slot().read().unwrap();
        assert_eq!(r & C, C);
        assert!(seen & C != 0 || HpteV::from_bits(v).modified(), "a change would never be read");
    });
}
