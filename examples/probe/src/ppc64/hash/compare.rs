//! What of an answer is compared, and how tables differ.

use pgtable_ppc64::hash::{Hcall, HcallFlags, Hpte, HpteR, HpteV};

use super::model::{Contents, Model};
use super::step::Call;

/// An answer without what KVM keeps to itself: what an invalid entry says is whatever KVM had
/// there, and `H_CLEAR_REF`, `H_CLEAR_MOD` show a bit that says that KVM noted a change; of an
/// entry of which the hardware knows nothing `H_READ` shows R and C even after these calls (the
/// file descriptor does not, nor `H_REMOVE`).
pub fn masked(model: &Model, number: Option<Hcall>, call: &Call, mut answer: [u64; 9]) -> [u64; 9] {
    // KVM's own bit, which H_READ and H_REMOVE take out.
    let own = HpteR::new().with_ts(true).into_bits();
    if let Some(Hcall::ClearRef | Hcall::ClearMod) = number {
        answer[1] &= !own;
    }
    let (first, reads) = match number {
        Some(Hcall::Read) if HcallFlags::from_bits(call.arguments[0]).read_4() => {
            (call.arguments[1] & !3, 4)
        }
        Some(Hcall::Read) => (call.arguments[1], 1),
        _ => (0, 0),
    };
    if answer[0] == 0 {
        for (ptex, pair) in (first..).zip(answer[1..].chunks_exact_mut(2)).take(reads) {
            let hpte = Hpte { v: HpteV::from_bits(pair[0]), r: HpteR::from_bits(pair[1]) };
            if !hpte.v.v() {
                pair.fill(0);
            } else if model.hides_use(ptex, hpte) {
                pair[1] = hpte.r.with_r(false).with_c(false).into_bits();
            }
        }
    }
    answer
}

/// The entries in which two tables differ, in words.
pub fn differences(expected: &Contents, seen: &Contents) -> Vec<String> {
    let places = expected.keys().chain(seen.keys().filter(|ptex| !expected.contains_key(ptex)));
    let words = |entry: Option<&[u64; 2]>| {
        entry.map_or("nothing".to_owned(), |[v, r]| format!("{v:#018x} {r:#018x}"))
    };
    places
        .filter(|ptex| expected.get(ptex) != seen.get(ptex))
        .map(|ptex| {
            format!(
                "entry {ptex:#x}: expected {}, seen {}",
                words(expected.get(ptex)),
                words(seen.get(ptex))
            )
        })
        .collect()
}
