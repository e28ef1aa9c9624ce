//! Starting QEMU as the machine that was asked for, and judging how the run ended.

use std::path::Path;

use anyhow::{Context, Result, bail};
use duct::cmd;

use super::console::{Console, Verdict};
use super::{Machine, follow};
use crate::report;

/// Boots, prints what the program prints, and returns the program’s exit status.
pub fn run(machine: &Machine, kernel: &Path, initrd: &Path, mark: String) -> Result<u8> {
    // QEMU ends with us, however we end: a machine that hangs must not outlive its time limit.
    let mut arguments: Vec<String> = ["--pdeathsig", "KILL", "--", "qemu-system-ppc64"].map(str::to_owned).into();
    arguments.extend(machine_arguments(machine));
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
            Ok(*status)
        }
        Some(Verdict::Broken(reason)) => {
            bail!("the emulated host did not come up: {reason}\n{}", console.last_lines())
        }
        None if ended => {
            bail!("the emulated host stopped before the program ended; its last output:\n{}", console.last_lines())
        }
        None => bail!(
            "the program did not end within {} s, and was ended; the last output:\n{}",
            machine.timeout,
            console.last_lines()
        ),
    }
}

/// What makes the machine: nothing that the firmware doesn’t need.
fn machine_arguments(machine: &Machine) -> Vec<String> {
    // Without the IPMI controller the machine can’t power itself off: the firmware asks that.
    let fixed = "-machine powernv9 -cpu POWER9 -nodefaults -display none -monitor none \
                 -serial stdio -no-reboot \
                 -device ipmi-bmc-sim,id=bmc0 -device isa-ipmi-bt,bmc=bmc0,irq=10";
    let mut arguments: Vec<String> = fixed.split_whitespace().map(str::to_owned).collect();
    arguments.extend(["-smp".to_owned(), machine.smp.to_string()]);
    arguments.extend(["-m".to_owned(), format!("{}M", machine.memory)]);
    arguments.extend(["-append".to_owned(), kernel_command_line(machine)]);
    arguments
}

/// `panic=-1` ends QEMU at a panic, as it may not reboot. Level 1 lets through what the kernel says
/// when it dies, and nothing else.
fn kernel_command_line(machine: &Machine) -> String {
    let noise = if machine.verbose { "" } else { " quiet loglevel=1" };
    let hash = if machine.hash { " disable_radix" } else { "" };
    format!("console=hvc0 rdinit=/init panic=-1{noise}{hash}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn machine_becomes_arguments() {
        let machine = Machine { smp: 2, memory: 1024, hash: true, ..Machine::default() };
        let line = machine_arguments(&machine).join(" ");
        assert!(line.contains("-smp 2 -m 1024M -append console=hvc0"), "{line}");
        assert!(line.ends_with("quiet loglevel=1 disable_radix"), "{line}");
    }
}
