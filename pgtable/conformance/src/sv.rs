//! RISC-V Sv39, Sv48 and Sv57 (Privileged ISA, "Sv39: Page-Based 39-bit Virtual-Memory System" and
//! following), as an example of a format: its addresses are shifted, and its trees have three to
//! five levels.
//!
//! With Svpbmt (memory types), Svade (accessed and dirty faults) or Svadu (hardware updates), and,
//! where asked for, Svnapot (16 equal entries are one leaf of 64 KiB).

use core::fmt;
use core::sync::atomic::AtomicU64;

use pgtable::format::{
    Bits, ByteOrder, Entry, EntryOf, Field, FirstStage, Format, Geometry, Groups, LevelGeometry,
    Pattern, Record, Shortcuts, Unencodable, Words,
};
use pgtable::{
    Access, AccessKind, Attributes, Cause, Gpa, Gva, Level, Memory, Position, Privilege, Prot,
    Stage1, low_bits,
};

const V: u64 = 1;
const R: u64 = 1 << 1;
const W: u64 = 1 << 2;
const X: u64 = 1 << 3;
const U: u64 = 1 << 4;
const A: u64 = 1 << 6;
const D: u64 = 1 << 7;
/// Bits 53:10: the physical page number.
const PPN: u64 = low_bits(44) << 10;
/// R, W, X, U, G, A, D, RSW and PBMT: what a leaf says besides its address.
const ATTRIBUTES: u64 = 0x3fe | PBMT;
const PBMT: u64 = 3 << 61;
/// NC and IO.
const UNCACHED: u64 = 1 << 61;
const DEVICE: u64 = 2 << 61;
/// The entry is one of a group of equal ones, whose size the low bits of the address encode.
const N: u64 = 1 << 63;
/// log2 of the entries of a group: the only size that Svnapot defines yet.
const NAPOT: u8 = 4;
/// The low bits of the address in such a group: 0b1000.
const NAPOT_SIZE: u64 = PPN & low_bits(10 + NAPOT);
const NAPOT_64K: u64 = 8 << 10;
/// N and the bits for future standards.
const RESERVED: u64 = N | low_bits(7) << 54;
/// log2 of a page.
const PAGE: u8 = 12;
/// Physical address bits.
const PHYSICAL_BITS: u8 = 56;

/// A tree of Sv39, Sv48 or Sv57, as a hart with these controls reads it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Sv {
    levels: u8,
    /// `mstatus.SUM`: supervisor mode may load from and store to user pages.
    sum: bool,
    /// Svadu: hardware sets A and D. Without it, accesses that need them fault (Svade).
    hardware_updates: bool,
    /// Svnapot: the hart has 64-KiB pages.
    napot: bool,
}

impl Sv {
    /// Three levels.
    pub const SV39: Self = Self { levels: 3, sum: false, hardware_updates: false, napot: false };
    /// Four levels.
    pub const SV48: Self = Self { levels: 4, ..Self::SV39 };
    /// Five levels.
    pub const SV57: Self = Self { levels: 5, ..Self::SV39 };

    /// The same under `mstatus.SUM`.
    #[must_use]
    pub const fn with_sum(self) -> Self {
        Self { sum: true, ..self }
    }

    /// The same where hardware sets A and D (Svadu).
    #[must_use]
    pub const fn with_hardware_updates(self) -> Self {
        Self { hardware_updates: true, ..self }
    }

    /// The same where the hart has Svnapot.
    #[must_use]
    pub const fn with_napot(self) -> Self {
        Self { napot: true, ..self }
    }

    /// Whether `word` at `at` is one of a group, and may be.
    #[inline(always)]
    fn is_napot(&self, word: u64, at: Position) -> bool {
        self.napot && at.level.0 == 0 && word & N != 0
    }

    /// What a leaf must have set, and what clear, to allow `access`.
    #[inline(always)]
    fn demand(&self, access: Access) -> (u64, u64) {
        let right = match access.kind {
            AccessKind::Read => R,
            AccessKind::Write => W,
            AccessKind::Fetch => X,
        };
        match (access.privilege, access.kind) {
            (Privilege::User, _) => (right | U, 0),
            (Privilege::Supervisor, AccessKind::Read | AccessKind::Write) if self.sum => (right, 0),
            (Privilege::Supervisor, _) => (right, U),
        }
    }

