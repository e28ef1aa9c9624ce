//! The cargo that started this program, run again in the workspace.

use std::env;
use std::path::PathBuf;

use anyhow::{Context, Result};
use duct::{Expression, cmd};

use crate::xtask::Xtask;
use crate::{artifact, command, report};

/// `cargo ARGUMENTS…` in the workspace’s folder.
pub fn cargo<'a>(xtask: &Xtask, arguments: impl IntoIterator<Item = &'a str>) -> Expression {
    let program = env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    cmd(program, arguments).dir(xtask.root())
}

/// rustc's name for this machine.
pub fn host(xtask: &Xtask) -> Result<String> {
    let compiler = compiler(xtask)?;
    let host = compiler.lines().find_map(|line| line.strip_prefix("host: "));
    Ok(host.context("rustc names no host")?.to_owned())
}

/// What rustc says of itself.
pub fn compiler(xtask: &Xtask) -> Result<String> {
    command::quiet("rustc", &cmd!("rustc", "-vV").dir(xtask.root()))
}

/// The program of the package `name`, installed under the target folder unless it is there.
pub fn installed(xtask: &Xtask, name: &str, version: &str) -> Result<PathBuf> {
    let recipe = format!("{name} {version}");
    let tool = artifact::keep(&xtask.kept(), name, &recipe, |folder| {
        let _busy = report::busy(&format!("installing {recipe} into the target folder"));
        let root = folder.to_string_lossy();
        let install = ["install", name, "--version", version, "--locked", "--root", &root];
        let build = xtask.target(&format!("{name}-build"));
        let install = cargo(xtask, install).env("CARGO_TARGET_DIR", build);
        command::quiet_with_retries(&format!("cargo install {name}"), &install).map(|_| ())
    })?;
    Ok(tool.join("bin").join(name))
}

/// Builds the release form of a program of `examples/` and runs it on this machine; its
/// exit status is ours.
pub fn run_example(xtask: &Xtask, program: &str, arguments: &[String]) -> Result<u8> {
    let fixed = ["run", "--release", "--package", program, "--bin", program, "--"];
    let arguments = fixed.into_iter().chain(arguments.iter().map(String::as_str));
    let output = cargo(xtask, arguments).unchecked().run().context("cargo run")?;
    // A program that a signal ended has no status of its own.
    Ok(output.status.code().and_then(|code| u8::try_from(code).ok()).unwrap_or(1))
}

/// Builds the release form of a program of `examples/` for this machine, linked
/// statically, and says where it stands.
pub fn build_static(xtask: &Xtask, program: &str) -> Result<PathBuf> {
    // Named, so that the flags are not those of build scripts too.
    let (target, variable) = match env::consts::ARCH {
        "powerpc64" => ("powerpc64le-unknown-linux-gnu", "POWERPC64LE"),
        "aarch64" => ("aarch64-unknown-linux-gnu", "AARCH64"),
        "riscv64" => ("riscv64gc-unknown-linux-gnu", "RISCV64GC"),
        _ => ("x86_64-unknown-linux-gnu", "X86_64"),
    };
    let folder = xtask.target("static");
    let arguments =
        ["build", "--target", target, "--release", "--package", program, "--bin", program];
    let build = cargo(xtask, arguments)
        .env("CARGO_TARGET_DIR", &folder)
        .env(
            format!("CARGO_TARGET_{variable}_UNKNOWN_LINUX_GNU_RUSTFLAGS"),
            "-Ctarget-feature=+crt-static",
        )
        // These would take the place of the flags above.
        .env_remove("RUSTFLAGS")
        .env_remove("CARGO_ENCODED_RUSTFLAGS");
    command::stream("building a static program", &build)?;
    Ok(folder.join(target).join("release").join(program))
}
