//! Trees of every depth from two to eight levels, of any widths, with shortcuts and without:
//! formats of no architecture, with nothing special but their shape.

use std::fmt;
use std::sync::atomic::AtomicU64;

use pgtable::format::{
    Bits, ByteOrder, Entry, EntryOf, Field, Format, Geometry, LevelGeometry, MAX_LEVELS, Pattern,
    Record, Shortcuts, Step, Unencodable, Words,
};
use pgtable::{
    Access, AccessKind, Attributes, Cause, Gpa, Hpa, Level, Memory, Position, Prot, Stage2,
    low_bits,
};

const PRESENT: u64 = 1;
const LEAF: u64 = 2;
/// Where the four bits of [`Prot`] stand.
const PROT: u32 = 2;
const ADDRESS: u64 = low_bits(56) & !low_bits(8);

/// A format with nothing special but its shape.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Deep {
    geometry: &'static Geometry,
    quick: bool,
}

impl Deep {
    /// Trees of this shape.
    #[must_use]
    pub const fn new(geometry: &'static Geometry) -> Self {
        Self { geometry, quick: true }
    }

    /// The same without shortcuts.
    #[must_use]
    pub const fn slow(self) -> Self {
        Self { quick: false, ..self }
    }

    /// log2 of the bytes of a table of `level`.
    fn table_shift(self, level: u8) -> u8 {
        self.geometry.width(Level(level)) + 3
    }
}

const fn level(width: u8) -> LevelGeometry {
    LevelGeometry { width, leaf: true }
}

/// Two levels.
pub static TWO: Geometry = Geometry::new(12, &[level(9), level(9)]);
/// Three levels.
pub static THREE: Geometry = Geometry::new(12, &[level(7), level(10), level(9)]);
/// Four levels.
pub static FOUR: Geometry = Geometry::new(14, &[level(11), level(5), level(8), level(6)]);
/// Five levels.
pub static FIVE: Geometry = Geometry::new(12, &[level(5), level(6), level(5), level(6), level(13)]);
/// Six levels.
pub static SIX: Geometry =
    Geometry::new(12, &[level(9), level(5), level(9), level(5), level(9), level(5)]);
/// Eight levels.
pub static EIGHT: Geometry = Geometry::new(
    12,
    &[level(6), level(6), level(5), level(5), level(5), level(5), level(5), level(5)],
);

/// Rights, and nothing else.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct DeepAttributes(Prot);

impl From<Prot> for DeepAttributes {
    fn from(prot: Prot) -> Self {
        Self(prot)
    }
}

impl Attributes for DeepAttributes {
    fn prot(&self) -> Prot {
        self.0
    }

    fn with_prot(self, prot: Prot) -> Self {
        Self(prot)
    }

    fn memory(&self) -> Memory {
        Memory::Normal
    }

    fn with_memory(self, _: Memory) -> Self {
        self
    }
}

/// Why an access was refused.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Denied(Cause);

impl fmt::Display for Denied {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

const fn right(access: Access) -> u64 {
    1 << PROT
        << match access.kind {
            AccessKind::Read => 0,
            AccessKind::Write => 1,
            AccessKind::Fetch => 2,
        }
}

impl Format for Deep {
    type Stage = Stage2;
    type Attributes = DeepAttributes;
    type Fault = Denied;
    type Path = ();
    type Word = AtomicU64;

    const BYTE_ORDER: ByteOrder = ByteOrder::Big;

    fn geometry(&self) -> &Geometry {
        self.geometry
    }

    fn offset(&self, address: Gpa) -> Option<u64> {
        (address.get() & !self.geometry.address_mask() == 0).then_some(address.get())
    }

    fn address(&self, offset: u64) -> Gpa {
        Gpa::new(offset)
    }

    fn decode(&self, word: u64, at: Position) -> EntryOf<Self> {
        let address = word & ADDRESS;
        match (word & PRESENT != 0, word & LEAF != 0) {
            (false, _) => Entry::Absent,
            (true, true) if address & low_bits(at.shift) == 0 => {
                let prot = Prot::from_bits((word >> PROT) as u8 & 15);
                Entry::Leaf { output: Hpa::new(address), attributes: DeepAttributes(prot) }
            }
            (true, false) if (1..self.geometry.levels()).contains(&at.level.0) => {
                let below = at.level.0 - 1;
                if address & low_bits(self.table_shift(below)) != 0 {
                    return Entry::Malformed;
                }
                let width = self.geometry.width(Level(below));
                Entry::Table { table: Hpa::new(address), width }
            }
            _ => Entry::Malformed,
        }
    }

    fn leaves(
        &self,
        output: Hpa,
        attributes: DeepAttributes,
        at: Position,
    ) -> Result<Words, Unencodable> {
        let output = output.get();
        let placed = self.geometry.leaf(at.shift).is_some_and(|(level, _)| level == at.level);
        if !placed || output & !(ADDRESS & !low_bits(at.shift)) != 0 {
            return Err(Unencodable { at });
        }
        let prot = u64::from(attributes.0.into_bits() & 15) << PROT;
        Ok(Words::contiguous(output | prot | LEAF | PRESENT, output, at.shift, 56, 0))
    }

    fn table(&self, table: Hpa, width: u8, at: Position) -> Result<u64, Unencodable> {
        let below = at.level.0.wrapping_sub(1);
        let fits = (1..self.geometry.levels()).contains(&at.level.0)
            && width == self.geometry.width(Level(below))
            && table.get() & !(ADDRESS & !low_bits(self.table_shift(below))) == 0;
        if fits { Ok(table.get() | PRESENT) } else { Err(Unencodable { at }) }
    }

    fn bits(&self, _: Position) -> Bits {
        Bits {
            present: PRESENT,
            accessed: Record::NONE,
            dirty: Record::NONE,
            table: Record::NONE,
            in_place: u64::MAX,
        }
    }

    fn restrict(&self, (): (), _: u64, _: Position) {}

    fn check(&self, word: u64, _: Position, (): (), access: Access) -> Result<(), Denied> {
        if word & right(access) != 0 { Ok(()) } else { Err(Denied(Cause::Denied)) }
    }

    fn fault(&self, cause: Cause, _: Access, _: Option<Position>, _: u64) -> Denied {
        Denied(cause)
    }

    fn shortcuts(&self, access: Option<Access>) -> Option<Shortcuts> {
        let levels = self.geometry.levels();
        let mut steps = [Step::NONE; MAX_LEVELS];
        for (level, step) in (0..levels).zip(&mut steps) {
            let usual = match (level, access) {
                (0, None) => Pattern::all_set(PRESENT | LEAF),
                (0, Some(access)) => Pattern::all_set(PRESENT | LEAF | right(access)),
                _ => Pattern::all_set(PRESENT).without(LEAF),
            };
            // The bits of the address below its alignment are zero.
            let aligned = match level {
                0 => self.geometry.page_shift(),
                _ => self.table_shift(level - 1),
            };
            let mask = ADDRESS & !low_bits(aligned);
            let usual = usual.without(ADDRESS & low_bits(aligned));
            let (shift, width) =
                (self.geometry.shift(Level(level)), self.geometry.width(Level(level)));
            *step = Step::new(shift, width, usual, Field::in_place(mask));
        }
        self.quick.then(|| Shortcuts::new(levels, steps))
    }
}
