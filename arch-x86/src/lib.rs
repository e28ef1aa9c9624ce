//! x86 MMU formats for [`pgtable`]: 4-level and 5-level paging.
//!
//! "SDM" is Intel's Software Developer's Manual, volume 3; "APM" is AMD's Architecture Programmer's Manual, volume 2.
//! Levels are counted from the bottom, as everywhere in `pgtable`: 0 is the page table (PT), 1 the page directory (PD), 2 the
//! page-directory-pointer table (PDPT), 3 the PML4, 4 the PML5.
#![no_std]
#![forbid(unsafe_code)]

mod attributes;
mod boot;
mod controls;
mod entry;
mod ept;
mod ept_attributes;
mod ept_entry;
mod ept_fault;
mod gva;
mod invalidate;
mod long_mode;
mod npt;
mod page_fault;
mod registers;
mod shape;
mod tree;

pub use attributes::PageAttributes;
pub use boot::{BootError, BootMapping, BootTables, boot_tables};
pub use controls::{Controls, KeyRegister, KeyRights, Levels};
pub use entry::{HugePageEntry, PageEntry, TableEntry};
pub use ept::{Ept, EptControls, EptPath};
pub use ept_attributes::EptAttributes;
pub use ept_entry::{EptPageEntry, EptTableEntry, Eptp, MemoryType};
pub use ept_fault::{EptFault, EptViolation};
pub use gva::{GvaError, Paging, Unsupported, gva_to_gpa};
pub use invalidate::{
    CEILING, Flush, Invept, InveptDescriptor, InveptType, Invpcid, InvpcidDescriptor, InvpcidType, Invvpid,
    InvvpidDescriptor, InvvpidType, Pages, TlbControl, invept, invpcid, invvpid, tlb_control,
};
pub use long_mode::LongMode;
pub use npt::{NestedPageFault, Npt, NptAttributes, NptControls};
pub use page_fault::{LongModeFault, PageFaultCode};
pub use registers::{Cr0, Cr3, Cr3Pcid, Cr4, Efer, Pcid, Registers};
pub use tree::Path;
