//! `cargo xtask hosts`: every program on every POWER host, with every kernel and emulator, as the
//! table in the README.

mod table;

use std::env;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result, bail};
use clap::{Args, ValueEnum};
use duct::cmd;

use crate::debian::Release;
use crate::emulated_host::{HostKernel, PowerHost};
use crate::report;
use crate::xtask::Xtask;
use table::{FAILED, Key, Table};

/// What may be asked for on the command line.
#[derive(Args)]
pub struct Options {
    /// Only this host; may be repeated
    #[arg(long = "host", value_name = "HOST", value_enum)]
    hosts: Vec<PowerHost>,
    /// Only this kernel; may be repeated
    #[arg(long = "host-kernel", value_name = "VERSION", value_enum)]
    kernels: Vec<HostKernel>,
    /// Only this program; may be repeated
    #[arg(long = "only", value_name = "PROGRAM", value_enum)]
    programs: Vec<Program>,
    /// How many cases a probe has
    #[arg(long, value_name = "N", default_value_t = 6000)]
    cases: u64,
    /// Seconds until a run counts as hung, if not as many as that program takes
    #[arg(long, value_name = "SECONDS")]
    timeout: Option<u64>,
    /// Write what was seen into the README's table; cells that were not run stay
    #[arg(long)]
    record: bool,
    /// Only what the README's table has no success of yet
    #[arg(long)]
    missing: bool,
}

/// What is run: a column of the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Program {
    /// The microVM
    Microvm,
    /// The probe, radix trees
    Radix,
    /// The probe, hashed page tables
    Hash,
    /// Linux with radix trees
    LinuxRadix,
    /// Linux with a hashed page table
    LinuxHash,
}

/// The emulators: a release of Debian, and the QEMU that it has.
const EMULATORS: [(Release, [u32; 2]); 2] =
    [(Release::Trixie, [10, 0]), (Release::Bookworm, [7, 2])];

impl Program {
    fn is_hashed(self) -> bool {
        matches!(self, Self::Hash | Self::LinuxHash)
    }

    /// The command of this program, less host and tools.
    fn arguments(self, kernel: HostKernel, cases: u64) -> Vec<String> {
        let line = match self {
            Self::Microvm => "microvm".to_owned(),
            Self::Radix => format!("probe --mmu radix --seed 1 --cases {cases}"),
            Self::Hash => format!("probe --mmu hash --seed 1 --cases {cases}"),
            Self::LinuxRadix => "microvm --linux --mmu radix".to_owned(),
            // An entry for each 4 KiB of memory takes long.
            Self::LinuxHash if kernel == HostKernel::V6_12With4K => {
                "microvm --linux --mmu hash --memory 128M --limit 900".to_owned()
            }
            Self::LinuxHash => "microvm --linux --mmu hash".to_owned(),
        };
        line.split(' ').map(str::to_owned).collect()
    }
}

/// A program's last line, in few words; an error says why it is no success.
fn verdict(output: &str) -> Result<String> {
    let field = |line: &str, name: &str| {
        let mut words = line.split_whitespace();
        words.find_map(|word| word.strip_prefix(name)?.strip_prefix('=').map(str::to_owned))
    };
    for line in output.lines().rev() {
        let words = match line.split_once(": ok ") {
            Some(("microvm", rest)) => {
                field(rest, "checks").map(|checks| format!("{checks} checks"))
            }
            Some(("probe", rest)) => field(rest, "cases").map(|cases| format!("0 of {cases}")),
            Some(("linux", rest)) => field(rest, "pages").map(|pages| format!("{pages} pages")),
            _ if line.contains(": FAILED") || line.starts_with("xtask: error") => bail!("{line}"),
            _ => None,
        };
        if let Some(words) = words {
            return Ok(words);
        }
    }
    bail!("it said nothing of its end")
}

/// Runs everything that is asked for, and prints the table.
///
/// # Errors
/// A program failed; the others have run.
pub fn run(xtask: &Xtask, options: &Options) -> Result<()> {
    let readme = xtask.root().join("README.md");
    let mut table = Table::of_text(&read(&readme)?)?;
    let mut failures = Vec::new();
    for (key, program) in cells(options) {
        let (host, kernel) = (key.host, key.kernel);
        if options.missing && table.has(key, program) {
            continue;
        }
        if program.is_hashed() && !host.has_hashed_guests() {
            table.set(key, program, "–");
            continue;
        }
        report::heading(&format!("{key}, {program:?}"));
        let words = match run_one(xtask, options, key, program) {
            Ok(words) => words,
            Err(error) => {
                failures.push(format!("{host:?}, {kernel:?}, {program:?}: {error:#}"));
                FAILED.to_owned()
            }
        };
        report::note(&words);
        table.set(key, program, &words);
        table.sort(&keys(wanted(&[]), wanted(&[])));
        if options.record {
            // Cells take long: the text may have changed since.
            fs::write(&readme, table.put_into(&read(&readme)?)?).context("README.md")?;
        }
    }
    println!("{}", table.markdown());
    if failures.is_empty() { Ok(()) } else { bail!("{}", failures.join("\n")) }
}

