//! What is done to each page table: the addresses, and the loops.

use std::hint::black_box;

/// How many pages are mapped.
pub const PAGES: u64 = 1 << 20;
/// The pages among which hot translations choose.
const HOT: u64 = 4096;
/// In mixed tables, one page in so many is missing.
pub const HOLES: u64 = 64;
/// Where the mapped range begins.
pub const INPUT: u64 = 0x20_0000_0000;
/// Where mapped pages lie; an odd number of pages is added, so that no larger leaf fits a range.
const OUTPUT: u64 = 0x10_0000_0000;
/// Any odd factor permutes the pages; this one leaves no two of them neighbours.
const SCATTER: u64 = 0x9e37_79b1;

/// The addresses of a bench of pages of `2^shift` bytes.
pub struct Work {
    pub shift: u8,
    /// Random pages among a few.
    pub hot: Order,
    /// Random pages among all.
    pub cold: Order,
    /// What the sum of all pages is.
    pub total: u64,
}

/// Pages to translate, and the sum of what must come out.
pub struct Order {
    pub indices: Vec<u32>,
    pub sum: u64,
}

impl Work {
    pub fn new(shift: u8) -> Self {
        let mut state = 0x853c_49e6_748f_ea9b_u64;
        let mut random = |below: u64| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            (state >> 11 & (below - 1)) as u32
        };
        let mut order = |below| {
            let indices: Vec<_> = (0..PAGES).map(|_| random(below)).collect();
            Order { sum: sum(shift, indices.iter().map(|&index| index.into())), indices }
        };
        Self { shift, hot: order(HOT), cold: order(PAGES), total: sum(shift, 0..PAGES) }
    }

    /// The size of all.
    #[inline]
    pub fn bytes(&self) -> u64 {
        PAGES << self.shift
    }

    /// The input address of page `index`.
    #[inline(always)]
    pub fn input(&self, index: u64) -> u64 {
        INPUT + (index << self.shift)
    }

    /// Where page `index` lies if pages are scattered.
    #[inline(always)]
    pub fn scattered(&self, index: u64) -> u64 {
        scattered(self.shift, index)
    }

    /// Where page `index` lies if they follow each other.
    #[inline(always)]
    pub fn contiguous(&self, index: u64) -> u64 {
        OUTPUT + ((index + 1) << self.shift)
    }
}

#[inline(always)]
fn scattered(shift: u8, index: u64) -> u64 {
    OUTPUT + ((index.wrapping_mul(SCATTER) & (PAGES - 1)) << shift)
}

/// The sum of what the pages `order` translate to, scattered.
fn sum(shift: u8, order: impl Iterator<Item = u64>) -> u64 {
    order.fold(0, |sum, index| sum.wrapping_add(scattered(shift, index)))
}

/// A page table, as the bench calls it. Everything panics on a failure: that is how each result is
/// checked.
///
/// The loops are provided, and never inlined, so that each peer's is one function of its own; they
/// are replaced only where an interface wants its calls strung together in another way.
pub trait PageTables {
    /// Makes it empty and its memory as new.
    fn reset(&mut self);

    /// Maps a page that is not mapped.
    fn map(&mut self, input: u64, output: u64);

    /// Where an address translates to, its offset within the page included.
    fn translate(&self, input: u64) -> Option<u64>;

    /// Unmaps a page that is mapped.
    fn unmap(&mut self, input: u64) {
        unreachable!("unmap {input:#x}");
    }

    /// Maps a range in pages of the smallest size.
    fn map_range(&mut self, input: u64, output: u64, bytes: u64) {
        unreachable!("map {input:#x} {output:#x} {bytes:#x}");
    }

    /// Unmaps a range of which `present` bytes are mapped.
    fn unmap_range(&mut self, input: u64, bytes: u64, present: u64) {
        unreachable!("unmap {input:#x} {bytes:#x} {present:#x}");
    }

    /// Makes a range writable or read-only; it is the other.
    fn protect_range(&mut self, input: u64, bytes: u64, writable: bool) {
        unreachable!("protect {input:#x} {bytes:#x} {writable}");
    }

    /// Visits every mapped page of a range; the sum of where they lie.
    fn iterate(&self, input: u64, bytes: u64) -> u64 {
        unreachable!("iterate {input:#x} {bytes:#x}");
    }

    /// The same, from runs of table words.
    fn iterate_runs(&self, input: u64, bytes: u64) -> u64 {
        unreachable!("iterate {input:#x} {bytes:#x}");
    }

    /// The same, by an `Iterator`.
    fn iterate_external(&self, input: u64, bytes: u64) -> u64 {
        unreachable!("iterate {input:#x} {bytes:#x}");
    }

    /// Maps every page in order, by a cursor.
    fn map_by_cursor(&mut self, _: &Work) {
        unreachable!("no cursor");
    }

    /// Unmaps every page in order, by a cursor.
    fn unmap_by_cursor(&mut self, _: &Work) {
        unreachable!("no cursor");
    }

    /// Translates every page in order, by a cursor; the sum of where they lie.
    fn translate_by_cursor(&mut self, _: &Work) -> u64 {
        unreachable!("no cursor");
    }

    /// Translates many pages at once; the sum of where they lie.
    fn translate_anchored(&self, _: &Work, _: &[u32]) -> u64 {
        unreachable!("no anchor");
    }

    fn protect_range_stopped(&mut self, _: u64, _: u64, _: bool) {
        unreachable!("no such difference");
    }

    fn translate_batch(&self, _: &Work, _: &[u32]) -> u64 {
        unreachable!("no batch");
    }

    #[inline(never)]
    fn map_each(&mut self, work: &Work) {
        for index in 0..PAGES {
            self.map(work.input(index), work.scattered(index));
        }
    }

    #[inline(never)]
    fn translate_each(&self, work: &Work, order: &[u32]) -> u64 {
        let mut sum = 0u64;
        for &index in order {
            sum = sum.wrapping_add(self.translate(work.input(index.into())).unwrap());
        }
        sum
    }

    #[inline(never)]
    fn translate_in_order(&self, work: &Work) -> u64 {
        let mut sum = 0u64;
        for index in 0..PAGES {
            sum = sum.wrapping_add(self.translate(work.input(index)).unwrap());
        }
        sum
    }

    #[inline(never)]
    fn unmap_each(&mut self, work: &Work) {
        self.unmap_alone(work);
    }

    /// As `unmap_each`, each call complete in itself: with the invalidation it needs, and the
    /// tables freed.
    #[inline(never)]
    fn unmap_alone(&mut self, work: &Work) {
        for index in 0..PAGES {
            self.unmap(work.input(index));
        }
    }

    /// Unmaps one page in [`HOLES`], so that no table is full.
    fn punch(&mut self, work: &Work) {
        for index in (0..PAGES).step_by(HOLES as usize) {
            self.unmap(work.input(index));
        }
    }

    /// Maps and unmaps one page, again and again.
    #[inline(never)]
    fn churn(&mut self, work: &Work) {
        for index in 0..PAGES {
            self.map(black_box(work.input(0)), work.scattered(index));
            self.unmap(black_box(work.input(0)));
        }
    }
}
