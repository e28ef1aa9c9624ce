//! The guest goes on in another VM: its memory is moved while it runs.
//!
//! Two records say what the guest wrote meanwhile, and neither knows of the other: the trees’
//! dirty bits, which our verb harvests by guest address, and KVM’s log, by guest real address. What
//! either names is sent, and then memory must be the same on both sides. The second VM has nothing
//! of the first but its memory, its process table’s word and where its stubs are.

use std::cell::{Cell, RefCell};
use std::collections::BTreeSet;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use frag_alloc::guest_frames;
use kvm_ppc::Kvm;
use pgtable::memory::GuestTables;
use pgtable::{Access, AccessKind, Gpa, Gva};
use pgtable_ppc64::kvm::{DirtyLog, PpcMmu};
use probe_guest::Probe;
use probe_guest::ppc64::ProbeGuest;
use vm_memory::{Address, Bytes, GuestAddress, GuestMemoryBackend, GuestMemoryMmap};

use super::layout::{LOOKS, MAPPINGS, guest};
use super::shootdown::Shootdown;
use super::{Machine, Space, run_on};
use crate::check::{Answer, Checker};
use crate::report::{Failure, Report};
use crate::space::TableFrames;
use crate::vm::{Ended, Parts, Vm};

/// The guest’s memory is one slot.
const SLOT: u32 = 0;

