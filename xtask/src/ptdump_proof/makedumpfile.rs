//! What makedumpfile makes of a guest's memory, as it does of `/proc/vmcore`: `ptdump` must say the
//! same of each form.
//!
//! makedumpfile takes program headers to stand right behind the file's header, wants to be told
//! what Linux says of itself in a note, and where the direct map is by virtual addresses. QEMU's
//! cores have none of it: [`vmcore`] makes of one what Linux would have written.

use std::fs::{self, File};
use std::io::{Read as _, Seek as _, SeekFrom, Write as _, copy};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use duct::cmd;

use super::beside::vmcoreinfo;
use super::compare::Outcome;
use super::forms::{in_part, same};
use super::ptdump::{Ptdump, number};
use super::snappy;
use crate::toolbox::table::MAKEDUMPFILE;
use crate::xtask::Xtask;
use crate::{command, report};

/// A form: its name, options, and how many files it is. (Snappy: [`super::snappy`].)
const FORMS: &[(&str, &[&str], usize)] = &[
    ("makedumpfile-zlib", &["-c", "-d", "0"], 1),
    ("makedumpfile-lzo", &["-l", "-d", "0"], 1),
    ("makedumpfile-zstd", &["-z", "-d", "0"], 1),
    ("makedumpfile-elf", &["-E", "-d", "0"], 1),
    ("makedumpfile-split", &["--split", "-l", "-d", "0"], 3),
    ("makedumpfile-flattened", &["-F", "-l", "-d", "0"], 1),
    ("makedumpfile-filtered", &["-l", "-d", "31"], 1),
    ("makedumpfile-filtered-flattened-elf", &["-F", "-E", "-d", "31"], 1),
];

/// Compares all forms; returns how many there are.
pub fn compare(
    xtask: &Xtask,
    ptdump: &Ptdump,
    vmcore: &Path,
    outcomes: &[(Vec<String>, Outcome)],
) -> Result<usize> {
    let program = xtask.toolbox.program(&MAKEDUMPFILE, "makedumpfile")?;
    let folder = tempfile::tempdir()?;
    for (name, options, parts) in FORMS {
        let files: Vec<PathBuf> =
            (0..*parts).map(|n| folder.path().join(format!("{name}.{n}"))).collect();
        let mut words: Vec<_> = options.iter().map(|&word| word.to_owned()).collect();
        words.push(vmcore.display().to_string());
        let (first, others) = files.split_first().context("a form is a file")?;
        if options.contains(&"-F") {
            let run = cmd(&program, words).stdout_path(first).stderr_capture();
            run.run().with_context(|| (*name).to_owned())?;
        } else {
            words.extend(files.iter().map(|file| file.display().to_string()));
            command::quiet(name, &cmd(&program, words))?;
        }
        for (view, outcome) in outcomes {
            let mut view = view.clone();
            for part in others {
                view.extend(["--part".to_owned(), part.display().to_string()]);
            }
            if options.contains(&"31") {
                let known =
                    in_part(ptdump, first, &view, outcome).with_context(|| (*name).to_owned())?;
                if known * 2 < outcome.answers.len() {
                    bail!("{name}: {known} addresses are known, though all tables are kept");
                }
            } else {
                same(ptdump, first, &view, outcome).with_context(|| (*name).to_owned())?;
            }
        }
        report::note(&format!("{name}: the same"));
        files.iter().try_for_each(fs::remove_file)?;
    }
    Ok(FORMS.len())
}

/// Writes a kdump-compressed file of all of `vmcore` with pages that are packed with snappy.
pub fn with_snappy(xtask: &Xtask, vmcore: &Path, path: &Path) -> Result<()> {
    let program = xtask.toolbox.program(&MAKEDUMPFILE, "makedumpfile")?;
    let plain = path.with_extension("plain");
    command::quiet("makedumpfile", &cmd!(program, "-d", "0", vmcore, &plain))?;
    let (packed, pages) = snappy::pack(&plain, path)?;
    ensure!(packed * 2 > pages, "only {packed} of {pages} pages are packed");
    report::note(&format!("snappy: {packed} of {pages} pages are packed"));
    Ok(fs::remove_file(&plain)?)
}

