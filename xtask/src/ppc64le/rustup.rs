//! Asking rustup for a target’s standard library.
//!
//! rustup downloads from its own server only. Where that can’t be reached it may hang for minutes,
//! so it gets a few seconds, and a failure is remembered.

use std::fs;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};
use duct::cmd;

use crate::{command, report};

const PATIENCE: Duration = Duration::from_secs(10);

/// Whether the active toolchain can build for `target`. Tries to fetch what is missing, once; that
/// it failed is remembered on `shelf`.
pub fn provides(target: &str, shelf: &Path) -> Result<bool> {
    let list = cmd!("rustup", "target", "list", "--installed");
    let Ok(installed) = command::quiet("rustup target list", &list) else {
        return Ok(false); // no rustup on this machine
    };
    if installed.lines().any(|line| line == target) {
        return Ok(true);
    }
    let memory = shelf.join(format!("rustup-has-no-{target}"));
    if memory.exists() {
        return Ok(false);
    }
    let added = add(target)?;
    if !added {
        report::note("rustup could not; taking the target from Debian from now on");
        fs::create_dir_all(shelf)?;
        fs::write(&memory, "Remove this file to have rustup asked again.\n")?;
    }
    Ok(added)
}

fn add(target: &str) -> Result<bool> {
    let _busy = report::busy(&format!("asking rustup for {target}"));
    let add = cmd!("rustup", "target", "add", target)
        .stdin_null()
        .stdout_null()
        .stderr_null();
    let rustup = add.unchecked().start().context("rustup target add")?;
    match rustup.wait_timeout(PATIENCE).context("rustup target add")? {
        Some(output) => Ok(output.status.success()),
        None => {
            rustup.kill().context("stopping rustup")?;
            Ok(false)
        }
    }
}
