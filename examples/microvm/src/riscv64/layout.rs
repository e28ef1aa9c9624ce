//! The tables of what is where: guest memory, and what each process maps. SUM is off: what a user
//! may do, a supervisor may not.

use std::ops::Range;

use pgtable::{Gpa, Gva, Prot};
use probe_guest::riscv64::Corner;

use crate::allows::Allows;
use crate::look::{Finds, Look, Mapping, look, row};

/// The process that most rows are about.
pub const PROCESS: u32 = 1;
/// Another one.
pub const OTHER: u32 = 2;

const KIB_4: u64 = 1 << 12;
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

/// The guest's own pages.
pub const CORNER: Corner = Corner {
    code: Gpa::new(0x1000),
    device: Gpa::new(0x1000_0000),
    supervisor: Gva::new(0xffff_ffff_8000_0000),
    user: Gva::new(0x0020_0000),
};
/// Where the frames of tables are mapped, less their guest-physical address.
pub const LINEAR: u64 = 0xffff_ffd8_0000_0000;

/// The guest's own pages: address, guest-physical address, rights.
pub fn own_pages() -> [(u64, u64, Prot); 3] {
    let (code, device) = (CORNER.code.get(), CORNER.device.get());
    [
        (CORNER.supervisor.get(), code, Prot::RX),
        (CORNER.device_at(), device, Prot::RW),
        (CORNER.user.get(), code, USER_RX),
    ]
}

const USER_RW: Prot = Prot::RW.for_user();
const USER_R: Prot = Prot::R.for_user();
const USER_RX: Prot = Prot::RX.for_user();
const USER_RWX: Prot = Prot::RWX.for_user();
const USER_X: Prot = Prot::new().with_execute(true).for_user();

/// PBMT: NC.
pub const NON_CACHEABLE: u8 = 1;

/// The tables of what is where, in the mode with virtual addresses of so many bits.
pub struct Layout<const BITS: u8>;

impl<const BITS: u8> Layout<BITS> {
    /// The bytes of each half of the addresses, and the levels of a tree.
    pub const HALF: u64 = 1 << (BITS - 1);
    pub const LEVELS: usize = (BITS as usize - 12) / 9;
    /// The higher half's first address.
    const HIGHER: u64 = Self::HALF.wrapping_neg();

    /// What the two processes map. Outputs are in another order than inputs, so that a wrong
    /// address shows. Memory types are PBMT's.
    #[rustfmt::skip]
    pub const MAPPINGS: &'static [Mapping] = &[
        row(("4K user rw-",        PROCESS), 0x0041_0000, 0x0060_7000, (KIB_4, 12), USER_RW,  Allows::user("rw-")),
        row(("4K user r--",        PROCESS), 0x0041_1000, 0x0060_6000, (KIB_4, 12), USER_R,   Allows::user("r--")),
        row(("4K user r-x",        PROCESS), 0x0041_2000, 0x0060_5000, (KIB_4, 12), USER_RX,  Allows::user("r-x")),
        row(("4K user rwx",        PROCESS), 0x0041_3000, 0x0060_4000, (KIB_4, 12), USER_RWX, Allows::user("rwx")),
        row(("4K user --x",        PROCESS), 0x0041_4000, 0x0060_3000, (KIB_4, 12), USER_X,   Allows::user("--x")),
        row(("4K supervisor rw-",  PROCESS), 0x0041_5000, 0x0060_2000, (KIB_4, 12), Prot::RW, Allows::supervisor("rw-")),
        row(("4K supervisor r--",  PROCESS), 0x0041_6000, 0x0060_1000, (KIB_4, 12), Prot::R,  Allows::supervisor("r--")),
        row(("4K supervisor r-x",  PROCESS), 0x0041_7000, 0x0060_0000, (KIB_4, 12), Prot::RX, Allows::supervisor("r-x")),
        row(("4K user NC",         PROCESS), 0x0041_8000, 0x0060_d000, (KIB_4, 12), USER_RW,  Allows::user("rw-")).with_memory(NON_CACHEABLE),
        row(("4K supervisor rwx",  PROCESS), 0x005f_7000, 0x0063_1000, (KIB_4, 12), Prot::RWX, Allows::supervisor("rwx")),
        row(("4K run of 8",        PROCESS), 0x005f_8000, 0x0061_0000, (8 * KIB_4, 12), USER_RWX, Allows::user("rwx")),
        row(("4K last of lower half", PROCESS), Self::HALF - KIB_4, 0x0062_0000, (KIB_4, 12), USER_RWX, Allows::user("rwx")),

