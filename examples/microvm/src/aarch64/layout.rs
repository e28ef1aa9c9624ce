//! The tables of what is where: guest memory, and what each tree maps. PAN is off; what EL0 may
//! execute or write, EL1 may not execute.

use std::ops::Range;

use pgtable::{Gpa, Gva, Prot};
use probe_guest::aarch64::Corner;

use crate::allows::Allows;
use crate::look::{Finds, Look, Mapping, look, row};

/// The kernel's tree: the upper range, in every process. As a process: the lower range is off.
pub const KERNEL: u32 = 0;
/// The process that most rows are about.
pub const PROCESS: u32 = 1;
/// Another one.
pub const OTHER: u32 = 2;

const KIB_4: u64 = 1 << 12;
const KIB_64: u64 = 1 << 16;
const MIB_2: u64 = 1 << 21;
const GIB_1: u64 = 1 << 30;

/// Guest-physical addresses of what is not a mapping's.
pub mod guest {
    /// The first frame of page tables.
    pub const FRAMES: u64 = 0x20_0000;
    /// How many frames there are.
    pub const FRAME_COUNT: u32 = 16;
    /// log2 of a frame's bytes: 16 tables.
    pub const FRAME_SHIFT: u8 = 16;
}

/// The guest's memory. The first range holds the tables; the second is a page of 1 GiB, of which
/// little is touched.
pub const MEMORY: [Range<u64>; 2] = [0..0x0200_0000, GIB_1..2 * GIB_1];

/// The guest's own pages, all in the kernel's tree.
pub const CORNER: Corner = Corner {
    code: Gpa::new(0x1000),
    device: Gpa::new(0x1000_0000),
    supervisor: Gva::new(0xffff_8000_8000_0000),
    user: Gva::new(0xffff_8000_8001_0000),
};
/// Where the frames of tables are mapped, less their guest-physical address.
pub const LINEAR: u64 = 0xffff_8880_0000_0000;

/// The guest's own pages: address, guest-physical address, rights, memory type.
pub fn own_pages() -> [(u64, u64, Prot, u8); 3] {
    let (code, device) = (CORNER.code.get(), CORNER.device.get());
    [
        (CORNER.supervisor.get(), code, Prot::RX, 0),
        (CORNER.device_at(), device, Prot::RW, DEVICE),
        (CORNER.user.get(), code, USER_RX, 0),
    ]
}

const USER_RW: Prot = Prot::RW.for_user();
const USER_R: Prot = Prot::R.for_user();
const USER_RX: Prot = Prot::RX.for_user();
const USER_RWX: Prot = Prot::RWX.for_user();

/// Indices into `Mair::USUAL`: normal memory that is not cached, and a device.
pub const NON_CACHEABLE: u8 = 2;
pub const DEVICE: u8 = 4;
/// Usual memory whose pages are neither accessed nor dirty when they are mapped: hardware says so.
pub const UNTOUCHED: u8 = 0xff;

/// What a user page allows that EL0 executes, and EL1 does not.
pub const R_X: Allows = Allows { supervisor: "r--", user: "r-x" };
/// The same, if it is writable.
pub const RWX: Allows = Allows { supervisor: "rw-", user: "rwx" };

