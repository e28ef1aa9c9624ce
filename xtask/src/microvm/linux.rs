//! Linux as the microVM’s guest: Debian’s kernel, and a root file system with our own `/init`.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use clap::{Args, ValueEnum, value_parser};
use tempfile::TempDir;

use crate::arch::Arch;
use crate::emulated_host::{Initramfs, Machine, PowerHost, System};
use crate::report;
use crate::xtask::Xtask;

/// How the guest translates.
#[derive(Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub enum Mmu {
    /// Radix trees
    #[default]
    Radix,
    /// A hashed page table
    Hash,
}

impl Mmu {
    /// As programs call it on their command lines.
    pub fn word(self) -> &'static str {
        match self {
            Self::Radix => "radix",
            Self::Hash => "hash",
        }
    }
}

/// What `/init` does.
#[derive(Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
enum Init {
    /// Says where its pages are; the microVM compares that with its page tables
    #[default]
    Statement,
    /// Runs a shell; what is typed comes from --type of the microVM, or from a terminal where no
    /// host is emulated
    Shell,
    /// Makes the kernel panic
    Panic,
    /// Never ends
    Hang,
}

/// What may be asked for on the command line.
#[derive(Args, Default)]
#[group(id = "linux-guest")]
#[command(next_help_heading = "Linux guests")]
pub struct Options {
    /// Boot Debian’s kernel as the guest, and compare its page tables with what it says of them
    #[arg(long)]
    linux: bool,
    /// How the guest translates (POWER)
    #[arg(long, value_enum, requires = "linux", default_value_t)]
    mmu: Mmu,
    /// The guest’s CPUs
    #[arg(long, value_name = "N", requires = "linux",
          value_parser = value_parser!(u32).range(1..=64))]
    cpus: Option<u32>,
    /// The guest’s memory: MiB, or with a unit, as in 512M or 1G; 128M and more
    #[arg(long, value_name = "SIZE", requires = "linux", value_parser = mebibytes)]
    memory: Option<u64>,
    /// What the guest’s /init does
    #[arg(long, value_enum, requires = "linux", default_value_t)]
    init: Init,
    /// Seconds until the guest counts as hung
    #[arg(long, value_name = "SECONDS", requires = "linux",
          value_parser = value_parser!(u64).range(1..=1 << 20))]
    limit: Option<u64>,
    /// The guest must die, and what is said of it must hold these words
    #[arg(long, value_name = "WORDS", requires = "linux")]
    dies: Option<String>,
}

/// A guest that is ready to boot.
pub struct Guest {
    kernel: PathBuf,
    folder: TempDir,
    arguments: Vec<String>,
}

const INITRD: &str = "guest.cpio";

impl Options {
    /// A guest that says where its pages are, and must be right.
    pub fn introspect(mmu: Mmu, cpus: u32) -> Self {
        Self { linux: true, mmu, cpus: Some(cpus), ..Self::default() }
    }

    /// A guest whose kernel panics, which must be noticed.
    pub fn panic() -> Self {
        let dies = Some("sysrq triggered crash".to_owned());
        Self { linux: true, init: Init::Panic, dies, ..Self::default() }
    }

    /// A guest that never ends, which must be noticed.
    pub fn hang() -> Self {
        let dies = Some("the guest did not end within 15 s; CPU 0 at pc".to_owned());
        Self { linux: true, init: Init::Hang, dies, limit: Some(15), ..Self::default() }
    }

    /// What is wrong with the options together.
    pub fn wrong(&self, arch: Arch, machine: &Machine) -> Option<String> {
        if self.linux && arch == Arch::Riscv64 {
            return Some("the microVM boots no Linux on riscv64 yet".to_owned());
        }
        let host = machine.host.unwrap_or_default();
        if self.mmu == Mmu::Hash && arch == Arch::Ppc64 && !host.has_hashed_guests() {
            return Some(no_hash(host));
        }
        let power_only = self.mmu == Mmu::Hash || self.cpus.is_some_and(|cpus| cpus > 1);
        match arch {
            Arch::X86 if power_only => {
                Some("an x86 guest has one CPU and no hashed page table: --cpus, --mmu".to_owned())
            }
            Arch::Aarch64 if self.mmu == Mmu::Hash => {
                Some("AArch64 has no hashed page table".to_owned())
            }
            _ => None,
        }
    }

    /// Whether Linux is asked for.
    pub fn wanted(&self) -> bool {
        self.linux
    }

    /// Whether this machine could run the guest, but takes hours for it: KVM without the
    /// processor's help (`kvm_pvm`) interprets a guest's kernel, instruction by instruction.
    pub fn needs_emulation(&self, arch: Arch) -> bool {
        let interpreted =
            self.linux && arch == Arch::X86 && Path::new("/sys/module/kvm_pvm").exists();
        if interpreted {
            report::note(
                "/dev/kvm is kvm_pvm, which would interpret the guest's kernel: emulating a host instead",
            );
        }
        interpreted
    }

