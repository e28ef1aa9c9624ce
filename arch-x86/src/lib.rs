//! x86 MMU formats for [`pgtable`]: 4-level and 5-level paging.
//!
//! "SDM" is Intel's Software Developer's Manual, volume 3; "APM" is AMD's Architecture Programmer's Manual, volume 2.
//! Levels are counted from the bottom, as everywhere in `pgtable`: 0 is the page table (PT), 1 the page directory (PD), 2 the
//! page-directory-pointer table (PDPT), 3 the PML4, 4 the PML5.
#![no_std]
#![forbid(unsafe_code)]

mod attributes;
mod controls;
mod entry;
mod ept;
mod ept_attributes;
mod ept_entry;
mod ept_fault;
mod long_mode;
mod npt;
mod page_fault;
mod shape;
mod tree;

pub use attributes::PageAttributes;
pub use controls::{Controls, KeyRegister, KeyRights, Levels};
pub use entry::{HugePageEntry, PageEntry, TableEntry};
pub use ept::{Ept, EptControls, EptPath};
pub use ept_attributes::EptAttributes;
pub use ept_entry::{EptPageEntry, EptTableEntry, Eptp, MemoryType};
pub use ept_fault::{EptFault, EptViolation};
pub use long_mode::LongMode;
pub use npt::{NestedPageFault, Npt, NptAttributes, NptControls};
pub use page_fault::{LongModeFault, PageFaultCode};
pub use tree::Path;
