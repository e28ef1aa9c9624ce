//! Which pages a hashed address space has, and the shape of its software tree.

use pgtable::format::{Geometry, LevelGeometry};

use crate::hash::page_size::{PageSize, PageSizes};

/// The pages of a hashed address space: as software has them, and as entries of the hashed table.
///
/// | | software pages | entries | slots cached | tree (root to last level), as Linux |
/// | --- | --- | --- | --- | --- |
/// | `K4` | 4K | 4K | in the page's own word | 9, 9, 7, 9 bits: 46 bits |
/// | `K64` | 64K, 16M | 64K; for each 64K of 16M one that says 16M | in the second half; for 16M in an array | 8, 10, 10, 8 bits |
/// | `K64In4K` | 64K | 4K, sixteen to a page | in the second half, a nibble each | the same |
///
/// (Linux without 64K segments, or with a page demoted to 4K, is `K64In4K`.) A space of 64K pages
/// ends at 2^49, which is what one context has VSIDs for.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Pages {
    /// 4 KiB.
    K4,
    /// 64 KiB and 16 MiB.
    K64,
    /// 64 KiB, made of 4 KiB entries.
    K64In4K,
}

const fn level(width: u8, leaf: bool) -> LevelGeometry {
    LevelGeometry { width, leaf }
}

static TREE_4K: Geometry =
    Geometry::new(12, &[level(9, true), level(7, false), level(9, false), level(9, false)]);
static TREE_64K: Geometry =
    Geometry::new(16, &[level(8, true), level(10, true), level(10, false), level(8, false)]);
static TREE_64K_IN_4K: Geometry =
    Geometry::new(16, &[level(8, true), level(10, false), level(10, false), level(8, false)]);

impl Pages {
    /// The shape of the tree.
    #[inline(always)]
    pub(crate) const fn geometry(self) -> &'static Geometry {
        match self {
            Self::K4 => &TREE_4K,
            Self::K64 => &TREE_64K,
            Self::K64In4K => &TREE_64K_IN_4K,
        }
    }

    /// The base page size of the segments.
    #[inline]
    #[must_use]
    pub const fn base(self) -> PageSize {
        match self {
            Self::K4 | Self::K64In4K => PageSize::K4,
            Self::K64 => PageSize::K64,
        }
    }

    /// The page sizes of the entries for a software page of `2^shift` bytes.
    #[inline]
    pub(crate) fn sizes(self, shift: u8) -> PageSizes {
        match (self, PageSize::of_shift(shift)) {
            (Self::K64, Some(actual)) => {
                PageSizes::new(PageSize::K64, actual).unwrap_or(PageSizes::only(PageSize::K64))
            }
            _ => PageSizes::only(self.base()),
        }
    }

    /// Of how many levels, from the last up, the tables have a second half for slots.
    pub(crate) const fn second_halves(self) -> u8 {
        match self {
            Self::K4 => 0,
            Self::K64 => 2,
            Self::K64In4K => 1,
        }
    }
}
