//! A microVM whose every address goes through tables that this workspace built: on KVM-HV POWER9,
//! on x86-64, on AArch64 and on RISC-V.
//!
//! The guest's trees are made by `pgtable` and an architecture's crate out of fragments that
//! `frag-alloc` handed out, in guest memory that `vm-memory` owns. The guest then makes one access
//! after the other; each must end as the row of a table says, and as the software walker says.
//! Tables are changed while the guest is stopped, and in the end everything is given back. All that
//! is one program over a trait, `vm::Vm`; an architecture adds its machine and its tables of rows.
//!
//! | file | what |
//! | --- | --- |
//! | `vm` | what an architecture brings |
//! | `program` | the program |
//! | `allows`, `change`, `look` | the words of rows, and what must come of an access |
//! | `check` | asking guest and walker, and comparing |
//! | `space` | an address space: a tree, its cache, its verbs |
//! | `changes`, `edit` | changes by the VMM, and by the guest itself |
//! | `teardown` | giving everything back, and counting |
//! | `report` | what a person reads |
//! | `power`, `x86`, `aarch64`, `riscv64` | the machines: `layout` (what is where), `changes` (which changes), `machine`, `shootdown` |
//! | `power::migrate` | the guest goes on in another VM |
//! | `linux` | another guest: Linux, and a look at its tables |

#[cfg(target_arch = "aarch64")]
mod aarch64;
mod allows;
mod change;
mod changes;
mod check;
mod edit;
mod linux;
mod look;
mod power;
mod program;
mod report;
#[cfg(target_arch = "riscv64")]
mod riscv64;
mod space;
mod teardown;
mod vm;
#[cfg(target_arch = "x86_64")]
mod x86;

use std::process::ExitCode;

use clap::Parser;

use report::Report;

/// Runs a guest (KVM-HV on POWER9, KVM on x86-64, AArch64 and RISC-V) behind page tables that this
/// workspace built, and checks each access from inside.
#[derive(Parser)]
struct Options {
    /// Guest memory in MiB, of which little is touched: 2048 and more, or of a Linux guest 128 and
    /// more (512 if nobody says); on x86-64, without Linux, it is what the CPU's page sizes need
    #[arg(long, value_name = "MIB", value_parser = clap::value_parser!(u64).range(1..=1 << 20))]
    memory: Option<u64>,
    /// Show the software walk of each check
    #[arg(long)]
    verbose: bool,
    /// Have the guest go on in another VM, while it runs (POWER)
    #[arg(long, conflicts_with = "kernel")]
    migrate: bool,
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
        #[cfg(target_arch = "aarch64")]
        "aarch64" => aarch64::run(&mut report),
        #[cfg(target_arch = "riscv64")]
        "riscv64" => riscv64::run(&mut report),
        _ => power::run(options.memory, options.migrate, &mut report),
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

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_of_one_piece() {
        super::Options::command().debug_assert();
    }
}
