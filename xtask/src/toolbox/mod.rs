//! The toolbox: emulators, kernels, compilers. Each comes from Debian packages that are unpacked
//! into a folder and run there, with their own loader and libraries. Nothing is installed.
//!
//! A tool’s folder is named after it and its recipe. It holds `root` (what the packages hold),
//! `libc` (the same for the C library’s package, so that a program that this machine’s linker made
//! can go without it) and `bin`, the scripts that are called.

pub mod cross;
mod fetching;
mod system;
pub mod table;
mod wheel;
mod wrapper;

use std::cell::RefCell;
use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::PathBuf;
use std::rc::Rc;

use anyhow::Result;
use clap::Args;

use crate::artifact;
use crate::debian::{Index, Release, native_architecture};
use table::Tool;

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
    /// Fetch no programs: take those that stand in PATH. A folder with the unpacked packages of a
    /// tool that is not a program is named by an environment variable, as XTASK_SYSTEM_PPC64EL
    #[arg(long, global = true, env = "XTASK_SYSTEM_TOOLS")]
    pub system_tools: bool,
    /// The Debian release that QEMU is taken from, if not the one that serves best
    #[arg(long, global = true, value_name = "NAME", value_enum)]
    pub release: Option<Release>,
}

/// Where tools are kept, and the indexes that were read so far.
pub struct Toolbox {
    shelf: PathBuf,
    options: Options,
    indexes: RefCell<HashMap<(Release, &'static str), Rc<Index>>>,
}

impl Toolbox {
    /// Touches nothing yet.
    pub fn new(shelf: PathBuf, options: &Options) -> Self {
        Self { shelf, options: options.clone(), indexes: RefCell::default() }
    }

    /// The folder in which the tool’s packages are unpacked; fetches what is missing.
    pub fn root(&self, tool: &Tool) -> Result<PathBuf> {
        match system::folder(tool) {
            Some(folder) => Ok(folder),
            None => Ok(self.folder(tool)?.join("root")),
        }
    }

    /// A program of the tool, by its name; fetches what is missing.
    pub fn program(&self, tool: &Tool, name: &str) -> Result<PathBuf> {
        if self.options.system_tools {
            return system::program(name);
        }
        Ok(self.folder(tool)?.join("bin").join(name))
    }

    /// The options with which another run of this program finds the same tools.
    pub fn arguments(&self) -> Vec<String> {
        let mut all = vec!["--cache".to_owned(), self.shelf.display().to_string()];
        if let Some(mirror) = &self.options.mirror {
            all.extend(["--mirror".to_owned(), mirror.clone()]);
        }
        if let Some(release) = self.options.release {
            all.extend(["--release".to_owned(), release.suite().to_owned()]);
        }
        if self.options.system_tools {
            all.push("--system-tools".to_owned());
        }
        all
    }

    /// Fetches what is missing of `tools`, all at once; one may be named more than once.
    pub fn set_up(&self, tools: &[&Tool]) -> Result<()> {
        if self.options.system_tools {
            system::check(tools)?;
        }
        let mut missing: Vec<&Tool> = Vec::new();
        for tool in tools.iter().copied().filter(|tool| self.is_missing(tool)) {
            if missing.iter().all(|other| other.name != tool.name) {
                missing.push(tool);
            }
        }
        if missing.is_empty() { Ok(()) } else { self.fetch(&missing) }
    }

    /// The tool’s folder; fetches what is missing.
    fn folder(&self, tool: &Tool) -> Result<PathBuf> {
        self.set_up(&[tool])?;
        Ok(self.place(tool))
    }

    fn place(&self, tool: &Tool) -> PathBuf {
        self.shelf.join(self.name(tool))
    }

    fn is_missing(&self, tool: &Tool) -> bool {
        // This machine’s own cross compiler has its libraries.
        let from_here =
            self.options.system_tools && (!tool.programs.is_empty() || tool.of_compilers);
        !from_here
            && system::folder(tool).is_none()
            && !artifact::is_made_by(&self.place(tool), &self.recipe(tool))
    }

    /// The name of the tool’s folder: another recipe’s is another folder, as clones that differ may
    /// share the shelf.
    fn name(&self, tool: &Tool) -> String {
        let mut hasher = DefaultHasher::new();
        self.recipe(tool).hash(&mut hasher);
        format!("{}-{:08x}", tool.name, hasher.finish() as u32)
    }

    /// What the tool’s folder is made from.
    fn recipe(&self, tool: &Tool) -> String {
        let Tool { architecture, packages, alone, only, programs, wheels, .. } = tool;
        let (release, architecture) =
            (self.release(tool).suite(), architecture.unwrap_or("native"));
        let mut recipe = format!(
            "Debian packages of {release}, {architecture}: {}\n{packages:?} {alone:?} {only:?}\n{programs:?}\n",
            [*packages, *alone].concat().join(", ")
        );
        recipe.extend(wheels.iter().map(|wheel| format!("{wheel:?}\n")));
        recipe
    }

    fn release(&self, tool: &Tool) -> Release {
        self.options.release.filter(|_| tool.emulator).unwrap_or(tool.release)
    }
}

/// Debian’s name for the architecture that a tool is for.
fn architecture(tool: &Tool) -> Result<&'static str> {
    tool.architecture.map_or_else(native_architecture, Ok)
}

/// Debian’s name of the folder with the architecture’s libraries.
fn triple(architecture: &str) -> &'static str {
    match architecture {
        "ppc64el" => "powerpc64le-linux-gnu",
        "arm64" => "aarch64-linux-gnu",
        "riscv64" => "riscv64-linux-gnu",
        _ => "x86_64-linux-gnu",
    }
}
