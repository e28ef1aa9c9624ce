//! Trees of one stage, and a guest's tree behind the hypervisor's: all built by the library, in the
//! image of memory.
//!
//! A guest's tables stand at guest-physical addresses that stage 2 maps to where they are. All
//! three things that a guest uses (its tables, its own code, the page of a case) lie far from each
//! other, and nowhere is an address equal to the one that it is translated to, unless both lie in
//! pages of more than a GiB.

use std::error::Error;
use std::sync::atomic::AtomicU64;

use frag_alloc::{Cache, Frames, Kind, Owner, Policy, Region};
use pgtable::format::Format;
use pgtable::memory::DirectMap;
use pgtable::tree::PageTable;
use pgtable::{Address, Gpa, Gva, Hpa, Leaves, Privilege, Prot, low_bits};
use pgtable_riscv64::{GuestAttributes, Mode, PageAttributes};

use super::records::{DATA, TABLES};
use super::state::{Machine, Roots, State};

/// The page with the code that makes the accesses.
pub const CODE: u64 = TABLES.0;
/// A word that no case uses.
pub const SCRATCH: u64 = TABLES.0 + 0x1000;
/// The frames that tables are made of, 64 KiB each.
const FRAMES: u64 = TABLES.0 + 0x1_0000;
const FRAME: u64 = 1 << 16;

/// Where a supervisor finds this code; the next page is a user's.
const STUBS: u64 = 0xffff_ffff_c000_0000;
/// Its guest-physical address.
const STUBS_GPA: u64 = 0x5_4060_7000;
/// Guest-physical addresses of tables, and of data: the bits above the largest page.
const TABLES_GPA: u64 = 0x2a << 30;
const DATA_GPA: u64 = 0x233 << 30;
/// Addresses are made to differ by these bits, where the size of pages allows it.
const TWIST: u64 = 0x1d9b_0000;

/// An instruction that makes an access at the address in a1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Instruction {
    /// `ld a0, 0(a1)`
    Load,
    /// `sd a2, 0(a1)`
    Store,
    /// `amoadd.d a0, a2, (a1)`
    Amo,
    /// `hlv.d a0, (a1)`: HS-mode loads from a guest's memory.
    Hlv,
    /// `hlvx.wu a0, (a1)`: the same as for the fetch of an instruction.
    Hlvx,
    /// `hsv.d a2, (a1)`: HS-mode stores to a guest's memory.
    Hsv,
}

impl Instruction {
    pub const ALL: [Self; 6] =
        [Self::Load, Self::Store, Self::Amo, Self::Hlv, Self::Hlvx, Self::Hsv];

    const fn code(self) -> u64 {
        match self {
            Self::Load => 0x0005_b503,
            Self::Store => 0x00c5_b023,
            Self::Amo => 0x00c5_b52f,
            Self::Hlv => 0x6c05_c573,
            Self::Hlvx => 0x6835_c573,
            Self::Hsv => 0x6ec5_c073,
        }
    }

    /// The instruction as htinst tells it: the field rs1 is 0, as the address has no offset.
    pub const fn transformed(self) -> u64 {
        self.code() & !(0x1f << 15)
    }

    /// Whether it is one of HS-mode for a guest's memory.
    pub const fn is_hypervisors(self) -> bool {
        matches!(self, Self::Hlv | Self::Hlvx | Self::Hsv)
    }

    /// Where the case finds it.
    pub fn address(self, roots: &Roots, privilege: Privilege) -> u64 {
        let page = if privilege == Privilege::User { 0x1000 } else { 0 };
        let at = 0x10 * self as u64;
        match (roots.first, roots.second) {
            _ if self.is_hypervisors() => self.place(),
            (Some(_), _) => STUBS + page + at,
            (None, Some(_)) => STUBS_GPA + at,
            (None, None) => self.place(),
        }
    }

    /// Where it stands in memory.
    pub const fn place(self) -> u64 {
        CODE + 0x10 * self as u64
    }