fn read(readme: &Path) -> Result<String> {
    fs::read_to_string(readme).context("README.md")
}

/// The cells that are asked for, of those that there can be.
fn cells(options: &Options) -> Vec<(Key, Program)> {
    let programs = wanted(&options.programs);
    let keys = keys(wanted(&options.hosts), wanted(&options.kernels)).into_iter();
    keys.flat_map(|key| programs.iter().map(move |&program| (key, program))).collect()
}

/// The rows that there can be of these hosts and kernels, in the table's order.
fn keys(hosts: &[PowerHost], kernels: &[HostKernel]) -> Vec<Key> {
    let mut keys = Vec::new();
    for &host in hosts {
        for &kernel in kernels.iter().filter(|it| host.refuses(**it).is_none()) {
            for (release, qemu) in EMULATORS {
                if qemu >= host.platform(kernel).oldest_qemu {
                    keys.push(Key { host, kernel, release, qemu });
                }
            }
        }
    }
    keys
}

/// What is asked for: everything if nothing is.
fn wanted<T: ValueEnum>(asked: &[T]) -> &[T] {
    if asked.is_empty() { T::value_variants() } else { asked }
}

/// One program in a process of its own, whose output is shown only if it fails.
fn run_one(xtask: &Xtask, options: &Options, key: Key, program: Program) -> Result<String> {
    let mut arguments = program.arguments(key.kernel, options.cases);
    arguments.extend(["--host".to_owned(), table::word(&key.host)]);
    arguments.extend(["--host-kernel".to_owned(), table::word(&key.kernel)]);
    if let Some(timeout) = options.timeout {
        arguments.extend(["--timeout".to_owned(), timeout.to_string()]);
    }
    // Its own release takes the place of one that was asked for.
    let mut tools = xtask.toolbox.arguments();
    if let Some(at) = tools.iter().position(|word| word == "--release") {
        tools.drain(at..at + 2);
    }
    arguments.extend(tools);
    arguments.extend(["--release".to_owned(), key.release.suite().to_owned()]);
    let child = cmd(env::current_exe()?, arguments).stdin_null().stderr_to_stdout();
    let output = child.stdout_capture().unchecked().run()?;
    let output = String::from_utf8_lossy(&output.stdout);
    verdict(&output).inspect_err(|_| print!("{output}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn last_lines() {
        for (output, words) in [
            ("x\nmicrovm: ok checks=472 frames=6 fragments=19\n", Some("472 checks")),
            ("probe: ok cases=6000 mismatches=0\n", Some("0 of 6000")),
            ("linux: ok pages=3492 symbols=618 mismatches=0\nlinux: the end\n", Some("3492 pages")),
            ("\nmicrovm: FAILED check\n", None),
            ("probe: FAILED cases=7 mismatches=1\n", None),
            ("microvm: ok checks=1 \nxtask: error: the emulated host hangs\n", None),
            ("", None),
        ] {
            assert_eq!(verdict(output).ok().as_deref(), words, "{output}");
        }
    }

    fn asked(hosts: &[PowerHost], kernels: &[HostKernel]) -> Options {
        Options {
            hosts: hosts.to_vec(),
            kernels: kernels.to_vec(),
            programs: vec![],
            cases: 1,
            timeout: None,
            record: false,
            missing: false,
        }
    }

    #[test]
    fn cells_that_there_can_be() {
        use HostKernel::{V6_1, V6_12};
        use PowerHost::{Power9, Power10Lpar, Power10LparV1};
        for (host, kernel, rows) in [
            (Power9, V6_1, 2),
            (Power10LparV1, V6_1, 2),
            (Power10Lpar, V6_12, 1),
            (Power10Lpar, V6_1, 0),
        ] {
            let cells = cells(&asked(&[host], &[kernel]));
            assert_eq!(cells.len(), 5 * rows, "{host:?} {kernel:?}");
        }
        assert_eq!(cells(&asked(&[], &[])).len(), 5 * (2 * 3 * 2 + 3 * 2 + 3 * 2));
    }
}
