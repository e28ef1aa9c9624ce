//! The generic page-table layer of a hypervisor.
#![no_std]
#![deny(missing_docs)]

mod access;
mod address;
mod allocator;
mod batch;
mod cache;
mod change;
mod cursor;
mod descent;
mod diff;
mod error;
mod fault;
mod format;
mod gather;
mod geometry;
#[cfg(feature = "vm-memory")]
mod guest_memory;
#[cfg(feature = "iommu")]
mod iommu;
mod iterate;
mod map;
mod memory;
mod movement;
#[cfg(doctest)]
mod promises;
mod record;
mod reshape;
mod space;
mod stage;
mod table;
mod two_stage;
mod walk;
mod word;

pub use access::{Access, AccessKind, Attributes, Privilege, Prot};
pub use address::{Address, Gpa, Gva, Hpa, low_bits};
pub use allocator::{AllocError, Contents, TableAllocator, TableLayout, TableState};
pub use cache::{Generation, TranslationCache, Watch};
pub use cursor::Cursor;
pub use diff::{Change, Side};
pub use error::{Error, RangeError};
pub use fault::{Cause, Fault};
pub use format::{AccessedDirty, ByteOrder, Entry, EntryOf, Format, Input, Output, Unencodable};
pub use gather::{Finished, Gather, GatherError, Invalidate, InvalidateFailed, Stale, StaleRange, Unused};
pub use geometry::{Geometry, Level, LevelGeometry, MAX_LEVELS, Position};
#[cfg(feature = "vm-memory")]
pub use guest_memory::{GuestTables, RegionError};
#[cfg(feature = "iommu")]
pub use iommu::{TableIommu, Translated};
pub use iterate::{LeafIter, Run, RunLeaves};
pub use memory::{DirectMap, MemoryError, TableMemory};
pub use record::{Recorded, Writers};
pub use space::{AddressSpace, InputOf, Leaves, Mapping, MappingOf, OutputOf, Translation};
pub use stage::{Stage, Stage1, Stage2};
pub use table::PageTable;
pub use two_stage::{TwoStage, TwoStageFault, TwoStageTranslation};
pub use walk::{LeafOf, Trace, TraceEntry, TranslationOf, Walker};
