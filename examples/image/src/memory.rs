//! Physical memory as an image holds it: what of it is there, what was left out, what is lost.

use std::{fmt, io};

/// What an image has of a piece of physical memory.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Held {
    /// Its bytes.
    Stored,
    /// It is memory of the machine; the writer of the image left it out.
    LeftOut,
    /// It should stand behind the end of the file, which was cut off.
    CutOff,
    /// The image says nothing of it.
    Outside,
}

impl fmt::Display for Held {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Stored => "in the image",
            Self::LeftOut => "left out of the image",
            Self::CutOff => "behind the end of the file, which is cut off",
            Self::Outside => "not in the image",
        })
    }
}

/// A contiguous piece of memory that an image treats alike.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Piece {
    /// What the image has of it.
    pub held: Held,
    /// Its length from the address on that was asked for; at least 1.
    pub bytes: u64,
}

/// Why memory of an image cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum Unreadable {
    /// The image does not hold it.
    #[error("memory at {address:#x} is {held}")]
    Missing {
        /// The first address that is missing.
        address: u64,
        /// What became of it.
        held: Held,
    },
    /// It is there, and damaged.
    #[error("the image is damaged where it holds memory at {address:#x}: {why}")]
    Damaged {
        /// The address of the page.
        address: u64,
        /// What is wrong.
        why: String,
    },
    /// The file cannot be read.
    #[error("the image cannot be read")]
    Io(#[from] io::Error),
}

/// The physical memory of an image, whatever its form.
pub(crate) trait Memory: fmt::Debug {
    /// The piece that begins at `address`.
    fn piece(&self, address: u64) -> Piece;

    /// Reads what stands at `address`. Only called for what [`piece`](Self::piece) calls stored,
    /// all of it.
    fn read(&self, address: u64, buffer: &mut [u8]) -> Result<(), Unreadable>;

    /// The first address from `address` on that is stored.
    fn next_stored(&self, address: u64) -> Option<u64>;

    /// The first address from `address` on that is stored and, as far as the file system tells, no
    /// hole in the file.
    fn next_data(&self, address: u64) -> Option<u64> {
        self.next_stored(address)
    }

    /// How many bytes are stored.
    fn bytes(&self) -> u64;

    /// How many bytes the files have.
    fn file_bytes(&self) -> u64;
}
