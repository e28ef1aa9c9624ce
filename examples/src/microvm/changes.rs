//! Changes while the guest is stopped, each with the invalidation that it needs, and how things look afterwards.

use pgtable::{Leaves, Prot};

use crate::check::Checker;
use crate::layout::{KERNEL, PROCESS, Q3};
use crate::look::{Allows, Finds, Look};
use crate::machine::Machine;
use crate::report::{Failure, Report};
use crate::space::Space;

/// What is done.
#[derive(Clone, Copy, Debug)]
enum Act {
    /// Unmap.
    Unmap,
    /// Map to this guest-physical address in leaves of this log2 size.
    Map(u64, u8, Prot),
    /// Protect.
    Protect(Prot),
}

/// A change, and what must follow from it.
#[derive(Clone, Copy, Debug)]
struct Change {
    name: &'static str,
    pid: u32,
    input: u64,
    bytes: u64,
    act: Act,
    /// How many bytes are affected: mapped ones in the range.
    affects: u64,
    /// How many tables leave the tree.
    frees: usize,
    /// Places to look at afterwards, and what is found there.
    then: &'static [(u64, Finds)],
}

const RWX: Allows = Allows::both("rwx");
const USER_RW: Prot = Prot::RW.for_user();
const USER_R: Prot = Prot::R.for_user();

#[rustfmt::skip]
const CHANGES: &[Change] = &[
    Change { name: "unmap a 4K page", pid: PROCESS, input: 0x0041_0000, bytes: 0x1000, act: Act::Unmap, affects: 0x1000, frees: 0, then: &[
        (0x0041_0000, Finds::Unmapped),
        (0x0041_1008, Finds::Page(0x0060_6008, Allows::both("r--"))),
    ] },
    Change { name: "map it elsewhere", pid: PROCESS, input: 0x0041_0000, bytes: 0x1000, act: Act::Map(0x0062_0000, 12, USER_RW), affects: 0x1000, frees: 0, then: &[
        (0x0041_0000, Finds::Page(0x0062_0000, Allows::both("rw-"))),
    ] },
    Change { name: "64K page rw- to r--", pid: PROCESS, input: 0x0060_0000, bytes: 0x1_0000, act: Act::Protect(USER_R), affects: 0x1_0000, frees: 0, then: &[
        (0x0060_0000, Finds::Page(0x0074_0000, Allows::both("r--"))),
    ] },
    Change { name: "and back to rw-", pid: PROCESS, input: 0x0060_0000, bytes: 0x1_0000, act: Act::Protect(USER_RW), affects: 0x1_0000, frees: 0, then: &[
        (0x0060_fff8, Finds::Page(0x0074_fff8, Allows::both("rw-"))),
    ] },
    Change { name: "64K page r-x to r--", pid: PROCESS, input: 0x0062_0000, bytes: 0x1_0000, act: Act::Protect(USER_R), affects: 0x1_0000, frees: 0, then: &[
        (0x0062_0000, Finds::Page(0x0072_0000, Allows::both("r--"))),
    ] },
    Change { name: "2M page user r-- to privileged rw-", pid: PROCESS, input: 0x00a0_0000, bytes: 0x20_0000, act: Act::Protect(Prot::RW), affects: 0x20_0000, frees: 0, then: &[
        (0x00a0_0000, Finds::Page(0x0220_0000, Allows::privileged("rw-"))),
    ] },
    Change { name: "64K out of a 2M page", pid: PROCESS, input: 0x0085_0000, bytes: 0x1_0000, act: Act::Unmap, affects: 0x1_0000, frees: 0, then: &[
        (0x0085_0000, Finds::Unmapped),
        (0x0085_fff8, Finds::Unmapped),
        (0x0084_fff8, Finds::Page(0x0244_fff8, RWX)),
        (0x0086_0000, Finds::Page(0x0246_0000, RWX)),
        (0x009f_fff8, Finds::Page(0x025f_fff8, RWX)),
    ] },
    Change { name: "4K out of the kernel's 2M page", pid: KERNEL, input: Q3 | 0x0080_3000, bytes: 0x1000, act: Act::Unmap, affects: 0x1000, frees: 0, then: &[
        (Q3 | 0x0080_3000, Finds::Unmapped),
        (Q3 | 0x0080_2ff8, Finds::Page(0x0260_2ff8, Allows::privileged("rwx"))),
        (Q3 | 0x0080_4000, Finds::Page(0x0260_4000, Allows::privileged("rwx"))),
    ] },
    Change { name: "2M out of a 1G page", pid: PROCESS, input: 0x80e0_0000, bytes: 0x20_0000, act: Act::Unmap, affects: 0x20_0000, frees: 0, then: &[
        (0x80e0_0000, Finds::Unmapped),
        (0x80df_fff8, Finds::Page(0x40df_fff8, RWX)),
        (0x8100_0000, Finds::Page(0x4100_0000, RWX)),
        (0xbfff_fff8, Finds::Page(0x7fff_fff8, RWX)),
    ] },
    Change { name: "64K of what was a 1G page to r--", pid: PROCESS, input: 0x9001_0000, bytes: 0x1_0000, act: Act::Protect(USER_R), affects: 0x1_0000, frees: 0, then: &[
        (0x9001_0000, Finds::Page(0x5001_0000, Allows::both("r--"))),
        (0x9002_0000, Finds::Page(0x5002_0000, RWX)),
    ] },
    Change { name: "unmap the tree's last page", pid: PROCESS, input: 0x000f_ffff_ffff_0000, bytes: 0x1_0000, act: Act::Unmap, affects: 0x1_0000, frees: 3, then: &[
        (0x000f_ffff_ffff_fff8, Finds::Unmapped),
    ] },
    Change { name: "map a 4K page there", pid: PROCESS, input: 0x000f_ffff_ffff_f000, bytes: 0x1000, act: Act::Map(0x0077_0000, 12, USER_RW), affects: 0x1000, frees: 0, then: &[
        (0x000f_ffff_ffff_fff8, Finds::Page(0x0077_0ff8, Allows::both("rw-"))),
        (0x000f_ffff_ffff_eff8, Finds::Unmapped),
    ] },
    Change { name: "unmap 4M of 4K and 64K pages", pid: PROCESS, input: 0x0040_0000, bytes: 0x40_0000, act: Act::Unmap, affects: 16 * 0x1000 + 5 * 0x1_0000, frees: 2, then: &[
        (0x0041_0000, Finds::Unmapped),
        (0x005f_fff8, Finds::Unmapped),
        (0x0060_0000, Finds::Unmapped),
        (0x007f_fff8, Finds::Unmapped),
        (0x0080_0000, Finds::Page(0x0240_0000, RWX)),
    ] },
];

