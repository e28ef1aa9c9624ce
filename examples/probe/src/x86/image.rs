//! Guest memory for probing: the guest's own pages and the tables that map them, an image of tables
//! to probe, and what its leaves lead to.
//!
//! The image exists twice: in the guest, where the processor walks it, and as a model beside it, at
//! the same addresses, where the software walker does.

use std::error::Error;
use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};

use kvm_x86::Features;
use pgtable::memory::{GuestTables, TableMemory};
use pgtable::walk::Walker;
use pgtable::{Gpa, Gva};
use pgtable_x86::{Levels, TableEntry};
use probe_guest::x86::{self, Corner};
use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};

const PAGE: u64 = 0x1000;
/// P, R/W, U/S, A: an entry that restricts nothing.
pub const OPEN: u64 = TableEntry::new().with_p(true).with_rw(true).with_us(true).into_bits();
const US: u64 = TableEntry::new().with_us(true).into_bits();
const AD: u64 = 0x60;

/// The last slot of every root leads to the guest's own pages; no probe goes there.
pub const CORNER_SLOT: u64 = 511;
/// Where the guest's own pages are mapped.
pub const CORNER: Corner =
    Corner { supervisor: Gva::new(0xffff_ffff_c000_0000), user: Gva::new(0xffff_ffff_c000_8000) };
/// The tables for them: one of each level, the last first.
const CORNER_TABLES: u64 = 0x4000;

/// The tables to probe; the first one is the root.
pub const IMAGE: Range<u64> = 0x1_0000..0x20_0000;
/// What leaves lead to.
pub const DATA: Range<u64> = 0x40_0000..0x100_0000;
/// What 1-GiB leaves lead to.
pub const GIB_DATA: Range<u64> = 0x4000_0000..0x8000_0000;
/// No memory, from here to the next multiple of 1 GiB.
pub const NOTHING: u64 = 0x2000_0000;

/// The memory of a guest that is probed, and the model of its tables.
pub struct Machine {
    pub memory: GuestMemoryMmap,
    model: Vec<AtomicU64>,
}

impl Machine {
    /// Reserves memory.
    pub fn new(features: &Features) -> Result<Self, Box<dyn Error>> {
        let mut ranges = vec![(GuestAddress(0), usize::try_from(DATA.end)?)];
        if features.gib_pages {
            ranges.push((
                GuestAddress(GIB_DATA.start),
                usize::try_from(GIB_DATA.end - GIB_DATA.start)?,
            ));
        }
        let memory = GuestMemoryMmap::from_ranges(&ranges)?;
        let words = (IMAGE.end - IMAGE.start) / 8;
        let machine = Self { memory, model: (0..words).map(|_| AtomicU64::new(0)).collect() };
        machine.corner()?;
        Ok(machine)
    }

    /// Builds the tables of the guest's own pages.
    fn corner(&self) -> Result<(), Box<dyn Error>> {
        let put = |level: u64, index: u64, word: u64| {
            self.memory
                .write_obj(word.to_le(), GuestAddress(CORNER_TABLES + level * PAGE + index * 8))
        };
        let first = CORNER.supervisor.get() >> 12 & 511;
        for page in 0..x86::BYTES / PAGE {
            put(0, first + page, (OPEN & !US) | AD | (x86::CODE.get() + page * PAGE))?;
        }
        put(0, CORNER.user.get() >> 12 & 511, OPEN | AD | x86::CODE.get())?;
        for level in 1..=3 {
            let index = CORNER.supervisor.get() >> (12 + 9 * level) & 511;
            put(level, index, corner_entry(level))?;
        }
        Ok(())
    }

    /// The processor's tables, and the model.
    pub fn tables(
        &self,
    ) -> Result<(GuestTables<'_, Gpa>, pgtable::memory::DirectMap<'_, Gpa>), Box<dyn Error>> {
        let model = pgtable::memory::DirectMap::new(&self.model, Gpa::new(IMAGE.start));
        Ok((GuestTables::new(&self.memory)?, model))
    }

    /// Begins a new image of tables.
    pub fn image(&self, levels: Levels) -> Image<'_> {
        for word in &self.model {
            word.store(0, Ordering::Relaxed);
        }
        let top = if levels == Levels::Five { 4 } else { 3 };
        let mut image = Image { machine: self, next: IMAGE.start };
        let root = image.table().unwrap_or(IMAGE.start);
        image.put(root, CORNER_SLOT, corner_entry(top));
        image
    }
}

/// The entry of `level` on the way to the guest's own pages.
fn corner_entry(level: u64) -> u64 {
    OPEN | 0x20 | (CORNER_TABLES + (level - 1) * PAGE)
}

/// An image of tables that is being written.
pub struct Image<'m> {
    machine: &'m Machine,
    next: u64,
}

impl Image<'_> {
    /// An empty table, if there is room.
    pub fn table(&mut self) -> Option<u64> {
        let table = self.next;
        self.next += PAGE;
        (self.next <= IMAGE.end).then_some(table)
    }

    /// How many more tables there is room for.
    pub fn room(&self) -> u64 {
        (IMAGE.end - self.next) / PAGE
    }

    /// Writes an entry.
    pub fn put(&mut self, table: u64, index: u64, word: u64) {
        if let Some(slot) = self.machine.model.get(((table - IMAGE.start) / 8 + index) as usize) {
            slot.store(word.to_le(), Ordering::Relaxed);
        }
    }

    /// Copies it to where the processor walks it.
    pub fn done(self) -> Result<(), Box<dyn Error>> {
        let bytes: Vec<u8> = self
            .machine
            .model
            .iter()
            .flat_map(|word| word.load(Ordering::Relaxed).to_ne_bytes())
            .collect();
        Ok(self.machine.memory.write_slice(&bytes, GuestAddress(IMAGE.start))?)
    }
}

/// A reader of the model.
pub type Model<'m> = Walker<pgtable_x86::LongMode, pgtable::memory::DirectMap<'m, Gpa>>;

/// The word at `address`, as the architecture has it.
pub fn load<M: TableMemory<Gpa>>(
    memory: &M,
    address: Gpa,
) -> Result<u64, pgtable::memory::MemoryError> {
    Ok(u64::from_le(memory.word(address)?.load(Ordering::Acquire)))
}
