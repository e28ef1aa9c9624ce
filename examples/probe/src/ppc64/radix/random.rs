//! Cases in which everything is varied at once.

use fastrand::Rng;

use super::case::{ACCESSES, Case, L, Regime, SIZES, Shape, V};
use super::layout::{DATA, NOWHERE, PROCESSES, TABLES};

/// The next case.
pub fn case(rng: &mut Rng) -> Case {
    let mut case = shape(rng).case("random", pick(rng, &ACCESSES));
    // Most of the time nothing is in the way of whatever else is odd.
    if rng.u8(..) < 64 {
        case.amr = rng.u64(..);
        case.iamr = rng.u64(..);
    }
    for _ in 0..pick(rng, &[0, 0, 1, 1, 2]) {
        case = change(rng, case);
    }
    case
}

fn pick<T: Copy>(rng: &mut Rng, from: &[T]) -> T {
    from[rng.usize(..from.len())]
}

/// A good tree, of which anything may be mapped with any attributes.
fn shape(rng: &mut Rng) -> Shape {
    let pid = match rng.u8(..8) {
        0 => 0,
        1 => rng.u32(PROCESSES..1 << 20),
        _ => rng.u32(1..PROCESSES),
    };
    let (start, bytes) = pick(rng, &DATA);
    let target = match rng.u8(..10) {
        0 => pick(rng, &NOWHERE),
        _ => start,
    } + rng.u64(..bytes);
    let mut tables = pick(rng, &TABLES);
    if rng.u8(..16) == 0 {
        tables[0] += rng.u64(1..256) << 8;
    }
    Shape {
        regime: if rng.u8(..4) == 0 { Regime::Kernel(pid) } else { Regime::Process(pid) },
        tables,
        size: pick(rng, &SIZES),
        target: target & !7,
        high: rng.u64(..),
        // All that a leaf has besides V, L and the address; half of the time it allows everything.
        leaf: rng.u64(..) & 0x3e00_0000_0000_0fff | if rng.bool() { 7 } else { 0 },
        ..Shape::PLAIN
    }
}

/// Changes something somewhere.
fn change(rng: &mut Rng, mut case: Case) -> Case {
    if rng.u8(..8) == 0 {
        case.address ^= 1 << rng.u8(3..64);
        return case;
    }
    let slots = case.prte.len() + case.entries.len();
    let index = rng.usize(..slots);
    let kind = rng.u8(..12);
    let random = rng.u64(..);
    let nowhere = pick(rng, &NOWHERE);
    let change = |word: u64| match kind {
        0 => 0,
        1 => word & !V,
        2 => word ^ L,
        3 => random,
        4 => random | V,
        5 => random | V | L,
        6 => word & !0x1f | random & 0x1f,
        7 => word & 0xfff | V | nowhere,
        8 => word ^ (random & 0xe0),
        9 => word ^ (random & 0x3e00_0000_0000_0000),
        10 => word ^ (random & 0xff00),
        _ => word ^ 1 << (random & 63),
    };
    match index.checked_sub(case.prte.len()) {
        Some(index) => case.entry(index, change),
        None => case.prte(index, change),
    }
}