/// What the trees map. Outputs are in another order than inputs, so that a wrong address shows.
#[rustfmt::skip]
pub const MAPPINGS: &[Mapping] = &[
    row(("4K user rw-",        PROCESS), 0x0041_0000, 0x0060_7000, (KIB_4, 12), USER_RW,  Allows::both("rw-")),
    row(("4K user r--",        PROCESS), 0x0041_1000, 0x0060_6000, (KIB_4, 12), USER_R,   Allows::both("r--")),
    row(("4K user r-x",        PROCESS), 0x0041_2000, 0x0060_5000, (KIB_4, 12), USER_RX,  R_X),
    row(("4K user rwx",        PROCESS), 0x0041_3000, 0x0060_4000, (KIB_4, 12), USER_RWX, RWX),
    row(("4K user untouched",  PROCESS), 0x0041_4000, 0x0060_3000, (KIB_4, 12), USER_RW,  Allows::both("rw-")).with_memory(UNTOUCHED),
    row(("4K supervisor rw-",  PROCESS), 0x0041_5000, 0x0060_2000, (KIB_4, 12), Prot::RW, Allows::supervisor("rw-")),
    row(("4K supervisor r--",  PROCESS), 0x0041_6000, 0x0060_1000, (KIB_4, 12), Prot::R,  Allows::supervisor("r--")),
    row(("4K supervisor r-x",  PROCESS), 0x0041_7000, 0x0060_0000, (KIB_4, 12), Prot::RX, Allows::supervisor("r-x")),
    row(("4K user not cached", PROCESS), 0x0041_8000, 0x0060_d000, (KIB_4, 12), USER_RW,  Allows::both("rw-")).with_memory(NON_CACHEABLE),
    row(("4K user device",     PROCESS), 0x0041_9000, 0x0060_e000, (KIB_4, 12), USER_RW,  Allows::both("rw-")).with_memory(DEVICE),
    row(("4K supervisor rwx",  PROCESS), 0x005f_7000, 0x0063_1000, (KIB_4, 12), Prot::RWX, Allows::supervisor("rwx")),
    row(("4K run of 8",        PROCESS), 0x005f_8000, 0x0061_0000, (8 * KIB_4, 12), USER_RWX, RWX),
    row(("4K last of lower range", PROCESS), 0x0000_ffff_ffff_f000, 0x0062_0000, (KIB_4, 12), USER_RWX, RWX),

    row(("64K group user rw-", PROCESS), 0x0070_0000, 0x0065_0000, (KIB_64, 16), USER_RW,  Allows::both("rw-")),
    row(("64K group user r-x", PROCESS), 0x0071_0000, 0x0066_0000, (KIB_64, 16), USER_RX,  R_X),
    row(("64K group untouched", PROCESS), 0x0072_0000, 0x0067_0000, (KIB_64, 16), USER_RW, Allows::both("rw-")).with_memory(UNTOUCHED),

    row(("2M user rwx",        PROCESS), 0x0080_0000, 0x00c0_0000, (MIB_2, 21), USER_RWX, RWX),
    row(("2M user r--",        PROCESS), 0x00a0_0000, 0x0120_0000, (MIB_2, 21), USER_R,   Allows::both("r--")),
    row(("2M user r-x",        PROCESS), 0x00c0_0000, 0x0100_0000, (MIB_2, 21), USER_RX,  R_X),
    row(("2M supervisor rwx",  PROCESS), 0x00e0_0000, 0x00a0_0000, (MIB_2, 21), Prot::RWX, Allows::supervisor("rwx")),
    row(("2M user not cached", PROCESS), 0x0100_0000, 0x0140_0000, (MIB_2, 21), USER_RW,  Allows::both("rw-")).with_memory(NON_CACHEABLE),
    row(("2M user untouched",  PROCESS), 0x0120_0000, 0x0160_0000, (MIB_2, 21), USER_RW,  Allows::both("rw-")).with_memory(UNTOUCHED),
    row(("1G user rwx",        PROCESS), 0x8000_0000, GIB_1,       (GIB_1, 30), USER_RWX, RWX),
    row(("1G supervisor rw-",  PROCESS), 0x1_0000_0000, GIB_1,     (GIB_1, 30), Prot::RW, Allows::supervisor("rw-")),

    row(("4K first of upper range", KERNEL), 0xffff_0000_0000_0000, 0x0060_8000, (KIB_4, 12), Prot::RW, Allows::supervisor("rw-")),
    row(("4K upper user r--", KERNEL), 0xffff_9000_0041_1000, 0x0060_9000, (KIB_4, 12), USER_R,   Allows::both("r--")),
    row(("4K upper r-x",      KERNEL), 0xffff_9000_0041_2000, 0x0060_a000, (KIB_4, 12), Prot::RX, Allows::supervisor("r-x")),
    row(("2M upper rwx",      KERNEL), 0xffff_9000_0080_0000, 0x00e0_0000, (MIB_2, 21), Prot::RWX, Allows::supervisor("rwx")),
    row(("2M upper user rwx", KERNEL), 0xffff_9000_00a0_0000, 0x01c0_0000, (MIB_2, 21), USER_RWX, RWX),
    row(("4K last of upper range", KERNEL), 0xffff_ffff_ffff_f000, 0x0062_1000, (KIB_4, 12), USER_RWX, RWX),

    row(("other: 4K user r--", OTHER), 0x0041_0000, 0x0060_b000, (KIB_4, 12), USER_R,  Allows::both("r--")),
    row(("other: 2M user rw-", OTHER), 0x0080_0000, 0x0180_0000, (MIB_2, 21), USER_RW, Allows::both("rw-")),
];

/// Places that need more words than a mapping: what is not mapped at each level, the other process,
/// no addresses.
#[rustfmt::skip]
pub const LOOKS: &[Look] = &[
    look("unmapped: no 4K page",     PROCESS, 0x0041_a000, Finds::Unmapped),
    look("unmapped: no last table",  PROCESS, 0x0160_0000, Finds::Unmapped),
    look("unmapped: no level-2 table", PROCESS, 0x4000_0000, Finds::Unmapped),
    look("unmapped: no level-1 table", PROCESS, 0x0000_0080_0000_0000, Finds::Unmapped),
    look("unmapped: before the last page", PROCESS, 0x0000_ffff_ffff_eff8, Finds::Unmapped),
    look("unmapped: upper",          PROCESS, 0xffff_a000_0000_0000, Finds::Unmapped),
    look("unmapped: the table's hole", PROCESS, 0xffff_9000_0041_3000, Finds::Unmapped),
    look("first beyond the lower range", PROCESS, 0x0001_0000_0000_0000, Finds::NoAddress),
    look("last before the upper range", PROCESS, 0xfffe_ffff_ffff_fff8, Finds::NoAddress),
    look("bit 55 alone",             PROCESS, 0x0080_0000_0041_0000, Finds::NoAddress),
    look("bit 63 alone",             PROCESS, 0x8000_0000_0041_0000, Finds::NoAddress),
    look("bit 63 lacks",             PROCESS, 0x7fff_9000_0041_1000, Finds::NoAddress),
    look("another process's page",   OTHER, 0x0041_1000, Finds::Unmapped),
    look("another process's 64K",    OTHER, 0x0070_0000, Finds::Unmapped),
    look("the upper range is the same", OTHER, 0xffff_9000_0041_1000, Finds::Page(0x0060_9000, Allows::both("r--"))),
    look("without a lower range",    KERNEL, 0x0041_1000, Finds::NoTree),
    look("its upper range is the same", KERNEL, 0xffff_9000_0041_1010, Finds::Page(0x0060_9010, Allows::both("r--"))),
    look("back again",               PROCESS, 0x0041_1010, Finds::Page(0x0060_6010, Allows::both("r--"))),
];
