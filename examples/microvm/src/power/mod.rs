//! The microVM on KVM-HV POWER9: a guest with relocation on.
//!
//! Its process table has two radix trees: the kernel's, quadrant 3, and one process's, quadrant 0.

mod changes;
mod host;
mod layout;
mod machine;
mod migrate;
mod shootdown;

use std::cell::{Cell, RefCell};

use frag_alloc::guest_frames;
use kvm_ppc::Kvm;
use pgtable::memory::GuestTables;
use pgtable::{Access, Gpa, Gva, Leaves, Prot};
use pgtable_ppc64::radix::{Granule, ProcessScoped, ProcessTable, Prte, Quadrants};
use probe_guest::ppc64::{Outcome, ProbeGuest, StubsAt};
use vm_memory::{GuestAddress, GuestMemoryMmap};

use crate::program::{self, Rows};
use crate::report::{Failure, Report};
use crate::space::{self, TableCache, TableFrames};
use crate::vm::{Parts, Vm};
use changes::CHANGES;
use layout::{KERNEL, LINEAR, LOOKS, MAPPINGS, PROCESS, PRTS, STUBS, guest, stubs};
pub use machine::Machine;
use shootdown::Shootdown;

type Space<'a> = space::Space<'a, ProcessScoped, Shootdown<'a>>;

/// Runs it all, with so many MiB of memory; or has the guest go on in another VM.
pub fn run(memory: Option<u64>, migrate: bool, report: &mut Report) -> Result<(), Failure> {
    let kvm = kvm()?;
    let host = host::describe(&kvm, report)?;
    let mib = memory.unwrap_or(guest::MIN_MIB);
    if mib < guest::MIN_MIB {
        return Err(format!(
            "the guest's tables map {} MiB of memory, and it has {mib}",
            guest::MIN_MIB
        )
        .into());
    }
    let bytes = usize::try_from(mib << 20)?;
    // Before everything that borrows from it; the guest holds it too.
    let memory = GuestMemoryMmap::from_ranges(&[(GuestAddress(0), bytes)])?;
    let tables = GuestTables::<Gpa>::new(&memory)?;
    let frames = TableFrames::new(guest_frames(
        &memory,
        Gpa::new(guest::FRAMES),
        guest::FRAME_COUNT,
        guest::FRAME_SHIFT,
    )?)?;
    let caches = [KERNEL, PROCESS].map(|pid| space::cache(&frames, pid));
    let guest = RefCell::new(ProbeGuest::new(&kvm, memory.clone())?);

    let shootdown = Shootdown::new(&guest)?;
    let processes = ProcessTable::new(Gpa::new(guest::PROCESS_TABLE), PRTS)
        .ok_or("the process table is not aligned")?;
    let running = Cell::new(None);
    let machine = Machine {
        guest: &guest,
        parts: Parts { memory: &memory, tables: &tables, frames: &frames },
        processes,
        running: &running,
        shootdown: &shootdown,
    };
    let mut spaces = Vec::new();
    for (cache, pid) in caches.iter().zip([KERNEL, PROCESS]) {
        spaces.push(space(pid, machine, cache)?);
    }
    build(&mut spaces, guest.borrow().stubs(), mib << 20)?;
    enter(machine, &spaces)?;
    run_on(machine)?;
    describe(mib, machine, &spaces, report)?;

    report.section("the guest speaks");
    machine.run_process(PROCESS)?;
    greeting(machine, report)?;
    if migrate {
        return migrate::run(&kvm, machine, &mut spaces, host.page_shift(), report);
    }
    let rows = Rows {
        mappings: MAPPINGS.iter().collect(),
        looks: LOOKS,
        changes: CHANGES.iter().collect(),
    };
    program::run(machine, spaces, &caches, rows, report)
}

