//! An entry whose lock bit was left set, by a guest that can write the table or by a CPU that died:
//! whoever waits for it comes back, after a number of tries that has a bound, with `H_BUSY`, and
//! has changed nothing.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::cell::Cell;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;

use pgtable::memory::DirectMap;
use pgtable::{Gpa, Hpa};
use pgtable_ppc64::hash::{
    Busy, Dialect, Group, HashTlbie, Hcalls, Hpt, HptOrder, Layout, PageSize, Partition, Refused,
    ReturnCode, Slot, Storage, Word,
};

/// HVLOCK and V, in a first doubleword (Power ISA v2.07 Book III-S 5.7.7.1: bits 57 to 60 are
/// software's, of which Linux takes this one).
const LOCK: u64 = 0x40;
const VALID: u64 = 1;
/// The most looks at one entry.
const PATIENCE: u64 = 1 << 22;

thread_local! {
    static LOOKS: Cell<u64> = const { Cell::new(0) };
}

/// A word that counts who looks at it.
struct Counted(AtomicU64);

impl Counted {
    fn look(&self) -> &AtomicU64 {
        LOOKS.set(LOOKS.get() + 1);
        &self.0
    }
}

impl Word for Counted {
    fn load(&self, order: Ordering) -> u64 {
        self.look().load(order)
    }

    fn store(&self, _: u64, _: Ordering) {
        panic!("an entry was changed that somebody else has locked");
    }

    fn compare_exchange(
        &self,
        current: u64,
        new: u64,
        success: Ordering,
        failure: Ordering,
    ) -> Result<u64, u64> {
        self.look().compare_exchange(current, new, success, failure)
    }

    fn swap(&self, _: u64, _: Ordering) -> u64 {
        panic!("an entry was changed that somebody else has locked");
    }

    fn fetch_and(&self, value: u64, order: Ordering) -> u64 {
        self.look().fetch_and(value, order)
    }

    fn fetch_or(&self, value: u64, order: Ordering) -> u64 {
        self.look().fetch_or(value, order)
    }

    // Tries are counted here; how long each takes is another question.
    fn relax() {}
}

/// A locked entry and its second doubleword.
fn counted(v: u64) -> [Counted; 2] {
    [Counted(AtomicU64::new(v.to_be())), Counted(AtomicU64::new(0))]
}

/// How often `wait` looked.
fn looks<T>(wait: impl FnOnce() -> T) -> (T, u64) {
    LOOKS.set(0);
    let waited = wait();
    (waited, LOOKS.get())
}

#[test]
fn waiting_is_so_many_looks() {
    let [v, r] = counted(LOCK | VALID);
    let slot = Slot::new(&v, &r);
    let (busy, tries) = looks(|| slot.lock_if(|_| true).map(|_| ()));
    assert_eq!(busy, Err(Busy));
    assert!(tries <= PATIENCE + 1, "{tries}");
    // A reader looks at both words, and again at the first.
    let (busy, tries) = looks(|| slot.read());
    assert_eq!(busy, Err(Busy));
    assert!(tries <= 2 * PATIENCE + 1, "{tries}");
    // Who only looks whether he can have it does not wait.
    let (none, tries) = looks(|| slot.try_lock_if(|_| true).is_none());
    assert!(none && tries == 1, "{tries}");
    assert!(!slot.enter([VALID, 0]));
    // A whole group of them is not waited for eight times.
    let group: Vec<[Counted; 2]> = (0..8).map(|_| counted(LOCK)).collect();
    let words: Vec<Counted> = group.into_iter().flatten().collect();
    let group = Group::new(&words).unwrap();
    let (busy, tries) = looks(|| group.enter([VALID, 0], u8::MAX));
    assert_eq!(busy, Err(Busy));
    assert!(tries <= PATIENCE + 32, "{tries}");
}

/// A partition of nothing but memory.
struct Memory;

impl Partition for Memory {
    fn invalidate(&self, operand: HashTlbie) {
        panic!("{operand:?}: nothing is to be invalidated");
    }

    fn storage(&self, _: Gpa, _: PageSize) -> Storage {
        Storage::Memory
    }

    fn zero(&self, _: Gpa, _: PageSize) -> Result<(), Refused> {
        Err(Refused)
    }

    fn copy(&self, _: Gpa, _: Gpa) -> Result<(), Refused> {
        Err(Refused)
    }
}

const ENTRIES: usize = 1 << 14;
const PTEX: u64 = 0x108;
const EXACT: u64 = 1 << 39;

#[test]
fn every_hypercall_comes_back() {
    let removal = 1 << 62 | PTEX;
    let calls: [(&str, u64, [u64; 4]); 7] = [
        ("H_ENTER, exactly there", 0x08, [EXACT, PTEX, VALID, 0x10]),
        ("H_ENTER, where it finds a place", 0x08, [0, PTEX, VALID, 0x10]),
        ("H_REMOVE", 0x04, [0, PTEX, 0, 0]),
        ("H_PROTECT", 0x18, [0, PTEX, 0, 0]),
        ("H_READ", 0x0c, [0, PTEX, 0, 0]),
        ("H_CLEAR_REF", 0x14, [0, PTEX, 0, 0]),
        ("H_BULK_REMOVE", 0x124, [removal, 0, 3 << 62, 0]),
    ];
    // Each waits for itself; two at a time.
    thread::scope(|scope| {
        for part in calls.chunks(calls.len().div_ceil(2)) {
            scope.spawn(move || {
                part.iter()
                    .for_each(|&(name, number, arguments)| comes_back(name, number, arguments));
            });
        }
    });
}

fn comes_back(name: &str, number: u64, first: [u64; 4]) {
    let words: Vec<AtomicU64> = (0..2 * ENTRIES).map(|_| AtomicU64::new(0)).collect();
    let hpt = Hpt::new(DirectMap::new(&words, Hpa::new(0)), Hpa::new(0), HptOrder::MIN, Layout::V3)
        .unwrap();
    // The whole group is locked: there is no free place beside the one that is asked for.
    for entry in words[2 * PTEX as usize..].chunks(2).take(8) {
        entry[0].store((LOCK | VALID).to_be(), Ordering::Relaxed);
        entry[1].store(0x190_u64.to_be(), Ordering::Relaxed);
    }
    let before: Vec<u64> = words.iter().map(|word| word.load(Ordering::Relaxed)).collect();
    let mut arguments = [0; 9];
    arguments[..4].copy_from_slice(&first);
    let answer = Hcalls::new(&hpt, &Memory, Dialect::Kvm).call(number, arguments);
    assert_eq!(answer.code, ReturnCode::Busy, "{name}");
    let after: Vec<u64> = words.iter().map(|word| word.load(Ordering::Relaxed)).collect();
    assert!(before == after, "{name} changed the table");
}

/// The neighbours of a locked entry do not wait for it.
#[test]
fn the_rest_of_the_group_goes_on() {
    let words: Vec<AtomicU64> = (0..2 * ENTRIES).map(|_| AtomicU64::new(0)).collect();
    let hpt = Hpt::new(DirectMap::new(&words, Hpa::new(0)), Hpa::new(0), HptOrder::MIN, Layout::V3)
        .unwrap();
    words[2 * PTEX as usize].store(LOCK.to_be(), Ordering::Relaxed);
    let calls = Hcalls::new(&hpt, &Memory, Dialect::Kvm);
    for place in 1..8 {
        assert_eq!(calls.enter(0.into(), PTEX, VALID.into(), 0x10.into()), Ok(PTEX + place));
    }
}
