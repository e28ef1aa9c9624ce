//! Hypercalls on a hashed page table against a flat model: a vector of entries and PAPR's rules, on
//! plain numbers.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::cell::RefCell;
use std::sync::atomic::AtomicU64;

use pgtable::memory::DirectMap;
use pgtable::{Gpa, Hpa};
use pgtable_ppc64::hash::{
    Dialect, HashTlbie, Hcall, Hcalls, Hpt, HptOrder, Layout, PageSize, Partition, Refused, Storage,
};
use proptest::prelude::*;

const ENTRIES: u64 = 1 << 14;
/// Guest memory ends here; what lies above is a device.
const MEMORY: u64 = 64 << 20;
/// The 16 MiB from here on consist of smaller pages.
const SMALL: u64 = 32 << 20;

#[derive(Default)]
struct Guest {
    invalidated: RefCell<Vec<u64>>,
    zeroed: RefCell<Vec<(u64, u64)>>,
    copied: RefCell<Vec<(u64, u64)>>,
}

impl Partition for Guest {
    fn invalidate(&self, operand: HashTlbie) {
        self.invalidated.borrow_mut().push(operand.rb());
    }

    fn storage(&self, page: Gpa, size: PageSize) -> Storage {
        match page.get() {
            SMALL if size == PageSize::M16 => Storage::SmallerPages,
            0..MEMORY => Storage::Memory,
            _ => Storage::Device,
        }
    }

    fn zero(&self, page: Gpa, size: PageSize) -> Result<(), Refused> {
        let fits = page.get().checked_add(size.bytes()).is_some_and(|end| end <= MEMORY);
        self.zeroed.borrow_mut().push((page.get(), size.bytes()));
        if fits { Ok(()) } else { Err(Refused) }
    }

    fn copy(&self, to: Gpa, from: Gpa) -> Result<(), Refused> {
        self.copied.borrow_mut().push((to.get(), from.get()));
        if to.get().max(from.get()) < MEMORY { Ok(()) } else { Err(Refused) }
    }
}

/// H_SUCCESS and the errors that the model knows.
const SUCCESS: i64 = 0;
const FUNCTION: i64 = -2;
const PARAMETER: i64 = -4;
const PTEG_FULL: i64 = -6;
const NOT_FOUND: i64 = -7;

struct Model {
    entries: Vec<(u64, u64)>,
    dialect: Dialect,
    layout: Layout,
}

impl Model {
    fn valid_sizes(v: u64, r: u64) -> Option<u32> {
        let lp = r >> 12 & 0xff;
        match (v >> 2 & 1, lp & 15, lp >> 4) {
            (0, ..) => Some(12),
            (_, 0, 0) | (_, 8, 0 | 3) => Some(24),
            (_, 1 | 7, _) => Some(16),
            (_, 3, 0) => Some(34),
            _ => None,
        }
    }

    fn enter(&mut self, [flags, ptex, v, r]: [u64; 4]) -> (i64, Option<u64>) {
        let Some(shift) = Self::valid_sizes(v, r) else { return (PARAMETER, None) };
        if v >> 63 != 0 {
            return (PARAMETER, None);
        }
        if self.layout == Layout::V3 && r >> 58 & 3 != 0 {
            return (PARAMETER, None);
        }
        let page = r & 0x0fff_ffff_ffff_f000 & !((1 << shift) - 1);
        // What names a size has eight bits; the rest below the page is zero.
        if self.dialect == Dialect::Papr && shift > 20 && r & ((1 << shift) - 1) >> 20 << 20 != 0 {
            return (PARAMETER, None);
        }
        if shift == 24 && page == SMALL {
            return (PARAMETER, None);
        }
        let mut r = r;
        match self.dialect {
            Dialect::Kvm => r &= !(1 << 62),
            Dialect::Papr => {
                let wimg = r & 0x78;
                let good = if page < MEMORY { wimg == 0x10 } else { wimg & 0x60 == 0x20 };
                if !good {
                    return (PARAMETER, None);
                }
            }
        }
        if ptex >= ENTRIES {
            return (PARAMETER, None);
        }
        let places = if flags & 1 << 39 != 0 { ptex..ptex + 1 } else { ptex & !7..(ptex & !7) + 8 };
        for place in places {
            if self.entries[place as usize].0 & 1 == 0 {
                // A page is zeroed where there is a place for its entry.
                let zeroes = self.dialect == Dialect::Papr && flags & 1 << 15 != 0;
                if zeroes && page + (1 << shift) > MEMORY {
                    return (PARAMETER, None);
                }
                self.entries[place as usize] = (v & !0x60 | 1, r);
                return (SUCCESS, Some(place));
            }
        }
        (PTEG_FULL, None)
    }

