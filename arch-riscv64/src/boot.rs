//! Page tables for a vCPU that starts with translation on: built in guest memory, in one call.
//!
//! ```
//! use core::sync::atomic::AtomicU64;
//! use pgtable_riscv64::{BootMapping, Controls, Mode, Sv, boot_tables};
//! use pgtable::memory::DirectMap;
//! use pgtable::{Gpa, Gva, Prot};
//!
//! # let words: Vec<AtomicU64> = (0..0x10000 / 8).map(|_| AtomicU64::new(0)).collect();
//! let ram = Gpa::new(0x8000_0000);
//! let memory = DirectMap::new(&words, ram); // or `GuestTables`, over vm-memory
//! let format = Sv::new(Mode::Sv39, Controls::new());
//! let kernel = Gva::new(0xffff_ffff_8000_0000);
//! let boot = boot_tables(
//!     format,
//!     &memory,
//!     ram..Gpa::new(0x8000_8000),
//!     [
//!         // Devices, and memory from 2 GiB on. The memory type is that of the platform (PMA).
//!         BootMapping::identity(1 << 31, Prot::RW.into()),
//!         BootMapping::identity_at(ram, 1 << 31, Prot::RWX.into()),
//!         BootMapping::new(kernel, ram, 512 << 20, Prot::RWX.into()),
//!     ],
//! )?;
//! // For the vCPU's satp; S-mode may use these pages, U-mode may not.
//! assert_eq!(boot.satp.into_bits(), 0x8000_0000_0008_0000);
//! # Ok::<(), pgtable_riscv64::BootError>(())
//! ```

use core::borrow::Borrow;
use core::ops::Range;

use pgtable::Gpa;
use pgtable::memory::TableMemory;
use pgtable::vcpu::build_boot_tables;

pub use pgtable::vcpu::BootError;

use crate::attributes::PageAttributes;
use crate::format::Sv;
use crate::registers::Satp;

/// One range to map, by pages of at least 4 KiB.
pub type BootMapping = pgtable::vcpu::BootMapping<PageAttributes>;

/// Tables in guest memory, and how a vCPU uses them.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct BootTables {
    /// satp, with ASID 0. The format's controls besides are [`Sv::controls`]: SUM and MXR in
    /// sstatus, ADUE and PBMTE in menvcfg (for a guest: henvcfg).
    pub satp: Satp,
    /// One past the last byte of the tables.
    pub end: Gpa,
}

/// Builds tables of `format` for `mappings`, within `area` of guest memory: the root at its start,
/// rounded up to a page, and the others after it. What the area held is overwritten.
///
/// An identity map of 4 GiB takes one table with Sv39, two with Sv48. Leaves have A and D set,
/// unless their attributes choose otherwise (`with_accessed`, `with_dirty` of
/// [`PageAttributes`](crate::PageAttributes)); entries for tables have V alone.
///
/// # Errors
/// [`BootError`]; the area holds part of the tables then.
pub fn boot_tables<M: TableMemory<Gpa>>(
    format: Sv,
    memory: &M,
    area: Range<Gpa>,
    mappings: impl IntoIterator<Item: Borrow<BootMapping>>,
) -> Result<BootTables, BootError> {
    let (root, end) = build_boot_tables(format, memory, area, mappings)?;
    Ok(BootTables { satp: format.satp(root, 0), end })
}
