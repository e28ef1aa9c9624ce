//! Random trees: every entry is one of some kind, mostly a good one, so that accesses go deep and
//! find everything on their way.

use std::error::Error;

use fastrand::Rng;
use kvm_x86::Features;
use pgtable::{Access, AccessKind, Gva, Privilege};
use pgtable_x86::{Controls, Levels};

use super::controls;
use super::host::Faults;
use super::image::{DATA, GIB_DATA, IMAGE, Image, NOTHING};
use super::judge::{Case, Judge};
use crate::report::Report;

/// Accesses to one image.
const PER_IMAGE: usize = 400;
/// Tables of a level below the root.
const TABLES: u64 = 6;
/// Addresses have one of so many indices on each level: so that they meet in tables, and in
/// entries.
const INDICES: u64 = 12;

/// Makes `cases` random accesses.
pub fn run(
    judge: &mut Judge<'_>,
    features: &Features,
    (cases, seed): (usize, u64),
    report: &mut Report,
) -> Result<(), Box<dyn Error>> {
    let mut dice = Rng::with_seed(seed);
    let mut rest = cases;
    while rest > 0 {
        let levels = features.levels()[dice.usize(..features.levels().len())];
        let controls = controls::any(features, &mut dice);
        let mut image = judge.image(levels);
        fill(&mut image, levels, &controls, judge.faults, &mut dice);
        judge.use_image(image, levels, controls)?;
        for _ in 0..rest.min(PER_IMAGE) {
            let access = access(&mut dice);
            let kind = match access.privilege {
                Privilege::User => "random, user mode",
                Privilege::Supervisor => "random, supervisor mode",
            };
            let witness = dice.u8(..8) == 0;
            judge.case(
                &Case { kind, address: address(levels, &mut dice), access, witness },
                report,
            )?;
        }
        judge.finish_image(report)?;
        rest -= rest.min(PER_IMAGE);
    }
    Ok(())
}

fn access(dice: &mut Rng) -> Access {
    let kind = [AccessKind::Read, AccessKind::Write, AccessKind::Fetch][dice.usize(..3)];
    // Some hosts interpret a guest's supervisor mode, slowly.
    let privilege = if dice.u8(..4) == 0 { Privilege::Supervisor } else { Privilege::User };
    Access { kind, privilege }
}

/// Index `number` of those that addresses have on a level.
fn index(number: u64) -> u64 {
    // Both halves, ends of tables; not the corner's slot, and not the one that some hosts keep.
    [0, 1, 7, 63, 128, 255, 257, 300, 384, 448, 509, 510][number as usize % 12]
}

fn address(levels: Levels, dice: &mut Rng) -> Gva {
    let count = if levels == Levels::Five { 5 } else { 4 };
    let mut address = dice.u64(..0xf80) & !7;
    for level in 0..count {
        address |= index(dice.u64(..INDICES)) << (12 + 9 * level);
    }
    let unused = 64 - (12 + 9 * count);
    let mut address = ((address << unused) as i64 >> unused) as u64;
    if dice.u8(..50) == 0 {
        // Mostly not canonical.
        address ^= 1 << dice.u32(64 - unused - 1..64);
    }
    Gva::new(address)
}

/// Fills an image: tables of each level, and entries at all indices that addresses have.
fn fill(
    image: &mut Image<'_>,
    levels: Levels,
    controls: &Controls,
    faults: Faults,
    dice: &mut Rng,
) {
    let root = if levels == Levels::Five { 4 } else { 3 };
    let mut above = vec![IMAGE.start];
    for level in (0..=root).rev() {
        let below: Vec<_> =
            if level == 0 { vec![] } else { (0..TABLES).filter_map(|_| image.table()).collect() };
        for table in &above {
            for number in 0..INDICES {
                image.put(*table, index(number), word(level, &below, (controls, faults), dice));
            }
        }
        above = below;
    }
}

fn word(level: u32, below: &[u64], (controls, faults): (&Controls, Faults), dice: &mut Rng) -> u64 {
    let mut one_in = |n: u32| dice.u32(..n) == 0;
    let (absent, read_only, supervisor, no_execute) =
        (one_in(30), one_in(6), one_in(8), one_in(10));
    let (page, misaligned, stray, outside, mbz) =
        (one_in(4), one_in(12), one_in(60), one_in(60), one_in(30));
    let ps_where_none_is = one_in(60);
    // PWT, PCD, A, D, what is ignored, and the protection key.
    let mut word = dice.u64(..) & 0x7ff0_0000_0000_0e78;
    for (set, bit) in [(!absent, 0), (!read_only, 1), (!supervisor, 2), (no_execute, 63)] {
        word |= u64::from(set) << bit;
    }
    let may_be_page = level == 1 || level == 2 && controls.gib_pages;
    let is_page = level == 0 || may_be_page && page;
    // G, ignored in tables' entries on all levels but the upper ones of AMD's.
    word |= u64::from(if level < 3 { dice.bool() } else { mbz && !faults.mbz_ignored }) << 8;
    let reserved = 52 - u32::from(controls.maxphyaddr);
    if stray && reserved > 0 {
        word |= 1 << (52 - 1 - dice.u32(..reserved));
    }
    if !is_page {
        if ps_where_none_is && !may_be_page {
            word |= 0x80;
        }
        let table = below.get(dice.usize(..below.len().max(1))).copied().unwrap_or(IMAGE.start);
        return word | if outside { NOTHING | table } else { table };
    }
    let frame = match level {
        0 => dice.u64(DATA.start >> 12..DATA.end >> 12) << 12,
        1 => dice.u64(DATA.start >> 21..DATA.end >> 21) << 21,
        _ => GIB_DATA.start,
    };
    // The PAT bit: 7 in a PTE, 12 in a huge page.
    let pat = u64::from(dice.bool());
    word |= if level == 0 { pat << 7 } else { 0x80 | pat << 12 };
    if level > 0 && misaligned {
        word |= 1 << dice.u32(13..12 + 9 * level);
    }
    word | if outside && level < 2 { NOTHING | frame } else { frame }
}
