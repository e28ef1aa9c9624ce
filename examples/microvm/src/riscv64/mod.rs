//! The microVM on RISC-V: a guest in VS- and VU-mode behind Sv39, Sv48 and Sv57, as far as the host
//! has them; a VM each.
//!
//! Two processes' trees, each with an ASID of its own. A and D are set in every leaf: KVM of Linux
//! 6.12 gives a guest no hardware updates (henvcfg.ADUE).

mod changes;
mod layout;
mod machine;
mod shootdown;

use std::cell::{Cell, RefCell};
use std::fs;

use frag_alloc::guest_frames;
use kvm_ioctls::Kvm;
use pgtable::memory::GuestTables;
use pgtable::{Attributes as _, Gpa, Leaves, Memory, Prot};
use pgtable_riscv64::{Controls, Extensions, Mode, PageAttributes, Sv};
use probe_guest::riscv64::{GREETING, Outcome, ProbeGuest};
use vm_memory::{GuestAddress, GuestMemoryMmap};

use crate::program::{self, Rows};
use crate::report::{Failure, Report};
use crate::space::{self, TableFrames, cache};
use crate::vm::{Parts, Vm};
use layout::{CORNER, LINEAR, Layout, MEMORY, OTHER, PROCESS, guest};
use machine::Machine;
use shootdown::Shootdown;

type Space<'a> = space::Space<'a, Sv, Shootdown<'a>>;

/// Runs it all.
pub fn run(report: &mut Report) -> Result<(), Failure> {
    let kvm = Kvm::new().map_err(|error| format!("/dev/kvm is not usable: {error}"))?;
    report.section("host");
    let kernel =
        fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_else(|_| "unknown".into());
    report.fact("kernel", kernel.trim());
    let cpuinfo = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    for line in cpuinfo.lines() {
        if let Some((name @ ("isa\t\t" | "mmu\t\t"), value)) = line.split_once(':') {
            report.fact(name.trim(), value.trim());
        }
    }

    for mode in Mode::ALL {
        let offered = match mode {
            Mode::Sv39 => run_mode::<39>(&kvm, mode, report)?,
            Mode::Sv48 => run_mode::<48>(&kvm, mode, report)?,
            Mode::Sv57 => run_mode::<57>(&kvm, mode, report)?,
        };
        if !offered {
            report.section("no more modes");
            report.fact("satp", format!("KVM does not offer {mode:?}"));
            break;
        }
    }
    Ok(())
}

/// Runs it all in one mode; false if a vCPU does not have it.
fn run_mode<const BITS: u8>(kvm: &Kvm, mode: Mode, report: &mut Report) -> Result<bool, Failure> {
    let ranges: Vec<_> = MEMORY
        .iter()
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
    let guest = RefCell::new(ProbeGuest::new(kvm, memory.clone(), CORNER)?);
    if guest.borrow().satp_mode()? < u64::from(mode.code()) {
        return Ok(false);
    }

    let shootdown = Shootdown::new(&guest);
    let extensions = Extensions { pbmte: true, ..Extensions::new() };
    let format = Sv::new(mode, Controls { extensions, ..Controls::new() });
    let mut spaces = Vec::new();
    for (cache, pid) in caches.iter().zip([PROCESS, OTHER]) {
        spaces.push(Space::new(pid, format, &tables, &shootdown, cache)?);
    }
    build::<BITS>(&mut spaces, report)?;
    let running = Cell::new(None);
    let machine = Machine {
        guest: &guest,
        parts: Parts { memory: &memory, tables: &tables, frames: &frames },
        format,
        roots: [(PROCESS, spaces[0].root()), (OTHER, spaces[1].root())],
        running: &running,
        shootdown: &shootdown,
    };
    report.section(&format!("guest, {mode:?}"));
    for range in MEMORY {
        let size = (range.end - range.start) >> 20;
        report.fact("memory", format!("{size} MiB from gpa {:#x} on", range.start));
    }
    for (pid, root) in machine.roots {
        report.fact(&format!("process {pid}"), format!("{:?}", format.satp(root, pid as u16)));
    }
    report.frames(&frames)?;

    report.section("the guest speaks");
    machine.run_process(PROCESS)?;
    greeting(machine, report)?;
    let rows = Rows {
        mappings: Layout::<BITS>::MAPPINGS.iter().collect(),
        looks: Layout::<BITS>::LOOKS,
        changes: Layout::<BITS>::CHANGES.iter().collect(),
    };
    program::run(machine, spaces, &caches, rows, report)?;
    Ok(true)
}

/// Maps the guest's own pages, the linear mapping of the tables, and every row of the table.
fn build<const BITS: u8>(spaces: &mut [Space<'_>], report: &mut Report) -> Result<(), Failure> {
    for space in spaces {
        for (input, output, prot) in layout::own_pages() {
            space.map(input, output, 0x1000, prot.into(), Leaves::Exactly(12))?;
        }
        let pid = space.pid;
        let frames = u64::from(guest::FRAME_COUNT) << guest::FRAME_SHIFT;
        let at = LINEAR + guest::FRAMES;
        space.map(at, guest::FRAMES, frames, Prot::RW.into(), Leaves::Exactly(12))?;
        for row in Layout::<BITS>::MAPPINGS.iter().filter(|row| row.pid == pid) {
            let memory = match row.memory {
                0 => Memory::Normal,
                layout::NON_CACHEABLE => Memory::Uncached,
                _ => Memory::Device,
            };
            let attributes = PageAttributes::from(row.prot).with_memory(memory);
            let leaves = Leaves::Exactly(row.leaf);
            space.map(row.input, row.output, row.bytes, attributes, leaves).map_err(|failure| {
                format!("mapping \"{}\" of process {pid}: {failure}", row.name)
            })?;
        }
        let write_only = Prot::new().with_write(true);
        let refused = space.map(0x7000_0000, 0, 0x1000, write_only.into(), Leaves::Largest);
        let seen = if refused.is_err() { "refused" } else { "mapped" };
        report.equal(
            "a page that can only be written",
            &format!("process {pid}"),
            "refused",
            seen,
        )?;
    }
    Ok(())
}

/// The guest's first words, byte by byte to the device.
fn greeting(machine: Machine<'_>, report: &mut Report) -> Result<(), Failure> {
    let mut guest = machine.guest.borrow_mut();
    let outcome = guest.hello()?;
    let line = String::from_utf8_lossy(guest.console()).into_owned();
    let seen = match outcome {
        Outcome::Completed { .. } => line,
        outcome => format!("{line}{outcome}"),
    };
    let question = format!("supervisor fetch {:#018x} pid {PROCESS}", CORNER.supervisor.get());
    report.equal("stores to a device", &question, format!("{GREETING:?}"), format!("{seen:?}"))
}
