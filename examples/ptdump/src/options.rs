//! Options that each command takes.

use std::ops::RangeInclusive;
use std::path::PathBuf;

use clap::{Args, ValueEnum};
use memory_image::Allowance;
use pgtable_ppc64::hash::Layout;
use table_dump::{Arch, LinuxLayout, RootChoice, Which};

use crate::address::{self, ExtentText};

/// What may be given before or after the command.
#[derive(Args)]
pub struct Options {
    #[command(flatten)]
    pub image: ImageOptions,
    #[command(flatten)]
    pub tables: TableOptions,
    #[command(flatten)]
    pub power: PowerOptions,
    #[command(flatten)]
    pub output: OutputOptions,
    #[command(flatten)]
    pub limits: LimitOptions,
}

/// How the image is to be read.
#[derive(Args)]
#[command(next_help_heading = "The image")]
pub struct ImageOptions {
    /// The physical address of a raw image's first byte; 0 without
    #[arg(long, value_name = "ADDR", value_parser = address::address, global = true, conflicts_with = "extent")]
    pub base: Option<u64>,
    /// Where a piece of a raw image's memory stands: from physical address GPA on, so many bytes,
    /// at OFFSET of the image or of FILE; may be repeated. With it all of the memory has to be
    /// named
    #[arg(long, value_name = "GPA:LEN@OFFSET[:FILE]", value_parser = address::extent, global = true)]
    pub extent: Vec<ExtentText>,
    /// Another file of a dump that makedumpfile split, or the .vmem of a VMware state file; may be
    /// repeated
    #[arg(long, value_name = "FILE", global = true)]
    pub part: Vec<PathBuf>,
}

/// Which tables.
#[derive(Args)]
#[command(next_help_heading = "The tables")]
pub struct TableOptions {
    /// Which tables; many images tell
    #[arg(long, value_enum, global = true)]
    pub arch: Option<ArchName>,
    /// Where they begin: CR3, EPTP, TTBR, satp, hgatp, process table, SDR1; or the kernel's own, or
    /// the user's half of page-table isolation
    #[arg(long, value_name = "ADDR|kernel|user", value_parser = address::root, global = true)]
    pub root: Option<RootChoice>,
    /// The tables of this process of Linux: its number in decimal, or its name (`ptdump ps` lists
    /// all). --root is then the kernel's root, or `user` for the user's half of page-table
    /// isolation
    #[arg(long, value_name = "PID|NAME", value_parser = which, global = true, conflicts_with = "pid")]
    pub process: Option<Which>,
    /// Whose registers to take, of several CPUs; without it the first's that has paging on
    #[arg(long, value_name = "N", global = true)]
    pub cpu: Option<usize>,
    /// Which VMCOREINFO to take, of several
    #[arg(long, value_name = "N", global = true)]
    pub vmcoreinfo: Option<usize>,
    /// The bit of addresses that marks encrypted memory (AMD SEV, SME), if the image does not tell
    #[arg(long, value_name = "BIT", value_parser = clap::value_parser!(u8).range(32..52), global = true)]
    pub c_bit: Option<u8>,
    /// On AArch64: TCR_EL1, which says granule and sizes, or VTCR_EL2 of a second stage
    #[arg(long, value_name = "TCR", value_parser = address::address, global = true)]
    pub tcr: Option<u64>,
    /// EPT with mode-based execute control: user mode has an execute right of its own
    #[arg(long, global = true)]
    pub mode_based_execute: bool,
    /// The tables stand in a guest's memory, which these tables of the host map: EPT by its EPTP,
    /// a guest stage of RISC-V by its hgatp, or a second stage of AArch64 by its VTTBR and VTCR.
    /// Physical addresses are then the guest's; `read` reads what stands behind them
    #[arg(long, value_name = "ept:EPTP|hgatp:HGATP|vttbr:VTTBR:VTCR", value_parser = through, global = true)]
    pub through: Option<Through>,
}

fn which(text: &str) -> Result<Which, std::convert::Infallible> {
    text.parse()
}

/// Which tables, their root, and on AArch64 VTCR_EL2.
pub type Through = (Arch, u64, Option<u64>);

fn through(text: &str) -> Result<Through, String> {
    if let Some((vttbr, vtcr)) = text.strip_prefix("vttbr:").and_then(|it| it.split_once(':')) {
        let vtcr = address::address(vtcr)?;
        return Ok((Arch::Aarch64Stage2, address::address(vttbr)?, Some(vtcr)));
    }
    let forms = [("ept:", Arch::Ept), ("hgatp:", Arch::Riscv64Guest)];
    let found = forms.iter().find_map(|(form, arch)| Some((*arch, text.strip_prefix(form)?)));
    let (arch, root) =
        found.ok_or("the second stage is ept:EPTP, hgatp:HGATP or vttbr:VTTBR:VTCR")?;
    Ok((arch, address::address(root)?, None))
}

