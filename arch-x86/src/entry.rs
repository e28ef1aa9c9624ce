//! The words of 4-level and 5-level paging, which AMD's nested paging shares.
//!
//! SDM §4.5, tables "Format of …Entry"; APM §5.3 and §5.4. The fields keep the manuals' names: R/W
//! is `rw`, U/S is `us`, XD (AMD: NX) is `xd`.

use bitfield_struct::bitfield;

/// An entry that refers to a table: PML5E, PML4E, and PDPTE and PDE with PS = 0.
#[bitfield(u64)]
#[derive(PartialEq, Eq, Hash)]
pub struct TableEntry {
    /// Present.
    pub p: bool,
    /// Writes are allowed below, as far as the entries there allow them.
    pub rw: bool,
    /// User-mode accesses are allowed below, as far as the entries there allow them.
    pub us: bool,
    /// Page-level write-through, for accesses to the table.
    pub pwt: bool,
    /// Page-level cache disable, for accesses to the table.
    pub pcd: bool,
    /// Accessed: used in a translation.
    pub a: bool,
    /// Ignored.
    pub ignored: bool,
    /// Page size: 0 in an entry that refers to a table; reserved in PML4E and PML5E.
    pub ps: bool,
    /// Ignored by Intel; in PML4E and PML5E reserved by AMD (APM §5.3.3, "MBZ").
    pub mbz: bool,
    /// Ignored: software's.
    #[bits(3)]
    pub avl: u8,
    /// Bits 51:12 of the table's physical address; those from MAXPHYADDR on are reserved.
    #[bits(40)]
    pub frame: u64,
    /// Ignored: software's.
    #[bits(11)]
    pub avl_high: u16,
    /// Execute disable, for everything below; reserved if EFER.NXE = 0.
    pub xd: bool,
}

/// An entry that maps a 4-MiB page in 32-bit paging: PDE with PS = 1 (SDM §4.3, table 4-4; APM
/// §5.2.3). Other entries of 32-bit paging are the lower halves of [`TableEntry`] and
/// [`PageEntry`].
#[bitfield(u32)]
#[derive(PartialEq, Eq, Hash)]
pub struct HugePageEntry32 {
    /// Present.
    pub p: bool,
    /// Writes are allowed.
    pub rw: bool,
    /// User-mode accesses are allowed.
    pub us: bool,
    /// Page-level write-through: bit 0 of the index into the PAT.
    pub pwt: bool,
    /// Page-level cache disable: bit 1 of the index into the PAT.
    pub pcd: bool,
    /// Accessed.
    pub a: bool,
    /// Dirty: written.
    pub d: bool,
    /// Page size: 1 in an entry that maps a page.
    pub ps: bool,
    /// Global, if CR4.PGE = 1.
    pub g: bool,
    /// Ignored: software's.
    #[bits(3)]
    pub avl: u8,
    /// Bit 2 of the index into the PAT.
    pub pat: bool,
    /// Bits 39:32 of the page's physical address, as far as PSE-36 and MAXPHYADDR have them; others
    /// are reserved.
    pub frame_high: u8,
    /// Reserved.
    pub reserved: bool,
    /// Bits 31:22 of the page's physical address.
    #[bits(10)]
    pub frame: u16,
}

/// An entry of PAE paging's page-directory-pointer table (SDM §4.4.1; APM §5.2.4).
#[bitfield(u64)]
#[derive(PartialEq, Eq, Hash)]
pub struct Pdpte {
    /// Present.
    pub p: bool,
    /// Reserved.
    #[bits(2)]
    pub mbz: u8,
    /// Page-level write-through, for accesses to the page directory.
    pub pwt: bool,
    /// Page-level cache disable, for accesses to the page directory.
    pub pcd: bool,
    /// Reserved.
    #[bits(4)]
    pub mbz_middle: u8,
    /// Ignored: software's.
    #[bits(3)]
    pub avl: u8,
    /// Bits 51:12 of the page directory's physical address; those from MAXPHYADDR on are reserved.
    #[bits(40)]
    pub frame: u64,
    /// Reserved.
    #[bits(12)]
    pub mbz_high: u16,
}

/// An entry that maps a 4-KiB page: PTE.
#[bitfield(u64)]
#[derive(PartialEq, Eq, Hash)]
pub struct PageEntry {
    /// Present.
    pub p: bool,
    /// Writes are allowed.
    pub rw: bool,
    /// User-mode accesses are allowed.
    pub us: bool,
    /// Page-level write-through: bit 0 of the index into the PAT.
    pub pwt: bool,
    /// Page-level cache disable: bit 1 of the index into the PAT.
    pub pcd: bool,
    /// Accessed.
    pub a: bool,
    /// Dirty: written.
    pub d: bool,
    /// Bit 2 of the index into the PAT. In a huge page it stands elsewhere: [`HugePageEntry::pat`].
    pub pat: bool,
    /// Global, if CR4.PGE = 1.
    pub g: bool,
    /// Ignored: software's.
    #[bits(3)]
    pub avl: u8,
    /// Bits 51:12 of the page's physical address; those from MAXPHYADDR on are reserved.
    #[bits(40)]
    pub frame: u64,
    /// Ignored: software's.
    #[bits(7)]
    pub avl_high: u8,
    /// Protection key, if CR4.PKE or CR4.PKS = 1; otherwise ignored.
    #[bits(4)]
    pub protection_key: u8,
    /// Execute disable; reserved if EFER.NXE = 0.
    pub xd: bool,
}

