//! What is called in a program’s place: a script that runs it with its own loader and libraries.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use super::table::Program;

/// In which folders loaders stand, and how their files’ names begin.
const LOADERS: [&str; 4] = ["usr/lib64", "lib64", "usr/lib", "lib"];
const LOADER: [&str; 2] = ["ld-linux", "ld64.so"];

/// Writes the scripts of `programs` into `bin` in a tool’s folder; they hold no absolute path.
pub fn write_all(folder: &Path, triple: &str, programs: &[Program]) -> Result<()> {
    for program in programs {
        let script = script(folder, triple, program)?;
        write(&folder.join("bin").join(program.name), &script)?;
    }
    Ok(())
}

/// Writes a script that can be run.
pub fn write(place: &Path, script: &str) -> Result<()> {
    fs::create_dir_all(place.parent().context("a script stands in a folder")?)?;
    fs::write(place, script).with_context(|| place.display().to_string())?;
    Ok(fs::set_permissions(place, PermissionsExt::from_mode(0o755))?)
}

fn script(folder: &Path, triple: &str, program: &Program) -> Result<String> {
    let fill = |text: &str| text.replace("{root}", "\"$root\"").replace("{triple}", triple);
    let (file, arguments, before) =
        (fill(program.file), fill(program.arguments), fill(program.before));
    let file_here = program.file.replace("{root}", &folder.join("root").display().to_string());
    if !Path::new(&file_here).exists() {
        bail!("the packages hold no {}", program.file);
    }
    let run = if program.is_static {
        file
    } else {
        let libraries = format!(
            "\"$libc/lib/{triple}:$libc/usr/lib/{triple}:$root/lib/{triple}:$root/usr/lib/{triple}:\
             $root/usr/lib/{triple}/pulseaudio\""
        );
        let loader = loader(&folder.join("libc"))?;
        let loader = loader.strip_prefix(folder).unwrap_or(&loader).display().to_string();
        let called = if program.calls_itself { "\"$0\"" } else { program.name };
        format!("\"$here/../{loader}\" --library-path {libraries} --argv0 {called} {file}")
    };
    Ok(format!(
        "#!/bin/sh\nhere=${{0%/*}}\nroot=$here/../root\nlibc=$here/../libc\n{before}exec {run} {arguments} \"$@\"\n"
    ))
}

/// The loader of a C library that is unpacked in `folder`.
pub fn loader(folder: &Path) -> Result<PathBuf> {
    for place in LOADERS.map(|place| folder.join(place)) {
        let Ok(entries) = fs::read_dir(&place) else { continue };
        for entry in entries {
            let name = entry?.file_name();
            let name = name.to_string_lossy();
            if LOADER.iter().any(|begin| name.starts_with(begin)) {
                return Ok(place.join(&*name));
            }
        }
    }
    bail!("no loader in {}", folder.display())
}
