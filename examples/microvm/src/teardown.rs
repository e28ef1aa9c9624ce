//! The end: every tree is destroyed, and every frame and both counters are found to be zero.

use arch_ppc64::radix::Prte;
use arch_ppc64::{Interrupt, Status, Vector};
use frag_alloc::Closed;
use pgtable::{Access, Gva, Privilege};
use probe_guest::ppc64::Outcome;

use crate::allows::Allows;
use crate::check::{Answer, Checker, taken};
use crate::layout::{KERNEL, PROCESS, Q3, guest, stubs};
use crate::look::{Finds, Look};
use crate::machine::Machine;
use crate::report::{Failure, Report};
use crate::space::{Space, TableCache};

/// Takes each process out of the process table, destroys its tree, closes its cache; the kernel's
/// last.
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
        machine.processes.write(machine.tables, pid, Prte::default())?;
        let before = frames.census();
        let finished = space.destroy()?;
        let after = frames.census();
        let question = format!("process {pid}, which has left the process table");
        let live = before.live - after.live;
        report.equal(
            "destroy a tree",
            &question,
            format!("{live} tables freed"),
            format!("{} tables freed", finished.tables),
        )?;
        if pid == KERNEL {
            without_a_kernel(machine, report)?;
        } else {
            gone(checker, report)?;
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

/// The process has no tree any more, and the kernel's still works.
fn gone(checker: &mut Checker<'_>, report: &mut Report) -> Result<(), Failure> {
    let name = "after a process has gone";
    for (at, finds) in [
        (0x0080_0000, Finds::NoTree),
        (Q3 | 0x0041_0040, Finds::Page(0x0060_8040, Allows::supervisor("rw-"))),
    ] {
        for check in (Look { name, pid: PROCESS, at, finds }).checks() {
            checker.run(&check, report)?;
        }
    }
    Ok(())
}

/// Without a kernel's tree not even the stubs can be fetched.
fn without_a_kernel(machine: Machine<'_>, report: &mut Report) -> Result<(), Failure> {
    let interrupt = Interrupt {
        vector: Vector::InstructionStorage,
        status: Status::new().with_bad_configuration(true),
    };
    let outcome = machine.guest.borrow_mut().hello()?;
    let seen = match outcome {
        Outcome::Interrupted(it) if it.srr0 & !0xfff == stubs::SUPERVISOR => {
            taken(&it, Gva::new(it.srr0), Privilege::Supervisor)
        }
        outcome => Answer::Odd(outcome.to_string()),
    };
    let question = format!("{} {:#018x}", Access::FETCH, stubs::SUPERVISOR);
    report.equal("after the kernel has gone", &question, Answer::Takes(interrupt), seen)
}
