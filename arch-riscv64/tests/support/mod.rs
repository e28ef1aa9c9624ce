//! A hart's translation as the manual's prose has it, step by step: no masks shared with the crate,
//! no shortcuts, no trees.

use std::collections::BTreeMap;

use pgtable::{Access, AccessKind, Privilege};
use pgtable_riscv64::{Controls, Extensions, GuestControls, Mode};

/// What the model answers: an address and log2 of the page's size (of the smaller page, with two
/// stages), or scause, stval, htval and htinst.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Outcome {
    Page(u64, u32),
    Trap { cause: u64, stval: u64, htval: u64, htinst: u64 },
}

/// Words at addresses; there is no memory elsewhere.
pub type Memory = BTreeMap<u64, u64>;

/// The word at an address, if there is memory.
pub type Load<'m> = &'m dyn Fn(u64) -> Option<u64>;

/// One stage's register and state.
#[derive(Clone, Copy, Debug)]
pub struct Stage {
    pub mode: Mode,
    pub root: u64,
    pub extensions: Extensions,
    pub mxr: bool,
    /// Only the first stage has it.
    pub sum: bool,
}

impl Stage {
    pub fn first(mode: Mode, root: u64, controls: Controls) -> Self {
        let Controls { sum, mxr, extensions } = controls;
        Self { mode, root, extensions, mxr, sum }
    }

    pub fn guest(mode: Mode, root: u64, controls: GuestControls) -> Self {
        let GuestControls { mxr, extensions } = controls;
        Self { mode, root, extensions, mxr, sum: false }
    }

    fn levels(&self) -> i32 {
        match self.mode {
            Mode::Sv39 => 3,
            Mode::Sv48 => 4,
            Mode::Sv57 => 5,
        }
    }
}

/// A hart in S-mode or U-mode (`guest` is `None`), or in VS-mode or VU-mode.
pub struct Hart<'m> {
    pub load: Load<'m>,
    pub first: Option<Stage>,
    pub guest: Option<Stage>,
    /// The words that hardware wrote. The walk itself does not see them: a translation of the crate
    /// judges memory as it is, also where the two stages' tables overlap.
    pub written: BTreeMap<u64, u64>,
}

/// Why a walk stops: a page fault of the stage, an access fault, or the other stage's fault.
enum Stop {
    Page,
    Access,
    Guest { gpa: u64, htinst: u64 },
}

fn bit(word: u64, n: u32) -> bool {
    word >> n & 1 == 1
}

fn field(word: u64, high: u32, low: u32) -> u64 {
    word >> low & ((1 << (high - low + 1)) - 1)
}

impl<'m> Hart<'m> {
    pub fn new(load: Load<'m>, first: Option<Stage>, guest: Option<Stage>) -> Self {
        Self { load, first, guest, written: BTreeMap::new() }
    }

    fn word(&self, address: u64) -> Result<u64, Stop> {
        (self.load)(address).ok_or(Stop::Access)
    }

    /// The implicit access of a first stage's walk: through the guest stage, if there is one.
    fn table(&mut self, address: u64, kind: AccessKind) -> Result<u64, Stop> {
        if self.guest.is_none() {
            return Ok(address);
        }
        let htinst = if kind == AccessKind::Write { 0x3020 } else { 0x3000 };
        match self.guest_stage(address, kind, true) {
            Ok((hpa, _)) => Ok(hpa),
            Err(Stop::Access) => Err(Stop::Access),
            Err(_) => Err(Stop::Guest { gpa: address, htinst }),
        }
    }

    fn guest_stage(
        &mut self,
        gpa: u64,
        kind: AccessKind,
        implicit: bool,
    ) -> Result<(u64, u32), Stop> {
        let Some(stage) = self.guest else { return Ok((gpa, 63)) };
        let width = 12 + 9 * stage.levels() as u32 + 2;
        if gpa >> width != 0 {
            return Err(Stop::Page);
        }
        let access = Access { kind, privilege: Privilege::User };
        self.walk(stage, true, gpa, access, implicit)
    }

