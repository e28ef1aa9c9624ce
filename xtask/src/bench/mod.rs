//! `cargo xtask bench`: the benches of every room, by name.
//!
//! A room’s benches are a package of their own in `<room>/benches/`, outside the workspace, so that
//! what only a comparison needs never enters an embedder’s lock file. A bench is a program of such
//! a package: a `[[bin]]` or a `[[bench]]` without a test harness.

mod goals;
mod instructions;
mod lines;
mod packages;

use std::env;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use clap::Args;
use duct::{Expression, cmd};

use crate::cargo::cargo;
use crate::toolbox::table::{MAKE, VALGRIND};
use crate::xtask::{Xtask, workspace};
use crate::{command, report};
use goals::Goals;
use packages::Bench;

/// What may be asked for on the command line.
#[derive(Args)]
pub struct Options {
    /// The bench, or `all` of them; without one, all are listed
    name: Option<String>,
    /// Arguments of the bench
    #[arg(last = true)]
    arguments: Vec<String>,
}

impl Options {
    /// What is wrong with the options together.
    pub fn wrong(&self) -> Option<String> {
        let name = self.name.as_ref()?;
        let benches = packages::benches(workspace()).ok()?;
        if name == ALL {
            return (!self.arguments.is_empty())
                .then(|| "`bench all` takes no arguments".to_owned());
        }
        let is_there = benches.iter().any(|bench| bench.name == *name);
        (!is_there).then(|| format!("no bench is named {name}; `cargo xtask bench` lists them"))
    }
}

/// Runs the bench and counts the goals that it reached; missing one is no failure.
pub fn run(xtask: &Xtask, options: &Options) -> Result<()> {
    let benches = packages::benches(xtask.root())?;
    let Some(name) = &options.name else {
        for bench in benches {
            println!("{:<16}{}", bench.name, bench.manifest.display());
        }
        return Ok(());
    };
    let named = |bench: &&Bench| bench.name == *name || name == ALL;
    let all: Vec<_> = benches.iter().filter(named).collect();
    if all.is_empty() {
        bail!("no bench is named {name}; `cargo xtask bench` lists them");
    }
    let mut ended = Vec::new();
    for bench in all {
        let goals = goals_of(xtask, bench, &options.arguments)?;
        ended.push(format!("{}: {goals}", bench.name));
    }
    // Beside each other, after what the benches printed.
    ended.iter().for_each(|goals| report::note(goals));
    Ok(())
}

/// The name that stands for every bench.
const ALL: &str = "all";

/// Runs one bench, or counts its instructions; which of its goals it reached.
fn goals_of(xtask: &Xtask, bench: &Bench, arguments: &[String]) -> Result<Goals> {
    if ![INSTRUCTIONS, LINES].contains(&bench.name.as_str()) {
        return follow(xtask, bench, arguments);
    }
    let renew = match arguments {
        [] => false,
        [argument] if argument == "--record" => true,
        _ => bail!("`bench {}` takes no argument but `-- --record`", bench.name),
    };
    match bench.name.as_str() {
        LINES => count_lines(xtask, bench, renew).map(|()| Goals::default()),
        _ => count(xtask, bench, renew),
    }
}

/// Runs the bench, showing its output while it is read for goals.
fn follow(xtask: &Xtask, bench: &Bench, arguments: &[String]) -> Result<Goals> {
    let manifest = bench.manifest.to_string_lossy();
    let program = bench.cargo_arguments().into_iter().chain(["--manifest-path", &manifest, "--"]);
    let arguments = program.chain(arguments.iter().map(String::as_str));
    let run = in_bench_folder(xtask, &cargo(xtask, arguments))?;
    let output = run.reader().context("cargo")?;
    let mut goals = Goals::default();
    for line in BufReader::new(output).lines() {
        let line = line.with_context(|| format!("the bench {}", bench.name))?;
        println!("{line}");
        goals.count(&line);
    }
    Ok(goals)
}

/// The bench that is counted by `callgrind`, not timed.
const INSTRUCTIONS: &str = "instructions";

/// The bench whose accesses to memory are read.
const LINES: &str = "lines";

