//! Translation against a naive reference: a search through the whole table, on plain numbers, in
//! the order that QEMU checks.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::sync::atomic::{AtomicU64, Ordering};

use pgtable::memory::DirectMap;
use pgtable::{Access, AccessKind, Gva, Hpa, Privilege};
use pgtable_ppc64::hash::{
    Authority, HashFault, HashMmu, Hpt, HptOrder, Layout, PageSize, PageSizes, Segment,
    SegmentSize, Slb, SlbEsid, SlbVsid, VirtualPage,
};
use proptest::prelude::*;

const ENTRIES: usize = 1 << 14;

/// As the hardware sees it: no types, no helpers of ours.
struct Reference {
    entries: Vec<(u64, u64)>,
    slb: Vec<(u64, u64)>,
    amr: u64,
    iamr: u64,
}

#[derive(Debug, PartialEq, Eq)]
enum Outcome {
    Real(u64),
    Interrupt(u16, u32),
}

fn base_shift(slbv: u64) -> u32 {
    match slbv & 0x130 {
        0x100 => 24,
        0x110 => 16,
        0x120 => 34,
        _ => 12,
    }
}

/// log2 of the actual page, if the entry's encoding fits the base size.
fn actual_shift(base: u32, v: u64, r: u64) -> Option<u32> {
    let lp = |bits: u32| r >> 12 & ((1 << bits) - 1);
    if v & 4 == 0 {
        return (base == 12).then_some(12);
    }
    match base {
        12 if lp(4) == 7 => Some(16),
        12 if lp(8) == 0x38 => Some(24),
        16 if lp(4) == 1 => Some(16),
        16 if lp(8) == 8 => Some(24),
        24 if lp(8) == 0 => Some(24),
        34 if lp(8) == 3 => Some(34),
        _ => None,
    }
}

impl Reference {
    fn translate(&mut self, ea: u64, access: Access) -> Outcome {
        let (fetch, store) = (access.kind == AccessKind::Fetch, access.kind == AccessKind::Write);
        let storage = |cause: u32| {
            Outcome::Interrupt(
                if fetch { 0x400 } else { 0x300 },
                cause | if store { 0x0200_0000 } else { 0 },
            )
        };
        let hit = self.slb.iter().find(|(slbe, slbv)| {
            let mask =
                if slbv >> 62 == 1 { 0xffff_ff00_0000_0000_u64 } else { 0xffff_ffff_f000_0000 };
            slbe & 0x0800_0000 != 0 && (slbe ^ ea) & mask == 0
        });
        let Some(&(_, slbv)) = hit else {
            return Outcome::Interrupt(if fetch { 0x480 } else { 0x380 }, 0);
        };
        if fetch && slbv & 0x200 != 0 {
            return storage(0x1000_0000);
        }
        let base = base_shift(slbv);
        let terabyte = slbv >> 62 == 1;
        let (vsid, offset) = if terabyte {
            ((slbv & !(3 << 62)) >> 24, ea & 0xff_ffff_ffff)
        } else {
            ((slbv & !(3 << 62)) >> 12, ea & 0x0fff_ffff)
        };
        let epn = offset & !((1 << base) - 1);
        let hash = if terabyte { vsid ^ vsid << 25 } else { vsid } ^ epn >> base;
        let segment_mask = if terabyte { !0xff_ffff_u64 } else { !0xfff };
        let want = slbv & segment_mask | (epn >> 16 & 0x3fff_ffff_ffff_ff80);
        let groups = ENTRIES as u64 / 8;
        for secondary in [false, true] {
            let group = if secondary { !hash } else { hash } & (groups - 1);
            for ptex in group * 8..group * 8 + 8 {
                let (v, r) = self.entries[ptex as usize];
                if v & 0xffff_ffff_ffff_ff83 != want | 1 | if secondary { 2 } else { 0 } {
                    continue;
                }
                let Some(actual) = actual_shift(base, v, r) else { continue };
                let user = access.privilege == Privilege::User;
                let key = slbv & if user { 0x400 } else { 0x800 } != 0;
                let pp = match (r & 3 | r >> 61 & 4, key) {
                    (0 | 1, false) | (2, _) => "rwx",
                    (1, true) | (3, _) | (6, false) => "rx",
                    _ => "",
                };
                let at = 2 * (31 - ((r >> 57 & 0x18) | (r >> 9 & 7)));
                let (amr, iamr) = (self.amr >> at & 3, self.iamr >> at & 3);
                let mut cause = 0;
                if fetch {
                    if r & 0xc != 0 {
                        cause |= 0x1000_0000;
                    } else if !pp.contains('x') {
                        cause |= 0x0800_0000;
                    }
                    if iamr & 1 != 0 {
                        cause |= 0x0020_0000;
                    }
                } else {
                    if !pp.contains(if store { 'w' } else { 'r' }) {
                        cause |= 0x0800_0000;
                    }
                    if amr & if store { 2 } else { 1 } != 0 {
                        cause |= 0x0020_0000;
                    }
                }
                if cause != 0 {
                    return storage(cause);
                }
                self.entries[ptex as usize].1 |= if store { 0x180 } else { 0x100 };
                let within = (1 << actual) - 1;
                return Outcome::Real(r & 0x0fff_ffff_ffff_f000 & !within | ea & within);
            }
        }
        storage(0x4000_0000)
    }
}

