//! A format small enough for a model checker: two levels of tables of four entries, pages of 4 KiB.

use pgtable::{
    Access, AccessedDirty, Attributes, ByteOrder, Cause, Entry, EntryOf, Format, Geometry, Gpa,
    Hpa, LevelGeometry, Position, Prot, Stage2, Unencodable,
};

/// Bit 0: present, bit 1: a page, bit 2: accessed, bit 3: dirty.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Tiny(&'static Geometry);

const LEVEL: LevelGeometry = LevelGeometry { width: 2, leaf: true };

impl Tiny {
    /// Pages of the last level only.
    #[allow(dead_code, reason = "not every model has both")]
    pub const PAGES: Self =
        Self(&const { Geometry::new(12, &[LEVEL, LevelGeometry { width: 2, leaf: false }]) });
    /// Pages of both levels' sizes.
    #[allow(dead_code, reason = "not every model has both")]
    pub const BOTH: Self = Self(&const { Geometry::new(12, &[LEVEL, LEVEL]) });
}

/// Tables stand at multiples of 32 bytes, pages at multiples of 4096.
pub const ADDRESS: u64 = !31;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Plain;

impl From<Prot> for Plain {
    fn from(_: Prot) -> Self {
        Self
    }
}

impl Attributes for Plain {
    fn prot(&self) -> Prot {
        Prot::RW
    }
}

impl Format for Tiny {
    type Stage = Stage2;
    type Attributes = Plain;
    type Fault = Cause;
    type Path = ();

    const BYTE_ORDER: ByteOrder = ByteOrder::Little;

    fn geometry(&self) -> &Geometry {
        self.0
    }

    fn offset(&self, address: Gpa) -> Option<u64> {
        (address.get() >> 16 == 0).then_some(address.get())
    }

    fn address(&self, offset: u64) -> Gpa {
        Gpa::new(offset)
    }

    fn decode(&self, word: u64, _: Position) -> EntryOf<Self> {
        match word & 3 {
            1 => Entry::Table { table: Hpa::new(word & ADDRESS), width: 2 },
            3 => Entry::Leaf { output: Hpa::new(word & ADDRESS), attributes: Plain },
            _ => Entry::Absent,
        }
    }

    fn present_mask(&self) -> u64 {
        1
    }

    fn table_word(&self, table: Hpa, _: u8, _: Position) -> Option<u64> {
        Some(table.get() | 1)
    }

    fn leaf_word(&self, _: Plain, _: Position) -> Result<u64, Unencodable> {
        Ok(3)
    }

    fn output_mask(&self, _: Position) -> u64 {
        0xffff_f000
    }

    fn accessed_dirty(&self) -> AccessedDirty {
        AccessedDirty { accessed: 4, dirty: 8, ..AccessedDirty::default() }
    }

    fn check(&self, _: u64, _: Position, (): (), _: Access) -> Result<(), Cause> {
        Ok(())
    }

    fn fault(&self, cause: Cause, _: Access) -> Cause {
        cause
    }
}
