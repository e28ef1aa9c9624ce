//! A guest under emulation, with QEMU's monitor: booted until its init sleeps, then stopped.

use std::fs;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use duct::{Handle, cmd};
use serde_json::json;
use tempfile::TempDir;

use super::gdb::Gdb;
use super::qmp::Qmp;
use crate::assemble::assemble;
use crate::emulated_host::{Initramfs, Platform, system};
use crate::report;
use crate::xtask::Xtask;

/// What init says when it is up.
const READY: &str = "ptdump-proof: ready";
/// How long a guest may take to come up.
const PATIENCE: Duration = Duration::from_secs(240);

/// Init: something is mapped and touched; it says which processes there are, and where pages of
/// some of them are. How it goes on follows.
const INIT: &str = r#"#!/bin/busybox sh
/bin/busybox mkdir -p /proc /tmp
/bin/busybox mount -t proc proc /proc
/bin/busybox dd if=/bin/busybox of=/tmp/file bs=65536 2>/dev/null
/bin/busybox sleep 100000 &
first=$!
/bin/busybox sh -c 'while :; do read -r line < /proc/self/stat; /bin/busybox sleep 100000; done' &
second=$!
/bin/busybox sleep 2
while read -r name size rest; do
    if [ "$name" = KernelPageSize: ]; then kib=$size; fi
done < /proc/self/smaps
echo "ptdump-proof: page-size $kib"
for process in $first $second; do
    while read -r range rest; do
        start=${range%%-*}
        case $start in ffff*) continue;; esac
        page=$((0x$start / 1024 / kib))
        word=$(/bin/busybox dd if=/proc/$process/pagemap bs=8 skip=$page count=1 2>/dev/null |
            /bin/busybox od -A n -t x8)
        echo "ptdump-proof: page $process $start $word"
    done < /proc/$process/maps
done
for process in /proc/[0-9]*; do
    read -r line < $process/stat && echo "ptdump-proof: stat $line"
done
echo "ptdump-proof: ready"
"#;
/// Then it sleeps: the CPU is idle, in the kernel,
const SLEEP: &str = "wait\n";
/// or it is in its own code and in the kernel by turns.
const BUSY: &str = "while :; do read line </proc/uptime; done\n";

/// A guest that has come up, and stands still.
pub struct Guest {
    folder: TempDir,
    qemu: Handle,
    qmp: Qmp,
}

impl Guest {
    /// Boots the platform's kernel on `machine`, until init sleeps, or is `busy`.
    pub fn boot(
        xtask: &Xtask,
        platform: &Platform,
        machine: &str,
        kernel_arguments: &str,
        busy: bool,
    ) -> Result<Self> {
        let software = system(xtask, platform)?;
        let folder = tempfile::tempdir()?;
        let path = |name: &str| folder.path().join(name).display().to_string();
        let mut root = Initramfs::new();
        root.console();
        root.executable("bin/busybox", fs::read(&software.busybox)?);
        let init = [INIT, if busy { BUSY } else { SLEEP }].concat();
        root.executable("init", init.into_bytes());
        fs::write(path("initramfs.cpio"), root.archive()?)?;
        let console = platform.console;
        let append =
            format!("console={console} rdinit=/init panic=-1 quiet loglevel=1{kernel_arguments}");
        let arguments = [
            ("-kernel", software.kernel.display().to_string()),
            ("-initrd", path("initramfs.cpio")),
            ("-append", append),
        ];
        Self::start(xtask, platform, machine, &arguments, folder)
    }

    /// Starts a machine with nothing but an AArch64 program, a file of the workspace.
    pub fn bare(xtask: &Xtask, platform: &Platform, machine: &str, source: &str) -> Result<Self> {
        let folder = tempfile::tempdir()?;
        let program = folder.path().join("program").display().to_string();
        assemble(xtask, source, &["--target=aarch64-linux-gnu"], &program)?;
        Self::start(xtask, platform, machine, &[("-kernel", program)], folder)
    }

    /// Starts a machine with these arguments, and waits until it says that it is up.
    fn start(
        xtask: &Xtask,
        platform: &Platform,
        machine: &str,
        given: &[(&str, String)],
        folder: TempDir,
    ) -> Result<Self> {
        let path = |name: &str| folder.path().join(name).display().to_string();
        let qemu = platform.qemu(xtask)?;
        report::note(&format!("booting {machine} (QEMU {})", qemu.version));

        // QEMU ends with us, however we end.
        let mut arguments: Vec<String> =
            ["--pdeathsig", "KILL", "--", &qemu.program.to_string_lossy()]
                .map(str::to_owned)
                .into();
        arguments.extend(machine.split_whitespace().map(str::to_owned));
        arguments
            .extend("-nodefaults -display none -no-reboot".split_whitespace().map(str::to_owned));
        let ours = [
            ("-serial", format!("file:{}", path("console"))),
            ("-qmp", format!("unix:{},server=on,wait=off", path("qmp"))),
            ("-gdb", format!("unix:{},server=on,wait=off", path("gdb"))),
            ("-qmp", format!("unix:{},server=on,wait=off", path("live"))),
        ];
        for (option, value) in given.iter().chain(&ours) {
            arguments.extend([(*option).to_owned(), value.clone()]);
        }
        let qemu =
            cmd("setpriv", arguments).stdin_null().stdout_capture().stderr_capture().unchecked();
        let qemu = qemu.start().context("starting QEMU")?;
        wait_for(&qemu, &folder.path().join("console"))?;
        // What init did last is over, and the CPU idles.
        thread::sleep(Duration::from_secs(2));
        if let Some(output) = qemu.try_wait()? {
            let said = fs::read(folder.path().join("console")).unwrap_or_default();
            let said = String::from_utf8_lossy(&said);
            bail!("the guest was up, and then QEMU ended ({}):\n{said}", output.status);
        }
        let qmp = Qmp::connect(&folder.path().join("qmp"))?;
        let mut guest = Self { folder, qemu, qmp };
        guest.run(false)?;
        Ok(guest)
    }

