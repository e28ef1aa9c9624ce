//! The program, after an architecture has built its machine and its spaces.

use crate::change::Change;
use crate::check::Checker;
use crate::look::{Look, Mapping};
use crate::report::{Failure, Report};
use crate::space::{Space, TableCache};
use crate::vm::Vm;
use crate::{changes, edit, teardown};

/// What is looked at and changed.
pub struct Rows {
    pub mappings: Vec<&'static Mapping>,
    pub looks: &'static [Look],
    pub changes: Vec<&'static Change>,
}

/// Looks at everything, changes tables from inside and from outside, and gives everything back.
pub fn run<'a, V: Vm<'a>>(
    machine: V,
    mut spaces: Vec<Space<'a, V::Format, V::Shootdown>>,
    caches: &[TableCache<'_>],
    rows: Rows,
    report: &mut Report,
) -> Result<(), Failure> {
    let mut checker = Checker::new(machine);
    let Rows { mappings, looks, changes } = rows;
    report.section("each mapping, and what is none");
    let mapped = mappings.into_iter().flat_map(|mapping| mapping.checks::<V>());
    for check in mapped.chain(looks.iter().flat_map(|look| look.checks::<V>())) {
        checker.run(&check, report)?;
    }
    report.section("a change from inside");
    edit::run(machine, &mut checker, report)?;
    report.section("changes while the guest is stopped");
    changes::run(machine, changes.into_iter(), &mut spaces, &mut checker, report)?;
    report.frames(machine.parts().frames)?;
    report.section("teardown");
    teardown::run(machine, spaces, caches, &mut checker, report)
}
