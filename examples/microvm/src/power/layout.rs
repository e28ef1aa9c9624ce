//! The tables of what is where: guest memory, and what each process maps.

use pgtable::Prot;

use crate::allows::Allows;
use crate::look::{Finds, Look, Mapping, look, row};

/// The kernel's process: its tree translates quadrant 3.
pub const KERNEL: u32 = 0;
/// The process whose tree translates quadrant 0.
pub const PROCESS: u32 = 42;
/// A process within the process table that has no tree.
pub const NO_TREE: u32 = 7;
/// The first process beyond the process table.
pub const BEYOND: u32 = 256;
/// log2 of the process table's size, less 12: PRTS. 4 KiB hold 256 processes.
pub const PRTS: u8 = 0;

/// Quadrant 3.
pub const Q3: u64 = 3 << 62;
/// Where the kernel's tree maps all of memory.
pub const LINEAR: u64 = Q3 | 0x0008_0000_0000_0000;

const KIB_4: u64 = 1 << 12;
const KIB_64: u64 = 1 << 16;
const MIB_2: u64 = 1 << 21;
const GIB_1: u64 = 1 << 30;

/// Guest-physical addresses of what is not a mapping's.
pub mod guest {
    /// The process table.
    pub const PROCESS_TABLE: u64 = 0x1_0000;
    /// The first frame of page tables.
    pub const FRAMES: u64 = 0x20_0000;
    /// How many frames there are.
    pub const FRAME_COUNT: u32 = 32;
    /// log2 of a frame's bytes.
    pub const FRAME_SHIFT: u8 = 16;
    /// The least memory that holds everything below, in MiB: there must be a whole GiB at 1 GiB.
    pub const MIN_MIB: u64 = 2048;
}

/// Where the page of stubs is mapped: not at its guest-physical address.
pub mod stubs {
    use super::Q3;
    /// For privileged state.
    pub const SUPERVISOR: u64 = Q3 | 0x1_0000;
    /// For problem state.
    pub const USER: u64 = Q3 | 0x1_1000;
}

const USER_RW: Prot = Prot::RW.for_user();
const USER_R: Prot = Prot::R.for_user();
const USER_RX: Prot = Prot::RX.for_user();
const USER_RWX: Prot = Prot::RWX.for_user();
const USER_X: Prot = Prot::new().with_execute(true).for_user();

/// The stubs, without which nothing runs. Everything in [`MAPPINGS`] is mapped through the same
/// functions.
#[rustfmt::skip]
pub const STUBS: [(u64, Prot); 2] = [(stubs::SUPERVISOR, Prot::RX), (stubs::USER, USER_RX)];

