//! How stale translations become unreachable: the guest runs `tlbie`, on our request.
//!
//! A guest's process-scoped translations are its own to invalidate; it has LPCR\[GTSE\], so it may.
//! The VMM changes the tables while the guest is stopped, and has it run what `pgtable-ppc64`
//! prescribes before anything else.

use std::cell::{Cell, RefCell};
use std::io;

use pgtable::invalidate::{Invalidate, InvalidateFailed, Stale};
use pgtable::{Gva, Stage1};
use pgtable_ppc64::radix::{Invalidation, Processor, Reach, Step, Tlbie};
use probe_guest::ppc64::{Outcome, ProbeGuest};

/// Has the guest run `tlbie`.
pub struct Shootdown<'g> {
    guest: &'g RefCell<ProbeGuest>,
    processor: Processor,
    sent: Cell<usize>,
}

impl<'g> Shootdown<'g> {
    pub fn new(guest: &'g RefCell<ProbeGuest>) -> io::Result<Self> {
        let processor = Processor::of_pvr(guest.borrow().pvr()?);
        Ok(Self { guest, processor, sent: Cell::new(0) })
    }

    /// How many `tlbie` the guest has run.
    pub fn sent(&self) -> usize {
        self.sent.get()
    }

    /// The guest runs each `tlbie` between the synchronising instructions that a sequence of them
    /// needs.
    fn run(&self, it: Tlbie<Stage1>) -> io::Result<()> {
        self.sent.set(self.sent.get() + 1);
        match self.guest.borrow_mut().tlbie(it)? {
            Outcome::Completed { .. } => Ok(()),
            outcome => Err(io::Error::other(format!("tlbie: {outcome}"))),
        }
    }
}

impl Invalidate<Stage1> for Shootdown<'_> {
    /// The process.
    type Identity = u32;

    fn invalidate(&self, pid: u32, stale: &Stale<Gva>) -> Result<(), InvalidateFailed> {
        // The guest does not know its LPID, and the processor does not look at it.
        let invalidation = Invalidation::of_process(pid, 0, Reach::Global, self.processor);
        let mut result = Ok(());
        invalidation.steps(stale, |step| {
            if let (Step::Tlbie(it), Ok(())) = (step, &result) {
                result = self.run(it);
            }
        });
        result.map_err(|error| {
            eprintln!("microvm: {error}");
            InvalidateFailed
        })
    }

    fn abandoned(&self, pid: u32, tables: usize, _: Result<(), InvalidateFailed>) {
        eprintln!("microvm: process {pid}: a change was broken off, {tables} tables are lost");
    }
}
