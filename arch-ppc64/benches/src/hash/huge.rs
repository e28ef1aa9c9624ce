//! An allocator that puts what is large on huge pages, and what is as large as a page on a page of
//! its own: tables of every contestant alike, so that the host's TLB misses are not what is
//! measured, and no group of a table lies across three cache lines instead of in two.

use std::alloc::{GlobalAlloc, Layout, System};

/// The host's huge page.
const HUGE: usize = 2 << 20;

pub struct Huge;

/// The host's page.
const PAGE: usize = 4 << 10;

/// As asked for, but aligned to a page, or to a huge page, if it is as large.
fn aligned(layout: Layout) -> Layout {
    let align = match layout.size() {
        HUGE.. => HUGE,
        PAGE.. => PAGE,
        _ => layout.align(),
    };
    layout.align_to(align).unwrap_or(layout)
}

// SAFETY: the system's allocator, asked for no smaller alignment than the caller wants, and for the
// same one when it is freed.
unsafe impl GlobalAlloc for Huge {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller's promises about `layout` hold of a larger alignment too.
        let block = unsafe { System.alloc(aligned(layout)) };
        if !block.is_null() && layout.size() >= HUGE {
            // SAFETY: within the block. Whether the advice is taken is the kernel's affair.
            unsafe { libc::madvise(block.cast(), layout.size(), libc::MADV_HUGEPAGE) };
        }
        block
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        // SAFETY: it was allocated with this very layout.
        unsafe { System.dealloc(block, aligned(layout)) };
    }
}
