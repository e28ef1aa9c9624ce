//! Which address a virtual segment of Linux stands for, and the reverse: an image holds no segment
//! lookaside buffer, but Linux's VSIDs can be undone.
//!
//! Source: `arch/powerpc/include/asm/book3s/64/mmu-hash.h`, `hash-64k.h` and `hash-4k.h`. Contexts
//! of 2^49 bytes each: the kernel's come first, those of processes after them.
//!
//! | kernel | linear map | vmalloc | I/O | vmemmap |
//! | --- | --- | --- | --- | --- |
//! | 64-KiB pages, 5.2 and later | 1–4 at 0xc000… to 0xc006… | 5 at 0xc008… | 6 at 0xc00a… | 7 at 0xc00c… |
//! | 64-KiB pages, 4.12 to 5.1 | 1–4 | 5 at 0xd000… | 6 at 0xe000… | 7 at 0xf000… |
//! | 4-KiB pages, 5.8 and later | 1 at 0xc000… | 2 at 0xc0003d… | 3 at 0xc0003e… | 4 at 0xc0003f… |
//! | 4-KiB pages, 4.12 to 5.1 | 1 at 0xc000… | 2 at 0xd000… | 3 at 0xe000… | 4 at 0xf000… |

use memory_image::VmcoreInfo;
use pgtable::Gva;
use pgtable_ppc64::hash::{Context, SegmentSize};

/// log2 of the bytes that a context has segments for.
const CONTEXT_BITS: u32 = 49;
/// log2 of the bytes of a region of the kernels with 4-KiB pages, 5.8 and later.
const REGION_BITS: u32 = 40;

/// How a Linux kernel on POWER lays out its own addresses under a hashed page table.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub enum LinuxLayout {
    /// 64-KiB pages, Linux 5.2 and later.
    #[default]
    Pages64K,
    /// 64-KiB pages, before Linux 5.2.
    Pages64KOld,
    /// 4-KiB pages, Linux 5.8 and later.
    Pages4K,
    /// 4-KiB pages, before Linux 5.2.
    Pages4KOld,
}

/// A region of a kernel: its context, the first address, log2 of its bytes.
type Region = (u32, u64, u32);

const PAGES_64K: [Region; 7] = [
    (1, 0xc000_0000_0000_0000, CONTEXT_BITS),
    (2, 0xc002_0000_0000_0000, CONTEXT_BITS),
    (3, 0xc004_0000_0000_0000, CONTEXT_BITS),
    (4, 0xc006_0000_0000_0000, CONTEXT_BITS),
    (5, 0xc008_0000_0000_0000, CONTEXT_BITS),
    (6, 0xc00a_0000_0000_0000, CONTEXT_BITS),
    (7, 0xc00c_0000_0000_0000, CONTEXT_BITS),
];
const PAGES_64K_OLD: [Region; 7] = [
    PAGES_64K[0],
    PAGES_64K[1],
    PAGES_64K[2],
    PAGES_64K[3],
    (5, 0xd000_0000_0000_0000, CONTEXT_BITS),
    (6, 0xe000_0000_0000_0000, CONTEXT_BITS),
    (7, 0xf000_0000_0000_0000, CONTEXT_BITS),
];
/// Regions of one context's width that lie within another's addresses come first.
const PAGES_4K: [Region; 4] = [
    (2, 0xc000_3d00_0000_0000, REGION_BITS),
    (3, 0xc000_3e00_0000_0000, REGION_BITS),
    (4, 0xc000_3f00_0000_0000, REGION_BITS),
    (1, 0xc000_0000_0000_0000, CONTEXT_BITS),
];
const PAGES_4K_OLD: [Region; 4] = [
    (1, 0xc000_0000_0000_0000, CONTEXT_BITS),
    (2, 0xd000_0000_0000_0000, CONTEXT_BITS),
    (3, 0xe000_0000_0000_0000, CONTEXT_BITS),
    (4, 0xf000_0000_0000_0000, CONTEXT_BITS),
];

impl LinuxLayout {
    /// The layout of the kernel that says this of itself; `None` if it says too little, or is of a
    /// release whose layout is not known.
    #[must_use]
    pub fn of_kernel(info: &VmcoreInfo) -> Option<Self> {
        match (info.get("PAGESIZE")?, info.release()?) {
            ("65536", release) if release >= (5, 2) => Some(Self::Pages64K),
            ("65536", release) if release >= (4, 12) => Some(Self::Pages64KOld),
            ("4096", release) if release >= (5, 8) => Some(Self::Pages4K),
            ("4096", release) if ((4, 12)..(5, 2)).contains(&release) => Some(Self::Pages4KOld),
            _ => None,
        }
    }

