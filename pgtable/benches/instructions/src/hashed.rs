//! A hashed page table, filled to a half.

use std::sync::atomic::{AtomicU64, Ordering};

use pgtable::memory::DirectMap;
use pgtable::{Access, Gpa, Gva};
use pgtable_ppc64::hash::{
    Authority, HashMmu, Hpt, HptOrder, Hpte, HpteR, Layout, PageSize, Segment, SegmentSize, Slb,
    SlbEsid, VirtualPage,
};

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
    let authority = Authority::default();
    let mmu = HashMmu { slb: &slb, hpt: &hpt, authority };

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
    let by_hand = ByHand::new(&words, start.get(), authority.amr);
    count("hash, translate, by hand", entries, || {
        let found =
            keys.iter().fold(0, |sum: u64, &key| sum.wrapping_add(by_hand.translate(key).unwrap()));
        assert_eq!(found, sum);
    });
    count("hash, remove", entries, || {
        for &key in &keys {
            assert!(hpt.remove(&page(key)).unwrap().is_some());
        }
    });
    count("hash, enter, by hand", entries, || {
        for &key in &keys {
            by_hand.enter(key, real(key) | 0x192).unwrap();
        }
    });
    // Ours finds what was entered by hand.
    for &key in &keys {
        assert_eq!(mmu.translate(Gva::new(key), Access::READ).unwrap().real, real(key));
    }
    count("hash, remove, by hand", entries, || {
        for &key in &keys {
            assert_eq!(by_hand.remove(key).unwrap() & ByHand::PAGE, real(key) & ByHand::PAGE);
        }
    });
    assert!(keys.iter().all(|&key| by_hand.translate(key).is_none()));
}

/// The same work written out for this one table: one segment, one page size, reads by the
/// supervisor, and whatever is not usual is `None`. It checks what [`HashMmu::translate`] checks:
/// the segment, that the group lies in memory, the first doubleword before and after the second is
/// read, page sizes, R, page protection and keys. Entries are entered and removed under their lock,
/// as other threads may do the same.
struct ByHand<'w> {
    words: &'w [AtomicU64],
    /// Where memory begins, and in it the table.
    start: u64,
    table: u64,
    groups: u64,
    esid: u64,
    hash: u64,
    v: u64,
    amr: u64,
}

impl<'w> ByHand<'w> {
    /// First doublewords (ISA v3.0B Book III 5.7.9.1): AVPN 12:56, L 61, H 62, V 63.
    const AVPN: u64 = 0x000f_ffff_ffff_ff80;
    const SEARCH: u64 = (Self::AVPN | 3).to_be();
    const SEARCH_WITH_L: u64 = (Self::AVPN | 7).to_be();
    /// Second doublewords: B 4:5 (1 TiB), R 55; page 6:51.
    const SIZES_AND_R: u64 = 0x0c00_0000_0000_0100;
    const T1_AND_R: u64 = 0x0400_0000_0000_0100;
    const PAGE: u64 = 0x03ff_ffff_ffff_f000;
    /// B and its value for 1 TiB.
    const B: u64 = 0x0c00_0000_0000_0000;
    const T1: u64 = 0x0400_0000_0000_0000;
    /// First doublewords: the lock, a bit of software's.
    const LOCK: u64 = 0x40;
    /// Page protections 0 to 3 and 6 may be read under storage key 0, by PP rotated to the right
    /// end; N and G do not count.
    const READABLE: u32 = 0x7575_7575;

    fn new(words: &'w [AtomicU64], start: u64, amr: u64) -> Self {
        let (vsid, groups) = (SEGMENT.vsid, words.len() as u64 / 16 - 1);
        let (hash, v) = (vsid ^ vsid << 25, vsid << 24 | 1);
        Self { words, start, table: start, groups, esid: 0, hash, v, amr }
    }

    #[inline(always)]
    fn translate(&self, address: u64) -> Option<u64> {
        if address & !0xff_ffff_ffff != self.esid {
            return None;
        }
        let hash = self.hash ^ address >> 12;
        let v = self.v ^ address >> 16 & Self::AVPN;
        match self.search(hash, v) {
            None => self.search(!hash, v | 2),
            found => found,
        }
        .map(|r| r & Self::PAGE | address & 0xfff)
    }

