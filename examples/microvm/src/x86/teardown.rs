//! The end: every tree is destroyed, and every frame and both counters are found to be zero.

use frag_alloc::Closed;

use super::check::Checker;
use super::layout::{OTHER, PROCESS, guest};
use super::look::{Finds, Look};
use super::machine::Machine;
use super::space::Space;
use crate::allows::Allows;
use crate::report::{Failure, Report};
use crate::space::TableCache;

/// Destroys each process's tree, and closes its cache.
pub fn run(
    machine: Machine<'_>,
    spaces: Vec<Space<'_>>,
    caches: &[TableCache<'_>],
    checker: &mut Checker<'_>,
    report: &mut Report,
) -> Result<(), Failure> {
    let frames = machine.frames;
    for space in spaces.into_iter().rev() {
        let pid = space.pid;
        // CR3 is another's by now, or the guest never runs again.
        machine.run_process(PROCESS)?;
        let before = frames.census();
        let finished = space.destroy()?;
        let live = before.live - frames.census().live;
        report.equal(
            "destroy a tree",
            &format!("process {pid}"),
            format!("{live} tables freed"),
            format!("{} tables freed", finished.tables),
        )?;
        if pid == OTHER {
            let finds = Finds::Page(0x0060_9040, Allows::both("r--"));
            let look = Look {
                name: "after a process has gone",
                pid: PROCESS,
                at: 0xffff_9000_0041_1040,
                finds,
            };
            for check in look.checks() {
                checker.run(&check, report)?;
            }
        }
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
    let question = format!("{} frames from gpa {:#x} on", guest::FRAME_COUNT, guest::FRAMES);
    report.equal("table frames", &question, 0, census.table_frames + census.retired_frames)?;
    report.equal("tables alive", &question, 0, census.live)?;
    report.equal("sum of refs", &question, 0, census.refs)?;
    report.equal("sum of fragments", &question, 0, census.fragments)?;
    report.equal(
        "frames at their source",
        &question,
        guest::FRAME_COUNT,
        frames.source().available(),
    )
}
