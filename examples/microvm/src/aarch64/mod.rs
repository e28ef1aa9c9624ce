//! The microVM on AArch64: a guest at EL1 and EL0 behind 4-KiB granules and 48-bit addresses in
//! both ranges.
//!
//! Two processes' trees in the lower range, each with an ASID of its own, and the kernel's in the
//! upper one. Hardware records accesses and writes where the processor can (FEAT_HAFDBS), and what
//! it recorded is looked at after each access.

mod changes;
mod layout;
mod machine;
mod shootdown;

use std::cell::{Cell, RefCell};
use std::fs;

use frag_alloc::guest_frames;
use kvm_ioctls::Kvm;
use pgtable::memory::GuestTables;
use pgtable::{Gpa, Leaves, Prot};
use pgtable_aarch64::{
    Granule, Processor, Registers, Stage1Attributes, Stage1Controls, TlbiFeatures, VaRange,
    VmsaStage1,
};
use probe_guest::aarch64::{Features, GREETING, Outcome, ProbeGuest};
use vm_memory::{GuestAddress, GuestMemoryMmap};

use crate::look::Mapping;
use crate::program::{self, Rows};
use crate::report::{Failure, Report};
use crate::space::{self, TableFrames, cache};
use crate::vm::{Parts, Vm};
use changes::CHANGES;
use layout::{CORNER, KERNEL, LINEAR, LOOKS, MAPPINGS, MEMORY, OTHER, PROCESS, UNTOUCHED, guest};
use machine::Machine;
use shootdown::Shootdown;

type Space<'a> = space::Space<'a, VmsaStage1, Shootdown<'a>>;

/// Runs it all.
pub fn run(report: &mut Report) -> Result<(), Failure> {
    let kvm = Kvm::new().map_err(|error| format!("/dev/kvm is not usable: {error}"))?;
    report.section("host");
    let kernel =
        fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_else(|_| "unknown".into());
    report.fact("kernel", kernel.trim());

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
    let caches = [KERNEL, PROCESS, OTHER].map(|pid| cache(&frames, pid));
    let guest = RefCell::new(ProbeGuest::new(&kvm, memory.clone(), CORNER)?);
    let Features { processor, tlbi_ranges, ttl, .. } = guest.borrow().features()?;
    report.fact("a guest's CPU", format!("{processor:?}"));

    let features = TlbiFeatures { ranges: tlbi_ranges, ttl, ..TlbiFeatures::new(Granule::K4) };
    let shootdown = Shootdown::new(&guest, features);
    let (lower, upper) = (format(VaRange::Lower, &processor)?, format(VaRange::Upper, &processor)?);
    let mut spaces = Vec::new();
    for (cache, (pid, format)) in
        caches.iter().zip([(KERNEL, upper), (PROCESS, lower), (OTHER, lower)])
    {
        spaces.push(Space::new(pid, format, &tables, &shootdown, cache)?);
    }
    let records = processor.access_flag && processor.dirty_state;
    let possible = |row: &&Mapping| records || row.memory != UNTOUCHED;
    build(&mut spaces, possible, report)?;
    let running = Cell::new(None);
    let last = Cell::new(None);
    let machine = Machine {
        guest: &guest,
        parts: Parts { memory: &memory, tables: &tables, frames: &frames },
        processor,
        processes: registers(&spaces, guest.borrow().sctlr()?),
        running: &running,
        last: &last,
        shootdown: &shootdown,
    };
    report.section("guest");
    for range in MEMORY {
        let size = (range.end - range.start) >> 20;
        report.fact("memory", format!("{size} MiB from gpa {:#x} on", range.start));
    }
    for (pid, registers) in machine.processes {
        let Registers { tcr, ttbr0, ttbr1, .. } = registers;
        let text = format!("TCR {tcr:#x}, TTBR0 {ttbr0:#x}, TTBR1 {ttbr1:#x}");
        report.fact(&format!("process {pid}"), text);
    }
    report.frames(&frames)?;

    report.section("the guest speaks");
    machine.run_process(PROCESS)?;
    greeting(machine, report)?;
    let rows = Rows {
        mappings: MAPPINGS.iter().filter(possible).collect(),
        looks: LOOKS,
        changes: CHANGES.iter().collect(),
    };
    program::run(machine, spaces, &caches, rows, report)
}

/// Trees of an address range.
fn format(range: VaRange, processor: &Processor) -> Result<VmsaStage1, Failure> {
    let bits = processor.physical_bits;
    Ok(VmsaStage1::new(Stage1Controls {
        range,
        output_bits: bits,
        physical_bits: bits,
        contiguous: true,
        ha: processor.access_flag,
        hd: processor.dirty_state,
        ..Stage1Controls::new()
    })?)
}

/// The registers of each process: TTBR1 is the kernel's, which has no lower range itself.
fn registers(spaces: &[Space<'_>], sctlr: u64) -> [(u32, Registers); 3] {
    let [kernel, process, other] = [0, 1, 2].map(|index| &spaces[index]);
    [kernel, process, other].map(|space| {
        let no_lower = space.pid == KERNEL;
        let tcr = kernel.format().tcr().into_bits() | process.format().tcr().into_bits();
        let tcr = pgtable_aarch64::Tcr::from_bits(tcr).with_epd0(no_lower).with_epd1(false);
        let own = space.format().ttbr(space.root(), space.pid as u16);
        let ttbr0 = if no_lower { 0 } else { own.into_bits() };
        let ttbr1 = kernel.format().ttbr(kernel.root(), 0).into_bits();
        let tcr = tcr.into_bits();
        (space.pid, Registers { tcr, ttbr0, ttbr1, sctlr, ..Registers::default() })
    })
}

/// Maps the guest's own pages, the linear mapping of the tables, and every row of the table.
fn build(
    spaces: &mut [Space<'_>],
    possible: impl Fn(&&Mapping) -> bool,
    report: &mut Report,
) -> Result<(), Failure> {
    for space in spaces {
        let pid = space.pid;
        if pid == KERNEL {
            for (input, output, prot, memory) in layout::own_pages() {
                let attributes = Stage1Attributes::from(prot).with_attr_index(memory);
                space.map(input, output, 0x1000, attributes, Leaves::Exactly(12))?;
            }
            let frames = u64::from(guest::FRAME_COUNT) << guest::FRAME_SHIFT;
            let at = LINEAR + guest::FRAMES;
            space.map(at, guest::FRAMES, frames, Prot::RW.into(), Leaves::Exactly(12))?;
        }
        for row in MAPPINGS.iter().filter(|row| row.pid == pid).filter(&possible) {
            // In the lower range, EL1's pages too belong to one process.
            let usual = Stage1Attributes::from(row.prot).with_global(pid == KERNEL);
            let attributes = match row.memory {
                UNTOUCHED => usual.with_accessed(false).with_dirty(false),
                index => usual.with_attr_index(index),
            };
            let leaves = Leaves::Exactly(row.leaf);
            space.map(row.input, row.output, row.bytes, attributes, leaves).map_err(|failure| {
                format!("mapping \"{}\" of process {pid}: {failure}", row.name)
            })?;
        }
        let unreadable = Prot::new().with_execute(true);
        let free = if pid == KERNEL { 0xffff_9000_7000_0000 } else { 0x7000_0000 };
        let refused = space.map(free, 0, 0x1000, unreadable.into(), Leaves::Largest);
        let seen = if refused.is_err() { "refused" } else { "mapped" };
        report.equal("a page that can't be read", &format!("process {pid}"), "refused", seen)?;
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