/// What the two processes map. Outputs are in another order than inputs, so that a wrong address
/// shows.
#[rustfmt::skip]
pub const MAPPINGS: &[Mapping] = &[
    row(("4K user rw-",        PROCESS), 0x0041_0000, 0x0060_7000, (KIB_4, 12), USER_RW,  Allows::both("rw-")),
    row(("4K user r--",        PROCESS), 0x0041_1000, 0x0060_6000, (KIB_4, 12), USER_R,   Allows::both("r--")),
    row(("4K user r-x",        PROCESS), 0x0041_2000, 0x0060_5000, (KIB_4, 12), USER_RX,  Allows::both("r-x")),
    row(("4K user rwx",        PROCESS), 0x0041_3000, 0x0060_4000, (KIB_4, 12), USER_RWX, Allows::both("rwx")),
    row(("4K user --x",        PROCESS), 0x0041_4000, 0x0060_3000, (KIB_4, 12), USER_X,   Allows::both("--x")),
    row(("4K privileged rw-",  PROCESS), 0x0041_5000, 0x0060_2000, (KIB_4, 12), Prot::RW, Allows::supervisor("rw-")),
    row(("4K privileged r--",  PROCESS), 0x0041_6000, 0x0060_1000, (KIB_4, 12), Prot::R,  Allows::supervisor("r--")),
    row(("4K privileged r-x",  PROCESS), 0x0041_7000, 0x0060_0000, (KIB_4, 12), Prot::RX, Allows::supervisor("r-x")),
    row(("4K run of 8",        PROCESS), 0x005f_8000, 0x0061_0000, (8 * KIB_4, 12), USER_RWX, Allows::both("rwx")),

    row(("64K user rw-",       PROCESS), 0x0060_0000, 0x0074_0000, (KIB_64, 16), USER_RW,  Allows::both("rw-")),
    row(("64K user r--",       PROCESS), 0x0061_0000, 0x0073_0000, (KIB_64, 16), USER_R,   Allows::both("r--")),
    row(("64K user r-x",       PROCESS), 0x0062_0000, 0x0072_0000, (KIB_64, 16), USER_RX,  Allows::both("r-x")),
    row(("64K privileged rw-", PROCESS), 0x0063_0000, 0x0071_0000, (KIB_64, 16), Prot::RW, Allows::supervisor("rw-")),
    row(("64K last of table",  PROCESS), 0x007f_0000, 0x0070_0000, (KIB_64, 16), USER_RWX, Allows::both("rwx")),
    row(("64K last of tree",   PROCESS), 0x000f_ffff_ffff_0000, 0x0075_0000, (KIB_64, 16), USER_RWX, Allows::both("rwx")),

    row(("2M user rwx",        PROCESS), 0x0080_0000, 0x0240_0000, (MIB_2, 21), USER_RWX, Allows::both("rwx")),
    row(("2M user r--",        PROCESS), 0x00a0_0000, 0x0220_0000, (MIB_2, 21), USER_R,   Allows::both("r--")),
    row(("2M privileged rwx",  PROCESS), 0x00c0_0000, 0x0200_0000, (MIB_2, 21), Prot::RWX, Allows::supervisor("rwx")),
    row(("1G user rwx",        PROCESS), 0x8000_0000, 0x4000_0000, (GIB_1, 30), USER_RWX, Allows::both("rwx")),

    row(("Q3 4K privileged rw-",  KERNEL), Q3 | 0x0041_0000, 0x0060_8000, (KIB_4, 12), Prot::RW, Allows::supervisor("rw-")),
    row(("Q3 4K user r--",        KERNEL), Q3 | 0x0041_1000, 0x0060_9000, (KIB_4, 12), USER_R,   Allows::both("r--")),
    row(("Q3 64K privileged r-x", KERNEL), Q3 | 0x0060_0000, 0x0076_0000, (KIB_64, 16), Prot::RX, Allows::supervisor("r-x")),
    row(("Q3 2M privileged rwx",  KERNEL), Q3 | 0x0080_0000, 0x0260_0000, (MIB_2, 21), Prot::RWX, Allows::supervisor("rwx")),
    row(("Q3 1G privileged rw-",  KERNEL), Q3 | 0x4000_0000, 0x4000_0000, (GIB_1, 30), Prot::RW, Allows::supervisor("rw-")),
];

/// Places that need more words than a mapping: what is not mapped at each level, other processes,
/// no addresses.
#[rustfmt::skip]
pub const LOOKS: &[Look] = &[
    look("unmapped: no 4K page",         PROCESS, 0x0041_8000, Finds::Unmapped),
    look("unmapped: no 64K page",        PROCESS, 0x0064_0000, Finds::Unmapped),
    look("unmapped: no last-level table", PROCESS, 0x00e0_0000, Finds::Unmapped),
    look("unmapped: no level-1 table",   PROCESS, 0x4000_0000, Finds::Unmapped),
    look("unmapped: no level-2 table",   PROCESS, 0x0000_0080_0000_0000, Finds::Unmapped),
    look("unmapped: before the last page", PROCESS, 0x000f_ffff_fffe_fff8, Finds::Unmapped),
    look("Q3 unmapped: no 4K page",      PROCESS, Q3 | 0x0041_7000, Finds::Unmapped),
    look("Q3 unmapped: no level-2 table", PROCESS, Q3 | 0x0000_0080_0000_0000, Finds::Unmapped),
    look("quadrant 1",                   PROCESS, 1 << 62 | 0x0041_0000, Finds::NoAddress),
    look("quadrant 2",                   PROCESS, 2 << 62 | 0x0041_0000, Finds::NoAddress),
    look("bit 52 in quadrant 0",         PROCESS, 0x0010_0000_0041_0000, Finds::NoAddress),
    look("bit 61 in quadrant 3",         PROCESS, Q3 | 0x2000_0000_0041_0000, Finds::NoAddress),
    look("process 0 in quadrant 0",      KERNEL, 0x0041_0010, Finds::Page(0x0060_8010, Allows::supervisor("rw-"))),
    look("process 0 in quadrant 3",      KERNEL, Q3 | 0x0041_0020, Finds::Page(0x0060_8020, Allows::supervisor("rw-"))),
    look("process without a tree",       NO_TREE, 0x0041_0000, Finds::NoTree),
    look("its quadrant 3 is the same",   NO_TREE, Q3 | 0x0041_0030, Finds::Page(0x0060_8030, Allows::supervisor("rw-"))),
    look("process beyond the table",     BEYOND, 0x0041_0000, Finds::Unmapped),
];
