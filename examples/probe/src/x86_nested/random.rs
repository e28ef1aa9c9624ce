//! Random trees of both stages, and random changes in them.

use std::error::Error;

use fastrand::Rng;
use pgtable::format::Entry;
use pgtable::{Access, Hpa, Level, Position, Prot, low_bits};
use pgtable_x86::{Controls, Levels, PageAttributes};

use super::bench::{Bench, Case, Values};
use super::records::DATA;
use super::scene::{Builder, twisted};
use super::second::{Machine, Second, guest_controls};

/// How many pages each stage gets.
const PAGES: usize = 160;

/// Makes `count` cases.
pub fn cases<S: Second>(
    bench: &Bench<'_>,
    builder: &mut Builder<'_>,
    machine: &Machine,
    values: &Values,
    (count, rng): (usize, &mut Rng),
) -> Result<Vec<Case<S>>, Box<dyn Error>> {
    let usual = guest_controls(machine);
    let seconds = S::controls(machine);
    // Few regions of 1 GiB, so that pages share tables.
    let bits = if machine.levels == Levels::Five { 56 } else { 47 };
    let regions = |rng: &mut Rng, bits: u8| {
        (0..12).map(|_| rng.u64(..1 << bits) >> 30 << 30).collect::<Vec<_>>()
    };
    let (gvas, gpas) = (regions(rng, bits), regions(rng, machine.maxphyaddr.min(48)));
    // Few pages of 1 GiB: each keeps a region to itself.
    let size = |rng: &mut Rng| match rng.u8(..32) {
        0 if machine.gib_pages => 30,
        0..16 => 21,
        _ => 12,
    };
    let near = |rng: &mut Rng| rng.u64(..) & low_bits([30, 23, 15][rng.usize(..3)]);
    let (mut pages, mut mappings, mut addresses) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..PAGES {
        let hpa = rng.u64(DATA.0..DATA.1) & !15;
        let shift = size(rng);
        let gpa = twisted(gpas[rng.usize(..12)] | near(rng), hpa, shift);
        mappings.push((
            gpa,
            hpa,
            shift,
            attributes(S::under(machine.levels, seconds[0]), rng, shift),
        ));
        let shift = size(rng);
        let high = if rng.bool() { u64::MAX << bits } else { 0 };
        let gva = twisted(gvas[rng.usize(..12)] | high | near(rng), gpa, shift);
        let mut often = || rng.u8(..5) != 0;
        let prot = Prot::R.with_write(often()).with_execute(often()).with_user(often());
        let attributes =
            PageAttributes::from(prot).with_accessed(rng.bool()).with_dirty(rng.bool());
        pages.push((gva, gpa, shift, attributes));
        addresses.push((gva, shift, hpa));
    }
    let scene = builder.build(
        (8, 10),
        12,
        usual,
        S::under(machine.levels, seconds[0]),
        &pages,
        &mappings,
    )?;

    let mut all = Vec::with_capacity(count);
    while all.len() < count {
        let (gva, shift, data) = addresses[rng.usize(..addresses.len())];
        let mut address = match rng.u8(..8) {
            0 => gva ^ 1 << rng.u8(12..bits),
            1 => gva ^ rng.u64(..) & low_bits(shift) & !15,
            _ => gva,
        };
        let access = [Access::READ, Access::WRITE, Access::FETCH][rng.usize(..3)];
        let access = if rng.bool() { access.by_user() } else { access };
        if access.kind != pgtable::AccessKind::Fetch && rng.u8(..32) == 0 {
            // Not canonical, perhaps.
            address ^= 1 << rng.u8(bits..64);
        }
        let smap = machine.smap && rng.u8(..4) == 0;
        let guest = Controls {
            wp: rng.u8(..4) != 0,
            nxe: rng.u8(..8) != 0,
            smep: rng.u8(..4) == 0,
            smap,
            ac: smap && rng.bool(),
            ..usual
        };
        let second = seconds[rng.usize(..seconds.len())];
        let value = values.next();
        let mut case = Case {
            kind: "random",
            scene,
            patches: Vec::new(),
            guest,
            second,
            address,
            data,
            access,
            value,
        };
        let (first, second) = bench.entries(&case);
        let entries: Vec<_> = first.into_iter().chain(second).collect();
        for _ in 0..rng.usize(..3) {
            if let Some(at) = entries.get(rng.usize(..entries.len().max(1))) {
                let word = odd(bench.load(*at)?, rng);
                if case.patches.iter().all(|(other, _)| other != at) {
                    case.patches.push((*at, word));
                }
            }
        }
        if !case.patches.is_empty() {
            case.kind = "random, with odd entries";
        }
        all.push(case);
    }
    Ok(all)
}

/// Any attributes that stage 2 can say.
fn attributes<S: Second>(format: S, rng: &mut Rng, shift: u8) -> S::Attributes {
    let at = Position { level: Level((shift - 12) / 9), shift };
    let plain = S::Attributes::from(Prot::RWX);
    let Ok(words) = format.leaves(Hpa::new(0), plain, at) else { return plain };
    let word = words.first
        ^ rng.u64(..) & 0x8000_0000_0000_0f7f & if rng.u8(..5) == 0 { u64::MAX } else { 0x360 };
    match format.decode(word, at) {
        Entry::Leaf { attributes, .. } => attributes,
        _ => plain,
    }
}

/// An entry that is odd in some way.
fn odd(word: u64, rng: &mut Rng) -> u64 {
    let random = rng.u64(..);
    match rng.u8(..8) {
        0 => 0,
        1 => word & !7 | random & 7,
        2 => word ^ random & (7 | 1 << 63),
        3 => word ^ random & 0xf78,
        4 => word ^ 1 << (12 + random % 40),
        5 => word & !0x360,
        6 => word ^ random & 0x7ff0_0000_0000_0000,
        _ => word ^ 1 << (random & 63),
    }
}
