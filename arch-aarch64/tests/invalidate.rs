//! Invalidation: the operands name every stale page, and no other.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod support;

use std::collections::BTreeSet;

use pgtable::invalidate::{Gather, Unused};
use pgtable::{Gpa, Gva, Stage1, Stage2};
use pgtable_aarch64::{
    Asids, Granule, Tlbi, TlbiAddress, TlbiFeatures, TlbiRange, tlbi_stage1, tlbi_stage2,
};
use support::{Dice, GRANULES};

/// The granules that an operand names, by number.
fn named(features: &TlbiFeatures, operation: Tlbi) -> Vec<u64> {
    let shift = u32::from(features.granule.shift());
    let (size, tg) = match features.granule {
        Granule::K4 => (9, 1),
        Granule::K16 => (11, 2),
        Granule::K64 => (13, 3),
    };
    match operation {
        Tlbi::Va { operand, .. } | Tlbi::VaAllAsids { operand, .. } | Tlbi::Ipa { operand, .. } => {
            let bits = operand.into_bits();
            let first = (bits & ((1 << 44) - 1)) << 12 >> shift;
            let ttl = bits >> 44 & 15;
            // Without a hint, the leaf there is dropped whatever its size; here it is the page.
            let leaf = if ttl == 0 { 0 } else { size * (3 - (ttl & 3)) };
            assert!(ttl == 0 || ttl >> 2 == tg);
            (first..first + (1 << leaf)).collect()
        }
        Tlbi::VaRange { operand, .. }
        | Tlbi::VaRangeAllAsids { operand, .. }
        | Tlbi::IpaRange { operand, .. } => {
            let bits = operand.into_bits();
            assert_eq!(bits >> 46 & 3, tg);
            let unit = if features.ds { 16 } else { shift };
            let first = (bits & ((1 << 37) - 1)) << unit >> shift;
            let (num, scale) = (bits >> 39 & 31, bits >> 44 & 3);
            (first..first + ((num + 1) << (5 * scale + 1))).collect()
        }
        other => panic!("{other:?} names no addresses"),
    }
}

/// Random ranges of random features: named exactly.
#[test]
fn every_stale_page_is_named() {
    let mut dice = Dice(7);
    let mut by_range = 0;
    for _ in 0..400 {
        let granule = GRANULES[dice.below(3) as usize];
        let features = TlbiFeatures {
            granule,
            ttl: true,
            ranges: dice.coin(),
            ds: dice.coin() && granule != Granule::K64,
            ceiling: u64::MAX,
        };
        let shift = granule.shift();
        let mut want = Vec::new();
        let mut gather = Gather::<Stage1, _>::new(&Unused, ());
        for _ in 0..=dice.below(3) {
            // Pages, or blocks of level 2.
            let leaf = if dice.below(4) == 0 { shift + granule.stride() } else { shift };
            let start = dice.below(1 << 36) >> leaf << leaf;
            let most = if leaf == shift { [8, 100, 3000][dice.below(3) as usize] } else { 3 };
            let count = 1 + dice.below(most);
            let last = start + ((count - 1) << leaf);
            gather.pages(Gva::new(start), Gva::new(last), leaf);
            want.extend(start >> shift..(last >> shift) + (1 << (leaf - shift)));
        }
        let mut got = Vec::new();
        for operation in tlbi_stage1(gather.stale(), Asids::One(0x1234), features) {
            let (Tlbi::Va { last: true, .. } | Tlbi::VaRange { last: true, .. }) = operation else {
                panic!("{operation:?}")
            };
            if let Tlbi::VaRange { operand, .. } = operation {
                by_range += 1;
                assert_eq!(operand.asid(), 0x1234);
            }
            got.extend(named(&features, operation));
        }
        let set = |words: Vec<u64>| words.into_iter().collect::<BTreeSet<_>>();
        assert_eq!(set(got), set(want), "{features:?} {:?}", gather.stale());
        std::mem::forget(gather);
    }
    assert!(by_range > 300, "{by_range}");
}

