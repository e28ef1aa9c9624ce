//! A small machine of x86-64: its tables, word by word.

/// Where its root stands.
pub const ROOT: u64 = 0x1000;
const BYTES: usize = 0x2_0000;

/// Bits of entries (SDM §4.5.4).
const P: u64 = 1;
const W: u64 = 2;
const U: u64 = 4;
const XD: u64 = 1 << 63;
const PS: u64 = 1 << 7;

/// Memory with tables.
struct Tables {
    memory: Vec<u8>,
    next: u64,
}

impl Tables {
    fn word(&mut self, at: u64) -> &mut [u8] {
        &mut self.memory[at as usize..at as usize + 8]
    }

    /// Maps a page at `level` (0: 4 KiB).
    fn map(&mut self, va: u64, pa: u64, level: u32, flags: u64) {
        let mut table = ROOT;
        for here in (level + 1..4).rev() {
            let at = table + (va >> (12 + 9 * here) & 511) * 8;
            let mut bytes = [0; 8];
            bytes.copy_from_slice(self.word(at));
            table = u64::from_le_bytes(bytes) & !0xfff;
            if table == 0 {
                table = self.next;
                self.next += 0x1000;
                self.word(at).copy_from_slice(&(table | P | W | U).to_le_bytes());
            }
        }
        let at = table + (va >> (12 + 9 * level) & 511) * 8;
        let large = if level > 0 { PS } else { 0 };
        self.word(at).copy_from_slice(&(pa | flags | large | P).to_le_bytes());
    }
}

/// Memory from address 0 on; `other` maps a few things otherwise.
pub fn machine(other: bool) -> Vec<u8> {
    let mut tables = Tables { memory: vec![0; BYTES], next: ROOT + 0x1000 };
    // A program: text, data, a stack; single pages far apart, so that bands are needed.
    for page in 0..16 {
        tables.map(0x40_0000 + page * 0x1000, 0x100_0000 + page * 0x1000, 0, U);
    }
    for page in 0..5 {
        tables.map(0x60_0000 + page * 0x1000, 0x200_0000 + page * 0x3000, 0, U | W | XD);
    }
    tables.map(0x7fff_ffff_e000, if other { 0x999_9000 } else { 0x555_5000 }, 0, U | W | XD);
    // A direct map, a kernel, and a page that is writable and executable.
    for page in 0..2 {
        tables.map(0xffff_8880_0000_0000 + page * (1 << 30), page << 30, 2, W | XD);
    }
    for page in 0..8 {
        tables.map(0xffff_ffff_8100_0000 + page * (2 << 20), 0x300_0000 + page * (2 << 20), 1, 0);
    }
    if !other {
        tables.map(0xffff_ffff_a000_0000, 0x777_7000, 0, W);
    }
    tables.memory
}
