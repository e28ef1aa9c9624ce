//! A machine with KVM, emulated: it boots Debian’s kernel, runs one program, powers off.
//!
//! The machine is a [`Platform`] of QEMU’s, with the hypervisor mode that KVM needs. The kernel is
//! unpacked from its Debian package. The root file system is an archive in memory that holds
//! busybox, the KVM modules, the program and the files that it asks for; its `/init` tells the
//! program’s exit status on the console (see [`init`]), and [`console`] reads it there.

mod boot;
mod console;
mod follow;
mod init;
mod initramfs;
mod kernel;
mod modules;
mod platform;
mod power;

use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use clap::{Args, value_parser};

use crate::report;
use crate::xtask::Xtask;
pub use initramfs::Initramfs;
pub use kernel::{System, set_up as system};
use modules::Module;
pub use platform::{AARCH64, AARCH64_16K, Platform, RISCV64, X86_32, X86_64, X86_PAE};
pub use power::{Host as PowerHost, HostKernel};

/// What the emulated machine is like.
#[derive(Args, Clone)]
#[command(next_help_heading = "Emulated host")]
pub struct Machine {
    /// A POWER machine: bare metal, or a logical partition (LPAR)
    #[arg(long, value_name = "HOST", value_enum)]
    pub host: Option<PowerHost>,
    /// Its kernel, if not the usual one: an LPAR with the nested API v2 has 6.12, others 6.1
    #[arg(long, value_name = "VERSION", value_enum)]
    pub host_kernel: Option<HostKernel>,
    /// Its CPU cores
    #[arg(long, value_name = "N", default_value_t = Machine::default().smp,
          value_parser = value_parser!(u32).range(1..=64))]
    smp: u32,
    /// Its memory in MiB
    #[arg(id = "host-memory", long, value_name = "MIB", default_value_t = Machine::default().memory,
          value_parser = value_parser!(u32).range(1024..=1 << 20))]
    memory: u32,
    /// Let the host kernel itself use the hashed page table instead of radix trees
    #[arg(long)]
    pub hash: bool,
    /// Emulate a host even where this machine could be the host; --host does so too
    #[arg(long)]
    pub emulated: bool,
    /// Seconds until a run counts as hung and is ended
    #[arg(long, value_name = "SECONDS", default_value_t = Machine::default().timeout,
          value_parser = value_parser!(u64).range(1..=1 << 20))]
    pub timeout: u64,
    /// Show firmware and kernel messages too
    #[arg(long)]
    pub verbose: bool,
}

impl Default for Machine {
    fn default() -> Self {
        Self {
            host: None,
            host_kernel: None,
            smp: 1,
            memory: 2048,
            hash: false,
            emulated: false,
            timeout: 180,
            verbose: false,
        }
    }
}

impl Machine {
    /// A POWER machine with its usual kernel.
    pub fn of(host: PowerHost) -> Self {
        Self { host: Some(host), ..Self::default() }
    }

    /// The same, but for the host and its kernel.
    pub fn with_host(&self, host: PowerHost, host_kernel: Option<HostKernel>) -> Self {
        Self { host: Some(host), host_kernel, ..self.clone() }
    }

    /// The POWER machine that is asked for, with its kernel.
    pub fn power_platform(&self) -> Platform {
        let host = self.host.unwrap_or_default();
        host.platform(self.host_kernel.unwrap_or_else(|| host.usual_kernel()))
    }

    /// Whether a host must be emulated, whatever this machine is.
    pub fn must_be_emulated(&self) -> bool {
        self.emulated || self.host.is_some() || self.host_kernel.is_some()
    }

    /// What is wrong with the options together; `power` says whether the host is a POWER machine.
    pub fn wrong(&self, power: bool) -> Option<String> {
        if !power {
            let asked = self.host.is_some() || self.host_kernel.is_some();
            return asked.then(|| "--host and --host-kernel are for ppc64".to_owned());
        }
        let host = self.host.unwrap_or_default();
        if self.hash && !host.has_hashed_guests() {
            let name = host.name();
            return Some(format!("--hash: KVM of a {name} needs a host kernel with radix trees"));
        }
        host.refuses(self.host_kernel.unwrap_or_else(|| host.usual_kernel()))
    }
}

