//! Kernel modules with everything that they depend on, in loading order.
//!
//! `modules.dep` is made when a kernel package is installed, and ours is only unpacked; each module
//! says in its own `.modinfo` section what it depends on.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use duct::cmd;
use object::{Object, ObjectSection};

use crate::toolbox::table::XZ;
use crate::xtask::Xtask;

/// A module, as the kernel takes it.
pub struct Module {
    /// Its file’s name.
    pub file_name: String,
    pub content: Vec<u8>,
}

/// The modules `wanted` from below `folder`, each after what it depends on.
pub fn with_dependencies(xtask: &Xtask, folder: &Path, wanted: &[&str]) -> Result<Vec<Module>> {
    let mut found = HashMap::new();
    find(folder, &mut found)?;
    let mut loaded = Vec::new();
    for name in wanted {
        add(xtask, name, &found, &mut loaded)?;
    }
    Ok(loaded)
}

/// Appends the module `name` to `loaded` after its dependencies, unless it is there.
fn add(
    xtask: &Xtask,
    name: &str,
    found: &HashMap<String, PathBuf>,
    loaded: &mut Vec<Module>,
) -> Result<()> {
    let file_name = format!("{}.ko", canonical(name));
    if loaded.iter().any(|module| module.file_name == file_name) {
        return Ok(());
    }
    let path = found.get(&canonical(name)).with_context(|| format!("no kernel module {name}"))?;
    let content = read(xtask, path)?;
    for dependency in dependencies(&content).with_context(|| path.display().to_string())? {
        add(xtask, &dependency, found, loaded)?;
    }
    loaded.push(Module { file_name, content });
    Ok(())
}

/// Collects the module files below `folder` by the modules’ names.
fn find(folder: &Path, found: &mut HashMap<String, PathBuf>) -> Result<()> {
    for entry in fs::read_dir(folder).with_context(|| folder.display().to_string())? {
        let entry = entry?;
        let path = entry.path();
        if entry.file_type()?.is_dir() {
            find(&path, found)?;
        } else if let Some((name, _)) = entry.file_name().to_string_lossy().split_once(".ko") {
            found.insert(canonical(name), path);
        }
    }
    Ok(())
}

/// A module’s name: file names may have hyphens where the kernel has underscores.
fn canonical(name: &str) -> String {
    name.replace('-', "_")
}

/// The module’s content, decompressed if this kernel compresses its modules.
fn read(xtask: &Xtask, path: &Path) -> Result<Vec<u8>> {
    match path.extension().and_then(OsStr::to_str) {
        Some("ko") => fs::read(path).with_context(|| path.display().to_string()),
        Some("xz") => {
            let xz = xtask.toolbox.program(&XZ, "xz")?;
            Ok(cmd!(xz, "--decompress", "--stdout", path).stdout_capture().run()?.stdout)
        }
        _ => bail!("{}: a module in an unknown form", path.display()),
    }
}

fn dependencies(module: &[u8]) -> Result<Vec<String>> {
    let file = object::File::parse(module)?;
    let modinfo = file.section_by_name(".modinfo").context("no .modinfo section")?;
    Ok(depends_field(modinfo.data()?))
}

/// The names in `depends=a,b` among the NUL-terminated strings of a `.modinfo` section.
fn depends_field(modinfo: &[u8]) -> Vec<String> {
    let field = modinfo.split(|byte| *byte == 0).find_map(|field| field.strip_prefix(b"depends="));
    let names = String::from_utf8_lossy(field.unwrap_or_default()).into_owned();
    names.split(',').filter(|name| !name.is_empty()).map(str::to_owned).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn depends_field_is_read_from_modinfo() {
        assert_eq!(
            depends_field(b"license=GPL\0depends=kvm,irqbypass\0name=kvm_hv\0"),
            ["kvm", "irqbypass"]
        );
        assert!(depends_field(b"license=GPL\0depends=\0").is_empty());
        assert!(depends_field(b"license=GPL\0").is_empty());
    }
}
