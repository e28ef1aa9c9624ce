//! The command line.

use std::path::PathBuf;

use arch_ppc64::hash::Layout;
use clap::{Args, Parser, Subcommand, ValueEnum};
use clap_complete::Shell;
use memory_image::Allowance;
use pgtable::{Access, AccessKind, Privilege};
use table_dump::Arch;

use crate::address;

/// What stands below the options in the long help, and in the manual.
const MORE: &str = "\
ROOTS
  x86-64, x86-64-la57   CR3
  ept                   EPTP; its walk length (bits 5:3) says four levels (3, or 0) or five (4)
  ppc64-radix           the process table's address, with PRTS in its low five bits or without; --pid 0 is the kernel
  ppc64-hash            HTABORG and HTABSIZE, as in SDR1; a table of 2^(18 + HTABSIZE) bytes
Without --root: CR3 and CR4 from QEMU's CPU notes, the kernel's own tables from VMCOREINFO; on POWER a process table is looked for
in the image by its looks. Without --arch: the core's machine, and for x86-64 CR4.LA57.

IMAGES
  Raw memory, or ELF cores: QEMU's dump-guest-memory, /proc/vmcore. Holes are not read; nothing that is not asked for is.

OUTPUT
  list, a line each:   first-last address   physical address   length   rights   page size   attributes
  Rights are those of privileged and of user mode, after all that the tables above restrict: rw-/--- is the kernel's.