/// The words of C5.5, and what becomes of everything, of nothing and of tables.
#[test]
fn operands_and_wholes() {
    let k4 = TlbiFeatures::new(Granule::K4);
    let ttl = TlbiFeatures { ttl: true, ..k4 };
    let ranges = TlbiFeatures { ranges: true, ..ttl };
    let all = |pages: &[(u64, u64, u8)], tables: bool, features, asids| -> Vec<Tlbi> {
        let mut gather = Gather::<Stage1, _>::new(&Unused, ());
        for &(start, last, shift) in pages {
            gather.pages(Gva::new(start), Gva::new(last), shift);
        }
        if tables {
            gather.table_left();
        }
        let operations = tlbi_stage1(gather.stale(), asids, features).collect();
        std::mem::forget(gather);
        operations
    };
    let page = |bits, last| Tlbi::Va { operand: TlbiAddress::from_bits(bits), last };
    let one = Asids::One(0xabcd);
    let high = 0xffff_8000_0000_3000;
    for (pages, tables, features, asids, want) in [
        (&[][..], false, k4, one, vec![]),
        (&[(0x3000, 0x3000, 12)], false, k4, one, vec![page(0xabcd_0000_0000_0003, true)]),
        (&[(high, high, 12)], false, ttl, one, vec![page(0xabcd_7ff8_0000_0003, true)]),
        (&[(0x20_0000, 0x20_0000, 21)], false, ttl, one, vec![page(0xabcd_6000_0000_0200, true)]),
        (&[(0x20_0000, 0x20_0000, 21)], true, ttl, one, vec![page(0xabcd_6000_0000_0200, false)]),
        (
            &[(0x3000, 0x3000, 12)],
            false,
            k4,
            Asids::All,
            vec![Tlbi::VaAllAsids { operand: TlbiAddress::from_bits(3), last: true }],
        ),
        // A group of contiguous pages: each may be cached alone.
        (
            &[(0x1_0000, 0x1_0000, 16)],
            false,
            ttl,
            one,
            (16..32).map(|n| page(0xabcd_7000_0000_0000 | n, true)).collect(),
        ),
        // 515 pages: 8 × 64 by scale 1, one pair by scale 0, one alone.
        (
            &[(0, 514 << 12, 12)],
            false,
            ranges,
            one,
            vec![
                Tlbi::VaRange {
                    operand: TlbiRange::from_bits(0xabcd_5000_0000_0000 | 7 << 39 | 3 << 37),
                    last: true,
                },
                Tlbi::VaRange {
                    operand: TlbiRange::from_bits(0xabcd_4000_0000_0000 | 512 | 3 << 37),
                    last: true,
                },
                page(0xabcd_7000_0000_0202, true),
            ],
        ),
        (
            &[(0, 600 << 12, 12)],
            false,
            k4,
            one,
            vec![Tlbi::Asid(TlbiAddress::from_bits(0xabcd << 48))],
        ),
        (&[(0, 600 << 12, 12)], false, k4, Asids::All, vec![Tlbi::VmAllE1]),
        // Nearly the whole space: more than the ceiling by ranges too.
        (
            &[(0, (1 << 48) - 0x1000, 12)],
            false,
            ranges,
            one,
            vec![Tlbi::Asid(TlbiAddress::from_bits(0xabcd << 48))],
        ),
        (&[], true, k4, one, vec![Tlbi::Asid(TlbiAddress::from_bits(0xabcd << 48))]),
    ] {
        assert_eq!(all(pages, tables, features, asids), want, "{pages:x?} {tables} {features:?}");
    }

    let second = |pages: &[(u64, u64)], everything: bool| -> (Vec<Tlbi>, Option<Tlbi>) {
        let mut gather = Gather::<Stage2, _>::new(&Unused, ());
        for &(start, last) in pages {
            gather.pages(Gpa::new(start), Gpa::new(last), 12);
        }
        if everything {
            gather.everything();
        }
        let (some, whole) = tlbi_stage2(gather.stale(), k4);
        let all = (some.collect(), whole);
        std::mem::forget(gather);
        all
    };
    let ipa = Tlbi::Ipa { operand: TlbiAddress::from_bits(0x12345), last: true };
    assert_eq!(second(&[], false), (vec![], None));
    assert_eq!(second(&[(0x1234_5000, 0x1234_5000)], false), (vec![ipa], Some(Tlbi::VmAllE1)));
    assert_eq!(second(&[], true), (vec![], Some(Tlbi::VmAllS12)));
}

/// Leaves of every size, few and many: operations are never more than the ceiling, and one by range
/// takes no fewer leaves than one by address.
#[test]
fn no_more_operations_than_the_ceiling() {
    let (mut whole, mut by_address) = (0, 0);
    for (granule, shift, ds) in [
        (Granule::K4, 12, false),
        (Granule::K4, 21, true),
        (Granule::K4, 30, false),
        (Granule::K4, 39, true),
        (Granule::K16, 25, false),
        (Granule::K16, 36, true),
        (Granule::K64, 16, false),
        (Granule::K64, 29, false),
        (Granule::K64, 42, false),
    ] {
        for leaves in [1, 2, 4, 5, 33, 64] {
            for (ranges, ceiling) in
                [1, 4, 64].into_iter().flat_map(|ceiling| [(false, ceiling), (true, ceiling)])
            {
                let features = TlbiFeatures { granule, ttl: true, ranges, ds, ceiling };
                let mut gather = Gather::<Stage2, _>::new(&Unused, ());
                gather.pages(Gpa::new(0), Gpa::new((leaves - 1) << shift), shift);
                let case = format!("{leaves} leaves of 2^{shift}, {features:?}");
                let (operations, then) = tlbi_stage2(gather.stale(), features);
                let count = operations.count() as u64;
                assert!(count <= ceiling.min(leaves), "{count}: {case}");
                match then {
                    Some(Tlbi::VmAllE1) => by_address += 1,
                    Some(Tlbi::VmAllS12) => {
                        assert_eq!(count, 0, "{case}");
                        whole += 1;
                    }
                    other => panic!("{other:?}: {case}"),
                }
                // What fits by address fits.
                assert!(leaves > ceiling || then == Some(Tlbi::VmAllE1), "{case}");
                std::mem::forget(gather);
            }
        }
    }
    assert!(whole > 100 && by_address > 100, "{whole} {by_address}");
}