/// Every access of the table here, the move, and every access there. `page_shift`: of the host.
pub fn run(
    kvm: &Kvm,
    machine: Machine<'_>,
    spaces: &mut [Space<'_>],
    page_shift: u8,
    report: &mut Report,
) -> Result<(), Failure> {
    let memory = machine.parts.memory;
    report.section("before the migration");
    accesses(machine, report)?;

    report.section("migration");
    let bytes = memory.last_addr().raw_value() + 1;
    let there = GuestMemoryMmap::from_ranges(&[(GuestAddress(0), usize::try_from(bytes)?)])?;
    // It puts the guest’s code there, so that it comes before memory is sent.
    let next = RefCell::new(ProbeGuest::new(kvm, there.clone())?);
    machine.guest.borrow().slots().log_dirty_pages(true)?;
    let clean = DirtyLog::new(SLOT, bytes, page_shift);
    let mut log = clean.clone();
    // What was written before is sent now, whichever page it is.
    logged(machine, &mut log)?;
    dirty(machine, spaces, page_shift)?;
    let all = present(memory, page_shift)?;
    send(memory, &there, &all, page_shift)?;
    report.fact("first round", format!("{} pages of 2^{page_shift} bytes", all.len()));

    let stored = stores(machine, page_shift)?;
    let mut log = clean;
    let logged = logged(machine, &mut log)?;
    let dirty = dirty(machine, spaces, page_shift)?;
    report.fact("stores", format!("to {} pages", stored.len()));
    report.fact("the trees say", format!("{} pages", dirty.len()));
    report.fact("KVM says", format!("{} pages", logged.len()));
    let lost = |pages: &BTreeSet<u64>, record: &BTreeSet<u64>| {
        format!("{:x?} lost", pages.difference(record).collect::<Vec<_>>())
    };
    let none = "[] lost".to_owned();
    report.equal(
        "the trees' dirty bits",
        "pages stored to",
        none.clone(),
        lost(&stored, &dirty),
    )?;
    report.equal("KVM's log", "pages stored to", none.clone(), lost(&stored, &logged))?;
    // What the guest writes with relocation off, and dirty bits themselves, no tree says.
    let own = own_pages(machine, page_shift);
    let unsaid: BTreeSet<_> = logged.difference(&own).copied().collect();
    report.equal("the trees' dirty bits", "pages in KVM's log", none, lost(&unsaid, &dirty))?;

    // Harvesting has written to the tables, which the VMM knows itself.
    let last = &(&dirty | &logged) | &own;
    let last: BTreeSet<_> = last.intersection(&present(memory, page_shift)?).copied().collect();
    send(memory, &there, &last, page_shift)?;
    report.fact("last round", format!("{} pages", last.len()));
    let differ = differing(memory, &there, page_shift)?;
    report.equal("memory", "pages that differ", "{}".to_owned(), format!("{differ:x?}"))?;

    report.section("in the second VM");
    let tables = GuestTables::<Gpa>::new(&there)?;
    let frames =
        guest_frames(&there, Gpa::new(guest::FRAMES), guest::FRAME_COUNT, guest::FRAME_SHIFT)?;
    let frames = TableFrames::new(frames)?;
    let shootdown = Shootdown::new(&next)?;
    let moved = Machine {
        guest: &next,
        parts: Parts { memory: &there, tables: &tables, frames: &frames },
        processes: machine.processes,
        running: &Cell::new(None),
        shootdown: &shootdown,
    };
    run_on(moved)?;
    // The dirty bits were harvested: the first store to each page sets its own again.
    stores(moved, page_shift)?;
    accesses(moved, report)
}

/// Every row of the tables.
fn accesses(machine: Machine<'_>, report: &mut Report) -> Result<(), Failure> {
    let mut checker = Checker::new(machine);
    let mapped = MAPPINGS.iter().flat_map(|mapping| mapping.checks::<Machine<'_>>());
    for check in mapped.chain(LOOKS.iter().flat_map(|look| look.checks::<Machine<'_>>())) {
        checker.run(&check, report)?;
    }
    Ok(())
}

/// The guest stores wherever a row lets it; the pages that it stores to.
fn stores(machine: Machine<'_>, page_shift: u8) -> Result<BTreeSet<u64>, Failure> {
    let mut stored = BTreeSet::new();
    let checks = MAPPINGS.iter().flat_map(|mapping| mapping.checks::<Machine<'_>>());
    for (value, check) in (1..).zip(checks) {
        let Answer::Reaches(gpa) = check.expected else { continue };
        if check.access.kind != AccessKind::Write {
            continue;
        }
        machine.run_process(check.pid)?;
        let (address, access) = (check.address, check.access);
        let store = || machine.probe(&Probe { address, access, value });
        let mut ended = store()?;
        // Processors that leave dirty bits to software refuse the first store.
        if matches!(&ended, (Ended::Faulted(it), _) if it.status.reference_change()) {
            machine.record(check.pid, address, access)?;
            ended = store()?;
        }
        match ended {
            (Ended::Done(_), _) => _ = stored.insert(gpa.get() >> page_shift),
            (_, seen) => return Err(format!("a store at {address}: {seen}").into()),
        }
    }
    Ok(stored)
}

/// The pages in KVM’s log since it was last asked.
fn logged(machine: Machine<'_>, log: &mut DirtyLog) -> Result<BTreeSet<u64>, Failure> {
    let guest = machine.guest.borrow();
    // SAFETY: the log was made for the VM’s only slot, and for the host’s pages.
    unsafe { guest.vm().add_dirty_log(log) }?;
    let bits = log.as_bytes().enumerate().flat_map(|(byte, bits)| {
        (0..8).filter(move |bit| bits >> bit & 1 == 1).map(move |bit| byte as u64 * 8 + bit)
    });
    Ok(bits.collect())
}

/// The pages that the trees’ dirty bits name since they were last harvested.
fn dirty(
    machine: Machine<'_>,
    spaces: &mut [Space<'_>],
    page_shift: u8,
) -> Result<BTreeSet<u64>, Failure> {
    let mut dirty = BTreeSet::new();
    for space in spaces {
        let shift = space.format().granule().geometry().page_shift();
        let owner = space.pid;
        let pid = Machine::looker(owner);
        for row in MAPPINGS.iter().filter(|row| row.pid == owner) {
            let start = row.input >> shift << shift;
            let pages = (row.input + row.bytes - start).div_ceil(1 << shift);
            let bits = space.harvest(start, pages << shift)?;
            let set = |page: &u64| bits[(page / 64) as usize] >> (page % 64) & 1 == 1;
            for page in (0..pages).filter(set) {
                let at = Gva::new((start + (page << shift)).max(row.input));
                match machine.translate(pid, at, Access::READ)? {
                    Answer::Reaches(gpa) => _ = dirty.insert(gpa.get() >> page_shift),
                    other => return Err(format!("a dirty page at {at}: {other}").into()),
                }
            }
        }
    }
    Ok(dirty)
}

/// Pages that are written without a tree’s word: the guest’s code, with what it keeps beside, and
/// the tables.
fn own_pages(machine: Machine<'_>, page_shift: u8) -> BTreeSet<u64> {
    let code = 0..machine.guest.borrow().code_size();
    let processes = machine.processes.base().get();
    let tables = u64::from(guest::FRAME_COUNT) << guest::FRAME_SHIFT;
    let ranges = [code, processes..processes + 1, guest::FRAMES..guest::FRAMES + tables];
    ranges.into_iter().flat_map(|it| it.start >> page_shift..=(it.end - 1) >> page_shift).collect()
}

/// Pages that stand in memory: the others are zero on both sides.
fn present(memory: &GuestMemoryMmap, page_shift: u8) -> io::Result<BTreeSet<u64>> {
    /// Bits 63 and 62 of `/proc/PID/pagemap`: in memory, swapped out.
    const PRESENT: u64 = 3 << 62;
    let host = memory.get_host_address(GuestAddress(0)).map_err(io::Error::other)? as u64;
    let pages = (memory.last_addr().raw_value() + 1) >> page_shift;
    let mut words = vec![0; pages as usize * 8];
    File::open("/proc/self/pagemap")?.read_exact_at(&mut words, (host >> page_shift) * 8)?;
    let words =
        words.chunks_exact(8).map(|word| u64::from_ne_bytes(word.try_into().unwrap_or_default()));
    Ok((0..).zip(words).filter(|(_, word)| word & PRESENT != 0).map(|(page, _)| page).collect())
}

/// Copies pages.
fn send(
    from: &GuestMemoryMmap,
    to: &GuestMemoryMmap,
    pages: &BTreeSet<u64>,
    page_shift: u8,
) -> Result<(), Failure> {
    let mut page = vec![0; 1 << page_shift];
    for &number in pages {
        let address = GuestAddress(number << page_shift);
        from.read_slice(&mut page, address)?;
        to.write_slice(&page, address)?;
    }
    Ok(())
}

/// The pages that are not the same on both sides.
fn differing(
    here: &GuestMemoryMmap,
    there: &GuestMemoryMmap,
    page_shift: u8,
) -> Result<BTreeSet<u64>, Failure> {
    let [mut one, mut other] = [0; 2].map(|_| vec![0; 1 << page_shift]);
    let mut differ = BTreeSet::new();
    for number in &present(here, page_shift)? | &present(there, page_shift)? {
        let address = GuestAddress(number << page_shift);
        here.read_slice(&mut one, address)?;
        there.read_slice(&mut other, address)?;
        if one != other {
            differ.insert(number);
        }
    }
    Ok(differ)
}
