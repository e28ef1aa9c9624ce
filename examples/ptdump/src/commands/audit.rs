//! `audit`: mappings that should not be there. Its exit status is 1 if it finds any.

use std::ops::ControlFlow;

use anyhow::Result;
use serde::Serialize;
use table_dump::{Range, State};

use super::{Answers, keep};
use crate::cli::Audited;
use crate::commands::list::clip;
use crate::filter::{AUDIT, Filter};
use crate::progress::Progress;
use crate::session::{Session, Verdict};

/// What is wrong with a range.
#[derive(Serialize)]
struct Finding<'f> {
    check: String,
    what: &'f str,
    #[serde(flatten)]
    range: Range,
    /// Where the same physical memory is mapped otherwise.
    #[serde(skip_serializing_if = "Option::is_none")]
    other: Option<Range>,
}

/// A range of physical memory that something executes, or writes.
struct Physical {
    start: u64,
    end: u64,
    range: Range,
}

/// What is mapped writable at one address and executable at another: found when all is known.
#[derive(Default)]
struct Aliases {
    writable: Vec<Physical>,
    executable: Vec<Physical>,
}

impl Aliases {
    /// Takes in a range; false if there is no memory left for it.
    fn take(&mut self, session: &Session<'_>, range: &Range) -> bool {
        let (Some(start), Some(bytes)) = (range.pa, range.bytes) else { return true };
        let kernel = session.located.kernel_start();
        let (writes, fetches) =
            (Filter::Write.admits(range, kernel), Filter::Execute.admits(range, kernel));
        let kept = session.tables.keep((size_of::<Physical>() + range.attributes.len()) as u64);
        let physical =
            || Physical { start, end: start.saturating_add(bytes), range: range.clone() };
        if writes {
            self.writable.push(physical());
        }
        if fetches {
            self.executable.push(physical());
        }
        kept
    }

    /// Each executable range that is writable elsewhere, with the first such place.
    fn both(mut self) -> impl Iterator<Item = (Range, Range)> {
        self.writable.sort_by_key(|it| it.start);
        // The furthest end of all that begin no later: where nothing reaches, nothing overlaps.
        let mut furthest = Vec::with_capacity(self.writable.len());
        for it in &self.writable {
            furthest.push(it.end.max(furthest.last().copied().unwrap_or(0)));
        }
        let writable = self.writable;
        self.executable.into_iter().filter_map(move |code| {
            let to = writable.partition_point(|it| it.start < code.end);
            let from = furthest.partition_point(|end| *end <= code.start);
            let other = writable
                .get(from..to)?
                .iter()
                .find(|it| it.end > code.start && it.range.va != code.range.va)?;
            Some((code.range, other.range.clone()))
        })
    }
}

pub fn run(session: &Session<'_>, audited: &Audited) -> Result<u8> {
    let mut verdict = Verdict::default();
    let mut answers = Answers::begin(session, "findings")?;
    let mut result = Ok(());
    let mut aliases = Aliases::default();
    let kernel = session.located.kernel_start();
    let (mut mapped, mut found) = (false, 0_u64);
    {
        let progress = Progress::new("reading tables", session.options.output.quiet);
        let mut take = |range: Range| {
            let range = match &audited.range {
                Some(wanted) => match clip(range, *wanted.start(), *wanted.end()) {
                    Some(range) => range,
                    None => return ControlFlow::Continue(()),
                },
                None => range,
            };
            mapped |= range.state == State::Mapped;
            verdict.unknown |= range.state == State::Unknown;
            for (filter, what) in AUDIT {
                if filter.admits(&range, kernel) {
                    found += 1;
                    let text = format!("{what}: {}", session.text.range(&range));
                    let (check, range) = (filter.name(), range.clone());
                    let finding = Finding { check, what, range, other: None };
                    keep(&mut result, answers.show(&finding, || text))?;
                }
            }
            if !Filter::WriteExecute.admits(&range, kernel) && !aliases.take(session, &range) {
                return ControlFlow::Break(());
            }
            ControlFlow::Continue(())
        };
        session.space.list(&mut take, &|done, total| progress.at(done, total));
    }
    result?;
    for (range, other) in aliases.both() {
        found += 1;
        let what = "executable, and writable at another address";
        let text = format!(
            "{what}: {}\n    writable: {}",
            session.text.range(&range),
            session.text.range(&other)
        );
        let check = "w+x-alias".to_owned();
        answers.show(&Finding { check, what, range, other: Some(other) }, || text)?;
    }
    verdict.not_so = found > 0 || !mapped;
    session.text.note(&match (found, mapped) {
        (_, false) => "nothing is mapped".to_owned(),
        (0, true) => "nothing was found".to_owned(),
        (found, true) => format!("{found} findings"),
    });
    session.say_unknown(verdict);
    answers.end(session, verdict)
}
