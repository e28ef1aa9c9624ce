//! Following a machine’s console until the machine ends, or its time is over.

use std::io::{self, BufRead, BufReader, Write};
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use duct::ReaderHandle;

use super::Machine;
use super::console::Console;

/// How long the machine may take to power off after its program ended.
const POWER_OFF: Duration = Duration::from_secs(20);

/// Takes in the console and prints what the program prints. Returns whether QEMU ended by itself;
/// it has ended in any case.
pub fn to_the_end(qemu: ReaderHandle, console: &mut Console, machine: &Machine) -> Result<bool> {
    let qemu = Arc::new(qemu);
    let lines = lines_of(Arc::clone(&qemu));
    let ended = take_in(&lines, console, machine);
    if !matches!(ended, Ok(true)) {
        qemu.kill().context("ending QEMU")?;
        // What is left may be the beginning of a line, and tell where it hung.
        lines.iter().try_for_each(|line| show(&line, console, machine))?;
    }
    ended
}

/// Shows lines until there are no more (then true) or the time is over (then false).
fn take_in(lines: &Receiver<Vec<u8>>, console: &mut Console, machine: &Machine) -> Result<bool> {
    let mut deadline = Instant::now() + Duration::from_secs(machine.timeout);
    loop {
        match lines.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
            Ok(line) => show(&line, console, machine).context("showing the console")?,
            Err(RecvTimeoutError::Disconnected) => return Ok(true),
            Err(RecvTimeoutError::Timeout) => return Ok(false),
        }
        if console.verdict().is_some() {
            deadline = deadline.min(Instant::now() + POWER_OFF);
        }
    }
}

fn show(line: &[u8], console: &mut Console, machine: &Machine) -> io::Result<()> {
    let line = String::from_utf8_lossy(line);
    let printed = console.line(&line);
    let shown = if machine.verbose { Some(line.trim_end()) } else { printed.as_deref() };
    shown.map_or(Ok(()), |shown| writeln!(io::stdout(), "{shown}"))
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
