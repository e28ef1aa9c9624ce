//! `page_table_multiarch` with the x86-64 entries of `page_table_entry`. Frees no table by itself.
//!
//! Its allocator is a type, not a value: it stands in statics.

use std::cell::Cell;
use std::mem;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use memory_addr::{PhysAddr, VirtAddr};
use page_table_entry::MappingFlags;
use page_table_entry::x86_64::X64PTE;
use page_table_multiarch::{GenericPTE, PageSize, PageTable64, PagingHandler, PagingMetaData};

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
    Row::ChurnAlone,
    Row::ChurnBeside,
];

static FRAMES: Mutex<Option<Frames>> = Mutex::new(None);
static OFFSET: AtomicUsize = AtomicUsize::new(0);

/// Four levels, as the crate's own `X64PagingMetaData`, which executes INVLPG.
pub struct FourLevels;

impl PagingMetaData for FourLevels {
    const LEVELS: usize = 4;
    const PA_MAX_BITS: usize = 52;
    const VA_MAX_BITS: usize = 48;

    type VirtAddr = VirtAddr;

    #[inline(always)]
    fn flush_tlb(_: Option<VirtAddr>) {}
}

/// The frames in the statics.
pub struct Handler;

impl PagingHandler for Handler {
    fn alloc_frames(_: usize, _: usize) -> Option<PhysAddr> {
        let frame = FRAMES.lock().unwrap().as_mut()?.allocate()?;
        Some(PhysAddr::from_usize(frame as usize))
    }

    fn dealloc_frames(frame: PhysAddr, _: usize) {
        if let Some(frames) = FRAMES.lock().unwrap().as_mut() {
            frames.free(frame.as_usize() as u64);
        }
    }

    #[inline(always)]
    fn phys_to_virt(frame: PhysAddr) -> VirtAddr {
        VirtAddr::from_usize(frame.as_usize().wrapping_add(OFFSET.load(Ordering::Relaxed)))
    }
}

/// Its page table. There can be one only.
pub struct Table(PageTable64<FourLevels, X64PTE, Handler>);

const READ_ONLY: MappingFlags = MappingFlags::READ;
const WRITABLE: MappingFlags = MappingFlags::READ.union(MappingFlags::WRITE);

impl Table {
    pub fn new() -> Self {
        let frames = Frames::default();
        OFFSET.store(frames.arena.offset() as usize, Ordering::Relaxed);
        *FRAMES.lock().unwrap() = Some(frames);
        Self(PageTable64::try_new().unwrap())
    }
}

fn at(input: u64) -> VirtAddr {
    VirtAddr::from_usize(input as usize)
}

impl PageTables for Table {
    fn reset(&mut self) {
        FRAMES.lock().unwrap().as_mut().unwrap().clear();
        // The old one's tables are gone.
        mem::forget(mem::replace(&mut self.0, PageTable64::try_new().unwrap()));
    }

    #[inline(always)]
    fn map(&mut self, input: u64, output: u64) {
        let output = PhysAddr::from_usize(output as usize);
        self.0.cursor().map(at(input), output, PageSize::Size4K, WRITABLE).unwrap();
    }

    #[inline(always)]
    fn translate(&self, input: u64) -> Option<u64> {
        self.0.query(at(input)).ok().map(|(output, _, _)| output.as_usize() as u64)
    }

    #[inline(always)]
    fn unmap(&mut self, input: u64) {
        self.0.cursor().unmap(at(input)).unwrap();
    }

    #[inline(never)]
    fn map_range(&mut self, input: u64, output: u64, bytes: u64) {
        let place =
            |at: VirtAddr| PhysAddr::from_usize((at.as_usize() as u64 - input + output) as usize);
        self.0.cursor().map_region(at(input), place, bytes as usize, WRITABLE, true).unwrap();
    }

    #[inline(never)]
    fn unmap_range(&mut self, input: u64, bytes: u64, present: u64) {
        assert_eq!(bytes, present);
        self.0.cursor().unmap_region(at(input), bytes as usize).unwrap();
    }

    #[inline(never)]
    fn protect_range(&mut self, input: u64, bytes: u64, writable: bool) {
        let flags = if writable { WRITABLE } else { READ_ONLY };
        self.0.cursor().protect_region(at(input), bytes as usize, flags).unwrap();
    }

    #[inline(never)]
    fn iterate(&self, _: u64, _: u64) -> u64 {
        let sum = Cell::new(0u64);
        let visit = |level: usize, _: usize, _: VirtAddr, entry: &X64PTE| {
            if level == 3 {
                sum.set(sum.get().wrapping_add(entry.paddr().as_usize() as u64));
            }
        };
        self.0.walk(usize::MAX, Some(&visit), None);
        sum.get()
    }
}
