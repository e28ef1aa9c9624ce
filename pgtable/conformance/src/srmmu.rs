//! The SPARC Reference MMU (The SPARC Architecture Manual, Version 8, appendix H), as an example of
//! a format with words of 32 bits: big-endian, three levels of tables of 1024 and 256 bytes, and
//! addresses of 36 bits that stand shifted in a word. Hardware keeps R and M.
//!
//! The context table is not part of the tree: its entries are the roots.

use core::fmt;
use core::sync::atomic::AtomicU32;

use pgtable::format::{
    Bits, ByteOrder, Entry, EntryOf, Field, FirstStage, Format, Geometry, LevelGeometry,
    MAX_LEVELS, Pattern, Record, Shortcuts, Step, Unencodable, Words,
};
use pgtable::{
    Access, AccessKind, Attributes, Cause, Gpa, Gva, Level, Memory, Position, Privilege, Prot,
    Stage1, low_bits,
};

/// ET, the type of an entry: 0 is invalid, 3 is reserved.
const ET: u64 = 3;
const ET_TABLE: u64 = 1;
const ET_PAGE: u64 = 2;
/// ACC, the rights.
const ACC: u64 = 7 << 2;
/// R, referenced.
const R: u64 = 1 << 5;
/// M, modified.
const M: u64 = 1 << 6;
/// C, cacheable.
const C: u64 = 1 << 7;
/// The physical page number: bits 35:12 of the address.
const PPN: u64 = low_bits(32) & !low_bits(8);
/// The pointer to a table: bits 35:6 of its address.
const PTP: u64 = low_bits(32) & !ET;
/// How far both are shifted left to be the address.
const LEFT: u8 = 4;
const PHYSICAL_BITS: u8 = 36;
const PAGE: u8 = 12;

const fn level(width: u8) -> LevelGeometry {
    LevelGeometry { width, leaf: true }
}

/// Pages of 4 KiB, 256 KiB and 16 MiB.
static SHAPE: Geometry = Geometry::new(PAGE, &[level(6), level(6), level(8)]);

/// The format.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Srmmu;

/// What a page says besides its address.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SrmmuAttributes {
    /// ACC, 0 to 7; or no rights at all, which no page can have.
    acc: Option<u8>,
    /// C, M and R.
    flags: u64,
}

/// The rights of each ACC, as [`Prot`] says them: those of user mode, or of a supervisor alone. (5:
/// a supervisor may write besides.)
const RIGHTS: [Prot; 8] = [
    Prot::R.for_user(),
    Prot::RW.for_user(),
    Prot::RX.for_user(),
    Prot::RWX.for_user(),
    Prot::new().with_execute(true).for_user(),
    Prot::R.for_user(),
    Prot::RX,
    Prot::RWX,
];

/// The first ACC that grants all of `prot` to the same mode, and as little more as there is.
fn acc_of(prot: Prot) -> Option<u8> {
    match (prot.user(), prot.read(), prot.write(), prot.execute()) {
        (_, false, false, false) => None,
        (true, true, false, false) => Some(0),
        (true, _, true, false) => Some(1),
        (true, true, false, true) => Some(2),
        (true, _, true, true) => Some(3),
        (true, false, false, true) => Some(4),
        (false, _, false, _) => Some(6),
        (false, _, true, _) => Some(7),
    }
}

impl From<Prot> for SrmmuAttributes {
    fn from(prot: Prot) -> Self {
        Self { acc: acc_of(prot), flags: C | M | R }
    }
}

impl Attributes for SrmmuAttributes {
    fn prot(&self) -> Prot {
        self.acc.map_or(Prot::new(), |acc| RIGHTS[usize::from(acc & 7)])
    }

    fn with_prot(self, prot: Prot) -> Self {
        if prot == self.prot() {
            return self;
        }
        Self { acc: acc_of(prot), ..self }
    }

    fn memory(&self) -> Memory {
        if self.flags & C != 0 { Memory::Normal } else { Memory::Device }
    }

    fn with_memory(self, memory: Memory) -> Self {
        let cached = if memory == Memory::Normal { C } else { 0 };
        Self { flags: self.flags & !C | cached, ..self }
    }
}

/// A fault, as the fault status register says it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct FaultStatus {
    /// L: how many tables the walk went through.
    pub level: u8,
    /// AT: the access.
    pub access: u8,
    /// FT: the kind of fault.
    pub kind: u8,
}

impl fmt::Display for FaultStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { level, access, kind } = self;
        write!(f, "L {level}, AT {access}, FT {kind}")
    }
}

const fn is_user(access: Access) -> bool {
    matches!(access.privilege, Privilege::User)
}

/// Bits of ACC that are set and bits that are clear in rights which certainly allow `access`.
const fn usual_rights(access: Access) -> (u64, u64) {
    match (access.kind, is_user(access)) {
        (AccessKind::Read, _) => (0, 4 << 2),
        (AccessKind::Write, true) => (1 << 2, 4 << 2),
        (AccessKind::Write, false) => (1 << 2, 0),
        (AccessKind::Fetch, true) => (2 << 2, 4 << 2),
        (AccessKind::Fetch, false) => (2 << 2, 0),
    }
}

