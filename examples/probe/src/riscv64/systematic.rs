//! Every way in which one entry of either stage, or one of each, can differ from the plainest: all
//! sizes of pages of both stages, each level, each bit, each right, by each access.

use std::error::Error;

use arch_riscv64::{Extensions, Mode};
use pgtable::Access;

use super::bench::{Bench, Case, Values};
use super::scene::{Builder, Shape};
use super::state::State;

/// R, W, X, U.
const RIGHTS: u64 = 0x1e;
/// A and D.
const RECORD: u64 = 0xc0;
/// PBMT and N.
const TYPES: u64 = 7 << 61;

/// Kind of access and privilege, and whether a write is an AMO.
const ACCESSES: [(Access, bool); 8] = {
    let [r, w, f] = [Access::READ, Access::WRITE, Access::FETCH];
    [
        (r.by_user(), false),
        (w, false),
        (f.by_user(), false),
        (w.by_user(), true),
        (r, false),
        (w.by_user(), false),
        (f, false),
        (w, true),
    ]
};

/// The state, with each part in the position that it usually is not in.
fn states(guest: bool) -> Vec<State> {
    let usual = State::USUAL;
    let extensions = usual.first;
    let unrecorded = Extensions { adue: false, ..extensions };
    let untyped = Extensions { pbmte: false, ..extensions };
    let mut all = vec![
        usual,
        State { sum: true, ..usual },
        State { mxr: true, ..usual },
        State { sum: true, mxr: true, ..usual },
        State { first: unrecorded, ..usual },
        State { first: untyped, ..usual },
    ];
    if guest {
        all.extend([
            State { host_mxr: true, ..usual },
            State { second: unrecorded, ..usual },
            State { second: untyped, ..usual },
            State { host_mxr: true, first: unrecorded, second: untyped, ..usual },
        ]);
    }
    all
}

/// log2 of the sizes of pages.
fn shifts(mode: Mode) -> &'static [u8] {
    &[12, 21, 30, 39, 48][..usize::from(mode.levels())]
}

/// All subsets of the bits of `mask`.
fn subsets(mask: u64) -> impl Iterator<Item = u64> {
    let mut next = Some(0_u64);
    std::iter::from_fn(move || {
        let this = next?;
        next = Some(this.wrapping_sub(mask) & mask).filter(|&it| it != 0);
        Some(this)
    })
}

/// All cases.
pub fn cases(
    bench: &Bench<'_>,
    builder: &mut Builder<'_>,
    values: &Values,
) -> Result<Vec<Case>, Box<dyn Error>> {
    let mut all = Vec::new();
    let seconds = shifts(bench.machine.second);
    // Tables stand in pages that are not as large as the machine's memory.
    let tables = &seconds[..3];
    for (row, &first) in shifts(bench.machine.first).iter().enumerate() {
        let shape = |second| Shape { first, second };
        let ones = [shape(None)].into_iter();
        // Each size with its like, and with another.
        let like = |column: usize| column == row || column + row + 1 == seconds.len();
        let twos = seconds.iter().enumerate().filter(|&(column, _)| like(column));
        let twos = twos.map(|(column, &it)| shape(Some((it, tables[(row + column) % 3]))));
        for shape in ones.chain(twos) {
            for marked in [true, false] {
                let (roots, address, data) = builder.single(shape)?;
                let plain = Case {
                    kind: "",
                    roots,
                    patches: Vec::new(),
                    state: State::USUAL,
                    address,
                    data,
                    access: Access::READ,
                    amo: false,
                    value: 0,
                };
                let mut cases = Cases { plain, values, turn: 0, all: &mut all };
                if marked {
                    variations(bench, &mut cases)?;
                } else {
                    unmarked(bench, &mut cases)?;
                }
            }
        }
    }
    Ok(all)
}

/// Cases that are being made.
struct Cases<'c> {
    plain: Case,
    values: &'c Values,
    /// Which access comes next where only one is made.
    turn: usize,
    all: &'c mut Vec<Case>,
}