fn segment() -> impl Strategy<Value = Segment> {
    let flags = (any::<bool>(), any::<bool>(), proptest::bool::weighted(0.2));
    (0u64..4, any::<bool>(), proptest::sample::select(PageSize::ALL.to_vec()), flags).prop_map(
        |(vsid, terabyte, base, (ks, kp, n))| {
            let size = if terabyte { SegmentSize::T1 } else { SegmentSize::M256 };
            Segment { vsid: vsid * 0x123_4567, size, base, ks, kp, n, class: false }
        },
    )
}

/// Which page, in which group, with which second doubleword, with L as it should be or not.
type Entry = ((usize, u64), (bool, usize), u64, bool);

fn entry() -> impl Strategy<Value = Entry> {
    let low = prop_oneof![3 => Just(0x190), 1 => 0u64..0x1000];
    let high = prop_oneof![3 => Just(0), 1 => (0u64..16).prop_map(|high| high << 60)];
    let lp = prop_oneof![Just(0u64), Just(7), Just(0x38), Just(1), Just(8), Just(3), 0u64..256];
    let r = (0u64..1 << 20, lp, low, high)
        .prop_map(|(rpn, lp, low, high)| rpn << 20 | lp << 12 | low | high);
    ((0usize..4, 0u64..6), (any::<bool>(), 0usize..8), r, proptest::bool::weighted(0.9))
}

fn access() -> impl Strategy<Value = Access> {
    let kind =
        proptest::sample::select(vec![AccessKind::Read, AccessKind::Write, AccessKind::Fetch]);
    let privilege = proptest::sample::select(vec![Privilege::User, Privilege::Supervisor]);
    (kind, privilege).prop_map(|(kind, privilege)| Access { kind, privilege })
}

/// Few places: beginnings, neighbours, and far parts of segments.
fn address(segment: usize, place: u64) -> u64 {
    (segment as u64) << 40
        | [0, 0x1000, 0x1_0000, 0x100_0000, 0x0765_4000, 0x0fff_0000][place as usize % 6]
}

fn run(
    layout: Layout,
    segments: &[Segment],
    entries: &[Entry],
    accesses: &[((usize, u64), u64, Access)],
    keys: (u64, u64),
) {
    let words: Vec<AtomicU64> = (0..2 * ENTRIES).map(|_| AtomicU64::new(0)).collect();
    let base = Hpa::new(0x4_0000);
    let hpt = Hpt::new(DirectMap::new(&words, base), base, HptOrder::MIN, layout).unwrap();
    let mut reference =
        Reference { entries: vec![(0, 0); ENTRIES], slb: Vec::new(), amr: keys.0, iamr: keys.1 };
    let mut slb = Slb::new();
    for (index, segment) in segments.iter().enumerate() {
        let slbe = SlbEsid::from_bits((index as u64) << 40).with_v(true).with_index(index as u16);
        slb.slbmte(slbe, segment.slb_word()).unwrap();
        reference.slb.push((slbe.into_bits(), segment.slb_word().into_bits()));
    }
    for &((index, place), (secondary, slot), r, large) in entries {
        let Some(segment) = segments.get(index) else { continue };
        let page = VirtualPage::of(segment, Gva::new(address(index, place)));
        let v = page
            .v()
            .with_h(secondary)
            .with_l((segment.base != PageSize::K4 || r & 0xff000 != 0) == large);
        let ptex = HptOrder::MIN.group(page.hash(), secondary) as usize * 8 + slot;
        reference.entries[ptex] = (v.into_bits(), r);
        let [v, r] = layout.encode(pgtable_ppc64::hash::Hpte { v, r: r.into() });
        words[ptex * 2].store(v.to_be(), Ordering::Relaxed);
        words[ptex * 2 + 1].store(r.to_be(), Ordering::Relaxed);
    }
    let mmu = HashMmu { slb: &slb, hpt: &hpt, authority: Authority { amr: keys.0, iamr: keys.1 } };
    for &((index, place), offset, access) in accesses {
        let ea = address(index, place) + offset;
        let want = reference.translate(ea, access);
        let got = match mmu.translate(Gva::new(ea), access) {
            Ok(translation) => Outcome::Real(translation.real),
            Err(HashFault::Interrupt(it)) => {
                Outcome::Interrupt(it.vector.offset(), it.status.into_bits())
            }
            Err(error) => panic!("{error}"),
        };
        assert_eq!(got, want, "{access} at {ea:#x}, segments {segments:x?}");
    }
    // The same again in one call: what was recorded is recorded now, so the outcome is the same.
    for access in [Access::READ, Access::FETCH.by_user()] {
        let addresses: Vec<_> = accesses
            .iter()
            .map(|&((i, place), offset, _)| Gva::new(address(i, place) + offset))
            .collect();
        let mut reals = vec![Some(1); addresses.len()];
        let count = mmu.translate_batch(&addresses, access, &mut reals);
        assert_eq!(count, reals.iter().flatten().count());
        for (ea, real) in addresses.iter().zip(reals) {
            let want = reference.translate(ea.get(), access);
            assert_eq!(
                real.map(Outcome::Real),
                Some(want).filter(|want| matches!(want, Outcome::Real(_)))
            );
        }
    }
    for (ptex, &(v, r)) in reference.entries.iter().enumerate() {
        let hpte = hpt.read(ptex as u64).unwrap().unwrap();
        assert_eq!((hpte.v.visible().into_bits(), hpte.r.into_bits()), (v & !0x60, r), "{ptex:#x}");
    }
}

