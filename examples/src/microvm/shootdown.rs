//! How stale translations become unreachable: the guest runs `tlbie`, on our request.
//!
//! A guest's process-scoped translations are its own to invalidate; it has LPCR\[GTSE\], so it may. The VMM changes the tables
//! while the guest is stopped, and has it run `ptesync; tlbie; eieio; tlbsync; ptesync` before anything else.

use std::cell::{Cell, RefCell};
use std::io;

use arch_ppc64::radix::PageSize;
use examples::guest::ppc64::{Outcome, ProbeGuest, Ric};
use pgtable::{Gva, Invalidate, InvalidateFailed, Stage1, Stale};

/// Pages up to which each is invalidated by itself: as Linux on POWER.
const CEILING: u64 = 33;

/// Has the guest run `tlbie`.
pub struct Shootdown<'g> {
    guest: &'g RefCell<ProbeGuest>,
    sent: Cell<usize>,
}

impl<'g> Shootdown<'g> {
    pub fn new(guest: &'g RefCell<ProbeGuest>) -> Self {
        Self { guest, sent: Cell::new(0) }
    }

    /// How many `tlbie` the guest has run.
    pub fn sent(&self) -> usize {
        self.sent.get()
    }

    fn tlbie(&self, ric: Ric, rb: u64, pid: u32) -> io::Result<()> {
        self.sent.set(self.sent.get() + 1);
        match self.guest.borrow_mut().tlbie(ric, rb, rs(pid))? {
            Outcome::Completed { .. } => Ok(()),
            outcome => Err(io::Error::other(format!("tlbie: {outcome}"))),
        }
    }

    fn run(&self, pid: u32, stale: &Stale<Gva>) -> io::Result<()> {
        let pages: u64 = stale.ranges().iter().map(pgtable::StaleRange::pages).sum();
        match (stale.everything(), stale.tables(), pages) {
            (true, ..) => self.tlbie(Ric::All, RB_PROCESS, pid),
            (_, true, CEILING..) => self.tlbie(Ric::All, RB_PROCESS, pid),
            (_, false, CEILING..) => self.tlbie(Ric::Tlb, RB_PROCESS, pid),
            (_, tables, _) => {
                if tables {
                    self.tlbie(Ric::PageWalkCache, RB_PROCESS, pid)?;
                }
                for range in stale.ranges() {
                    for page in 0..range.pages() {
                        let address = range.start.get() + (page << range.shift);
                        self.tlbie(Ric::Tlb, rb_page(Gva::new(address), range.shift), pid)?;
                    }
                }
                Ok(())
            }
        }
    }
}

impl Invalidate<Stage1> for Shootdown<'_> {
    /// The process.
    type Identity = u32;

    fn invalidate(&self, pid: u32, stale: &Stale<Gva>) -> Result<(), InvalidateFailed> {
        self.run(pid, stale).map_err(|error| {
            eprintln!("microvm: {error}");
            InvalidateFailed
        })
    }

    fn abandoned(&self, pid: u32, stale: &Stale<Gva>, tables: usize) {
        eprintln!("microvm: process {pid}: dropped with {stale:?} and {tables} tables");
    }
}

/// RB: all of a process (IS = 1).
const RB_PROCESS: u64 = 1 << 10;

/// RB: one page (IS = 0), by effective page number and actual page size (ISA 5.9.3.3).
pub fn rb_page(address: Gva, shift: u8) -> u64 {
    let ap = PageSize::of_shift(shift).map_or(0, PageSize::ap);
    address.get() & !0xfff | u64::from(ap) << 5
}

/// RS: the process. (The partition is the guest's own, whatever stands here.)
pub fn rs(pid: u32) -> u64 {
    u64::from(pid) << 32
}
