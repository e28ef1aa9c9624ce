//! Small machines, word by word: tables of x86-64 as a kernel would have them, and the notes of the
//! programs that write cores.

use std::collections::BTreeMap;

use crate::cores::Note;

const PAGE: u64 = 4096;
/// Where Linux on x86-64 has its own image.
pub const KERNEL_MAP: u64 = 0xffff_ffff_8000_0000;

/// Tables of x86-64 in pages one after the other, from `root` on.
pub struct X86 {
    pages: BTreeMap<u64, Vec<u8>>,
    pub root: u64,
    free: u64,
    /// The C-bit, which each address has.
    pub c_bit: u64,
    levels: u32,
}

impl X86 {
    pub fn new(root: u64, levels: u32) -> Self {
        let pages = BTreeMap::from([(root, vec![0; PAGE as usize])]);
        Self { pages, root, free: root + PAGE, c_bit: 0, levels }
    }

    pub fn read(&self, at: u64) -> u64 {
        let page = self.pages.get(&(at & !(PAGE - 1)));
        page.map_or(0, |page| {
            let at = (at % PAGE) as usize;
            u64::from_le_bytes(page[at..at + 8].try_into().unwrap())
        })
    }

    pub fn write(&mut self, at: u64, word: u64) {
        let page = self.pages.entry(at & !(PAGE - 1)).or_insert_with(|| vec![0; PAGE as usize]);
        let at = (at % PAGE) as usize;
        page[at..at + 8].copy_from_slice(&word.to_le_bytes());
    }

    /// Keeps a page for something else.
    pub fn skip_page(&mut self) -> u64 {
        self.free += PAGE;
        self.free - PAGE
    }

    /// The address of the entry for `va` at a level, all tables above being there.
    pub fn entry(&self, va: u64, level: u32) -> u64 {
        let mut table = self.root;
        let mut at = self.levels - 1;
        loop {
            let entry = table + (va >> (12 + 9 * at) & 511) * 8;
            if at == level {
                return entry;
            }
            table = self.read(entry) & !self.c_bit & 0x000f_ffff_ffff_f000;
            at -= 1;
        }
    }

    /// Maps a page of 2^`shift` bytes with these flags.
    pub fn map(&mut self, va: u64, pa: u64, shift: u32, flags: u64) {
        let mut table = self.root;
        for level in (0..self.levels).rev() {
            let at = 12 + 9 * level;
            let entry = table + (va >> at & 511) * 8;
            if at == shift {
                let size = if shift > 12 { 0x80 } else { 0 };
                return self.write(entry, pa | self.c_bit | flags | size);
            }
            let mut word = self.read(entry);
            if word & 1 == 0 {
                word = self.skip_page() | self.c_bit | 0x67;
                self.write(entry, word);
            }
            table = word & !self.c_bit & 0x000f_ffff_ffff_f000;
        }
    }

    /// All of memory from 0 up to `end`.
    pub fn bytes(&self, end: u64) -> Vec<u8> {
        let mut bytes = vec![0; end as usize];
        for (at, page) in self.pages.range(..end) {
            bytes[*at as usize..][..page.len()].copy_from_slice(page);
        }
        bytes
    }
}

/// The kernel's text, a direct map of 1 GiB, a page of a process; and the end of the tables.
pub fn machine(root: u64, c_bit: u64) -> X86 {
    let mut machine = X86 { c_bit, ..X86::new(root, 4) };
    machine.map(KERNEL_MAP + 0x100_0000, 0x100_0000, 21, 0x63);
    machine.map(0xffff_8880_0000_0000, 0, 30, 0x63);
    machine.map(0x40_0000, 0x30_0000, 12, 0x67);
    machine
}

/// A CPU in long mode.
pub const CR0: u64 = 0x8005_0033;
pub const CR4: u64 = 0x20;

/// QEMU's note of a CPU: `QEMUCPUState` of `target/i386/arch_dump.c`.
pub fn qemu(cr0: u64, cr3: u64, cr4: u64, cs: u64) -> Note<'static> {
    let mut state = vec![0; 440];
    state[4..6].copy_from_slice(&440_u16.to_le_bytes());
    state[0] = 1;
    for (at, value) in [(152, cs), (392, cr0), (416, cr3), (424, cr4)] {
        state[at..at + 8].copy_from_slice(&value.to_le_bytes());
    }
    ("QEMU", 0, state)
}

/// VirtualBox's note of a CPU: `DBGFCORECPU`.
pub fn virtualbox(cr0: u64, cr3: u64, cr4: u64, efer: u64) -> Note<'static> {
    let mut state = vec![0; 4096];
    for (at, value) in [(288, cr0), (304, cr3), (312, cr4), (488, efer)] {
        state[at..at + 8].copy_from_slice(&value.to_le_bytes());
    }
    ("VBCPU", 0xb01, state)
}

pub fn vmcoreinfo(text: &str) -> Note<'static> {
    ("VMCOREINFO", 0, text.as_bytes().to_vec())
}
