//! The emulated host’s software: Debian’s kernel and busybox, unpacked from their packages.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::artifact;
use crate::xtask::Xtask;

/// Stands for whichever kernel the release has now.
const KERNEL: &str = "linux-image-powerpc64le:ppc64el";
const BUSYBOX: &str = "busybox-static:ppc64el";

/// Where the parts stand.
pub struct System {
    /// The kernel image, an ELF file.
    pub kernel: PathBuf,
    /// The folder of its modules, which holds `modules.dep`.
    pub modules: PathBuf,
    /// A statically linked busybox.
    pub busybox: PathBuf,
}

/// Fetches what is missing.
pub fn set_up(xtask: &Xtask) -> Result<System> {
    let recipe = format!("the Debian packages {KERNEL} and {BUSYBOX}");
    let system = artifact::keep(&xtask.kept(), "host-system", &recipe, |folder| {
        let kernel = xtask.archive.stands_for(KERNEL)?;
        xtask.archive.unpack(&[format!("{kernel}:ppc64el"), BUSYBOX.to_owned()], folder)?;
        parts(folder).map(drop)
    })?;
    parts(&system)
}

fn parts(folder: &Path) -> Result<System> {
    // Where /lib has become a link into /usr, packages hold the latter path.
    let modules = ["lib/modules", "usr/lib/modules"].map(|path| folder.join(path));
    let modules = modules.iter().find(|path| path.exists()).context("no kernel modules")?;
    let modules = only_entry(modules, "")?;
    let busybox = ["bin/busybox", "usr/bin/busybox"].map(|path| folder.join(path));
    let busybox = busybox.into_iter().find(|path| path.exists()).context("no busybox")?;
    Ok(System { kernel: only_entry(&folder.join("boot"), "vmlinux-")?, modules, busybox })
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
