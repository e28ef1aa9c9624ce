//! The page-table entry, which all modes and both stages share.
//!
//! "Sv39", "Page-Based Memory Types" (Svpbmt), "NAPOT Translation Contiguity" (Svnapot),
//! "Reserved-for-Software Bits 60-59" (Svrsw60t59b).

use bitfield_struct::bitfield;
use pgtable::low_bits;

/// A page-table entry. It refers to a table if R, W and X are clear, and maps a page otherwise.
#[bitfield(u64)]
#[derive(PartialEq, Eq, Hash)]
pub struct PageTableEntry {
    /// Valid.
    pub v: bool,
    /// Loads are allowed.
    pub r: bool,
    /// Stores are allowed; reserved without `r`.
    pub w: bool,
    /// Instruction fetches are allowed.
    pub x: bool,
    /// User-mode accesses are allowed. Reserved in an entry that refers to a table.
    pub u: bool,
    /// Global: the mapping exists in all address spaces. Ignored in a guest stage.
    pub g: bool,
    /// Accessed. Reserved in an entry that refers to a table.
    pub a: bool,
    /// Dirty: written. Reserved in an entry that refers to a table.
    pub d: bool,
    /// Software's.
    #[bits(2)]
    pub rsw: u8,
    /// Bits 55:12 of the physical address.
    #[bits(44)]
    pub ppn: u64,
    #[bits(5)]
    __: u8,
    /// Software's with Svrsw60t59b, reserved without.
    #[bits(2)]
    pub rsw_high: u8,
    /// Page-based memory type; reserved without Svpbmt, and in an entry that refers to a table.
    #[bits(2)]
    pub pbmt: u8,
    /// Naturally aligned power of two: the page has 64 KiB. Reserved without Svnapot, and in an
    /// entry that refers to a table.
    pub n: bool,
}

// A walk tests and makes whole words: the fields' masks, computed once, at compile time.
pub(crate) const V: u64 = PageTableEntry::new().with_v(true).into_bits();
pub(crate) const R: u64 = PageTableEntry::new().with_r(true).into_bits();
pub(crate) const W: u64 = PageTableEntry::new().with_w(true).into_bits();
pub(crate) const X: u64 = PageTableEntry::new().with_x(true).into_bits();
pub(crate) const U: u64 = PageTableEntry::new().with_u(true).into_bits();
pub(crate) const A: u64 = PageTableEntry::new().with_a(true).into_bits();
pub(crate) const D: u64 = PageTableEntry::new().with_d(true).into_bits();
pub(crate) const PPN: u64 = PageTableEntry::new().with_ppn(low_bits(44)).into_bits();
pub(crate) const RSW_HIGH: u64 = PageTableEntry::new().with_rsw_high(3).into_bits();
pub(crate) const PBMT: u64 = PageTableEntry::new().with_pbmt(3).into_bits();
pub(crate) const N: u64 = PageTableEntry::new().with_n(true).into_bits();
/// Bits 58:54, which no extension defines.
pub(crate) const UNDEFINED: u64 = low_bits(5) << 54;
/// How far the field PPN is shifted left to be an address.
pub(crate) const PPN_TO_ADDRESS: u8 = 2;

#[cfg(test)]
mod tests {
    use super::*;

    /// Each field alone, against the manual's figure.
    #[test]
    fn positions() {
        for (name, word, bits) in [
            ("V", V, 1 << 0),
            ("R", R, 1 << 1),
            ("W", W, 1 << 2),
            ("X", X, 1 << 3),
            ("U", U, 1 << 4),
            ("G", PageTableEntry::new().with_g(true).into_bits(), 1 << 5),
            ("A", A, 1 << 6),
            ("D", D, 1 << 7),
            ("RSW", PageTableEntry::new().with_rsw(3).into_bits(), 0x300),
            ("PPN", PPN, 0x003f_ffff_ffff_fc00),
            ("undefined", UNDEFINED, 0x07c0_0000_0000_0000),
            ("bits 60:59", RSW_HIGH, 0x1800_0000_0000_0000),
            ("PBMT", PBMT, 0x6000_0000_0000_0000),
            ("N", N, 1 << 63),
        ] {
            assert_eq!(word, bits, "{name}: {word:#x}");
        }
    }
}