/// An entry that maps a 1-GiB or 2-MiB page: PDPTE or PDE with PS = 1.
#[bitfield(u64)]
#[derive(PartialEq, Eq, Hash)]
pub struct HugePageEntry {
    /// Present.
    pub p: bool,
    /// Writes are allowed.
    pub rw: bool,
    /// User-mode accesses are allowed.
    pub us: bool,
    /// Page-level write-through: bit 0 of the index into the PAT.
    pub pwt: bool,
    /// Page-level cache disable: bit 1 of the index into the PAT.
    pub pcd: bool,
    /// Accessed.
    pub a: bool,
    /// Dirty: written.
    pub d: bool,
    /// Page size: 1 in an entry that maps a page.
    pub ps: bool,
    /// Global, if CR4.PGE = 1.
    pub g: bool,
    /// Ignored: software's.
    #[bits(3)]
    pub avl: u8,
    /// Bit 2 of the index into the PAT.
    pub pat: bool,
    /// Bits 51:13 of the page's physical address; those below the page size and from MAXPHYADDR on
    /// are reserved.
    #[bits(39)]
    pub frame: u64,
    /// Ignored: software's.
    #[bits(7)]
    pub avl_high: u8,
    /// Protection key, if CR4.PKE or CR4.PKS = 1; otherwise ignored.
    #[bits(4)]
    pub protection_key: u8,
    /// Execute disable; reserved if EFER.NXE = 0.
    pub xd: bool,
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Each field alone, against the bit positions of the manual's tables.
    #[test]
    fn positions() {
        let table = TableEntry::new;
        let pdpte = Pdpte::new;
        let big = HugePageEntry32::new;
        let page = PageEntry::new;
        let huge = HugePageEntry::new;
        for (name, word, bits) in [
            ("table p", table().with_p(true).into_bits(), 1 << 0),
            ("table rw", table().with_rw(true).into_bits(), 1 << 1),
            ("table us", table().with_us(true).into_bits(), 1 << 2),
            ("table pwt", table().with_pwt(true).into_bits(), 1 << 3),
            ("table pcd", table().with_pcd(true).into_bits(), 1 << 4),
            ("table a", table().with_a(true).into_bits(), 1 << 5),
            ("table ps", table().with_ps(true).into_bits(), 1 << 7),
            ("table mbz", table().with_mbz(true).into_bits(), 1 << 8),
            ("table avl", table().with_avl(7).into_bits(), 0xe00),
            ("table frame", table().with_frame(0xff_ffff_ffff).into_bits(), 0x000f_ffff_ffff_f000),
            ("table avl_high", table().with_avl_high(0x7ff).into_bits(), 0x7ff0_0000_0000_0000),
            ("table xd", table().with_xd(true).into_bits(), 1 << 63),
            ("pdpte p", pdpte().with_p(true).into_bits(), 1),
            ("pdpte mbz", pdpte().with_mbz(3).into_bits(), 6),
            ("pdpte pwt", pdpte().with_pwt(true).into_bits(), 8),
            ("pdpte pcd", pdpte().with_pcd(true).into_bits(), 0x10),
            ("pdpte 8:5", pdpte().with_mbz_middle(15).into_bits(), 0x1e0),
            ("pdpte avl", pdpte().with_avl(7).into_bits(), 0xe00),
            ("pdpte frame", pdpte().with_frame(0xff_ffff_ffff).into_bits(), 0x000f_ffff_ffff_f000),
            ("pdpte high", pdpte().with_mbz_high(0xfff).into_bits(), 0xfff0_0000_0000_0000),
            ("page d", page().with_d(true).into_bits(), 1 << 6),
            ("page pat", page().with_pat(true).into_bits(), 1 << 7),
            ("page g", page().with_g(true).into_bits(), 1 << 8),
            ("page avl", page().with_avl(7).into_bits(), 0xe00),
            ("page frame", page().with_frame(0xff_ffff_ffff).into_bits(), 0x000f_ffff_ffff_f000),
            ("page avl_high", page().with_avl_high(0x7f).into_bits(), 0x07f0_0000_0000_0000),
            (
                "page protection_key",
                page().with_protection_key(15).into_bits(),
                0x7800_0000_0000_0000,
            ),
            ("page xd", page().with_xd(true).into_bits(), 1 << 63),
            ("4M ps", big().with_ps(true).into_bits().into(), 0x80),
            ("4M pat", big().with_pat(true).into_bits().into(), 1 << 12),
            ("4M high", big().with_frame_high(0xff).into_bits().into(), 0x1f_e000),
            ("4M reserved", big().with_reserved(true).into_bits().into(), 1 << 21),
            ("4M frame", big().with_frame(0x3ff).into_bits().into(), 0xffc0_0000),
            ("huge ps", huge().with_ps(true).into_bits(), 1 << 7),
            ("huge pat", huge().with_pat(true).into_bits(), 1 << 12),
            ("huge frame", huge().with_frame(0x7f_ffff_ffff).into_bits(), 0x000f_ffff_ffff_e000),
            ("huge avl_high", huge().with_avl_high(0x7f).into_bits(), 0x07f0_0000_0000_0000),
            (
                "huge protection_key",
                huge().with_protection_key(15).into_bits(),
                0x7800_0000_0000_0000,
            ),
            ("huge xd", huge().with_xd(true).into_bits(), 1 << 63),
        ] {
            assert_eq!(word, bits, "{name}: {word:#x}, want {bits:#x}");
        }
    }
}
