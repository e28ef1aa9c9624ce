//! Random trees of 32-bit and PAE paging: entries are mostly good ones, so that accesses go deep
//! and find everything on their way.

use std::sync::atomic::{AtomicU64, Ordering};

use fastrand::Rng;
use pgtable::Gpa;
use pgtable_x86::{Controls, Pae, Paging32};

use super::Machine;
use super::records::{DATA, TABLES};

const PAGE: u64 = 0x1000;
/// Where the program's own pages are, which each tree maps where they are.
const RAM: u64 = 0x10_0000;
/// Of these the one for user mode, and how many there are.
const USER_PAGE: u64 = 1;
const PAGES: u64 = 5;
/// P, R/W, A; U/S; D.
const OWN: u64 = 0x23;
const US: u64 = 4;
const DIRTY: u64 = 0x40;
const PS: u64 = 0x80;

/// Indices in tables of 1024 and of 512 entries: beginnings, ends, and powers of two. Index 0 of
/// the first table leads to the program's own pages.
const OF_1024: [u64; 10] = [1, 2, 5, 255, 256, 511, 512, 767, 1000, 1023];
const OF_512: [u64; 8] = [0, 1, 5, 127, 128, 255, 300, 511];

/// How a tree is read.
#[derive(Clone, Copy, Debug)]
pub enum Mode {
    Bits32(Paging32),
    Pae(Pae),
}

/// A tree, and under which controls it is walked. (Those that change from access to access are not
/// said here.)
#[derive(Clone, Copy, Debug)]
pub struct Tree {
    pub root: Gpa,
    pub pae: bool,
    pub controls: Controls,
}

impl Tree {
    /// The tree's format under `controls`.
    pub fn mode(&self, controls: Controls) -> Mode {
        if self.pae { Mode::Pae(Pae::new(controls)) } else { Mode::Bits32(Paging32::new(controls)) }
    }

    /// An address that leads into it: the first of a block.
    pub fn address(&self, dice: &mut Rng) -> u32 {
        let within = dice.u64(..256) << 4;
        let pick = |dice: &mut Rng, of: &[u64]| of[dice.usize(..of.len())];
        let address = if self.pae {
            let (high, low) = (pick(dice, &OF_512), pick(dice, &OF_512));
            dice.u64(1..4) << 30 | high << 21 | low << 12
        } else {
            pick(dice, &OF_1024) << 22 | pick(dice, &OF_1024) << 12
        };
        (address | within) as u32
    }
}

/// Writes tables.
pub struct Builder<'w> {
    words: &'w [AtomicU64],
    next: u64,
    /// The tables of the program's own pages: of 32-bit paging, of PAE, and the directory of PAE.
    own: [u64; 3],
}

impl<'w> Builder<'w> {
    pub fn new(words: &'w [AtomicU64]) -> Self {
        let mut builder = Self { words, next: TABLES.0, own: [0; 3] };
        builder.own = [(); 3].map(|()| builder.table().unwrap_or(TABLES.0));
        let [bits32, pae, directory] = builder.own;
        for page in 0..PAGES {
            let user = if page == USER_PAGE { US } else { 0 };
            let (index, entry) = ((RAM >> 12) + page, (RAM + page * PAGE) | OWN | DIRTY | user);
            builder.put32(bits32, index, entry);
            builder.put(pae, index, entry);
        }
        builder.put(directory, 0, pae | OWN | US);
        builder
    }

    fn table(&mut self) -> Option<u64> {
        let table = self.next;
        self.next += PAGE;
        (self.next <= TABLES.1).then_some(table)
    }

    fn slot(&self, address: u64) -> Option<&AtomicU64> {
        self.words.get((address.checked_sub(TABLES.0)? / 8) as usize)
    }

    fn put(&self, table: u64, index: u64, entry: u64) {
        if let Some(slot) = self.slot(table + index * 8) {
            slot.store(entry.to_le(), Ordering::Relaxed);
        }
    }

    fn put32(&self, table: u64, index: u64, entry: u64) {
        if let Some(slot) = self.slot(table + index * 4) {
            let shift = index % 2 * 32;
            let word = u64::from_le(slot.load(Ordering::Relaxed)) & !(0xffff_ffff << shift);
            slot.store((word | (entry & 0xffff_ffff) << shift).to_le(), Ordering::Relaxed);
        }
    }

