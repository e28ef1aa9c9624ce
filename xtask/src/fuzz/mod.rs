//! `cargo xtask fuzz`: the fuzz targets of `fuzz/`, by name.
//!
//! Sets itself up: cargo-fuzz is installed under the target folder, and built upon by the stable compiler (which
//! `RUSTC_BOOTSTRAP` lets use the sanitizer hooks). Corpora grow in `fuzz/corpus`, which is not kept with the sources;
//! seeds, and what once found something, are in `fuzz/seeds`. What crashes is minimised, and its place is printed.

mod coverage;

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::thread;

use anyhow::{Context, Result, bail};
use cargo_metadata::{MetadataCommand, TargetKind};
use clap::Args;
use duct::{Expression, cmd};

use crate::cargo::cargo;
use crate::xtask::Xtask;
use crate::{artifact, command, report};

/// The version of cargo-fuzz.
const CARGO_FUZZ: &str = "0.13.2";
/// How many targets run at once.
const JOBS: usize = 2;
/// Longer inputs do not reach more.
const LONGEST_INPUT: u32 = 1024;
/// How many runs a crash is minimised for.
const MINIMISING_RUNS: u32 = 20_000;

/// What may be asked for on the command line.
#[derive(Args)]
pub struct Options {
    /// The target; without one, all run, two at a time
    target: Option<String>,
    /// How long each target runs
    #[arg(long, default_value_t = 60)]
    seconds: u32,
    /// The sanitizer to build with; `address` also sees misuse of memory, at half the speed
    #[arg(long, default_value = "none", value_parser = ["none", "address"])]
    sanitizer: String,
    /// Fuzz nothing: print which lines of the libraries the inputs reach
    #[arg(long)]
    coverage: bool,
}

/// Runs the target, or all; fails if one finds something.
pub fn run(xtask: &Xtask, options: &Options) -> Result<()> {
    let all = targets(xtask)?;
    let chosen: Vec<_> = match &options.target {
        Some(name) if all.contains(name) => vec![name.clone()],
        Some(name) => bail!("no target is named {name}; there are {}", all.join(", ")),
        None => all,
    };
    if options.coverage {
        return coverage::run(xtask, &chosen);
    }
    let fuzz = Fuzz {
        folder: xtask.root().join("fuzz"),
        target_folder: xtask.target("fuzz"),
        tool: set_up(xtask)?,
        seconds: options.seconds,
        sanitizer: &options.sanitizer,
    };
    for target in &chosen {
        command::stream(
            &format!("building {target}"),
            &fuzz.cargo_fuzz(["build", target, "--sanitizer", &options.sanitizer]),
        )?;
    }
    let left = Mutex::new(chosen.iter().rev().collect::<Vec<_>>());
    let found = Mutex::new(Vec::new());
    thread::scope(|scope| {
        for _ in 0..JOBS {
            scope.spawn(|| {
                while let Some(target) = left.lock().ok().and_then(|mut left| left.pop()) {
                    let result = fuzz.fuzz(target);
                    if let Ok(mut found) = found.lock() {
                        found.push((target, result));
                    }
                }
            });
        }
    });
    let found = found.into_inner().ok().context("a target's thread panicked")?;
    let mut failed = false;
    for (target, result) in found {
        match result {
            Ok(crashes) if crashes.is_empty() => {}
            Ok(crashes) => {
                failed = true;
                report::note(&format!("{target} found something. Put it into fuzz/seeds/{target} when it is fixed:"));
                crashes.iter().for_each(|crash| report::note(&format!("  {}", crash.display())));
            }
            Err(error) => {
                failed = true;
                report::failure(&error.context(target.clone()));
            }
        }
    }
    if failed {
        bail!("not all targets passed");
    }
    Ok(())
}

/// Replays every corpus, without libFuzzer and in seconds.
pub fn replay(xtask: &Xtask) -> Result<()> {
    let manifest = xtask.root().join("fuzz/Cargo.toml");
    let test = cargo(xtask, ["test", "--manifest-path", &manifest.to_string_lossy()]);
    command::stream("cargo test", &test.env("CARGO_TARGET_DIR", xtask.target("fuzz")))
}

/// The names of the targets: the programs of the package.
fn targets(xtask: &Xtask) -> Result<Vec<String>> {
    let manifest = xtask.root().join("fuzz/Cargo.toml");
    let metadata = MetadataCommand::new().manifest_path(&manifest).no_deps().exec();
    let metadata = metadata.with_context(|| manifest.display().to_string())?;
    let programs = metadata.packages.iter().flat_map(|package| &package.targets);
    Ok(programs.filter(|it| it.kind.contains(&TargetKind::Bin)).map(|it| it.name.clone()).collect())
}

