//! A change that the guest makes itself, without leaving for the VMM: the one place where staleness
//! could show.
//!
//! When the VMM changes a table the guest has left, and whatever that flushes hides a missing
//! invalidation. So the guest loads, stores a new entry through its linear mapping of the tables,
//! loads again, invalidates, and loads a third time. The second load may give the old or the new
//! translation; the third must give the new one.

use pgtable::{Gpa, Gva};
use vm_memory::{Bytes, GuestAddress};

use crate::check::Checker;
use crate::look::{Finds, look};
use crate::report::{Failure, Report};
use crate::vm::{Edit, EditedPage, Vm};

/// Moves the page there, and back.
pub fn run<'a, V: Vm<'a>>(
    machine: V,
    checker: &mut Checker<'a, V>,
    report: &mut Report,
) -> Result<(), Failure> {
    let EditedPage { pid, at, places, linear, allows } = V::EDITED;
    machine.run_process(pid)?;
    let [here, there] = places;
    for (name, from, to) in [("the guest moves a page", here, there), ("and back", there, here)] {
        for (place, value) in places {
            machine.parts().memory.write_obj(value.to_le(), GuestAddress(place))?;
        }
        let address = Gva::new(at);
        let (entry, word, shift) = machine.moved(pid, address, Gpa::new(to.0))?;
        let edit = Edit { address, entry: Gva::new(linear + entry.get()), word, shift };
        let question = format!("{at:#018x} from gpa {:#x} to gpa {:#x}", from.0, to.0);
        let expected = format!("{:#x}, then either, then {:#x}", from.1, to.1);
        let loaded = machine.edit(pid, &edit)?;
        let right = matches!(loaded, Ok([before, between, after])
            if before == from.1 && (between == from.1 || between == to.1) && after == to.1);
        let seen = match loaded {
            Ok([before, between, after]) => format!("{before:#x}, {between:#x}, {after:#x}"),
            Err(outcome) => outcome,
        };
        if !right {
            let name = name.into();
            return Err(Failure::Check { name, question, expected, walker: None, seen });
        }
        report.check(name, &question, expected, seen);
        let finds = Finds::Page(to.0 + 8, allows);
        for check in look(name, pid, at + 8, finds).checks::<V>() {
            checker.run(&check, report)?;
        }
    }
    Ok(())
}