/// Bytes of ELF's header, of a program header, and of its fields.
const HEADER: usize = 64;
const ENTRY: usize = 56;
const PT_LOAD: u32 = 1;
const PT_NOTE: u32 = 4;

fn word(bytes: &[u8], at: usize) -> Result<u64> {
    let bytes = bytes.get(at..at + 8).and_then(|it| it.first_chunk());
    Ok(u64::from_le_bytes(*bytes.context("a word of the core's headers")?))
}

/// Writes `core`, an ELF core of QEMU's (x86-64), as Linux writes `/proc/vmcore`.
pub fn vmcore(ptdump: &Ptdump, core: &Path, path: &Path) -> Result<()> {
    let direct = direct_map(ptdump, core)?;
    let info = vmcoreinfo(core)?;
    let mut source = File::open(core)?;
    let mut head = vec![0; 1 << 16];
    source.read_exact(&mut head)?;
    let start = usize::try_from(word(&head, 32)?)?;
    let count = usize::from(u16::from_le_bytes([head[56], head[57]]));
    let mut header = head[..HEADER].to_vec();
    header[32..40].copy_from_slice(&(HEADER as u64).to_le_bytes());
    header[40..48].fill(0);
    let sizes = [HEADER as u16, ENTRY as u16, count as u16, 0, 0, 0];
    header[52..].copy_from_slice(&sizes.map(u16::to_le_bytes).concat());
    let mut target = File::create(path)?;
    let mut at = 4096_u64;
    for entry in head[start..].chunks(ENTRY).take(count) {
        let mut entry = entry.to_vec();
        let kind = u32::from_le_bytes([entry[0], entry[1], entry[2], entry[3]]);
        let (offset, address, mut bytes) = (word(&entry, 8)?, word(&entry, 24)?, word(&entry, 32)?);
        source.seek(SeekFrom::Start(offset))?;
        target.seek(SeekFrom::Start(at))?;
        copy(&mut (&source).take(bytes), &mut target)?;
        match kind {
            PT_LOAD => entry[16..24].copy_from_slice(&direct.wrapping_add(address).to_le_bytes()),
            PT_NOTE => {
                let note = note(&info);
                target.write_all(&note)?;
                bytes += note.len() as u64;
                entry[32..40].copy_from_slice(&bytes.to_le_bytes());
                entry[40..48].copy_from_slice(&bytes.to_le_bytes());
            }
            _ => bail!("a program header of kind {kind}"),
        }
        entry[8..16].copy_from_slice(&at.to_le_bytes());
        header.extend(entry);
        at = (at + bytes).next_multiple_of(4096);
    }
    target.set_len(at)?;
    target.seek(SeekFrom::Start(0))?;
    Ok(target.write_all(&header)?)
}

/// The note in which Linux says this of itself.
fn note(info: &[u8]) -> Vec<u8> {
    let name = b"VMCOREINFO\0";
    let sizes = [name.len() as u32, info.len() as u32, 0];
    let mut note = sizes.map(u32::to_le_bytes).concat();
    for part in [&name[..], info] {
        note.extend(part);
        note.resize(note.len().next_multiple_of(4), 0);
    }
    note
}

/// Where physical address 0 stands in the kernel's direct map.
fn direct_map(ptdump: &Ptdump, core: &Path) -> Result<u64> {
    let view = ["--root", "kernel"].map(str::to_owned);
    let ranges = ptdump.ranges(core, &view)?;
    let first = ranges.iter().find_map(|range| {
        let va = number(&range["va"]).filter(|va| *va >> 47 == 0x1ffff)?;
        (number(&range["pa"]) == Some(0)).then_some(va)
    });
    first.context("the kernel maps no physical address 0")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_note_is_padded() {
        let note = note(b"KEY=VALUE");
        assert_eq!(note[..12], [11, 0, 0, 0, 9, 0, 0, 0, 0, 0, 0, 0]);
        assert_eq!(note[12..24], *b"VMCOREINFO\0\0");
        assert_eq!(note[24..], *b"KEY=VALUE\0\0\0");
    }
}
