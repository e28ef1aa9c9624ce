//! The tree that both stages have in common. Everything here is about words; who may do what with a
//! page is the formats' affair.

use pgtable::{
    AccessKind, Address, Bits, Entry, Field, Geometry, LevelGeometry, Pattern, Position, Record,
    Shortcuts, Step, Unencodable, Words, low_bits,
};

use crate::attributes::LeafAttributes;
use crate::controls::{Extensions, Mode};
use crate::entry::{A, D, N, PBMT, PPN, PPN_TO_ADDRESS, R, RSW_HIGH, U, UNDEFINED, V, W, X};

/// log2 of the smallest page, and of a table.
pub(crate) const PAGE_SHIFT: u8 = 12;
/// Physical address bits.
pub(crate) const PHYSICAL_BITS: u8 = 56;
/// Index bits of every table but a guest stage's root.
const WIDTH: u8 = 9;
/// Index bits of a guest stage's root ("Guest Physical Address Translation").
const ROOT_X4: u8 = 11;

const fn level(width: u8) -> LevelGeometry {
    LevelGeometry { width, leaf: true }
}

/// The shape of a first stage's tree. Every level may have leaves.
pub(crate) const fn geometry(mode: Mode) -> &'static Geometry {
    const LEVEL: LevelGeometry = level(WIDTH);
    static SV39: Geometry = Geometry::new(PAGE_SHIFT, &[LEVEL; 3]);
    static SV48: Geometry = Geometry::new(PAGE_SHIFT, &[LEVEL; 4]);
    static SV57: Geometry = Geometry::new(PAGE_SHIFT, &[LEVEL; 5]);
    match mode {
        Mode::Sv39 => &SV39,
        Mode::Sv48 => &SV48,
        Mode::Sv57 => &SV57,
    }
}

/// The shape of a guest stage's tree: the root has four times as many entries.
pub(crate) const fn geometry_x4(mode: Mode) -> &'static Geometry {
    const LEVEL: LevelGeometry = level(WIDTH);
    const ROOT: LevelGeometry = level(ROOT_X4);
    static SV39: Geometry = Geometry::new(PAGE_SHIFT, &[LEVEL, LEVEL, ROOT]);
    static SV48: Geometry = Geometry::new(PAGE_SHIFT, &[LEVEL, LEVEL, LEVEL, ROOT]);
    static SV57: Geometry = Geometry::new(PAGE_SHIFT, &[LEVEL, LEVEL, LEVEL, LEVEL, ROOT]);
    match mode {
        Mode::Sv39 => &SV39,
        Mode::Sv48 => &SV48,
        Mode::Sv57 => &SV57,
    }
}

/// How a load is judged.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Loads {
    /// They need R.
    Readable,
    /// They need R or X: MXR.
    ReadableOrExecutable,
    /// They need X: HLVX.
    Executable,
}

/// What an access demands of a leaf.
#[derive(Clone, Copy)]
pub(crate) struct Demand {
    /// All of these are set …
    set: u64,
    /// … none of these …
    clear: u64,
    /// … and at least one of these.
    any: u64,
}

impl Demand {
    #[inline(always)]
    pub(crate) const fn is_met_by(self, word: u64) -> bool {
        word & (self.set | self.clear) == self.set && word & self.any != 0
    }

    /// The same with these bits set, and those clear.
    #[inline(always)]
    pub(crate) const fn and(self, set: u64, clear: u64) -> Self {
        Self { set: self.set | set, clear: self.clear | clear, ..self }
    }
}

/// A tree of entries as the hart reads them.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Tree {
    pub(crate) geometry: &'static Geometry,
    mode: Mode,
    extensions: Extensions,
    /// Bits that are reserved in every entry.
    reserved: u64,
}

impl Tree {
    pub(crate) const fn new(
        geometry: &'static Geometry,
        mode: Mode,
        extensions: Extensions,
    ) -> Self {
        let mut reserved = N | UNDEFINED;
        if !extensions.pbmte {
            reserved |= PBMT;
        }
        if !extensions.rsw60t59b {
            reserved |= RSW_HIGH;
        }
        Self { geometry, mode, extensions, reserved }
    }

    pub(crate) const fn mode(&self) -> Mode {
        self.mode
    }

    pub(crate) const fn extensions(&self) -> Extensions {
        self.extensions
    }

