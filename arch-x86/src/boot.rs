//! Page tables for a vCPU that starts in long mode: built in guest memory, in one call.
//!
//! ```
//! use core::sync::atomic::AtomicU64;
//! use arch_x86::{BootMapping, Controls, Levels, LongMode, boot_tables};
//! use pgtable::{DirectMap, Gpa, Gva, Prot};
//!
//! # let words: Vec<AtomicU64> = (0..0x10000 / 8).map(|_| AtomicU64::new(0)).collect();
//! let memory = DirectMap::new(&words, Gpa::new(0)); // or `GuestTables`, over vm-memory
//! let format = LongMode::new(Levels::Four, Controls::new());
//! let kernel = Gva::new(0xffff_ffff_8000_0000);
//! let boot = boot_tables(
//!     format,
//!     &memory,
//!     Gpa::new(0x9000)..Gpa::new(0xf000),
//!     &[
//!         BootMapping::identity(1 << 32, Prot::RWX.into()),
//!         BootMapping { gva: kernel, gpa: Gpa::new(0x100_0000), bytes: 512 << 20, attributes: Prot::RWX.into() },
//!     ],
//! )?;
//! assert_eq!(boot.registers.cr3.into_bits(), 0x9000);
//! // Set these bits in the vCPU's CR0, CR4 and EFER, and CR3 to this.
//! # Ok::<(), arch_x86::BootError>(())
//! ```

use core::cell::Cell;
use core::ops::Range;
use core::sync::atomic::Ordering;

use pgtable::{
    Address, AllocError, Contents, Error, Format, Gpa, Gva, Leaves, MemoryError, PageTable,
    Position, RangeError, TableAllocator, TableLayout, TableMemory, TableState, low_bits,
};

use crate::attributes::PageAttributes;
use crate::long_mode::LongMode;
use crate::registers::Registers;
use crate::shape::{PHYSICAL_BITS, beyond_maxphyaddr};

/// One range to map.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct BootMapping {
    /// The first virtual address.
    pub gva: Gva,
    /// The first guest-physical address.
    pub gpa: Gpa,
    /// The length in bytes: a multiple of 4 KiB. The largest pages that fit are used.
    pub bytes: u64,
    /// What the pages say.
    pub attributes: PageAttributes,
}

impl BootMapping {
    /// The first `bytes` bytes of guest-physical memory at the same virtual addresses.
    #[must_use]
    pub const fn identity(bytes: u64, attributes: PageAttributes) -> Self {
        Self { gva: Gva::new(0), gpa: Gpa::new(0), bytes, attributes }
    }
}

/// Tables in guest memory, and how a vCPU uses them.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct BootTables {
    /// CR3, and the bits of CR0, CR4 and EFER that have to be set for long mode with the format's
    /// controls.
    pub registers: Registers,
    /// One past the last byte of the tables.
    pub end: Gpa,
}

/// Why boot tables could not be made.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum BootError {
    /// The area for tables has no room for the root ([`Error::Alloc`]), does not lie in memory or
    /// may only be read ([`Error::Memory`]), or is beyond the format's MAXPHYADDR
    /// ([`Error::Unencodable`]).
    #[error("the area for boot tables cannot be used: {0}")]
    Area(#[source] Error),
    /// A range could not be mapped: [`Error::Alloc`] if the area is full, [`Error::Memory`] if it
    /// reaches beyond memory, or into memory that may only be read.
    #[error("boot tables: {0}")]
    Mapping(#[source] RangeError<Gva>),
}

/// Tables one after the other, for good: none is ever given back or loses an entry, so one state
/// does for all of them.
struct Area<'m, M> {
    memory: &'m M,
    next: Cell<Gpa>,
    end: Gpa,
    state: TableState,
    /// Why memory refused a table.
    refused: Cell<Option<MemoryError>>,
}

impl<M> Area<'_, M> {
    /// `error`, or what it comes from: an allocator cannot say that there is no memory.
    fn cause(&self, error: Error) -> Error {
        self.refused.take().map_or(error, Error::Memory)
    }
}

impl<M: TableMemory<Gpa>> TableAllocator<Gpa> for Area<'_, M> {
    fn allocate(&self, layout: TableLayout) -> Result<Gpa, AllocError> {
        let exhausted = AllocError::Exhausted { layout };
        let table = self.next.get();
        let next = table
            .checked_add(layout.bytes() as u64)
            .filter(|next| *next <= self.end)
            .ok_or(exhausted)?;
        let words = self.memory.table(table, layout.bytes() / 8).map_err(|error| {
            self.refused.set(Some(error));
            exhausted
        })?;
        for word in words {
            word.store(0, Ordering::Relaxed);
        }
        self.next.set(next);
        Ok(table)
    }

    /// Tables come back when a mapping fails; then all of them are of no use.
    fn free(&self, _: Gpa, _: TableLayout, _: Contents) -> Result<(), AllocError> {
        Ok(())
    }

    fn state(&self, table: Gpa, _: TableLayout) -> Option<&TableState> {
        (table < self.next.get()).then_some(&self.state)
    }
}

/// Builds tables of `format` for `mappings`, within `area` of guest memory: the root at its start,
/// rounded up to a page, and the others after it. What the area held is overwritten.
///
/// An identity map of 4 GiB takes two tables with 1-GiB pages, six without.
///
/// # Errors
/// [`BootError`]; the area holds part of the tables then.
pub fn boot_tables<M: TableMemory<Gpa>>(
    format: LongMode,
    memory: &M,
    area: Range<Gpa>,
    mappings: &[BootMapping],
) -> Result<BootTables, BootError> {
    let start = area.start.get().checked_next_multiple_of(0x1000).map_or(area.end, Gpa::new);
    if start.get() & beyond_maxphyaddr(format.controls().maxphyaddr) != 0
        || start.get() & !low_bits(PHYSICAL_BITS) != 0
    {
        let level = format.geometry().root();
        let at = Position { level, shift: format.geometry().shift(level) };
        return Err(BootError::Area(Error::Unencodable { at }));
    }
    let (next, refused) = (Cell::new(start), Cell::new(None));
    let tables = Area { memory, next, end: area.end, state: TableState::new(), refused };
    let mut table = PageTable::new(format, memory, &tables)
        .map_err(|error| BootError::Area(tables.cause(error)))?;
    for mapping in mappings {
        let &BootMapping { gva, gpa, bytes, attributes } = mapping;
        table.map(gva, gpa, bytes, attributes, Leaves::Largest).map_err(
            |RangeError { at, error }| {
                BootError::Mapping(RangeError { at, error: tables.cause(error) })
            },
        )?;
    }
    Ok(BootTables { registers: format.registers(table.root()), end: tables.next.get() })
}
