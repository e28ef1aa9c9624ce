//! The microVM on x86-64: a guest in long mode whose every address goes through tables that this
//! workspace built.
//!
//! Two processes' 4-level trees are made by `pgtable` and `pgtable-x86` out of 4-KiB fragments that
//! `frag-alloc` handed out, in guest memory that `vm-memory` owns; KVM is `kvm-ioctls`'. The guest
//! makes one access after the other, in user and in supervisor mode. Each must end as the row of a
//! table says, as the software walker says, and as KVM_TRANSLATE says. Then tables are changed, and
//! everything is given back.

mod changes;
mod layout;
mod machine;
mod shootdown;

use std::cell::RefCell;
use std::fs;

use frag_alloc::guest_frames;
use kvm_ioctls::Kvm;
use pgtable::format::Format;
use pgtable::memory::GuestTables;
use pgtable::{Gpa, Leaves, Prot};
use pgtable_x86::PageAttributes;
use probe_guest::x86::{GREETING, Outcome, ProbeGuest};
use vm_memory::{GuestAddress, GuestMemoryMmap};

use crate::look::Mapping;
use crate::program::{self, Rows};
use crate::report::{Failure, Report};
use crate::space::{self, TableFrames, cache};
use crate::vm::{Parts, Vm};
use changes::{CHANGES, GIB_CHANGES};
use layout::{CORNER, LINEAR, LOOKS, MAPPINGS, MEMORY, OTHER, PROCESS, SCRATCH, guest};
use machine::{Machine, Processes};
use shootdown::Shootdown;

type Space<'a> = space::Space<'a, pgtable_x86::LongMode, Shootdown<'a>>;

/// Runs it all.
pub fn run(report: &mut Report) -> Result<(), Failure> {
    let kvm = Kvm::new().map_err(|error| format!("/dev/kvm is not usable: {error}"))?;
    let (features, _) = kvm_x86::Features::supported(&kvm)?;
    report.section("host");
    let kernel =
        fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_else(|_| "unknown".into());
    report.fact("kernel", kernel.trim());
    report.fact("a guest's CPU", features);

    // Memory of 1-GiB pages is there only if the CPU has them; it is reserved and hardly touched.
    let ranges: Vec<_> = MEMORY
        .iter()
        .filter(|range| features.gib_pages || range.start < guest::GIB)
        .map(|range| Ok((GuestAddress(range.start), usize::try_from(range.end - range.start)?)))
        .collect::<Result<_, Failure>>()?;
    // Before everything that borrows from it; the guest holds it too.
    let memory = GuestMemoryMmap::from_ranges(&ranges)?;
    let tables = GuestTables::<Gpa>::new(&memory)?;
    let frames = TableFrames::new(guest_frames(
        &memory,
        Gpa::new(guest::FRAMES),
        guest::FRAME_COUNT,
        guest::FRAME_SHIFT,
    )?)?;
    let caches = [PROCESS, OTHER].map(|pid| cache(&frames, pid));
    let guest = RefCell::new(ProbeGuest::new(&kvm, memory.clone(), CORNER)?);

    let shootdown = Shootdown::new(&guest);
    let format = pgtable_x86::LongMode::new(pgtable_x86::Levels::Four, features.controls());
    let mut spaces = Vec::new();
    for (cache, pid) in caches.iter().zip([PROCESS, OTHER]) {
        spaces.push(Space::new(pid, format, &tables, &shootdown, cache)?);
    }
    let processes = Processes::new(format, spaces.iter().map(|space| (space.pid, space.root())));
    let machine = Machine {
        guest: &guest,
        parts: Parts { memory: &memory, tables: &tables, frames: &frames },
        processes: &processes,
        shootdown: &shootdown,
    };
    build(&mut spaces, report)?;
    describe(machine, report)?;

    report.section("the guest speaks");
    greeting(machine, report)?;
    shootdown.find_out(machine, SCRATCH)?;
    report.fact("VMM's table edits", shootdown.says());
    let impossible =
        |row: &Mapping| layout::impossible(row, features.gib_pages, shootdown.shadowed());
    let gib_changes = if features.gib_pages { GIB_CHANGES } else { &[] };
    let rows = Rows {
        mappings: MAPPINGS.iter().filter(|row| impossible(row).is_none()).collect(),
        looks: LOOKS,
        changes: CHANGES.iter().chain(gib_changes).collect(),
    };
    program::run(machine, spaces, &caches, rows, report)?;
    for row in MAPPINGS {
        if let Some(why) = impossible(row) {
            report.fact("not covered", format!("\"{}\": {why}", row.name));
        }
    }
    Ok(())
}

/// Maps the guest's own pages, the linear mapping of the tables, and every row of the table.
fn build(spaces: &mut [Space<'_>], report: &mut Report) -> Result<(), Failure> {
    for space in spaces {
        for (input, output, prot) in layout::own_pages() {
            space.map(input, output, 0x1000, prot.into(), Leaves::Exactly(12))?;
        }
        let pid = space.pid;
        let frames = u64::from(guest::FRAME_COUNT) << guest::FRAME_SHIFT;
        space.map(
            LINEAR + guest::FRAMES,
            guest::FRAMES,
            frames,
            Prot::RW.into(),
            Leaves::Exactly(12),
        )?;
        for row in MAPPINGS.iter().filter(|row| row.pid == pid) {
            if space.format().geometry().leaf(row.leaf).is_none() {
                continue;
            }
            let attributes = PageAttributes::from(row.prot).with_pat(row.memory);
            space
                .map(row.input, row.output, row.bytes, attributes, Leaves::Exactly(row.leaf))
                .map_err(|failure| {
                    format!("mapping \"{}\" of process {pid}: {failure}", row.name)
                })?;
        }
        let refused = space.map(
            0x7000_0000,
            0,
            0x1000,
            Prot::new().with_execute(true).into(),
            Leaves::Largest,
        );
        let seen = if refused.is_err() { "refused" } else { "mapped" };
        report.equal("a page that can't be read", &format!("process {pid}"), "refused", seen)?;
    }
    Ok(())
}

/// Says what was built.
fn describe(machine: Machine<'_>, report: &mut Report) -> Result<(), Failure> {
    report.section("guest");
    for range in MEMORY {
        if machine.is_memory(range.start) {
            report.fact(
                "memory",
                format!("{} MiB from gpa {:#x} on", (range.end - range.start) >> 20, range.start),
            );
        }
    }
    for (pid, root) in machine.processes.all() {
        report.fact(&format!("process {pid}"), format!("CR3 = {:#x}", root.get()));
    }
    report.frames(machine.parts.frames)
}

/// The guest's first words, through a port, in user mode.
fn greeting(machine: Machine<'_>, report: &mut Report) -> Result<(), Failure> {
    machine.run_process(PROCESS)?;
    let mut guest = machine.guest.borrow_mut();
    let outcome = guest.hello()?;
    let line = String::from_utf8_lossy(guest.console()).into_owned();
    let seen = match outcome {
        Outcome::Completed { .. } => line,
        outcome => format!("{line}{outcome}"),
    };
    let question = format!("user fetch {:#018x} pid {PROCESS}", CORNER.user.get());
    report.equal("OUT to COM1", &question, format!("{GREETING:?}"), format!("{seen:?}"))
}
