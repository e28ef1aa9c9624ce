//! The generic page-table layer of a hypervisor: build, change, walk and tear down translation
//! tables that hardware, or a guest, reads at the same time.
//!
//! - **Formats are values** ([`Format`]): level count, granule and CPU controls are chosen at run
//!   time; the walker is compiled for the format's type. The formats themselves stand in
//!   `pgtable-aarch64`, `pgtable-ppc64`, `pgtable-riscv64` and `pgtable-x86`. This crate knows no
//!   architecture.
//! - **Addresses and stages are types**: [`Gva`], [`Gpa`], [`Hpa`]; a stage's tables stand in its
//!   output space. What does not compose does not compile.
//! - **Table memory can fail** ([`TableMemory`]): a guest's table pointer can point anywhere. Every
//!   word is accessed atomically and read once; every walk is bounded; nothing panics on any
//!   content.
//! - **One descent**: translate, map, unmap, protect, iterate, harvest all come down the same way.
//! - **Freeing comes after invalidating** ([`Gather`]): a table that left the tree has no other way
//!   back to its allocator.
//!
//! | to … | use |
//! | --- | --- |
//! | change tables that you own | [`PageTable`]: `map`, `unmap`, `protect`, `modify`, `remap`, `split`, `promote`, `harvest`; [`Cursor`] for page after page |
//! | change one tree from many threads | [`SharedPageTable`]: a [`Writer`] per thread, a [`LockedRange`] for several operations on one range |
//! | read any tables, also hostile ones | [`Walker`]: `translate`, `access`, `query`, `trace`, `translate_batch`, `for_each…`, `for_each_table`, `diff` |
//! | keep a guest's second stage: faults, dirty log, ageing, notifier | [`Stage2Tree`] |
//! | translate through both stages | [`TwoStage`] |
//! | read and write bytes at a guest's addresses | [`GuestBytes`], over a [`Walker`] or another [`Translate`] |
//! | remember translations | [`TranslationCache`], kept honest by a [`Watch`] |
//! | write code that also runs on hashed tables | [`AddressSpace`] |
//! | move tables, copy a tree | [`PageTable::relocate`], [`PageTable::relocate_root`], [`PageTable::rebuild`], [`Walker::snapshot`] |
//! | be the IOMMU of emulated devices | `TableIommu` (feature `iommu`) |
//! | bring tables' memory | [`DirectMap`], `GuestTables` (feature `alloc`, or `vm-memory`), `TrackedTables` (feature `vm-memory`), your own [`TableMemory`] |
//! | bring an allocator | `frag-alloc`, your own [`TableAllocator`] |
//! | bring a shoot-down | your own [`Invalidate`] |
//!
//! # Modules
//! Each module's page opens with its protocol: who calls what in which order, what is locked, what
//! is owed. Each name is exported in one place: by its module, or here if all modules use it
//! (addresses, accesses, levels, leaves, stages, errors).
//!
//! | module | for |
//! | --- | --- |
//! | [`tree`], [`shared`], [`second_stage`] | whoever changes trees |
//! | [`walk`], [`two_stage`], [`cache`], [`bytes`] | whoever reads them |
//! | [`invalidate`], [`memory`], [`allocator`] | whoever embeds them: shoot-down, memory, tables |
//! | [`mod@format`], [`vcpu`] | the author of an architecture's crate |
//!
//! # Levels
//! Counted from the bottom, everywhere: 0 is the last level. See [`Level`].
//!
//! # Writers and readers
//! One writer at a time (`&mut`, [`PageTable`]), who pays for no lock, or many
//! ([`SharedPageTable`]), each of which locks the subtree that it changes; hardware and any number
//! of walkers read meanwhile, without a lock. Their modules state the protocols; `frag-alloc`'s
//! `Deferred` is for tables that readers may still see.
//!
//! # Features
//! | feature | what for |
//! | --- | --- |
//! | `alloc` | `GuestTables`: tables in guest memory of any number of regions; memory through `Box`, `Rc`, `Arc` |
//! | `vm-memory` | `GuestTables` over any `vm_memory` backend, `GuestBytes` over any `vm_memory::GuestMemory`; `TrackedTables`: with its dirty bitmaps (needs `std`) |
//! | `iommu` | `TableIommu`: a tree behind `vm_memory::IommuMemory` (needs `std`) |
//! | `prefetch` | batches use prefetch instructions where the host has them (needs `std`) |
//!
//! Without features the crate is `no_std` and does not use `alloc`.
//!
//! # Example
//! Code against the interface that all formats share:
//!
//! ```
//! use pgtable::{
//!     Access, Address, AddressSpace, Attributes, InputOf, Leaves, Memory, OutputOf, Prot, RangeError,
//! };
//!
//! /// Maps a device's registers: read and write, nothing is fetched from them.
//! fn map_registers<S: AddressSpace>(
//!     space: &mut S,
//!     at: InputOf<S>,
//!     device: OutputOf<S>,
//!     bytes: u64,
//! ) -> Result<(), RangeError<InputOf<S>>> {
//!     let registers = S::Attributes::from(Prot::RW).with_memory(Memory::Device);
//!     space.map(at, device, bytes, registers, Leaves::Largest)?;
//!     debug_assert!(space.translate(at, Access::FETCH).is_err());
//!     Ok(())
//! }
//! ```
//!
//! [`Format`]: format::Format
//! [`TableMemory`]: memory::TableMemory
//! [`Gather`]: invalidate::Gather
//! [`Cursor`]: tree::Cursor
//! [`Writer`]: shared::Writer
//! [`LockedRange`]: shared::LockedRange
//! [`Stage2Tree`]: second_stage::Stage2Tree
//! [`TwoStage`]: two_stage::TwoStage
//! [`GuestBytes`]: bytes::GuestBytes
//! [`Walker`]: walk::Walker
//! [`Translate`]: bytes::Translate
//! [`TranslationCache`]: cache::TranslationCache
//! [`Watch`]: cache::Watch
//! [`PageTable::relocate`]: tree::PageTable::relocate
//! [`PageTable::relocate_root`]: tree::PageTable::relocate_root
//! [`PageTable::rebuild`]: tree::PageTable::rebuild
//! [`Walker::snapshot`]: walk::Walker::snapshot
//! [`DirectMap`]: memory::DirectMap
//! [`TableAllocator`]: allocator::TableAllocator
//! [`Invalidate`]: invalidate::Invalidate
//! [`PageTable`]: tree::PageTable
//! [`SharedPageTable`]: shared::SharedPageTable
#![no_std]
#![deny(missing_docs)]

