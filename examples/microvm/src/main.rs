//! A microVM whose every address goes through tables that this workspace built: on KVM-HV POWER9,
//! and on x86-64 (see `x86`).
//!
//! The guest runs with relocation on. Its process table and two radix trees (the kernel's, quadrant
//! 3, and one process's, quadrant 0) are made by `pgtable` and `arch-ppc64` out of fragments that
//! `frag-alloc` handed out, in guest memory that `vm-memory` owns. The guest then makes one access
//! after the other; each must end as the row of a table says, and as the software walker says.
//! Tables are changed while the guest is stopped, and in the end everything is given back.
//!
//! | file | what |
//! | --- | --- |
//! | `layout` | the tables of what is where |
//! | `allows`, `change` | the words of rows, on every architecture |
//! | `look` | what a row says must come of an access |
//! | `check` | asking guest and walker, and comparing |
//! | `machine` | what they all work with |
//! | `space` | an address space: a tree, its cache, its verbs |
//! | `shootdown` | invalidation by the guest, on request |
//! | `changes`, `edit` | changes by the VMM, and by the guest itself |
//! | `linux` | another guest: Linux, and a look at its tables |
//! | `teardown` | giving everything back, and counting |
//! | `host`, `report` | what a person reads |

mod allows;
mod change;
mod changes;
mod check;
mod edit;
mod host;
mod layout;
mod linux;
mod look;
mod machine;
mod report;
mod shootdown;
mod space;
mod teardown;
#[cfg(target_arch = "x86_64")]
mod x86;

use std::cell::RefCell;
use std::process::ExitCode;

use arch_ppc64::radix::{ProcessTable, Prte};
use clap::Parser;
use frag_alloc::guest_frames;
use kvm_ppc::Kvm;
use pgtable::{Access, Gpa, GuestTables, Gva, Leaves, Prot};
use probe_guest::ppc64::{Outcome, ProbeGuest, StubsAt};
use vm_memory::{GuestAddress, GuestMemoryMmap};

use check::Checker;
use layout::{KERNEL, LINEAR, LOOKS, MAPPINGS, PROCESS, PRTS, STUBS, guest, stubs};
use machine::Machine;
use report::{Failure, Report};
use shootdown::Shootdown;
use space::{Space, TableFrames};

/// Runs a guest (KVM-HV on POWER9, KVM on x86-64) behind page tables that this workspace built, and
/// checks each access from inside.
#[derive(Parser)]
struct Options {
    /// Guest memory in MiB, of which little is touched: 2048 and more, or of a Linux guest 128 and
    /// more (512 if nobody says); on x86-64, without Linux, it is what the CPU's page sizes need
    #[arg(long, value_name = "MIB", value_parser = clap::value_parser!(u64).range(1..=1 << 20))]
    memory: Option<u64>,
    /// Show the software walk of each check
    #[arg(long)]
    verbose: bool,
    #[command(flatten)]
    linux: linux::Options,
}

/// A Linux guest's memory in MiB, unless somebody says otherwise.
const LINUX_MIB: u64 = 512;

fn main() -> ExitCode {
    let options = Options::parse();
    if options.linux.kernel.is_some() {
        return run_linux(&options);
    }
    let mut report = Report::new(options.verbose);
    let result = match std::env::consts::ARCH {
        #[cfg(target_arch = "x86_64")]
        "x86_64" => x86::run(&mut report),
        _ => run(&options, &mut report),
    };
    match result {
        Ok(()) => {
            println!("\n{}", report.ok());
            ExitCode::SUCCESS
        }
        Err(failure) => {
            // One line, whatever an error says: whoever runs us reads the last one.
            println!("\nmicrovm: FAILED {}", failure.to_string().replace('\n', "; "));
            ExitCode::FAILURE
        }
    }
}

