//! Packages of this machine: which are missing, and how they get installed.

use std::collections::HashSet;

use anyhow::{Context, Result, bail};
use duct::cmd;

use crate::{command, report};

/// Installs those of `packages` that are missing; touches no network when none is.
///
/// # Errors
/// Without root it names what is missing and the command that installs it.
pub fn ensure_installed(packages: &[&str]) -> Result<()> {
    let listed = query("${db:Status-Status} ${Package}\n", packages)?;
    let missing = missing(packages, &listed);
    if missing.is_empty() {
        return Ok(());
    }
    let by_hand = format!("apt-get install --no-install-recommends {}", missing.join(" "));
    if !rustix::process::geteuid().is_root() {
        bail!(
            "missing Debian packages, and no permission to install them: as root, run\n  {by_hand}"
        );
    }
    install(&missing).with_context(|| format!("could not do\n  {by_hand}"))
}

fn install(packages: &[&str]) -> Result<()> {
    let _busy = report::busy(&format!("installing Debian packages: {}", packages.join(" ")));
    let update = cmd!("apt-get", "update", "-q", "-o", "Acquire::Retries=3");
    command::quiet_with_retries("apt-get update", &update)?;
    // `--no-remove`: what this machine has installed is not ours to take away.
    let options = ["install", "-y", "-q", "--no-install-recommends", "--no-remove"];
    let patience = ["-o", "DPkg::Lock::Timeout=300", "-o", "Acquire::Retries=3"];
    let install = cmd("apt-get", [&options[..], &patience, packages].concat())
        .env("DEBIAN_FRONTEND", "noninteractive");
    command::quiet_with_retries("apt-get install", &install)?;
    Ok(())
}

/// What `dpkg-query` knows of `packages`, as `format` says; packages that it doesn’t know are left
/// out.
fn query(format: &str, packages: &[&str]) -> Result<String> {
    let arguments = [&["--show", "--showformat", format], packages].concat();
    let output = cmd("dpkg-query", arguments)
        .stdout_capture()
        .stderr_null()
        .unchecked()
        .run()
        .with_context(|| format!("this is not a Debian machine; needed: {}", packages.join(" ")))?;
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Those of `packages` that `listed` (lines of status and name) doesn’t show as installed.
fn missing<'a>(packages: &[&'a str], listed: &str) -> Vec<&'a str> {
    let installed: HashSet<&str> =
        listed.lines().filter_map(|line| line.strip_prefix("installed ")).collect();
    packages.iter().copied().filter(|package| !installed.contains(package)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn removed_and_unknown_packages_are_missing() {
        let listed = "installed tar\nconfig-files gone\nnot-installed other\n";
        assert_eq!(
            missing(&["tar", "gone", "other", "unheard-of"], listed),
            ["gone", "other", "unheard-of"]
        );
    }
}
