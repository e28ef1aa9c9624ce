//! A hashed page table, filled to a half.

use std::hint::black_box;
use std::sync::atomic::{AtomicU64, Ordering};

use arch_ppc64::hash::{
    Authority, HashMmu, Hpt, HptOrder, Hpte, HpteR, Layout, PageSize, Segment, SegmentSize, Slb,
    SlbEsid, VirtualPage,
};
use pgtable::{Access, DirectMap, Gpa, Gva, low_bits};

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
    let hand = ByHand {
        words: &words,
        last_group: order.groups() - 1,
        // The segment begins at 0.
        segment: [!low_bits(40), 0],
        hash: page(0).hash().0,
        v: page(0).v().into_bits(),
        // Everything is compared but B, of which the second doubleword tells: R is set, and the
        // page protection is 2, which allows everything.
        r: [0x0c00_0000_0000_0103, 0x0400_0000_0000_0102],
        amr: 0,
    };
    let hand = black_box(&hand);
    count("hash, translate, by hand", entries, || {
        let found = keys.iter().fold(0, |sum: u64, &key| sum.wrapping_add(hand.read(key).unwrap()));
        assert_eq!(found, sum);
    });
    count("hash, remove", entries, || {
        for &key in &keys {
            assert!(hpt.remove(&page(key)).unwrap().is_some());
        }
    });
}

/// What a translation reads and compares, written out for one segment, one page size and one
/// layout; pages that are not found so are not translated.
struct ByHand<'t> {
    words: &'t [AtomicU64],
    last_group: u64,
    segment: [u64; 2],
    hash: u64,
    v: u64,
    r: [u64; 2],
    amr: u64,
}

impl ByHand<'_> {
    fn read(&self, address: u64) -> Option<u64> {
        /// AVPN, H and V.
        const SEARCH: u64 = 0x000f_ffff_ffff_ff83_u64.to_be();
        const AVPN: u64 = 0x000f_ffff_ffff_ff80;
        if address & self.segment[0] != self.segment[1] {
            return None;
        }
        let group = (self.hash ^ address >> 12) & self.last_group;
        let group: &[AtomicU64; 16] =
            self.words.get(group as usize * 16..group as usize * 16 + 16)?.try_into().ok()?;
        let v = (self.v ^ address >> 16 & AVPN).to_be();
        let fits = |index: usize| (group[index * 2].load(Ordering::Relaxed) ^ v) & SEARCH == 0;
        let in_half = |half: usize| {
            (0..4).fold(0, |found, index| found | u32::from(fits(half + index)) << (half + index))
        };
        let mut found = in_half(0);
        if found == 0 {
            found = in_half(4);
        }
        let index = found.trailing_zeros() as usize;
        let (first, second) = (group.get(index * 2)?, group.get(index * 2 + 1)?);
        let before = first.load(Ordering::Acquire);
        let r = second.load(Ordering::Acquire).to_be();
        let after = first.load(Ordering::Relaxed);
        let allowed = ((before ^ v) | (after ^ v)) & SEARCH == 0
            && (r ^ self.r[1]) & self.r[0] == 0
            && self.amr == 0;
        allowed.then_some(r & 0x03ff_ffff_ffff_f000 | address & 0xfff)
    }
}