fn run_linux(options: &Options) -> ExitCode {
    let memory = options.memory.unwrap_or(LINUX_MIB) << 20;
    match linux::run(&options.linux, memory, options.verbose) {
        Ok(text) => {
            println!("linux: {text}");
            ExitCode::SUCCESS
        }
        Err(failure) => {
            println!("linux: FAILED {}", failure.to_string().replace('\n', "; "));
            ExitCode::FAILURE
        }
    }
}

fn run(options: &Options, report: &mut Report) -> Result<(), Failure> {
    let kvm = power_kvm()?;
    let mib = options.memory.unwrap_or(guest::MIN_MIB);
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
    host::describe(&kvm, &guest.borrow(), report)?;

    let shootdown = Shootdown::new(&guest)?;
    let processes = ProcessTable::new(Gpa::new(guest::PROCESS_TABLE), PRTS)
        .ok_or("the process table is not aligned")?;
    let machine = Machine {
        guest: &guest,
        memory: &memory,
        tables: &tables,
        frames: &frames,
        processes,
        shootdown: &shootdown,
    };
    let mut spaces = Vec::new();
    for (cache, pid) in caches.iter().zip([KERNEL, PROCESS]) {
        spaces.push(Space::new(pid, machine, cache)?);
    }
    build(&mut spaces, guest.borrow().stubs(), mib << 20)?;
    run_on(machine, &spaces)?;
    describe(mib, machine, &spaces, report)?;

    let mut checker = Checker::new(machine);
    report.section("the guest speaks");
    checker.run_process(PROCESS)?;
    greeting(machine, report)?;
    report.section("each mapping, and what is none");
    let mapped = MAPPINGS.iter().flat_map(|mapping| mapping.checks());
    for check in mapped.chain(LOOKS.iter().flat_map(|look| look.checks())) {
        checker.run(&check, report)?;
    }
    report.section("a change from inside");
    edit::run(machine, &mut checker, report)?;
    report.section("changes while the guest is stopped");
    changes::run(machine, &mut spaces, &mut checker, report)?;
    report.frames(&frames)?;
    report.section("teardown");
    teardown::run(machine, spaces, &caches, &mut checker, report)
}

/// KVM on POWER, or what is missing.
fn power_kvm() -> Result<Kvm, Failure> {
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

/// Maps the stubs, the kernel's linear mapping of all memory, and every row of the table.
fn build(spaces: &mut [Space<'_>], stubs: Gpa, bytes: u64) -> Result<(), Failure> {
    for space in spaces {
        if space.pid == KERNEL {
            for (input, prot) in STUBS {
                space.map(input, stubs.get(), 0x1000, prot, Leaves::Exactly(12))?;
            }
            space.map(LINEAR, 0, bytes, Prot::RW, Leaves::Largest)?;
        }
        let pid = space.pid;
        for row in MAPPINGS.iter().filter(|row| row.pid == pid) {
            space
                .map(row.input, row.output, row.bytes, row.prot, Leaves::Exactly(row.leaf))
                .map_err(|failure| {
                    format!("mapping \"{}\" of process {pid}: {failure}", row.name)
                })?;
        }
    }
    Ok(())
}

/// Enters the trees into the process table, and turns the guest's relocation on.
fn run_on(machine: Machine<'_>, spaces: &[Space<'_>]) -> Result<(), Failure> {
    for space in spaces {
        let entry = Prte::of_tree(space.root().get()).ok_or("a root is not aligned")?;
        machine.processes.write(machine.tables, space.pid, entry)?;
    }
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
    let Machine { processes, frames, .. } = machine;
    report.section("guest");
    report.fact("memory", format!("{mib} MiB"));
    report
        .fact("process table", format!("{}, {} processes", processes.base(), processes.entries()));
    for space in spaces {
        let name = format!("process {}", space.pid);
        report.fact(&name, format!("root at {}, granule {:?}", space.root(), space.granule()));
    }
    report.frames(frames)
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

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_of_one_piece() {
        super::Options::command().debug_assert();
    }
}
