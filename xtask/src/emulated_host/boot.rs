//! Starting QEMU as the machine that was asked for, and judging how the run ended.

use std::path::Path;

use anyhow::{Context, Result, bail};
use duct::cmd;

use super::console::{Console, Verdict};
use super::{Machine, Platform, follow};
use crate::report;

/// What is left when the machine is off.
pub struct Ended {
    /// The program’s exit status.
    pub status: u8,
    /// The file that it left behind, if one was asked for.
    pub file: Option<Vec<u8>>,
}

/// Boots, prints what the program prints, and returns what is left.
pub fn run(
    qemu: &Path,
    platform: &Platform,
    machine: &Machine,
    kernel: &Path,
    initrd: &Path,
    mark: String,
) -> Result<Ended> {
    // QEMU ends with us, however we end: a machine that hangs must not outlive its time limit.
    let mut arguments: Vec<String> =
        ["--pdeathsig", "KILL", "--", &qemu.to_string_lossy()].map(str::to_owned).into();
    arguments.extend(machine_arguments(platform, machine));
    for (option, file) in [("-kernel", kernel), ("-initrd", initrd)] {
        arguments.extend([option.to_owned(), file.display().to_string()]);
    }
    let qemu = cmd("setpriv", arguments).stdin_null().stderr_to_stdout().unchecked();
    let qemu = qemu.reader().context("starting QEMU")?;
    let mut console = Console::new(mark);
    let ended = follow::to_the_end(qemu, &mut console, machine)?;
    match console.verdict() {
        Some(Verdict::Exited(status)) => {
            if !ended {
                report::note("the emulated host did not power off, and was ended");
            }
            let file = console.file().context("the file from the emulated host")?;
            Ok(Ended { status: *status, file })
        }
        Some(Verdict::Broken(reason)) => {
            bail!("the emulated host did not come up: {reason}\n{}", console.last_lines())
        }
        None if ended => {
            bail!(
                "the emulated host stopped before the program ended; its last output:\n{}",
                console.last_lines()
            )
        }
        None => bail!(
            "the program did not end within {} s, and was ended; the last output:\n{}",
            machine.timeout,
            console.last_lines()
        ),
    }
}

/// What makes the machine.
fn machine_arguments(platform: &Platform, machine: &Machine) -> Vec<String> {
    let fixed = "-nodefaults -display none -monitor none -serial stdio -no-reboot";
    let fixed = [platform.machine, fixed];
    let mut arguments: Vec<String> =
        fixed.iter().flat_map(|part| part.split_whitespace()).map(str::to_owned).collect();
    arguments.extend(["-smp".to_owned(), machine.smp.to_string()]);
    arguments.extend(["-m".to_owned(), format!("{}M", machine.memory)]);
    arguments.extend(["-append".to_owned(), kernel_command_line(platform, machine)]);
    arguments
}

/// `panic=-1` ends QEMU at a panic, as it may not reboot. Level 1 lets through what the kernel says
/// when it dies, and nothing else.
fn kernel_command_line(platform: &Platform, machine: &Machine) -> String {
    let noise = if machine.verbose { "" } else { " quiet loglevel=1" };
    let hash = if machine.hash { " disable_radix" } else { "" };
    let console = platform.console;
    format!("console={console} rdinit=/init panic=-1{noise}{hash}")
}

#[cfg(test)]
mod tests {
    use super::super::PowerHost;
    use super::*;

    #[test]
    fn machine_becomes_arguments() {
        let machine = Machine { smp: 2, memory: 1024, hash: true, ..Machine::default() };
        let line = machine_arguments(&PowerHost::Power9.usual(), &machine).join(" ");
        assert!(line.contains("-smp 2 -m 1024M -append console=hvc0"), "{line}");
        assert!(line.ends_with("quiet loglevel=1 disable_radix"), "{line}");
    }
}
