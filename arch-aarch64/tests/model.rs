//! The formats against a walker that is written straight from the manual.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod support;

use pgtable::format::Format;
use pgtable::memory::{LoadWith, MemoryError};
use pgtable::two_stage::{TwoStage, TwoStageFault};
use pgtable::walk::Walker;
use pgtable::{Address, Gpa, Gva, Hpa, Level, Position};
use pgtable_aarch64::{
    Granule, Regime, Stage1Controls, Stage2Controls, VaRange, VmsaStage1, VmsaStage2,
};
use support::model::{self, Params};
use support::{ACCESSES, Dice, GRANULES, S1, S2, params1, params2, stage1, stage2};

/// Bits of `n`, taken off one by one.
struct Flags(u32);

impl Flags {
    fn next(&mut self) -> bool {
        let bit = self.0 & 1 == 1;
        self.0 >>= 1;
        bit
    }
}

const PAGE: Position = Position { level: Level(0), shift: 12 };

/// Every combination of what stage 1 judges: 1.5 million.
#[test]
fn every_right_of_stage1() {
    for n in 0..1 << 6 {
        let mut flags = Flags(n);
        let (ha, hd, hpd) = (flags.next(), flags.next(), flags.next());
        let (wxn, pan, epan) = (flags.next(), flags.next(), flags.next());
        for regime in [Regime::El10, Regime::El2, Regime::El20] {
            let controls = Stage1Controls { regime, ha, hd, hpd, wxn, pan, epan, ..S1 };
            let (format, params) = (stage1(controls), params1(&controls));
            for n in 0..1u64 << 10 {
                // AP, AF, DBM, PXN, UXN; and the limits of a table.
                let word = 3 | (n & 3) << 6 | (n >> 2 & 1) << 10 | (n >> 3 & 1) << 51;
                let word = word | (n >> 4 & 3) << 53;
                let limits = n >> 6;
                let table = Position { level: Level(1), shift: 21 };
                let path = format.restrict(0, limits << 59 | 3, table);
                let counted = if hpd { 0 } else { limits };
                for access in ACCESSES {
                    let want = if word >> 10 & 1 == 0 && !ha {
                        Err(0xb)
                    } else if model::first(&params, word, counted, access) {
                        Ok(())
                    } else {
                        Err(0xf)
                    };
                    let got = format.check(word, PAGE, path, access);
                    let got = got.map_err(|esr| esr.status());
                    assert_eq!(got, want, "{access} of {word:#x}, {limits:#x}, {controls:?}");
                }
            }
        }
    }
}

/// Every combination of what stage 2 judges.
#[test]
fn every_right_of_stage2() {
    for n in 0..1 << 4 {
        let mut flags = Flags(n);
        let (ha, hd, xnx, fwb) = (flags.next(), flags.next(), flags.next(), flags.next());
        let controls = Stage2Controls { ha, hd, xnx, fwb, ..S2 };
        let (format, params) = (stage2(controls), params2(&controls));
        for n in 0..1u64 << 10 {
            // MemAttr and S2AP, AF, DBM, XN.
            let word = 3 | (n & 0x3f) << 2 | (n >> 6 & 1) << 10 | (n >> 7 & 7) << 51;
            let word = word & !(1 << 52) | (n >> 8 & 3) << 53;
            for access in ACCESSES {
                let want = if word >> 10 & 1 == 0 && !ha {
                    Err(0xb)
                } else if model::second(&params, word, access) {
                    Ok(())
                } else {
                    Err(0xf)
                };
                let got = format.check(word, PAGE, (), access).map_err(|esr| esr.status());
                assert_eq!(got, want, "{access} of {word:#x}, {controls:?}");
            }
        }
    }
}

