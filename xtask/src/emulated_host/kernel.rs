//! The emulated host’s software: Debian’s kernel and busybox, unpacked from their packages.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use super::Platform;
use crate::xtask::Xtask;

/// Where the parts stand.
pub struct System {
    /// The kernel image, in the form that the emulator loads.
    pub kernel: PathBuf,
    /// The folder of its modules, which holds `modules.dep`.
    pub modules: PathBuf,
    /// A statically linked busybox.
    pub busybox: PathBuf,
}

/// Fetches what is missing.
pub fn set_up(xtask: &Xtask, platform: &Platform) -> Result<System> {
    parts(&xtask.toolbox.root(platform.system)?, platform)
}

fn parts(folder: &Path, platform: &Platform) -> Result<System> {
    // Where /lib has become a link into /usr, packages hold the latter path.
    let modules = ["lib/modules", "usr/lib/modules"].map(|path| folder.join(path));
    let modules = modules.iter().find(|path| path.exists()).context("no kernel modules")?;
    let modules = only_entry(modules, "")?;
    let busybox = ["bin/busybox", "usr/bin/busybox"].map(|path| folder.join(path));
    let busybox = busybox.into_iter().find(|path| path.exists()).context("no busybox")?;
    Ok(System { kernel: only_entry(&folder.join("boot"), platform.image)?, modules, busybox })
}

/// The entry of `folder` whose name begins with `prefix`.
fn only_entry(folder: &Path, prefix: &str) -> Result<PathBuf> {
    for entry in fs::read_dir(folder).with_context(|| folder.display().to_string())? {
        let entry = entry?;
        if entry.file_name().to_string_lossy().starts_with(prefix) {
            return Ok(entry.path());
        }
    }
    anyhow::bail!("nothing named {prefix}… in {}", folder.display())
}
