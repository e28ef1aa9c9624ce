//! `cargo xtask fuzz`: the fuzz targets of `fuzz/`, by name.
//!
//! Corpora grow in `fuzz/corpus`, which is not kept with the sources; seeds, and what once found
//! something, are in `fuzz/seeds`, and what the inputs are made of in `fuzz/dictionaries`. What
//! crashes is minimised, and its place is printed.

mod coverage;
mod dictionary;
mod programs;

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::thread;
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, bail};
use cargo_metadata::{MetadataCommand, TargetKind};
use clap::{Args, value_parser};
use duct::{Expression, cmd};

use crate::xtask::{Xtask, workspace};
use crate::{command, report};

/// How many targets run at once.
const JOBS: usize = 2;
/// Longer inputs do not reach more.
const LONGEST_INPUT: u32 = 1024;
/// One input takes milliseconds; one that takes so many seconds hangs.
const HANGS: u32 = 60;
/// How long each target runs when everything is tested, and all together at most.
const BRIEF: u32 = 5;
const ALL_BRIEF: u32 = 60;
/// How many runs a crash is minimised for.
const MINIMISING_RUNS: u32 = 20_000;

/// What may be asked for on the command line.
#[derive(Args)]
pub struct Options {
    /// The target; without one, all run, two at a time
    target: Option<String>,
    /// How long each target runs
    #[arg(long, default_value_t = 60, value_parser = value_parser!(u32).range(1..))]
    seconds: u32,
    /// The sanitizer to build with; `address` also sees misuse of memory, at half the speed
    #[arg(long, default_value = "none", value_parser = ["none", "address"])]
    sanitizer: String,
    /// What the random choices begin with, as a run has printed it: the same ones again
    #[arg(long, value_parser = value_parser!(u32).range(1..))]
    seed: Option<u32>,
    /// Fuzz nothing: print which lines of the libraries the inputs reach
    #[arg(long)]
    coverage: bool,
}

impl Options {
    /// What is wrong with the options together.
    pub fn wrong(&self) -> Option<String> {
        let name = self.target.as_ref()?;
        let all = targets(workspace()).ok()?;
        (!all.contains(name)).then(|| format!("no target {name}; there are {}", all.join(", ")))
    }
}

/// Runs the target, or all; fails if one finds something.
pub fn run(xtask: &Xtask, options: &Options) -> Result<()> {
    let chosen = match &options.target {
        Some(name) => vec![name.clone()],
        None => targets(xtask.root())?,
    };
    if options.coverage {
        return coverage::run(xtask, &chosen);
    }
    let fuzz = Fuzz {
        folder: xtask.root().join("fuzz"),
        corpora: xtask.root().join("fuzz/corpus"),
        target_folder: xtask.target("fuzz"),
        programs: build(xtask, &chosen, &options.sanitizer)?,
        seconds: options.seconds,
        seed: options.seed.unwrap_or_else(any_seed),
    };
    fuzz.all(&chosen)
}

/// Replays every corpus, and what was ever found; then fuzzes each target for a moment. What the
/// choices begin with is the commit's: a run before the change goes in shows what the run that
/// decides will see, and each change is tried anew.
pub fn check(xtask: &Xtask) -> Result<()> {
    programs::replay(xtask, &xtask.target("fuzz"))?;
    let targets = targets(xtask.root())?;
    // What grows here is not kept: each time the same inputs to begin with.
    let corpora = xtask.target("fuzz-brief");
    if corpora.exists() {
        fs::remove_dir_all(&corpora)?;
    }
    let share = ALL_BRIEF * JOBS as u32 / targets.len().max(1) as u32;
    let fuzz = Fuzz {
        folder: xtask.root().join("fuzz"),
        corpora,
        target_folder: xtask.target("fuzz"),
        programs: build(xtask, &targets, "none")?,
        seconds: share.clamp(1, BRIEF),
        seed: seed_of_commit(xtask)?,
    };
    fuzz.all(&targets)
}

fn build(xtask: &Xtask, targets: &[String], sanitizer: &str) -> Result<PathBuf> {
    programs::build(xtask, &xtask.target("fuzz"), targets, sanitizer)
}

/// The same for all that run this commit: the beginning of its tree's hash.
fn seed_of_commit(xtask: &Xtask) -> Result<u32> {
    let tree = cmd!("git", "rev-parse", "HEAD^{tree}").dir(xtask.root());
    let tree = command::quiet("the commit's tree", &tree)?;
    seed_of_tree(&tree).with_context(|| format!("git says of the commit's tree: {tree}"))
}

