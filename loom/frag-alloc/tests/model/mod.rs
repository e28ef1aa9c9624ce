//! What the model checks share: a tiny frame table that threads can own together, and how long to
//! look.

// Each suite includes this file and uses its part of it.
#![allow(dead_code, reason = "each test file that includes it uses its own part")]

use std::sync::atomic::AtomicU64;

use frag_alloc::{Cache, Frames, Hooks, Kind, Owner, Policy, Refused, Region};
use loom::sync::Arc;
use loom::sync::atomic::{AtomicU32, Ordering};
use pgtable::Hpa;
use pgtable::memory::{MemoryError, ReadMemory, TableMemory};

/// Frames of two tables of 256 bytes.
pub const FRAME: u8 = 9;
/// Their tables.
pub const TABLE: u8 = 8;

/// Words that nobody looks at: the models are about the book-keeping.
#[derive(Debug)]
pub struct Words(Box<[AtomicU64]>);

impl ReadMemory<Hpa> for Words {
    pgtable::words_in_place!(Hpa);
}

impl TableMemory<Hpa> for Words {
    fn word(&self, address: Hpa) -> Result<&AtomicU64, MemoryError> {
        self.0.get(address.get() as usize / 8).ok_or(MemoryError::outside(address, 1))
    }

    fn table(&self, address: Hpa, words: usize) -> Result<&[AtomicU64], MemoryError> {
        let start = address.get() as usize / 8;
        self.0.get(start..start + words).ok_or(MemoryError::outside(address, words))
    }

    fn wrote(&self, _: Hpa, _: usize) {}
}

/// Counts what was constructed and destructed.
#[derive(Clone, Debug)]
pub struct Counts(Arc<(AtomicU32, AtomicU32)>);

impl Hooks<Hpa> for Counts {
    fn construct(&self, _: Hpa, _: u8) -> Result<(), Refused> {
        self.0.0.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }

    fn destruct(&self, _: Hpa, _: u8) {
        self.0.1.fetch_add(1, Ordering::Relaxed);
    }
}

pub type Source = Region<Hpa, Words, Counts>;
pub type Table = Arc<Frames<Hpa, Source>>;

/// `frames` frames, all with their source.
pub fn frames(frames: u32) -> (Table, Counts) {
    let counts = Counts(Arc::new((AtomicU32::new(0), AtomicU32::new(0))));
    let words = Words((0..frames << (FRAME - 3)).map(|_| AtomicU64::new(0)).collect());
    let source = Region::with_hooks(words, Hpa::new(0), frames, FRAME, counts.clone())
        .expect("aligned and within");
    (Arc::new(Frames::new(source).expect("small")), counts)
}

/// A cache of user tables that threads can share.
pub fn cache(frames: &Table, policy: Policy) -> Arc<Cache<Hpa, Source, Table>> {
    Arc::new(Cache::new(frames.clone(), Owner(1), Kind::User, policy))
}

/// Every frame is home, both counters are zero, and each construction was undone exactly once.
pub fn assert_all_home(frames: &Table, counts: &Counts, all: u32) {
    assert!(frames.census().all_home(), "{:?}", frames.census());
    assert_eq!(frames.source().available(), all);
    assert_eq!(counts.0.0.load(Ordering::Relaxed), counts.0.1.load(Ordering::Relaxed));
}

/// Every interleaving.
pub fn check(model: impl Fn() + Sync + Send + 'static) {
    explore(None, model);
}

/// Every interleaving with up to three preemptions: what has more steps than `check` gets through
/// in seconds. Each fault in `loom_designs.rs` needs no more than two.
pub fn check_to_depth(model: impl Fn() + Sync + Send + 'static) {
    explore(Some(3), model);
}

/// Every interleaving with up to so many preemptions.
pub fn explore(preemption_bound: Option<usize>, model: impl Fn() + Sync + Send + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = preemption_bound;
    builder.max_branches = 10_000;
    builder.check(model);
}
