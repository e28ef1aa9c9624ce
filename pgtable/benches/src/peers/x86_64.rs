//! The crate `x86_64`: `MappedPageTable` and `OffsetPageTable`. Frees no table by itself.

use x86_64::structures::paging::mapper::{
    MappedPageTable, Mapper, OffsetPageTable, PageTableFrameMapping, Translate,
};
use x86_64::structures::paging::{
    FrameAllocator, Page, PageTable, PageTableFlags, PhysFrame, Size4KiB,
};
use x86_64::{PhysAddr, VirtAddr};

use crate::row::Row;
use bench_harness::arena::Frames;
use bench_harness::work::PageTables;

pub const ROWS: &[Row] = &[
    Row::Map,
    Row::TranslateHot,
    Row::TranslateCold,
    Row::TranslateInOrder,
    Row::Unmap,
    Row::MapRange,
    Row::ProtectRange,
    Row::UnmapRange,
    Row::ChurnAlone,
    Row::ChurnBeside,
];

const READ_ONLY: PageTableFlags = PageTableFlags::PRESENT.union(PageTableFlags::NO_EXECUTE);
const WRITABLE: PageTableFlags = READ_ONLY.union(PageTableFlags::WRITABLE);

/// Either of the crate's page tables, over an arena.
pub struct Table<M> {
    mapper: M,
    frames: Frames,
    make: fn(&Frames, u64) -> M,
}

/// Finds frames at a fixed distance.
pub struct Distance(u64);

// SAFETY: the arena is mapped as a whole, at that distance from its physical addresses.
unsafe impl PageTableFrameMapping for Distance {
    fn frame_to_pointer(&self, frame: PhysFrame) -> *mut PageTable {
        frame.start_address().as_u64().wrapping_add(self.0) as *mut PageTable
    }
}

struct Source<'f>(&'f mut Frames);

// SAFETY: frames are handed out once.
unsafe impl FrameAllocator<Size4KiB> for Source<'_> {
    fn allocate_frame(&mut self) -> Option<PhysFrame> {
        self.0.allocate().map(|frame| PhysFrame::containing_address(PhysAddr::new(frame)))
    }
}

fn root(frames: &Frames, root: u64) -> &'static mut PageTable {
    // SAFETY: a zeroed frame of an arena that lives as long as the process, handed to this mapper
    // alone.
    unsafe { &mut *frames.arena.pointer(root).cast() }
}

/// `MappedPageTable`.
pub fn mapped() -> Table<MappedPageTable<'static, Distance>> {
    // SAFETY: the frames of the arena are where `Distance` says.
    Table::new(|frames, at| unsafe {
        MappedPageTable::new(root(frames, at), Distance(frames.arena.offset()))
    })
}

/// `OffsetPageTable`.
pub fn offset() -> Table<OffsetPageTable<'static>> {
    // SAFETY: the frames of the arena are at this distance.
    Table::new(|frames, at| unsafe {
        OffsetPageTable::new(root(frames, at), VirtAddr::new(frames.arena.offset()))
    })
}

impl<M> Table<M> {
    fn new(make: fn(&Frames, u64) -> M) -> Self {
        let mut frames = Frames::default();
        let root = frames.allocate().unwrap();
        Self { mapper: make(&frames, root), frames, make }
    }
}

fn page(input: u64) -> Page {
    Page::from_start_address(VirtAddr::new(input)).unwrap()
}

impl<M: Mapper<Size4KiB> + Translate> PageTables for Table<M> {
    fn reset(&mut self) {
        self.frames.clear();
        let root = self.frames.allocate().unwrap();
        self.mapper = (self.make)(&self.frames, root);
    }

    #[inline(always)]
    fn map(&mut self, input: u64, output: u64) {
        let frame = PhysFrame::from_start_address(PhysAddr::new(output)).unwrap();
        // SAFETY: no processor uses this table.
        unsafe { self.mapper.map_to(page(input), frame, WRITABLE, &mut Source(&mut self.frames)) }
            .unwrap()
            .ignore();
    }

    #[inline(always)]
    fn translate(&self, input: u64) -> Option<u64> {
        self.mapper.translate_addr(VirtAddr::new(input)).map(PhysAddr::as_u64)
    }

    #[inline(always)]
    fn unmap(&mut self, input: u64) {
        self.mapper.unmap(page(input)).unwrap().1.ignore();
    }

    #[inline(never)]
    fn map_range(&mut self, input: u64, output: u64, bytes: u64) {
        for at in (0..bytes).step_by(4096) {
            self.map(input + at, output + at);
        }
    }

    #[inline(never)]
    fn unmap_range(&mut self, input: u64, bytes: u64, present: u64) {
        assert_eq!(bytes, present);
        for at in (0..bytes).step_by(4096) {
            self.unmap(input + at);
        }
    }

    #[inline(never)]
    fn protect_range(&mut self, input: u64, bytes: u64, writable: bool) {
        let flags = if writable { WRITABLE } else { READ_ONLY };
        for at in (0..bytes).step_by(4096) {
            // SAFETY: no processor uses this table.
            unsafe { self.mapper.update_flags(page(input + at), flags) }.unwrap().ignore();
        }
    }
}
