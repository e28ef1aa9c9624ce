//! The second stage of a bare-metal hypervisor, without `alloc`: tables from a static array, an
//! identity map of the machine with a hole for the hypervisor itself, and what its exit handler
//! says to an EPT violation.

use core::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use pgtable::allocator::{AllocError, Contents, TableAllocator, TableLayout, TableState};
use pgtable::memory::DirectMap;
use pgtable::tree::PageTable;
use pgtable::{Access, Gpa, Hpa, Leaves, Prot};
use pgtable_x86::{Ept, EptControls, Levels};

const PAGE: usize = 4096;
const TABLES: usize = 16;
/// Where the linker would have put the array.
const START: Hpa = Hpa::new(0x10_0000);

static MEMORY: [AtomicU64; TABLES * PAGE / 8] = [const { AtomicU64::new(0) }; TABLES * PAGE / 8];
static STATES: [TableState; TABLES] = [const { TableState::new() }; TABLES];
static USED: AtomicUsize = AtomicUsize::new(0);

/// Hands out each table once: this hypervisor never takes its map down.
struct Static;

impl TableAllocator<Hpa> for Static {
    fn allocate(&self, layout: TableLayout) -> Result<Hpa, AllocError> {
        let table = USED.fetch_add(1, Ordering::Relaxed);
        if table >= TABLES || layout.bytes() != PAGE {
            return Err(AllocError::Exhausted { layout });
        }
        Ok(Hpa::new(START.get() + (table * PAGE) as u64))
    }

    fn free(&self, table: Hpa, _: TableLayout, _: Contents) -> Result<(), AllocError> {
        Err(AllocError::NotLive { address: table.get() })
    }

    fn state(&self, table: Hpa, _: TableLayout) -> Option<&TableState> {
        let index = table.get().checked_sub(START.get())? as usize / PAGE;
        STATES.get(index).filter(|_| index < USED.load(Ordering::Relaxed))
    }
}

fn main() -> Result<(), Box<dyn core::error::Error>> {
    const MIB: u64 = 1 << 20;
    const GIB: u64 = 1 << 30;
    let format = Ept::new(Levels::Four, EptControls::new());
    let memory = DirectMap::new(&MEMORY, START);
    let mut ept = PageTable::new(format, memory, Static)?;
    // Everything but the 2 MiB in which the hypervisor stands, in the largest leaves that fit.
    for (start, bytes) in [(2 * MIB, 2 * MIB), (4 * MIB, 4 * GIB - 4 * MIB)] {
        let (gpa, hpa) = (Gpa::new(start), Hpa::new(start));
        ept.map(gpa, hpa, bytes, Prot::RWX.into(), Leaves::Largest)?;
    }
    println!(
        "EPTP {:#x}, {} tables",
        format.eptp(ept.root()).into_bits(),
        USED.load(Ordering::Relaxed)
    );

    // VM exit 48: what the processor reports, and what the guest tried.
    let fault = ept.translate(Gpa::new(MIB), Access::WRITE).expect_err("not allowed");
    println!("{fault}");
    assert!(ept.translate(Gpa::new(3 * GIB), Access::FETCH).is_ok());
    Ok(())
}
