//! The commands: ask, show.

mod audit;
mod bytes;
mod diff;
mod explain;
mod info;
mod list;
mod ps;
mod reverse;
mod translate;

use std::io::{self, BufWriter, StdoutLock, Write as _};
use std::ops::ControlFlow;

use anyhow::Result;

use crate::cli::{Cli, Command};
use crate::json::{self, Json};
use crate::output::Text;
use crate::progress::Progress;
use crate::session::{Session, Verdict, with, with_kernel};
use crate::without_image;

/// Does what the command line asks; returns the exit status.
pub fn run(cli: &Cli) -> Result<u8> {
    if let Some(done) = without_image(&cli.command) {
        return done;
    }
    let options = &cli.options;
    let text = Text::new(&options.output);
    let root = options.tables.root;
    match &cli.command {
        Command::List(it) => {
            with(&it.image, options, root, &text, |session| list::run(session, it))
        }
        Command::Translate(it) => translate::run(it, options, &text),
        Command::Explain(it) => {
            with(&it.image, options, root, &text, |session| explain::run(session, it))
        }
        Command::Reverse(it) if it.all_processes => {
            with_kernel(&it.image, options, &text, |session| reverse::run_all(session, it))
        }
        Command::Reverse(it) => {
            with(&it.image, options, root, &text, |session| reverse::run(session, it))
        }
        Command::Audit(it) => {
            with(&it.image, options, root, &text, |session| audit::run(session, it))
        }
        Command::Read(it) => bytes::read(it, options, &text),
        Command::Search(it) => bytes::search(it, options, &text),
        Command::Ps(it) => {
            with_kernel(&it.image, options, &text, |session| ps::run(session, it.looks))
        }
        Command::Stats(it) => with(&it.image, options, root, &text, stats),
        Command::Diff(it) => diff::run(it, options, &text),
        Command::Info(it) => info::run(&it.image, options, &text),
        Command::Schema | Command::Man(_) | Command::Completions { .. } => Ok(crate::FINE),
    }
}

fn stats(session: &Session<'_>) -> Result<u8> {
    let census = {
        let progress = Progress::new("counting", session.options.output.quiet);
        session.space.census(&|done, total| progress.at(done, total))
    };
    let verdict = Verdict { unknown: census.missing() > 0, ..Verdict::default() };
    if session.options.output.json {
        json::whole(stdout(), session, "stats", &census)?;
    } else {
        let mut out = stdout();
        out.write_all(session.text.census(&census).as_bytes())?;
        out.flush()?;
    }
    Ok(session.end(verdict))
}

/// Standard output.
fn stdout() -> BufWriter<StdoutLock<'static>> {
    BufWriter::new(io::stdout().lock())
}

/// Answers as they come: a line of text each, or JSON.
enum Answers {
    Text(BufWriter<StdoutLock<'static>>),
    Json(Json<BufWriter<StdoutLock<'static>>>),
}

impl Answers {
    fn begin(session: &Session<'_>, key: &str) -> Result<Self> {
        Ok(if session.options.output.json {
            Self::Json(Json::begin(stdout(), session, key)?)
        } else {
            Self::Text(stdout())
        })
    }

    /// Shows an answer.
    fn show(
        &mut self,
        json: &impl serde::Serialize,
        text: impl FnOnce() -> String,
    ) -> io::Result<()> {
        match self {
            Self::Text(out) => writeln!(out, "{}", text()),
            Self::Json(out) => out.answer(json),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match self {
            Self::Text(out) => out.flush(),
            Self::Json(out) => out.flush(),
        }
    }

    fn end(self, session: &Session<'_>, verdict: Verdict) -> Result<u8> {
        match self {
            Self::Text(mut out) => out.flush()?,
            Self::Json(out) => out.end(session, verdict)?,
        }
        Ok(session.end(verdict))
    }
}

/// Goes on as long as writing works.
fn keep<E>(result: &mut Result<(), E>, written: Result<(), E>) -> ControlFlow<()> {
    match written {
        Ok(()) => ControlFlow::Continue(()),
        Err(error) => {
            *result = Err(error);
            ControlFlow::Break(())
        }
    }
}
