//! The words of EPT: entries and the EPT pointer (SDM §29.3.2, tables "Format of an EPT …";
//! §25.6.11).

use bitfield_struct::bitfield;

/// An entry that refers to a table: EPT PML5E and PML4E, and PDPTE and PDE with bit 7 = 0.
#[bitfield(u64)]
#[derive(PartialEq, Eq, Hash)]
pub struct EptTableEntry {
    /// Reads are allowed below, as far as the entries there allow them.
    pub r: bool,
    /// Writes are allowed below.
    pub w: bool,
    /// Instruction fetches are allowed below; under mode-based execute control, those from
    /// supervisor-mode linear addresses.
    pub x: bool,
    /// Reserved.
    #[bits(4)]
    pub reserved: u8,
    /// 0 in an entry that refers to a table; reserved in PML4E and PML5E.
    pub ps: bool,
    /// Accessed, if the EPT pointer enables the flag; otherwise ignored.
    pub a: bool,
    /// Ignored.
    pub ignored: bool,
    /// Under mode-based execute control: fetches from user-mode linear addresses are allowed below.
    /// Otherwise ignored.
    pub xu: bool,
    /// Ignored: software's.
    pub avl: bool,
    /// Bits 51:12 of the table's physical address; those from MAXPHYADDR on are reserved.
    #[bits(40)]
    pub frame: u64,
    /// Ignored: software's.
    #[bits(12)]
    pub avl_high: u16,
}

/// An entry that maps a page: EPT PTE, and PDE and PDPTE with bit 7 = 1.
#[bitfield(u64)]
#[derive(PartialEq, Eq, Hash)]
pub struct EptPageEntry {
    /// Reads are allowed.
    pub r: bool,
    /// Writes are allowed.
    pub w: bool,
    /// Instruction fetches are allowed; under mode-based execute control, those from
    /// supervisor-mode linear addresses.
    pub x: bool,
    /// The memory type: [`MemoryType`].
    #[bits(3)]
    pub memory_type: u8,
    /// Ignore PAT: the guest's own memory type does not count.
    pub ipat: bool,
    /// 1 in a PDE or PDPTE that maps a page; ignored in a PTE.
    pub ps: bool,
    /// Accessed, if the EPT pointer enables the flag; otherwise ignored.
    pub a: bool,
    /// Dirty, if the EPT pointer enables the flag; otherwise ignored.
    pub d: bool,
    /// Under mode-based execute control: fetches from user-mode linear addresses are allowed.
    /// Otherwise ignored.
    pub xu: bool,
    /// Ignored: software's.
    pub avl: bool,
    /// Bits 51:12 of the page's physical address; those below the page size and from MAXPHYADDR on
    /// are reserved.
    #[bits(40)]
    pub frame: u64,
    /// Ignored: software's.
    #[bits(5)]
    pub avl_high: u8,
    /// Verify guest paging, if that control is on.
    pub verify_guest_paging: bool,
    /// Paging-write access, if that control is on: a guest's page walk may set its flags here
    /// though W = 0.
    pub paging_write: bool,
    /// Ignored.
    pub ignored_59: bool,
    /// Supervisor shadow stack, if the EPT pointer enables it.
    pub supervisor_shadow_stack: bool,
    /// Sub-page write permissions, in a PTE, if that control is on.
    pub sub_page_write: bool,
    /// Ignored.
    pub ignored_62: bool,
    /// Suppress #VE: a violation here exits to the hypervisor, though "EPT-violation #VE" is on.
    pub suppress_ve: bool,
}

/// A memory type, in the encoding of MTRRs, PAT and EPT (SDM §12.11, §29.3.7).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[repr(u8)]
pub enum MemoryType {
    /// UC.
    Uncacheable = 0,
    /// WC.
    WriteCombining = 1,
    /// WT.
    WriteThrough = 4,
    /// WP.
    WriteProtected = 5,
    /// WB.
    WriteBack = 6,
}

impl MemoryType {
    /// The type that is encoded as `value`; `None` for the reserved encodings.
    #[inline(always)]
    #[must_use]
    pub const fn decode(value: u8) -> Option<Self> {
        match value {
            0 => Some(Self::Uncacheable),
            1 => Some(Self::WriteCombining),
            4 => Some(Self::WriteThrough),
            5 => Some(Self::WriteProtected),
            6 => Some(Self::WriteBack),
            _ => None,
        }
    }
}

/// The EPT pointer (SDM §25.6.11).
#[bitfield(u64)]
#[derive(PartialEq, Eq, Hash)]
pub struct Eptp {
    /// The memory type of accesses to the tables: 0 uncacheable, 6 write-back.
    #[bits(3)]
    pub memory_type: u8,
    /// The number of levels, less one.
    #[bits(3)]
    pub walk_length: u8,
    /// Accessed and dirty flags are enabled.
    pub ad: bool,
    /// Access rights of supervisor shadow-stack pages are enforced.
    pub sss: bool,
    #[bits(4)]
    __: u8,
    /// Bits 51:12 of the root table's physical address.
    #[bits(40)]
    pub frame: u64,
    #[bits(12)]
    __: u16,
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Each field alone, against the bit positions of the manual's tables.
    #[test]
    fn positions() {
        let table = EptTableEntry::new;
        let page = EptPageEntry::new;
        let pointer = Eptp::new;
        for (name, word, bits) in [
            ("table r", table().with_r(true).into_bits(), 1),
            ("table w", table().with_w(true).into_bits(), 2),
            ("table x", table().with_x(true).into_bits(), 4),
            ("table reserved", table().with_reserved(15).into_bits(), 0x78),
            ("table ps", table().with_ps(true).into_bits(), 0x80),
            ("table a", table().with_a(true).into_bits(), 0x100),
            ("table xu", table().with_xu(true).into_bits(), 0x400),
            ("table frame", table().with_frame(0xff_ffff_ffff).into_bits(), 0x000f_ffff_ffff_f000),
            ("page memory type", page().with_memory_type(7).into_bits(), 0x38),
            ("page ipat", page().with_ipat(true).into_bits(), 0x40),
            ("page ps", page().with_ps(true).into_bits(), 0x80),
            ("page a", page().with_a(true).into_bits(), 0x100),
            ("page d", page().with_d(true).into_bits(), 0x200),
            ("page xu", page().with_xu(true).into_bits(), 0x400),
            ("page frame", page().with_frame(0xff_ffff_ffff).into_bits(), 0x000f_ffff_ffff_f000),
            ("page verify", page().with_verify_guest_paging(true).into_bits(), 1 << 57),
            ("page paging-write", page().with_paging_write(true).into_bits(), 1 << 58),
            ("page shadow stack", page().with_supervisor_shadow_stack(true).into_bits(), 1 << 60),
            ("page sub-page", page().with_sub_page_write(true).into_bits(), 1 << 61),
            ("page suppress", page().with_suppress_ve(true).into_bits(), 1 << 63),
            ("pointer memory type", pointer().with_memory_type(6).into_bits(), 6),
            ("pointer walk", pointer().with_walk_length(3).into_bits(), 0x18),
            ("pointer ad", pointer().with_ad(true).into_bits(), 0x40),
            ("pointer sss", pointer().with_sss(true).into_bits(), 0x80),
            (
                "pointer frame",
                pointer().with_frame(0xff_ffff_ffff).into_bits(),
                0x000f_ffff_ffff_f000,
            ),
        ] {
            assert_eq!(word, bits, "{name}: {word:#x}, want {bits:#x}");
        }
    }
}