    /// A random tree, as long as there is room.
    pub fn tree(&mut self, machine: &Machine, dice: &mut Rng) -> Option<Tree> {
        let controls = Controls {
            pse: dice.u8(..4) != 0,
            nxe: dice.u8(..3) != 0,
            maxphyaddr: machine.maxphyaddr,
            ..Controls::new()
        };
        if dice.bool() { self.bits32(controls, dice) } else { self.pae(controls, machine, dice) }
    }

    fn bits32(&mut self, controls: Controls, dice: &mut Rng) -> Option<Tree> {
        let root = self.table()?;
        let below = [self.table()?, self.table()?, self.table()?];
        self.put32(root, 0, self.own[0] | OWN | US);
        for index in OF_1024 {
            let mut entry = common(dice);
            let huge = dice.u8(..3) == 0;
            if huge && controls.pse {
                entry |= PS | (DATA.0 + (dice.u64(..2) << 22)) | dice.u64(..2) << 12;
                // Address bits beyond 4 GiB, and one that is reserved.
                let one_in = |dice: &mut Rng, n: u32| dice.u32(..n) == 0;
                if one_in(dice, 20) {
                    entry |= 1 << dice.u32(13..21);
                }
                if one_in(dice, 16) {
                    entry |= 1 << 21;
                }
            } else {
                // Without PSE bit 7 is nothing.
                let ps = if controls.pse { 0 } else { dice.u64(..2) * PS };
                entry |= ps | below[dice.usize(..3)];
            }
            self.put32(root, index, entry);
        }
        for table in below {
            for index in OF_1024 {
                let page = dice.u64(DATA.0 / PAGE..DATA.1 / PAGE) * PAGE;
                self.put32(table, index, common(dice) | page | (dice.u64(..2) * PS));
            }
        }
        Some(Tree { root: Gpa::new(root), pae: false, controls })
    }

    fn pae(&mut self, controls: Controls, machine: &Machine, dice: &mut Rng) -> Option<Tree> {
        // Aligned to 32 bytes, and no more.
        let root = self.table()? + (dice.u64(..128) << 5);
        let directories = [self.table()?, self.table()?];
        let below = [self.table()?, self.table()?, self.table()?];
        self.put(root, 0, self.own[2] | 1);
        for index in 1..4 {
            let mut entry = directories[dice.usize(..2)] | dice.u64(..1 << 10) & 0xe18;
            entry |= u64::from(dice.u8(..12) != 0);
            if dice.u8(..60) == 0 {
                let reserved = [machine.maxphyaddr.into(), 52, 62, 63, 1, 2, 5, 6, 7, 8];
                let count = if machine.known.pdptes_in_memory { 4 } else { reserved.len() };
                entry |= 1 << reserved[dice.usize(..count)];
            }
            self.put(root, index, entry);
        }
        for directory in directories {
            for index in OF_512 {
                let mut entry = common(dice) | wide(&controls, machine, dice);
                if dice.u8(..3) == 0 {
                    entry |= PS | (DATA.0 + (dice.u64(..4) << 21)) | dice.u64(..2) << 12;
                    if dice.u8(..16) == 0 {
                        entry |= 1 << dice.u32(13..21);
                    }
                } else {
                    entry |= below[dice.usize(..3)];
                }
                self.put(directory, index, entry);
            }
        }
        for table in below {
            for index in OF_512 {
                let page = dice.u64(DATA.0 / PAGE..DATA.1 / PAGE) * PAGE;
                let entry = common(dice) | wide(&controls, machine, dice) | (dice.u64(..2) * PS);
                self.put(table, index, entry | page);
            }
        }
        Some(Tree { root: Gpa::new(root), pae: true, controls })
    }
}

/// P, R/W and U/S, mostly set; PWT, PCD, A, D, G and what is ignored.
fn common(dice: &mut Rng) -> u64 {
    let mut entry = dice.u64(..) & 0xf78;
    for (one_in, bit) in [(12, 0), (4, 1), (4, 2)] {
        entry |= u64::from(dice.u32(..one_in) != 0) << bit;
    }
    entry
}

/// The upper half: XD, and seldom a bit that is reserved.
fn wide(controls: &Controls, machine: &Machine, dice: &mut Rng) -> u64 {
    let disabled = dice.u8(..if controls.nxe { 6 } else { 24 }) == 0;
    let stray = dice.u8(..30) == 0;
    let bit = dice.u32(u32::from(machine.maxphyaddr)..63);
    (u64::from(disabled) << 63) | (u64::from(stray) << bit)
}