    /// Stops the guest, or lets it go on.
    pub fn run(&mut self, go_on: bool) -> Result<()> {
        let command = if go_on { "cont" } else { "stop" };
        self.qmp.execute(command, &json!({})).map(drop)
    }

    /// QEMU's debug stub.
    pub fn gdb(&self) -> Result<Gdb> {
        Gdb::connect(&self.folder.path().join("gdb"))
    }

    /// What it said on its console.
    pub fn console(&self) -> Result<String> {
        let said = fs::read(self.folder.path().join("console")).context("the console")?;
        Ok(String::from_utf8_lossy(&said).into_owned())
    }

    /// A folder that goes away with the guest.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Another QMP socket, which nobody uses.
    pub fn live(&self) -> String {
        format!("qmp:{}", self.folder.path().join("live").display())
    }

    /// Has QEMU write the guest's memory, and what it tells of the CPUs, into an ELF core.
    pub fn dump(&mut self, core: &Path) -> Result<()> {
        let arguments = json!({ "paging": false, "protocol": format!("file:{}", core.display()) });
        self.qmp.execute("dump-guest-memory", &arguments).map(drop)
    }

    /// The same in another form, with virtual addresses or without.
    pub fn dump_as(&mut self, file: &Path, format: Option<&str>, paging: bool) -> Result<()> {
        let protocol = format!("file:{}", file.display());
        let mut arguments = json!({ "paging": paging, "protocol": protocol });
        if let Some(format) = format {
            arguments["format"] = format.into();
        }
        self.qmp.execute("dump-guest-memory", &arguments).map(drop)
    }

    /// Has QEMU write all of a machine's memory that begins at `start` and lies below any hole, as
    /// it is.
    pub fn save_memory(&mut self, start: u64, file: &Path) -> Result<()> {
        let bytes = self.qmp.execute("query-memory-size-summary", &json!({}))?;
        let size = bytes["base-memory"].as_u64().context("the size of memory")?;
        let arguments =
            json!({ "val": start, "size": size, "filename": file.display().to_string() });
        self.qmp.execute("pmemsave", &arguments).map(drop)
    }

    /// What the monitor says to `command`.
    pub fn monitor(&mut self, command: &str) -> Result<String> {
        let answer =
            self.qmp.execute("human-monitor-command", &json!({ "command-line": command }))?;
        Ok(answer.as_str().context("the monitor's answer is no text")?.to_owned())
    }

    /// The value of an expression of the monitor's, like a register.
    pub fn number(&mut self, expression: &str) -> Result<u64> {
        let answer = self.monitor(&format!("print/x {expression}"))?;
        hex(answer.trim()).with_context(|| format!("the monitor says of {expression}: {answer}"))
    }

    /// A register that is none of the monitor's expressions, as `info registers` shows it: `name`
    /// and, after `=` or space, its value.
    pub fn register(&mut self, name: &str) -> Result<u64> {
        let registers = self.monitor("info registers")?;
        let mut words = registers.split(|letter: char| letter.is_whitespace() || letter == '=');
        words.find(|word| *word == name);
        let value = words.find(|word| !word.is_empty()).and_then(hex);
        value.with_context(|| format!("the monitor shows no {name}: {registers}"))
    }

    /// The word at a physical address, as the machine's byte order is.
    pub fn physical_word(&mut self, address: u64) -> Result<u64> {
        let answer = self.monitor(&format!("xp/1gx {address:#x}"))?;
        let word = answer.split_whitespace().last().and_then(hex);
        word.with_context(|| format!("the monitor says of {address:#x}: {answer}"))
    }

    /// Where a virtual address goes, as the CPU would have it; `None` if nowhere.
    pub fn gva2gpa(&mut self, address: u64) -> Result<Option<u64>> {
        let answer = self.monitor(&format!("gva2gpa {address:#x}"))?;
        match answer.trim() {
            "Unmapped" => Ok(None),
            text => match text.strip_prefix("gpa: ").and_then(hex) {
                Some(gpa) => Ok(Some(gpa)),
                None => bail!("gva2gpa {address:#x}: {text}"),
            },
        }
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        // Nothing is lost if it has ended by itself.
        let _ = self.qemu.kill();
    }
}

/// Waits until init is up.
fn wait_for(qemu: &Handle, console: &Path) -> Result<()> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let said = fs::read(console)
            .map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
            .unwrap_or_default();
        if said.contains(READY) {
            return Ok(());
        }
        if let Some(output) = qemu.try_wait()? {
            let stderr = String::from_utf8_lossy(&output.stderr);
            bail!("QEMU ended ({}) before the guest was up:\n{stderr}{said}", output.status);
        }
        if Instant::now() > deadline {
            let _ = qemu.kill();
            bail!(
                "the guest did not come up within {} s; its console:\n{said}",
                PATIENCE.as_secs()
            );
        }
        thread::sleep(Duration::from_millis(200));
    }
}

/// A number as the monitor prints it: zero without `0x`.
fn hex(text: &str) -> Option<u64> {
    u64::from_str_radix(text.strip_prefix("0x").unwrap_or(text), 16).ok()
}
