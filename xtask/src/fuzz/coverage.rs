//! `cargo xtask fuzz --coverage`: which lines of the libraries the inputs of all targets reach.
//!
//! The programs of the targets are built by the stable compiler with its own coverage
//! instrumentation, and replay the seeds and whatever has grown in `fuzz/corpus`. Debian's LLVM
//! reads what they recorded.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use cargo_metadata::{Message, TargetKind};
use duct::cmd;

use crate::cargo::cargo;
use crate::toolbox::table::LLVM_COVERAGE;
use crate::xtask::{LIBRARIES, Xtask};
use crate::{command, report};

/// Arguments of one call of a program: no more than a command line holds.
const FILES: usize = 1000;

/// Replays the inputs of `targets` and prints what they reach of each source file.
pub fn run(xtask: &Xtask, targets: &[String]) -> Result<()> {
    let folder = xtask.target("fuzz-coverage");
    let records = folder.join("records");
    if records.exists() {
        fs::remove_dir_all(&records)?;
    }
    fs::create_dir_all(&records)?;
    let mut programs = Vec::new();
    for (name, program) in
        build(xtask, &folder)?.into_iter().filter(|(name, _)| targets.contains(name))
    {
        let inputs = inputs(xtask, &name)?;
        report::note(&format!("{name}: {} inputs", inputs.len()));
        for inputs in inputs.chunks(FILES) {
            let replay = cmd(&program, inputs)
                .env("LLVM_PROFILE_FILE", records.join(format!("{name}-%p.profraw")));
            command::quiet(&name, &replay)?;
        }
        programs.push(program);
    }
    let profile = folder.join("all.profdata");
    let recorded = files(&records)?;
    let merge = ["merge".into(), "-sparse".into(), "-o".into(), profile.clone()]
        .into_iter()
        .chain(recorded);
    command::quiet("llvm-profdata", &cmd(tool(xtask, "llvm-profdata")?, merge))?;
    println!("{}", table(xtask, &programs, &profile)?);
    Ok(())
}

fn tool(xtask: &Xtask, name: &str) -> Result<PathBuf> {
    xtask.toolbox.program(&LLVM_COVERAGE, name)
}

/// The targets' programs, by name.
fn build(xtask: &Xtask, folder: &Path) -> Result<Vec<(String, PathBuf)>> {
    let manifest = xtask.root().join("fuzz/Cargo.toml");
    let manifest = manifest.to_string_lossy();
    let build = cargo(
        xtask,
        [
            "build",
            "--bins",
            "--manifest-path",
            &manifest,
            "--message-format=json-render-diagnostics",
        ],
    )
    .env("RUSTFLAGS", "-Cinstrument-coverage")
    .env("CARGO_TARGET_DIR", folder)
    // Build scripts are instrumented too, and would leave their records in the sources.
    .env("LLVM_PROFILE_FILE", folder.join("build-%p.profraw"));
    let output = build.stdout_capture().unchecked().run().context("cargo build")?;
    if !output.status.success() {
        bail!("cargo build: {}", output.status);
    }
    let mut programs = Vec::new();
    for message in Message::parse_stream(&output.stdout[..]) {
        if let Message::CompilerArtifact(artifact) = message? {
            if artifact.target.kind.contains(&TargetKind::Bin) {
                programs.extend(
                    artifact.executable.map(|program| (artifact.target.name, program.into())),
                );
            }
        }
    }
    Ok(programs)
}

/// Seeds, and what fuzzing has kept.
fn inputs(xtask: &Xtask, target: &str) -> Result<Vec<PathBuf>> {
    let mut all = Vec::new();
    for kind in ["seeds", "corpus"] {
        let folder = xtask.root().join("fuzz").join(kind).join(target);
        if folder.exists() {
            all.extend(files(&folder)?);
        }
    }
    Ok(all)
}

fn files(folder: &Path) -> Result<Vec<PathBuf>> {
    fs::read_dir(folder)?.map(|entry| Ok(entry?.path())).collect()
}

/// What llvm-cov says of the libraries' sources: lines, and those that no input reached.
fn table(xtask: &Xtask, programs: &[PathBuf], profile: &Path) -> Result<String> {
    let Some((first, others)) = programs.split_first() else { bail!("no target was built") };
    let mut arguments: Vec<PathBuf> = vec!["export".into(), "-summary-only".into(), first.clone()];
    arguments.extend(others.iter().flat_map(|program| [PathBuf::from("-object"), program.clone()]));
    arguments.push(format!("-instr-profile={}", profile.display()).into());
    let exported = command::quiet("llvm-cov", &cmd(tool(xtask, "llvm-cov")?, arguments))?;
    let exported: serde_json::Value = serde_json::from_str(&exported).context("llvm-cov")?;
    let mut table = String::new();
    let mut whole = [0, 0];
    for file in exported["data"][0]["files"].as_array().context("llvm-cov names no file")? {
        let name = file["filename"]
            .as_str()
            .and_then(|name| Path::new(name).strip_prefix(xtask.root()).ok());
        let Some(name) = name.filter(|name| {
            LIBRARIES.iter().any(|library| name.starts_with(format!("{library}/src")))
        }) else {
            continue;
        };
        let number = |what: &str| file["summary"]["lines"][what].as_u64().unwrap_or(0);
        let (lines, reached) = (number("count"), number("covered"));
        whole = [whole[0] + lines, whole[1] + reached];
        table += &row(&name.to_string_lossy(), lines, reached);
    }
    Ok(table + &row("all", whole[0], whole[1]))
}

fn row(name: &str, lines: u64, reached: u64) -> String {
    let percent = if lines == 0 { 0.0 } else { reached as f64 * 100.0 / lines as f64 };
    format!("{name:<44}{reached:>6} of {lines:>6} lines {percent:>6.1} %\n")
}
