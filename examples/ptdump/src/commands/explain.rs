//! `explain`: each entry of a walk by its manual's name, its flags spelled out, and what decides.

use std::io::Write;

use anyhow::Result;
use serde::Serialize;
use table_dump::{Flags, Range, flags_of};

use super::stdout;
use crate::cli::Explained;
use crate::json;
use crate::session::{Session, Verdict};

/// An entry, explained.
#[derive(Serialize)]
struct Explanation {
    #[serde(flatten)]
    step: table_dump::Step,
    flags: Flags,
}

/// An address, explained.
#[derive(Serialize)]
struct Answer {
    #[serde(flatten)]
    range: Range,
    entries: Vec<Explanation>,
}

pub fn run(session: &Session<'_>, explained: &Explained) -> Result<u8> {
    let mut range = session.space.translate(explained.address, explained.access.access());
    let mut verdict = Verdict::default();
    verdict.take(&range);
    if let Some(why) = session.behind(&range) {
        verdict.not_so = true;
        session.text.warning(&why);
    }
    let linux = session.located.linux.is_some();
    let entries: Vec<_> = std::mem::take(&mut range.walk)
        .into_iter()
        .map(|step| Explanation { flags: flags_of(session.located.arch, &step, linux), step })
        .collect();
    if session.options.output.json {
        json::whole(stdout(), session, "explanation", &Answer { range, entries })?;
        return Ok(session.end(verdict));
    }
    let mut out = stdout();
    for Explanation { step, flags } in &entries {
        let decides = if range.entry == Some(step.address) { "  <- this one decides" } else { "" };
        writeln!(out, "{:<12} {:#018x}  {:#018x}{decides}", step.name, step.address, step.word)?;
        for line in &flags.0 {
            writeln!(out, "             {line}")?;
        }
    }
    writeln!(out, "{}", session.text.translation(&range))?;
    out.flush()?;
    if let Some(hint) = session.hint(&range) {
        session.text.warning(hint);
    }
    Ok(session.end(verdict))
}