    /// The group of `hash`.
    #[inline(always)]
    fn group(&self, hash: u64) -> Option<&'w [AtomicU64; 16]> {
        let at =
            ((self.table + ((hash & self.groups) << 7)).wrapping_sub(self.start) >> 3) as usize;
        self.words.get(at..at.wrapping_add(16))?.try_into().ok()
    }

    /// The entries of `group` whose first doublewords are `want` under `mask`, both in memory's
    /// order, of the four from `first` on: a bit for each.
    #[inline(always)]
    fn half(group: &[AtomicU64; 16], (want, mask): (u64, u64), first: usize) -> u32 {
        let fits =
            |index: usize| u32::from((group[2 * index].load(Ordering::Relaxed) ^ want) & mask == 0);
        (fits(first) | fits(first + 1) << 1 | fits(first + 2) << 2 | fits(first + 3) << 3) << first
    }

    /// Enters the page at `address` with the second doubleword `r`.
    #[inline(always)]
    fn enter(&self, address: u64, r: u64) -> Option<()> {
        if address & !0xff_ffff_ffff != self.esid {
            return None;
        }
        let hash = self.hash ^ address >> 12;
        let (v, r) = (self.v ^ address >> 16 & Self::AVPN, r | Self::T1);
        match self.enter_in(hash, v, r) {
            None => self.enter_in(!hash, v | 2, r),
            entered => entered,
        }
    }

    #[inline(always)]
    fn enter_in(&self, hash: u64, v: u64, r: u64) -> Option<()> {
        let group = self.group(hash)?;
        let free = (0, (1 | Self::LOCK).to_be());
        let mut found = Self::half(group, free, 0);
        if found == 0 {
            found = Self::half(group, free, 4);
            if found == 0 {
                return None;
            }
        }
        let index = found.trailing_zeros() as usize % 8 * 2;
        let old = group[index].load(Ordering::Relaxed);
        let locked = old | Self::LOCK.to_be();
        if old & free.1 != 0 {
            return None;
        }
        group[index].compare_exchange(old, locked, Ordering::Acquire, Ordering::Relaxed).ok()?;
        group[index + 1].store(r.to_be(), Ordering::Relaxed);
        group[index].store(v.to_be(), Ordering::Release);
        Some(())
    }

    /// Takes the page at `address` out; its second doubleword.
    #[inline(always)]
    fn remove(&self, address: u64) -> Option<u64> {
        if address & !0xff_ffff_ffff != self.esid {
            return None;
        }
        let hash = self.hash ^ address >> 12;
        let v = self.v ^ address >> 16 & Self::AVPN;
        match self.remove_from(hash, v) {
            None => self.remove_from(!hash, v | 2),
            removed => removed,
        }
    }

    #[inline(always)]
    fn remove_from(&self, hash: u64, v: u64) -> Option<u64> {
        let group = self.group(hash)?;
        let want = (v.to_be(), Self::SEARCH);
        let found = Self::half(group, want, 0) | Self::half(group, want, 4);
        if found == 0 {
            return None;
        }
        let index = found.trailing_zeros() as usize % 8 * 2;
        let old = group[index].load(Ordering::Relaxed);
        let r = u64::from_be(group[index + 1].load(Ordering::Relaxed));
        let usual = (old ^ v.to_be()) & Self::SEARCH_WITH_L == 0 && (r ^ Self::T1) & Self::B == 0;
        if !usual || old & Self::LOCK.to_be() != 0 {
            return None;
        }
        let locked = old & !1_u64.to_be() | Self::LOCK.to_be();
        group[index].compare_exchange(old, locked, Ordering::Acquire, Ordering::Relaxed).ok()?;
        let r = u64::from_be(group[index + 1].load(Ordering::Relaxed));
        group[index + 1].store(0, Ordering::Relaxed);
        group[index].store(0, Ordering::Release);
        Some(r)
    }

    /// The second doubleword of the entry in the group of `hash`, if it is usual.
    #[inline(always)]
    fn search(&self, hash: u64, v: u64) -> Option<u64> {
        let at =
            ((self.table + ((hash & self.groups) << 7)).wrapping_sub(self.start) >> 3) as usize;
        let group: &[AtomicU64; 16] = self.words.get(at..at.wrapping_add(16))?.try_into().ok()?;
        let v = v.to_be();
        let fits = |index: usize| {
            u32::from((group[2 * index].load(Ordering::Relaxed) ^ v) & Self::SEARCH == 0)
        };
        let mut found = fits(0) | fits(1) << 1 | fits(2) << 2 | fits(3) << 3;
        if found == 0 {
            found = fits(4) << 4 | fits(5) << 5 | fits(6) << 6 | fits(7) << 7;
            if found == 0 {
                return None;
            }
        }
        let index = found.trailing_zeros() as usize % 8 * 2;
        let before = group[index].load(Ordering::Acquire);
        let r = u64::from_be(group[index + 1].load(Ordering::Acquire));
        let after = group[index].load(Ordering::Relaxed);
        let usual = (before ^ v | after ^ v) & Self::SEARCH_WITH_L == 0
            && (r ^ Self::T1_AND_R) & Self::SIZES_AND_R == 0
            && Self::READABLE >> (r.rotate_left(1) as u32 & 31) & 1 != 0
            && self.amr == 0;
        usual.then_some(r)
    }
}
