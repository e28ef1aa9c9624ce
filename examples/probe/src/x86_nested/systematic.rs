//! Every way in which one entry of either stage, or one of each, can differ from the plainest: all
//! sizes of pages of both stages, each level, each bit, each right, by each access.

use std::error::Error;

use pgtable::Access;
use pgtable_x86::Controls;

use super::bench::{Bench, Case, Values};
use super::scene::{Builder, Shape};
use super::second::{Machine, PAGE, Second, combinations, guest_controls, shifts};

/// P, R/W, U/S, XD of stage 1.
const RIGHTS: [u64; 4] = [1 << 0, 1 << 1, 1 << 2, 1 << 63];
/// A and D of stage 1.
const RECORD: u64 = 3 << 5;

const ACCESSES: [Access; 6] = {
    let [r, w, f] = [Access::READ, Access::WRITE, Access::FETCH];
    [r.by_user(), w, f.by_user(), r, w.by_user(), f]
};

/// The guest's controls, each in the position that it usually is not in.
fn guests(machine: &Machine) -> Vec<Controls> {
    let usual = guest_controls(machine);
    let mut all = vec![
        usual,
        Controls { wp: false, ..usual },
        Controls { nxe: false, ..usual },
        Controls { smep: true, ..usual },
    ];
    if machine.smap {
        let smap = Controls { smap: true, ..usual };
        all.extend([smap, Controls { ac: true, ..smap }]);
    }
    all
}

/// All cases.
pub fn cases<S: Second>(
    bench: &Bench<'_>,
    builder: &mut Builder<'_>,
    machine: &Machine,
    values: &Values,
) -> Result<Vec<Case<S>>, Box<dyn Error>> {
    let guest = guest_controls(machine);
    let seconds = S::controls(machine);
    let mut all = Vec::new();
    let shifts = shifts(machine);
    for (row, &first) in shifts.iter().enumerate() {
        for (column, &second) in shifts.iter().enumerate() {
            for marked in [true, false] {
                let tables = shifts[(row + column + usize::from(marked)) % shifts.len()];
                let shape = Shape { first, second, tables };
                let (scene, address, data) =
                    builder.single(shape, guest, S::under(machine.levels, seconds[0]))?;
                let plain = Case {
                    kind: "",
                    scene,
                    patches: Vec::new(),
                    guest,
                    second: seconds[0],
                    address,
                    data,
                    access: Access::READ,
                    value: 0,
                };
                let mut cases = Cases { plain, values, all: &mut all };
                if marked {
                    variations(bench, machine, &mut cases)?;
                } else {
                    unmarked(bench, machine, &mut cases)?;
                }
            }
        }
    }
    Ok(all)
}

/// Cases that are being made.
struct Cases<'c, S: Second> {
    plain: Case<S>,
    values: &'c Values,
    all: &'c mut Vec<Case<S>>,
}

impl<S: Second> Cases<'_, S> {
    fn push(
        &mut self,
        kind: &'static str,
        patches: &[(u64, u64)],
        (guest, second): (Controls, S::Controls),
        accesses: &[Access],
    ) {
        self.all.extend(accesses.iter().map(|&access| Case {
            kind,
            patches: patches.to_vec(),
            guest,
            second,
            access,
            value: self.values.next(),
            ..self.plain.clone()
        }));
    }
}