const fn allows(acc: u64, access: Access) -> bool {
    match (access.kind, is_user(access)) {
        (AccessKind::Read, true) => matches!(acc, 0..=3 | 5),
        (AccessKind::Read, false) => acc != 4,
        (AccessKind::Write, true) => matches!(acc, 1 | 3),
        (AccessKind::Write, false) => matches!(acc, 1 | 3 | 5 | 7),
        (AccessKind::Fetch, true) => matches!(acc, 2..=4),
        (AccessKind::Fetch, false) => matches!(acc, 2..=4 | 6 | 7),
    }
}

impl Format for Srmmu {
    type Stage = Stage1;
    type Attributes = SrmmuAttributes;
    type Fault = FaultStatus;
    type Path = ();
    type Word = AtomicU32;

    const BYTE_ORDER: ByteOrder = ByteOrder::Big;

    fn geometry(&self) -> &Geometry {
        &SHAPE
    }

    fn offset(&self, address: Gva) -> Option<u64> {
        (address.get() >> 32 == 0).then_some(address.get())
    }

    fn address(&self, offset: u64) -> Gva {
        Gva::new(offset)
    }

    fn decode(&self, word: u64, at: Position) -> EntryOf<Self> {
        match word & ET {
            0 => Entry::Absent,
            ET_TABLE if (1..3).contains(&at.level.0) => {
                Entry::Table { table: Gpa::new((word & PTP) << LEFT), width: 6 }
            }
            ET_PAGE if (word & PPN) << LEFT & low_bits(at.shift) == 0 => {
                let attributes = SrmmuAttributes {
                    acc: Some(((word & ACC) >> 2) as u8),
                    flags: word & (C | M | R),
                };
                Entry::Leaf { output: Gpa::new((word & PPN) << LEFT), attributes }
            }
            _ => Entry::Malformed,
        }
    }

    fn leaves(
        &self,
        output: Gpa,
        attributes: SrmmuAttributes,
        at: Position,
    ) -> Result<Words, Unencodable> {
        let output = output.get();
        let acc = attributes.acc.ok_or(Unencodable { at })?;
        let placed = SHAPE.leaf(at.shift).is_some_and(|(level, _)| level == at.level);
        if !placed || output & !(low_bits(PHYSICAL_BITS) & !low_bits(at.shift)) != 0 {
            return Err(Unencodable { at });
        }
        let word = output >> LEFT | u64::from(acc) << 2 | attributes.flags | ET_PAGE;
        Ok(Words::contiguous(word, output, at.shift, PHYSICAL_BITS, -(LEFT as i8)))
    }

    fn table(&self, table: Gpa, width: u8, at: Position) -> Result<u64, Unencodable> {
        let fits = table.get() & !(low_bits(PHYSICAL_BITS) & !low_bits(6)) == 0;
        if fits && width == 6 && (1..3).contains(&at.level.0) {
            Ok(table.get() >> LEFT | ET_TABLE)
        } else {
            Err(Unencodable { at })
        }
    }

    fn bits(&self, _: Position) -> Bits {
        Bits {
            present: ET,
            accessed: Record::set(R),
            dirty: Record::set(M),
            table: Record::NONE,
            in_place: low_bits(32),
        }
    }

    fn restrict(&self, (): (), _: u64, _: Position) {}

    fn check(&self, word: u64, at: Position, (): (), access: Access) -> Result<(), FaultStatus> {
        if allows((word & ACC) >> 2, access) {
            Ok(())
        } else {
            Err(self.fault(Cause::Denied, access, Some(at), word))
        }
    }

    fn fault(&self, cause: Cause, access: Access, at: Option<Position>, word: u64) -> FaultStatus {
        let load = match access.kind {
            AccessKind::Read => 0,
            AccessKind::Fetch => 2,
            AccessKind::Write => 4,
        };
        // 6 and 7 are pages of the supervisor's.
        let privileged = is_user(access) && (word & ACC) >> 2 >= 6;
        FaultStatus {
            level: at.map_or(0, |at| 3u8.saturating_sub(at.level.0)),
            access: load + u8::from(!is_user(access)),
            kind: match cause {
                Cause::Denied if privileged => 3,
                Cause::Denied => 2,
                Cause::TableAccess | Cause::Malformed => 4,
                _ => 1,
            },
        }
    }

    fn shortcuts(&self, access: Option<Access>) -> Option<Shortcuts> {
        let (set, clear) = access.map_or((0, 0), usual_rights);
        let page = Pattern::all_set(ET_PAGE | set).without(ET & !ET_PAGE | clear);
        let table = Pattern::all_set(ET_TABLE).without(ET & !ET_TABLE);
        let mut steps = [Step::NONE; MAX_LEVELS];
        for (level, step) in (0..3).zip(&mut steps) {
            let (usual, mask) = if level == 0 { (page, PPN) } else { (table, PTP) };
            let (shift, width) = (SHAPE.shift(Level(level)), SHAPE.width(Level(level)));
            *step = Step::of::<AtomicU32>(shift, width, usual, Field { mask, left: LEFT });
        }
        Some(Shortcuts::new(3, steps))
    }
}

impl FirstStage for Srmmu {}
