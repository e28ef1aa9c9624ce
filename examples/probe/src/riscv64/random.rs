//! Random trees of one stage and of both, and random changes in them.

use std::error::Error;

use fastrand::Rng;
use pgtable::format::{Entry, Format};
use pgtable::{Level, Position, Prot, low_bits};
use pgtable_riscv64::Extensions;

use super::bench::{Bench, Case, Values};
use super::records::DATA;
use super::scene::{Builder, twisted};
use super::state::State;
use super::systematic::{ACTS, HYPERVISORS_ACTS};

/// How many pages each tree gets.
const PAGES: usize = 160;

/// An address of a tree's, log2 of its page's size, and where it is in memory.
type Place = (u64, u8, u64);

/// Makes `count` cases, half of them of one stage.
pub fn cases(
    bench: &Bench<'_>,
    builder: &mut Builder<'_>,
    values: &Values,
    (count, rng): (usize, &mut Rng),
) -> Result<Vec<Case>, Box<dyn Error>> {
    let machine = bench.machine;
    let first_format = State::USUAL.first(&machine, true);
    let second_format = State::USUAL.second(&machine);
    let bits = first_format.geometry().address_bits();
    // Few regions of 1 GiB, so that pages share tables.
    let regions = |rng: &mut Rng, bits: u8| {
        (0..12).map(|_| rng.u64(..1 << bits) >> 30 << 30).collect::<Vec<_>>()
    };
    let gvas = regions(rng, bits - 1);
    let gpas = regions(rng, second_format.geometry().address_bits());
    // Few larger pages: each keeps a region to itself.
    let size = |rng: &mut Rng, levels: u8| match rng.u8(..32) {
        0 => 30,
        1 if levels > 3 => 12 + 9 * rng.u8(3..levels),
        1..12 => 21,
        12..18 => 16,
        _ => 12,
    };
    let near = |rng: &mut Rng| rng.u64(..) & low_bits([30, 23, 15][rng.usize(..3)]);
    let (mut ones, mut pages, mut mappings) = (Vec::new(), Vec::new(), Vec::new());
    let (mut places_one, mut places_two): (Vec<Place>, Vec<Place>) = (Vec::new(), Vec::new());
    for _ in 0..PAGES {
        let hpa = rng.u64(DATA.0..DATA.1) & !15;
        let shift = size(rng, machine.second.levels());
        let gpa = twisted(gpas[rng.usize(..12)] | near(rng), hpa, shift);
        mappings.push((gpa, hpa, shift, attributes(&second_format, rng, shift)));
        let shift = size(rng, machine.first.levels());
        let high = if rng.bool() { u64::MAX << (bits - 1) } else { 0 };
        let from = gvas[rng.usize(..12)] | high | near(rng);
        let attributes = attributes(&first_format, rng, shift);
        let gva = twisted(from, gpa, shift);
        pages.push((gva, gpa, shift, attributes));
        places_two.push((gva, shift, hpa));
        let gva = twisted(from, hpa, shift);
        ones.push((gva, hpa, shift, attributes));
        places_one.push((gva, shift, hpa));
    }
    let scenes = [
        (builder.build_one(24, &ones)?, places_one),
        (builder.build_two((24, 32), 12, &pages, &mappings)?, places_two),
    ];

    let mut all = Vec::with_capacity(count);
    while all.len() < count {
        let (roots, places) = &scenes[rng.usize(..2)];
        let (gva, shift, data) = places[rng.usize(..places.len())];
        let mut address = match rng.u8(..8) {
            0 => gva ^ 1 << rng.u8(12..bits),
            1 => gva ^ rng.u64(..) & low_bits(shift) & !15,
            _ => gva,
        };
        let hypervisors = roots.guest && rng.u8(..4) == 0;
        let acts = if hypervisors { &HYPERVISORS_ACTS[..] } else { &ACTS };
        let act = acts[rng.usize(..acts.len())];
        if rng.u8(..32) == 0 {
            // Not sign-extended, perhaps.
            address ^= 1 << rng.u8(bits - 1..64);
        }
        let mut extensions =
            || Extensions { adue: rng.u8(..4) != 0, pbmte: rng.u8(..4) != 0, ..State::USUAL.first };
        let (first, second) = (extensions(), extensions());
        let mut mask = || if rng.u8(..4) == 0 { rng.u8(2..4) } else { 0 };
        let masks = [mask(), mask()];
        if masks != [0; 2] && rng.bool() {
            address ^= rng.u64(..) & 0xffff << 48;
        }
        let mut often = || rng.u8(..3) == 0;
        let state = State { sum: often(), mxr: often(), host_mxr: often(), first, second, masks };
        let mut case = Case {
            kind: "random",
            roots: *roots,
            patches: Vec::new(),
            state,
            address,
            data,
            act,
            value: values.next(),
        };
        let (first, second) = bench.entries(&case)?;
        let entries: Vec<_> = first.into_iter().chain(second).collect();
        for _ in 0..rng.usize(..3) {
            if let Some(at) = entries.get(rng.usize(..entries.len().max(1))) {
                let word = odd(bench.load(*at)?, rng);
                if case.patches.iter().all(|(other, _)| other != at) {
                    case.patches.push((*at, word));
                }
            }
        }
        case.kind = match (case.roots.guest, case.patches.is_empty()) {
            (false, true) => "random, one stage",
            (false, false) => "random, one stage, odd entries",
            (true, true) => "random, two stages",
            (true, false) => "random, two stages, odd entries",
        };
        all.push(case);
    }
    Ok(all)
}

/// Any attributes that the format can say.
fn attributes<F: Format>(format: &F, rng: &mut Rng, shift: u8) -> F::Attributes {
    // Entries of a page of 64 KiB are those of the last level.
    let level = (shift - 12) / 9;
    let at = Position { level: Level(level), shift: 12 + 9 * level };
    let plain = F::Attributes::from(Prot::RWX.for_user());
    let Ok(words) = format.leaves(pgtable::Address::new(0), plain, at) else { return plain };
    // Rights, G, A, D, RSW; and PBMT.
    let mut word = words.first ^ rng.u64(..) & (0x320 | rng.u64(..) & 0xde);
    if rng.u8(..8) == 0 {
        word |= rng.u64(..3) << 61;
    }
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
        1 => word & !0x1f | random & 0x1f,
        2 => word ^ random & 0x1f,
        3 => word ^ random & 0x3e0,
        4 => word ^ 1 << (10 + random % 44),
        5 => word & !0xc0,
        6 => word ^ random & !low_bits(54),
        _ => word ^ 1 << (random & 63),
    }
}
