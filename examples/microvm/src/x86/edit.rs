//! A change that the guest makes itself, without leaving for the VMM: the one place where staleness
//! could show.
//!
//! When the VMM changes a table the guest has left, and whatever that flushes hides a missing
//! invalidation. So the guest loads, stores a new entry through its linear mapping of the tables,
//! loads again, runs INVLPG, and loads a third time. The second load may give the old or the new
//! translation; the third must give the new one.

use pgtable::{Entry, Format, Gpa, Gva};
use probe_guest::x86::{Edit, Edited};
use vm_memory::{Bytes, GuestAddress};

use super::check::Checker;
use super::layout::{LINEAR, PROCESS};
use super::look::{Finds, Look};
use super::machine::Machine;
use crate::allows::Allows;
use crate::report::{Failure, Report};

/// The page whose entry is edited.
const AT: u64 = 0x005f_9000;
/// Where it is and where it moves to, and what stands there.
const PLACES: [(u64, u64); 2] =
    [(0x0061_1000, 0x0123_4567_89ab_cdef), (0x0063_0000, 0xfedc_ba98_7654_3210)];

/// Moves the page there, and back.
pub fn run(
    machine: Machine<'_>,
    checker: &mut Checker<'_>,
    report: &mut Report,
) -> Result<(), Failure> {
    machine.run_process(PROCESS)?;
    let [here, there] = PLACES;
    for (name, from, to) in [("the guest moves a page", here, there), ("and back", there, here)] {
        for (place, value) in PLACES {
            machine.memory.write_obj(value.to_le(), GuestAddress(place))?;
        }
        let walker = machine.walker(PROCESS)?;
        let leaf = walker.trace(Gva::new(AT)).pop().ok_or("nothing to edit")?;
        let Entry::Leaf { attributes, .. } = leaf.entry else {
            return Err("no leaf to edit".into());
        };
        let edit = Edit {
            address: Gva::new(AT),
            entry: Gva::new(LINEAR + leaf.address.get()),
            word: walker.format().leaves(Gpa::new(to.0), attributes, leaf.at)?.first,
        };
        let question = format!("{AT:#018x} from gpa {:#x} to gpa {:#x}", from.0, to.0);
        let expected = format!("{:#x}, then either, then {:#x}", from.1, to.1);
        match machine.guest.borrow_mut().edit(&edit)? {
            Ok(Edited { before, between, after })
                if before == from.1 && (between == from.1 || between == to.1) && after == to.1 =>
            {
                report.check(
                    name,
                    &question,
                    expected,
                    format!("{before:#x}, {between:#x}, {after:#x}"),
                );
            }
            seen => {
                let seen = match seen {
                    Ok(Edited { before, between, after }) => {
                        format!("{before:#x}, {between:#x}, {after:#x}")
                    }
                    Err(outcome) => outcome.to_string(),
                };
                return Err(Failure::Check {
                    name: name.into(),
                    question,
                    expected,
                    walker: None,
                    seen,
                });
            }
        }
        for check in (Look {
            name,
            pid: PROCESS,
            at: AT + 8,
            finds: Finds::Page(to.0 + 8, Allows::both("rwx")),
        })
        .checks()
        {
            checker.run(&check, report)?;
        }
    }
    Ok(())
}
