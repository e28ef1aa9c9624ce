//! A first stage's tables for a vCPU that starts with translation on, built in guest memory in one
//! call. Architecture crates add the registers: `boot_tables`.

use core::borrow::Borrow;
use core::cell::Cell;
use core::ops::Range;
use core::sync::atomic::{AtomicU64, Ordering};

use crate::address::{Address, Gpa, Gva};
use crate::allocator::{AllocError, Contents, TableAllocator, TableLayout};
use crate::descent::Node;
use crate::error::{Error, RangeError};
use crate::format::{Format, Unencodable};
use crate::geometry::{Level, Position};
use crate::memory::{MemoryError, TableMemory};
use crate::space::Leaves;
use crate::stage::Stage1;
use crate::state::TableState;
use crate::table::PageTable;
use crate::table_word::TableWord as _;
use crate::word::{Word, any_set};

/// One range to map. `T` are the format's attributes.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct BootMapping<T> {
    /// The first virtual address.
    pub gva: Gva,
    /// The first guest-physical address.
    pub gpa: Gpa,
    /// The length in bytes: a multiple of the smallest page.
    pub bytes: u64,
    /// What the pages say.
    pub attributes: T,
    /// Which sizes of pages; [`Leaves::Largest`] takes the fewest tables.
    pub leaves: Leaves,
}

impl<T> BootMapping<T> {
    /// `bytes` bytes of guest-physical memory from `gpa` on at `gva`, in the largest pages.
    #[must_use]
    pub const fn new(gva: Gva, gpa: Gpa, bytes: u64, attributes: T) -> Self {
        Self { gva, gpa, bytes, attributes, leaves: Leaves::Largest }
    }

    /// The first `bytes` bytes of guest-physical memory at the same virtual addresses, in the
    /// largest pages.
    #[must_use]
    pub const fn identity(bytes: u64, attributes: T) -> Self {
        Self::identity_at(Gpa::new(0), bytes, attributes)
    }

    /// `bytes` bytes of guest-physical memory from `gpa` on at the same virtual addresses, in the
    /// largest pages: memory that does not begin at 0, a device's registers.
    #[must_use]
    pub const fn identity_at(gpa: Gpa, bytes: u64, attributes: T) -> Self {
        Self::new(Gva::new(gpa.get()), gpa, bytes, attributes)
    }
}

/// Why boot tables could not be made.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum BootError {
    /// The area for tables has no room for the root ([`Error::Alloc`]), does not lie in memory or
    /// may only be read ([`Error::Memory`]), or is beyond the format's physical addresses
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

impl<M: TableMemory<Gpa>> Area<'_, M> {
    /// The next table, which holds what the area held.
    fn next_table(&self, layout: TableLayout) -> Result<(Gpa, &[AtomicU64]), AllocError> {
        let exhausted = AllocError::Exhausted { layout };
        let bytes = layout.bytes() as u64;
        let aligned = self.next.get().get().checked_next_multiple_of(bytes).ok_or(exhausted)?;
        let table = Gpa::new(aligned);
        let next = table.checked_add(bytes).filter(|next| *next <= self.end).ok_or(exhausted)?;
        let words = self.memory.table(table, layout.bytes() / 8).map_err(|error| {
            self.refused.set(Some(error));
            exhausted
        })?;
        self.next.set(next);
        Ok((table, words))
    }
}