/// Installs cargo-fuzz unless it is there; returns the folder of its program.
fn set_up(xtask: &Xtask) -> Result<PathBuf> {
    let recipe = format!("cargo-fuzz {CARGO_FUZZ}");
    let tool = artifact::keep(&xtask.kept(), "cargo-fuzz", &recipe, |folder| {
        let _busy = report::busy(&format!("installing {recipe} into the target folder"));
        let root = folder.to_string_lossy();
        let install = ["install", "cargo-fuzz", "--version", CARGO_FUZZ, "--locked", "--root", &root];
        let build = xtask.target("cargo-fuzz-build");
        let install = cargo(xtask, install).env("CARGO_TARGET_DIR", build);
        command::quiet_with_retries("cargo install cargo-fuzz", &install).map(|_| ())
    })?;
    Ok(tool.join("bin/cargo-fuzz"))
}

/// What all calls of cargo-fuzz share.
struct Fuzz<'o> {
    folder: PathBuf,
    target_folder: PathBuf,
    tool: PathBuf,
    seconds: u32,
    sanitizer: &'o str,
}

impl Fuzz<'_> {
    fn folder(&self, kind: &str, target: &str) -> PathBuf {
        self.folder.join(kind).join(target)
    }

    fn cargo_fuzz<'a>(&self, arguments: impl IntoIterator<Item = &'a str>) -> Expression {
        let arguments = ["fuzz"].into_iter().chain(arguments);
        cmd(&self.tool, arguments)
            .dir(&self.folder)
            .env("RUSTC_BOOTSTRAP", "1")
            .env("CARGO_TARGET_DIR", &self.target_folder)
    }

    /// Runs a target for its time; returns what it found, minimised where that works.
    fn fuzz(&self, target: &str) -> Result<Vec<PathBuf>> {
        let (corpus, artifacts) = (self.folder("corpus", target), self.folder("artifacts", target));
        let seeds = self.folder("seeds", target);
        fs::create_dir_all(&corpus)?;
        fs::create_dir_all(&artifacts)?;
        let before = files(&artifacts)?;
        report::note(&format!("{target}: {} s", self.seconds));
        let (corpus, seeds) = (corpus.to_string_lossy(), seeds.to_string_lossy());
        let time = format!("-max_total_time={}", self.seconds);
        let length = format!("-max_len={LONGEST_INPUT}");
        let run = [
            "run",
            target,
            "--sanitizer",
            self.sanitizer,
            &corpus,
            &seeds,
            "--",
            &time,
            &length,
            "-print_final_stats=1",
        ];
        let output = self.cargo_fuzz(run).stdin_null().stderr_to_stdout().stdout_capture().unchecked().run()?;
        let output_text = String::from_utf8_lossy(&output.stdout);
        for line in output_text.lines().filter(|line| is_summary(line)) {
            report::note(&format!("{target}: {line}"));
        }
        let found: Vec<_> = files(&artifacts)?.difference(&before).cloned().collect();
        if !output.status.success() && found.is_empty() {
            bail!("cargo fuzz run: {}\n{output_text}", output.status);
        }
        found.iter().map(|crash| self.minimise(target, crash)).collect()
    }

    /// The shortest input that libFuzzer finds for the same target to fail at; the crash itself if it finds none.
    fn minimise(&self, target: &str, crash: &Path) -> Result<PathBuf> {
        let runs = MINIMISING_RUNS.to_string();
        let before = files(&self.folder("artifacts", target))?;
        let input = crash.to_string_lossy();
        let minimise = ["tmin", target, "--sanitizer", self.sanitizer, "--runs", &runs, &input];
        self.cargo_fuzz(minimise).stdin_null().stderr_null().stdout_null().unchecked().run()?;
        let after = files(&self.folder("artifacts", target))?;
        let size = |file: &PathBuf| fs::metadata(file).map_or(u64::MAX, |file| file.len());
        Ok(after.difference(&before).min_by_key(|file| size(file)).map_or_else(|| crash.to_owned(), Clone::clone))
    }
}

fn files(folder: &Path) -> Result<BTreeSet<PathBuf>> {
    fs::read_dir(folder)?.map(|entry| Ok(entry?.path())).collect()
}

/// Whether a line of libFuzzer's output belongs into the report: what failed, and the statistics at the end.
fn is_summary(line: &str) -> bool {
    ["stat::number_of_executed_units", "stat::average_exec_per_sec", "panicked at", "assertion", "ERROR:", "DONE"]
        .iter()
        .any(|word| line.contains(word))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_report_is_short() {
        for (line, expected) in [
            ("#512\tDONE   cov: 1350 ft: 4894 corp: 284/32Kb lim: 152 exec/s: 160 rss: 380Mb", true),
            ("#128\tNEW    cov: 1349 ft: 4892 corp: 282/32Kb", false),
            ("stat::average_exec_per_sec:     148", true),
            ("stat::peak_rss_mb:              462", false),
            ("thread '<unnamed>' panicked at src/radix_walk.rs:56:13:", true),
            ("==1== ERROR: libFuzzer: deadly signal", true),
        ] {
            assert_eq!(is_summary(line), expected, "{line}");
        }
    }
}