    /// The entry, if it is valid and fits.
    fn fitting(&mut self, flags: u64, ptex: u64, avpn: u64) -> Result<&mut (u64, u64), i64> {
        let entry = self.entries.get_mut(usize::try_from(ptex).unwrap()).ok_or(PARAMETER)?;
        let avpn_fits = flags & 1 << 31 == 0 || entry.0 & !0x7f == avpn;
        let cond_fits = flags & 1 << 30 == 0 || entry.0 & avpn == 0;
        if entry.0 & 1 != 0 && avpn_fits && cond_fits { Ok(entry) } else { Err(NOT_FOUND) }
    }

    fn remove(&mut self, flags: u64, ptex: u64, avpn: u64) -> Result<(u64, u64), i64> {
        self.fitting(flags, ptex, avpn).map(std::mem::take)
    }

    fn bulk_remove(&mut self, values: &mut [u64; 9]) -> i64 {
        for pair in values[..8].chunks_exact_mut(2) {
            let (ptex, flags) = (pair[0] & ((1 << 56) - 1), pair[0] >> 56 & 3);
            match pair[0] >> 62 {
                3 => return SUCCESS,
                1 if flags != 3 && ptex < ENTRIES => {}
                _ => {
                    pair[0] = (0xa0 | flags) << 56 | ptex;
                    return PARAMETER;
                }
            }
            let flags_word = [0, 1 << 30, 1 << 31][flags as usize];
            pair[0] = match self.remove(flags_word, ptex, pair[1]) {
                Ok((_, r)) => (0x80 | flags) << 56 | ptex | (r & 0x180) << 51,
                Err(_) => (0x90 | flags) << 56 | ptex,
            };
        }
        SUCCESS
    }

    fn call(&mut self, number: u64, arguments: [u64; 9]) -> (i64, [u64; 9]) {
        let mut values = arguments;
        let [flags, ptex, third, fourth, ..] = arguments;
        let code = match number {
            0x04 => self.remove(flags, ptex, third).map(|(v, r)| {
                values[..2].copy_from_slice(&[v, r]);
            }),
            0x08 => match self.enter([flags, ptex, third, fourth]) {
                (code, None) => Err(code),
                (_, Some(place)) => {
                    values[0] = place;
                    Ok(())
                }
            },
            0x0c if ptex >= ENTRIES => Err(PARAMETER),
            0x0c => {
                let (first, count) = if flags & 1 << 37 != 0 { (ptex & !3, 4) } else { (ptex, 1) };
                for index in 0..count {
                    let (v, r) = self.entries[first as usize + index];
                    values[index * 2..index * 2 + 2].copy_from_slice(&[v, r]);
                }
                Ok(())
            }
            0x10 | 0x14 => self.fitting(0, ptex, 0).map(|(_, r)| {
                values[0] = *r;
                *r &= if number == 0x10 { !0x80 } else { !0x100 };
            }),
            0x18 => self.fitting(flags & !(1 << 30), ptex, third).map(|(_, r)| {
                let bits = (flags & 0x100) << 55 | (flags & 0x3000) << 48 | flags & 0xe07;
                *r = *r & !(1 << 63 | 3 << 60 | 0xe07) | bits;
            }),
            0x2c => {
                let known = 1 << 15 | 1 << 14 | 1 << 23 | 1 << 22 | 15 << 32;
                let copy = flags & 1 << 14 != 0;
                let zero = flags & 1 << 15 != 0;
                let bad = flags & !known != 0
                    || ptex & 0xfff != 0
                    || (copy && (third & 0xfff != 0 || third.max(ptex) >= MEMORY))
                    || (zero && !copy && ptex >= MEMORY);
                if bad { Err(PARAMETER) } else { Ok(()) }
            }
            0x124 => match self.bulk_remove(&mut values) {
                SUCCESS => Ok(()),
                code => Err(code),
            },
            _ => Err(FUNCTION),
        };
        (code.err().unwrap_or(SUCCESS), values)
    }
}

