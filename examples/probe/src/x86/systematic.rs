//! Every way in which one entry, or two, can differ from the plainest: each level, each bit.

use std::error::Error;

use pgtable::{Access, Gva};
use pgtable_x86::{Controls, Levels};

use super::host::Faults;
use super::image::{DATA, OPEN};
use super::judge::{Case, Judge};
use crate::report::Report;

/// A leaf's page: in the middle of the data, so that each bit of its address leads to data, or out
/// of memory.
const FRAME: u64 = 0x80_0000;
const PS: u64 = 1 << 7;
const XD: u64 = 1 << 63;
/// Bits of an address that lead to memory, but to what no table stands in: left out.
const IN_MEMORY: std::ops::RangeInclusive<u32> = 12..=30;
/// Bits of a small leaf's address that lead to other data.
const IN_DATA: std::ops::Range<u32> = 12..22;

/// Bits that are flipped in the entries of a way, by level.
type Flips = [u64; 5];

/// One way to a page.
#[derive(Clone, Copy)]
struct Way {
    kind: &'static str,
    leaf: usize,
    flips: Flips,
}

/// All ways for trees with a root of level `root` whose leaves stand on the levels below `leaves`,
/// less those that `faults` say nothing is to be had from.
fn ways(root: usize, leaves: usize, faults: Faults) -> Vec<Way> {
    let mut ways = Vec::new();
    for leaf in 0..leaves {
        let way = |kind, flips: &[(usize, u64)]| {
            let mut all = Flips::default();
            for (level, bits) in flips {
                all[*level] ^= bits;
            }
            Way { kind, leaf, flips: all }
        };
        for level in leaf..=root {
            // P, R/W, U/S, XD.
            for combination in 0..16_u64 {
                let bits = combination & 7 | (combination >> 3) << 63;
                ways.push(way("rights on one level", &[(level, bits)]));
            }
            for bit in 0..64 {
                let leads_to_data = level == leaf && IN_DATA.contains(&bit);
                let left_out = bit == 8 && level >= 3 && faults.mbz_ignored;
                if (!IN_MEMORY.contains(&bit) || leads_to_data) && !left_out {
                    ways.push(way("one bit flipped", &[(level, 1 << bit)]));
                }
            }
            for below in leaf..level {
                for high in [2, 4, XD] {
                    for low in [2, 4, XD] {
                        ways.push(way("rights on two levels", &[(level, high), (below, low)]));
                    }
                }
            }
            // Accessed and dirty, before.
            for bits in [0x20, 0x40, 0x60] {
                ways.push(way("A and D before", &[(level, bits)]));
            }
        }
    }
    // A page size that stands for none, where there are no 1-GiB pages, is among the single bits.
    ways
}

const ORDERS: [[Access; 6]; 2] = {
    let [r, w, f] = [Access::READ, Access::WRITE, Access::FETCH];
    [
        [r.by_user(), w.by_user(), f.by_user(), r, w, f],
        [w, r, f, f.by_user(), w.by_user(), r.by_user()],
    ]
};

/// Probes all ways with trees of `levels` levels under `controls`.
pub fn run(
    judge: &mut Judge<'_>,
    levels: Levels,
    controls: Controls,
    report: &mut Report,
) -> Result<(), Box<dyn Error>> {
    let root = if levels == Levels::Five { 4 } else { 3 };
    let ways = ways(root, if controls.gib_pages { 3 } else { 2 }, judge.faults);
    let mut rest = ways.as_slice();
    while !rest.is_empty() {
        let mut image = judge.image(levels);
        let mut made = Vec::new();
        // A slot of the root each; the last is not ours, and one in the middle is not every host's
        // to give.
        for slot in (0..511).filter(|slot| *slot != 256) {
            let Some((way, others)) = rest.split_first() else { break };
            if image.room() < root as u64 {
                break;
            }
            made.push((*way, build(&mut image, way, slot, root)));
            rest = others;
        }
        judge.use_image(image, levels, controls)?;
        for (number, (way, address)) in made.into_iter().enumerate() {
            for (turn, access) in ORDERS[number % 2].into_iter().enumerate() {
                judge
                    .case(&Case { kind: way.kind, address, access, witness: turn == 5 }, report)?;
            }
        }
        judge.finish_image(report)?;
    }
    Ok(())
}

/// Builds a way below the root's `slot`; returns an address in its page.
fn build(image: &mut super::image::Image<'_>, way: &Way, slot: u64, root: usize) -> Gva {
    let mut table = super::image::IMAGE.start;
    let mut address = 0;
    for level in (way.leaf..=root).rev() {
        // Other entries than the first, so that an index that is cut off shows.
        let index = if level == root { slot } else { (slot * 7 + level as u64 * 31 + 1) % 512 };
        address |= index << (12 + 9 * level);
        let word = if level > way.leaf {
            let below = image.table().unwrap_or(table);
            let word = OPEN | below;
            image.put(table, index, word ^ way.flips[level]);
            table = below;
            continue;
        } else {
            OPEN | if level == 0 { FRAME } else { PS | huge_frame(level) }
        };
        image.put(table, index, word ^ way.flips[level]);
    }
    let unused = 64 - (12 + 9 * (root as u32 + 1));
    Gva::new(((address << unused) as i64 >> unused) as u64 | (slot * 0x48 + 8) & 0xf78)
}

/// A huge page's address.
fn huge_frame(level: usize) -> u64 {
    match level {
        1 => DATA.start + (FRAME - DATA.start),
        _ => super::image::GIB_DATA.start,
    }
}
