//! A guest: memory in two regions, some pages of it mapped, and the registers by which they are.

use pgtable::memory::GuestTables;
use pgtable::{Gpa, Gva, Prot};
use pgtable_x86::{BootMapping, BootTables, Controls, Levels, LongMode, boot_tables};
use vm_memory::{GuestAddress, GuestMemoryMmap};

/// Bytes of each region.
pub const REGION: u64 = 32 << 20;
/// Where the second region begins.
pub const SECOND: u64 = 1 << 32;
/// Pages that are mapped, each by an entry of its own.
pub const PAGES: u64 = 4096;

const PAGE: u64 = 4096;
/// Where the tables stand.
const TABLES: std::ops::Range<u64> = 0x10_0000..0x20_0000;
/// The first page's address.
const START: u64 = 0x7f00_0000_0000;
/// An odd number of pages, by which both the addresses and the pages behind them are apart.
const STRIDE: u64 = 1277;

/// A guest's memory and registers.
pub struct Guest {
    pub memory: GuestMemoryMmap,
    pub boot: BootTables,
}

/// Where page `number` is, for the guest.
pub fn address(number: u64) -> Gva {
    Gva::new(START + (number * STRIDE % PAGES) * PAGE)
}

/// And where in its memory: in the second region, which the tables are not in.
pub fn page(number: u64) -> Gpa {
    Gpa::new(SECOND + (number * (STRIDE + 2) % PAGES) * PAGE)
}

impl Guest {
    pub fn new() -> Self {
        let regions = [(GuestAddress(0), REGION as usize), (GuestAddress(SECOND), REGION as usize)];
        let memory = GuestMemoryMmap::from_ranges(&regions).expect("guest memory");
        let mappings = (0..PAGES)
            .map(|number| BootMapping::new(address(number), page(number), PAGE, Prot::RW.into()));
        let tables = GuestTables::<Gpa>::new(&memory).expect("guest memory has regions");
        let format = LongMode::new(Levels::Four, Controls::new());
        let within = Gpa::new(TABLES.start)..Gpa::new(TABLES.end);
        let boot = boot_tables(format, &tables, within, mappings).expect("boot tables");
        Self { memory, boot }
    }
}
