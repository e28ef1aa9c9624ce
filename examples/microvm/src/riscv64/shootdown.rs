//! How stale translations become unreachable: the guest runs SFENCE.VMA, on our request, with its
//! own tables still in force.

use std::cell::{Cell, RefCell};
use std::io;

use pgtable::{Gva, Invalidate, InvalidateFailed, Stage1, Stale};
use probe_guest::riscv64::{Outcome, ProbeGuest};

/// More pages than that are invalidated with all of their address space.
const CEILING: u64 = 64;

/// Has the guest run SFENCE.VMA.
pub struct Shootdown<'g> {
    guest: &'g RefCell<ProbeGuest>,
    sent: Cell<usize>,
}

impl<'g> Shootdown<'g> {
    pub fn new(guest: &'g RefCell<ProbeGuest>) -> Self {
        Self { guest, sent: Cell::new(0) }
    }

    /// How many SFENCE.VMA the guest has run.
    pub fn sent(&self) -> usize {
        self.sent.get()
    }

    fn fence(&self, address: Option<Gva>, asid: u16) -> io::Result<()> {
        self.sent.set(self.sent.get() + 1);
        match self.guest.borrow_mut().sfence(address, asid)? {
            Outcome::Completed { .. } => Ok(()),
            outcome => Err(io::Error::other(format!("SFENCE.VMA: {outcome}"))),
        }
    }

    /// A fence for one address orders leaf entries only ("Supervisor Memory-Management Fence
    /// Instruction"): where tables left the tree, one without an address is run.
    fn run(&self, asid: u16, stale: &Stale<Gva>) -> io::Result<()> {
        if stale.is_empty() {
            return Ok(());
        }
        let pages: u64 = stale.ranges().iter().map(|range| range.pages()).sum();
        if stale.everything() || stale.tables() || pages > CEILING {
            return self.fence(None, asid);
        }
        for range in stale.ranges() {
            for page in 0..range.pages() {
                let address = range.start.get().wrapping_add(page << range.shift);
                self.fence(Some(Gva::new(address)), asid)?;
            }
        }
        Ok(())
    }
}

impl Invalidate<Stage1> for Shootdown<'_> {
    /// The process, which is its ASID.
    type Identity = u32;

    fn invalidate(&self, pid: u32, stale: &Stale<Gva>) -> Result<(), InvalidateFailed> {
        self.run(pid as u16, stale).map_err(|error| {
            eprintln!("microvm: {error}");
            InvalidateFailed
        })
    }

    fn abandoned(&self, pid: u32, tables: usize, _: Result<(), InvalidateFailed>) {
        eprintln!("microvm: process {pid}: a change was broken off, {tables} tables are lost");
    }
}