impl Cases<'_> {
    fn one(
        &mut self,
        kinds: [&'static str; 2],
        patches: &[(u64, u64)],
        state: State,
        (access, amo): (Access, bool),
    ) {
        self.all.push(Case {
            kind: kinds[usize::from(self.plain.roots.second.is_some())],
            patches: patches.to_vec(),
            state,
            access,
            amo,
            value: self.values.next(),
            ..self.plain.clone()
        });
    }

    /// By all accesses.
    fn push(&mut self, kinds: [&'static str; 2], patches: &[(u64, u64)], state: State) {
        for access in ACCESSES {
            self.one(kinds, patches, state, access);
        }
    }

    /// By so many accesses, in so many states, as it is their turn.
    fn push_some(&mut self, kinds: [&'static str; 2], patches: &[(u64, u64)], count: usize) {
        let states = states(self.plain.roots.second.is_some());
        for _ in 0..count {
            self.turn += 1;
            let access = ACCESSES[self.turn % ACCESSES.len()];
            // Each state meets each access after a while.
            let state = states[(self.turn / 3) % states.len()];
            self.one(kinds, patches, state, access);
        }
    }
}

fn variations(bench: &Bench<'_>, cases: &mut Cases<'_>) -> Result<(), Box<dyn Error>> {
    let (first, second) = bench.entries(&cases.plain);
    for state in states(cases.plain.roots.second.is_some()) {
        cases.push(["nothing changed", "two stages, nothing changed"], &[], state);
    }
    let entries = first.iter().map(|&at| (at, 1)).chain(second.iter().map(|&at| (at, 2)));
    for (at, stage) in entries {
        let word = bench.load(at)?;
        let two = if stage == 1 { "stage 1, one bit" } else { "stage 2, one bit" };
        for bit in 0..64 {
            cases.push_some(["one bit", two], &[(at, word ^ 1 << bit)], 1);
        }
        let two = if stage == 1 { "stage 1, rights" } else { "stage 2, rights" };
        for rights in subsets(RIGHTS) {
            cases.push_some(["rights", two], &[(at, word & !RIGHTS | rights)], 3);
        }
        let two = if stage == 1 { "stage 1, memory types" } else { "stage 2, memory types" };
        for bits in subsets(TYPES) {
            cases.push_some(["memory types", two], &[(at, word & !TYPES | bits)], 2);
        }
    }
    let leaf = first.last().copied().ok_or("a page has an entry")?;
    for state in states(cases.plain.roots.second.is_some()) {
        let word = bench.load(leaf)?;
        for rights in subsets(RIGHTS) {
            let patch = [(leaf, word & !RIGHTS | rights)];
            cases.push(["a page's rights", "stage 1, a page's rights"], &patch, state);
        }
    }
    if let Some(&last) = second.iter().find(|at| is_page(bench, &cases.plain, **at)) {
        let words = (bench.load(leaf)?, bench.load(last)?);
        for rights in subsets(RIGHTS) {
            let word = words.1 & !RIGHTS | rights;
            cases.push(["", "stage 2, a page's rights"], &[(last, word)], State::USUAL);
            for bit in [1, 2, 3, 4].map(|bit| 1 << bit) {
                let patches = [(leaf, words.0 ^ bit), (last, word)];
                cases.push_some(["", "both stages, rights"], &patches, 8);
            }
        }
    }
    Ok(())
}

/// Whether the entry maps the page of the case, and not one of the guest's tables: without it, only
/// the access itself fails.
fn is_page(bench: &Bench<'_>, plain: &Case, at: u64) -> bool {
    let without = Case { patches: vec![(at, 0)], ..plain.clone() };
    let (first, second) = bench.entries(plain);
    let Ok(Some(_)) = bench.predict(&without) else { return false };
    let patched = bench.with(&without.patches, || bench.entries(plain));
    patched
        .is_ok_and(|(tables, entries)| tables.len() == first.len() && entries.len() == second.len())
}

/// Entries that are marked neither accessed nor dirty.
fn unmarked(bench: &Bench<'_>, cases: &mut Cases<'_>) -> Result<(), Box<dyn Error>> {
    let (first, second) = bench.entries(&cases.plain);
    for &at in first.iter().chain(&second) {
        let word = bench.load(at)?;
        // Pointers have neither bit.
        bench.store(at, word & !RECORD)?;
    }
    for state in states(cases.plain.roots.second.is_some()) {
        cases.push(["not accessed, not dirty", "two stages, not accessed"], &[], state);
    }
    for &at in first.iter().chain(&second) {
        let word = bench.load(at)?;
        cases.push_some(["not accessed, one absent", "two stages, one absent"], &[(at, 0)], 8);
        for bits in subsets(RECORD) {
            let kinds = ["accessed or dirty", "two stages, accessed or dirty"];
            cases.push_some(kinds, &[(at, word | bits)], 4);
        }
        for rights in subsets(RIGHTS) {
            let kinds = ["not accessed, and rights", "two stages, not accessed, rights"];
            cases.push_some(kinds, &[(at, word & !RIGHTS | rights)], 2);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn subsets_are_all() {
        assert_eq!(subsets(0b101).collect::<Vec<_>>(), [0, 1, 4, 5]);
        assert_eq!(subsets(RIGHTS).count(), 16);
    }
}
