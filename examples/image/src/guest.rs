//! A guest's physical memory, inside the image of its host's.

use crate::extents::{Extent, Extents};
use crate::memory::Held;
use crate::source::Source;
use crate::{Form, Image, ImageError, Notes};

/// A piece of a guest's physical memory.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct GuestPiece {
    /// Its guest physical address.
    pub guest: u64,
    /// Where in the host's physical memory it stands.
    pub host: u64,
    /// Its length in bytes.
    pub bytes: u64,
}

/// Physical memory, as a source whose offsets are addresses.
struct HostMemory<'s>(&'s Image<'s>);

impl Source for HostMemory<'_> {
    fn size(&self) -> std::io::Result<u64> {
        Ok(u64::MAX)
    }

    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> std::io::Result<usize> {
        match self.0.read(offset, buffer) {
            Ok(()) => Ok(buffer.len()),
            Err(crate::Unreadable::Io(error)) => Err(error),
            // What is asked for is stored: it is damaged.
            Err(error) => Err(std::io::Error::other(error.to_string())),
        }
    }
}

impl<'s> Image<'s> {
    /// The guest's memory at `pieces` of the memory of `host`. It has no notes: those of the image
    /// are the host's.
    ///
    /// # Errors
    /// [`ImageError::Io`].
    pub fn of_guest(
        host: &'s Image<'s>,
        pieces: impl IntoIterator<Item = GuestPiece>,
    ) -> Result<Self, ImageError> {
        let (mut stored, mut left_out) = (Vec::new(), Vec::new());
        for GuestPiece { guest, host: start, bytes } in pieces {
            let mut done = 0;
            while done < bytes {
                let Some(here) = start.checked_add(done) else { break };
                let piece = host.piece(here);
                let length = piece.bytes.min(bytes - done);
                let address = guest.saturating_add(done);
                if piece.held == Held::Stored {
                    let extent = Extent { start: address, bytes: length, file: 0, offset: here };
                    stored.push(extent);
                } else {
                    left_out.push((address, length));
                }
                done += length;
            }
        }
        let memory = Extents::new(vec![Box::new(HostMemory(host))], stored, left_out)?;
        Ok(Self::of(Form::Guest, None, Notes::default(), Box::new(memory)))
    }
}
