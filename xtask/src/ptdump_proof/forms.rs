//! Every other form in which QEMU writes a stopped guest's memory: `ptdump` must say the same of
//! each.

use std::fs;
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
    outcomes: &[(Vec<String>, Outcome)],
    raw: Option<(u64, &[String])>,
) -> Result<usize> {
    let mut agreed = 0;
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
    if let (Some((start, raw)), Some((_, outcome))) = (raw, outcomes.first()) {
        let file = guest.folder().join("raw");
        guest.save_memory(start, &file)?;
        same(ptdump, &file, raw, outcome).context("raw")?;
        fs::remove_file(&file)?;
        agreed += 1;
    }
    Ok(agreed)
}

/// Whether `ptdump` says of `file` what it said of the core.
fn same(ptdump: &Ptdump, file: &Path, view: &[String], outcome: &Outcome) -> Result<()> {
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