fn variations<S: Second>(
    bench: &Bench<'_>,
    machine: &Machine,
    cases: &mut Cases<'_, S>,
) -> Result<(), Box<dyn Error>> {
    let (first, second) = bench.entries(&cases.plain);
    let usual = (cases.plain.guest, cases.plain.second);
    let seconds = S::controls(machine);
    let rights = S::RIGHTS;
    for &second in &seconds {
        for guest in guests(machine) {
            cases.push("nothing changed", &[], (guest, second), &ACCESSES);
        }
    }
    for (stage, entries) in [(1, &first), (2, &second)] {
        for &at in entries {
            let word = bench.load(at)?;
            for bit in 0..64 {
                let kind = if stage == 1 { "stage 1, one bit" } else { "stage 2, one bit" };
                // Three of the six: each kind of access, each privilege.
                let some = if bit % 2 == 0 { &ACCESSES[..3] } else { &ACCESSES[3..] };
                cases.push(kind, &[(at, word ^ 1 << bit)], usual, some);
            }
        }
    }
    for &at in &first {
        let word = bench.load(at)?;
        let all: u64 = RIGHTS.iter().sum();
        for allowed in combinations(&RIGHTS) {
            for guest in guests(machine) {
                cases.push(
                    "stage 1, rights",
                    &[(at, word & !all | allowed)],
                    (guest, usual.1),
                    &ACCESSES,
                );
            }
        }
    }
    let all: u64 = rights.iter().sum();
    for &at in &second {
        let word = bench.load(at)?;
        for allowed in combinations(rights) {
            for &second in &seconds {
                cases.push(
                    "stage 2, rights",
                    &[(at, word & !all | allowed)],
                    (usual.0, second),
                    &ACCESSES,
                );
            }
        }
    }
    if let (Some(&first), Some(&last)) =
        (first.last(), second.iter().find(|at| is_page(bench, &cases.plain, **at)))
    {
        let words = (bench.load(first)?, bench.load(last)?);
        for bit in RIGHTS {
            for allowed in combinations(rights) {
                let patches = [(first, words.0 ^ bit), (last, words.1 & !all | allowed)];
                cases.push("both stages, rights", &patches, usual, &ACCESSES);
            }
        }
        let all: u64 = S::LEAF_BITS.iter().sum();
        for bits in combinations(S::LEAF_BITS) {
            for &second in &seconds {
                let patches = [(last, words.1 & !all | bits)];
                cases.push("stage 2, other bits of a page", &patches, (usual.0, second), &ACCESSES);
            }
        }
    }
    Ok(())
}

/// Whether the entry maps the page of the case, and not one of the guest's tables: without it, only
/// the access itself fails.
fn is_page<S: Second>(bench: &Bench<'_>, plain: &Case<S>, at: u64) -> bool {
    let without = Case { patches: vec![(at, 0)], ..plain.clone() };
    let (first, second) = bench.entries(plain);
    let Ok(Some(_)) = bench.predict(&without) else { return false };
    let patched = bench.with(&without.patches, || bench.entries(plain));
    patched
        .is_ok_and(|(tables, entries)| tables.len() == first.len() && entries.len() == second.len())
}

/// Entries that are marked neither accessed nor dirty.
fn unmarked<S: Second>(
    bench: &Bench<'_>,
    machine: &Machine,
    cases: &mut Cases<'_, S>,
) -> Result<(), Box<dyn Error>> {
    let (first, second) = bench.entries(&cases.plain);
    let recorded = S::under(machine.levels, cases.plain.second).bits(PAGE);
    let all = recorded.accessed.hardware.mask | recorded.dirty.hardware.mask;
    for (entries, bits) in [(&first, RECORD), (&second, all)] {
        for &at in entries {
            bench.store(at, bench.load(at)? & !bits)?;
        }
    }
    let (guest, second_entries) = (cases.plain.guest, second);
    let rights = S::RIGHTS;
    let all: u64 = rights.iter().sum();
    for &at in &second_entries {
        let word = bench.load(at)?;
        for allowed in combinations(rights) {
            for second in S::controls(machine) {
                let patches = [(at, word & !all | allowed)];
                cases.push(
                    "not accessed, and rights of stage 2",
                    &patches,
                    (guest, second),
                    &ACCESSES,
                );
            }
        }
    }
    for second in S::controls(machine) {
        cases.push("not accessed, not dirty", &[], (guest, second), &ACCESSES);
        for &at in first.iter().chain(&second_entries) {
            let kind = "not accessed, and one entry absent";
            cases.push(kind, &[(at, 0)], (guest, second), &ACCESSES);
        }
    }
    Ok(())
}
