//! Every way in which one entry of either stage, or one of each, can differ from the plainest: all
//! sizes of pages of both stages, each level, each bit, each right, by each access.

use std::error::Error;

use pgtable::Privilege;
use pgtable_riscv64::{Extensions, Mode};

use super::bench::{Act, Bench, Case, Values};
use super::scene::{Builder, Instruction, Scene, Shape};
use super::state::State;

/// R, W, X, U.
const RIGHTS: u64 = 0x1e;
/// A and D.
const RECORD: u64 = 0xc0;
/// PBMT and N.
const TYPES: u64 = 7 << 61;

/// What a mode does with its own stages.
pub const ACTS: [Act; 8] = {
    use Instruction::{Amo, Load, Store};
    use Privilege::{Supervisor, User};
    [
        (Some(Load), User),
        (Some(Store), Supervisor),
        (None, User),
        (Some(Amo), User),
        (Some(Load), Supervisor),
        (Some(Store), User),
        (None, Supervisor),
        (Some(Amo), Supervisor),
    ]
};

/// What HS-mode does with a guest's.
pub const HYPERVISORS_ACTS: [Act; 6] = {
    use Instruction::{Hlv, Hlvx, Hsv};
    use Privilege::{Supervisor, User};
    [
        (Some(Hlv), User),
        (Some(Hsv), Supervisor),
        (Some(Hlvx), User),
        (Some(Hlv), Supervisor),
        (Some(Hsv), User),
        (Some(Hlvx), Supervisor),
    ]
};

/// The state, with each part in the position that it usually is not in.
pub fn states(guest: bool) -> Vec<State> {
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
    &[12, 16, 21, 30, 39, 48][..usize::from(mode.levels()) + 1]
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
                let scene = builder.single(shape)?;
                let all_acts = [&ACTS[..], &HYPERVISORS_ACTS];
                // HS-mode's are made where both stages have pages of the same size.
                let same = shape.second.is_some_and(|(second, _)| second == first);
                for &acts in all_acts.iter().take(1 + usize::from(same)) {
                    let mut cases = Cases::new(&scene, acts, values, &mut all);
                    if marked {
                        variations(bench, &mut cases)?;
                    } else {
                        unmarked(bench, &mut cases)?;
                    }
                }
            }
        }
    }
    Ok(all)
}

/// Cases that are being made.
pub struct Cases<'c> {
    pub plain: Case,
    acts: &'static [Act],
    values: &'c Values,
    /// Which access comes next where only one is made.
    turn: usize,
    all: &'c mut Vec<Case>,
}

impl<'c> Cases<'c> {
    /// Cases of a scene, by these acts.
    pub fn new(
        scene: &Scene,
        acts: &'static [Act],
        values: &'c Values,
        all: &'c mut Vec<Case>,
    ) -> Self {
        let &Scene { roots, gva, hpa, .. } = scene;
        let plain = Case {
            kind: "",
            roots,
            patches: Vec::new(),
            state: State::USUAL,
            address: gva,
            data: hpa,
            act: acts[0],
            value: 0,
        };
        Self { plain, acts, values, turn: 0, all }
    }

    /// `kinds`: with one stage, and with two.
    fn one(&mut self, kinds: [&'static str; 2], patches: &[(u64, u64)], state: State, act: Act) {
        let mut case = Case {
            kind: kinds[usize::from(self.plain.roots.guest)],
            patches: patches.to_vec(),
            state,
            act,
            value: self.values.next(),
            ..self.plain.clone()
        };
        if !case.is_inside() {
            case.kind = "HLV, HLVX, HSV";
        }
        self.all.push(case);
    }

    /// By all acts.
    pub fn push(&mut self, kinds: [&'static str; 2], patches: &[(u64, u64)], state: State) {
        for &act in self.acts {
            self.one(kinds, patches, state, act);
        }
    }

    /// By so many acts, in so many states, as it is their turn.
    pub fn push_some(&mut self, kinds: [&'static str; 2], patches: &[(u64, u64)], count: usize) {
        let states = states(self.plain.roots.guest);
        for _ in 0..count {
            self.turn += 1;
            let act = self.acts[self.turn % self.acts.len()];
            // Each state meets each act after a while.
            let state = states[(self.turn / 3) % states.len()];
            self.one(kinds, patches, state, act);
        }
    }
}

fn variations(bench: &Bench<'_>, cases: &mut Cases<'_>) -> Result<(), Box<dyn Error>> {
    let (first, second) = bench.entries(&cases.plain)?;
    for state in states(cases.plain.roots.guest) {
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
        let two = if stage == 1 { "stage 1, size of NAPOT" } else { "stage 2, size of NAPOT" };
        for size in 0..16 {
            let word = word & !(15 << 10) | size << 10 | 1 << 63;
            cases.push_some(["size of NAPOT", two], &[(at, word)], 2);
        }
        let two = if stage == 1 { "stage 1, memory types" } else { "stage 2, memory types" };
        for bits in subsets(TYPES) {
            cases.push_some(["memory types", two], &[(at, word & !TYPES | bits)], 2);
        }
    }
    let leaf = first.last().copied().ok_or("a page has an entry")?;
    for state in states(cases.plain.roots.guest) {
        let word = bench.load(leaf)?;
        for rights in subsets(RIGHTS) {
            let patch = [(leaf, word & !RIGHTS | rights)];
            cases.push(["a page's rights", "stage 1, a page's rights"], &patch, state);
        }
    }
    let mut pages = Vec::new();
    for &at in &second {
        if is_page(bench, &cases.plain, at)? {
            pages.push(at);
        }
    }
    if let Some(&last) = pages.first() {
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
fn is_page(bench: &Bench<'_>, plain: &Case, at: u64) -> Result<bool, Box<dyn Error>> {
    let without = Case { patches: vec![(at, 0)], ..plain.clone() };
    let (first, second) = bench.entries(plain)?;
    if bench.predict(&without)?.is_none() {
        return Ok(false);
    }
    let (tables, entries) = bench.with(&without.patches, || bench.entries(plain))??;
    Ok(tables.len() == first.len() && entries.len() == second.len())
}

/// Entries that are marked neither accessed nor dirty.
fn unmarked(bench: &Bench<'_>, cases: &mut Cases<'_>) -> Result<(), Box<dyn Error>> {
    let (first, second) = bench.entries(&cases.plain)?;
    for &at in first.iter().chain(&second) {
        let word = bench.load(at)?;
        // Pointers have neither bit.
        bench.store(at, word & !RECORD)?;
    }
    for state in states(cases.plain.roots.guest) {
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
