//! The one shape that POWER9 and POWER10 support: 52 bits, as 13 + 9 + 9 index bits and a last
//! level of 9 (4 KiB pages) or 5 (64 KiB).
//!
//! Source: POWER9 User's Manual 4.10.4.1, POWER10 User's Manual 5.10.6.1. The manual counts levels
//! from the root (0) to the page table (3); this workspace counts from the bottom:
//!
//! | here | manual | Linux | index bits | address bits | maps |
//! | --- | --- | --- | --- | --- | --- |
//! | 3 | 0 | PGD | 13 | 51:39 | tables only |
//! | 2 | 1 | PUD | 9 | 38:30 | 1 GiB |
//! | 1 | 2 | PMD | 9 | 29:21 | 2 MiB |
//! | 0 | 3 | PTE | 9 or 5 | 20:12 or 20:16 | 4 KiB or 64 KiB |
//!
//! (Address bits are counted from the least significant.) Each directory entry says how wide its
//! table is, so one tree may hold both kinds of last level.

use pgtable::Level;
use pgtable::format::{Geometry, LevelGeometry};

/// Address bits that a tree translates.
pub const ADDRESS_BITS: u8 = 52;
/// Radix Tree Size that means 52 bits: the address bits less 31.
pub const RTS: u8 = ADDRESS_BITS - 31;
/// Root Page Directory Size: log2 of the root's entries.
pub const RPDS: u8 = 13;
/// log2 of the entries of a directory, and of a page table of 4 KiB pages.
pub(crate) const WIDTH: u8 = 9;
/// log2 of the entries of a page table of 64 KiB pages.
pub(crate) const WIDTH_64K: u8 = 5;

/// Which last-level tables a tree makes of its own accord. Those of the other kind are understood
/// all the same.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Granule {
    /// Tables of 512 pages of 4 KiB.
    K4,
    /// Tables of 32 pages of 64 KiB.
    K64,
}

const fn tree(page_shift: u8, last: u8, other: u8) -> Geometry {
    let directory = LevelGeometry { width: WIDTH, leaf: true };
    let page_table = LevelGeometry { width: last, leaf: true };
    let root = LevelGeometry { width: RPDS, leaf: false };
    Geometry::new(page_shift, &[page_table, directory, directory, root]).with_last_level(other)
}

static K4: Geometry = tree(12, WIDTH, WIDTH_64K);
static K64: Geometry = tree(16, WIDTH_64K, WIDTH);

impl Granule {
    /// The shape of the tree.
    #[inline(always)]
    #[must_use]
    pub const fn geometry(self) -> &'static Geometry {
        match self {
            Self::K4 => &K4,
            Self::K64 => &K64,
        }
    }

    /// log2 of the entries of its last-level tables.
    #[inline(always)]
    #[must_use]
    pub const fn last_width(self) -> u8 {
        match self {
            Self::K4 => WIDTH,
            Self::K64 => WIDTH_64K,
        }
    }
}

/// Whether hardware goes on from an entry of `level` into a table of `2^width` entries.
#[inline(always)]
pub(crate) const fn supports_table(level: Level, width: u8) -> bool {
    match level.0 {
        3 | 2 => width == WIDTH,
        1 => width == WIDTH || width == WIDTH_64K,
        _ => false,
    }
}

/// A page size of radix translation.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum PageSize {
    /// 4 KiB.
    K4,
    /// 64 KiB.
    K64,
    /// 2 MiB.
    M2,
    /// 1 GiB.
    G1,
}

impl PageSize {
    /// All, ascending.
    pub const ALL: [Self; 4] = [Self::K4, Self::K64, Self::M2, Self::G1];

    /// The page of `2^shift` bytes, if there is one.
    #[inline]
    #[must_use]
    pub const fn of_shift(shift: u8) -> Option<Self> {
        match shift {
            12 => Some(Self::K4),
            16 => Some(Self::K64),
            21 => Some(Self::M2),
            30 => Some(Self::G1),
            _ => None,
        }
    }

    /// log2 of its size in bytes.
    #[inline]
    #[must_use]
    pub const fn shift(self) -> u8 {
        match self {
            Self::K4 => 12,
            Self::K64 => 16,
            Self::M2 => 21,
            Self::G1 => 30,
        }
    }

    /// Actual Page Size, as `tlbie` wants it (ISA "TLB Invalidate Entry";
    /// `ibm,processor-radix-AP-encodings`).
    #[inline]
    #[must_use]
    pub const fn ap(self) -> u8 {
        match self {
            Self::K4 => 0,
            Self::K64 => 5,
            Self::M2 => 1,
            Self::G1 => 2,
        }
    }

    /// The level where such a leaf stands.
    #[inline]
    #[must_use]
    pub const fn level(self) -> Level {
        match self {
            Self::K4 | Self::K64 => Level(0),
            Self::M2 => Level(1),
            Self::G1 => Level(2),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_kinds_of_page_table_in_either_tree() {
        for granule in [Granule::K4, Granule::K64] {
            let geometry = granule.geometry();
            assert_eq!(geometry.address_bits(), ADDRESS_BITS);
            assert_eq!(geometry.width(Level(0)), granule.last_width());
            for size in PageSize::ALL {
                assert_eq!(PageSize::of_shift(size.shift()), Some(size));
                assert_eq!(
                    geometry.leaf(size.shift()).map(|(level, _)| level),
                    Some(size.level()),
                    "{granule:?} {size:?}"
                );
            }
            assert_eq!(geometry.leaf(39), None);
        }
        assert_eq!(PageSize::of_shift(39), None);
    }

    /// The words of `KVM_PPC_GET_RMMU_INFO`.
    #[test]
    fn ap_encodings() {
        let words = PageSize::ALL.map(|size| u32::from(size.ap()) << 29 | u32::from(size.shift()));
        assert_eq!(words, [0x0000_000c, 0xa000_0010, 0x2000_0015, 0x4000_001e]);
    }
}
