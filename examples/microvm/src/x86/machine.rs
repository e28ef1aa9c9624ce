//! What every part works with: the guest, its memory, its processes, and what our libraries keep in
//! that memory.

use std::cell::{Cell, RefCell};

use arch_x86::LongMode;
use pgtable::{Gpa, GuestTables, Walker};
use probe_guest::x86::ProbeGuest;
use vm_memory::{GuestAddress, GuestMemoryBackend, GuestMemoryMmap};

use super::shootdown::Shootdown;
use crate::report::Failure;
use crate::space::TableFrames;

/// Which tree each process has, and which one runs.
pub struct Processes {
    format: LongMode,
    roots: Vec<(u32, Gpa)>,
    running: Cell<Option<u32>>,
}

impl Processes {
    pub fn new(format: LongMode, roots: impl Iterator<Item = (u32, Gpa)>) -> Self {
        Self { format, roots: roots.collect(), running: Cell::new(None) }
    }

    pub fn all(&self) -> impl Iterator<Item = (u32, Gpa)> {
        self.roots.iter().copied()
    }

    fn root(&self, pid: u32) -> Result<Gpa, Failure> {
        let found = self.roots.iter().find(|(it, _)| *it == pid);
        Ok(found.ok_or_else(|| format!("there is no process {pid}"))?.1)
    }
}

/// The microVM, borrowed in parts: invalidation runs the guest while a space is being changed.
#[derive(Clone, Copy)]
pub struct Machine<'a> {
    pub guest: &'a RefCell<ProbeGuest>,
    pub memory: &'a GuestMemoryMmap,
    /// The same memory, as tables stand in it.
    pub tables: &'a GuestTables<'a, Gpa>,
    pub frames: &'a TableFrames<'a>,
    pub processes: &'a Processes,
    pub shootdown: &'a Shootdown<'a>,
}

impl<'a> Machine<'a> {
    /// A reader of a process's tree, as the guest's processor is one.
    pub fn walker(&self, pid: u32) -> Result<Walker<LongMode, &'a GuestTables<'a, Gpa>>, Failure> {
        Ok(Walker::new(self.processes.format, self.tables, self.processes.root(pid)?))
    }

    /// Lets the guest run another process: loads its CR3, at which the processor forgets the last
    /// one's translations.
    pub fn run_process(&self, pid: u32) -> Result<(), Failure> {
        if self.processes.running.replace(Some(pid)) != Some(pid) {
            let registers = self.processes.format.registers(self.processes.root(pid)?);
            self.guest.borrow_mut().set_registers(registers);
        }
        Ok(())
    }

    /// Whether there is memory.
    pub fn is_memory(&self, gpa: u64) -> bool {
        self.memory.address_in_range(GuestAddress(gpa))
    }
}
