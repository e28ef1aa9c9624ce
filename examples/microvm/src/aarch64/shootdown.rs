//! How stale translations become unreachable: the guest runs the TLBI operations that
//! `pgtable-aarch64` prescribes, on our request, with its own tables still in force.

use std::cell::{Cell, RefCell};
use std::io;

use pgtable::invalidate::{Invalidate, InvalidateFailed, Stale};
use pgtable::{Gva, Stage1};
use pgtable_aarch64::{Asids, Tlbi, TlbiFeatures, tlbi_stage1};
use probe_guest::aarch64::{Outcome, ProbeGuest};

use super::layout::KERNEL;

/// Has the guest run TLBI.
pub struct Shootdown<'g> {
    guest: &'g RefCell<ProbeGuest>,
    features: TlbiFeatures,
    sent: Cell<usize>,
}

impl<'g> Shootdown<'g> {
    pub fn new(guest: &'g RefCell<ProbeGuest>, features: TlbiFeatures) -> Self {
        Self { guest, features, sent: Cell::new(0) }
    }

    /// How many TLBI the guest has run.
    pub fn sent(&self) -> usize {
        self.sent.get()
    }

    fn run(&self, operation: Tlbi) -> io::Result<()> {
        self.sent.set(self.sent.get() + 1);
        match self.guest.borrow_mut().tlbi(operation)? {
            Outcome::Completed { .. } => Ok(()),
            outcome => Err(io::Error::other(format!("{operation:x?}: {outcome}"))),
        }
    }
}

impl Invalidate<Stage1> for Shootdown<'_> {
    /// The process, which is its ASID. The kernel's pages belong to all.
    type Identity = u32;

    fn invalidate(&self, pid: u32, stale: &Stale<Gva>) -> Result<(), InvalidateFailed> {
        let asids = if pid == KERNEL { Asids::All } else { Asids::One(pid as u16) };
        let mut operations = tlbi_stage1(stale, asids, self.features);
        operations.try_for_each(|operation| self.run(operation)).map_err(|error| {
            eprintln!("microvm: {error}");
            InvalidateFailed
        })
    }

    fn abandoned(&self, pid: u32, tables: usize, _: Result<(), InvalidateFailed>) {
        eprintln!("microvm: process {pid}: a change was broken off, {tables} tables are lost");
    }
}