#[cfg(feature = "alloc")]
extern crate alloc;

mod access;
mod address;
mod alike;
pub mod allocator;
mod anchor;
mod annotate;
mod appear;
mod batch;
mod boot;
pub mod bytes;
pub mod cache;
mod change;
mod control_bits;
mod cursor;
mod descent;
mod diff;
mod direct_map;
mod edit;
mod edit_units;
mod error;
mod fault;
mod fill;
mod flush;
pub mod format;
mod gather;
mod geometry;
mod group;
#[cfg(feature = "alloc")]
mod guest_memory;
mod harvest;
mod interrupted;
pub mod invalidate;
#[cfg(feature = "iommu")]
pub mod iommu;
mod iterate;
mod keep;
mod leaf;
mod lock;
mod map;
pub mod memory;
mod modify;
mod movement;
mod paging_walker;
#[cfg(doctest)]
mod promises;
mod quick;
mod ranges;
mod read_only;
mod record;
mod record_bits;
mod regroup;
mod reshape;
mod run;
pub mod second_stage;
pub mod shared;
mod shortcut;
mod snapshot;
mod space;
mod split_leaf;
mod stage;
mod stage_hooks;
mod stale;
mod state;
mod stretch;
mod table;
mod table_word;
mod tables;
#[cfg(feature = "vm-memory")]
mod tracked;
mod trail;
mod translate;
pub mod tree;
mod tree_space;
mod tree_tables;
pub mod two_stage;
mod unmap;
pub mod vcpu;
pub mod walk;
mod word;
mod work;

pub use access::{Access, AccessKind, Attributes, Memory, Privilege, Prot};
pub use address::{Address, Gpa, Gva, Hpa, low_bits};
pub use error::{Error, RangeError};
pub use fault::{Cause, Fault};
pub use geometry::{Level, Position};
pub use space::{AddressSpace, InputOf, Leaves, Mapping, MappingOf, OutputOf, Translation};
pub use stage::{Stage, Stage1, Stage2};

#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
