//! What a person reads: a table of what was asked, the mismatches, and the last line. For all
//! architectures.

use std::error::Error;
use std::fmt;

/// How many mismatches are shown in full.
const SHOWN: usize = 5;

/// How the machine ended an access.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// It was done, in memory.
    Done,
    /// It was translated, to where the guest has no memory.
    NoMemory,
    /// It was refused.
    Refused,
}

/// The cases of a kind.
#[derive(Clone, Copy, Debug, Default)]
struct Count {
    done: usize,
    no_memory: usize,
    refused: usize,
    mismatches: usize,
}

impl Count {
    fn cases(self) -> usize {
        self.done + self.no_memory + self.refused
    }
}

/// Counts and prints.
#[derive(Debug, Default)]
pub struct Report {
    kinds: Vec<(&'static str, Count)>,
}

impl Report {
    /// A fact about the run.
    pub fn fact(&self, name: &str, value: impl fmt::Display) {
        println!("  {name:<18} {value}");
    }

    /// Takes note of a case; a mismatch is shown at once, as long as there are not too many of the
    /// kind.
    pub fn case(&mut self, kind: &'static str, ended: Ended, mismatch: Option<&str>) {
        let index = self.kinds.iter().position(|(name, _)| *name == kind).unwrap_or_else(|| {
            self.kinds.push((kind, Count::default()));
            self.kinds.len() - 1
        });
        let count = &mut self.kinds[index].1;
        if let Some(mismatch) = mismatch {
            match count.mismatches {
                0..SHOWN => println!("\nMISMATCH in \"{kind}\"\n{mismatch}"),
                SHOWN => println!("\nmore mismatches in \"{kind}\" are only counted"),
                _ => {}
            }
        }
        *match ended {
            Ended::Done => &mut count.done,
            Ended::NoMemory => &mut count.no_memory,
            Ended::Refused => &mut count.refused,
        } += 1;
        count.mismatches += usize::from(mismatch.is_some());
    }

    /// Takes note of a comparison as a whole: a case, in which each line of `differences` tells of
    /// a mismatch.
    pub fn comparison(&mut self, kind: &'static str, differences: &str) {
        self.case(kind, Ended::Done, Some(differences).filter(|it| !it.is_empty()));
    }

    /// How many cases there have been.
    pub fn cases(&self) -> usize {
        self.kinds.iter().map(|(_, count)| count.cases()).sum()
    }

    /// How many mismatches there have been.
    pub fn mismatches(&self) -> usize {
        self.kinds.iter().map(|(_, count)| count.mismatches).sum()
    }

    /// Prints the table and the last line; returns whether everything went well.
    pub fn finish(&self, result: Result<(), Box<dyn Error>>) -> bool {
        println!(
            "\n  {:<34}{:>8}{:>8}{:>11}{:>9}{:>12}",
            "kind", "cases", "done", "no memory", "refused", "mismatches"
        );
        for (kind, count) in &self.kinds {
            let Count { done, no_memory, refused, mismatches } = count;
            println!(
                "  {kind:<34}{:>8}{done:>8}{no_memory:>11}{refused:>9}{mismatches:>12}",
                count.cases()
            );
        }
        let cases = self.cases();
        let mismatches = self.mismatches();
        match result {
            // One line, whatever an error says: whoever runs us reads the last one.
            Err(error) => println!("\nprobe: FAILED {}", error.to_string().replace('\n', "; ")),
            Ok(()) if mismatches == 0 => {
                println!("\nprobe: ok cases={cases} mismatches=0");
                return true;
            }
            Ok(()) => println!("\nprobe: FAILED cases={cases} mismatches={mismatches}"),
        }
        false
    }
}
