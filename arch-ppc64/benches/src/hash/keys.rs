//! The keys: pages at random in one segment of 1T, as many as fit.

use pgtable::Gva;
use pgtable_ppc64::hash::{Hpte, HpteR, PageSize, Segment, SegmentSize, Slb, SlbEsid, VirtualPage};

use crate::memory::table;
use crate::row::{Heat, Load};

/// The segment.
pub const SEGMENT: Segment = Segment {
    vsid: 0x7d7_4cb,
    size: SegmentSize::T1,
    base: PageSize::K4,
    ks: false,
    kp: true,
    n: false,
    class: false,
};

/// An SLB with that segment.
pub fn slb() -> Slb {
    let mut slb = Slb::new();
    slb.slbmte(SlbEsid::new().with_v(true), SEGMENT.slb_word()).unwrap();
    slb
}

/// Numbers in no order.
pub struct Random(pub u64);

impl Random {
    pub fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    fn below(&mut self, end: usize) -> usize {
        ((u128::from(self.next()) * end as u128) >> 64) as usize
    }

    pub fn shuffle<T>(&mut self, items: &mut [T]) {
        for index in (1..items.len()).rev() {
            items.swap(index, self.below(index + 1));
        }
    }
}

/// The page at `address`.
#[inline(always)]
pub fn page(address: u64) -> VirtualPage {
    VirtualPage::of(&SEGMENT, Gva::new(address))
}

/// Where it is.
#[inline(always)]
pub fn real(address: u64) -> u64 {
    address ^ 0x5a5a_5000
}

/// Its entry: R and C are set, as Linux makes them.
#[inline(always)]
pub fn entry(page: &VirtualPage, address: u64) -> Hpte {
    Hpte { v: page.v(), r: HpteR::from_bits(real(address) | 0x192) }
}

/// The addresses of pages that fill a table of `heat` to `load`: those that find no place in either
/// group are left out, as the hash map has room for any.
pub fn keys(heat: Heat, load: Load) -> Vec<u64> {
    let hpt = table(heat.entries_shift() + 4);
    let mut random = Random(0x9e37_79b9_7f4a_7c15);
    let mut keys = Vec::new();
    while keys.len() < load.keys(heat) {
        let address = random.next() >> 36 << 12;
        let page = page(address);
        let new = hpt.find(&page).unwrap().is_none();
        if new && hpt.insert(&page, entry(&page, address)).unwrap().is_some() {
            keys.push(address);
        }
    }
    random.shuffle(&mut keys);
    keys
}