/// The start level for every size, granule and stage; sizes that there are not are refused.
#[test]
fn every_start_level() {
    for granule in GRANULES {
        let shift = u32::from(granule.shift());
        for bits in 0..=64u8 {
            for wide in [false, true] {
                let controls = Stage1Controls {
                    granule,
                    input_bits: bits,
                    lva: wide,
                    ds: wide,
                    small_tables: true,
                    ..S1
                };
                let least = if shift == 16 { 17 } else { 16 };
                let exists = (least..=if wide { 52 } else { 48 }).contains(&bits);
                let format = VmsaStage1::new(controls);
                assert_eq!(format.is_ok(), exists, "{controls:?}");
                if let Ok(format) = format {
                    let want = model::stage1_start(shift, bits.into());
                    assert_eq!(i32::from(format.start_level()), want, "{controls:?}");
                    assert_eq!(format.geometry().address_bits(), bits);
                }
                for start_level in -3..=4i8 {
                    let controls = Stage2Controls {
                        granule,
                        input_bits: bits,
                        start_level,
                        physical_bits: if wide { 52 } else { 48 },
                        ds: wide,
                        small_tables: true,
                        ..S2
                    };
                    let first = match (shift, wide) {
                        (12, true) => -1,
                        (12, false) | (14, true) => 0,
                        _ => 1,
                    };
                    let (min, max) = model::stage2_limits(shift, start_level.into());
                    let exists = exists
                        && (first..=3).contains(&start_level)
                        && (min..=max).contains(&bits.into());
                    let format = VmsaStage2::new(controls);
                    assert_eq!(format.is_ok(), exists, "{controls:?}: {format:?}");
                    if let Ok(format) = format {
                        assert_eq!(format.start_level(), start_level);
                        let root = 1u64
                            << (u32::from(bits) - (shift + (shift - 3) * (3 - start_level) as u32));
                        let tables = ((root * 8) >> shift).max(1);
                        assert_eq!(u64::from(format.root_tables()), tables, "{controls:?}");
                    }
                }
            }
            for small_tables in [false, true] {
                let usual = Stage2Controls { small_tables, ..S2 }.with_input(granule, bits);
                let least = if !small_tables {
                    25
                } else if shift == 16 {
                    17
                } else {
                    16
                };
                let exists = (least..=48).contains(&bits);
                assert_eq!(VmsaStage2::new(usual).is_ok(), exists, "{usual:?}");
            }
        }
    }
}

/// A first level that needs more physical address bits than there are (D8.2.8 to D8.2.10).
#[test]
fn start_levels_of_small_processors() {
    for (granule, input_bits, start_level, needed) in
        [(Granule::K4, 40, 0, 44), (Granule::K16, 38, 1, 42), (Granule::K64, 43, 1, 44)]
    {
        for physical_bits in [32, 36, 40, 42, 44, 48, 52] {
            let controls = Stage2Controls { granule, input_bits, start_level, physical_bits, ..S2 };
            let exists = physical_bits >= needed;
            assert_eq!(VmsaStage2::new(controls).is_ok(), exists, "{controls:?}");
        }
    }
}

/// Memory whose every word is an entry of some kind, mostly a valid one.
fn word_at(seed: u64, address: u64) -> u64 {
    let mut dice = Dice(seed ^ address.wrapping_mul(0x2545_f491_4f6c_dd1d));
    let word = dice.next();
    // Mostly tables and pages that allow something, at addresses of 32 bits.
    let word = match dice.below(8) {
        0 => word,
        1 => word & !0xffff_0000_0000 | 1,
        _ => word & !0xffff_0000_f300 | 3,
    };
    let word = if dice.below(4) != 0 { word | 1 << 10 } else { word };
    if dice.below(4) != 0 { word & !(0xf << 59) } else { word }
}

/// Where memory ends.
const END: u64 = 0xf000_0000;

fn load(seed: u64, address: u64) -> Option<u64> {
    // Tables beyond the usual addresses are there too.
    (address < END || address >> 33 != 0).then(|| word_at(seed, address))
}

fn controls1(dice: &mut Dice) -> Stage1Controls {
    let granule = GRANULES[dice.below(3) as usize];
    let (ds, lva) = (dice.coin(), dice.coin());
    Stage1Controls {
        regime: [Regime::El10, Regime::El2, Regime::El20][dice.below(3) as usize],
        range: if dice.coin() { VaRange::Upper } else { VaRange::Lower },
        granule,
        input_bits: 17 + dice.below(36) as u8,
        output_bits: [32, 36, 40, 42, 44, 48, 52][dice.below(7) as usize],
        physical_bits: if dice.coin() { 52 } else { 48 },
        lva,
        ds,
        small_tables: true,
        contiguous: dice.coin(),
        ha: dice.coin(),
        hd: dice.coin(),
        hpd: dice.coin(),
        tbi: dice.coin(),
        wxn: dice.coin(),
        pan: dice.coin(),
        epan: dice.coin(),
    }
}

fn controls2(dice: &mut Dice) -> Stage2Controls {
    Stage2Controls {
        granule: GRANULES[dice.below(3) as usize],
        input_bits: 17 + dice.below(36) as u8,
        start_level: dice.below(5) as i8 - 1,
        output_bits: [32, 36, 40, 42, 44, 48, 52][dice.below(7) as usize],
        physical_bits: if dice.coin() { 52 } else { 48 },
        ds: dice.coin(),
        small_tables: true,
        contiguous: dice.coin(),
        ha: dice.coin(),
        hd: dice.coin(),
        xnx: dice.coin(),
        fwb: dice.coin(),
    }
}

