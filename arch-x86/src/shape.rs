//! The shape that long mode, NPT and EPT share: 9 index bits a level, 4-KiB pages, addresses in
//! bits 51:12.

use pgtable::format::{Field, Geometry, LevelGeometry, Pattern, Shortcuts, Words};
use pgtable::{Level, low_bits};

use crate::controls::Levels;

/// Index bits of every table.
pub(crate) const WIDTH: u8 = 9;
/// log2 of the smallest page, and of a table.
pub(crate) const PAGE_SHIFT: u8 = 12;
/// The most physical address bits that the architecture has.
pub(crate) const PHYSICAL_BITS: u8 = 52;

const fn level(leaf: bool) -> LevelGeometry {
    LevelGeometry { width: WIDTH, leaf }
}

/// Index bits of PAE paging's root table.
pub(crate) const PDPT_WIDTH: u8 = 2;
/// Its level.
pub(crate) const PDPT: Level = Level(2);

/// The shape of a tree of PAE paging.
pub(crate) const fn pae_geometry() -> &'static Geometry {
    static PAE: Geometry = Geometry::new(
        PAGE_SHIFT,
        &[level(true), level(true), LevelGeometry { width: PDPT_WIDTH, leaf: false }],
    );
    &PAE
}

/// Index bits of 32-bit paging's tables.
pub(crate) const WIDTH32: u8 = 10;

/// The shape of a tree of 32-bit paging.
pub(crate) const fn geometry32(pse: bool) -> &'static Geometry {
    const fn wide(leaf: bool) -> LevelGeometry {
        LevelGeometry { width: WIDTH32, leaf }
    }
    static SMALL: Geometry = Geometry::new(PAGE_SHIFT, &[wide(true), wide(false)]);
    static PSE: Geometry = Geometry::new(PAGE_SHIFT, &[wide(true), wide(true)]);
    if pse { &PSE } else { &SMALL }
}

/// The shape of a tree of four or five levels.
pub(crate) const fn geometry(levels: Levels, gib_pages: bool) -> &'static Geometry {
    static FOUR: Geometry =
        Geometry::new(PAGE_SHIFT, &[level(true), level(true), level(false), level(false)]);
    static FOUR_GIB: Geometry =
        Geometry::new(PAGE_SHIFT, &[level(true), level(true), level(true), level(false)]);
    static FIVE: Geometry = Geometry::new(
        PAGE_SHIFT,
        &[level(true), level(true), level(false), level(false), level(false)],
    );
    static FIVE_GIB: Geometry = Geometry::new(
        PAGE_SHIFT,
        &[level(true), level(true), level(true), level(false), level(false)],
    );
    match (levels, gib_pages) {
        (Levels::Four, false) => &FOUR,
        (Levels::Four, true) => &FOUR_GIB,
        (Levels::Five, false) => &FIVE,
        (Levels::Five, true) => &FIVE_GIB,
    }
}

/// The bits of an entry that hold the address of a page of `2^shift` bytes: 51:`shift`.
#[inline(always)]
pub(crate) const fn address_bits(shift: u8) -> u64 {
    low_bits(PHYSICAL_BITS) & !low_bits(shift)
}

/// Bits 51:`maxphyaddr` of an entry, which are reserved.
pub(crate) const fn beyond_maxphyaddr(maxphyaddr: u8) -> u64 {
    address_bits(maxphyaddr)
}

/// The steps of a walk: tables that fit `tables` above the last level, pages that fit `page` there,
/// whose address stands in the bits of `frames`, shifted left by [`PAGE_SHIFT`].
#[inline(always)]
pub(crate) const fn shortcuts(
    five: bool,
    tables: Pattern,
    page: Pattern,
    frames: u64,
) -> Shortcuts {
    // Shifted, so that the compiler sees that tables are aligned.
    let address = Field::in_place(frames << PAGE_SHIFT);
    Shortcuts::uniform(if five { 5 } else { 4 }, PAGE_SHIFT, WIDTH, tables, page, address)
}

/// The words of leaves of `2^shift` bytes from `output` on, which is aligned to that. The encoding
/// of addresses jumps, or ends, where one more would not fit `contiguous`, a mask of low bits.
#[inline(always)]
pub(crate) const fn words(first: u64, output: u64, shift: u8, contiguous: u64) -> Words {
    let left = contiguous & !output;
    Words { first: first | output, step: 1 << (shift & 63), count: (left >> (shift & 63)) + 1 }
}