JSON
  translate   [{\"va\", \"pa\", \"size\", \"supervisor\", \"user\", \"attributes\", \"fault\", \"walk\"?}]
  list        [{\"va\", \"pa\", \"bytes\", \"size\", \"supervisor\", \"user\", \"attributes\", \"fault\"}]
  diff        [{\"va\", \"bytes\", \"before\": {\"pa\", \"attributes\"} or null, \"after\": …, \"fault\"}]
  stats       {\"tree\": {\"levels\": [{\"level\", \"tables\", \"bytes\", \"slots\", \"live\", \"leaves\", \"malformed\", \"shared\", \"missing\"}],
               \"frame_bytes\", \"frames\", \"most_in_a_frame\", \"fragments\", \"pages\": {SIZE: COUNT}}} or {\"hash\": {…}}
  Addresses are strings like \"0xffff888000000000\"; \"pa\" is null and \"fault\" says why where nothing is mapped; \"size\" is that of
  the page in bytes (of a fault: what the entry covers at which the walk ended, or null); \"supervisor\" and \"user\" (\"rw-\") are left out
  on a fault; \"walk\" ([{\"level\", \"address\", \"word\", \"entry\"}]) is there with --walk. Hashed entries have \"vsid\" and \"context\" too.

LIMITS
  An image may be hostile: tables that lead in circles would never end. --limit-words bounds the work, --limit-memory the memory.

EXIT STATUS
  0  all is as asked
  1  an address does not translate; the images differ
  2  the command line is wrong
  3  the image cannot be used, or not to its end (a limit was reached)";

/// Shows what the page tables in an image of memory say
#[derive(Parser)]
#[command(name = "ptdump", version, after_long_help = MORE)]
pub struct Cli {
    /// The image: raw memory or an ELF core
    #[arg(required_unless_present_any = ["completions", "man"])]
    pub image: Option<PathBuf>,
    #[command(flatten)]
    pub options: Options,
    /// Print the completions for a shell
    #[arg(long, value_name = "SHELL", exclusive = true)]
    pub completions: Option<Shell>,
    /// Print the manual page
    #[arg(long, exclusive = true)]
    pub man: bool,
    #[command(subcommand)]
    pub command: Option<Command>,
}

/// What may be given before or after the command.
#[derive(Args)]
pub struct Options {
    /// Which tables; a core tells
    #[arg(long, value_enum, global = true)]
    pub arch: Option<ArchName>,
    /// Where they begin (CR3, EPTP, process table, SDR1); a core may tell
    #[arg(long, value_name = "ADDR", value_parser = address::address, global = true)]
    pub root: Option<u64>,
    /// On POWER: the process. Radix: its number in the process table, 0 is the kernel. Hash:
    /// Linux's context, 0 is the kernel
    #[arg(long, value_name = "N", global = true)]
    pub pid: Option<u32>,
    /// Whose registers to take from a core's notes
    #[arg(long, value_name = "N", default_value_t = 0, global = true)]
    pub cpu: usize,
    /// The physical address of a raw image's first byte
    #[arg(long, value_name = "ADDR", value_parser = address::address, default_value = "0", global = true)]
    pub base: u64,
    /// How hashed entries are laid out: by ISA 3.0 (POWER9, POWER10) or 2.07 (before, and QEMU's
    /// pseries)
    #[arg(long, value_enum, default_value_t = LayoutName::Isa3, global = true)]
    pub hpte_layout: LayoutName,
    /// A segment for a hashed page table, as slbmte takes it; may be repeated. Without any, Linux's
    /// VSIDs are undone
    #[arg(long, value_name = "RB:RS", value_parser = address::segment, global = true)]
    pub slb: Vec<(u64, u64)>,
    /// Print JSON
    #[arg(long, global = true)]
    pub json: bool,
    /// Table words to look at before giving up
    #[arg(long, value_name = "N", value_parser = address::size, default_value = "256M", global = true)]
    pub limit_words: u64,
    /// Bytes of tables to keep in memory before giving up
    #[arg(long, value_name = "SIZE", value_parser = address::size, default_value = "1G", global = true)]
    pub limit_memory: u64,
    /// When to use colours
    #[arg(long, value_enum, default_value_t = Colour::Auto, global = true)]
    pub color: Colour,
}

impl Options {
    pub fn allowance(&self) -> Allowance {
        Allowance { words: self.limit_words, bytes: self.limit_memory }
    }
}

/// What to do with the tables.
#[derive(Subcommand)]
pub enum Command {
    /// List what is mapped, neighbours that say the same as one line (the default)
    List(Listing),
    /// Say where addresses go
    Translate(Addresses),
    /// Count tables, entries and pages
    Stats,
    /// Say what another image translates differently
    Diff(Other),
}

/// How to list.
#[derive(Args, Default)]
pub struct Listing {
    /// Draw a map of the address space into a file instead
    #[arg(long, value_name = "FILE")]
    pub svg: Option<PathBuf>,
    /// Make a page of it that can be zoomed and searched
    #[arg(long, value_name = "FILE")]
    pub html: Option<PathBuf>,
}

/// What to translate.
#[derive(Args)]
pub struct Addresses {
    /// The addresses; `-` reads more of them from standard input
    #[arg(value_name = "ADDR", required = true)]
    pub addresses: Vec<String>,
    /// Show the entries that each walk reads
    #[arg(long)]
    pub walk: bool,
    /// Only what may be done so; without it, whatever is mapped
    #[arg(long, value_enum)]
    pub access: Option<AccessName>,
    /// The access is made in user mode
    #[arg(long, requires = "access")]
    pub user: bool,
}

impl Addresses {
    pub fn access(&self) -> Option<Access> {
        let kind = match self.access? {
            AccessName::Read => AccessKind::Read,
            AccessName::Write => AccessKind::Write,
            AccessName::Fetch => AccessKind::Fetch,
        };
        Some(Access {
            kind,
            privilege: if self.user { Privilege::User } else { Privilege::Supervisor },
        })
    }
}

/// What to compare with.
#[derive(Args)]
pub struct Other {
    /// The other image
    pub other: PathBuf,
    /// Where its tables begin, if not where the first one's do and its notes do not tell
    #[arg(long, value_name = "ADDR", value_parser = address::address)]
    pub other_root: Option<u64>,
}

#[derive(Clone, Copy, ValueEnum)]
pub enum ArchName {
    Ppc64Radix,
    Ppc64Hash,
    #[value(name = "x86-64")]
    X86_64,
    #[value(name = "x86-64-la57")]
    X86_64La57,
    Ept,
}

impl From<ArchName> for Arch {
    fn from(name: ArchName) -> Self {
        match name {
            ArchName::Ppc64Radix => Self::Ppc64Radix,
            ArchName::Ppc64Hash => Self::Ppc64Hash,
            ArchName::X86_64 => Self::X86_64,
            ArchName::X86_64La57 => Self::X86_64La57,
            ArchName::Ept => Self::Ept,
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
pub enum AccessName {
    Read,
    Write,
    Fetch,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Colour {
    Auto,
    Always,
    Never,
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn options_stand_before_or_after_the_command() {
        for line in [
            "ptdump core --arch x86-64 --root 0x1000 translate 0xffff888000000000 5",
            "ptdump core translate 0xffff888000000000 5 --arch x86-64 --root 4096",
        ] {
            let Ok(cli) = Cli::try_parse_from(line.split(' ')) else { panic!("{line}") };
            assert_eq!((cli.options.root, cli.image), (Some(0x1000), Some("core".into())));
            assert!(matches!(cli.command, Some(Command::Translate(it)) if it.addresses.len() == 2));
        }
        assert!(Cli::try_parse_from(["ptdump"]).is_err());
        assert!(Cli::try_parse_from(["ptdump", "--man"]).is_ok());
    }
}