/// Few groups, so that they fill up, and places beyond the table.
fn ptex() -> impl Strategy<Value = u64> {
    prop_oneof![
        20 => (prop_oneof![Just(0), Just(5), Just(2047)], 0u64..8).prop_map(|(group, slot): (u64, u64)| group * 8 + slot),
        1 => ENTRIES - 2..ENTRIES + 9,
        1 => any::<u64>()
    ]
}

/// First doublewords of a few pages, sometimes with anything in the lower bits.
fn pteh() -> impl Strategy<Value = u64> {
    let b = prop_oneof![4 => 0u64..2, 1 => 2u64..4];
    (b, 0u64..3, prop_oneof![2 => Just(1), 2 => Just(5), 1 => 0u64..0x80])
        .prop_map(|(b, avpn, low)| b << 62 | 0x1234_5000 << 7 | avpn << 7 | low)
}

fn ptel() -> impl Strategy<Value = u64> {
    let lp = prop_oneof![Just(0), Just(7), Just(0x38), Just(1), Just(8), Just(3), 0u64..256];
    let wimg = prop_oneof![4 => Just(0x10), 1 => (0u64..16).prop_map(|wimg| wimg << 3)];
    let high = prop_oneof![8 => Just(0), 1 => (0u64..16).prop_map(|bits| bits << 60)];
    (0u64..80, lp, wimg, prop_oneof![Just(0x180), 0u64..0x1000], high)
        .prop_map(|(page, lp, wimg, low, high)| high | page << 20 | lp << 12 | wimg | low & !0x78)
}

fn flags() -> impl Strategy<Value = u64> {
    let bits = [47, 39, 38, 37, 35, 31, 30, 28, 23, 22, 15, 14];
    let some = proptest::sample::subsequence(bits.to_vec(), 0..3);
    (some, prop_oneof![2 => Just(0), 1 => 0u64..0x4000])
        .prop_map(|(bits, low)| bits.into_iter().fold(low & !0xc000, |flags, bit| flags | 1 << bit))
}

fn call() -> impl Strategy<Value = (u64, [u64; 9])> {
    let exact = prop_oneof![3 => Just(0u64), 1 => Just(1 << 39), 1 => flags()];
    let by_page = prop_oneof![Just(0u64), Just(1 << 31), Just(1 << 30), flags()];
    let avpn = prop_oneof![4 => pteh().prop_map(|v| v & !0x7f), 1 => pteh(), 1 => 0u64..0x80];
    let specifier = (prop_oneof![6 => Just(1u64), 1 => 0u64..4], 0u64..4, ptex())
        .prop_map(|(kind, flags, ptex)| kind << 62 | flags << 56 | ptex & ((1 << 56) - 1));
    let bulk = proptest::collection::vec((specifier, avpn.clone()), 4);
    let nine = |first: [u64; 4]| {
        let mut all = [0x5555; 9];
        all[..4].copy_from_slice(&first);
        all
    };
    prop_oneof![
        8 => (exact, ptex(), pteh(), ptel()).prop_map(move |(f, p, v, r)| (0x08, nine([f, p, v, r]))),
        3 => (by_page.clone(), ptex(), avpn.clone()).prop_map(move |(f, p, a)| (0x04, nine([f, p, a, 0]))),
        2 => (flags(), ptex(), avpn).prop_map(move |(f, p, a)| (0x18, nine([f, p, a, 0]))),
        1 => (flags(), ptex()).prop_map(move |(f, p)| (0x0c, nine([f, p, 0, 0]))),
        1 => (any::<bool>(), ptex()).prop_map(move |(m, p)| (if m { 0x10 } else { 0x14 }, nine([0, p, 0, 0]))),
        1 => (flags(), (0u64..80).prop_map(|n| n << 20), (0u64..0x80_0000u64).prop_map(|n| n << 9))
            .prop_map(move |(f, d, s)| (0x2c, nine([f, d, s, 0]))),
        2 => bulk.prop_map(|pairs| {
            let mut all = [0; 9];
            for (index, (specifier, avpn)) in pairs.into_iter().enumerate() {
                all[index * 2..index * 2 + 2].copy_from_slice(&[specifier, avpn]);
            }
            (0x124, all)
        }),
        1 => prop_oneof![Just(0x36c), Just(0x370), Just(0x328), any::<u64>()].prop_map(|n| (n, [0; 9])),
    ]
}

