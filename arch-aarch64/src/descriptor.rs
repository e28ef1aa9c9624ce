//! The descriptors of VMSAv8-64 as words (DDI 0487, D8.3).
//!
//! The fields keep the manual's names. Address fields are those of the 4-KiB granule without LPA2;
//! with other granules their low bits are zero, with LPA bits 15:12 hold address bits 51:48, with
//! LPA2 bits 49:48 and 9:8 hold address bits 49:48 and 51:50.

use bitfield_struct::bitfield;

/// A table descriptor of either stage (D8.3.1.1). In stage 2, bits 63:59 mean nothing.
#[bitfield(u64)]
#[derive(PartialEq, Eq, Hash)]
pub struct TableDescriptor {
    /// Valid.
    pub valid: bool,
    /// 1: a table, not a block.
    pub table: bool,
    /// Ignored.
    #[bits(10)]
    pub ignored_low: u16,
    /// Bits 47:12 of the next table's address.
    #[bits(36)]
    pub next: u64,
    /// RES0; address bits with LPA2.
    #[bits(3)]
    pub res0: u8,
    /// Ignored.
    #[bits(8)]
    pub ignored_high: u8,
    /// PXNTable: no privileged execution below. (EL2: RES0.)
    pub pxn_table: bool,
    /// UXNTable, XNTable: no unprivileged execution below. (EL2: no execution.)
    pub uxn_table: bool,
    /// APTable\[0\]: no access from EL0 below. (EL2: RES0.)
    pub no_el0: bool,
    /// APTable\[1\]: no writes below.
    pub read_only: bool,
    /// NSTable: in Secure state, the tables and pages below are Non-secure.
    pub ns_table: bool,
}

/// A block or page descriptor of stage 1 (D8.3.1.2).
#[bitfield(u64)]
#[derive(PartialEq, Eq, Hash)]
pub struct Stage1Descriptor {
    /// Valid.
    pub valid: bool,
    /// 1: a page (at the last level). 0: a block.
    pub page: bool,
    /// AttrIndx: the index into MAIR.
    #[bits(3)]
    pub attr_index: u8,
    /// NS: in Secure state, the output is Non-secure.
    pub ns: bool,
    /// AP\[1\]: EL0 may access it. (EL2: RES1.)
    pub el0: bool,
    /// AP\[2\]: read-only; with DBM and hardware dirty state, writable and clean.
    pub read_only: bool,
    /// SH: 0 non-shareable, 2 outer, 3 inner. With LPA2, address bits 51:50.
    #[bits(2)]
    pub sh: u8,
    /// AF: accessed.
    pub af: bool,
    /// nG: not global, of one ASID. (EL2: RES0.)
    pub ng: bool,
    /// Bits 47:12 of the output address. In blocks, bit 16 is nT.
    #[bits(36)]
    pub output: u64,
    /// RES0; address bits with LPA2.
    #[bits(2)]
    pub res0: u8,
    /// GP: guarded page (FEAT_BTI).
    pub gp: bool,
    /// DBM: dirty bit modifier.
    pub dbm: bool,
    /// Contiguous.
    pub contiguous: bool,
    /// PXN: no privileged execution. (EL2: RES0.)
    pub pxn: bool,
    /// UXN: no execution at EL0. (EL2: XN.)
    pub uxn: bool,
    /// Ignored: software's.
    #[bits(4)]
    pub software: u8,
    /// PBHA: implementation defined; ignored without FEAT_HPDS2.
    #[bits(4)]
    pub pbha: u8,
    /// Ignored.
    pub ignored: bool,
}

/// A block or page descriptor of stage 2 (D8.3.1.2).
#[bitfield(u64)]
#[derive(PartialEq, Eq, Hash)]
pub struct Stage2Descriptor {
    /// Valid.
    pub valid: bool,
    /// 1: a page (at the last level). 0: a block.
    pub page: bool,
    /// MemAttr: [`Stage2Memory`](crate::Stage2Memory).
    #[bits(4)]
    pub mem_attr: u8,
    /// S2AP\[0\]: reads are allowed.
    pub read: bool,
    /// S2AP\[1\]: writes are allowed; with DBM and hardware dirty state, dirty.
    pub write: bool,
    /// SH: 0 non-shareable, 2 outer, 3 inner. With LPA2, address bits 51:50.
    #[bits(2)]
    pub sh: u8,
    /// AF: accessed.
    pub af: bool,
    /// FnXS (FEAT_XS).
    pub fnxs: bool,
    /// Bits 47:12 of the output address. In blocks, bit 16 is nT.
    #[bits(36)]
    pub output: u64,
    /// RES0; address bits with LPA2.
    #[bits(3)]
    pub res0: u8,
    /// DBM: dirty bit modifier.
    pub dbm: bool,
    /// Contiguous.
    pub contiguous: bool,
    /// XN\[0\]: with FEAT_XNX, execution differs between EL1 and EL0: [`Stage2Execute`].
    ///
    /// [`Stage2Execute`]: crate::Stage2Execute
    pub xnx: bool,
    /// XN\[1\]: no execution.
    pub xn: bool,
    /// NS in Secure state; otherwise software's.
    pub ns: bool,
    /// Ignored: software's.
    #[bits(3)]
    pub software: u8,
    /// PBHA: implementation defined; ignored without FEAT_HPDS2.
    #[bits(4)]
    pub pbha: u8,
    /// Ignored.
    pub ignored: bool,
}