    /// "Virtual Address Translation Process", steps 1 to 10.
    fn walk(
        &mut self,
        stage: Stage,
        x4: bool,
        va: u64,
        access: Access,
        implicit: bool,
    ) -> Result<(u64, u32), Stop> {
        let Extensions { adue, pbmte, svnapot, rsw60t59b } = stage.extensions;
        let mut a = stage.root;
        let mut i = stage.levels() - 1;
        loop {
            let low = 12 + 9 * i as u32;
            let wide = x4 && i == stage.levels() - 1;
            let vpn = field(va, low + if wide { 10 } else { 8 }, low);
            let guest_address = a + vpn * 8;
            let address = match x4 {
                true => guest_address,
                false => self.table(guest_address, AccessKind::Read)?,
            };
            let pte = self.word(address)?;
            let [v, r, w, x, u] = [0, 1, 2, 3, 4].map(|n| bit(pte, n));
            let (accessed, dirty) = (bit(pte, 6), bit(pte, 7));
            let (pbmt, ppn) = (field(pte, 62, 61), field(pte, 53, 10));
            if !v || !r && w {
                return Err(Stop::Page);
            }
            if field(pte, 58, 54) != 0
                || !rsw60t59b && field(pte, 60, 59) != 0
                || !pbmte && pbmt != 0
                || pbmt == 3
                || !svnapot && bit(pte, 63)
            {
                return Err(Stop::Page);
            }
            if !r && !x {
                if u || accessed || dirty || pbmt != 0 || bit(pte, 63) || i == 0 {
                    return Err(Stop::Page);
                }
                a = ppn << 12;
                i -= 1;
                continue;
            }

            if i > 0 && field(ppn, 9 * i as u32 - 1, 0) != 0 {
                return Err(Stop::Page);
            }
            // "NAPOT Translation Contiguity": 64 KiB is the only valid encoding.
            let napot = bit(pte, 63);
            if napot && (i > 0 || field(ppn, 3, 0) != 0b1000) {
                return Err(Stop::Page);
            }
            let user_allows = match access.privilege {
                Privilege::User => u,
                Privilege::Supervisor => !u || stage.sum && access.kind != AccessKind::Fetch,
            };
            let right = match access.kind {
                AccessKind::Read => r || x && stage.mxr && !implicit,
                AccessKind::Write => w,
                AccessKind::Fetch => x,
            };
            if !user_allows || !right {
                return Err(Stop::Page);
            }
            let store = access.kind == AccessKind::Write;
            if !accessed || store && !dirty {
                if !adue {
                    return Err(Stop::Page);
                }
                let address = match x4 {
                    true => address,
                    false => self.table(guest_address, AccessKind::Write)?,
                };
                let word = self.written.entry(address).or_insert(pte);
                *word |= 1 << 6 | u64::from(store) << 7;
            }
            let size = if napot { 16 } else { low };
            let offset = (1 << size) - 1;
            return Ok((ppn << 12 & !offset | va & offset, size));
        }
    }

    /// One access.
    pub fn access(&mut self, va: u64, access: Access) -> Outcome {
        let kind = access.kind;
        let trap = |codes: [u64; 3], htval, htinst| {
            let cause = match kind {
                AccessKind::Fetch => codes[0],
                AccessKind::Read => codes[1],
                AccessKind::Write => codes[2],
            };
            Outcome::Trap { cause, stval: va, htval, htinst }
        };
        let (gpa, size) = match self.first {
            None => (va, 63),
            Some(stage) => {
                let bits = 12 + 9 * stage.levels() as u32;
                let above = va as i64 >> (bits - 1);
                let walked = if above != 0 && above != -1 {
                    Err(Stop::Page)
                } else {
                    self.walk(stage, false, va, access, false)
                };
                match walked {
                    Ok(page) => page,
                    Err(Stop::Page) => return trap([12, 13, 15], 0, 0),
                    Err(Stop::Access) => return trap([1, 5, 7], 0, 0),
                    Err(Stop::Guest { gpa, htinst }) => {
                        return trap([20, 21, 23], gpa >> 2, htinst);
                    }
                }
            }
        };
        match self.guest_stage(gpa, kind, false) {
            Ok((hpa, other)) => Outcome::Page(hpa, size.min(other)),
            Err(Stop::Access) => trap([1, 5, 7], 0, 0),
            Err(_) => trap([20, 21, 23], gpa >> 2, 0),
        }
    }
}

/// Numbers from a seed (SplitMix64).
pub struct Dice(pub u64);

impl Dice {
    pub fn word(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ self.0 >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ z >> 31
    }

    pub fn below(&mut self, n: u64) -> u64 {
        self.word() % n
    }

    pub fn one_in(&mut self, n: u64) -> bool {
        self.below(n) == 0
    }

    pub fn of<T: Copy>(&mut self, choices: &[T]) -> T {
        choices[self.below(choices.len() as u64) as usize]
    }

    pub fn access(&mut self) -> Access {
        let kind = self.of(&[AccessKind::Read, AccessKind::Write, AccessKind::Fetch]);
        Access { kind, privilege: self.of(&[Privilege::User, Privilege::Supervisor]) }
    }
}
