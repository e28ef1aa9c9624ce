//! What is where in the guest's memory.

/// Memory: four regions with much nothing between, so that the high bits of table and page
/// addresses matter: first address, bytes.
pub const REGIONS: [(u64, usize); 4] =
    [(0, 32 * MIB), (1 << 30, 4 * MIB), (1 << 39, 4 * MIB), (1 << 51, 4 * MIB)];
/// Where cases may map pages: first address, bytes. Nothing else is there.
pub const DATA: [(u64, u64); 4] = [
    (0x100_0000, 0x100_0000),
    ((1 << 30) + 0x20_0000, 0x20_0000),
    ((1 << 39) + 0x20_0000, 0x20_0000),
    ((1 << 51) + 0x20_0000, 0x20_0000),
];
/// Addresses below 2^52 without memory: behind a region, between, and the last.
pub const NOWHERE: [u64; 6] =
    [0x200_0000, 0x7fff_0000, 1 << 40, (1 << 51) + 0x40_0000, 0x9_1234_5678_0000, LAST_64K];

const MIB: usize = 1 << 20;
const LAST_64K: u64 = (1 << 52) - 0x1_0000;

/// The process table, and log2 of its bytes less 12: 4 KiB.
pub const PROCESS_TABLE: u64 = 0x1_0000;
/// See [`PROCESS_TABLE`].
pub const PRTS: u8 = 0;
/// How many processes it holds.
pub const PROCESSES: u32 = processes(PRTS);
/// The size of a larger one, of 64 KiB, for which there is room.
pub const LARGER: u8 = 4;
/// How many processes a process table of this size holds.
pub const fn processes(prts: u8) -> u32 {
    1 << (prts + 8)
}
/// The process table entry of process `pid`.
pub const fn prte(pid: u32) -> u64 {
    PROCESS_TABLE + 16 * pid as u64
}

/// The tables that map the stubs: root (of process 0), then one per level.
pub const KERNEL: [u64; 4] = [0x3_0000, 0x4_0000, 0x4_1000, 0x4_2000];
/// Where the kernel maps the page of stubs, for privileged state and for problem state. Entry 0 of
/// its root leads there; cases have the others.
pub const STUBS: [u64; 2] = [QUADRANT_3 | 0x1_0000, QUADRANT_3 | 0x1_1000];
/// Quadrant 3.
pub const QUADRANT_3: u64 = 3 << 62;

/// Where the tables of a case may stand, a block of 64 KiB each: root first, then the others.
/// Behind a root 64 KiB are free, in case that it is not aligned.
pub const TABLES: [[u64; 4]; 4] = [
    [0x10_0000, 0x12_0000, 0x13_0000, 0x14_0000],
    [0x20_0000, 1 << 30, (1 << 39) + 0x1_0000, (1 << 51) + 0x2_0000],
    [(1 << 51) + 0x10_0000, (1 << 39) + 0x2_0000, (1 << 30) + 0x1_0000, 0x30_0000],
    [(1 << 39) + 0x10_0000, (1 << 51) + 0x4_0000, 0x34_0000, (1 << 30) + 0x5_0000],
];

/// Whether a case may write at `address`.
pub fn is_data(address: u64) -> bool {
    DATA.iter().any(|&(start, bytes)| address >= start && address - start < bytes)
}