impl<M: TableMemory<Gpa>> TableAllocator<Gpa> for Area<'_, M> {
    fn allocate(&self, layout: TableLayout) -> Result<Gpa, AllocError> {
        let (table, words) = self.next_table(layout)?;
        // Eight stores a turn: the compiler does not unroll loops of atomic accesses.
        let mut eights = words.chunks_exact(8);
        for eight in &mut eights {
            eight.iter().for_each(|word| word.store(0, Ordering::Relaxed));
        }
        eights.remainder().iter().for_each(|word| word.store(0, Ordering::Relaxed));
        self.memory.wrote(table, words.len());
        Ok(table)
    }

    fn allocate_stale(&self, layout: TableLayout) -> Result<Gpa, AllocError> {
        self.next_table(layout).map(|(table, _)| table)
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
/// rounded up to the root's size, and the others after it. What the area held is overwritten.
/// Returns the root, and the address one past the last byte of the tables.
///
/// # Errors
/// [`BootError`]; the area holds part of the tables then.
pub fn build_boot_tables<F: Format<Stage = Stage1>, M: TableMemory<Gpa>>(
    format: F,
    memory: &M,
    area: Range<Gpa>,
    mappings: impl IntoIterator<Item: Borrow<BootMapping<F::Attributes>>>,
) -> Result<(Gpa, Gpa), BootError> {
    let geometry = format.geometry();
    let level = geometry.root();
    let bytes = 1 << (geometry.width(level) + F::Word::SHIFT);
    let start = area.start.get().checked_next_multiple_of(bytes).map_or(area.end, Gpa::new);
    // No entry refers to the root, but one could refer to a table there.
    let below = geometry.width(Level(level.0.saturating_sub(1)));
    let at = Position { level, shift: geometry.shift(level) };
    let _ = format
        .table(start, below, at)
        .map_err(|Unencodable { at }| BootError::Area(Error::Unencodable { at }))?;
    let (next, refused) = (Cell::new(start), Cell::new(None));
    let tables = Area { memory, next, end: area.end, state: TableState::new(), refused };
    let mut table = PageTable::new(format, memory, &tables)
        .map_err(|error| BootError::Area(tables.cause(error)))?;
    for mapping in mappings {
        let &BootMapping { gva, gpa, bytes, attributes, leaves } = mapping.borrow();
        table.map(gva, gpa, bytes, attributes, leaves).map_err(|RangeError { at, error }| {
            BootError::Mapping(RangeError { at, error: tables.cause(error) })
        })?;
    }
    Ok((table.root(), tables.next.get()))
}

/// Makes the root's entry for `gva` refer to a table that is there already: another one's subtree,
/// or the root itself (`table == root`, a *recursive* entry, by which a guest finds its tables).
///
/// The entry must be empty. `table` is neither read nor checked: its level is the one below the
/// root, and its width that of the format's tables there.
///
/// ```
/// # use core::sync::atomic::AtomicU64;
/// use pgtable_x86::{BootMapping, Controls, Levels, LongMode, boot_tables};
/// use pgtable::memory::DirectMap;
/// use pgtable::vcpu::link_boot_table;
/// use pgtable::walk::Walker;
/// use pgtable::{Access, Gpa, Gva, Prot};
///
/// # let words: Vec<AtomicU64> = (0..0x10000 / 8).map(|_| AtomicU64::new(0)).collect();
/// let memory = DirectMap::new(&words, Gpa::new(0));
/// let format = LongMode::new(Levels::Four, Controls::new());
/// let identity = BootMapping::identity(1 << 30, Prot::RWX.into());
/// let boot = boot_tables(format, &memory, Gpa::new(0x9000)..Gpa::new(0xf000), [identity])?;
/// let root = boot.registers.cr3.root();
/// link_boot_table(format, &memory, root, Gva::new(0xffff_ff80_0000_0000), root)?;
///
/// // By its last page the guest finds the root.
/// let walker = Walker::new(format, &memory, root);
/// let found = walker.translate(Gva::new(0xffff_ffff_ffff_f000), Access::READ)?;
/// assert_eq!(found.output, root);
/// # Ok::<(), Box<dyn core::error::Error>>(())
/// ```
///
/// # Errors
/// [`BootError::Mapping`]: [`Error::Range`] if the format has no such address, [`Error::Mapped`] if
/// the entry is in use, [`Error::Unencodable`] if it cannot hold `table`, [`Error::Memory`] if
/// `root` does not stand in `memory`.
pub fn link_boot_table<F: Format<Stage = Stage1>, M: TableMemory<Gpa>>(
    format: F,
    memory: &M,
    root: Gpa,
    gva: Gva,
    table: Gpa,
) -> Result<(), BootError> {
    let wrong = |error| BootError::Mapping(RangeError { at: gva, error });
    let offset = format.offset(gva).ok_or_else(|| wrong(Error::Range))?;
    let node = Node::root(&format, root.get());
    let at = node.position();
    let below = node.level.checked_sub(1).ok_or_else(|| wrong(Error::Range))?;
    let width = format.geometry().width(Level(below));
    let word = format.table(table, width, at).map_err(|error| wrong(error.into()))?;
    let entry = Gpa::new(node.entry::<F>(offset));
    let slot = F::Word::word_in(memory, entry).map_err(|error| wrong(error.into()))?;
    if any_set::<F>(slot, format.bits(at).present) {
        return Err(wrong(Error::Mapped { at }));
    }
    Word::<F>::new(slot).publish(word);
    F::Word::wrote_in(memory, entry, 1);
    Ok(())
}
