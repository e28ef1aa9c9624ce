//! What a person reads: a line per check, and the last line.

use std::error::Error;
use std::fmt;

use frag_alloc::Census;

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
    pub fn check(&mut self, name: &str, question: &str, expected: impl fmt::Display, seen: impl fmt::Display) {
        self.checks += 1;
        println!("  {:>4} ok  {name:<30} {question:<44} expected {expected} | seen {seen}", self.checks);
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

    /// Takes note of what the allocator says now.
    pub fn sample(&mut self, census: Census) {
        if census.live > self.peak.live {
            self.peak = census;
        }
    }

    /// The last line of a run in which everything went well: frames and tables alive at the peak.
    pub fn ok(&self) -> String {
        format!("microvm: ok checks={} frames={} fragments={}", self.checks, self.peak.table_frames, self.peak.live)
    }
}
