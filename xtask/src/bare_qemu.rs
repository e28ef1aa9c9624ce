//! A bare machine of QEMU's: no firmware but ours, and an image of memory on which it works.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{self, Receiver};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

/// How long the machine may take: a hundred times as long as it does.
const PATIENCE: Duration = Duration::from_secs(300);
/// How often it is asked whether it is done.
const PAUSE: Duration = Duration::from_millis(250);

/// What machine it is.
pub struct Bare<'m> {
    /// QEMU’s program, and what makes the machine.
    pub qemu: &'m Path,
    pub machine: &'m str,
    /// The file with the firmware.
    pub firmware: &'m str,
    /// The file with the image, and where it stands. Its first word becomes 1 when all is done.
    pub image: &'m str,
    pub address: u64,
}

impl Bare<'_> {
    /// Runs the machine until it is done, and saves the image in the file `seen`.
    pub fn run(&self, seen: &str) -> Result<()> {
        Machine::start(self)?.run(self, seen)
    }
}

/// A machine that runs, and its monitor.
struct Machine {
    qemu: Child,
    monitor: ChildStdin,
    lines: Receiver<String>,
}

impl Machine {
    fn start(bare: &Bare<'_>) -> Result<Self> {
        let Bare { qemu, machine, firmware, image, address } = bare;
        // QEMU ends with us, however we end.
        let mut qemu = Command::new("setpriv")
            .args(["--pdeathsig", "KILL", "--"])
            .arg(qemu)
            .args(machine.split(' '))
            .args("-nodefaults -display none -serial none -monitor stdio -no-reboot".split(' '))
            .args([
                "-bios",
                firmware,
                "-device",
                &format!("loader,file={image},addr={address:#x},force-raw=on"),
            ])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .context("starting QEMU")?;
        let monitor = qemu.stdin.take().context("QEMU’s monitor")?;
        let output = BufReader::new(qemu.stdout.take().context("QEMU’s monitor")?);
        let (sender, lines) = mpsc::channel();
        thread::spawn(move || {
            output.lines().map_while(Result::ok).try_for_each(|line| sender.send(line))
        });
        Ok(Self { qemu, monitor, lines })
    }

    /// Waits until the hypervisor is done, and saves the image.
    fn run(mut self, bare: &Bare<'_>, seen: &str) -> Result<()> {
        let deadline = Instant::now() + PATIENCE;
        let (address, length) =
            (bare.address, fs::metadata(bare.image).context("the image")?.len());
        let done = format!("{address:016x}: 0x{:016x}", 1);
        loop {
            self.tell(&format!("xp /1gx {address:#x}"))?;
            thread::sleep(PAUSE);
            if self.lines.try_iter().any(|line| line.contains(&done)) {
                break;
            }
            if Instant::now() > deadline {
                self.tell("info registers")?;
                thread::sleep(PAUSE);
                let last: Vec<_> = self.lines.try_iter().collect();
                bail!(
                    "the machine was not done within {} s:\n{}",
                    PATIENCE.as_secs(),
                    last.join("\n")
                );
            }
        }
        self.tell(&format!("pmemsave {address:#x} {length:#x} \"{seen}\""))?;
        self.tell("quit")?;
        self.qemu.wait().context("waiting for QEMU")?;
        let saved = fs::metadata(seen).context("what QEMU saved")?.len();
        if saved != length {
            bail!("QEMU saved {saved} bytes");
        }
        Ok(())
    }

    fn tell(&mut self, line: &str) -> Result<()> {
        writeln!(self.monitor, "{line}").context("QEMU’s monitor")
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        // It has ended already, unless something went wrong.
        let _ = self.qemu.kill();
        let _ = self.qemu.wait();
    }
}
