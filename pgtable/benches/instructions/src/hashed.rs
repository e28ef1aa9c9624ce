//! A hashed page table, filled to a half.

use std::sync::atomic::AtomicU64;

use arch_ppc64::hash::{
    Authority, HashMmu, Hpt, HptOrder, Hpte, HpteR, Layout, PageSize, Segment, SegmentSize, Slb,
    SlbEsid, VirtualPage,
};
use pgtable::memory::DirectMap;
use pgtable::{Access, Gpa, Gva};

use crate::count;

/// log2 of the table's bytes: 16,384 entries.
const ORDER: u64 = 18;
const ENTRIES: u64 = 1 << 13;
const SEGMENT: Segment = Segment {
    vsid: 0x7d7_4cb,
    size: SegmentSize::T1,
    base: PageSize::K4,
    ks: false,
    kp: true,
    n: false,
    class: false,
};

pub fn rows() {
    let order = HptOrder::new(ORDER).unwrap();
    let words: Vec<_> = (0..order.bytes() / 8).map(|_| AtomicU64::new(0)).collect();
    let start = Gpa::new(1 << 40);
    let hpt = Hpt::new(DirectMap::new(&words, start), start, order, Layout::V3).unwrap();
    let mut slb = Slb::new();
    slb.slbmte(SlbEsid::new().with_v(true), SEGMENT.slb_word()).unwrap();
    let mmu = HashMmu { slb: &slb, hpt: &hpt, authority: Authority::default() };

    let real = |address: u64| address ^ 0x5a5a_5000;
    let page = |address| VirtualPage::of(&SEGMENT, Gva::new(address));
    // R and C are set, as Linux makes them.
    let entry = |address| Hpte { v: page(address).v(), r: HpteR::from_bits(real(address) | 0x192) };

    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut random = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state >> 36 << 12
    };
    let mut keys: Vec<_> = (0..ENTRIES).map(|_| random()).collect();
    keys.sort_unstable();
    keys.dedup();
    // Those that find both their groups full are left out.
    keys.retain(|&key| hpt.insert(&page(key), entry(key)).unwrap().is_some());
    keys.iter().for_each(|&key| assert!(hpt.remove(&page(key)).unwrap().is_some()));
    let entries = keys.len() as u64;
    let sum = keys.iter().fold(0, |sum: u64, &key| sum.wrapping_add(real(key)));

    count("hash, enter", entries, || {
        for &key in &keys {
            assert!(hpt.insert(&page(key), entry(key)).unwrap().is_some());
        }
    });
    count("hash, translate", entries, || {
        let found = keys.iter().fold(0, |sum: u64, &key| {
            sum.wrapping_add(mmu.translate(Gva::new(key), Access::READ).unwrap().real)
        });
        assert_eq!(found, sum);
    });
    count("hash, remove", entries, || {
        for &key in &keys {
            assert!(hpt.remove(&page(key)).unwrap().is_some());
        }
    });
}