/// An input address that is mostly inside.
fn input(dice: &mut Dice, p: &Params) -> u64 {
    let address = dice.next();
    let inside = address << (64 - p.input_bits) >> (64 - p.input_bits);
    match dice.below(16) {
        0 => address,
        1 => inside | 1 << p.input_bits,
        2 => inside | dice.next() << 56,
        _ if p.upper => inside | u64::MAX << p.input_bits,
        _ => inside,
    }
}

fn memory<A: Address>(seed: u64) -> LoadWith<impl Fn(A) -> Result<u64, MemoryError>> {
    LoadWith(move |at: A| load(seed, at.get()).ok_or(MemoryError::outside(at, 1)))
}

/// Random trees of random formats, through the walker and through the model: the same address and
/// size, or the same status at the same level.
#[test]
fn random_walks() {
    let mut dice = Dice(1);
    let (mut pages, mut faults) = ([0; 2], std::collections::BTreeMap::new());
    for _ in 0..40_000 {
        let seed = dice.next();
        let second = dice.coin();
        for _ in 0..8 {
            let access = ACCESSES[dice.below(6) as usize];
            // Now and then, there is no root.
            let root = if dice.below(32) == 0 { END } else { 0 };
            let (got, want, what) = if second {
                let controls = controls2(&mut dice);
                let Ok(format) = VmsaStage2::new(controls) else { continue };
                let params = params2(&controls);
                let ipa = input(&mut dice, &params);
                let want = model::walk(&params, root, ipa, access, |at| load(seed, at));
                let walker = Walker::new(format, memory(seed), Hpa::new(root));
                let got = walker.translate(Gpa::new(ipa), access);
                let got = got.map(|page| (page.output.get(), page.shift.into()));
                (got.map_err(|fault| fault.arch), want, format!("{ipa:#x} {controls:?}"))
            } else {
                let controls = controls1(&mut dice);
                let Ok(format) = VmsaStage1::new(controls) else { continue };
                let params = params1(&controls);
                let va = input(&mut dice, &params);
                let want = model::walk(&params, root, va, access, |at| load(seed, at));
                let walker = Walker::new(format, memory(seed), Gpa::new(root));
                let got = walker.translate(Gva::new(va), access);
                let got = got.map(|page| (page.output.get(), page.shift.into()));
                (got.map_err(|fault| fault.arch), want, format!("{va:#x} {controls:?}"))
            };
            assert_eq!(got.map_err(|esr| esr.status()), want, "{access} of {what}, seed {seed:#x}");
            match got {
                Ok(_) => pages[usize::from(second)] += 1,
                Err(esr) => *faults.entry(esr.status()).or_insert(0) += 1,
            }
        }
    }
    assert!(pages.iter().all(|&pages| pages > 3000), "{pages:?}");
    // Every status that there is: levels −1 to 3.
    for status in
        [0x29, 0x2b, 0x13, 0, 1, 2, 3, 4, 5, 6, 7, 9, 10, 11, 13, 14, 15, 0x14, 0x15, 0x16, 0x17]
    {
        assert!(faults.get(&status).is_some_and(|&n| n > 3), "{status:#x}: {faults:x?}");
    }
}

/// Where stage 1's root stands behind stage 2.
const ROOT: u64 = 0x12_0000;

/// Two stages: whose fault it is, whether it hit a table, and its status.
#[test]
fn random_walks_through_both_stages() {
    let mut dice = Dice(2);
    let mut seen = std::collections::BTreeMap::new();
    for _ in 0..150_000 {
        let seed = dice.next();
        let (c1, c2) = (controls1(&mut dice), controls2(&mut dice));
        let (Ok(first), Ok(second)) = (VmsaStage1::new(c1), VmsaStage2::new(c2)) else { continue };
        let (p1, p2) = (params1(&c1), params2(&c2));
        let access = ACCESSES[dice.below(6) as usize];
        let va = input(&mut dice, &p1);
        let want = model::both((&p1, ROOT), (&p2, 0), va, access, |at| load(seed, at));
        let want = want.map(|(pa, _)| pa);
        let tables = Walker::new(second, memory(seed), Hpa::new(0));
        let got = TwoStage::new(first, Gpa::new(ROOT), tables).translate(Gva::new(va), access);
        let got = got.map(|page| page.output().get()).map_err(|fault| match fault {
            TwoStageFault::Stage1(fault) => (false, false, fault.arch.status()),
            TwoStageFault::Stage2 { table, fault, .. } => {
                assert_eq!(fault.arch.s1ptw(), table.is_some());
                (true, table.is_some(), fault.arch.status())
            }
        });
        assert_eq!(got, want, "{access} of {va:#x}, seed {seed:#x}\n{c1:?}\n{c2:?}");
        *seen.entry(got.map(|_| ()).map_err(|(second, table, _)| (second, table))).or_insert(0) +=
            1;
    }
    assert!(seen.len() >= 4 && seen.values().all(|&n| n > 50), "{seen:?}");
}