    fn regions(self) -> &'static [Region] {
        match self {
            Self::Pages64K => &PAGES_64K,
            Self::Pages64KOld => &PAGES_64K_OLD,
            Self::Pages4K => &PAGES_4K,
            Self::Pages4KOld => &PAGES_4K_OLD,
        }
    }

    /// The context that translates `address` of the kernel; `None` if it is none of the kernel's.
    #[must_use]
    pub fn kernel_context(self, address: u64) -> Option<Context> {
        let mut regions = self.regions().iter();
        let (id, ..) = regions.find(|(_, start, bits)| start >> bits == address >> bits)?;
        Context::new(*id)
    }

    /// Where the segment `vsid` of `size` lies; `None` if it is none of Linux's.
    #[must_use]
    pub fn place_of(self, vsid: u64, size: SegmentSize) -> Option<Place> {
        let (context, offset) = Context::of_vsid(vsid, size)?;
        let (id, offset) = (context.id(), offset.get());
        match self.regions().iter().find(|(region, ..)| *region == id) {
            Some((_, start, bits)) if start >> bits == (start | offset) >> bits => {
                Some(Place { context: 0, start: start | offset })
            }
            Some(_) => None,
            None => Some(Place { context: id, start: offset }),
        }
    }

    /// The virtual segment of `size` in which `address` of process `context` (0: the kernel) lies.
    pub(crate) fn vsid(self, context: u32, address: u64, size: SegmentSize) -> Option<u64> {
        let it = match context {
            0 => self.kernel_context(address)?,
            id => Context::new(id).filter(|_| address >> CONTEXT_BITS == 0)?,
        };
        Some(it.vsid(Gva::new(address), size))
    }
}

/// Where a segment lies.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Place {
    /// Linux's number of the address space; 0 for the kernel's, whichever of its contexts it is.
    pub context: u32,
    /// The first address of the segment.
    pub start: u64,
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may panic")]
mod tests {
    use super::*;

    const ALL: [LinuxLayout; 4] = [
        LinuxLayout::Pages64K,
        LinuxLayout::Pages64KOld,
        LinuxLayout::Pages4K,
        LinuxLayout::Pages4KOld,
    ];

    #[test]
    fn there_and_back() {
        for (context, address, kernel) in [
            (0, 0xc000_0000_0123_4567, 0b1111),
            (0, 0xc003_8000_0000_0000, 0b0011),
            (0, 0xc008_0000_1000_0000, 0b0001),
            (0, 0xc00c_0000_0000_0000, 0b0001),
            (0, 0xd000_0000_0001_0000, 0b1010),
            (0, 0xf000_0000_0000_0000, 0b1010),
            (0, 0xc000_3d00_0001_0000, 0b1111),
            (0, 0xc000_3f00_0000_0000, 0b1111),
            (9, 0x1000_0000, 0b1111),
            (4711, 0x7fff_ffff_0000, 0b1111),
        ] {
            for (n, layout) in ALL.into_iter().enumerate() {
                for size in [SegmentSize::M256, SegmentSize::T1] {
                    let start = address >> size.shift() << size.shift();
                    let place = layout
                        .vsid(context, address, size)
                        .and_then(|vsid| layout.place_of(vsid, size));
                    let want = (kernel >> n & 1 != 0).then_some(Place { context, start });
                    assert_eq!(place, want, "{address:#x} {size:?} {layout:?}");
                }
            }
        }
        let layout = LinuxLayout::Pages64K;
        assert_eq!(layout.vsid(0, 0x1000_0000, SegmentSize::T1), None, "no kernel address");
        assert_eq!(layout.vsid(9, 0xc000_0000_0000_0000, SegmentSize::T1), None, "no process's");
        assert_eq!(layout.place_of(u64::MAX, SegmentSize::T1), None);
    }

    #[test]
    fn a_kernel_says_its_layout() {
        for (text, want) in [
            ("OSRELEASE=6.1.0\nPAGESIZE=65536", Some(LinuxLayout::Pages64K)),
            ("OSRELEASE=4.18.0-553.el8.ppc64le\nPAGESIZE=65536", Some(LinuxLayout::Pages64KOld)),
            ("OSRELEASE=5.10.0\nPAGESIZE=4096", Some(LinuxLayout::Pages4K)),
            ("OSRELEASE=5.4.0\nPAGESIZE=4096", None),
            ("OSRELEASE=6.1.0", None),
        ] {
            assert_eq!(
                LinuxLayout::of_kernel(&VmcoreInfo::of_text(text.as_bytes())),
                want,
                "{text}"
            );
        }
    }
}
