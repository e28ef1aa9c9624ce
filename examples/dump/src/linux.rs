//! Which address a virtual segment of Linux stands for, and the reverse: an image holds no segment
//! lookaside buffer, but Linux's VSIDs can be undone.
//!
//! Source: `arch/powerpc/include/asm/book3s/64/mmu-hash.h` and `hash-64k.h`, kernels with 64-KiB
//! pages: contexts 1 to 4 are the linear map, 5 is vmalloc, 6 is I/O, 7 is vmemmap, each of 2^49
//! bytes; processes have what comes after.

use arch_ppc64::hash::{Context, SegmentSize};
use pgtable::Gva;

/// log2 of the bytes that a context has segments for.
const CONTEXT_BITS: u32 = 49;
/// The kernel's own contexts, and the first address of each.
const KERNEL: [(u32, u64); 7] = [
    (1, 0xc000_0000_0000_0000),
    (2, 0xc002_0000_0000_0000),
    (3, 0xc004_0000_0000_0000),
    (4, 0xc006_0000_0000_0000),
    (5, 0xc008_0000_0000_0000),
    (6, 0xc00a_0000_0000_0000),
    (7, 0xc00c_0000_0000_0000),
];

/// The context that translates `address` of the kernel; `None` if it is none of the kernel's.
pub fn kernel_context(address: u64) -> Option<Context> {
    let (id, _) =
        KERNEL.into_iter().find(|(_, start)| start >> CONTEXT_BITS == address >> CONTEXT_BITS)?;
    Context::new(id)
}

/// Where a segment lies.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Place {
    /// Linux's number of the address space; 0 for the kernel's, whichever of its contexts it is.
    pub context: u32,
    /// The first address of the segment.
    pub start: u64,
}

/// Where the segment `vsid` of `size` lies; `None` if it is none of Linux's.
pub fn place_of(vsid: u64, size: SegmentSize) -> Option<Place> {
    let (context, offset) = Context::of_vsid(vsid, size)?;
    match KERNEL.into_iter().find(|(id, _)| *id == context.id()) {
        Some((_, start)) => Some(Place { context: 0, start: start | offset.get() }),
        None => Some(Place { context: context.id(), start: offset.get() }),
    }
}

/// The virtual segment of `size` in which `address` of process `context` (0: the kernel) lies.
pub(super) fn vsid(context: u32, address: u64, size: SegmentSize) -> Option<u64> {
    let it = match context {
        0 => kernel_context(address)?,
        id => Context::new(id).filter(|_| address >> CONTEXT_BITS == 0)?,
    };
    Some(it.vsid(Gva::new(address), size))
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may panic")]
mod tests {
    use super::*;

    #[test]
    fn there_and_back() {
        for (context, address) in [
            (0, 0xc000_0000_0123_4567),
            (0, 0xc003_8000_0000_0000),
            (0, 0xc008_0000_1000_0000),
            (0, 0xc00c_0000_0000_0000),
            (9, 0x1000_0000),
            (4711, 0x7fff_ffff_0000),
        ] {
            for size in [SegmentSize::M256, SegmentSize::T1] {
                let start = address >> size.shift() << size.shift();
                let vsid = vsid(context, address, size).unwrap();
                assert_eq!(
                    place_of(vsid, size),
                    Some(Place { context, start }),
                    "{address:#x} {size:?}"
                );
            }
        }
        assert_eq!(vsid(0, 0x1000_0000, SegmentSize::T1), None, "no kernel address");
        assert_eq!(vsid(9, 0xc000_0000_0000_0000, SegmentSize::T1), None, "no process's address");
        assert_eq!(place_of(u64::MAX, SegmentSize::T1), None);
    }
}
