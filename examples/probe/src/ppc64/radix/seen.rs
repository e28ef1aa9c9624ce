//! What came of an access, and what the tables held afterwards: what is predicted, what is seen,
//! and how they differ.

use super::case::Slot;
use crate::ppc64::end::End;

/// What came of an access, and what every word on its way held afterwards.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seen {
    /// What came of it.
    pub end: End,
    /// The words.
    pub words: Vec<Slot>,
}

impl Seen {
    /// The fields in which the prediction `self` differs from what was `seen`, by name.
    pub fn differences(&self, seen: &Self) -> Vec<String> {
        let words = self
            .words
            .iter()
            .zip(&seen.words)
            .filter(|(expected, seen)| expected.word != seen.word);
        let words = words.map(|(expected, seen)| {
            format!(
                "word at {:#x}: expected {:#x}, seen {:#x}",
                expected.address, expected.word, seen.word
            )
        });
        words.chain(self.end.differences(&seen.end)).collect()
    }
}
