//! Changes while the guest is stopped, each with the invalidation that it needs, and how things
//! look afterwards.

use pgtable::Leaves;

use crate::change::{Act, Change};
use crate::check::Checker;
use crate::look::look;
use crate::report::{Failure, Report};
use crate::space::Space;
use crate::vm::Vm;

/// Makes every change, and looks.
pub fn run<'a, V: Vm<'a>>(
    machine: V,
    changes: impl Iterator<Item = &'static Change>,
    spaces: &mut [Space<'a, V::Format, V::Shootdown>],
    checker: &mut Checker<'a, V>,
    report: &mut Report,
) -> Result<(), Failure> {
    for change in changes {
        let looker = V::looker(change.pid);
        // Without this the guest would not have the old translation, and an omitted invalidation
        // would not show.
        for &(at, _) in change.then {
            checker.touch(looker, at)?;
        }
        let space = spaces
            .iter_mut()
            .find(|space| space.pid == change.pid)
            .ok_or("a change of an unknown process")?;
        let sent = machine.sent();
        let (affected, freed) = make(change, space)?;
        let question =
            format!("{:#018x} + {:#x} of process {}", change.input, change.bytes, change.pid);
        let seen = |bytes, tables| format!("{bytes:#x} bytes, {tables} tables freed");
        report.equal(
            change.name,
            &question,
            seen(change.affects, change.frees),
            seen(affected, freed),
        )?;
        report.fact("invalidated by", format!("{} {}", machine.sent() - sent, V::INSTRUCTIONS));
        report.sample(machine.parts().frames.census());
        for &(at, finds) in change.then {
            for check in look(change.name, looker, at, finds).checks::<V>() {
                checker.run(&check, report)?;
            }
        }
    }
    Ok(())
}

/// Makes a change; returns how many bytes were affected, and how many tables freed.
fn make<'a, F, I>(change: &Change, space: &mut Space<'a, F, I>) -> Result<(u64, usize), Failure>
where
    F: pgtable::format::Format<Stage = pgtable::Stage1>,
    I: pgtable::invalidate::Invalidate<pgtable::Stage1, Identity = u32>,
{
    let Change { input, bytes, act, .. } = *change;
    let (bytes, finished) = match act {
        Act::Unmap => space.unmap(input, bytes)?,
        Act::Protect(prot) => space.protect(input, bytes, prot)?,
        Act::Map(output, leaf, prot) => {
            space.map(input, output, bytes, prot.into(), Leaves::Exactly(leaf))?;
            return Ok((bytes, 0));
        }
    };
    Ok((bytes, finished.tables))
}