/// What only POWER has.
#[derive(Args)]
#[command(next_help_heading = "On POWER")]
pub struct PowerOptions {
    /// The process. Radix: its number in the process table, 0 is the kernel. Hash: Linux's context,
    /// 0 is the kernel
    #[arg(long, value_name = "N", global = true)]
    pub pid: Option<u32>,
    /// How hashed entries are laid out: by ISA 3.0 (POWER9, POWER10) or 2.07 (before, and QEMU's
    /// pseries), if the entries do not tell
    #[arg(long, value_enum, global = true)]
    pub hpte_layout: Option<LayoutName>,
    /// A segment for a hashed page table, as slbmte takes it; may be repeated. Without any, Linux's
    /// VSIDs are undone
    #[arg(long, value_name = "RB:RS", value_parser = address::segment, global = true)]
    pub slb: Vec<(u64, u64)>,
    /// How Linux lays out its own addresses under a hashed page table; VMCOREINFO tells
    #[arg(long, value_enum, global = true)]
    pub linux_layout: Option<LinuxLayoutName>,
}

/// How it is shown.
#[derive(Args)]
#[command(next_help_heading = "Output")]
pub struct OutputOptions {
    /// Print JSON (`ptdump schema` prints its schema)
    #[arg(long, global = true)]
    pub json: bool,
    /// When to use colours
    #[arg(long, value_enum, default_value_t = Colour::Auto, global = true)]
    pub color: Colour,
    /// Say nothing on standard error but errors
    #[arg(long, short, global = true)]
    pub quiet: bool,
}

/// What bounds the work on a hostile image.
#[derive(Args)]
#[command(next_help_heading = "Limits")]
pub struct LimitOptions {
    /// Table words to look at before giving up
    #[arg(long, value_name = "N", value_parser = address::size, default_value = "256M", global = true)]
    pub limit_words: u64,
    /// Bytes of tables to keep in memory before giving up
    #[arg(long, value_name = "SIZE", value_parser = address::size, default_value = "1G", global = true)]
    pub limit_memory: u64,
}

impl LimitOptions {
    pub fn allowance(&self) -> Allowance {
        Allowance { words: self.limit_words, bytes: self.limit_memory }
    }
}

/// Addresses, for options.
pub type Addresses = RangeInclusive<u64>;

#[derive(Clone, Copy, ValueEnum)]
pub enum ArchName {
    Ppc64Radix,
    Ppc64Hash,
    #[value(name = "x86-64")]
    X86_64,
    #[value(name = "x86-64-la57")]
    X86_64La57,
    #[value(name = "x86-32")]
    X86_32,
    X86Pae,
    Ept,
    Aarch64,
    Aarch64Upper,
    Aarch64Stage2,
    Riscv64,
    Riscv64Guest,
}

impl From<ArchName> for Arch {
    fn from(name: ArchName) -> Self {
        match name {
            ArchName::Ppc64Radix => Self::Ppc64Radix,
            ArchName::Ppc64Hash => Self::Ppc64Hash,
            ArchName::X86_64 => Self::X86_64,
            ArchName::X86_64La57 => Self::X86_64La57,
            ArchName::X86_32 => Self::X86_32,
            ArchName::X86Pae => Self::X86Pae,
            ArchName::Ept => Self::Ept,
            ArchName::Aarch64 => Self::Aarch64,
            ArchName::Aarch64Upper => Self::Aarch64Upper,
            ArchName::Aarch64Stage2 => Self::Aarch64Stage2,
            ArchName::Riscv64 => Self::Riscv64,
            ArchName::Riscv64Guest => Self::Riscv64Guest,
        }
    }
}

#[derive(Clone, Copy, ValueEnum)]
pub enum LayoutName {
    Isa3,
    Isa2,
}

impl From<LayoutName> for Layout {
    fn from(name: LayoutName) -> Self {
        match name {
            LayoutName::Isa3 => Self::V3,
            LayoutName::Isa2 => Self::V2,
        }
    }
}

#[derive(Clone, Copy, ValueEnum)]
pub enum LinuxLayoutName {
    /// Pages of 64 KiB, Linux 5.2 and later
    #[value(name = "64k")]
    Pages64K,
    /// Pages of 64 KiB, Linux 4.12 to 5.1
    #[value(name = "64k-before-5.2")]
    Pages64KOld,
    /// Pages of 4 KiB, Linux 5.8 and later
    #[value(name = "4k")]
    Pages4K,
    /// Pages of 4 KiB, Linux 4.12 to 5.1
    #[value(name = "4k-before-5.2")]
    Pages4KOld,
}

impl From<LinuxLayoutName> for LinuxLayout {
    fn from(name: LinuxLayoutName) -> Self {
        match name {
            LinuxLayoutName::Pages64K => Self::Pages64K,
            LinuxLayoutName::Pages64KOld => Self::Pages64KOld,
            LinuxLayoutName::Pages4K => Self::Pages4K,
            LinuxLayoutName::Pages4KOld => Self::Pages4KOld,
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Colour {
    Auto,
    Always,
    Never,
}
