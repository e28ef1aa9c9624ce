//! Memory images whose every word is an entry of some kind: a walk through one goes deep, and finds
//! everything on its way.

use std::sync::atomic::AtomicU64;

use pgtable::memory::DirectMap;
use pgtable::{Access, AccessKind, Address, Privilege};
use proptest::prelude::*;

/// Tables in an image.
const TABLES: u64 = 8;

/// Memory from address 0 on.
pub struct Image {
    words: Vec<AtomicU64>,
}

impl Image {
    pub fn new(mut word: impl FnMut() -> u64) -> Self {
        Self { words: (0..TABLES * 512).map(|_| AtomicU64::new(word())).collect() }
    }

    pub fn memory<A: Address>(&self) -> DirectMap<'_, A> {
        DirectMap::new(&self.words, A::new(0))
    }

    pub fn read(&self, address: u64) -> Option<u64> {
        self.words
            .get(address as usize / 8)
            .map(|word| word.load(std::sync::atomic::Ordering::Relaxed))
    }
}

/// Dice, from a seed (SplitMix64).
pub struct Dice(pub u64);

impl Dice {
    pub fn word(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ self.0 >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ z >> 31
    }

    pub fn one_in(&mut self, n: u64) -> bool {
        self.word() % n == 0
    }

    /// The address of a table, mostly one in the image.
    pub fn table(&mut self) -> u64 {
        let tables = if self.one_in(30) { 4 * TABLES } else { TABLES };
        (self.word() % tables) << 12
    }

    /// The address of a page, mostly aligned for a huge one.
    pub fn huge(&mut self) -> u64 {
        let shift = if self.one_in(6) { 12 } else { 30 };
        (self.word() & 0x3f) << shift
    }

    /// A bit of 51:32, seldom.
    pub fn stray(&mut self) -> u64 {
        if self.one_in(60) { 1 << (32 + self.word() % 20) } else { 0 }
    }
}

pub fn access() -> impl Strategy<Value = Access> {
    let kind =
        prop_oneof![Just(AccessKind::Read), Just(AccessKind::Write), Just(AccessKind::Fetch)];
    let privilege = prop_oneof![Just(Privilege::User), Just(Privilege::Supervisor)];
    (kind, privilege).prop_map(|(kind, privilege)| Access { kind, privilege })
}