/// Files that pass between this machine and the emulated one.
#[derive(Default)]
pub struct Files {
    /// Put into the program’s working folder, under their own names.
    pub given: Vec<PathBuf>,
    /// Fetched from there, by its name, if the program succeeds. It crosses the console: for small
    /// files.
    pub fetched: Option<PathBuf>,
}

impl From<Vec<PathBuf>> for Files {
    fn from(given: Vec<PathBuf>) -> Self {
        Self { given, fetched: None }
    }
}

/// One run of a program on the emulated machine.
pub struct EmulatedHost {
    platform: Platform,
    machine: Machine,
    program: PathBuf,
    arguments: Vec<String>,
    files: Files,
}

impl EmulatedHost {
    /// Will run `program`, a statically linked executable for such a platform.
    pub fn new(platform: Platform, machine: Machine, program: PathBuf) -> Self {
        Self { platform, machine, program, arguments: Vec::new(), files: Files::default() }
    }

    /// Gives the program these arguments.
    pub fn arguments(mut self, arguments: Vec<String>) -> Self {
        self.arguments = arguments;
        self
    }

    /// Passes these files.
    pub fn files(mut self, files: Files) -> Self {
        self.files = files;
        self
    }

    /// Sets up what is missing, boots, shows what the program prints while it runs, and returns the
    /// program’s exit status.
    ///
    /// # Errors
    /// The machine did not come up, hung, or died before the program ended; the error holds the
    /// console’s last lines.
    pub fn run(&self, xtask: &Xtask) -> Result<u8> {
        let qemu = self.platform.qemu(xtask)?;
        let system = kernel::set_up(xtask, &self.platform)?;
        let folder = tempfile::tempdir()?;
        let initrd = folder.path().join("initramfs.cpio");
        let mark = init::mark();
        fs::write(&initrd, self.initramfs(xtask, &system, &mark)?.archive()?)?;
        let Platform { name, kernel, .. } = self.platform;
        let version = &qemu.version;
        report::note(&format!("booting an emulated {name} host: QEMU {version}, {kernel}"));
        let Self { platform, machine, files, .. } = self;
        let ended = boot::run(&qemu.program, platform, machine, &system.kernel, &initrd, mark)?;
        match (&files.fetched, ended.file) {
            (Some(to), Some(content)) if ended.status == 0 => {
                fs::write(to, content).with_context(|| to.display().to_string())?;
            }
            (Some(_), None) if ended.status == 0 => bail!("the emulated host sent no file"),
            _ => {}
        }
        Ok(ended.status)
    }

    fn initramfs(&self, xtask: &Xtask, system: &System, mark: &str) -> Result<Initramfs> {
        let modules = modules::with_dependencies(xtask, &system.modules, self.platform.modules)?;
        let mut root = Initramfs::new();
        root.console();
        root.executable("bin/busybox", read(&system.busybox)?);
        let names: Vec<_> = modules.iter().map(|module| module.file_name.clone()).collect();
        for Module { file_name, content } in modules {
            root.file(&format!("modules/{file_name}"), content);
        }
        root.executable("bin/program", read(&self.program)?);
        for file in &self.files.given {
            root.file(&format!("work/{}", name_of(file)?), read(file)?);
        }
        let fetched = self.files.fetched.as_deref().map(name_of).transpose()?;
        let init = init::script(mark, &names.join(" "), &self.arguments, fetched)?;
        root.executable("init", init.into_bytes());
        Ok(root)
    }
}

/// A file’s name in the program’s working folder.
fn name_of(file: &Path) -> Result<&str> {
    let name = file.file_name().and_then(OsStr::to_str);
    name.with_context(|| format!("{} has no name that the host can take", file.display()))
}

/// What is wrong with files to pass: one that is no file.
pub fn not_there(files: &[PathBuf]) -> Option<String> {
    files.iter().find(|file| !file.is_file()).map(|file| format!("no file: {}", file.display()))
}

fn read(file: &Path) -> Result<Vec<u8>> {
    fs::read(file).with_context(|| file.display().to_string())
}
