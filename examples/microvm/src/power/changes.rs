//! The table of changes while the guest is stopped, and how things look afterwards.

use pgtable::Prot;

use super::layout::{KERNEL, PROCESS, Q3};
use crate::allows::Allows;
use crate::change::{Act, Change, RWX, USER_R, USER_RW, change};
use crate::look::Finds;

#[rustfmt::skip]
pub const CHANGES: &[Change] = &[
    change(("unmap a 4K page", PROCESS), (0x0041_0000, 0x1000), Act::Unmap, (0x1000, 0), &[
        (0x0041_0000, Finds::Unmapped),
        (0x0041_1008, Finds::Page(0x0060_6008, Allows::both("r--"))),
    ]),
    change(("map it elsewhere", PROCESS), (0x0041_0000, 0x1000), Act::Map(0x0062_0000, 12, USER_RW), (0x1000, 0), &[
        (0x0041_0000, Finds::Page(0x0062_0000, Allows::both("rw-"))),
    ]),
    change(("64K page rw- to r--", PROCESS), (0x0060_0000, 0x1_0000), Act::Protect(USER_R), (0x1_0000, 0), &[
        (0x0060_0000, Finds::Page(0x0074_0000, Allows::both("r--"))),
    ]),
    change(("and back to rw-", PROCESS), (0x0060_0000, 0x1_0000), Act::Protect(USER_RW), (0x1_0000, 0), &[
        (0x0060_fff8, Finds::Page(0x0074_fff8, Allows::both("rw-"))),
    ]),
    change(("64K page r-x to r--", PROCESS), (0x0062_0000, 0x1_0000), Act::Protect(USER_R), (0x1_0000, 0), &[
        (0x0062_0000, Finds::Page(0x0072_0000, Allows::both("r--"))),
    ]),
    change(("2M page user r-- to privileged rw-", PROCESS), (0x00a0_0000, 0x20_0000), Act::Protect(Prot::RW), (0x20_0000, 0), &[
        (0x00a0_0000, Finds::Page(0x0220_0000, Allows::supervisor("rw-"))),
    ]),
    change(("64K out of a 2M page", PROCESS), (0x0085_0000, 0x1_0000), Act::Unmap, (0x1_0000, 0), &[
        (0x0085_0000, Finds::Unmapped),
        (0x0085_fff8, Finds::Unmapped),
        (0x0084_fff8, Finds::Page(0x0244_fff8, RWX)),
        (0x0086_0000, Finds::Page(0x0246_0000, RWX)),
        (0x009f_fff8, Finds::Page(0x025f_fff8, RWX)),
    ]),
    change(("4K out of the kernel's 2M page", KERNEL), (Q3 | 0x0080_3000, 0x1000), Act::Unmap, (0x1000, 0), &[
        (Q3 | 0x0080_3000, Finds::Unmapped),
        (Q3 | 0x0080_2ff8, Finds::Page(0x0260_2ff8, Allows::supervisor("rwx"))),
        (Q3 | 0x0080_4000, Finds::Page(0x0260_4000, Allows::supervisor("rwx"))),
    ]),
    change(("2M out of a 1G page", PROCESS), (0x80e0_0000, 0x20_0000), Act::Unmap, (0x20_0000, 0), &[
        (0x80e0_0000, Finds::Unmapped),
        (0x80df_fff8, Finds::Page(0x40df_fff8, RWX)),
        (0x8100_0000, Finds::Page(0x4100_0000, RWX)),
        (0xbfff_fff8, Finds::Page(0x7fff_fff8, RWX)),
    ]),
    change(("64K of what was a 1G page to r--", PROCESS), (0x9001_0000, 0x1_0000), Act::Protect(USER_R), (0x1_0000, 0), &[
        (0x9001_0000, Finds::Page(0x5001_0000, Allows::both("r--"))),
        (0x9002_0000, Finds::Page(0x5002_0000, RWX)),
    ]),
    change(("unmap the tree's last page", PROCESS), (0x000f_ffff_ffff_0000, 0x1_0000), Act::Unmap, (0x1_0000, 3), &[
        (0x000f_ffff_ffff_fff8, Finds::Unmapped),
    ]),
    change(("map a 4K page there", PROCESS), (0x000f_ffff_ffff_f000, 0x1000), Act::Map(0x0077_0000, 12, USER_RW), (0x1000, 0), &[
        (0x000f_ffff_ffff_fff8, Finds::Page(0x0077_0ff8, Allows::both("rw-"))),
        (0x000f_ffff_ffff_eff8, Finds::Unmapped),
    ]),
    change(("unmap 4M of 4K and 64K pages", PROCESS), (0x0040_0000, 0x40_0000), Act::Unmap, (16 * 0x1000 + 5 * 0x1_0000, 2), &[
        (0x0041_0000, Finds::Unmapped),
        (0x005f_fff8, Finds::Unmapped),
        (0x0060_0000, Finds::Unmapped),
        (0x007f_fff8, Finds::Unmapped),
        (0x0080_0000, Finds::Page(0x0240_0000, RWX)),
    ]),
];
