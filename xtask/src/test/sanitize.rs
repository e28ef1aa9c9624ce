//! `cargo xtask test --sanitize`: the libraries' tests under tools that see misuse of memory, and
//! races.
//!
//! The stable compiler's own sanitizers (`RUSTC_BOOTSTRAP` lets it use them; their runtimes come
//! with it), and valgrind, which needs no other build. The standard library is not instrumented:
//! what it does with memory is seen by valgrind only.

use std::fs;

use anyhow::{Context, Result};
use clap::ValueEnum;
use duct::cmd;

use crate::cargo::cargo;
use crate::command;
use crate::toolbox::table::VALGRIND;
use crate::xtask::{CONFORMANCE, LIBRARIES, Xtask};

/// What the tests are run under.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Tool {
    /// AddressSanitizer: accesses beyond what was allocated, after it was freed, leaks
    Address,
    /// ThreadSanitizer: two threads at one place without an order
    Thread,
    /// Memcheck: also what was never written
    Valgrind,
}

/// The tests in which threads meet: (package, test target, filter).
const THREADED: [(&str, &str, &str); 4] = [
    ("pgtable", "model", "readers"),
    ("pgtable", "model", "writers"),
    ("frag-alloc", "threads", ""),
    ("frag-alloc", "deferred", ""),
];
/// Those that come to every `unsafe` block, as valgrind is too slow for all: seconds each, so no
/// property tests.
const UNSAFE: [(&str, &str, &str); 5] = [
    ("pgtable", "model", "the_bitmap_of_guest_memory_knows"),
    ("pgtable", "model", "a_device_reads_and_writes_through_the_tree"),
    ("pgtable", "model", "waiting_ends"),
    ("frag-alloc", "quarantine", ""),
    ("frag-alloc", "deferred", ""),
];
/// What the test harness, which is not instrumented, is thought to race in.
const NOT_OURS: &str = "race:test::\nrace:core::profiling::compiler_copy\nrace:std::sync::mpmc\n";

/// Runs the tests that `tool` is of use for.
pub fn run(xtask: &Xtask, tool: Tool) -> Result<()> {
    match tool {
        Tool::Address => {
            let packages = [&LIBRARIES[..], &[CONFORMANCE]].concat();
            let packages = packages.iter().flat_map(|library| ["--package", library]);
            let test = ["test", "--all-features", "--lib", "--tests"].into_iter().chain(packages);
            sanitized(
                xtask,
                "address",
                "-Zsanitizer=address",
                &test.map(str::to_owned).collect::<Vec<_>>(),
                &[],
            )
        }
        Tool::Thread => {
            let suppressions = xtask.target("sanitize-thread.supp");
            fs::write(&suppressions, NOT_OURS)
                .with_context(|| suppressions.display().to_string())?;
            let options = format!("suppressions={} halt_on_error=1", suppressions.display());
            let flags = "-Zsanitizer=thread -Cunsafe-allow-abi-mismatch=sanitizer";
            THREADED.iter().try_for_each(|of| {
                sanitized(xtask, "thread", flags, &test(of), &[("TSAN_OPTIONS", &options)])
            })
        }
        Tool::Valgrind => {
            let valgrind = xtask.toolbox.program(&VALGRIND, "valgrind")?;
            let valgrind =
                format!("{} --quiet --error-exitcode=1 --leak-check=no", valgrind.display());
            let runner =
                format!("CARGO_TARGET_{}_RUNNER", host()?.to_uppercase().replace('-', "_"));
            UNSAFE.iter().try_for_each(|of| {
                let arguments = test(of);
                let what = format!("valgrind: {}", arguments.join(" "));
                let run = cargo(xtask, arguments.iter().map(String::as_str));
                command::stream(&what, &run.env(&runner, &valgrind))
            })
        }
    }
}

/// `cargo test` of one row.
fn test((package, target, filter): &(&str, &str, &str)) -> Vec<String> {
    let all = ["test", "--all-features", "--package", package, "--test", target, filter];
    all.iter().filter(|word| !word.is_empty()).map(|word| (*word).to_owned()).collect()
}

/// Builds for the host as for a foreign target, so that build scripts and macros are left alone.
fn sanitized(
    xtask: &Xtask,
    name: &str,
    flags: &str,
    test: &[String],
    env: &[(&str, &str)],
) -> Result<()> {
    let what = format!("{name}: cargo {}", test.join(" "));
    let target = ["--target".to_owned(), host()?];
    let test = cargo(xtask, test[..1].iter().chain(&target).chain(&test[1..]).map(String::as_str))
        .env("RUSTC_BOOTSTRAP", "1")
        .env("RUSTFLAGS", flags)
        .env("CARGO_TARGET_DIR", xtask.target(&format!("sanitize-{name}")));
    command::stream(&what, &env.iter().fold(test, |test, (name, value)| test.env(name, value)))
}

/// The compiler's name for this machine.
fn host() -> Result<String> {
    let version = command::quiet("rustc -vV", &cmd!("rustc", "-vV"))?;
    let host = version.lines().find_map(|line| line.strip_prefix("host: "));
    host.map(str::to_owned).context("rustc does not say what it runs on")
}
