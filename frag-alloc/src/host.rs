//! The owned forms that a hypervisor keeps in its `Vm`: frames of host memory, and second stages
//! whose tables stand in them.

use alloc::sync::Arc;

use pgtable::Hpa;
use pgtable::second_stage::Stage2Tree;

use crate::cache::Cache;
use crate::frames::Frames;
use crate::source::Region;

/// Frames of host memory `M`: a `DirectMap<'static, Hpa>` of a bare-metal hypervisor, or
/// `GuestTables<'static, Hpa>` where the host's memory is itself a guest's. They are table memory
/// too, for trees and walkers: all of `M`, not only the frames.
pub type HostFrames<M> = Frames<Hpa, Region<Hpa, M>>;

/// The tables of one guest in such frames.
pub type HostCache<M> = Cache<Hpa, Region<Hpa, M>, Arc<HostFrames<M>>>;

/// A guest's second stage of format `F`, which invalidations call by a `T`; it owns all that it
/// needs. One thread at a time changes it: `Mutex<HostStage2<…>>`.
///
/// ```
/// use std::sync::{Arc, Mutex};
/// use frag_alloc::{Cache, Frames, HostFrames, HostStage2, Kind, Owner, Policy, Region};
/// use pgtable::Hpa;
/// use pgtable::format::SecondStage;
/// use pgtable::memory::DirectMap;
/// use pgtable::second_stage::Stage2Tree;
///
/// type Memory = DirectMap<'static, Hpa>;
///
/// struct Vm<F> {
///     frames: Arc<HostFrames<Memory>>,
///     stage: Mutex<HostStage2<F, Memory, u16>>,
/// }
///
/// impl<F: SecondStage> Vm<F> {
///     /// Tables are fragments of 32 frames of 64 KiB at the start of `memory`.
///     fn new(
///         memory: Memory,
///         start: Hpa,
///         format: F,
///         vmid: u16,
///     ) -> Result<Self, Box<dyn std::error::Error>> {
///         let frames = Arc::new(Frames::new(Region::new(memory, start, 32, 16)?)?);
///         let owner = Owner(vmid.into());
///         let tables = Cache::new(Arc::clone(&frames), owner, Kind::User, Policy::Reuse);
///         let stage = Stage2Tree::new(format, Arc::clone(&frames), Arc::new(tables), vmid)?;
///         Ok(Self { frames, stage: Mutex::new(stage) })
///     }
/// }
/// ```
pub type HostStage2<F, M, T> = Stage2Tree<F, Arc<HostFrames<M>>, Arc<HostCache<M>>, T>;
