//! Frames in guest memory.

use pgtable::{Address as _, DirectMap, Gpa, MemoryError};
use vm_memory::{GuestAddress, GuestMemoryBackend, GuestMemoryError};

use crate::source::Region;

/// Why guest memory could not be cut into frames.
#[derive(Debug, thiserror::Error)]
pub enum GuestError {
    /// The range is not guest memory, or not all in one region.
    #[error(transparent)]
    Guest(#[from] GuestMemoryError),
    /// It is not a multiple of whole frames.
    #[error(transparent)]
    Frames(#[from] MemoryError),
}

/// The `frames` frames of `2^shift` bytes from `start` on, which must lie in one region of
/// `memory`.
///
/// Tables in them are reached by an offset and a bounds check, without a search for the region.
///
/// # Errors
/// [`GuestError`].
pub fn guest_frames<G: GuestMemoryBackend>(
    memory: &G,
    start: Gpa,
    frames: u32,
    shift: u8,
) -> Result<Region<Gpa, DirectMap<'_, Gpa>>, GuestError> {
    let bytes = usize::try_from(u64::from(frames) << (shift & 63)).unwrap_or(usize::MAX);
    let slice = memory.get_slice(GuestAddress(start.get()), bytes)?;
    let host = slice.ptr_guard_mut().as_ptr();
    if !host.cast::<u64>().is_aligned() || !start.is_aligned(3) {
        return Err(MemoryError::outside(start, bytes / 8).into());
    }
    // SAFETY: the slice is valid for `bytes` bytes for as long as `memory` is borrowed, and was
    // just found to be aligned. vm-memory's own access is volatile or atomic, and the guest's is
    // outside this process.
    let memory = unsafe { DirectMap::from_raw(host, bytes, start) };
    Ok(Region::new(memory, start, frames, shift)?)
}