/// Makes the calls on an empty table and in the model, and compares all that the guest sees.
pub fn run(layout: Layout, dialect: Dialect, calls: &[(u64, [u64; 9])]) {
    let words: Vec<AtomicU64> = (0..2 * ENTRIES).map(|_| AtomicU64::new(0)).collect();
    let base = Hpa::new(0x4_0000);
    let hpt = Hpt::new(DirectMap::new(&words, base), base, HptOrder::MIN, layout).unwrap();
    let guest = Guest::default();
    let hcalls = Hcalls::new(&hpt, &guest, dialect);
    let mut model = Model { entries: vec![(0, 0); ENTRIES as usize], dialect, layout };
    for &(number, arguments) in calls {
        if Hcall::of_number(number).is_none() && [0x04, 0x08, 0x0c].contains(&number) {
            continue;
        }
        let (code, mut values) = model.call(number, arguments);
        let answer = hcalls.call(number, arguments);
        if code != SUCCESS && number != 0x124 {
            values = arguments;
        }
        assert_eq!(
            (answer.code.code(), answer.values),
            (code, values),
            "{number:#x} {arguments:x?}"
        );
    }
    for (ptex, &(v, r)) in model.entries.iter().enumerate() {
        let hpte = hcalls.read(ptex as u64).unwrap();
        assert_eq!((hpte.v.into_bits(), hpte.r.into_bits()), (v, r), "{ptex:#x}");
    }
    assert!(hpt.entries(0).count() == model.entries.iter().filter(|(v, _)| v & 1 != 0).count());
}

proptest! {
    #![proptest_config(pgtable_conformance::cases::config(64))]
    #[test]
    fn kvm_before_v3(calls in proptest::collection::vec(call(), 1..120)) {
        run(Layout::V2, Dialect::Kvm, &calls);
    }

    #[test]
    fn kvm_v3(calls in proptest::collection::vec(call(), 1..120)) {
        run(Layout::V3, Dialect::Kvm, &calls);
    }

    #[test]
    fn papr(calls in proptest::collection::vec(call(), 1..120)) {
        run(Layout::V2, Dialect::Papr, &calls);
    }
}

/// What one sees on an emulated POWER9: the return codes, and that a call which fails touches no
/// register.
#[test]
fn as_seen_on_an_emulated_power9() {
    let words: Vec<AtomicU64> = (0..2 * ENTRIES).map(|_| AtomicU64::new(0)).collect();
    let hpt = Hpt::new(DirectMap::new(&words, Hpa::new(0)), Hpa::new(0), HptOrder::MIN, Layout::V3)
        .unwrap();
    let guest = Guest::default();
    let hcalls = Hcalls::new(&hpt, &guest, Dialect::Kvm);
    let exact = 1 << 39;
    for (name, number, arguments, code, value) in [
        ("enter", 0x08, [exact, 0x100, 0x1231, 0x2_0013], 0, 0x100),
        ("EXACT on a used slot", 0x08, [exact, 0x100, 0x1231, 0x2_0013], -6, exact),
        ("B = 2", 0x08, [0, 0x100, 2 << 62 | 1, 0x2_0013], -4, 0),
        ("ptex out of range", 0x08, [0, ENTRIES, 0x1231, 0x2_0013], -4, 0),
        ("AVPN 0", 0x04, [1 << 31, 0x100, 0, 0], -7, 1 << 31),
        ("protect with AVPN 0", 0x18, [1 << 31, 0x100, 0, 0], -7, 1 << 31),
        ("remove", 0x04, [0, 0x100, 0, 0], 0, 0x1211),
        ("remove twice", 0x04, [0, 0x100, 0, 0], -7, 0),
    ] {
        let [a, b, c, d] = arguments;
        let answer = hcalls.call(number, [a, b, c, d, 0, 0, 0, 0, 0]);
        assert_eq!((answer.code.code(), answer.values[0]), (code, value), "{name}");
    }
    assert_eq!(guest.invalidated.borrow().len(), 1);
}

