//! The second stage of a bare-metal hypervisor, without `alloc`: tables from a static array with a
//! 16-KiB root, a guest's memory, a dirty log, what the trap handler makes of a guest-page fault,
//! and the fences after an unmap.

use core::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use pgtable::allocator::{AllocError, Contents, TableAllocator, TableLayout, TableState};
use pgtable::invalidate::{Gather, Unused};
use pgtable::memory::DirectMap;
use pgtable::tree::PageTable;
use pgtable::{Gpa, Hpa, Leaves, Prot};
use pgtable_riscv64::{CEILING, Exception, GuestControls, Mode, SvX4, Trap, hfence_gvma};

const BYTES: usize = 0x1_0000;
/// Where the linker would have put the array.
const START: Hpa = Hpa::new(0x8010_0000);
static MEMORY: [AtomicU64; BYTES / 8] = [const { AtomicU64::new(0) }; BYTES / 8];
static STATES: [TableState; BYTES / 0x1000] = [const { TableState::new() }; BYTES / 0x1000];
static USED: AtomicUsize = AtomicUsize::new(0);

/// Hands out each table once: this hypervisor never takes its map down.
struct Static;

impl TableAllocator<Hpa> for Static {
    fn allocate(&self, layout: TableLayout) -> Result<Hpa, AllocError> {
        let next = USED.load(Ordering::Relaxed).next_multiple_of(layout.bytes());
        if next + layout.bytes() > BYTES {
            return Err(AllocError::Exhausted { layout });
        }
        USED.store(next + layout.bytes(), Ordering::Relaxed);
        Ok(Hpa::new(START.get() + next as u64))
    }

    fn free(&self, table: Hpa, _: TableLayout, _: Contents) -> Result<(), AllocError> {
        Err(AllocError::NotLive { address: table.get() })
    }

    fn state(&self, table: Hpa, _: TableLayout) -> Option<&TableState> {
        STATES.get(table.get().checked_sub(START.get())? as usize / 0x1000)
    }
}

fn main() -> Result<(), Box<dyn core::error::Error>> {
    const RAM: Gpa = Gpa::new(0x8000_0000);
    let format = SvX4::new(Mode::Sv39, GuestControls::new());
    let mut guest = PageTable::new(format, DirectMap::new(&MEMORY, START), Static)?;
    let vmid = 1;
    println!("hgatp {:#x}", format.hgatp(guest.root(), vmid).into_bits());

    // 64 MiB of memory, all but the last 2 MiB of it writable.
    let mut gather = Gather::new(&Unused, ());
    guest.map(RAM, Hpa::new(0x9000_0000), 64 << 20, Prot::RWX.into(), Leaves::Largest)?;
    guest.protect(Gpa::new(0x83e0_0000), 2 << 20, Prot::R, &mut gather)?;
    for fence in hfence_gvma(gather.stale(), Some(vmid), false, CEILING) {
        println!("{fence:x?}: {:#010x}", fence.encoding(10, 11)); // rs1 in a0, rs2 in a1
    }
    gather.finish(guest.tables())?;

    // A trap into HS-mode: scause, stval, htval, htinst. The guest ran with its own tables.
    let trap =
        Trap::from_registers(23, 0xffff_ffd8_0000_1008, 0x83e0_1008 >> 2, 0).ok_or("not ours")?;
    let gpa = trap.gpa(true).ok_or("no guest-page fault")?;
    assert_eq!((trap.exception, gpa), (Exception::StoreGuestPageFault, Gpa::new(0x83e0_1008)));
    let fault = guest.translate(gpa, trap.access()).expect_err("read-only");
    println!("{trap}\n{fault}");
    assert_eq!(fault.arch, trap.exception);
    Ok(())
}
