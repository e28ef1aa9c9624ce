//! The floor: what one would write by hand for exactly one shape, 13 + 9 + 9 + 9 bits of big-endian
//! words, and nothing else.
//!
//! No bounds check, no `Result`, no live count, no permission, no other size; both stages of the
//! same shape, the second for all of memory.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::row::{DIRTY, Order, Row, Trees};
use bench_harness::arena::{self, Arena};
use bench_harness::work::{PAGES, Work};

pub const ROWS: &[Row] = &[
    Row::Map,
    Row::WalkWarm,
    Row::WalkHot,
    Row::WalkCold,
    Row::Harvest,
    Row::TwoWarm,
    Row::TwoHot,
    Row::TwoCold,
];

const VALID: u64 = 1 << 63;
const LEAF: u64 = 1 << 62;
const CHANGED: u64 = 0x80;
const RW: u64 = VALID | LEAF | 0x18e;
const TABLE: u64 = VALID | 9;
const ADDRESS: u64 = 0x01ff_ffff_ffff_f000;
/// Shifts of the levels below the root, and the root's own.
const SHIFTS: [u8; 4] = [39, 30, 21, 12];
const ROOT_BYTES: u64 = 64 << 10;
/// A page of the guest's is at so much more in the host.
const OFFSET: u64 = 0x100_0000_0000;

/// Two trees in one block: the guest's, and that of the host, which maps the block at its own
/// addresses too.
pub struct ByHand {
    arena: Arena,
    top: u64,
    guest: u64,
    host: u64,
    bitmap: Vec<u64>,
}

impl ByHand {
    pub fn new() -> Self {
        let arena = Arena::new(0x4000_0000, 3 * arena::BYTES);
        let mut it =
            Self { arena, top: 0, guest: 0, host: 0, bitmap: vec![0; PAGES as usize / 64] };
        it.reset();
        it
    }

    fn allocate(&mut self, bytes: u64) -> u64 {
        let table = self.top;
        self.top += bytes;
        assert!(self.top <= self.arena.start + self.arena.bytes as u64);
        table
    }

    #[inline(always)]
    fn word(&self, address: u64) -> &AtomicU64 {
        // SAFETY: an entry of a table of the arena.
        unsafe { &*(address.wrapping_add(self.arena.offset()) as *const AtomicU64) }
    }

    #[inline(always)]
    fn load(&self, table: u64, input: u64, shift: u8) -> u64 {
        let mask = if shift == 39 { 0x1fff } else { 0x1ff };
        u64::from_be(self.word(table + ((input >> shift & mask) << 3)).load(Ordering::Relaxed))
    }

    fn leaf_or_new(&mut self, root: u64, input: u64) -> u64 {
        let mut table = root;
        for shift in SHIFTS {
            let mask = if shift == 39 { 0x1fff } else { 0x1ff };
            let entry = table + ((input >> shift & mask) << 3);
            if shift == 12 {
                return entry;
            }
            let word = u64::from_be(self.word(entry).load(Ordering::Relaxed));
            table = if word & VALID != 0 {
                word & ADDRESS
            } else {
                let new = self.allocate(4096);
                self.word(entry).store((new | TABLE).to_be(), Ordering::Relaxed);
                new
            };
        }
        unreachable!("the last level returns")
    }

    #[inline(always)]
    fn map(&mut self, root: u64, input: u64, output: u64) {
        let entry = self.leaf_or_new(root, input);
        self.word(entry).store((output | RW).to_be(), Ordering::Relaxed);
    }

    #[inline(always)]
    fn one_stage(&self, root: u64, input: u64) -> Option<u64> {
        let mut table = root;
        for shift in SHIFTS {
            let word = self.load(table, input, shift);
            if word & VALID == 0 {
                return None;
            }
            table = word & ADDRESS;
        }
        Some(table | input & 0xfff)
    }

    #[inline(always)]
    fn two_stages(&self, input: u64) -> Option<u64> {
        let mut table = self.guest;
        for shift in SHIFTS {
            let mask = if shift == 39 { 0x1fff } else { 0x1ff };
            let entry = self.one_stage(self.host, table + ((input >> shift & mask) << 3))?;
            let word = u64::from_be(self.word(entry).load(Ordering::Relaxed));
            if word & VALID == 0 {
                return None;
            }
            table = word & ADDRESS;
        }
        self.one_stage(self.host, table | input & 0xfff)
    }
}

impl Trees for ByHand {
    fn reset(&mut self) {
        self.arena.clear();
        self.top = self.arena.start;
        (self.guest, self.host) = (self.allocate(ROOT_BYTES), self.allocate(ROOT_BYTES));
    }

    #[inline(never)]
    fn map_each(&mut self, work: &Work) {
        for index in 0..PAGES {
            self.map(self.guest, work.input(index), work.scattered(index));
        }
    }

    #[inline(never)]
    fn translate_each(&self, order: &Order<'_>) -> u64 {
        let mut sum = 0u64;
        for &index in order.indices {
            sum = sum
                .wrapping_add(self.one_stage(self.guest, order.work.input(index.into())).unwrap());
        }
        sum
    }

    fn prepare_two(&mut self, work: &Work) {
        if self.one_stage(self.host, self.guest).is_some() {
            return;
        }
        for index in 0..PAGES {
            self.map(self.host, work.scattered(index), work.scattered(index) + OFFSET);
        }
        for table in (self.arena.start..self.arena.start + self.arena.bytes as u64).step_by(4096) {
            self.map(self.host, table, table);
        }
    }

    #[inline(never)]
    fn translate_two(&self, order: &Order<'_>, _: bool) -> u64 {
        let mut sum = 0u64;
        for &index in order.indices {
            sum =
                sum.wrapping_add(self.two_stages(order.work.input(index.into())).unwrap() - OFFSET);
        }
        sum
    }

    fn soil(&mut self, work: &Work) {
        for index in 0..PAGES {
            let entry = self.leaf_or_new(self.guest, work.input(index));
            let dirty = if index % DIRTY == 3 { CHANGED } else { 0 };
            self.word(entry)
                .store((work.scattered(index) | RW & !CHANGED | dirty).to_be(), Ordering::Relaxed);
        }
        self.bitmap.fill(0);
    }

    #[inline(never)]
    fn harvest(&mut self, work: &Work) -> u64 {
        let mut set = 0;
        for first in (0..PAGES).step_by(512) {
            let table = self.leaf_or_new(self.guest, work.input(first));
            for index in 0..512 {
                let word = self.word(table + index * 8);
                if word.load(Ordering::Relaxed) & CHANGED.to_be() != 0 {
                    word.fetch_and(!CHANGED.to_be(), Ordering::Relaxed);
                    let page = (first + index) as usize;
                    self.bitmap[page / 64] |= 1 << (page % 64);
                    set += 1;
                }
            }
        }
        set
    }
}
