//! How stale translations become unreachable: the guest runs the SFENCE.VMA that `pgtable-riscv64`
//! prescribes, on our request, with its own tables still in force.

use std::cell::{Cell, RefCell};
use std::io;

use pgtable::invalidate::{Invalidate, InvalidateFailed, Stale};
use pgtable::{Gva, Stage1};
use pgtable_riscv64::{CEILING, Fence, sfence_vma};
use probe_guest::riscv64::{Outcome, ProbeGuest};

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

    fn fence(&self, fence: Fence, asid: u16) -> io::Result<()> {
        self.sent.set(self.sent.get() + 1);
        match self.guest.borrow_mut().sfence(fence.rs1.map(Gva::new), asid)? {
            Outcome::Completed { .. } => Ok(()),
            outcome => Err(io::Error::other(format!("SFENCE.VMA: {outcome}"))),
        }
    }

    fn run(&self, asid: u16, stale: &Stale<Gva>) -> io::Result<()> {
        sfence_vma(stale, Some(asid), false, CEILING).try_for_each(|fence| self.fence(fence, asid))
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
