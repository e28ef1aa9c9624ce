//! `reverse`: which addresses lead to a physical one.

use std::ops::ControlFlow;

use anyhow::Result;
use serde::Serialize;
use table_dump::{Fold, Range};

use super::{Answers, keep};
use crate::cli::Physical;
use crate::progress::Progress;
use crate::session::{Session, Verdict};

/// An address that leads to a physical one.
#[derive(Serialize)]
struct Alias {
    /// The physical address that was asked for.
    physical: String,
    #[serde(flatten)]
    range: Range,
}

pub fn run(session: &Session<'_>, physical: &Physical) -> Result<u8> {
    let mut found = vec![false; physical.addresses.len()];
    let mut verdict = Verdict::default();
    let mut answers = Answers::begin(session, "aliases")?;
    let mut result = Ok(());
    let show = |answers: &mut Answers, at: u64, range: Range| {
        let text = format!("{at:#018x}  {}", session.text.alias(&range));
        answers.show(&Alias { physical: format!("{at:#x}"), range }, || text)
    };
    {
        let progress = Progress::new("reading tables", session.options.output.quiet);
        let mut folds: Vec<(u64, Vec<Range>)> =
            physical.addresses.iter().map(|at| (*at, Vec::new())).collect();
        let mut take = |range: Range| {
            verdict.unknown |= range.state == table_dump::State::Unknown;
            let (Some(pa), Some(bytes)) = (range.pa, range.bytes) else {
                return ControlFlow::Continue(());
            };
            for (n, (at, aliases)) in folds.iter_mut().enumerate() {
                let Some(within) = at.checked_sub(pa).filter(|within| *within < bytes) else {
                    continue;
                };
                found[n] = true;
                if !session.tables.keep(size_of::<Range>() as u64) {
                    return ControlFlow::Break(());
                }
                let va = range.va.map(|va| va + within);
                aliases.push(Range { va, pa: Some(*at), bytes: Some(1), ..range.clone() });
            }
            ControlFlow::Continue(())
        };
        session.space.list(&mut take, &|done, total| progress.at(done, total));
        drop(progress);
        for (at, aliases) in folds {
            let mut fold = Fold::new(|range| keep(&mut result, show(&mut answers, at, range)));
            for range in aliases {
                if fold.take(range).is_break() {
                    break;
                }
            }
            let _ = fold.finish();
        }
    }
    result?;
    for (at, _) in physical.addresses.iter().zip(&found).filter(|(_, found)| !**found) {
        verdict.not_so = true;
        session.text.warning(&format!("nothing leads to {at:#x}"));
    }
    session.say_unknown(verdict);
    answers.end(session, verdict)
}
