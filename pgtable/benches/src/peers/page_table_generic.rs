//! `page-table-generic`, with x86-64's entries. The one peer that frees empty tables as pages are
//! unmapped.

use std::sync::Mutex;

use page_table_generic::{
    FrameAllocator, MapConfig, PageTable, PageTableEntry, PhysAddr, TableMeta, VirtAddr, WalkConfig,
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

/// A word of x86-64's tables.
#[derive(Clone, Copy, Debug)]
pub struct Word(u64);

const PRESENT: u64 = 1;
const WRITABLE: u64 = 2;
const HUGE: u64 = 1 << 7;
const ADDRESS: u64 = 0x000f_ffff_ffff_f000;

impl PageTableEntry for Word {
    /// Whether the page is writable.
    type PteConfig = bool;

    #[inline(always)]
    fn new_page(output: PhysAddr, writable: bool, huge: bool) -> Self {
        let flags = PRESENT | if writable { WRITABLE } else { 0 } | if huge { HUGE } else { 0 };
        Self(output.as_usize() as u64 | flags)
    }

    #[inline(always)]
    fn new_table(table: PhysAddr) -> Self {
        Self(table.as_usize() as u64 | PRESENT | WRITABLE)
    }

    #[inline(always)]
    fn paddr(&self, _: bool) -> PhysAddr {
        PhysAddr::from_usize((self.0 & ADDRESS) as usize)
    }

    #[inline(always)]
    fn config(&self, _: bool) -> bool {
        self.0 & WRITABLE != 0
    }

    #[inline(always)]
    fn present(&self) -> bool {
        self.0 & PRESENT != 0
    }

    #[inline(always)]
    fn huge(&self, directory: bool) -> bool {
        directory && self.0 & HUGE != 0
    }

    #[inline(always)]
    fn unused(&self) -> bool {
        self.0 == 0
    }

    #[inline(always)]
    fn clear(&mut self) {
        self.0 = 0;
    }
}

/// Four levels of nine bits.
#[derive(Clone, Copy)]
pub struct FourLevels;

impl TableMeta for FourLevels {
    type P = Word;

    const PAGE_SIZE: usize = 4096;
    const LEVEL_BITS: &[usize] = &[9, 9, 9, 9];
    const MAX_BLOCK_LEVEL: usize = 3;

    #[inline(always)]
    fn flush(_: Option<VirtAddr>) {}
}

/// A handle to frames; the crate wants one that it can clone and send.
#[derive(Clone, Copy)]
pub struct Source {
    frames: &'static Mutex<Frames>,
    offset: u64,
}

impl FrameAllocator for Source {
    fn alloc_frame(&self) -> Option<PhysAddr> {
        self.frames.lock().unwrap().allocate().map(|frame| PhysAddr::from_usize(frame as usize))
    }

    fn dealloc_frame(&self, frame: PhysAddr) {
        self.frames.lock().unwrap().free(frame.as_usize() as u64);
    }

    #[inline(always)]
    fn phys_to_virt(&self, address: PhysAddr) -> *mut u8 {
        (address.as_usize() as u64).wrapping_add(self.offset) as *mut u8
    }
}

/// Its page table.
pub struct Table {
    table: PageTable<FourLevels, Source>,
    source: Source,
}

impl Table {
    pub fn new() -> Self {
        let frames = Frames::default();
        let offset = frames.arena.offset();
        let source = Source { frames: Box::leak(Box::new(Mutex::new(frames))), offset };
        Self { table: PageTable::new(source).unwrap(), source }
    }
}

fn at(input: u64) -> VirtAddr {
    VirtAddr::from_usize(input as usize)
}

impl PageTables for Table {
    fn reset(&mut self) {
        // Its tables are gone with what follows: it must not free them.
        self.table.leak();
        self.source.frames.lock().unwrap().clear();
        self.table = PageTable::new(self.source).unwrap();
    }

    #[inline(always)]
    fn map(&mut self, input: u64, output: u64) {
        self.table.map_page(at(input), PhysAddr::from_usize(output as usize), 4096, true).unwrap();
    }

    #[inline(always)]
    fn translate(&self, input: u64) -> Option<u64> {
        self.table.translate_phys(at(input)).ok().map(|output| output.as_usize() as u64)
    }

    #[inline(always)]
    fn unmap(&mut self, input: u64) {
        self.table.unmap_page(at(input)).unwrap();
    }

    #[inline(never)]
    fn map_range(&mut self, input: u64, output: u64, bytes: u64) {
        let config = MapConfig {
            vaddr: at(input),
            paddr: PhysAddr::from_usize(output as usize),
            size: bytes as usize,
            pte: true,
            allow_huge: true,
            flush: true,
        };
        self.table.map(&config).unwrap();
    }

    #[inline(never)]
    fn unmap_range(&mut self, input: u64, bytes: u64, _: u64) {
        self.table.unmap(at(input), bytes as usize).unwrap();
    }

    #[inline(never)]
    fn protect_range(&mut self, input: u64, bytes: u64, writable: bool) {
        self.table.protect_region(at(input), bytes as usize, writable).unwrap();
    }

    #[inline(never)]
    fn iterate(&self, input: u64, bytes: u64) -> u64 {
        let range = WalkConfig { start_vaddr: at(input), end_vaddr: at(input + bytes) };
        let leaves = self.table.walk_all(range).filter(|entry| entry.is_final_mapping);
        leaves.fold(0, |sum, entry| sum.wrapping_add(entry.pte.paddr(false).as_usize() as u64))
    }
}
