//! `memflow`: translation through a connector that may be anything, here memory of this process.
//! The hand-written floor makes its tables.

use std::cell::RefCell;

use memflow::architecture::x86::{X86VirtualTranslate, x64};
use memflow::connector::MappedPhysicalMemory;
use memflow::mem::{MemoryMap, VirtualTranslate3};
use memflow::types::{Address, umem};

use super::hand_written::HandWritten;
use crate::row::Row;
use bench_harness::work::PageTables;

pub const ROWS: &[Row] = &[Row::TranslateHot, Row::TranslateCold, Row::TranslateInOrder];

type Memory = MappedPhysicalMemory<&'static [u8], MemoryMap<&'static [u8]>>;

/// A translator, and the memory it reads, which it wants to itself.
pub struct Table {
    tables: HandWritten,
    memory: RefCell<Memory>,
    translator: X86VirtualTranslate,
}

impl Table {
    pub fn new() -> Self {
        let tables = HandWritten::new();
        let arena = tables.arena();
        let mut map = MemoryMap::new();
        map.push(
            Address::from(arena.start),
            (Address::from(arena.host as umem), arena.bytes as umem),
        );
        // SAFETY: the arena is valid as long as the process, and read only while nobody writes.
        let memory = RefCell::new(unsafe { Memory::from_addrmap(map) });
        let translator = x64::new_translator(Address::from(tables.root()));
        Self { tables, memory, translator }
    }
}

impl PageTables for Table {
    fn reset(&mut self) {
        self.tables.reset();
        self.translator = x64::new_translator(Address::from(self.tables.root()));
    }

    #[inline(always)]
    fn map(&mut self, input: u64, output: u64) {
        self.tables.map(input, output);
    }

    #[inline(always)]
    fn translate(&self, input: u64) -> Option<u64> {
        let mut memory = self.memory.borrow_mut();
        let found = self.translator.virt_to_phys(&mut *memory, Address::from(input)).ok()?;
        Some(found.address().to_umem())
    }
}