    /// What must be recorded already.
    #[inline(always)]
    fn recorded(&self, access: Access) -> u64 {
        match access.kind {
            _ if self.hardware_updates => 0,
            AccessKind::Write => A | D,
            AccessKind::Read | AccessKind::Fetch => A,
        }
    }
}

/// What a leaf says besides its address: its bits, the address left out.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SvAttributes(u64);

impl From<Prot> for SvAttributes {
    #[inline]
    fn from(prot: Prot) -> Self {
        let when = |wanted: bool, bits| if wanted { bits } else { 0 };
        Self(
            when(prot.read(), R)
                | when(prot.write(), W)
                | when(prot.execute(), X)
                | when(prot.user(), U)
                | A
                | D,
        )
    }
}

impl Attributes for SvAttributes {
    fn prot(&self) -> Prot {
        Prot::new()
            .with_read(self.0 & R != 0)
            .with_write(self.0 & W != 0)
            .with_execute(self.0 & X != 0)
            .with_user(self.0 & U != 0)
    }

    fn with_prot(self, prot: Prot) -> Self {
        let rights = R | W | X | U;
        Self(self.0 & !rights | Self::from(prot).0 & rights)
    }

    fn memory(&self) -> Memory {
        match self.0 & PBMT {
            0 => Memory::Normal,
            UNCACHED => Memory::Uncached,
            _ => Memory::Device,
        }
    }

    fn with_memory(self, memory: Memory) -> Self {
        let pbmt = match memory {
            Memory::Normal => 0,
            Memory::Uncached => UNCACHED,
            Memory::Device => DEVICE,
        };
        Self(self.0 & !PBMT | pbmt)
    }
}

/// An exception, by its code in `scause`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Exception(pub u8);

impl fmt::Display for Exception {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "exception {}", self.0)
    }
}

const LEVEL: LevelGeometry = LevelGeometry { width: 9, leaf: true };
static SHAPES: [Geometry; 3] = [
    Geometry::new(PAGE, &[LEVEL; 3]),
    Geometry::new(PAGE, &[LEVEL; 4]),
    Geometry::new(PAGE, &[LEVEL; 5]),
];
static NAPOT_SHAPES: [Geometry; 3] = [
    SHAPES[0].with_groups(Level(0), NAPOT),
    SHAPES[1].with_groups(Level(0), NAPOT),
    SHAPES[2].with_groups(Level(0), NAPOT),
];

impl Format for Sv {
    type Stage = Stage1;
    type Attributes = SvAttributes;
    type Fault = Exception;
    type Path = ();
    type Word = AtomicU64;

    const BYTE_ORDER: ByteOrder = ByteOrder::Little;
    const GROUPS: Groups = Groups::Alike;

    #[inline(always)]
    fn geometry(&self) -> &Geometry {
        let shapes = if self.napot { &NAPOT_SHAPES } else { &SHAPES };
        &shapes[usize::from(self.levels - 3)]
    }

    /// Bits above the highest translated one must equal it.
    #[inline(always)]
    fn offset(&self, address: Gva) -> Option<u64> {
        let bits = self.geometry().address_bits();
        let offset = address.get() & low_bits(bits);
        (self.address(offset) == address).then_some(offset)
    }

    #[inline(always)]
    fn address(&self, offset: u64) -> Gva {
        let unused = 64 - self.geometry().address_bits();
        Gva::new(((offset << unused) as i64 >> unused) as u64)
    }

    #[inline(always)]
    fn decode(&self, word: u64, at: Position) -> EntryOf<Self> {
        if word & V == 0 {
            return Entry::Absent;
        }
        let address = (word & PPN) << 2;
        if word & (R | W | X) == 0 {
            // In pointers U, A, D and PBMT are reserved.
            let odd = at.level.0 == 0 || word & (RESERVED | PBMT | U | A | D) != 0;
            return if odd {
                Entry::Malformed
            } else {
                Entry::Table { table: Gpa::new(address), width: 9 }
            };
        }
        let napot = self.is_napot(word, at);
        if napot && word & NAPOT_SIZE != NAPOT_64K {
            return Entry::Malformed;
        }
        let (address, reserved) = if napot {
            (address & !low_bits(PAGE + NAPOT), RESERVED & !N)
        } else {
            (address, RESERVED)
        };
        let odd = word & (R | W) == W
            || word & reserved != 0
            || word & PBMT == PBMT
            || address & low_bits(at.shift) != 0
            || !self.geometry().is_leaf_level(at.level);
        if odd {
            return Entry::Malformed;
        }
        Entry::Leaf { output: Gpa::new(address), attributes: SvAttributes(word & ATTRIBUTES) }
    }

