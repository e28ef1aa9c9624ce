//! Frames in guest memory, and the owned forms that a VMM keeps in its `Vm`.

use alloc::sync::Arc;

use pgtable::Gpa;
use pgtable::memory::{GiveMemory, GuestTables, HeldMemory, HostMapped, MemoryError, RegionError};
use pgtable::shared::SharedPageTable;
use pgtable::tree::PageTable;
use vm_memory::GuestMemoryBackend;

use crate::cache::Cache;
use crate::deferred::Deferred;
use crate::frames::Frames;
use crate::grace::Epochs;
use crate::source::Region;

/// Frames in guest memory that own their part of it ([`guest_frames`] of an `Arc`): `'static`, for
/// any thread. They are table memory too, for trees and walkers: all of the guest's, not only of
/// the frames.
pub type GuestFrames = Frames<Gpa, GuestFrameSource>;

/// The tables of one address space in such frames.
pub type GuestCache = Cache<Gpa, GuestFrameSource, Arc<GuestFrames>>;

/// The same, for readers without a lock: what a [`SharedGuestTree`] takes its tables from.
pub type DeferredGuestCache = Deferred<Gpa, GuestFrameSource, Arc<GuestFrames>, Epochs>;

/// A tree in guest memory that one thread changes; it owns all that it needs.
pub type GuestTree<F> = PageTable<F, Arc<GuestFrames>, Arc<GuestCache>>;

/// A tree in guest memory that many threads change at once; it owns all that it needs.
///
/// ```
/// use std::sync::Arc;
/// use frag_alloc::{
///     Cache, Deferred, DeferredGuestCache, Epochs, Frames, GuestFrames, Kind, Owner, Policy,
///     SharedGuestTree, guest_frames,
/// };
/// use pgtable::format::Format;
/// use pgtable::tree::PageTable;
/// use pgtable::{Gpa, Stage1};
/// use vm_memory::GuestMemoryMmap;
///
/// struct Vm<F> {
///     memory: Arc<GuestMemoryMmap>,
///     frames: Arc<GuestFrames>,
///     tables: Arc<DeferredGuestCache>,
///     tree: SharedGuestTree<F>,
/// }
///
/// impl<F: Format<Stage = Stage1>> Vm<F> {
///     /// Tables are fragments of 32 frames of 64 KiB at 2 MiB.
///     fn new(memory: GuestMemoryMmap, format: F) -> Result<Self, Box<dyn std::error::Error>> {
///         let memory = Arc::new(memory);
///         let frames = guest_frames(Arc::clone(&memory), Gpa::new(2 << 20), 32, 16)?;
///         let frames = Arc::new(Frames::new(frames)?);
///         let cache = Cache::new(Arc::clone(&frames), Owner(1), Kind::User, Policy::Reuse);
///         let tables = Arc::new(Deferred::new(cache, Epochs::new(8))); // eight threads
///         let tree = PageTable::new(format, Arc::clone(&frames), Arc::clone(&tables))?;
///         Ok(Self { memory, frames, tables, tree: tree.into() })
///     }
/// }
/// ```
pub type SharedGuestTree<F> = SharedPageTable<F, Arc<GuestFrames>, Arc<DeferredGuestCache>>;

/// Where [`GuestFrames`] come from.
pub type GuestFrameSource = Region<Gpa, GuestTables<'static, Gpa>>;

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
/// it. Guest memory that is mapped on demand stays mapped as long as the frames. [`GiveMemory`]
/// lists what `memory` may be: borrowed (`&memory`), or owned with others (`Arc::clone(&memory)`).
///
/// # Errors
/// [`GuestError`].
pub fn guest_frames<'m, H, How>(
    memory: H,
    start: Gpa,
    frames: u32,
    shift: u8,
) -> Result<Region<Gpa, GuestTables<'m, Gpa>>, GuestError>
where
    H: GiveMemory<'m, How>,
    <<H::Held as HeldMemory<'m>>::Memory as GuestMemoryBackend>::R: HostMapped,
{
    Ok(Region::new(GuestTables::new(memory)?, start, frames, shift)?)
}
