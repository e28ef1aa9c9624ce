//! How stale translations become unreachable.
//!
//! The guest's processor: the guest runs INVLPG, or loads CR3 again, as `pgtable-x86` prescribes;
//! it does so on our request, with its own tables still in force. That is all on a host with EPT or
//! NPT, where the processor walks the tables that we edit.
//!
//! A host without them *shadows* the guest's tables, and does not see what the VMM stores there
//! through its own mapping, not even after the guest's INVLPG. There the memory slot is taken away
//! and given back after that, which makes KVM forget its shadow. Which host this is, is found out
//! by trying ([`Shootdown::find_out`]), so that a missing INVLPG shows where it can.

use std::cell::{Cell, RefCell};
use std::io;
use std::sync::atomic::Ordering;

use pgtable::invalidate::{Invalidate, InvalidateFailed, Stale};
use pgtable::memory::TableMemory;
use pgtable::{Access, Gva, Stage1};
use pgtable_x86::{CEILING, Flush};
use probe_guest::Probe;
use probe_guest::x86::{Outcome, ProbeGuest};
use vm_memory::{Bytes, GuestAddress};

use super::layout::PROCESS;
use super::machine::Machine;
use crate::report::Failure;
use crate::vm::Vm;

/// Has the guest invalidate, and the host too if it keeps a shadow.
pub struct Shootdown<'g> {
    guest: &'g RefCell<ProbeGuest>,
    shadowed: Cell<bool>,
    sent: Cell<usize>,
}

impl<'g> Shootdown<'g> {
    pub fn new(guest: &'g RefCell<ProbeGuest>) -> Self {
        Self { guest, shadowed: Cell::new(true), sent: Cell::new(0) }
    }

    /// How many instructions the guest has run for this.
    pub fn sent(&self) -> usize {
        self.sent.get()
    }

    /// Whether the host keeps a shadow.
    pub fn shadowed(&self) -> bool {
        self.shadowed.get()
    }

    /// What was found out about the host.
    pub fn says(&self) -> &'static str {
        if self.shadowed.get() {
            "not seen after INVLPG: this host shadows tables, so its memory slot is renewed after each change"
        } else {
            "seen after INVLPG: the processor walks the guest's own tables"
        }
    }

    /// Moves a user's page by a store of our own to its entry, and looks whether the guest's INVLPG
    /// is enough for it to be seen.
    pub fn find_out(
        &self,
        machine: Machine<'_>,
        (at, places): (u64, [u64; 2]),
    ) -> Result<(), Failure> {
        for (place, value) in places.into_iter().zip(1_u64..) {
            machine.parts.memory.write_obj(value.to_le(), GuestAddress(place))?;
        }
        let probe = Probe { address: Gva::new(at), access: Access::READ.by_user(), value: 0 };
        let load = || self.guest.borrow_mut().probe(&probe);
        let entry =
            machine.walker(PROCESS)?.trace(Gva::new(at)).pop().ok_or("no page to try with")?;
        let word = machine.parts.tables.word(entry.address)?;
        let move_to =
            |place: u64| word.store((entry.word & !places[0] | place).to_le(), Ordering::Release);

        machine.run_process(PROCESS)?;
        let before = load()?;
        move_to(places[1]);
        self.invlpg(Gva::new(at), 1, 12)?;
        let after = load()?;
        move_to(places[0]);
        self.guest.borrow().forget_tables()?;
        self.shadowed.set(match (before, after) {
            (Outcome::Completed { value: 1 }, Outcome::Completed { value: 2 }) => false,
            (Outcome::Completed { value: 1 }, Outcome::Completed { value: 1 }) => true,
            (before, after) => {
                return Err(format!("loads around an edit: {before}, then {after}").into());
            }
        });
        Ok(())
    }

    fn invlpg(&self, start: Gva, pages: u64, shift: u8) -> io::Result<()> {
        self.sent.set(self.sent.get() + pages as usize);
        done(self.guest.borrow_mut().invlpg(start, pages, shift)?)
    }

    fn run(&self, stale: &Stale<Gva>) -> io::Result<()> {
        match Flush::of(stale, CEILING) {
            Flush::Nothing => return Ok(()),
            Flush::Pages(_) => {
                for range in stale.ranges() {
                    self.invlpg(range.start, range.pages(), range.shift)?;
                }
            }
            // No translation is global: CR4.PGE is off.
            Flush::Everything => {
                self.sent.set(self.sent.get() + 1);
                done(self.guest.borrow_mut().flush()?)?;
            }
        }
        if self.shadowed.get() { self.guest.borrow().forget_tables() } else { Ok(()) }
    }
}

fn done(outcome: Outcome) -> io::Result<()> {
    match outcome {
        Outcome::Completed { .. } => Ok(()),
        outcome => Err(io::Error::other(format!("invalidating: {outcome}"))),
    }
}

impl Invalidate<Stage1> for Shootdown<'_> {
    /// The process. It is the running one, or none of its translations are left: there are no
    /// PCIDs.
    type Identity = u32;

    fn invalidate(&self, _: u32, stale: &Stale<Gva>) -> Result<(), InvalidateFailed> {
        self.run(stale).map_err(|error| {
            eprintln!("microvm: {error}");
            InvalidateFailed
        })
    }

    fn abandoned(&self, pid: u32, tables: usize, _: Result<(), InvalidateFailed>) {
        eprintln!("microvm: process {pid}: a change was broken off, {tables} tables are lost");
    }
}
