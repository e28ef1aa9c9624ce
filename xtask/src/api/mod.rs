//! `cargo xtask api`: what the libraries make public, as text in `public-api/`.
//!
//! A change of what embedders can name or call is then a change of a file, which whoever reads the
//! diff sees, and which `cargo xtask test` asks for. The text is what rustdoc 1.85 declares: all
//! features, the same for every newer compiler that runs this program.

mod page;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use clap::Args;

use crate::cargo::cargo;
use crate::ppc64le::{POWER, Target};
use crate::xtask::{LIBRARIES, Xtask};
use crate::{command, report};

/// Where the listings stand.
const FOLDER: &str = "public-api";

/// What to do with the listings.
#[derive(Args, Clone, Copy, Debug)]
pub struct Options {
    /// Compare them, and write nothing
    #[arg(long)]
    check: bool,
}

/// Writes the listings anew, or compares them.
pub fn run(xtask: &Xtask, options: Options) -> Result<()> {
    if options.check { check(xtask) } else { write(xtask) }
}

/// Compares the listings with what the libraries make public.
pub fn check(xtask: &Xtask) -> Result<()> {
    let mut changed = String::new();
    for (library, new) in listings(xtask)? {
        let old = fs::read_to_string(place(xtask, library)).unwrap_or_default();
        changed += &differences(&old, &new);
    }
    if !changed.is_empty() {
        bail!("the public API changed; `cargo xtask api` writes {FOLDER} anew:\n{changed}");
    }
    Ok(())
}

fn write(xtask: &Xtask) -> Result<()> {
    fs::create_dir_all(xtask.root().join(FOLDER))?;
    for (library, text) in listings(xtask)? {
        let functions = text.lines().filter(|line| line.contains("fn ")).count();
        report::note(&format!("{library}: {} lines, {functions} functions", text.lines().count()));
        fs::write(place(xtask, library), text)?;
    }
    Ok(())
}

fn place(xtask: &Xtask, library: &str) -> PathBuf {
    xtask.root().join(FOLDER).join(format!("{library}.txt"))
}

/// The listing of each library.
fn listings(xtask: &Xtask) -> Result<Vec<(&'static str, String)>> {
    // A folder of its own: another compiler's artifacts stand in the usual one.
    let target = xtask.target("api");
    let Target { rust, libraries, name, .. } = POWER;
    let cross = xtask.toolbox.cross(rust, libraries, name)?;
    let packages = LIBRARIES.iter().flat_map(|library| ["--package", library]);
    let doc = ["doc", "--no-deps", "--all-features", "--lib"].into_iter().chain(packages);
    let doc = cargo(xtask, doc)
        .env("CARGO_TARGET_DIR", &target)
        .env("RUSTC", &cross.rustc)
        .env("RUSTDOC", cross.rustdoc(&target)?);
    // Pages of what is public no more would stay.
    let pages = target.join("doc");
    if pages.exists() {
        fs::remove_dir_all(&pages)?;
    }
    command::stream("rustdoc 1.85", &doc)?;
    let listing = |library: &&'static str| {
        let text = listing(&pages, &library.replace('-', "_"));
        Ok((*library, text.with_context(|| (*library).to_owned())?))
    };
    LIBRARIES.iter().map(listing).collect()
}

/// What the pages of a crate declare, by path.
fn listing(pages: &Path, name: &str) -> Result<String> {
    let mut items = BTreeMap::new();
    for file in files_under(&pages.join(name))? {
        let Some(path) = page::path(file.strip_prefix(pages)?) else { continue };
        let html = fs::read_to_string(&file).with_context(|| file.display().to_string())?;
        let lines = page::declarations(&html);
        if !lines.is_empty() {
            items.insert(path, lines);
        }
    }
    if items.is_empty() {
        bail!("rustdoc wrote no page");
    }
    let mut text = String::new();
    for (path, lines) in items {
        text += &format!("# {path}\n{}\n\n", lines.join("\n"));
    }
    Ok(text)
}

/// All files in a folder and those in it.
fn files_under(folder: &Path) -> Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for entry in fs::read_dir(folder).with_context(|| folder.display().to_string())? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            files.extend(files_under(&entry.path())?);
        } else {
            files.push(entry.path());
        }
    }
    Ok(files)
}

/// The lines that only one of two listings has, each under its item.
fn differences(old: &str, new: &str) -> String {
    let [old_items, new_items] = [old, new].map(items);
    let mut all: Vec<_> = old_items.keys().chain(new_items.keys()).collect();
    all.sort();
    all.dedup();
    let mut text = String::new();
    for item in all {
        let [before, after] = [&old_items, &new_items].map(|items| items.get(item));
        let only = |these: Option<&Vec<&str>>, those: Option<&Vec<&str>>, sign: char| {
            let those: &[&str] = those.map_or(&[], Vec::as_slice);
            let lines = these.into_iter().flatten().filter(|line| !those.contains(line));
            lines.map(|line| format!("  {sign} {line}\n")).collect::<String>()
        };
        let changed = only(before, after, '-') + &only(after, before, '+');
        if !changed.is_empty() || before != after {
            text += &format!("{item}\n{changed}");
        }
    }
    text
}

/// The lines of each item of a listing.
fn items(listing: &str) -> BTreeMap<&str, Vec<&str>> {
    let mut items = BTreeMap::<_, Vec<_>>::new();
    let mut item = "";
    for line in listing.lines().filter(|line| !line.is_empty()) {
        match line.strip_prefix("# ") {
            Some(path) => item = path,
            None => items.entry(item).or_default().push(line),
        }
    }
    items
}

#[cfg(test)]
mod tests {
    use super::differences;

    #[test]
    fn what_differs_is_told_by_item() {
        let old = "# a::A\npub struct A;\nimpl A\n    pub fn f()\n\n# a::B\npub struct B;\n\n";
        for (new, told) in [
            (old.to_owned(), ""),
            (old.replace("f()", "f(u8)"), "a::A\n  -     pub fn f()\n  +     pub fn f(u8)\n"),
            (old.replace("# a::B\npub struct B;\n\n", ""), "a::B\n  - pub struct B;\n"),
            (format!("{old}# a::C\npub struct C;\n\n"), "a::C\n  + pub struct C;\n"),
        ] {
            assert_eq!(differences(old, &new), told);
        }
    }
}