fn seed_of_tree(hash: &str) -> Option<u32> {
    Some(u32::from_str_radix(hash.get(..8)?, 16).ok()?.max(1))
}

/// Another one each time.
fn any_seed() -> u32 {
    // libFuzzer takes 0 for none.
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(1, |now| now.subsec_nanos().max(1))
}

/// The names of the targets: the programs of the package.
fn targets(workspace: &Path) -> Result<Vec<String>> {
    let manifest = workspace.join("fuzz/Cargo.toml");
    let metadata = MetadataCommand::new().manifest_path(&manifest).no_deps().exec();
    let metadata = metadata.with_context(|| manifest.display().to_string())?;
    let programs = metadata.packages.iter().flat_map(|package| &package.targets);
    Ok(programs.filter(|it| it.kind.contains(&TargetKind::Bin)).map(|it| it.name.clone()).collect())
}

/// What all targets share.
struct Fuzz {
    folder: PathBuf,
    /// Where what is found to reach more is kept, in a folder for each target.
    corpora: PathBuf,
    target_folder: PathBuf,
    /// The folder with the targets' programs.
    programs: PathBuf,
    seconds: u32,
    seed: u32,
}

/// What came of a target.
#[derive(Default)]
struct Fuzzed {
    /// How many inputs were run, as far as libFuzzer says.
    runs: u64,
    /// Those at which it failed.
    crashes: Vec<PathBuf>,
}

impl Fuzz {
    /// Runs the targets, two at a time; fails if one finds something.
    fn all(&self, chosen: &[String]) -> Result<()> {
        let left = Mutex::new(chosen.iter().rev().collect::<Vec<_>>());
        let found = Mutex::new(Vec::new());
        thread::scope(|scope| {
            for _ in 0..JOBS {
                scope.spawn(|| {
                    while let Some(target) = left.lock().ok().and_then(|mut left| left.pop()) {
                        let result = self.fuzz(target);
                        if let Ok(mut found) = found.lock() {
                            found.push((target, result));
                        }
                    }
                });
            }
        });
        let found = found.into_inner().ok().context("a target's thread panicked")?;
        let (mut failed, mut runs) = (false, 0);
        for (target, result) in found {
            match result {
                Ok(fuzzed) => {
                    runs += fuzzed.runs;
                    if fuzzed.crashes.is_empty() {
                        continue;
                    }
                    failed = true;
                    report::note(&format!(
                        "{target} found something (cargo xtask fuzz {target} --seed {}). Put it into fuzz/seeds/{target} when it is fixed:",
                        self.seed
                    ));
                    fuzzed
                        .crashes
                        .iter()
                        .for_each(|crash| report::note(&format!("  {}", input(crash))));
                }
                Err(error) => {
                    failed = true;
                    report::failure(&error.context(target.clone()));
                }
            }
        }
        report::note(&format!("fuzz: {} targets, {runs} runs, seed {}", chosen.len(), self.seed));
        if failed {
            bail!("not all targets passed");
        }
        Ok(())
    }

    fn folder(&self, kind: &str, target: &str) -> PathBuf {
        self.folder.join(kind).join(target)
    }

    /// The program of a target, which keeps what fails in that target's folder.
    fn program(&self, target: &str, arguments: &[String]) -> Expression {
        let artifacts = format!("-artifact_prefix={}/", self.folder("artifacts", target).display());
        let arguments = [artifacts].into_iter().chain(arguments.iter().cloned());
        // Each crate has its own copy of what is inlined, which address sanitizer takes for a
        // second definition.
        cmd(self.programs.join(target), arguments).env("ASAN_OPTIONS", "detect_odr_violation=0")
    }

