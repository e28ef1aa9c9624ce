//! The table of changes while the guest is stopped, and how things look afterwards.

use pgtable::Prot;

use super::layout::{Layout, OTHER, PROCESS};
use crate::allows::Allows;
use crate::change::{Act, Change, USER_R, USER_RW, change};
use crate::look::Finds;

const RWX: Allows = Allows::user("rwx");

impl<const BITS: u8> Layout<BITS> {
    /// The lower half's last page.
    const LAST: u64 = Self::HALF - 0x1000;

    #[rustfmt::skip]
    pub const CHANGES: &'static [Change] = &[
        change(("unmap a 4K page", PROCESS), (0x0041_0000, 0x1000), Act::Unmap, (0x1000, 0), &[
            (0x0041_0000, Finds::Unmapped),
            (0x0041_1008, Finds::Page(0x0060_6008, Allows::user("r--"))),
        ]),
        change(("map it elsewhere", PROCESS), (0x0041_0000, 0x1000), Act::Map(0x0064_0000, 12, USER_RW), (0x1000, 0), &[
            (0x0041_0000, Finds::Page(0x0064_0000, Allows::user("rw-"))),
        ]),
        change(("4K page rw- to r--", PROCESS), (0x0041_0000, 0x1000), Act::Protect(USER_R), (0x1000, 0), &[
            (0x0041_0000, Finds::Page(0x0064_0000, Allows::user("r--"))),
        ]),
        change(("and back to rw-", PROCESS), (0x0041_0000, 0x1000), Act::Protect(USER_RW), (0x1000, 0), &[
            (0x0041_0ff8, Finds::Page(0x0064_0ff8, Allows::user("rw-"))),
        ]),
        change(("4K page r-x to r--", PROCESS), (0x0041_2000, 0x1000), Act::Protect(USER_R), (0x1000, 0), &[
            (0x0041_2000, Finds::Page(0x0060_5000, Allows::user("r--"))),
        ]),
        change(("2M page user r-- to supervisor rw-", PROCESS), (0x00a0_0000, 0x20_0000), Act::Protect(Prot::RW), (0x20_0000, 0), &[
            (0x00a0_0000, Finds::Page(0x0120_0000, Allows::supervisor("rw-"))),
        ]),
        change(("64K out of a 2M page", PROCESS), (0x0085_0000, 0x1_0000), Act::Unmap, (0x1_0000, 0), &[
            (0x0085_0000, Finds::Unmapped),
            (0x0085_fff8, Finds::Unmapped),
            (0x0084_fff8, Finds::Page(0x00c4_fff8, RWX)),
            (0x0086_0000, Finds::Page(0x00c6_0000, RWX)),
            (0x009f_fff8, Finds::Page(0x00df_fff8, RWX)),
        ]),
        change(("4K of it to r--", PROCESS), (0x0080_0000, 0x1000), Act::Protect(USER_R), (0x1000, 0), &[
            (0x0080_0000, Finds::Page(0x00c0_0000, Allows::user("r--"))),
            (0x0080_1000, Finds::Page(0x00c0_1000, RWX)),
        ]),
        change(("4K out of a higher 2M page", PROCESS), (0xffff_ffd0_0080_3000, 0x1000), Act::Unmap, (0x1000, 0), &[
            (0xffff_ffd0_0080_3000, Finds::Unmapped),
            (0xffff_ffd0_0080_2ff8, Finds::Page(0x00e0_2ff8, Allows::supervisor("rwx"))),
            (0xffff_ffd0_0080_4000, Finds::Page(0x00e0_4000, Allows::supervisor("rwx"))),
        ]),
        change(("2M out of a 1G page", PROCESS), (0x80e0_0000, 0x20_0000), Act::Unmap, (0x20_0000, 0), &[
            (0x80e0_0000, Finds::Unmapped),
            (0x80df_fff8, Finds::Page(0x40df_fff8, RWX)),
            (0x8100_0000, Finds::Page(0x4100_0000, RWX)),
            (0xbfff_fff8, Finds::Page(0x7fff_fff8, RWX)),
        ]),
        change(("4K of what was a 1G page to r--", PROCESS), (0x9001_0000, 0x1000), Act::Protect(USER_R), (0x1000, 0), &[
            (0x9001_0000, Finds::Page(0x5001_0000, Allows::user("r--"))),
            (0x9001_1000, Finds::Page(0x5001_1000, RWX)),
        ]),
        change(("unmap the lower half's last page", PROCESS), (Self::LAST, 0x1000), Act::Unmap, (0x1000, Self::LEVELS - 1), &[
            (Self::LAST + 0xff8, Finds::Unmapped),
        ]),
        change(("map a page there", PROCESS), (Self::LAST, 0x1000), Act::Map(0x0064_1000, 12, USER_RW), (0x1000, 0), &[
            (Self::LAST + 0xff8, Finds::Page(0x0064_1ff8, Allows::user("rw-"))),
            (Self::LAST - 8, Finds::Unmapped),
        ]),
        change(("unmap 2M of 4K pages", PROCESS), (0x0040_0000, 0x20_0000), Act::Unmap, (18 * 0x1000, 1), &[
            (0x0041_0000, Finds::Unmapped),
            (0x005f_fff8, Finds::Unmapped),
            (0x0080_0008, Finds::Page(0x00c0_0008, Allows::user("r--"))),
        ]),
        change(("map 2M there", PROCESS), (0x0040_0000, 0x20_0000), Act::Map(0x01a0_0000, 21, USER_RW), (0x20_0000, 0), &[
            (0x0041_0000, Finds::Page(0x01a1_0000, Allows::user("rw-"))),
            (0x005f_fff8, Finds::Page(0x01bf_fff8, Allows::user("rw-"))),
        ]),
        change(("unmap the other's 2M page", OTHER), (0x0080_0000, 0x20_0000), Act::Unmap, (0x20_0000, 0), &[
            (0x0080_0000, Finds::Unmapped),
            (0x0041_0000, Finds::Page(0x0060_b000, Allows::user("r--"))),
        ]),
    ];
}