    /// The word there: the instruction, and ECALL.
    pub const fn word(self) -> u64 {
        self.code() | 0x73 << 32
    }
}

/// log2 of the sizes of pages: of the first stage's, and of the second stage's for it and for the
/// guest's tables.
#[derive(Clone, Copy, Debug)]
pub struct Shape {
    pub first: u8,
    /// `None`: there is one stage only.
    pub second: Option<(u8, u8)>,
}

/// Trees, and an address of data behind them.
#[derive(Clone, Copy, Debug)]
pub struct Scene {
    pub roots: Roots,
    /// The address, and what the first stage makes of it.
    pub gva: u64,
    pub gpa: u64,
    /// Where that is in memory.
    pub hpa: u64,
}

/// What a tree is to map: from, to, log2 of the size, attributes.
pub type Page<A> = (u64, u64, u8, A);

/// Builds scenes one after the other.
pub struct Builder<'w> {
    words: &'w [AtomicU64],
    machine: Machine,
    next: u64,
}

impl<'w> Builder<'w> {
    /// Scenes for a machine.
    pub fn new(words: &'w [AtomicU64], machine: Machine) -> Self {
        Self { words, machine, next: FRAMES }
    }

    fn frames(&mut self, count: u32) -> Result<u64, Box<dyn Error>> {
        let start = self.next;
        self.next += u64::from(count) * FRAME;
        if self.next <= TABLES.1 {
            Ok(start)
        } else {
            Err("there is no room for more tables".into())
        }
    }

    /// One page of the first stage's, and with two stages one of the second's for it; and an
    /// address of data there.
    pub fn single(&mut self, shape: Shape) -> Result<Scene, Box<dyn Error>> {
        let hpa = DATA.0 + 0x34_5670;
        let slot = match (self.machine.first, shape.first) {
            (Mode::Sv39, 21) => 0xffff_ffd3_8000_0000,
            (Mode::Sv39, _) => 0x0000_0025_8000_0000,
            (Mode::Sv48, 21) => 0xffff_9300_8000_0000,
            (Mode::Sv48, _) => 0x0000_5a05_8000_0000,
            (Mode::Sv57, 21) => 0xff5a_9300_8000_0000,
            (Mode::Sv57, _) => 0x00a1_5a05_8000_0000,
        };
        let attributes = Prot::RWX.for_user();
        let Some((second, tables)) = shape.second else {
            let gva = twisted(slot, hpa, shape.first);
            let page = (gva, hpa, shape.first, attributes.into());
            return Ok(Scene { roots: self.build_one(1, &[page])?, gva, gpa: hpa, hpa });
        };
        // A page of 256 TiB has no other in its half of the addresses.
        let high = if second == 48 { 3 << 48 } else { DATA_GPA };
        let gpa = twisted(high, hpa, second);
        let gva = twisted(slot, gpa, shape.first);
        let page = (gva, gpa, shape.first, attributes.into());
        let mapping = (gpa, hpa, second, attributes.into());
        let roots = self.build_two((1, 2), tables, &[page], &[mapping])?;
        Ok(Scene { roots, gva, gpa, hpa })
    }

    /// One tree; mappings that do not fit beside those before are left out.
    pub fn build_one(
        &mut self,
        frames: u32,
        pages: &[Page<PageAttributes>],
    ) -> Result<Roots, Box<dyn Error>> {
        let own = self.frames(frames)?;
        let first = self.first_stage(own, own, frames, CODE, pages, false)?;
        Ok(Roots { first: Some(first), second: None, guest: false })
    }