fn key_register() -> impl Strategy<Value = u64> {
    prop_oneof![2 => Just(0), 1 => any::<u64>()]
}

proptest! {
    #![proptest_config(pgtable_conformance::cases::config(200))]
    #[test]
    fn as_a_search_through_the_table(
        segments in proptest::collection::vec(segment(), 1..4),
        entries in proptest::collection::vec(entry(), 0..60),
        accesses in proptest::collection::vec(((0usize..4, 0u64..6), 0u64..0x1000, access()), 1..60),
        keys in (key_register(), key_register()),
        v3: bool,
    ) {
        run(if v3 { Layout::V3 } else { Layout::V2 }, &segments, &entries, &accesses, keys);
    }

    /// Whatever stands in the table's memory, nothing panics and nothing hangs.
    #[test]
    fn any_memory(seed: u64, ea: u64, access in access(), segment in segment(), v3: bool) {
        let mut state = seed;
        let words: Vec<AtomicU64> = (0..2 * ENTRIES).map(|_| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            // Lock bits left out: waiting for them is bounded, but long.
            AtomicU64::new((state ^ state >> 29) & !0x40_u64.to_be())
        }).collect();
        let layout = if v3 { Layout::V3 } else { Layout::V2 };
        let hpt = Hpt::new(DirectMap::new(&words, Hpa::new(0)), Hpa::new(0), HptOrder::MIN, layout).unwrap();
        let mut slb = Slb::new();
        slb.slbmte(SlbEsid::from_bits(ea & !0xfff_ffff).with_v(true), segment.slb_word()).unwrap();
        let mmu = HashMmu { slb: &slb, hpt: &hpt, authority: Authority::default() };
        let _ = mmu.translate(Gva::new(ea), access);
        for (ptex, hpte) in hpt.entries(0) {
            let _ = VirtualPage::of_entry(hpte, ptex / 8, hpt.order());
            let _ = pgtable_ppc64::hash::HashTlbie::of(hpte, ptex);
        }
    }
}

/// Pages of every size that a segment may mix, side by side; each is found by every piece of its
/// base size that has an entry.
#[test]
fn mixed_pages_in_one_segment() {
    for sizes in PageSizes::ALL {
        for v3 in [false, true] {
            let segment = Segment {
                vsid: 0x12_3457,
                size: SegmentSize::T1,
                base: sizes.base(),
                ks: false,
                kp: true,
                n: false,
                class: false,
            };
            let lp = sizes.lp().map_or(0, |lp| u64::from(lp) << 12);
            let real = 0x12_0000_0000 & !(sizes.actual().bytes() - 1);
            let entries = [((0, 4), (false, 3), real | lp | 0x190, true)];
            let piece = address(0, 4) & !(sizes.base().bytes() - 1);
            let layout = if v3 { Layout::V3 } else { Layout::V2 };
            let accesses = [
                ((0, 4), 0x123, Access::READ),
                ((0, 4), 0xabc, Access::WRITE.by_user()),
                ((1, 4), 0, Access::READ),
            ];
            run(layout, &[segment], &entries, &accesses, (0, 0));
            assert_eq!(piece % sizes.base().bytes(), 0);
        }
    }
}

#[test]
fn slb_words_are_what_software_writes() {
    // Linux's kernel segment: KP, 64K pages.
    assert_eq!(
        Segment::of_slb(SlbVsid::from_bits(0x4001_ffff_ff00_0510)).map(|it| (it.ks, it.kp)),
        Some((false, true))
    );
}
