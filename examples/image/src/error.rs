//! Why an image cannot be used.

use std::io;

/// Why an image cannot be used, by what its owner can do about it.
#[derive(Debug, thiserror::Error)]
pub enum ImageError {
    /// The file cannot be read.
    #[error("the image cannot be read")]
    Io(#[from] io::Error),
    /// It begins as an ELF file and is none, or is cut short.
    #[error("the ELF core is damaged")]
    Elf(#[from] object::read::Error),
    /// It is an ELF file of another kind: a program, or a core of 32 bits.
    #[error("this ELF file is no core of a 64-bit machine: {0}")]
    NotACore(&'static str),
    /// It has more of something than any machine has.
    #[error("the ELF core claims to have {count} {what}; {limit} are the most that are read")]
    TooMany {
        /// Of what.
        what: &'static str,
        /// How many.
        count: u64,
        /// The most.
        limit: u64,
    },
    /// It is a form that does not hold memory as it is.
    #[error(
        "a {0} dump holds memory compressed: make an ELF core of it first (QEMU: `dump-guest-memory` without `-z`, `-l`, `-s`; kdump: copy /proc/vmcore)"
    )]
    Compressed(&'static str),
}