    /// What every stage demands for an access: the right, and what must be recorded already.
    #[inline(always)]
    pub(crate) const fn demand(&self, kind: AccessKind, loads: Loads) -> Demand {
        let (set, any) = match (kind, loads) {
            (AccessKind::Write, _) => (W, V),
            (AccessKind::Fetch, _) | (AccessKind::Read, Loads::Executable) => (X, V),
            (AccessKind::Read, Loads::Readable) => (R, V),
            (AccessKind::Read, Loads::ReadableOrExecutable) => (0, R | X),
        };
        let recorded = match kind {
            _ if self.extensions.adue => 0,
            AccessKind::Write => A | D,
            AccessKind::Read | AccessKind::Fetch => A,
        };
        Demand { set: set | recorded, clear: 0, any }
    }

    #[inline(always)]
    pub(crate) fn decode<O: Address, const GUEST: bool>(
        &self,
        word: u64,
        at: Position,
    ) -> Entry<O, LeafAttributes<GUEST>> {
        if word & V == 0 {
            return Entry::Absent;
        }
        if word & self.reserved != 0 {
            return Entry::Malformed;
        }
        let address = (word & PPN) << PPN_TO_ADDRESS;
        if word & (R | W | X) == 0 {
            if at.level.0 == 0 || word & (U | A | D | PBMT) != 0 {
                return Entry::Malformed;
            }
            return Entry::Table { table: O::new(address), width: WIDTH };
        }
        if word & (R | W) == W
            || word & PBMT == PBMT
            || address & low_bits(at.shift) != 0
            || !self.geometry.is_leaf_level(at.level)
        {
            return Entry::Malformed;
        }
        Entry::Leaf { output: O::new(address), attributes: LeafAttributes::from_leaf(word) }
    }

    #[inline(always)]
    pub(crate) fn leaves<const GUEST: bool>(
        &self,
        output: u64,
        attributes: LeafAttributes<GUEST>,
        at: Position,
    ) -> Result<Words, Unencodable> {
        let word = attributes.to_leaf();
        if word & self.reserved != 0
            || word & (R | X) == 0
            || word & (R | W) == W
            || word & PBMT == PBMT
            || output & !(low_bits(PHYSICAL_BITS) & !low_bits(at.shift)) != 0
            || !self.geometry.is_leaf_level(at.level)
        {
            return Err(Unencodable { at });
        }
        let left = -(PPN_TO_ADDRESS as i8);
        let first = word | output >> PPN_TO_ADDRESS;
        Ok(Words::contiguous(first, output, at.shift, PHYSICAL_BITS, left))
    }

    #[inline(always)]
    pub(crate) fn table(&self, table: u64, width: u8, at: Position) -> Result<u64, Unencodable> {
        let fits = table & !(low_bits(PHYSICAL_BITS) & !low_bits(PAGE_SHIFT)) == 0;
        if fits && width == WIDTH && at.level.0 > 0 && at.level.0 < self.geometry.levels() {
            Ok(table >> PPN_TO_ADDRESS | V)
        } else {
            Err(Unencodable { at })
        }
    }

    /// A hart may use a leaf as it was until its translation is fenced; whichever of the old and
    /// the new it uses, nothing worse happens ("Supervisor Memory-Management Fence Instruction").
    #[inline(always)]
    pub(crate) const fn bits() -> Bits {
        Bits {
            present: V,
            accessed: Record::set(A),
            dirty: Record::set(D),
            table: Record::NONE,
            in_place: u64::MAX,
        }
    }

    /// The usual entries: tables, and readable pages of 4 KiB without a memory type that meet the
    /// demand.
    #[inline(always)]
    pub(crate) fn shortcuts(&self, demand: Option<Demand>) -> Shortcuts {
        let address = Field { mask: PPN, left: PPN_TO_ADDRESS };
        let tables = Pattern::all_set(V).without(R | W | X | U | A | D | PBMT | self.reserved);
        let readable = Pattern::all_set(V | R).without(PBMT | self.reserved);
        let page = match demand {
            None => readable,
            Some(demand) => readable.with(demand.set).without(demand.clear),
        };
        let levels = self.mode.levels();
        let root = levels - 1;
        let step = |level: u8| {
            let width = self.geometry.width(pgtable::Level(level));
            let usual = if level == 0 { page } else { tables };
            if level > root {
                Step::NONE
            } else {
                Step::new(PAGE_SHIFT + level * WIDTH, width, usual, address)
            }
        };
        let none = Step::NONE;
        Shortcuts::new(levels, [step(0), step(1), step(2), step(3), step(4), none, none, none])
    }
}
