//! All leaves of a tree that somebody else built: its tables may be endless, so there is a limit to
//! how many are looked at.

use std::ops::ControlFlow;

use pgtable::format::Format;
use pgtable::memory::TableMemory;
use pgtable::walk::Walker;
use pgtable::{Attributes, Gpa, Gva, Stage1};

use super::compare::Leaf;

/// More last-level tables, and larger leaves, than a process of ours has.
const MOST: usize = 1 << 20;

/// Calls `visit` for each leaf in the `bytes` bytes from address 0 on, in order, until it breaks.
///
/// # Errors
/// A malformed entry, a table outside memory, or too many of them.
pub fn each_leaf<F: Format<Stage = Stage1>, M: TableMemory<Gpa>>(
    walker: &Walker<F, M>,
    bytes: u64,
    visit: &mut dyn FnMut(Leaf) -> ControlFlow<()>,
) -> Result<(), String> {
    let mut runs = 0;
    let flow = walker.for_each_run(Gva::new(0), bytes, |run| {
        runs += 1;
        if runs > MOST {
            return ControlFlow::Break(Err(format!("there are more than {MOST} tables")));
        }
        for leaf in run.leaves() {
            let flow = match leaf {
                Ok(it) => visit(Leaf {
                    va: it.input,
                    gpa: it.output,
                    shift: it.shift,
                    prot: it.attributes.prot(),
                }),
                Err(error) => return ControlFlow::Break(Err(error.to_string())),
            };
            if flow.is_break() {
                return ControlFlow::Break(Ok(()));
            }
        }
        ControlFlow::Continue(())
    });
    match flow {
        Ok(ControlFlow::Break(outcome)) => outcome,
        Ok(ControlFlow::Continue(())) => Ok(()),
        Err(error) => Err(error.to_string()),
    }
}
