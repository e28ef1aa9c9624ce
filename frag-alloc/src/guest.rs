//! Frames in guest memory.

use pgtable::Gpa;
use pgtable::memory::{GuestTables, HostMapped, MemoryError, RegionError};
use vm_memory::GuestMemoryBackend;

use crate::source::Region;

/// Why guest memory could not be cut into frames.
#[derive(Debug, thiserror::Error)]
pub enum GuestError {
    /// The guest memory cannot hold tables.
    #[error(transparent)]
    Guest(#[from] RegionError),
    /// The range is not made of whole frames that this process may write.
    #[error(transparent)]
    Frames(#[from] MemoryError),
}

/// The `frames` frames of `2^shift` bytes from `start` on in `memory`. Each lies in one region that
/// this process may write.
///
/// What `memory` says about lengths is not believed: a frame is where a region gave out a slice of
/// it. Guest memory that is mapped on demand stays mapped as long as the frames.
///
/// # Errors
/// [`GuestError`].
pub fn guest_frames<G>(
    memory: &G,
    start: Gpa,
    frames: u32,
    shift: u8,
) -> Result<Region<Gpa, GuestTables<'_, Gpa>>, GuestError>
where
    G: GuestMemoryBackend,
    G::R: HostMapped,
{
    Ok(Region::new(GuestTables::new(memory)?, start, frames, shift)?)
}