    /// Both trees, in so many frames; mappings that do not fit beside those before are left out.
    pub fn build_two(
        &mut self,
        frames: (u32, u32),
        tables_shift: u8,
        pages: &[Page<PageAttributes>],
        mappings: &[Page<GuestAttributes>],
    ) -> Result<Roots, Box<dyn Error>> {
        let (own, others) = (self.frames(frames.0)?, self.frames(frames.1)?);
        let bytes = u64::from(frames.0) * FRAME;
        let tables_gpa = twisted(TABLES_GPA, own, tables_shift);

        let memory = DirectMap::new(self.words, Hpa::new(TABLES.0));
        let source = Frames::new(Region::new(memory, Hpa::new(others), frames.1, 16)?)?;
        let cache = Cache::new(&source, Owner(1), Kind::User, Policy::Reuse);
        let mut tree = PageTable::new(State::USUAL.second(&self.machine), memory, cache)?;
        let code = Prot::RX.for_user().into();
        tree.map(Gpa::new(STUBS_GPA), Hpa::new(CODE), 0x1000, code, Leaves::Exactly(12))?;
        let whole = |address: u64| address & !low_bits(tables_shift);
        let end = (tables_gpa + bytes - 1) | low_bits(tables_shift);
        tree.map(
            Gpa::new(whole(tables_gpa)),
            Hpa::new(whole(own)),
            end + 1 - whole(tables_gpa),
            Prot::RWX.for_user().into(),
            Leaves::Exactly(tables_shift),
        )?;
        for &(from, to, shift, attributes) in mappings {
            let _ = page(&mut tree, from, to, shift, attributes);
        }
        let root = tree.root();
        let first = self.first_stage(own, tables_gpa, frames.0, STUBS_GPA, pages, true)?;
        Ok(Roots { first: Some(first), second: Some(root), guest: true })
    }

    /// A first stage whose tables stand at `own` in memory and at `address` for itself, and its
    /// root.
    fn first_stage(
        &self,
        own: u64,
        address: u64,
        frames: u32,
        code: u64,
        pages: &[Page<PageAttributes>],
        guest: bool,
    ) -> Result<Gpa, Box<dyn Error>> {
        let from = ((own - TABLES.0) / 8) as usize;
        let count = (u64::from(frames) * FRAME / 8) as usize;
        let words = self.words.get(from..from + count).ok_or("tables beyond memory")?;
        let memory = DirectMap::new(words, Gpa::new(address));
        let source = Frames::new(Region::new(memory, Gpa::new(address), frames, 16)?)?;
        let cache = Cache::new(&source, Owner(1), Kind::User, Policy::Reuse);
        let mut tree = PageTable::new(State::USUAL.first(&self.machine, guest), memory, cache)?;
        for (at, prot) in [(0, Prot::RX), (0x1000, Prot::RX.for_user())] {
            let (from, to) = (Gva::new(STUBS + at), Gpa::new(code));
            tree.map(from, to, 0x1000, prot.into(), Leaves::Exactly(12))?;
        }
        for &(from, to, shift, attributes) in pages {
            let _ = page(&mut tree, from, to, shift, attributes);
        }
        Ok(tree.root())
    }
}

/// Maps the page in which an address lies to the one in which another does.
fn page<F, M, A>(
    tree: &mut PageTable<F, M, A>,
    from: u64,
    to: u64,
    shift: u8,
    attributes: F::Attributes,
) -> Result<(), Box<dyn Error>>
where
    F: Format,
    M: pgtable::memory::TableMemory<pgtable::format::Output<F>>,
    A: pgtable::allocator::TableAllocator<pgtable::format::Output<F>>,
{
    let whole = |address: u64| address & !low_bits(shift);
    let (from, to) = (Address::new(whole(from)), Address::new(whole(to)));
    tree.map(from, to, 1 << shift, attributes, Leaves::Exactly(shift)).map_err(|_| "not mapped")?;
    Ok(())
}

/// An address with the high bits of `high` that lies in its page of `2^shift` bytes where `to` does
/// in its own, and in another such page.
pub fn twisted(high: u64, to: u64, shift: u8) -> u64 {
    let kept = low_bits(shift);
    high & !low_bits(shift.max(30)) | to & kept | (to ^ TWIST) & low_bits(30) & !kept
}
