//! The cargo that started this program, run again in the workspace.

use std::env;

use anyhow::{Context, Result};
use duct::{Expression, cmd};

use crate::xtask::Xtask;

/// `cargo ARGUMENTS…` in the workspace’s folder.
pub fn cargo<'a>(xtask: &Xtask, arguments: impl IntoIterator<Item = &'a str>) -> Expression {
    let program = env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    cmd(program, arguments).dir(xtask.root())
}

/// Builds the release form of a program of the package `examples` and runs it on this machine; its exit status is ours.
pub fn run_example(xtask: &Xtask, program: &str, arguments: &[String]) -> Result<u8> {
    let fixed = ["run", "--release", "--package", "examples", "--bin", program, "--"];
    let arguments = fixed.into_iter().chain(arguments.iter().map(String::as_str));
    let output = cargo(xtask, arguments).unchecked().run().context("cargo run")?;
    // A program that a signal ended has no status of its own.
    Ok(output.status.code().and_then(|code| u8::try_from(code).ok()).unwrap_or(1))
}
