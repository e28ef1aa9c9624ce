//! `aarch64-paging`: EL1&0 tables. It has no translation of one address: a walk of one page takes
//! its place.

use std::mem;
use std::ptr::NonNull;

use aarch64_paging::Mapping;
use aarch64_paging::descriptor::{El1Attributes, PhysicalAddress};
use aarch64_paging::paging::{Constraints, El1And0, MemoryRegion, PageTable, Translation, VaRange};

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

const WRITABLE: El1Attributes = El1Attributes::VALID
    .union(El1Attributes::ATTRIBUTE_INDEX_1)
    .union(El1Attributes::INNER_SHAREABLE)
    .union(El1Attributes::ACCESSED)
    .union(El1Attributes::NON_GLOBAL);
/// The level of pages.
const LAST: usize = 3;

/// Frames of an arena.
pub struct Source(Frames);

impl Translation<El1Attributes> for Source {
    fn allocate_table(&mut self) -> (NonNull<PageTable<El1Attributes>>, PhysicalAddress) {
        let frame = self.0.allocate().unwrap();
        (self.physical_to_virtual(PhysicalAddress(frame as usize)), PhysicalAddress(frame as usize))
    }

    unsafe fn deallocate_table(&mut self, table: NonNull<PageTable<El1Attributes>>) {
        // SAFETY: a frame of the arena, which is out of use; the next user wants zeros.
        unsafe { table.as_ptr().cast::<u8>().write_bytes(0, 4096) };
        self.0.free((table.as_ptr() as u64).wrapping_sub(self.0.arena.offset()));
    }

    #[inline(always)]
    fn physical_to_virtual(&self, address: PhysicalAddress) -> NonNull<PageTable<El1Attributes>> {
        NonNull::new((address.0 as u64).wrapping_add(self.0.arena.offset()) as *mut _).unwrap()
    }
}

/// Its page table.
pub struct Table(Mapping<Source, El1And0>);

impl Table {
    pub fn new() -> Self {
        Self::over(Frames::default())
    }

    fn over(frames: Frames) -> Self {
        Self(Mapping::with_asid_and_va_range(Source(frames), 1, 0, El1And0, VaRange::Lower))
    }
}

fn region(input: u64, bytes: u64) -> MemoryRegion {
    MemoryRegion::new(input as usize, (input + bytes) as usize)
}

impl PageTables for Table {
    fn reset(&mut self) {
        let arena = self.0.translation().0.arena;
        // The old one's tables are gone.
        mem::forget(mem::replace(self, Self::over(Frames::of(arena))));
    }

    #[inline(always)]
    fn map(&mut self, input: u64, output: u64) {
        self.map_range(input, output, 4096);
    }

    #[inline(always)]
    fn translate(&self, input: u64) -> Option<u64> {
        let mut output = None;
        let visit = &mut |_: &MemoryRegion,
                          descriptor: &aarch64_paging::descriptor::Descriptor<_>,
                          level: usize| {
            if level == LAST && descriptor.is_valid() {
                output = Some(descriptor.output_address().0 as u64 | input & 0xfff);
            }
            Ok(())
        };
        self.0.walk_range(&region(input, 4096), visit).unwrap();
        output
    }

    #[inline(always)]
    fn unmap(&mut self, input: u64) {
        self.unmap_range(input, 4096, 4096);
    }

    #[inline(always)]
    fn map_range(&mut self, input: u64, output: u64, bytes: u64) {
        let output = PhysicalAddress(output as usize);
        self.0.map_range(&region(input, bytes), output, WRITABLE, Constraints::empty()).unwrap();
    }

    #[inline(always)]
    fn unmap_range(&mut self, input: u64, bytes: u64, _: u64) {
        let nowhere = PhysicalAddress(0);
        let absent = El1Attributes::empty();
        self.0.map_range(&region(input, bytes), nowhere, absent, Constraints::empty()).unwrap();
    }

    #[inline(never)]
    fn protect_range(&mut self, input: u64, bytes: u64, writable: bool) {
        let read_only = El1Attributes::READ_ONLY;
        let none = El1Attributes::empty();
        let (set, clear) = if writable { (none, read_only) } else { (read_only, none) };
        let change =
            |_: &MemoryRegion,
             entry: &mut aarch64_paging::descriptor::UpdatableDescriptor<'_, _>| {
                if entry.is_table() { Ok(()) } else { entry.modify_flags(set, clear) }
            };
        self.0.modify_range(&region(input, bytes), &change).unwrap();
    }

    #[inline(never)]
    fn iterate(&self, input: u64, bytes: u64) -> u64 {
        let mut sum = 0u64;
        let visit = &mut |_: &MemoryRegion,
                          descriptor: &aarch64_paging::descriptor::Descriptor<_>,
                          level: usize| {
            if level == LAST && descriptor.is_valid() {
                sum = sum.wrapping_add(descriptor.output_address().0 as u64);
            }
            Ok(())
        };
        self.0.walk_range(&region(input, bytes), visit).unwrap();
        sum
    }
}
