//! A bare POWER9 machine, emulated: no firmware, no kernel, only what a program wrote for it. It tries partition-scoped trees that the library built on an
//! MMU that the library's authors did not write.
//!
//! The program `probe` writes an image of memory; a hypervisor of a hundred instructions, assembled here, works through it on the machine's MMU; the program judges what
//! the machine left behind.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{self, Receiver};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use duct::cmd;

use crate::cargo::run_example;
use crate::command;
use crate::debian::ensure_installed;
use crate::emulated_host::POWER9;
use crate::ppc64le::C_COMPILER;
use crate::report;
use crate::xtask::Xtask;

const HYPERVISOR: &str = "examples/src/probe/ppc64/stage2/hypervisor.S";
/// Where the image stands, and its length: agreed with the program. Its first word becomes 1 when all is done.
const IMAGE: (u64, u64) = (0x200_0000, 0x100_0000);
/// How long the machine may take: a hundred times as long as it does.
const PATIENCE: Duration = Duration::from_secs(300);
/// How often it is asked whether it is done.
const PAUSE: Duration = Duration::from_millis(250);

/// Builds, runs, judges; with small pages, then with large ones. The probe’s exit status is ours.
pub fn probe(xtask: &Xtask, cases: Option<u64>, seed: u64) -> Result<u8> {
    ensure_installed(&[&C_COMPILER[..], POWER9.packages].concat())?;
    let folder = tempfile::tempdir()?;
    let firmware = assemble(xtask, folder.path())?;
    for seed in [seed & !1, seed | 1] {
        let file = |name: &str| folder.path().join(name).display().to_string();
        let (image, seen) = (file("image"), file("seen"));
        let part = |option: &str, path: &str| {
            let mut arguments = [option, path, "--seed", &seed.to_string()].map(str::to_owned).to_vec();
            arguments.extend(cases.into_iter().flat_map(|cases| ["--cases".to_owned(), cases.to_string()]));
            run_example(xtask, "probe", &arguments)
        };
        if part("--stage2-image", &image)? != 0 {
            bail!("the probe wrote no image");
        }
        report::note("starting a bare POWER9 machine");
        Machine::start(&firmware, &image)?.run(&seen)?;
        let status = part("--stage2-seen", &seen)?;
        if status != 0 {
            return Ok(status);
        }
    }
    Ok(0)
}

/// The hypervisor as bytes.
fn assemble(xtask: &Xtask, folder: &Path) -> Result<String> {
    let (source, object, firmware) = (xtask.root().join(HYPERVISOR), folder.join("object"), folder.join("firmware"));
    let compile = cmd!("powerpc64le-linux-gnu-gcc", "-mbig-endian", "-mcpu=power9", "-c", &source, "-o", &object);
    command::quiet("assembling", &compile)?;
    let copy = cmd!("powerpc64le-linux-gnu-objcopy", "-O", "binary", "-j", ".text", &object, &firmware);
    command::quiet("objcopy", &copy)?;
    Ok(firmware.display().to_string())
}

/// A machine that runs, and its monitor.
struct Machine {
    qemu: Child,
    monitor: ChildStdin,
    lines: Receiver<String>,
}

impl Machine {
    fn start(firmware: &str, image: &str) -> Result<Self> {
        // QEMU ends with us, however we end.
        let mut qemu = Command::new("setpriv")
            .args(["--pdeathsig", "KILL", "--", POWER9.qemu])
            .args(
                "-M powernv9 -cpu POWER9 -m 1G -nodefaults -display none -serial none -monitor stdio -no-reboot"
                    .split(' '),
            )
            // Without it QEMU warns that the machine cannot be switched off.
            .args("-device ipmi-bmc-sim,id=bmc0 -device isa-ipmi-bt,bmc=bmc0,irq=10".split(' '))
            .args(["-bios", firmware, "-device", &format!("loader,file={image},addr={:#x},force-raw=on", IMAGE.0)])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .context("starting QEMU")?;
        let monitor = qemu.stdin.take().context("QEMU’s monitor")?;
        let output = BufReader::new(qemu.stdout.take().context("QEMU’s monitor")?);
        let (sender, lines) = mpsc::channel();
        thread::spawn(move || output.lines().map_while(Result::ok).try_for_each(|line| sender.send(line)));
        Ok(Self { qemu, monitor, lines })
    }

    /// Waits until the hypervisor is done, and saves the image.
    fn run(mut self, seen: &str) -> Result<()> {
        let deadline = Instant::now() + PATIENCE;
        let done = format!("{:016x}: 0x{:016x}", IMAGE.0, 1);
        loop {
            self.tell(&format!("xp /1gx {:#x}", IMAGE.0))?;
            thread::sleep(PAUSE);
            if self.lines.try_iter().any(|line| line.contains(&done)) {
                break;
            }
            if Instant::now() > deadline {
                self.tell("info registers")?;
                thread::sleep(PAUSE);
                let last: Vec<_> = self.lines.try_iter().collect();
                bail!("the machine was not done within {} s:\n{}", PATIENCE.as_secs(), last.join("\n"));
            }
        }
        self.tell(&format!("pmemsave {:#x} {:#x} \"{seen}\"", IMAGE.0, IMAGE.1))?;
        self.tell("quit")?;
        self.qemu.wait().context("waiting for QEMU")?;
        let length = fs::metadata(seen).context("what QEMU saved")?.len();
        if length != IMAGE.1 {
            bail!("QEMU saved {length} bytes");
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
