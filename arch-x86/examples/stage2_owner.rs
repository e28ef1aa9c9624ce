//! The owner of a guest's memory on Intel (with and without A/D flags) and on AMD: pages are
//! faulted in, a dirty log is kept, and the host takes pages back.

use core::{error::Error, fmt::Debug, sync::atomic::AtomicU64};

use frag_alloc::{Cache, Frames, Kind, Owner, Policy, Region};
use pgtable::format::SecondStage;
use pgtable::invalidate::{Invalidate, InvalidateFailed, Stale};
use pgtable::memory::DirectMap;
use pgtable::second_stage::{HostPage, MemorySlot, PageState, Stage2Tree};
use pgtable::{Access, AccessKind, Gpa, Hpa, Prot, Stage2};
use pgtable_x86::{Ept, EptControls, Eptp, Levels, Npt, NptControls, PML_ENTRIES};

/// Prints what a hypervisor executes on every CPU that runs the guest.
struct Shootdown<T>(fn(T, &Stale<Gpa>) -> String);

impl<T: Copy + Eq + Debug> Invalidate<Stage2> for Shootdown<T> {
    type Identity = T;
    fn invalidate(&self, guest: T, stale: &Stale<Gpa>) -> Result<(), InvalidateFailed> {
        println!("  {}", self.0(guest, stale));
        Ok(())
    }
    fn abandoned(&self, guest: T, tables: usize, _: Result<(), InvalidateFailed>) {
        panic!("{guest:?}: {tables} tables are lost");
    }
}

fn life<F: SecondStage, T: Copy + Eq + Debug>(
    format: F,
    name: fn(&F, Hpa) -> T,
    by: &Shootdown<T>,
) -> Result<(), Box<dyn Error>> {
    let words: Vec<_> = (0..64 * 512).map(|_| AtomicU64::new(0)).collect();
    let memory = DirectMap::new(&words, Hpa::new(1 << 20));
    let frames = Frames::new(Region::new(memory, Hpa::new(1 << 20), 4, 16)?)?;
    let cache = Cache::new(&frames, Owner(1), Kind::User, Policy::Reuse);
    let mut stage = Stage2Tree::new(format, memory, &cache, name(&format, Hpa::new(0)))?;
    stage.set_identity(name(&format, stage.root()));
    let (gpa, bytes, hva) = (Gpa::new(0), 0x10_0000, 0x7f00_0000_0000);
    let slot = MemorySlot { gpa, bytes, hva, read_only: false, logged: true };
    // Nested page faults: a ticket, the host's page (looked up without the lock), the leaf.
    let mut gather = stage.gather(by);
    for at in [0x1008, 0x2008, 0x3008].map(Gpa::new) {
        println!("  {}", stage.walker().translate(at, Access::WRITE).expect_err("not mapped"));
        let (ticket, frame) = (stage.ticket(), Hpa::new(1 << 30 | at.get() & !0xfff));
        let host = HostPage { frame, shift: 12, attributes: Prot::RWX.into() };
        stage.fault_in(ticket, at, AccessKind::Write, &slot, host, &mut gather, |_| ())?;
    }
    // A round of the log: collect, invalidate, and only then send the pages.
    let mut send = Vec::new();
    stage.clear_dirty(gpa, bytes, &mut gather, |state| send.push(state.leaf.input.get()))?;
    stage.finish(&mut gather)?;
    // A store: the processor sets D, and logs the page (PML); without flags the store exits.
    let (mut gather, mut log) = (stage.gather(by), [0; PML_ENTRIES]);
    let at = Gpa::new(0x2008);
    assert!(stage.walker().access(at, Access::WRITE).is_ok() || stage.redirty(at, &mut gather)?);
    log[511] = 0x2000;
    let note = |state: PageState<F>| send.push(state.leaf.input.get());
    stage.clear_logged(pgtable_x86::logged_pages(&log, 510), &mut gather, note)?;
    assert!(stage.write_protect(gpa, bytes, &mut gather)? <= 3);
    // The host wants a page back (its notifier), which is told as hardware left it.
    stage.invalidation_begins();
    stage.unmap(Gpa::new(0x3000), 1, &mut gather, |state| assert!(!state.dirty))?;
    stage.finish(&mut gather)?;
    stage.invalidation_ends();
    assert_eq!(send, [0x1000, 0x2000, 0x3000, 0x2000]);
    Ok(stage.destroy(by).map(|_| ()).map_err(|(_, error)| error)?)
}

fn main() -> Result<(), Box<dyn Error>> {
    for accessed_dirty in [true, false] {
        println!("EPT, accessed and dirty flags: {accessed_dirty}");
        let controls = EptControls { accessed_dirty, ..EptControls::new() };
        let by = Shootdown(|eptp: Eptp, stale| format!("{:x?}", pgtable_x86::invept(stale, eptp)));
        life(Ept::new(Levels::Four, controls), Ept::eptp, &by)?;
    }
    println!("nested paging");
    let by = Shootdown(|_: u32, stale| format!("{:?}", pgtable_x86::tlb_control(stale, true)));
    life(Npt::new(Levels::Four, NptControls::new()), |_, _| 7, &by)
}
