//! A guest's tree behind the hypervisor's: both built by the library, in the image of memory.
//!
//! The guest's tables stand at guest-physical addresses that stage 2 maps to where they are. All
//! three things that a guest uses (its tables, its own code, the page of a case) lie far from each
//! other, and nowhere is an address equal to the one that it is translated to.

use std::error::Error;
use std::sync::atomic::AtomicU64;

use frag_alloc::{Cache, Frames, Kind, Owner, Policy, Region};
use pgtable::format::Format;
use pgtable::memory::DirectMap;
use pgtable::tree::PageTable;
use pgtable::{AccessKind, Address, Gpa, Gva, Hpa, Leaves, Privilege, Prot, low_bits};
use pgtable_x86::{Controls, Levels, LongMode, PageAttributes};

use super::records::{DATA, TABLES};
use super::second::Second;

/// The page with the guest's own code.
pub const CODE: u64 = TABLES.0;
/// A word that nobody uses.
pub const SCRATCH: u64 = TABLES.0 + 0x1000;
/// The frames that tables are made of, 64 KiB each.
const FRAMES: u64 = TABLES.0 + 0x1_0000;
const FRAME: u64 = 1 << 16;

/// Where the guest finds its own code: for a supervisor; the next page is a user's.
const STUBS: u64 = 0xffff_ffff_c000_0000;
/// Its guest-physical address.
const STUBS_GPA: u64 = 0x5_4060_7000;
/// Guest-physical addresses of tables, and of data: the bits above the largest page.
const TABLES_GPA: u64 = 0x2a << 30;
const DATA_GPA: u64 = 0x233 << 30;
/// Addresses are made to differ by these bits, where the size of pages allows it.
const TWIST: u64 = 0x1d9b_0000;

/// Where a guest's instruction stands that makes an access to the address in RCX.
pub fn stub(kind: AccessKind, privilege: Privilege) -> u64 {
    let page = if privilege == Privilege::User { 0x1000 } else { 0 };
    STUBS + page + if kind == AccessKind::Write { 0x10 } else { 0 }
}

/// The guest's own code as words at [`CODE`]: MOV (%rcx),%rax; MOV %rax,(%rcx); each with VMCALL or
/// VMMCALL behind it.
pub fn code(vmx: bool) -> [(u64, u64); 2] {
    let call = if vmx { 0xc1_010f } else { 0xd9_010f };
    [(CODE, 0x01_8b48 | call << 24), (CODE + 0x10, 0x01_8948 | call << 24)]
}

/// Two trees.
#[derive(Clone, Copy, Debug)]
pub struct Scene {
    /// The guest's root.
    pub first: Gpa,
    /// The hypervisor's root.
    pub second: Hpa,
}

/// log2 of the sizes of pages: of the guest's page, and of the second stage's for it and for the
/// guest's tables.
#[derive(Clone, Copy, Debug)]
pub struct Shape {
    pub first: u8,
    pub second: u8,
    pub tables: u8,
}

/// Builds scenes one after the other.
pub struct Builder<'w> {
    words: &'w [AtomicU64],
    levels: Levels,
    next: u64,
}

impl<'w> Builder<'w> {
    /// Scenes of so many levels.
    pub fn new(words: &'w [AtomicU64], levels: Levels) -> Self {
        Self { words, levels, next: FRAMES }
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

    /// One page of the guest's in one of the second stage's; and an address of data there, the
    /// guest's own and the machine's.
    pub fn single<S: Second>(
        &mut self,
        shape: Shape,
        guest: Controls,
        second: S,
    ) -> Result<(Scene, u64, u64), Box<dyn Error>> {
        let hpa = DATA.0 + 0x34_5670;
        let gpa = twisted(DATA_GPA, hpa, shape.second);
        let slot = match (shape.first, self.levels) {
            (21, Levels::Four) => 0xffff_9300_8000_0000,
            (21, Levels::Five) => 0xff5a_9300_8000_0000,
            (_, Levels::Four) => 0x0000_5a05_8000_0000,
            (_, Levels::Five) => 0x00a1_5a05_8000_0000,
        };
        let gva = twisted(slot, gpa, shape.first);
        let page = (gva, gpa, shape.first, Prot::RWX.for_user().into());
        let mapping = (gpa, hpa, shape.second, Prot::RWX.into());
        Ok((self.build((1, 2), shape.tables, guest, second, &[page], &[mapping])?, gva, hpa))
    }

    /// Both trees, in so many frames; mappings that do not fit beside those before are left out.
    pub fn build<S: Second>(
        &mut self,
        frames: (u32, u32),
        tables_shift: u8,
        guest: Controls,
        second: S,
        pages: &[(u64, u64, u8, PageAttributes)],
        mappings: &[(u64, u64, u8, S::Attributes)],
    ) -> Result<Scene, Box<dyn Error>> {
        let (own, others) = (self.frames(frames.0)?, self.frames(frames.1)?);
        let bytes = u64::from(frames.0) * FRAME;
        let tables_gpa = twisted(TABLES_GPA, own, tables_shift);

        let memory = DirectMap::new(self.words, Hpa::new(TABLES.0));
        let source = Frames::new(Region::new(memory, Hpa::new(others), frames.1, 16)?)?;
        let mut tree = PageTable::new(
            second,
            memory,
            Cache::new(&source, Owner(1), Kind::User, Policy::Reuse),
        )?;
        tree.map(
            Gpa::new(STUBS_GPA),
            Hpa::new(CODE),
            0x1000,
            Prot::RX.into(),
            Leaves::Exactly(12),
        )?;
        let whole = |address: u64| address & !low_bits(tables_shift);
        let end = (tables_gpa + bytes - 1) | low_bits(tables_shift);
        let size = end + 1 - whole(tables_gpa);
        let rwx = Prot::RWX.into();
        tree.map(
            Gpa::new(whole(tables_gpa)),
            Hpa::new(whole(own)),
            size,
            rwx,
            Leaves::Exactly(tables_shift),
        )?;
        for &(from, to, shift, attributes) in mappings {
            let _ = page(&mut tree, from, to, shift, attributes);
        }
        let root = tree.root();

        let from = ((own - TABLES.0) / 8) as usize;
        let words =
            self.words.get(from..from + (bytes / 8) as usize).ok_or("tables beyond memory")?;
        let memory = DirectMap::new(words, Gpa::new(tables_gpa));
        let source = Frames::new(Region::new(memory, Gpa::new(tables_gpa), frames.0, 16)?)?;
        let cache = Cache::new(&source, Owner(1), Kind::User, Policy::Reuse);
        let mut tree = PageTable::new(LongMode::new(self.levels, guest), memory, cache)?;
        for (at, prot) in [(0, Prot::RX), (0x1000, Prot::RX.for_user())] {
            let attributes = PageAttributes::from(prot);
            tree.map(
                Gva::new(STUBS + at),
                Gpa::new(STUBS_GPA),
                0x1000,
                attributes,
                Leaves::Exactly(12),
            )?;
        }
        for &(from, to, shift, attributes) in pages {
            let _ = page(&mut tree, from, to, shift, attributes);
        }
        Ok(Scene { first: tree.root(), second: root })
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
    let gib = low_bits(30);
    high & !gib | (to & low_bits(shift)) | ((to ^ TWIST) & gib & !low_bits(shift))
}
