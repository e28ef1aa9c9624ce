//! Why an image cannot be used.

use std::io;

/// Why an image cannot be used, by what its owner can do about it.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ImageError {
    /// The file cannot be read.
    #[error("the image cannot be read")]
    Io(#[from] io::Error),
    /// It begins as a file of a form that is read, and is damaged or cut off in its headers.
    #[error("the {form} is damaged: {why}")]
    Damaged {
        /// Which form.
        form: &'static str,
        /// What is wrong.
        why: String,
    },
    /// It is an ELF file of another kind: a program, an object, a library.
    #[error("this ELF file is no core of a machine: {0}")]
    NotACore(&'static str),
    /// It has more of something than any machine has.
    #[error("the {form} claims to have {count} {what}; {limit} are the most that are read")]
    TooMany {
        /// Which form.
        form: &'static str,
        /// Of what.
        what: &'static str,
        /// How many.
        count: u64,
        /// The most.
        limit: u64,
    },
    /// It is a form that is not read.
    #[error("this is {form}, which is not read: {advice}")]
    Foreign {
        /// Which form.
        form: &'static str,
        /// What to do.
        advice: &'static str,
    },
    /// Files that do not belong together.
    #[error("{0}")]
    Parts(String),
}
