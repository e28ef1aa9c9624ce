//! The end: every tree is destroyed, and every frame and both counters are found to be zero.

use frag_alloc::Closed;

use crate::check::Checker;
use crate::report::{Failure, Report};
use crate::space::{Space, TableCache};
use crate::vm::{Vm, span};

/// Has the guest leave each process, destroys its tree, closes its cache; the first one's last.
pub fn run<'a, V: Vm<'a>>(
    machine: V,
    spaces: Vec<Space<'a, V::Format, V::Shootdown>>,
    caches: &[TableCache<'_>],
    checker: &mut Checker<'a, V>,
    report: &mut Report,
) -> Result<(), Failure> {
    let frames = machine.parts().frames;
    for space in spaces.into_iter().rev() {
        let pid = space.pid;
        machine.leave(pid)?;
        let before = frames.census();
        let finished = space.destroy()?;
        let live = before.live - frames.census().live;
        report.equal(
            "destroy a tree",
            &format!("process {pid}, which the guest has left"),
            format!("{live} tables freed"),
            format!("{} tables freed", finished.tables),
        )?;
        machine.left(pid, checker, report)?;
    }
    for cache in caches {
        let question = format!("owner {}", cache.owner().0);
        let alive = |closed: Closed| format!("{} tables alive", closed.live);
        report.equal(
            "close a cache",
            &question,
            alive(Closed::default()),
            alive(cache.close()?),
        )?;
    }
    let census = frames.census();
    let (count, question) = span(frames);
    report.equal("table frames", &question, 0, census.table_frames + census.retired_frames)?;
    report.equal("tables alive", &question, 0, census.live)?;
    report.equal("sum of refs", &question, 0, census.refs)?;
    report.equal("sum of fragments", &question, 0, census.fragments)?;
    report.equal("frames at their source", &question, count, frames.source().available())
}
