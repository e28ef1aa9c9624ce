//! Page tables for a vCPU that starts in long mode: built in guest memory, in one call.
//!
//! ```
//! use core::sync::atomic::AtomicU64;
//! use pgtable_x86::{BootMapping, Controls, Levels, LongMode, boot_tables};
//! use pgtable::memory::DirectMap;
//! use pgtable::{Gpa, Gva, Prot};
//!
//! # let words: Vec<AtomicU64> = (0..0x10000 / 8).map(|_| AtomicU64::new(0)).collect();
//! let memory = DirectMap::new(&words, Gpa::new(0)); // or `GuestTables`, over vm-memory
//! let format = LongMode::new(Levels::Four, Controls::new());
//! let kernel = Gva::new(0xffff_ffff_8000_0000);
//! let boot = boot_tables(
//!     format,
//!     &memory,
//!     Gpa::new(0x9000)..Gpa::new(0xf000),
//!     [
//!         BootMapping::identity(1 << 32, Prot::RWX.into()),
//!         BootMapping::new(kernel, Gpa::new(0x100_0000), 512 << 20, Prot::RWX.into()),
//!     ],
//! )?;
//! assert_eq!(boot.registers.cr3.into_bits(), 0x9000);
//! // Set these bits in the vCPU's CR0, CR4 and EFER, and CR3 to this.
//! # Ok::<(), pgtable_x86::BootError>(())
//! ```

use core::borrow::Borrow;
use core::ops::Range;

use pgtable::Gpa;
use pgtable::memory::TableMemory;
use pgtable::vcpu::build_boot_tables;

pub use pgtable::vcpu::BootError;

use crate::attributes::PageAttributes;
use crate::long_mode::LongMode;
use crate::registers::Registers;

/// One range to map, by pages of at least 4 KiB.
pub type BootMapping = pgtable::vcpu::BootMapping<PageAttributes>;

/// Tables in guest memory, and how a vCPU uses them.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct BootTables {
    /// CR3, and the bits of CR0, CR4 and EFER that have to be set for long mode with the format's
    /// controls.
    pub registers: Registers,
    /// One past the last byte of the tables.
    pub end: Gpa,
}

/// Builds tables of `format` for `mappings`, within `area` of guest memory: the root at its start,
/// rounded up to a page, and the others after it. What the area held is overwritten.
///
/// An identity map of 4 GiB takes two tables with 1-GiB pages, six without.
///
/// By default, entries for tables have U/S and A besides P and R/W (`0x27`), leaves have A and D
/// (`0xe3` with PS). The format and the attributes choose other bits, for tables that must be those
/// of an earlier version byte by byte:
///
/// ```
/// # use core::sync::atomic::{AtomicU64, Ordering};
/// # use pgtable_x86::{BootMapping, Controls, Levels, LongMode, PageAttributes, TableEntry};
/// # use pgtable_x86::boot_tables;
/// # use pgtable::memory::DirectMap;
/// # use pgtable::{Gpa, Leaves, Prot};
/// # let words: Vec<AtomicU64> = (0..0x4000 / 8).map(|_| AtomicU64::new(0)).collect();
/// # let memory = DirectMap::new(&words, Gpa::new(0));
/// let format = LongMode::new(Levels::Four, Controls::new())
///     .with_table_entry(TableEntry::new().with_rw(true));
/// let page = PageAttributes::from(Prot::RWX).with_accessed(false).with_dirty(false);
/// let leaves = Leaves::Exactly(21); // 2 MiB, also where 1 GiB would fit
/// let map = BootMapping { leaves, ..BootMapping::identity(1 << 30, page) };
/// boot_tables(format, &memory, Gpa::new(0x1000)..Gpa::new(0x4000), [map])?;
/// assert_eq!(words[0x1000 / 8].load(Ordering::Relaxed), 0x2003);
/// assert_eq!(words[0x3008 / 8].load(Ordering::Relaxed), 0x20_0083);
/// # Ok::<(), pgtable_x86::BootError>(())
/// ```
///
/// # Errors
/// [`BootError`]; the area holds part of the tables then.
pub fn boot_tables<M: TableMemory<Gpa>>(
    format: LongMode,
    memory: &M,
    area: Range<Gpa>,
    mappings: impl IntoIterator<Item: Borrow<BootMapping>>,
) -> Result<BootTables, BootError> {
    let (root, end) = build_boot_tables(format, memory, area, mappings)?;
    Ok(BootTables { registers: format.registers(root), end })
}