/// Makes every change, and looks.
pub fn run(
    machine: Machine<'_>,
    spaces: &mut [Space<'_>],
    checker: &mut Checker<'_>,
    report: &mut Report,
) -> Result<(), Failure> {
    for change in CHANGES {
        // Without this the guest would not have the old translation, and an omitted invalidation would not show.
        for &(at, _) in change.then {
            checker.touch(PROCESS, at)?;
        }
        let space = spaces.iter_mut().find(|space| space.pid == change.pid).ok_or("a change of an unknown process")?;
        let sent = machine.shootdown.sent();
        let (affected, freed) = change.make(space)?;
        let question = format!("{:#018x} + {:#x} of process {}", change.input, change.bytes, change.pid);
        let seen = |bytes, tables| format!("{bytes:#x} bytes, {tables} tables freed");
        report.equal(change.name, &question, seen(change.affects, change.frees), seen(affected, freed))?;
        report.fact("", format!("{} tlbie", machine.shootdown.sent() - sent));
        report.sample(machine.frames.census());
        for &(at, finds) in change.then {
            for check in (Look { name: change.name, pid: PROCESS, at, finds }).checks() {
                checker.run(&check, report)?;
            }
        }
    }
    Ok(())
}

impl Change {
    /// Makes it; returns how many bytes were affected, and how many tables freed.
    fn make(&self, space: &mut Space<'_>) -> Result<(u64, usize), Failure> {
        let (bytes, finished) = match self.act {
            Act::Unmap => space.unmap(self.input, self.bytes)?,
            Act::Protect(prot) => space.protect(self.input, self.bytes, prot)?,
            Act::Map(output, leaf, prot) => {
                space.map(self.input, output, self.bytes, prot, Leaves::Exactly(leaf))?;
                return Ok((self.bytes, 0));
            }
        };
        Ok((bytes, finished.tables))
    }
}