/// Counts instructions and cache lines of operations; fails where they are more than on record.
pub fn counts(xtask: &Xtask) -> Result<()> {
    let benches = packages::benches(xtask.root())?;
    let bench = |name| benches.iter().find(|bench| bench.name == name).context("a bench is gone");
    count(xtask, bench(INSTRUCTIONS)?, false)?;
    count_lines(xtask, bench(LINES)?, false)
}

/// Builds a bench; its program, and `valgrind`.
fn under_valgrind(xtask: &Xtask, bench: &Bench) -> Result<(PathBuf, PathBuf)> {
    let manifest = bench.manifest.to_string_lossy();
    let build = ["build", "--profile=bench", "-p", &bench.package, "--manifest-path", &manifest];
    command::stream("cargo build", &in_bench_folder(xtask, &cargo(xtask, build))?)?;
    let program = xtask.target(BUILT).join("release").join(&bench.name);
    Ok((program, xtask.toolbox.program(&VALGRIND, "valgrind")?))
}

/// The compiler's version.
fn rustc() -> Result<String> {
    let version = command::quiet("rustc's version", &cmd!("rustc", "--version"))?;
    Ok(version.split(' ').nth(1).unwrap_or_default().to_owned())
}

/// Counts cache lines, and those that move between CPUs; fails where they are more than on record.
fn count_lines(xtask: &Xtask, bench: &Bench, renew: bool) -> Result<()> {
    let (program, valgrind) = under_valgrind(xtask, bench)?;
    let run = cmd!(valgrind, "--tool=lackey", "--basic-counts=no", "--trace-mem=yes", program);
    let output = run.stderr_to_stdout().reader().context("valgrind")?;
    let text = lines::read(BufReader::new(output)).context("lackey")?.text()?;
    print!("{text}");
    let record = bench.manifest.with_file_name("lines.txt");
    lines::conclude(&record, &text, &rustc()?, renew)
}

fn count(xtask: &Xtask, bench: &Bench, renew: bool) -> Result<Goals> {
    let (program, valgrind) = under_valgrind(xtask, bench)?;
    let folder = tempfile::tempdir()?;
    let base = folder.path().join("counts");
    let run = cmd!(
        valgrind,
        "--tool=callgrind",
        "--collect-bus=yes",
        "--collect-atstart=no",
        "--toggle-collect=count_this",
        "--dump-after=count_this",
        format!("--callgrind-out-file={}", base.display()),
        program
    );
    let rows = command::quiet("callgrind", &run)?;
    let counted = instructions::counted(&rows, &instructions::totals(&base)?)?;
    let rustc = rustc()?;
    let record = bench.manifest.with_file_name("instructions.txt");
    let text = instructions::conclude(&record, &counted, &rustc, renew)?;
    print!("{text}");
    let mut goals = Goals::default();
    text.lines().for_each(|line| goals.count(line));
    Ok(goals)
}

/// Lints every bench package, which also shows that it builds.
pub fn check(xtask: &Xtask) -> Result<()> {
    let manifests = packages::manifests(xtask.root())?;
    for manifest in manifests {
        report::note(&manifest.display().to_string());
        let manifest = manifest.to_string_lossy();
        let arguments = [
            "clippy",
            "--workspace",
            "--all-targets",
            "--manifest-path",
            &manifest,
            "--",
            "-D",
            "warnings",
        ];
        let clippy = in_bench_folder(xtask, &cargo(xtask, arguments))?;
        command::stream("cargo clippy", &clippy)?;
    }
    Ok(())
}

/// Under the target folder: what bench packages are built to.
const BUILT: &str = "benches";

/// One target folder for all bench packages: they share what they compare with. The build script of
/// one of those runs `make`; all that are written in C and C++ need this machine’s compilers.
fn in_bench_folder(xtask: &Xtask, cargo: &Expression) -> Result<Expression> {
    let make = xtask.toolbox.program(&MAKE, "make")?;
    let path = env::var_os("PATH").unwrap_or_default();
    let make = make.parent().map(Path::to_owned).into_iter();
    let path = env::join_paths(make.chain(env::split_paths(&path)))?;
    Ok(cargo.env("PATH", path).env("CARGO_TARGET_DIR", xtask.target(BUILT)))
}
