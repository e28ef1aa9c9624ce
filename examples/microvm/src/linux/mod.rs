//! Linux in the microVM: an unmodified kernel, its console, and a look at its page tables while it
//! runs.
//!
//! The guest boots to its `/init`. If that is ours (`guest-init`), it says on the console where its
//! pages are; the vCPUs are stopped, the guest's own root is taken from its registers, and what the
//! safe walker finds there is compared with what the guest said.
//!
//! | file | what |
//! | --- | --- |
//! | `screen` | what the guest prints |
//! | `input` | what a person types |
//! | `gate` | stopping, starting and ending vCPUs |
//! | `given` | the guest's statement, put together |
//! | `compare` | the statement against the tables |
//! | `listing` | all leaves of a tree |
//! | `watch` | what happens next, and how long that may take |
//! | `dying` | the last words of a kernel that says nothing any more |
//! | `serial` | a serial port, where the machine has one |
//! | `power`, `x86`, `aarch64` | the machine on POWER, on x86-64, and on AArch64 |

#[cfg(target_arch = "aarch64")]
mod aarch64;
mod compare;
mod dying;
mod gate;
mod given;
mod input;
mod listing;
mod power;
mod screen;
#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
mod serial;
mod watch;
#[cfg(target_arch = "x86_64")]
mod x86;

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, ValueEnum};

use crate::report::Failure;

/// What happens in the guest.
#[derive(Debug)]
pub enum Event {
    /// It made a statement.
    Said(String),
    /// It ends by its own will: well or not, and how.
    Ended(bool, String),
    /// A vCPU cannot go on.
    Broken(String),
}

/// Which translation the guest uses.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Translation {
    /// Radix trees (elsewhere: the CPU's)
    #[default]
    Radix,
    /// A hashed page table (POWER)
    Hash,
}

/// What may be asked for about a Linux guest.
#[derive(Args, Clone, Debug)]
#[group(id = "linux-guest")]
#[command(next_help_heading = "Linux guests")]
pub struct Options {
    /// Boot this kernel (POWER: an ELF vmlinux; x86-64: a bzImage; AArch64: an Image) instead of
    /// checking page tables of our own
    #[arg(long, value_name = "FILE")]
    pub kernel: Option<PathBuf>,
    /// Its initial root file system
    #[arg(long, value_name = "FILE", requires = "kernel")]
    pub initrd: Option<PathBuf>,
    /// More words for its command line
    #[arg(long, value_name = "WORDS", requires = "kernel", default_value = "quiet")]
    pub append: String,
    /// How it translates
    #[arg(long, value_enum, requires = "kernel", default_value_t)]
    pub mmu: Translation,
    /// Its CPUs
    #[arg(long, value_name = "N", requires = "kernel", default_value_t = 1,
          value_parser = clap::value_parser!(u32).range(1..=64))]
    pub cpus: u32,
    /// Seconds until a guest counts as hung
    #[arg(long, value_name = "SECONDS", requires = "kernel", default_value_t = 120)]
    pub limit: u64,
    /// Its `/init` must make a statement of its pages, which must be right
    #[arg(long, requires = "kernel")]
    pub introspect: bool,
    /// The guest must die, and what is said of it then must hold these words
    #[arg(long, value_name = "WORDS", requires = "kernel", conflicts_with = "introspect")]
    pub dies: Option<String>,
    /// What to put before each line that the guest prints
    #[arg(long, value_name = "TEXT", requires = "kernel", default_value = "")]
    pub prefix: String,
    /// Lines to type into its console, one after the other, once its statement has been compared
    /// (or at once, without --introspect)
    #[arg(long = "type", value_name = "LINE", requires = "kernel")]
    pub typed: Vec<String>,
}

impl Options {
    fn limit(&self) -> Duration {
        Duration::from_secs(self.limit)
    }
}

/// Boots, shows, compares.
///
/// # Errors
/// A guest that does not end by powering off, or whose tables are not as it says.
pub fn run(options: &Options, memory: u64, verbose: bool) -> Result<String, Failure> {
    let outcome = match std::env::consts::ARCH {
        #[cfg(target_arch = "x86_64")]
        "x86_64" => x86::run(options, memory, verbose),
        #[cfg(target_arch = "aarch64")]
        "aarch64" => aarch64::run(options, memory, verbose),
        _ => power::run(options, memory, verbose),
    };
    let Some(words) = &options.dies else { return outcome };
    match outcome {
        Ok(outcome) => Err(format!("the guest did not die: {outcome}").into()),
        Err(failure) if failure.to_string().contains(words) => {
            Ok(format!("ok as it must be, {failure}"))
        }
        Err(failure) => Err(failure),
    }
}
