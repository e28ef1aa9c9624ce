//! Radix translation: trees of all kinds, one at a time behind one access, on KVM-HV.
//!
//! | file | what |
//! | --- | --- |
//! | `layout` | what is where in the guest's memory |
//! | `case` | an access and the tables behind it, as plain numbers |
//! | `systematic`, `random` | which cases there are |
//! | `tables` | the guest's memory, word by word |
//! | `prediction` | asking the library |
//! | `stand` | asking the machine |
//! | `seen` | comparing what they say |

mod case;
mod layout;
mod prediction;
mod random;
mod seen;
mod stand;
mod systematic;
mod tables;

use std::error::Error;
use std::iter;

use fastrand::Rng;
use pgtable::Access;
use pgtable_ppc64::radix::{Granule, ProcessScoped, RcPolicy, Strictness, TableFault};

use crate::Asked;
use crate::ppc64::end::End;
use crate::ppc64::otherwise::Otherwise;
use crate::report::{Ended, Report};
use case::{Case, Shape};
use seen::Seen;
use stand::Stand;

/// Probes.
pub fn run(
    otherwise: Otherwise,
    strictness: Strictness,
    asked: &Asked,
    report: &mut Report,
) -> Result<(), Box<dyn Error>> {
    let memory = stand::memory()?;
    let mut stand = Stand::new(&memory, otherwise)?;
    let rc = who_records(&mut stand)?;
    let table_fault = TableFault::Reflected;
    report.fact("R and C", format!("{rc:?}"));
    report.fact("odd tables", format!("{strictness:?}"));
    report.fact("tables not there", format!("{table_fault:?}"));
    let format = ProcessScoped::new(Granule::K64).with_strictness(strictness);
    stand.set_format(format.with_rc(rc).with_table_fault(table_fault));
    let mut left_out = 0;
    for (number, mut case) in all(asked).enumerate() {
        if report.cases() == asked.cases || asked.only.is_some_and(|only| only < number) {
            break;
        }
        if asked.only.is_some_and(|only| only != number) {
            continue;
        }
        if otherwise.leaves_out(case.process_table) {
            left_out += 1;
            continue;
        }
        if asked.trace {
            println!("case {number}, {}:\n{case}", case.kind);
        }
        let tried =
            stand.run(&mut case).map_err(|error| format!("case {number}: {error}\n{case}"))?;
        let Some((expected, seen)) = tried else { continue };
        let mismatch = (expected != seen).then(|| mismatch(number, &case, &expected, &seen));
        report.case(case.kind, Ended::from(&seen.end), mismatch.as_deref());
    }
    if left_out > 0 {
        report.fact("left out", format!("{left_out} cases that this host cannot be asked"));
    }
    Ok(())
}

/// The systematic cases, and then random ones without end. If fewer are asked for, systematic ones
/// from all over.
fn all(asked: &Asked) -> impl Iterator<Item = Case> {
    let systematic = systematic::cases();
    let count = systematic.len();
    let taken = count.min(asked.cases);
    let mut rng = Rng::with_seed(asked.seed);
    (0..taken)
        .map(move |number| systematic[number * count / taken].clone())
        .chain(iter::repeat_with(move || random::case(&mut rng)))
}

/// Who sets R and C: the architecture leaves it open, so the machine is asked.
fn who_records(stand: &mut Stand<'_>) -> Result<RcPolicy, Box<dyn Error>> {
    let tried = stand.run(&mut Shape { leaf: case::RWX, ..Shape::PLAIN }.case("", Access::READ))?;
    Ok(match tried {
        Some((_, Seen { end: End::Took(interrupt), .. })) if interrupt.dsisr == 0x4_0000 => {
            RcPolicy::Fault
        }
        _ => RcPolicy::HardwareUpdate,
    })
}

fn mismatch(number: usize, case: &Case, expected: &Seen, seen: &Seen) -> String {
    format!(
        "{case}\n  case      {number}\n  expected  {}\n  seen      {}\n  differs   {}",
        expected.end,
        seen.end,
        expected.differences(seen).join("\n            ")
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use layout::{KERNEL, REGIONS, is_data, prte};

    /// What the stubs need stays as it is, and so does what is to be loaded.
    #[test]
    fn cases_keep_to_their_own_memory() {
        let asked = Asked { cases: usize::MAX, seed: 1, only: None, trace: false };
        let systematic = systematic::cases().len();
        assert!(systematic > 4000, "{systematic}");
        for case in all(&asked).take(systematic + 20_000) {
            for &case::Slot { address, .. } in case.slots() {
                let inside = REGIONS
                    .iter()
                    .any(|&(start, bytes)| address >= start && address < start + bytes as u64);
                let kernel =
                    address <= prte(0) + 8 || (KERNEL[0]..KERNEL[3] + 0x1000).contains(&address);
                let kernel_root = (KERNEL[0] + 8..KERNEL[1]).contains(&address);
                assert!(inside && address % 8 == 0 && !is_data(address), "{address:#x}\n{case}");
                assert!(!kernel || kernel_root, "{address:#x}\n{case}");
            }
        }
    }
}
