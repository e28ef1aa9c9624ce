//! The command line.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};
use clap_complete::Shell;
use pgtable::{Access, AccessKind, Privilege};

use crate::address;
use crate::filter::Filter;
use crate::options::{Addresses as Span, Options};

/// What stands below the options in the long help, and in the manual.
const MORE: &str = "\
ROOTS
  x86-64, x86-64-la57   CR3
  x86-32, x86-pae       CR3, of a CPU without CR4.PAE and with it
  ept                   EPTP; its walk length (bits 5:3) says four levels (3, or 0) or five (4)
  aarch64               TTBR0_EL1; TCR_EL1 by --tcr, else granule and size are those of the Linux that the image tells of
  aarch64-upper         TTBR1_EL1; likewise
  aarch64-stage2        VTTBR_EL2; VTCR_EL2 by --tcr
  riscv64               satp or vsatp; its MODE (bits 63:60) says three levels (8), four (9) or five (10)
  riscv64-guest         hgatp; its MODE likewise
  ppc64-radix           the process table's address, with PRTS in its low five bits or without; --pid 0 is the kernel
  ppc64-hash            HTABORG and HTABSIZE, as in SDR1; a table of 2^(18 + HTABSIZE) bytes
Without --root: the registers of the first CPU that has paging on, else the kernel's own tables from VMCOREINFO (a note, or found in memory);
on POWER a process table is looked for in the image by its looks. What was taken, and what else there was, is said on standard error.

IMAGES
  Raw memory, in one piece or several (--extent); ELF cores of QEMU, libvirt, Linux (/proc/vmcore, /proc/kcore), VirtualBox, Xen;
  kdump-compressed files, split (--part) and flattened ones; LiME, AVML; VMware's .vmem with the .vmss or .vmsn beside it.
  A machine that QEMU runs: qmp:SOCKET or qmp:HOST:PORT, its QMP monitor. It is only read, and not stopped: whether it runs is said.
  The memory of a VMM's process: --extent GPA:LEN@ADDR:/proc/PID/mem for each of its pieces. This machine's own kernel: /proc/kcore.
  Holes are not read, and nothing that is not asked for. What an image does not hold is unknown, which is never \"not mapped\".

ADDRESSES
  Hexadecimal, with or without 0x; decimal after 0d. Sizes are decimal unless they begin with 0x, and may end in K, M, G or T.
  Where a piece of memory begins (GPA, OFFSET) is an address, or a number with K, M, G or T behind it.

EXIT STATUS
  0  answered
  1  something that was asked for is not mapped; the images differ; an audit or a search found something, or nothing
  2  the command line is wrong
  3  the image cannot answer: it cannot be read, its root is not in it, something asked for is unknown, a limit was reached

LIMITS
  An image may be hostile: tables that lead in circles would never end. --limit-words bounds the work, --limit-memory the memory.";

/// Shows what the page tables in an image of a machine's memory say
#[derive(Parser)]
#[command(
    name = "ptdump",
    version,
    after_long_help = MORE,
    subcommand_required = true,
    arg_required_else_help = true,
    disable_help_subcommand = true,
    flatten_help = false
)]
pub struct Cli {
    #[command(flatten)]
    pub options: Options,
    #[command(subcommand)]
    pub command: Command,
}

/// What to do.
#[derive(Subcommand)]
pub enum Command {
    /// List what is mapped, neighbours that say the same as one line
    List(Listing),
    /// Say where addresses go
    Translate(Addresses),
    /// Say why an access is allowed or not: each entry of the walk, its flags spelled out
    Explain(Explained),
    /// Say which addresses lead to a physical one
    Reverse(Physical),
    /// Look for mappings that should not be: writable and executable, the kernel's open to users
    Audit(Audited),
    /// Show the bytes at an address, or write them to a file
    Read(Bytes),
    /// Find bytes or text in what is mapped
    Search(Pattern),
    /// List the processes of a Linux kernel with the roots of their tables
    Ps(Listed),
    /// Count tables, entries and pages
    Stats(OfImage),
    /// Say what another image translates differently
    Diff(Other),
    /// Say what the image is: form, memory, CPUs, kernel, root
    Info(OfImage),
    /// Print the JSON schema of the output
    Schema,
    /// Print a manual page
    Man(Manual),
    /// Print the completions for a shell
    Completions {
        /// The shell
        shell: Shell,
    },
}

/// An image, and nothing else.
#[derive(Args)]
pub struct OfImage {
    /// The image
    pub image: PathBuf,
}

/// Which processes.
#[derive(Args)]
pub struct Listed {
    /// The image
    pub image: PathBuf,
    /// Look for root tables in all of memory: those of processes that are not in the kernel's list,
    /// and of some that have ended, are found too
    #[arg(long)]
    pub looks: bool,
}

/// How to list.
#[derive(Args)]
pub struct Listing {
    /// The image
    pub image: PathBuf,
    /// Only what these words say, all of them; may be repeated
    #[arg(long, value_enum, value_name = "FILTER")]
    pub only: Vec<Filter>,
    /// Only these addresses
    #[arg(long, value_name = "FIRST-LAST", value_parser = address::range)]
    pub range: Option<Span>,
    /// Show each of many regular aliases on a line of its own
    #[arg(long)]
    pub no_fold: bool,
    /// Draw a map of the address space into a file instead; `-` is standard output
    #[arg(long, value_name = "FILE", conflicts_with = "json")]
    pub svg: Option<PathBuf>,
    /// Make a page of it that can be zoomed and searched; `-` is standard output
    #[arg(long, value_name = "FILE", conflicts_with = "json")]
    pub html: Option<PathBuf>,
}

