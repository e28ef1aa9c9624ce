//! Every other form in which QEMU writes a stopped guest's memory: `ptdump` must say the same of
//! each.

use std::fs;
use std::io::Read as _;
use std::path::Path;

use anyhow::{Context, Result, bail};

use super::compare::Outcome;
use super::guest::Guest;
use super::ptdump::Ptdump;
use crate::report;

/// A form: its name, QEMU's `format`, and whether pieces have virtual addresses (`paging`).
const FORMS: &[(&str, Option<&str>, bool)] = &[
    ("elf-paging", None, true),
    ("kdump-zlib", Some("kdump-zlib"), false),
    ("kdump-lzo", Some("kdump-lzo"), false),
    ("kdump-snappy", Some("kdump-snappy"), false),
    ("kdump-raw-zlib", Some("kdump-raw-zlib"), false),
];

/// Has QEMU write `core`'s guest in each form, and asks `ptdump` the same of each; with `raw`
/// options also of its bare memory, which begins at an address. Returns how many forms agreed.
pub fn compare_forms(
    guest: &mut Guest,
    ptdump: &Ptdump,
    core: &Path,
    outcomes: &[(Vec<String>, Outcome)],
    raw: Option<(u64, &[String])>,
) -> Result<usize> {
    // The machine itself, by its monitor.
    let live = guest.live();
    for (view, outcome) in outcomes {
        same(ptdump, Path::new(&live), view, outcome).context("live")?;
    }
    let mut agreed = 1;
    for (name, format, paging) in FORMS {
        let file = guest.folder().join(name);
        if let Err(error) = guest.dump_as(&file, *format, *paging) {
            // A QEMU that is built without a codec, or older than a form.
            report::note(&format!("{name}: {error:#}"));
            continue;
        }
        for (view, outcome) in outcomes {
            same(ptdump, &file, view, outcome).with_context(|| (*name).to_owned())?;
        }
        fs::remove_file(&file)?;
        agreed += 1;
    }
    cut_off(guest, ptdump, core, outcomes)?;
    if let (Some((start, raw)), Some((_, outcome))) = (raw, outcomes.first()) {
        let file = guest.folder().join("raw");
        guest.save_memory(start, &file)?;
        same(ptdump, &file, raw, outcome).context("raw")?;
        fs::remove_file(&file)?;
        agreed += 1;
    }
    Ok(agreed)
}

/// A core that is cut off in the middle: each answer is that of the whole one, or unknown.
fn cut_off(
    guest: &Guest,
    ptdump: &Ptdump,
    core: &Path,
    outcomes: &[(Vec<String>, Outcome)],
) -> Result<()> {
    let file = guest.folder().join("cut");
    let half = fs::metadata(core)?.len() / 2;
    let mut whole = fs::File::open(core)?.take(half);
    std::io::copy(&mut whole, &mut fs::File::create(&file)?)?;
    for (view, outcome) in outcomes {
        let known = in_part(ptdump, &file, view, outcome)?;
        report::note(&format!("cut off: {known} of {} addresses are known", outcome.answers.len()));
    }
    fs::remove_file(&file)?;
    Ok(())
}

/// Whether `ptdump` says of `file`, which lacks some memory, what it said of the core, or that it
/// does not know; returns how many addresses are known.
pub fn in_part(ptdump: &Ptdump, file: &Path, view: &[String], outcome: &Outcome) -> Result<usize> {
    let (addresses, wanted): (Vec<_>, Vec<_>) = outcome.answers.iter().copied().unzip();
    // Its tables, or what Linux says, may be missing.
    let Ok(answers) = ptdump.translate_in_part(file, view, &addresses) else { return Ok(0) };
    let differ = |(ours, want): &(&Option<Option<u64>>, &Option<u64>)| {
        ours.is_some_and(|ours| ours != **want)
    };
    if let Some((ours, want)) = answers.iter().zip(&wanted).find(differ) {
        bail!("an image that lacks some memory says {ours:x?}, the whole one {want:x?}");
    }
    Ok(answers.iter().flatten().count())
}

/// Whether `ptdump` says of `file` what it said of the core.
pub fn same(ptdump: &Ptdump, file: &Path, view: &[String], outcome: &Outcome) -> Result<()> {
    let (addresses, wanted): (Vec<_>, Vec<_>) = outcome.answers.iter().copied().unzip();
    let answers = ptdump.translate(file, view, &addresses)?;
    let different = answers.iter().zip(&wanted).filter(|(one, two)| one != two).count();
    if different > 0 {
        bail!(
            "{different} of {} addresses differ from the core's ({})",
            answers.len(),
            view.join(" ")
        );
    }
    Ok(())
}