        row(("2M user rwx",        PROCESS), 0x0080_0000, 0x00c0_0000, (MIB_2, 21), USER_RWX, Allows::user("rwx")),
        row(("2M user r--",        PROCESS), 0x00a0_0000, 0x0120_0000, (MIB_2, 21), USER_R,   Allows::user("r--")),
        row(("2M user r-x",        PROCESS), 0x00c0_0000, 0x0100_0000, (MIB_2, 21), USER_RX,  Allows::user("r-x")),
        row(("2M supervisor rwx",  PROCESS), 0x00e0_0000, 0x00a0_0000, (MIB_2, 21), Prot::RWX, Allows::supervisor("rwx")),
        row(("2M user NC",         PROCESS), 0x0100_0000, 0x0140_0000, (MIB_2, 21), USER_RW,  Allows::user("rw-")).with_memory(NON_CACHEABLE),
        row(("1G user rwx",        PROCESS), 0x8000_0000, GIB_1,       (GIB_1, 30), USER_RWX, Allows::user("rwx")),
        row(("1G supervisor rw-",  PROCESS), 0x1_0000_0000, GIB_1,     (GIB_1, 30), Prot::RW, Allows::supervisor("rw-")),

        row(("4K first of higher half", PROCESS), Self::HIGHER, 0x0060_8000, (KIB_4, 12), Prot::RW, Allows::supervisor("rw-")),
        row(("4K higher user r--", PROCESS), 0xffff_ffd0_0041_1000, 0x0060_9000, (KIB_4, 12), USER_R,   Allows::user("r--")),
        row(("4K higher r-x",      PROCESS), 0xffff_ffd0_0041_2000, 0x0060_a000, (KIB_4, 12), Prot::RX, Allows::supervisor("r-x")),
        row(("2M higher rwx",      PROCESS), 0xffff_ffd0_0080_0000, 0x00e0_0000, (MIB_2, 21), Prot::RWX, Allows::supervisor("rwx")),
        row(("2M higher user rwx", PROCESS), 0xffff_ffd0_00a0_0000, 0x0160_0000, (MIB_2, 21), USER_RWX, Allows::user("rwx")),
        row(("4K last of higher half", PROCESS), 0xffff_ffff_ffff_f000, 0x0062_1000, (KIB_4, 12), USER_RWX, Allows::user("rwx")),

        row(("other: 4K user r--", OTHER), 0x0041_0000, 0x0060_b000, (KIB_4, 12), USER_R,  Allows::user("r--")),
        row(("other: 2M user rw-", OTHER), 0x0080_0000, 0x0180_0000, (MIB_2, 21), USER_RW, Allows::user("rw-")),
    ];

    /// Places that need more words than a mapping: what is not mapped at each level, the other
    /// process, no addresses.
    #[rustfmt::skip]
    pub const LOOKS: &'static [Look] = &[
        look("unmapped: no 4K page",     PROCESS, 0x0041_9000, Finds::Unmapped),
        look("unmapped: no last table",  PROCESS, 0x0160_0000, Finds::Unmapped),
        look("unmapped: no level-1 table", PROCESS, 0x4000_0000, Finds::Unmapped),
        look("unmapped: before the last page", PROCESS, Self::HALF - KIB_4 - 8, Finds::Unmapped),
        look("unmapped: higher",         PROCESS, 0xffff_ffe0_0000_0000, Finds::Unmapped),
        look("unmapped: the table's hole", PROCESS, 0xffff_ffd0_0041_3000, Finds::Unmapped),
        look("first that is not sign-extended", PROCESS, Self::HALF, Finds::NoAddress),
        look("last that is not sign-extended", PROCESS, Self::HIGHER - 8, Finds::NoAddress),
        look("bit 63 alone",             PROCESS, 0x8000_0000_0041_0000, Finds::NoAddress),
        look("bits 62:39 lack",          PROCESS, 0x8000_00d0_0041_1000, Finds::NoAddress),
        look("another process's page",   OTHER, 0x0041_1000, Finds::Unmapped),
        look("another process's higher half", OTHER, 0xffff_ffd0_0041_1000, Finds::Unmapped),
        look("back again",               PROCESS, 0x0041_1010, Finds::Page(0x0060_6010, Allows::user("r--"))),
    ];
}
