//! `list`: what is mapped, as lines, as JSON, as a picture.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::ops::ControlFlow;
use std::path::Path;

use anyhow::{Context, Result};
use table_dump::{Fold, Range, State};

use super::{Answers, keep, stdout};
use crate::Usage;
use crate::cli::Listing;
use crate::html;
use crate::picture::Picture;
use crate::progress::Progress;
use crate::regions::Regions;
use crate::session::{Session, Verdict};
use crate::svg;

/// Which ranges are shown, and what there was of them.
struct Shown<'l> {
    listing: &'l Listing,
    /// Where the kernel's memory begins.
    kernel: u64,
    /// How many were shown.
    count: u64,
    /// Whether anything is mapped, shown or not.
    mapped: bool,
    verdict: Verdict,
}

impl Shown<'_> {
    /// The part of `range` that is to be shown.
    fn part(&mut self, range: Range) -> Option<Range> {
        self.mapped |= range.state == State::Mapped;
        let range = match &self.listing.range {
            Some(wanted) => clip(range, *wanted.start(), *wanted.end())?,
            None => range,
        };
        // What is unknown might have been of the kind that is wanted.
        self.verdict.unknown |= range.state == State::Unknown;
        if !self.listing.only.iter().all(|filter| filter.admits(&range, self.kernel)) {
            return None;
        }
        self.count += 1;
        Some(range)
    }
}

/// The part of `range` from `first` to `last`.
pub fn clip(range: Range, first: u64, last: u64) -> Option<Range> {
    let (va, bytes) = (range.va?, range.bytes.unwrap_or(1));
    let end = va.checked_add(bytes - 1)?;
    let (from, to) = (va.max(first), end.min(last));
    let skip = from - va;
    (from <= to).then(|| Range {
        va: Some(from),
        pa: range.pa.map(|pa| pa.wrapping_add(skip)),
        bytes: Some(to - from + 1),
        ..range
    })
}

pub fn run(session: &Session<'_>, listing: &Listing) -> Result<u8> {
    let progress = Progress::new("reading tables", session.options.output.quiet);
    let progress = |done, total| progress.at(done, total);
    let (verdict, kernel) = (Verdict::default(), session.located.kernel_start());
    let mut shown = Shown { listing, kernel, count: 0, mapped: false, verdict };
    if listing.svg.is_some() && listing.svg == listing.html {
        let why = "--svg and --html say the same file: each picture needs one of its own";
        return Err(Usage(why.to_owned()).into());
    }
    if listing.svg.is_some() || listing.html.is_some() {
        let mut picture = Picture::default();
        let mut take = |range| {
            if let Some(range) = shown.part(range) {
                picture.take(&range);
            }
            ControlFlow::Continue(())
        };
        session.space.list(&mut take, &progress);
        picture.finish();
        let title = title(session);
        if let Some(path) = &listing.svg {
            write(path, &[session], |out| svg::draw(&picture, &title, out))?;
        }
        if let Some(path) = &listing.html {
            write(path, &[session], |out| html::write(&picture, &title, out))?;
        }
        return Ok(session.end(said(session, &shown)));
    }
    let mut answers = Answers::begin(session, "ranges")?;
    let regions = Regions::of(session.located);
    let mut result = Ok(());
    let mut last = None;
    let mut line = |range: Range| {
        let heading = session.text.heading(regions, last.as_ref(), &range);
        let text = || {
            let line = session.text.range(&range);
            heading.map_or(line.clone(), |heading| format!("{heading}\n{line}"))
        };
        let written = answers.show(&range, text);
        last = Some(range);
        keep(&mut result, written)
    };
    if listing.no_fold {
        let mut take = |range| shown.part(range).map_or(ControlFlow::Continue(()), &mut line);
        session.space.list(&mut take, &progress);
    } else {
        let mut fold = Fold::new(line);
        let mut take =
            |range| shown.part(range).map_or(ControlFlow::Continue(()), |it| fold.take(it));
        session.space.list(&mut take, &progress);
        let _ = fold.finish();
    }
    result?;
    let verdict = said(session, &shown);
    answers.end(session, verdict)
}

/// What came of it; says that there is nothing, if so.
fn said(session: &Session<'_>, shown: &Shown<'_>) -> Verdict {
    let mut verdict = shown.verdict;
    if !session.is_complete() {
        // What was left out is said at the end.
    } else if !shown.mapped {
        session.text.warning("nothing is mapped");
        verdict.not_so = true;
    } else if shown.count == 0 {
        session.text.warning("nothing of what was asked for");
        verdict.not_so = true;
    }
    if verdict.unknown {
        session
            .text
            .warning("parts of the address space are unknown: the image does not hold all tables");
    }
    verdict
}

/// What stands above a picture.
pub fn title(session: &Session<'_>) -> String {
    let (path, located) = (session.path.display(), session.located);
    format!("{path}: {}, {}", located.arch.name(), located.source)
}

/// Writes a file, which none of these sessions may read; `-` is standard output.
pub fn write(
    path: &Path,
    sessions: &[&Session<'_>],
    fill: impl FnOnce(&mut dyn Write) -> Result<()>,
) -> Result<()> {
    if path == Path::new("-") {
        let mut out = stdout();
        fill(&mut out)?;
        return Ok(out.flush()?);
    }
    if sessions.iter().any(|session| session.reads(path)) {
        let why = "this is the image, or a part of it: nothing is written over it";
        return Err(Usage(format!("{}: {why}", path.display())).into());
    }
    let file = File::create(path).with_context(|| path.display().to_string())?;
    let mut out = BufWriter::new(file);
    fill(&mut out)?;
    Ok(out.flush()?)
}