    #[inline(always)]
    fn leaves(
        &self,
        output: Gpa,
        attributes: SvAttributes,
        at: Position,
    ) -> Result<Words, Unencodable> {
        let (output, word) = (output.get(), attributes.0 | V);
        let odd = word & (R | X) == 0
            || word & (R | W) == W
            || word & PBMT == PBMT
            || output & !(low_bits(PHYSICAL_BITS) & !low_bits(at.shift)) != 0
            || !self.geometry().is_leaf_level(at.level);
        if odd {
            return Err(Unencodable { at });
        }
        Ok(Words::contiguous(word | output >> 2, output, at.shift, PHYSICAL_BITS, -2))
    }

    #[inline(always)]
    fn group(&self, word: u64, at: Position) -> u8 {
        if self.is_napot(word, at) { NAPOT } else { 0 }
    }

    fn group_leaves(
        &self,
        output: Gpa,
        attributes: SvAttributes,
        at: Position,
        group: u8,
    ) -> Result<Words, Unencodable> {
        let place = self.napot && at.level.0 == 0 && group == NAPOT;
        if !place || output.get() & low_bits(at.shift + group) != 0 {
            return Err(Unencodable { at });
        }
        let words = self.leaves(output, attributes, at)?;
        let (first, step) = (words.first | N | NAPOT_64K, words.step << NAPOT);
        Ok(Words { first, step, count: words.count >> NAPOT })
    }

    #[inline(always)]
    fn table(&self, table: Gpa, width: u8, at: Position) -> Result<u64, Unencodable> {
        let fits = table.get() & !(low_bits(PHYSICAL_BITS) & !low_bits(PAGE)) == 0;
        if fits && width == 9 && at.level.0 > 0 {
            Ok(table.get() >> 2 | V)
        } else {
            Err(Unencodable { at })
        }
    }

    #[inline(always)]
    fn bits(&self, _: Position) -> Bits {
        Bits {
            present: V,
            accessed: Record::set(A),
            dirty: Record::set(D),
            table: Record::NONE,
            in_place: u64::MAX,
        }
    }

    #[inline(always)]
    fn restrict(&self, (): (), _: u64, _: Position) {}

    #[inline(always)]
    fn check(&self, word: u64, at: Position, (): (), access: Access) -> Result<(), Exception> {
        let (set, clear) = self.demand(access);
        let set = set | self.recorded(access);
        if word & set == set && word & clear == 0 {
            Ok(())
        } else {
            Err(self.fault(Cause::Denied, access, Some(at), word))
        }
    }

    /// Page faults, and access faults for tables outside memory.
    fn fault(&self, cause: Cause, access: Access, _: Option<Position>, _: u64) -> Exception {
        Exception(match (cause == Cause::TableAccess, access.kind) {
            (true, AccessKind::Fetch) => 1,
            (true, AccessKind::Read) => 5,
            (true, AccessKind::Write) => 7,
            (false, AccessKind::Fetch) => 12,
            (false, AccessKind::Read) => 13,
            (false, AccessKind::Write) => 15,
        })
    }

    #[inline(always)]
    fn shortcuts(&self, access: Option<Access>) -> Option<Shortcuts> {
        let address = Field { mask: PPN, left: 2 };
        let tables = Pattern::all_set(V).without(R | W | X | U | A | D | PBMT | RESERVED);
        let readable = Pattern::all_set(V | R).without(PBMT | RESERVED);
        let page = match access {
            None => readable,
            Some(access) => {
                let (set, clear) = self.demand(access);
                readable.with(set | self.recorded(access)).without(clear)
            }
        };
        Some(Shortcuts::uniform(self.levels, PAGE, 9, tables, page, address))
    }
}

impl FirstStage for Sv {}