#[test]
fn every_group_full() {
    let words: Vec<AtomicU64> = (0..2 * ENTRIES).map(|_| AtomicU64::new(0)).collect();
    let hpt = Hpt::new(DirectMap::new(&words, Gpa::new(0)), Gpa::new(0), HptOrder::MIN, Layout::V3)
        .unwrap();
    let guest = Guest::default();
    let hcalls = Hcalls::new(&hpt, &guest, Dialect::Papr);
    for group in 0..ENTRIES / 8 {
        for slot in 0..8 {
            let v = (group << 7 | slot << 20 | 1).into();
            let r = (slot << 12 | 0x190).into();
            assert_eq!(hcalls.enter(0.into(), group * 8 + 7, v, r), Ok(group * 8 + slot));
        }
        assert_eq!(
            hcalls.enter(0.into(), group * 8, 1.into(), 0x190.into()).unwrap_err().code(),
            PTEG_FULL
        );
    }
    assert_eq!(hpt.entries(0).count() as u64, ENTRIES);
    for ptex in 0..ENTRIES {
        hcalls.remove(0.into(), ptex, 0).unwrap();
    }
    assert_eq!(hpt.entries(0).count(), 0);
}

/// A large page of memory that consists of smaller ones is refused by both dialects; `ZERO_PAGE`
/// zeroes a page only as PAPR says.
#[test]
fn what_stands_at_a_page_decides() {
    let (large, small) = (4, 0);
    for (dialect, flags, v, r, want, zeroed) in [
        (Dialect::Kvm, 0, large, SMALL | 0x10, PARAMETER, 0),
        (Dialect::Papr, 0, large, SMALL | 0x10, PARAMETER, 0),
        (Dialect::Kvm, 0, large, (SMALL - (16 << 20)) | 0x10, SUCCESS, 0),
        (Dialect::Papr, 0, small, SMALL | 0x10, SUCCESS, 0),
        (Dialect::Papr, 1 << 15, small, SMALL | 0x10, SUCCESS, 1),
        (Dialect::Kvm, 1 << 15, small, SMALL | 0x10, SUCCESS, 0),
        (Dialect::Kvm, 1 << 15, small, MEMORY | 0x10, SUCCESS, 0),
        (Dialect::Papr, 1 << 15, small, MEMORY | 0x20, PARAMETER, 0),
    ] {
        let words: Vec<AtomicU64> = (0..2 * ENTRIES).map(|_| AtomicU64::new(0)).collect();
        let hpt =
            Hpt::new(DirectMap::new(&words, Hpa::new(0)), Hpa::new(0), HptOrder::MIN, Layout::V3)
                .unwrap();
        let guest = Guest::default();
        let answer = Hcalls::new(&hpt, &guest, dialect).call(0x08, [flags, 8, v, r, 0, 0, 0, 0, 0]);
        assert_eq!(answer.code.code(), want, "{dialect:?} {flags:#x} {v:#x} {r:#x}");
        let done = guest.zeroed.borrow().iter().filter(|(page, _)| *page < MEMORY).count();
        assert_eq!(done, zeroed, "{dialect:?} {flags:#x} {v:#x} {r:#x}");
    }
}
