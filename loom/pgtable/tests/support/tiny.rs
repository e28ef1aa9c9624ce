//! A format small enough for a model checker: two or three levels of tables of four entries, pages
//! of 4 KiB.

use std::cell::RefCell;
use std::sync::atomic::AtomicU64;

use pgtable::format::{
    Bits, ByteOrder, Entry, EntryOf, Field, Format, Geometry, LevelGeometry, MAX_LEVELS, Pattern,
    Record, Shortcuts, Step, Unencodable, Words,
};
use pgtable::{Access, Attributes, Cause, Gpa, Hpa, Memory, Position, Prot, Stage2};

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
    /// Pages of three levels' sizes: below the root there are tables of tables, which are unlinked
    /// whole.
    #[allow(dead_code, reason = "not every model has both")]
    pub const DEEP: Self = Self(&const { Geometry::new(12, &[LEVEL, LEVEL, LEVEL]) });
}

std::thread_local! {
    /// What a model does when a verb asks for an address, which one does between two stores.
    #[allow(dead_code, reason = "not every model has one")]
    pub static HOOK: RefCell<Option<Box<dyn Fn()>>> = const { RefCell::new(None) };
}

/// The hook, until this is dropped: also by a model that fails.
#[allow(dead_code, reason = "not every model has one")]
pub struct Hook;

impl Hook {
    #[allow(dead_code, reason = "not every model has one")]
    pub fn new(hook: impl Fn() + 'static) -> Self {
        HOOK.set(Some(Box::new(hook)));
        Self
    }
}

impl Drop for Hook {
    fn drop(&mut self) {
        HOOK.take();
    }
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

    fn with_prot(self, _: Prot) -> Self {
        self
    }

    fn memory(&self) -> Memory {
        Memory::Normal
    }

    fn with_memory(self, _: Memory) -> Self {
        self
    }
}

impl Format for Tiny {
    type Stage = Stage2;
    type Attributes = Plain;
    type Fault = Cause;
    type Path = ();
    type Word = AtomicU64;

    const BYTE_ORDER: ByteOrder = ByteOrder::Little;

    fn geometry(&self) -> &Geometry {
        self.0
    }

    fn offset(&self, address: Gpa) -> Option<u64> {
        (address.get() & !self.0.address_mask() == 0).then_some(address.get())
    }

    fn address(&self, offset: u64) -> Gpa {
        HOOK.with_borrow(|hook| hook.iter().for_each(|hook| hook()));
        Gpa::new(offset)
    }

    fn decode(&self, word: u64, _: Position) -> EntryOf<Self> {
        match word & 3 {
            1 => Entry::Table { table: Hpa::new(word & ADDRESS), width: 2 },
            3 => Entry::Leaf { output: Hpa::new(word & ADDRESS), attributes: Plain },
            _ => Entry::Absent,
        }
    }

    fn leaves(&self, output: Hpa, _: Plain, at: Position) -> Result<Words, Unencodable> {
        if output.get() & !0xffff_f000 & !(at.size() - 1) != 0 {
            return Err(Unencodable { at });
        }
        Ok(Words::contiguous(output.get() | 3, output.get(), at.shift, 32, 0))
    }

    fn table(&self, table: Hpa, _: u8, _: Position) -> Result<u64, Unencodable> {
        Ok(table.get() | 1)
    }

    fn bits(&self, _: Position) -> Bits {
        Bits {
            present: 1,
            accessed: Record::set(4),
            dirty: Record::set(8),
            table: Record::NONE,
            in_place: u64::MAX,
        }
    }

    fn restrict(&self, (): (), _: u64, _: Position) {}

    fn check(&self, _: u64, _: Position, (): (), _: Access) -> Result<(), Cause> {
        Ok(())
    }

    fn fault(&self, cause: Cause, _: Access, _: Option<Position>, _: u64) -> Cause {
        cause
    }

    /// As most formats have them, so that models run what those run.
    fn shortcuts(&self, _: Option<Access>) -> Option<Shortcuts> {
        let address = Field::in_place(ADDRESS);
        let mut steps = [Step::NONE; MAX_LEVELS];
        steps[0] = Step::new(12, 2, Pattern { compared: 3, value: 3 }, address);
        let levels = self.0.levels();
        for level in 1..levels {
            let table = Pattern { compared: 3, value: 1 };
            steps[usize::from(level)] = Step::new(12 + 2 * level, 2, table, address);
        }
        Some(Shortcuts::new(levels, steps))
    }
}