    /// Runs a target for its time; what it finds is minimised where that works.
    fn fuzz(&self, target: &str) -> Result<Fuzzed> {
        let (corpus, artifacts) = (self.corpora.join(target), self.folder("artifacts", target));
        let seeds = self.folder("seeds", target);
        fs::create_dir_all(&corpus)?;
        fs::create_dir_all(&artifacts)?;
        let before = files(&artifacts)?;
        report::note(&format!("{target}: {} s, seed {}", self.seconds, self.seed));
        let mut run = [corpus, seeds].map(|folder| folder.display().to_string()).to_vec();
        run.push("-print_final_stats=1".to_owned());
        run.push(format!("-max_total_time={}", self.seconds));
        run.push(format!("-max_len={LONGEST_INPUT}"));
        run.push(format!("-timeout={HANGS}"));
        // What is merely slow, beside other work, is nothing found.
        run.push(format!("-report_slow_units={HANGS}"));
        run.push(format!("-seed={}", self.seed));
        if let Some(words) =
            dictionary::make(&self.folder, &self.target_folder.join("dictionaries"), target)?
        {
            run.push(format!("-dict={}", words.display()));
        }
        let run = self.program(target, &run);
        let output = run.stdin_null().stderr_to_stdout().stdout_capture().unchecked().run()?;
        let output_text = String::from_utf8_lossy(&output.stdout);
        for line in output_text.lines().filter(|line| is_summary(line)) {
            report::note(&format!("{target}: {line}"));
        }
        let found: Vec<_> = files(&artifacts)?.difference(&before).cloned().collect();
        if !output.status.success() && found.is_empty() {
            bail!("{}\n{output_text}", output.status);
        }
        let crashes =
            found.iter().map(|crash| self.minimise(target, crash)).collect::<Result<_>>()?;
        Ok(Fuzzed { runs: runs(&output_text), crashes })
    }

    /// The shortest input that libFuzzer finds for the same target to fail at; the crash itself if
    /// it finds none.
    fn minimise(&self, target: &str, crash: &Path) -> Result<PathBuf> {
        let runs = format!("-runs={MINIMISING_RUNS}");
        let before = files(&self.folder("artifacts", target))?;
        let minimise = ["-minimize_crash=1".to_owned(), runs, crash.display().to_string()];
        let minimise = self.program(target, &minimise);
        minimise.stdin_null().stderr_null().stdout_null().unchecked().run()?;
        let after = files(&self.folder("artifacts", target))?;
        let size = |file: &PathBuf| fs::metadata(file).map_or(u64::MAX, |file| file.len());
        Ok(after
            .difference(&before)
            .min_by_key(|file| size(file))
            .map_or_else(|| crash.to_owned(), Clone::clone))
    }
}

/// Where an input stands, and the input itself: of CI nothing but its words is left.
fn input(file: &Path) -> String {
    let bytes = fs::read(file).unwrap_or_default();
    let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    format!("{}: {hex}", file.display())
}

fn files(folder: &Path) -> Result<BTreeSet<PathBuf>> {
    fs::read_dir(folder)?.map(|entry| Ok(entry?.path())).collect()
}

/// Whether a line of libFuzzer's output belongs into the report: what failed, and the statistics at
/// the end.
fn is_summary(line: &str) -> bool {
    [
        "stat::number_of_executed_units",
        "stat::average_exec_per_sec",
        "panicked at",
        "assertion",
        "ERROR:",
        "DONE",
    ]
    .iter()
    .any(|word| line.contains(word))
}

/// How many inputs libFuzzer says that it ran.
fn runs(output: &str) -> u64 {
    let counts =
        output.lines().filter_map(|line| line.strip_prefix("stat::number_of_executed_units:"));
    counts.filter_map(|count| count.trim().parse::<u64>().ok()).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_commit_has_one_seed_and_another_commit_another() {
        assert_eq!(seed_of_tree("4b825dc642cb6eb9a060e54bf8d69288fbee4904\n"), Some(0x4b82_5dc6));
        assert_eq!(seed_of_tree("00000000"), Some(1), "libFuzzer takes 0 for none");
        assert_eq!(seed_of_tree("fatal"), None);
    }

    #[test]
    fn a_finding_is_printed_whole() -> Result<()> {
        let folder = tempfile::tempdir()?;
        let file = folder.path().join("crash-1");
        fs::write(&file, [3, 2, 0xff])?;
        assert!(input(&file).ends_with("crash-1: 0302ff"), "{}", input(&file));
        Ok(())
    }

    #[test]
    fn runs_are_counted() {
        assert_eq!(
            runs(
                "#5 DONE\nstat::number_of_executed_units: 1234\nstat::average_exec_per_sec:     148\n"
            ),
            1234
        );
        assert_eq!(runs("thread '<unnamed>' panicked"), 0);
    }

    #[test]
    fn the_report_is_short() {
        for (line, expected) in [
            (
                "#512\tDONE   cov: 1350 ft: 4894 corp: 284/32Kb lim: 152 exec/s: 160 rss: 380Mb",
                true,
            ),
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
