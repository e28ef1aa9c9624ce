//! Running QEMU and following its console to the end.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use duct::{ReaderHandle, cmd};

use super::Machine;
use super::console::{Console, Verdict};
use crate::report;

/// How long the machine may take to power off after its program ended.
const POWER_OFF: Duration = Duration::from_secs(20);

/// Boots, prints what the program prints, and returns the program’s exit status.
pub fn run(machine: &Machine, kernel: &Path, initrd: &Path, mark: String) -> Result<u8> {
    let mut arguments = arguments(machine);
    for (option, file) in [("-kernel", kernel), ("-initrd", initrd)] {
        arguments.extend([option.to_owned(), file.display().to_string()]);
    }
    let qemu = cmd("qemu-system-ppc64", arguments).stdin_null().stderr_to_stdout().unchecked();
    let qemu = Arc::new(qemu.reader().context("starting qemu-system-ppc64")?);
    let mut console = Console::new(mark);
    let ended = follow(&qemu, &mut console, machine)?;
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

/// Takes in the console until QEMU ends (then true), or ends it when its time is over (false).
fn follow(qemu: &Arc<ReaderHandle>, console: &mut Console, machine: &Machine) -> Result<bool> {
    let take = |console: &mut Console, line: &[u8]| {
        let line = String::from_utf8_lossy(line);
        let printed = console.line(&line);
        if machine.verbose {
            println!("{}", line.trim_end());
        } else if let Some(printed) = printed {
            println!("{printed}");
        }
    };
    let lines = lines_of(Arc::clone(qemu));
    let mut deadline = Instant::now() + Duration::from_secs(machine.timeout);
    loop {
        match lines.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
            Ok(line) => take(console, &line),
            Err(RecvTimeoutError::Disconnected) => return Ok(true),
            Err(RecvTimeoutError::Timeout) => break,
        }
        if console.verdict().is_some() {
            deadline = deadline.min(Instant::now() + POWER_OFF);
        }
    }
    qemu.kill().context("ending QEMU")?;
    // What is left may be the beginning of a line, and tell where it hung.
    lines.iter().for_each(|line| take(console, &line));
    Ok(false)
}

/// Reads QEMU’s output on a thread of its own, so that waiting for a line can have a limit.
fn lines_of(qemu: Arc<ReaderHandle>) -> Receiver<Vec<u8>> {
    let (sender, lines) = mpsc::channel();
    thread::spawn(move || {
        let output = BufReader::new(&*qemu);
        for line in output.split(b'\n').map_while(Result::ok) {
            if sender.send(line).is_err() {
                break;
            }
        }
    });
    lines
}

/// What makes the machine: nothing that the firmware doesn’t need.
fn arguments(machine: &Machine) -> Vec<String> {
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
        let line = arguments(&machine).join(" ");
        assert!(line.contains("-smp 2 -m 1024M -append console=hvc0"), "{line}");
        assert!(line.ends_with("quiet loglevel=1 disable_radix"), "{line}");
    }
}
