//! `hyperlight-common`'s `vmem`: chains of iterators over four levels. Frees no table.

use std::cell::RefCell;

use hyperlight_common::vmem::{
    self, BasicMapping, Mapping, MappingKind, MayNotMoveTable, TableOps, TableReadOps, Void,
};

use crate::row::Row;
use bench_harness::arena::Frames;
use bench_harness::work::PageTables;

pub const ROWS: &[Row] = &[
    Row::Map,
    Row::TranslateHot,
    Row::TranslateCold,
    Row::TranslateInOrder,
    Row::Iterate,
    Row::Unmap,
    Row::MapRange,
    Row::ProtectRange,
    Row::UnmapRange,
    Row::UnmapMixed,
    Row::ChurnAlone,
    Row::ChurnBeside,
];

const fn kind(writable: bool) -> MappingKind {
    MappingKind::Basic(BasicMapping { readable: true, writable, executable: false })
}

/// Its page table: what it wants to know of the tables' memory.
pub struct Table {
    frames: RefCell<Frames>,
    root: u64,
    offset: u64,
}

impl Table {
    pub fn new() -> Self {
        let mut frames = Frames::default();
        let root = frames.allocate().unwrap();
        Self { root, offset: frames.arena.offset(), frames: RefCell::new(frames) }
    }

    #[inline(always)]
    fn pointer(&self, address: u64) -> *mut u64 {
        address.wrapping_add(self.offset) as *mut u64
    }
}

impl AsRef<Self> for Table {
    fn as_ref(&self) -> &Self {
        self
    }
}

impl TableReadOps for Table {
    type TableAddr = u64;

    #[inline(always)]
    fn entry_addr(table: u64, offset: u64) -> u64 {
        table + offset
    }

    #[inline(always)]
    unsafe fn read_entry(&self, entry: u64) -> u64 {
        // SAFETY: an entry of a table of the arena.
        unsafe { self.pointer(entry).read() }
    }

    #[inline(always)]
    fn to_phys(table: u64) -> u64 {
        table
    }

    #[inline(always)]
    fn from_phys(table: u64) -> u64 {
        table
    }

    #[inline(always)]
    fn root_table(&self) -> u64 {
        self.root
    }
}

impl TableOps for Table {
    type TableMovability = MayNotMoveTable;

    unsafe fn alloc_table(&self) -> u64 {
        self.frames.borrow_mut().allocate().unwrap()
    }

    #[inline(always)]
    unsafe fn write_entry(&self, entry: u64, word: u64) -> Option<Void> {
        // SAFETY: an entry of a table of the arena.
        unsafe { self.pointer(entry).write(word) };
        None
    }

    unsafe fn update_root(&self, root: Void) {
        match root {}
    }
}

impl PageTables for Table {
    fn reset(&mut self) {
        let frames = self.frames.get_mut();
        frames.clear();
        self.root = frames.allocate().unwrap();
    }

    #[inline(always)]
    fn map(&mut self, input: u64, output: u64) {
        self.map_range(input, output, 4096);
    }

    #[inline(always)]
    fn translate(&self, input: u64) -> Option<u64> {
        // SAFETY: nobody changes the tables meanwhile.
        let mapping = unsafe { vmem::virt_to_phys::<Self>(self, input, 1) }.next();
        mapping.map(|mapping| mapping.phys_base | input & 0xfff)
    }

    #[inline(always)]
    fn unmap(&mut self, input: u64) {
        self.unmap_range(input, 4096, 4096);
    }

    #[inline(always)]
    fn map_range(&mut self, input: u64, output: u64, bytes: u64) {
        let mapping = Mapping { phys_base: output, virt_base: input, len: bytes, kind: kind(true) };
        // SAFETY: no processor uses this table, and nobody else changes it.
        unsafe { vmem::map(self, mapping) };
    }

    #[inline(always)]
    fn unmap_range(&mut self, input: u64, bytes: u64, _: u64) {
        let mapping =
            Mapping { phys_base: 0, virt_base: input, len: bytes, kind: MappingKind::Unmapped };
        // SAFETY: as above.
        unsafe { vmem::map(self, mapping) };
    }

    #[inline(never)]
    fn protect_range(&mut self, input: u64, bytes: u64, writable: bool) {
        // SAFETY: as above.
        unsafe { vmem::modify_mapping(self, input, bytes, |_, _| kind(writable)) };
    }

    #[inline(never)]
    fn iterate(&self, input: u64, bytes: u64) -> u64 {
        // SAFETY: nobody changes the tables meanwhile.
        let mappings = unsafe { vmem::virt_to_phys::<Self>(self, input, bytes) };
        mappings.fold(0, |sum, mapping| sum.wrapping_add(mapping.phys_base))
    }
}