/// What to translate.
#[derive(Args)]
pub struct Addresses {
    /// The image
    pub image: PathBuf,
    /// The addresses; `-` reads more of them from standard input and answers each line at once
    #[arg(value_name = "ADDR", required = true)]
    pub addresses: Vec<String>,
    /// Show the entries that each walk reads
    #[arg(long)]
    pub walk: bool,
    #[command(flatten)]
    pub access: AccessArguments,
}

/// Which access.
#[derive(Args)]
pub struct AccessArguments {
    /// Only what may be done so; without it, whatever is mapped
    #[arg(long, value_enum)]
    pub access: Option<AccessName>,
    /// The access is made in user mode
    #[arg(long, requires = "access")]
    pub user: bool,
}

/// What to explain.
#[derive(Args)]
pub struct Explained {
    /// The image
    pub image: PathBuf,
    /// The address
    #[arg(value_name = "ADDR", value_parser = address::address)]
    pub address: u64,
    #[command(flatten)]
    pub access: AccessArguments,
}

/// What physical addresses to look for.
#[derive(Args)]
pub struct Physical {
    /// The image
    pub image: PathBuf,
    /// In the tables of all processes of Linux, and of the kernel itself
    #[arg(long, conflicts_with_all = ["process", "pid", "cpu"])]
    pub all_processes: bool,
    /// The physical addresses
    #[arg(value_name = "PHYSICAL", required = true, value_parser = address::address)]
    pub addresses: Vec<u64>,
}

/// What to look for.
#[derive(Args)]
pub struct Audited {
    /// The image
    pub image: PathBuf,
    /// Only these addresses
    #[arg(long, value_name = "FIRST-LAST", value_parser = address::range)]
    pub range: Option<Span>,
}

/// What to read.
#[derive(Args)]
pub struct Bytes {
    /// The image
    pub image: PathBuf,
    /// The first address
    #[arg(value_name = "ADDR", value_parser = address::address)]
    pub address: u64,
    /// How many bytes
    #[arg(value_name = "LENGTH", value_parser = address::size, default_value = "256")]
    pub length: u64,
    /// The address is a physical one
    #[arg(long)]
    pub physical: bool,
    /// Write the bytes to a file; `-` is standard output
    #[arg(long, value_name = "FILE", conflicts_with = "json")]
    pub out: Option<PathBuf>,
}

/// What bytes to find.
#[derive(Args)]
pub struct Pattern {
    /// The image
    pub image: PathBuf,
    /// The text to find; with --hex, bytes like `48 8b 05`
    pub pattern: String,
    /// The pattern is bytes, two hexadecimal digits each
    #[arg(long)]
    pub hex: bool,
    /// Only in these addresses
    #[arg(long, value_name = "FIRST-LAST", value_parser = address::range)]
    pub range: Option<Span>,
    /// Stop after so many
    #[arg(long, value_name = "N", default_value_t = 1000,
          value_parser = clap::value_parser!(u32).range(1..))]
    pub most: u32,
}

/// What to compare with.
#[derive(Args)]
pub struct Other {
    /// The image
    pub image: PathBuf,
    /// The other image
    pub other: PathBuf,
    /// Where its tables begin, if not where the first one's do and it does not tell
    #[arg(long, value_name = "ADDR", value_parser = address::root)]
    pub other_root: Option<table_dump::RootChoice>,
    /// Draw a picture of the differences into a page that can be zoomed and searched
    #[arg(long, value_name = "FILE", conflicts_with = "json")]
    pub html: Option<PathBuf>,
}

/// Which manual page.
#[derive(Args)]
pub struct Manual {
    /// Of which command; without it, of the program
    pub command: Option<String>,
    /// Write all of them into this folder
    #[arg(long, value_name = "FOLDER", conflicts_with = "command")]
    pub all: Option<PathBuf>,
}

impl AccessArguments {
    pub fn access(&self) -> Option<Access> {
        let kind = match self.access? {
            AccessName::Read => AccessKind::Read,
            AccessName::Write => AccessKind::Write,
            AccessName::Fetch => AccessKind::Fetch,
        };
        let privilege = if self.user { Privilege::User } else { Privilege::Supervisor };
        Some(Access { kind, privilege })
    }
}

#[derive(Clone, Copy, ValueEnum)]
pub enum AccessName {
    Read,
    Write,
    Fetch,
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;
    use table_dump::RootChoice;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn options_stand_before_or_after_the_command() {
        for line in [
            "ptdump --arch x86-64 --root 0x1000 translate core 0xffff888000000000 5",
            "ptdump translate core 0xffff888000000000 5 --arch x86-64 --root 1000",
        ] {
            let Ok(cli) = Cli::try_parse_from(line.split(' ')) else { panic!("{line}") };
            assert_eq!(cli.options.tables.root, Some(RootChoice::Address(0x1000)));
            assert!(matches!(cli.command, Command::Translate(it) if it.addresses.len() == 2));
        }
        for line in
            ["ptdump", "ptdump list a --json --svg b", "ptdump list a --base 1 --extent 0:1@0"]
        {
            assert!(Cli::try_parse_from(line.split(' ')).is_err(), "{line}");
        }
        assert!(Cli::try_parse_from(["ptdump", "man"]).is_ok());
    }
}