    /// Seconds until the guest counts as hung: several times what it takes on an emulated host.
    pub fn limit(&self, arch: Arch) -> u64 {
        self.limit.unwrap_or(match arch {
            Arch::Ppc64 | Arch::Riscv64 => 240,
            Arch::X86 | Arch::Aarch64 => 480,
        })
    }

    /// Fetches and builds what is missing. `None`: no Linux is asked for.
    pub fn set_up(self, xtask: &Xtask, arch: Arch, machine: &Machine) -> Result<Option<Guest>> {
        if !self.linux {
            return Ok(None);
        }
        let System { kernel, busybox, .. } = arch.system(xtask, machine)?;
        let init = arch.build_guest(xtask, "guest-init")?;
        let mut root = Initramfs::new();
        root.console();
        root.executable("init", fs::read(&init).with_context(|| init.display().to_string())?);
        root.executable(
            "bin/busybox",
            fs::read(&busybox).with_context(|| busybox.display().to_string())?,
        );
        let folder = tempfile::tempdir()?;
        fs::write(folder.path().join(INITRD), root.archive()?)?;

        let mut arguments = self.of_the_machine(arch);
        let word = match self.init {
            Init::Statement => "statement",
            Init::Shell => "shell",
            Init::Panic => "panic",
            Init::Hang => "hang",
        };
        // Its printing takes longer than all the rest.
        let noise = if machine.verbose { "" } else { " quiet" };
        arguments.extend(["--append".to_owned(), format!("microvm={word}{noise}")]);
        if self.init == Init::Statement {
            arguments.push("--introspect".to_owned());
        }
        // The emulated host's console shows nothing that looks like a message of its own kernel.
        arguments.extend(["--prefix".to_owned(), "| ".to_owned()]);
        Ok(Some(Guest { kernel, folder, arguments }))
    }

    fn of_the_machine(&self, arch: Arch) -> Vec<String> {
        let given = [
            ("--mmu", Some(self.mmu.word().to_owned())),
            ("--cpus", self.cpus.map(|it| it.to_string())),
            ("--memory", self.memory.map(|it| it.to_string())),
            ("--limit", Some(self.limit(arch).to_string())),
            ("--dies", self.dies.clone()),
        ];
        let given = given.into_iter().filter_map(|(name, value)| Some([name.to_owned(), value?]));
        given.flatten().collect()
    }
}

impl Guest {
    /// The microVM’s arguments: with the files where they are, or by their names alone in its
    /// working folder.
    pub fn arguments(&self, here: bool) -> Vec<String> {
        let path = |file: &Path| {
            let name = if here { Some(file.as_os_str()) } else { file.file_name() };
            name.unwrap_or_default().to_string_lossy().into_owned()
        };
        let files = self.files();
        let mut arguments = Vec::new();
        for (option, file) in ["--kernel", "--initrd"].into_iter().zip(&files) {
            arguments.extend([option.to_owned(), path(file)]);
        }
        arguments.extend(self.arguments.iter().cloned());
        arguments
    }

    /// Kernel and initrd.
    pub fn files(&self) -> [PathBuf; 2] {
        [self.kernel.clone(), self.folder.path().join(INITRD)]
    }
}

/// What hosts say that have no guests with hashed page tables.
pub fn no_hash(host: PowerHost) -> String {
    format!("--mmu hash: a {} runs guests with radix trees only", host.name())
}

/// A size in MiB, given in MiB or with a unit.
fn mebibytes(text: &str) -> Result<u64> {
    let (digits, shift) = match text.strip_suffix(['G', 'g']) {
        Some(digits) => (digits, 10),
        None => (text.strip_suffix(['M', 'm']).unwrap_or(text), 0),
    };
    match digits.parse::<u64>().ok().and_then(|number| number.checked_mul(1 << shift)) {
        Some(size @ 128..=0x10_0000) => Ok(size),
        _ => bail!("not a size from 128M to 1024G: {text}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes() {
        let sizes = [
            "512",
            "512M",
            "2G",
            "1g",
            "",
            "0",
            "127",
            "M",
            "-1",
            "1T",
            "2000G",
            "99999999999999999999",
        ];
        let seen: Vec<_> = sizes.iter().map(|text| mebibytes(text).ok()).collect();
        assert_eq!(seen[..4], [Some(512), Some(512), Some(2048), Some(1024)]);
        assert!(seen[4..].iter().all(Option::is_none), "{seen:?}");
    }
}
