//! A whole format in 150 lines: RISC-V's Sv48 (Privileged ISA, "Sv48: Page-Based 48-bit
//! Virtual-Memory System"), with memory types by Svpbmt. It has all that a format must have, and
//! nothing that makes it faster (shortcuts, constants that are computed once).

use core::fmt;
use core::sync::atomic::AtomicU64;

use pgtable::format::{
    Bits, ByteOrder, Entry, EntryOf, FirstStage, Format, Geometry, LevelGeometry, Record,
    Unencodable, Words,
};
use pgtable::{
    Access, AccessKind, Attributes, Cause, Gpa, Gva, Memory, Position, Privilege, Prot, Stage1,
    low_bits,
};

const V: u64 = 1;
const R: u64 = 1 << 1;
const W: u64 = 1 << 2;
const X: u64 = 1 << 3;
const U: u64 = 1 << 4;
const A: u64 = 1 << 6;
const D: u64 = 1 << 7;
const PPN: u64 = low_bits(44) << 10;
const PBMT: u64 = 3 << 61;
const UNCACHED: u64 = 1 << 61;
const RESERVED: u64 = 1 << 63 | low_bits(7) << 54;
static SHAPE: Geometry = Geometry::new(12, &[LevelGeometry { width: 9, leaf: true }; 4]);

/// A tree of Sv48, as a hart reads it in which software sets A and D (Svade), `mstatus.SUM` clear.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Sv48;

/// A leaf's bits without its address.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct SvAttributes(u64);

impl From<Prot> for SvAttributes {
    fn from(prot: Prot) -> Self {
        let rights = [(prot.read(), R), (prot.write(), W), (prot.execute(), X), (prot.user(), U)];
        Self(rights.iter().filter(|right| right.0).fold(A | D, |word, right| word | right.1))
    }
}

impl Attributes for SvAttributes {
    fn prot(&self) -> Prot {
        let has = |bit| self.0 & bit != 0;
        Prot::new().with_read(has(R)).with_write(has(W)).with_execute(has(X)).with_user(has(U))
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
            Memory::Device => 2 << 61,
        };
        Self(self.0 & !PBMT | pbmt)
    }
}

/// The code in `scause`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Exception(u8);

impl fmt::Display for Exception {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "exception {}", self.0)
    }
}

impl Format for Sv48 {
    type Stage = Stage1;
    type Attributes = SvAttributes;
    type Fault = Exception;
    type Path = ();
    type Word = AtomicU64;

    const BYTE_ORDER: ByteOrder = ByteOrder::Little;

    fn geometry(&self) -> &Geometry {
        &SHAPE
    }

    fn offset(&self, address: Gva) -> Option<u64> {
        let offset = address.get() & low_bits(48);
        (self.address(offset) == address).then_some(offset)
    }

    fn address(&self, offset: u64) -> Gva {
        Gva::new(((offset << 16) as i64 >> 16) as u64)
    }

    fn decode(&self, word: u64, at: Position) -> EntryOf<Self> {
        let address = (word & PPN) << 2;
        match word & (R | W | X) {
            _ if word & V == 0 => Entry::Absent,
            _ if word & RESERVED != 0 => Entry::Malformed,
            0 if at.level.0 == 0 || word & (PBMT | U | A | D) != 0 => Entry::Malformed,
            0 => Entry::Table { table: Gpa::new(address), width: 9 },
            rights if rights & (R | W) == W || word & PBMT == PBMT => Entry::Malformed,
            _ if address & low_bits(at.shift) != 0 => Entry::Malformed,
            _ if !SHAPE.is_leaf_level(at.level) => Entry::Malformed,
            _ => Entry::Leaf {
                output: Gpa::new(address),
                attributes: SvAttributes(word & !(PPN | V)),
            },
        }
    }

    fn leaves(&self, to: Gpa, said: SvAttributes, at: Position) -> Result<Words, Unencodable> {
        let word = said.0 | V | to.get() >> 2 & PPN;
        match self.decode(word, at) {
            Entry::Leaf { output, attributes } if (output, attributes) == (to, said) => {
                Ok(Words::contiguous(word, to.get(), at.shift, 56, -2))
            }
            _ => Err(Unencodable { at }),
        }
    }

    fn table(&self, table: Gpa, width: u8, at: Position) -> Result<u64, Unencodable> {
        let word = table.get() >> 2 & PPN | V;
        let same = self.decode(word, at) == Entry::Table { table, width };
        if same { Ok(word) } else { Err(Unencodable { at }) }
    }

    fn bits(&self, _: Position) -> Bits {
        let (accessed, dirty, table) = (Record::set(A), Record::set(D), Record::NONE);
        Bits { present: V, accessed, dirty, table, in_place: u64::MAX }
    }

    fn restrict(&self, (): (), _: u64, _: Position) {}

    fn check(&self, word: u64, at: Position, (): (), access: Access) -> Result<(), Exception> {
        let needed = match access.kind {
            AccessKind::Read => R | A,
            AccessKind::Write => W | A | D,
            AccessKind::Fetch => X | A,
        };
        let user = access.privilege == Privilege::User;
        let allowed = word & needed == needed && (word & U != 0) == user;
        if allowed { Ok(()) } else { Err(self.fault(Cause::Denied, access, Some(at), word)) }
    }

    fn fault(&self, cause: Cause, access: Access, _: Option<Position>, _: u64) -> Exception {
        // The access faults and the page faults of fetches, loads and stores.
        let codes = if cause == Cause::TableAccess { [1, 5, 7] } else { [12, 13, 15] };
        Exception(match access.kind {
            AccessKind::Fetch => codes[0],
            AccessKind::Read => codes[1],
            AccessKind::Write => codes[2],
        })
    }
}

impl FirstStage for Sv48 {}

pgtable_conformance::conformance! {
    sv48: Sv48;
}
