//! What every part works with: the guest, its memory, and what our libraries keep in that memory.

use std::cell::RefCell;

use arch_ppc64::radix::{Granule, GuestMmu, ProcessScoped, ProcessTable};
use pgtable::{Gpa, GuestTables};
use probe_guest::ppc64::ProbeGuest;
use vm_memory::GuestMemoryMmap;

use crate::shootdown::Shootdown;
use crate::space::TableFrames;

/// The microVM, borrowed in parts: invalidation runs the guest while a space is being changed.
#[derive(Clone, Copy)]
pub struct Machine<'a> {
    pub guest: &'a RefCell<ProbeGuest>,
    pub memory: &'a GuestMemoryMmap,
    /// The same memory, as tables stand in it.
    pub tables: &'a GuestTables<'a, Gpa>,
    pub frames: &'a TableFrames<'a>,
    pub processes: ProcessTable,
    pub shootdown: &'a Shootdown<'a>,
}

impl Machine<'_> {
    /// The guest's MMU as our library sees it while process `pid` runs. (Both granules' trees read
    /// alike.)
    pub fn mmu(&self, pid: u32) -> GuestMmu {
        GuestMmu::new(self.processes.word(), pid, ProcessScoped::new(Granule::K64))
    }
}