/// KVM on POWER, or what is missing.
pub fn kvm() -> Result<Kvm, Failure> {
    let needs = "needs Linux on POWER9 or later, little-endian, with KVM-HV and access to /dev/kvm";
    if !cfg!(all(target_arch = "powerpc64", target_endian = "little")) {
        return Err(format!(
            "{needs}; this is {} (`cargo xtask microvm` emulates such a host)",
            std::env::consts::ARCH
        )
        .into());
    }
    Kvm::new()
        .map_err(|error| format!("{needs}; /dev/kvm: {error} (as root, `modprobe kvm_hv`)").into())
}

/// A process's address space: both granules, so that both ways to cut a large leaf are taken.
fn space<'a>(
    pid: u32,
    machine: Machine<'a>,
    cache: &'a TableCache<'a>,
) -> Result<Space<'a>, Failure> {
    let (granule, quadrants) = match pid {
        KERNEL => (Granule::K4, Quadrants::Three),
        _ => (Granule::K64, Quadrants::Zero),
    };
    let format = ProcessScoped::new(granule).with_quadrants(quadrants);
    Space::new(pid, format, machine.parts.tables, machine.shootdown, cache)
}

/// Maps the stubs, the kernel's linear mapping of all memory, and every row of the table.
fn build(spaces: &mut [Space<'_>], stubs: Gpa, bytes: u64) -> Result<(), Failure> {
    for space in spaces {
        if space.pid == KERNEL {
            for (input, prot) in STUBS {
                space.map(input, stubs.get(), 0x1000, prot.into(), Leaves::Exactly(12))?;
            }
            space.map(LINEAR, 0, bytes, Prot::RW.into(), Leaves::Largest)?;
        }
        let pid = space.pid;
        for row in MAPPINGS.iter().filter(|row| row.pid == pid) {
            let leaves = Leaves::Exactly(row.leaf);
            space.map(row.input, row.output, row.bytes, row.prot.into(), leaves).map_err(
                |failure| format!("mapping \"{}\" of process {pid}: {failure}", row.name),
            )?;
        }
    }
    Ok(())
}

/// Enters the trees into the process table.
fn enter(machine: Machine<'_>, spaces: &[Space<'_>]) -> Result<(), Failure> {
    for space in spaces {
        let entry = Prte::of_tree(space.root().get()).ok_or("a root is not aligned")?;
        machine.processes.write(machine.parts.tables, space.pid, entry)?;
    }
    Ok(())
}

/// Turns the guest's relocation on.
fn run_on(machine: Machine<'_>) -> Result<(), Failure> {
    let mut guest = machine.guest.borrow_mut();
    guest.set_process_table(machine.processes.word())?;
    guest.set_stubs(StubsAt {
        supervisor: Gva::new(stubs::SUPERVISOR),
        user: Gva::new(stubs::USER),
    });
    Ok(())
}

/// Says what was built.
fn describe(
    mib: u64,
    machine: Machine<'_>,
    spaces: &[Space<'_>],
    report: &mut Report,
) -> Result<(), Failure> {
    let Machine { processes, parts, .. } = machine;
    report.section("guest");
    report.fact("memory", format!("{mib} MiB"));
    report
        .fact("process table", format!("{}, {} processes", processes.base(), processes.entries()));
    for space in spaces {
        let name = format!("process {}", space.pid);
        let granule = space.format().granule();
        report.fact(&name, format!("root at {}, granule {granule:?}", space.root()));
    }
    report.frames(parts.frames)
}

/// The guest's first words, through `H_PUT_TERM_CHAR`.
fn greeting(machine: Machine<'_>, report: &mut Report) -> Result<(), Failure> {
    let mut guest = machine.guest.borrow_mut();
    let outcome = guest.hello()?;
    let line = String::from_utf8_lossy(guest.console()).into_owned();
    let seen = match outcome {
        Outcome::Completed { .. } => line,
        outcome => format!("{line}{outcome}"),
    };
    let question = format!("{} {:#018x} pid {PROCESS}", Access::FETCH, stubs::SUPERVISOR);
    let expected = "Hello from a guest behind a tree of radix tables.\n";
    report.equal("H_PUT_TERM_CHAR", &question, format!("{expected:?}"), format!("{seen:?}"))
}
