//! Stages that are Bare, in all combinations, and pointers that are masked.

use std::error::Error;

use pgtable::Hpa;

use super::bench::{Case, Values};
use super::scene::{Builder, Scene, Shape};
use super::state::{Roots, State};
use super::systematic::{ACTS, Cases, HYPERVISORS_ACTS};

/// PMM of supervisors and of users.
const MASKS: [[u8; 2]; 9] =
    [[0, 0], [2, 2], [3, 3], [0, 2], [2, 0], [0, 3], [3, 0], [2, 3], [3, 2]];

/// Bits of addresses at the borders of what is masked.
const TAGS: [u64; 8] = [0, 1 << 63, 1 << 57, 1 << 56, 1 << 48, 1 << 47, 0x7f << 57, 0xffff << 48];

/// States with masks: with MXR, which turns them off, and without.
fn masked(guest: bool) -> impl Iterator<Item = State> {
    let of = |(mxr, host_mxr)| MASKS.map(|masks| State { mxr, host_mxr, masks, ..State::USUAL });
    let mxr = [(false, false), (true, false), (false, true)];
    mxr.into_iter().take(if guest { 3 } else { 2 }).flat_map(of)
}

/// All cases.
pub fn cases(builder: &mut Builder<'_>, values: &Values) -> Result<Vec<Case>, Box<dyn Error>> {
    let mut all = Vec::new();
    let one = builder.single(Shape { first: 12, second: None })?;
    let two = builder.single(Shape { first: 12, second: Some((12, 12)) })?;
    let mut scenes = vec![one, two];
    // Each stage Bare alone, and both; and satp.
    let of = |scene: Scene, roots, address| Scene { roots, gva: address, ..scene };
    let first = |guest| Roots { guest, ..one.roots };
    let none = |guest| Roots { first: None, second: None, guest };
    let second: Option<Hpa> = two.roots.second;
    scenes.extend([
        of(one, first(true), one.gva),
        of(two, Roots { first: None, second, guest: true }, two.gpa),
        of(one, none(true), one.hpa),
        of(one, none(false), one.hpa),
    ]);
    for scene in scenes {
        let Roots { first, second, guest } = scene.roots;
        let kinds = if first.is_some() && second.is_some() == guest {
            ["pointer masking", "two stages, pointer masking"]
        } else {
            ["satp Bare", "vsatp or hgatp Bare"]
        };
        let acts = [&ACTS[..], &HYPERVISORS_ACTS];
        for acts in acts.into_iter().take(1 + usize::from(guest)) {
            let mut cases = Cases::new(&scene, acts, values, &mut all);
            let plain = cases.plain.address;
            for state in masked(guest) {
                for tag in TAGS {
                    cases.plain.address = plain ^ tag;
                    cases.push(kinds, &[], state);
                }
            }
            // Each bit, and addresses of memory that is not there.
            for bit in 32..64 {
                cases.plain.address = plain ^ 1 << bit;
                cases.push_some(kinds, &[], 6);
            }
        }
    }
    Ok(all)
}
