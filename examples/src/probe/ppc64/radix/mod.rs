//! Radix translation: trees of all kinds, one at a time behind one access, on KVM-HV.
//!
//! | file | what |
//! | --- | --- |
//! | `layout` | what is where in the guest's memory |
//! | `case` | an access and the tables behind it, as plain numbers |
//! | `systematic`, `random` | which cases there are |
//! | `stand` | asking the library and the machine |
//! | `seen` | comparing what they say |

mod case;
mod layout;
mod random;
mod seen;
mod stand;
mod systematic;

use std::error::Error;

use arch_ppc64::radix::{Granule, ProcessScoped, RcPolicy, Strictness, TableFault};
use fastrand::Rng;
use pgtable::Access;

use crate::report::{Ended, Report};
use case::{Case, Shape};
use seen::{End, Seen};
use stand::Stand;

/// Probes.
pub fn run(cases: usize, seed: u64, report: &mut Report) -> Result<(), Box<dyn Error>> {
    let memory = stand::memory()?;
    let mut stand = Stand::new(&memory)?;
    let rc = who_records(&mut stand)?;
    report.fact("R and C", format!("{rc:?}"));
    let format = ProcessScoped::new(Granule::K64)
        .with_rc(rc)
        .with_strictness(Strictness::Qemu)
        .with_table_fault(TableFault::Reflected);
    report.fact("walker", format!("{:?}, tables outside memory {:?}", Strictness::Qemu, TableFault::Reflected));
    stand.set_format(format);
    for (number, mut case) in all(cases, seed).enumerate() {
        let (expected, seen) = stand.run(&mut case).map_err(|error| format!("case {number}: {error}\n{case}"))?;
        let ended = match seen.end {
            End::Done(_) => Ended::Done,
            End::NoMemory(_) => Ended::NoMemory,
            End::Took(_) | End::Odd(_) => Ended::Refused,
        };
        let mismatch = (expected != seen).then(|| mismatch(number, &case, &expected, &seen));
        report.case(case.kind, ended, mismatch);
    }
    Ok(())
}

/// The systematic cases, and then random ones. If that is too many, systematic ones from all over.
fn all(cases: usize, seed: u64) -> impl Iterator<Item = Case> {
    let systematic = systematic::cases();
    let count = systematic.len();
    let taken = count.min(cases);
    let mut rng = Rng::with_seed(seed);
    (0..taken)
        .map(move |number| systematic[number * count / taken].clone())
        .chain((taken..cases).map(move |_| random::case(&mut rng)))
}

/// Who sets R and C: the architecture leaves it open, so the machine is asked.
fn who_records(stand: &mut Stand<'_>) -> Result<RcPolicy, Box<dyn Error>> {
    let (_, seen) = stand.run(&mut Shape { leaf: case::RWX, ..Shape::PLAIN }.case("", Access::READ))?;
    Ok(match seen.end {
        End::Took(interrupt) if interrupt.dsisr == 0x4_0000 => RcPolicy::Fault,
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
