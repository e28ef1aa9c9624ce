//! The toolbox: emulators, kernels, compilers. Each comes from Debian packages that are unpacked
//! into a folder and run there, with their own loader and libraries. Nothing is installed.
//!
//! A tool’s folder is named after it and its recipe. It holds `root` (what the packages hold), `libc`
//! (the same for the C library’s package, so that a program of this machine’s can go without it) and
//! `bin`, the scripts that are called.

pub mod cross;
pub mod table;
mod wrapper;

use std::cell::RefCell;
use std::collections::HashMap;
use std::fs;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::{Path, PathBuf};
use std::rc::Rc;

use anyhow::{Context, Result};
use clap::Args;
use duct::cmd;

use crate::debian::{Download, Index, Release, fetch, native_architecture};
use crate::{artifact, command, report};
use table::Tool;

/// What is not unpacked.
const UNREAD: [&str; 5] = ["doc", "man", "locale", "info", "lintian"];
/// The C library’s package.
const LIBC: &str = "libc6_";

/// What may be said of tools on the command line.
#[derive(Args, Clone, Debug, Default)]
#[command(next_help_heading = "Tools")]
pub struct Options {
    /// The folder in which fetched tools are kept, if not target/xtask: clones may share one
    #[arg(long, global = true, value_name = "FOLDER", env = "XTASK_CACHE")]
    pub cache: Option<PathBuf>,
    /// A Debian mirror, if not the one that this machine’s apt is configured for
    #[arg(long, global = true, value_name = "URL", env = "XTASK_MIRROR")]
    pub mirror: Option<String>,
    /// The Debian release that QEMU is taken from, if not the one that serves best
    #[arg(long, global = true, value_name = "NAME", value_enum)]
    pub release: Option<Release>,
}

/// Where tools are kept, and the indexes that were read so far.
pub struct Toolbox {
    shelf: PathBuf,
    mirror: Option<String>,
    release: Option<Release>,
    indexes: RefCell<HashMap<(Release, &'static str), Rc<Index>>>,
}

impl Toolbox {
    /// Touches nothing yet.
    pub fn new(shelf: PathBuf, options: &Options) -> Self {
        let Options { mirror, release, .. } = options.clone();
        Self { shelf, mirror, release, indexes: RefCell::default() }
    }

    /// The folder in which the tool’s packages are unpacked; fetches what is missing.
    pub fn root(&self, tool: &Tool) -> Result<PathBuf> {
        Ok(self.folder(tool)?.join("root"))
    }

    /// A program of the tool, by its name; fetches what is missing.
    pub fn program(&self, tool: &Tool, name: &str) -> Result<PathBuf> {
        Ok(self.folder(tool)?.join("bin").join(name))
    }

    /// The tool’s folder; fetches what is missing.
    pub fn folder(&self, tool: &Tool) -> Result<PathBuf> {
        let release = self.release_of(tool);
        let architecture = match tool.architecture {
            Some(architecture) => architecture,
            None => native_architecture()?,
        };
        artifact::keep(&self.shelf, &self.name(tool), &recipe(tool, release), |folder| {
            let index = self.index(release, architecture)?;
            self.make(tool, architecture, &index, folder)
        })
    }

    /// The name of the tool’s folder: another recipe’s is another folder, as clones that differ may
    /// share the shelf.
    fn name(&self, tool: &Tool) -> String {
        let mut hasher = DefaultHasher::new();
        recipe(tool, self.release_of(tool)).hash(&mut hasher);
        format!("{}-{:08x}", tool.name, hasher.finish() as u32)
    }

    fn release_of(&self, tool: &Tool) -> Release {
        self.release.filter(|_| tool.emulator).unwrap_or(tool.release)
    }

    fn make(&self, tool: &Tool, architecture: &str, index: &Index, folder: &Path) -> Result<()> {
        let archives = self.shelf.join("archives").join(self.name(tool));
        let download = Download { index, packages: tool.packages, alone: tool.alone };
        let files = fetch(tool.name, &download, &archives)?;
        let _busy = report::busy(&format!("{}: unpacking", tool.name));
        for file in &files {
            let name = file.file_name().unwrap_or_default().to_string_lossy();
            let part = if name.starts_with(LIBC) { "libc" } else { "root" };
            unpack(file, tool.only, &folder.join(part))?;
        }
        wrapper::write_all(folder, triple(architecture), tool.programs)?;
        fs::remove_dir_all(&archives).with_context(|| archives.display().to_string())
    }

    fn index(&self, release: Release, architecture: &'static str) -> Result<Rc<Index>> {
        if let Some(index) = self.indexes.borrow().get(&(release, architecture)) {
            return Ok(Rc::clone(index));
        }
        let index = Rc::new(Index::read(release, architecture, self.mirror.as_deref())?);
        self.indexes.borrow_mut().insert((release, architecture), Rc::clone(&index));
        Ok(index)
    }
}

/// What the tool’s folder is made from.
fn recipe(tool: &Tool, release: Release) -> String {
    let packages = [tool.packages, tool.alone].concat().join(", ");
    format!("Debian packages of {}: {packages}\n{tool:?}\n", release.suite())
}

/// Unpacks a package: all of it, or only these paths.
fn unpack(package: &Path, only: &[&str], folder: &Path) -> Result<()> {
    fs::create_dir_all(folder)?;
    let mut tar = vec!["-x".to_owned(), "-C".to_owned(), folder.display().to_string()];
    tar.extend(["--wildcards", "--no-same-owner"].map(str::to_owned));
    tar.extend(UNREAD.map(|name| format!("--exclude=./usr/share/{name}")));
    tar.extend(only.iter().map(|path| (*path).to_owned()));
    let unpack = cmd!("dpkg-deb", "--fsys-tarfile", package).pipe(cmd("tar", tar));
    command::quiet(&format!("unpacking {}", package.display()), &unpack).map(drop)
}

/// Debian’s name of the folder with the architecture’s libraries.
pub fn triple(architecture: &str) -> &'static str {
    match architecture {
        "ppc64el" => "powerpc64le-linux-gnu",
        "arm64" => "aarch64-linux-gnu",
        "riscv64" => "riscv64-linux-gnu",
        _ => "x86_64-linux-gnu",
    }
}
