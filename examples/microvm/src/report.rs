//! What a person reads: a line per check, and the last line.

use std::error::Error;
use std::fmt;

use frag_alloc::{Census, FrameSource};
use pgtable::Gpa;

use crate::space::TableFrames;

/// Why the microVM ends without `ok`.
#[derive(Debug)]
pub enum Failure {
    /// The answers to a check differ.
    Check {
        name: String,
        /// The access and its address, or the change.
        question: String,
        expected: String,
        /// What the software walker says, where it was asked.
        walker: Option<String>,
        seen: String,
    },
    /// It could not be tried.
    Broken(Box<dyn Error>),
}

impl<E: Into<Box<dyn Error>>> From<E> for Failure {
    fn from(error: E) -> Self {
        Self::Broken(error.into())
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Check { name, question, expected, walker, seen } => {
                write!(f, "check \"{name}\": {question}: expected {expected}")?;
                if let Some(walker) = walker {
                    write!(f, "; walker {walker}")?;
                }
                write!(f, "; seen {seen}")
            }
            Self::Broken(error) => error.fmt(f),
        }
    }
}

/// Prints, and counts.
pub struct Report {
    verbose: bool,
    checks: usize,
    peak: Census,
}

impl Report {
    pub fn new(verbose: bool) -> Self {
        Self { verbose, checks: 0, peak: Census::default() }
    }

    /// Whether the walk of each check is shown.
    pub fn verbose(&self) -> bool {
        self.verbose
    }

    /// A heading.
    pub fn section(&self, text: &str) {
        println!("\n{text}");
    }

    /// A fact.
    pub fn fact(&self, name: &str, value: impl fmt::Display) {
        println!("  {name:<18} {value}");
    }

    /// A check that went well.
    pub fn check(
        &mut self,
        name: &str,
        question: &str,
        expected: impl fmt::Display,
        seen: impl fmt::Display,
    ) {
        self.checks += 1;
        println!(
            "  {:>4} ok  {name:<30} {question:<44} expected {expected} | seen {seen}",
            self.checks
        );
    }

    /// A check of two values that must be equal.
    ///
    /// # Errors
    /// [`Failure::Check`].
    pub fn equal<T: PartialEq + fmt::Display>(
        &mut self,
        name: &str,
        question: &str,
        expected: T,
        seen: T,
    ) -> Result<(), Failure> {
        if expected == seen {
            self.check(name, question, expected, seen);
            return Ok(());
        }
        Err(Failure::Check {
            name: name.into(),
            question: question.into(),
            expected: expected.to_string(),
            walker: None,
            seen: seen.to_string(),
        })
    }

    /// Lists the frames that hold tables, and counts.
    ///
    /// # Errors
    /// None, as long as the frame table knows its own frames.
    pub fn frames(&mut self, frames: &TableFrames<'_>) -> Result<(), Failure> {
        let span = frames.source().span();
        for frame in 0..span.frames {
            let start = Gpa::new(span.start.get() + (u64::from(frame) << span.shift));
            let Some(frame) = frames.try_get(start)? else { continue };
            let Some(held) = frame.table_frame() else { continue };
            let tables = frame.tables().count();
            let bytes = 1_u64 << held.shift;
            let text = format!(
                "owner {}, {:?}: {tables} tables of {bytes} bytes",
                held.owner.0, held.kind
            );
            self.fact(&format!("frame {start:#x}"), text);
        }
        let census = frames.census();
        self.sample(census);
        self.fact(
            "table frames",
            format!(
                "{} of {} frames of {} KiB",
                census.table_frames,
                span.frames,
                1 << (span.shift - 10)
            ),
        );
        let cached = census.fragments.saturating_sub(census.live.into());
        self.fact(
            "tables",
            format!(
                "{} alive, {cached} to hand out: fragments {}; refs {}",
                census.live, census.fragments, census.refs
            ),
        );
        Ok(())
    }

    /// Takes note of what the allocator says now.
    pub fn sample(&mut self, census: Census) {
        if census.live > self.peak.live {
            self.peak = census;
        }
    }

    /// The last line of a run in which everything went well: frames and tables alive at the peak.
    pub fn ok(&self) -> String {
        format!(
            "microvm: ok checks={} frames={} fragments={}",
            self.checks, self.peak.table_frames, self.peak.live
        )
    }
}
