//! AArch64 VMSAv8-64, stage 1, 64-KiB granule with 52-bit output addresses (FEAT_LPA; Arm ARM
//! D8.3), as an example of a format: its addresses are split, what hardware calls dirty is a bit
//! that it clears, tables restrict, an entry with bit 0 set may be absent, and not every bit of a
//! live leaf may change.
//!
//! 48 bits of input address, reached from TTBR0. The contiguous hint (D8.7: 32 entries at each
//! level that may have it) is used where asked for, and ignored elsewhere.

use core::fmt;
use core::sync::atomic::AtomicU64;

use pgtable::format::{
    Bits, ByteOrder, Entry, EntryOf, Field, FirstStage, Format, Geometry, Groups, LevelGeometry,
    MAX_LEVELS, Mark, Pattern, Record, Shortcuts, Step, Unencodable, Words,
};
use pgtable::{
    Access, AccessKind, Attributes, Cause, Gpa, Gva, Level, Memory, Position, Privilege, Prot,
    Stage1, low_bits,
};

const VALID: u64 = 1;
/// A table above the last level, a page at the last.
const TABLE: u64 = 1 << 1;
/// AttrIndx.
const ATTR: u64 = 7 << 2;
/// AP[1]: EL0 may access it.
const USER: u64 = 1 << 6;
/// AP[2]: read-only. Where DBM is set, hardware clears it on a store.
const READ_ONLY: u64 = 1 << 7;
const SHAREABILITY: u64 = 3 << 8;
const AF: u64 = 1 << 10;
const NG: u64 = 1 << 11;
const DBM: u64 = 1 << 51;
/// The entry is one of a group of neighbours that map contiguous memory alike.
const CONTIGUOUS: u64 = 1 << 52;
/// log2 of the entries of such a group.
const GROUP: u8 = 5;
const PXN: u64 = 1 << 53;
const UXN: u64 = 1 << 54;
const SOFTWARE: u64 = 0xf << 55;
/// The software bit that says that a page was dirty when its right to write was taken.
const DIRTY: u64 = 1 << 55;
const ATTRIBUTES: u64 =
    ATTR | USER | READ_ONLY | SHAREABILITY | AF | NG | DBM | PXN | UXN | SOFTWARE;
/// PXNTable, UXNTable, APTable[0] (not EL0), APTable[1] (read-only).
const TABLE_LIMITS: u64 = 0xf << 59;
/// Bits 47:16 of an address stand in place, bits 51:48 in bits 15:12.
const IN_PLACE: u64 = low_bits(48) & !low_bits(16);
const HIGH: u64 = 0xf << 12;
const PAGE: u8 = 16;

const fn split(address: u64) -> u64 {
    address & IN_PLACE | (address >> 48 & 0xf) << 12
}

const fn join(word: u64) -> u64 {
    word & IN_PLACE | (word & HIGH) << 36
}

static SHAPE: Geometry = Geometry::new(
    PAGE,
    &[
        LevelGeometry { width: 13, leaf: true },
        LevelGeometry { width: 13, leaf: true },
        LevelGeometry { width: 6, leaf: true },
    ],
);

static CONTIGUOUS_SHAPE: Geometry = SHAPE.with_groups(Level(0), GROUP).with_groups(Level(1), GROUP);

/// The format. Hardware manages the access flag and the dirty state (`TCR.HA`, `TCR.HD`).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Lpa {
    contiguous: bool,
}

/// What a leaf says besides its address. MAIR is as Linux has it: 0 normal memory, 2 not cached, 3
/// and 4 device memory.
///
/// Its bits; bit 0 is clear if it may not be read, which has
/// no encoding.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct LpaAttributes(u64);

impl LpaAttributes {
    /// The same with another index into MAIR. Only the low three bits of `index` count.
    #[must_use]
    pub const fn with_attr(self, index: u8) -> Self {
        Self(self.0 & !ATTR | ((index & 7) as u64) << 2)
    }

    /// The index into MAIR.
    #[must_use]
    pub const fn attr(self) -> u8 {
        (self.0 >> 2) as u8 & 7
    }

    /// A page that may be written and was not: clean, if `clean`; otherwise dirty.
    #[must_use]
    pub const fn with_clean(self, clean: bool) -> Self {
        Self(if clean { self.0 | READ_ONLY } else { self.0 & !READ_ONLY })
    }
}

impl From<Prot> for LpaAttributes {
    fn from(prot: Prot) -> Self {
        let when = |wanted: bool, bits| if wanted { bits } else { 0 };
        Self(
            when(prot.read(), VALID)
                | when(prot.user(), USER | NG)
                | if prot.write() { DBM } else { READ_ONLY | DIRTY }
                | when(!prot.execute() || prot.user(), PXN)
                | when(!prot.execute() || !prot.user(), UXN)
                | SHAREABILITY
                | AF,
        )
    }
}

impl Attributes for LpaAttributes {
    fn prot(&self) -> Prot {
        let user = self.0 & USER != 0;
        Prot::new()
            .with_read(self.0 & VALID != 0)
            .with_write(self.0 & READ_ONLY == 0 || self.0 & DBM != 0)
            .with_execute(self.0 & if user { UXN } else { PXN } == 0)
            .with_user(user)
    }

    /// A dirty page that may not be written any more is marked in a software bit.
    fn with_prot(self, prot: Prot) -> Self {
        if prot == self.prot() {
            return self;
        }
        const RIGHTS: u64 = VALID | USER | DBM | PXN | UXN;
        let dirty = self.0 & READ_ONLY == 0 || self.0 & DIRTY != 0;
        let word = self.0 & !(RIGHTS | READ_ONLY | DIRTY) | Self::from(prot).0 & RIGHTS;
        Self(match (prot.write(), dirty) {
            (true, true) => word,
            (true, false) | (false, false) => word | READ_ONLY,
            (false, true) => word | READ_ONLY | DIRTY,
        })
    }

    fn memory(&self) -> Memory {
        match self.attr() {
            2 => Memory::Uncached,
            3 | 4 => Memory::Device,
            _ => Memory::Normal,
        }
    }

    fn with_memory(self, memory: Memory) -> Self {
        if self.memory() == memory {
            return self;
        }
        self.with_attr(match memory {
            Memory::Normal => 0,
            Memory::Uncached => 2,
            Memory::Device => 4,
        })
    }
}

/// What a data or instruction abort reports.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Abort {
    /// ISS.DFSC or ISS.IFSC, with the level in Arm's numbering (3 is the last).
    pub status: u8,
    /// ISS.WnR.
    pub write: bool,
}

impl fmt::Display for Abort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "abort, status {:#x}{}", self.status, if self.write { ", write" } else { "" })
    }
}

impl Lpa {
    /// Without the contiguous hint.
    pub const PLAIN: Self = Self { contiguous: false };
    /// Neighbouring entries are marked as contiguous where they are.
    pub const CONTIGUOUS: Self = Self { contiguous: true };

    fn abort(class: u8, access: Access, at: Option<Position>) -> Abort {
        // Level 0 is reported for an address that no walk begins for.
        let level = at.map_or(0, |at| 3u8.saturating_sub(at.level.0));
        Abort { status: class | level, write: access.kind == AccessKind::Write }
    }

    fn allows(word: u64, limits: u64, access: Access) -> bool {
        let user = access.privilege == Privilege::User;
        let el0 = word & USER != 0 && limits >> 61 & 1 == 0;
        let writable = (word & READ_ONLY == 0 || word & DBM != 0) && limits >> 62 & 1 == 0;
        let never = if user {
            word & UXN != 0 || limits >> 60 & 1 != 0
        } else {
            word & PXN != 0 || limits >> 59 & 1 != 0 || el0 && writable
        };
        (!user || el0)
            && match access.kind {
                AccessKind::Read => true,
                AccessKind::Write => writable,
                AccessKind::Fetch => !never,
            }
    }
}

impl Format for Lpa {
    type Stage = Stage1;
    type Attributes = LpaAttributes;
    type Fault = Abort;
    /// The limits that any table on the way sets.
    type Path = u64;
    type Word = AtomicU64;

    const BYTE_ORDER: ByteOrder = ByteOrder::Little;
    const GROUPS: Groups = Groups::Apart;

    fn geometry(&self) -> &Geometry {
        if self.contiguous { &CONTIGUOUS_SHAPE } else { &SHAPE }
    }

    fn offset(&self, address: Gva) -> Option<u64> {
        (address.get() >> 48 == 0).then_some(address.get())
    }

    fn address(&self, offset: u64) -> Gva {
        Gva::new(offset)
    }

    fn decode(&self, word: u64, at: Position) -> EntryOf<Self> {
        let last = at.level.0 == 0;
        // A block at the last level is a reserved encoding: hardware takes a translation fault.
        if word & VALID == 0 || last && word & TABLE == 0 {
            return Entry::Absent;
        }
        if !last && word & TABLE != 0 {
            return Entry::Table { table: Gpa::new(join(word)), width: 13 };
        }
        let output = join(word);
        if output & low_bits(at.shift) != 0 || !SHAPE.is_leaf_level(at.level) {
            return Entry::Malformed;
        }
        Entry::Leaf {
            output: Gpa::new(output),
            attributes: LpaAttributes(word & ATTRIBUTES | VALID),
        }
    }

    fn leaves(
        &self,
        output: Gpa,
        attributes: LpaAttributes,
        at: Position,
    ) -> Result<Words, Unencodable> {
        let address = output.get();
        let odd = attributes.0 & VALID == 0
            || address & !(low_bits(52) & !low_bits(at.shift)) != 0
            || !SHAPE.is_leaf_level(at.level);
        if odd {
            return Err(Unencodable { at });
        }
        let kind = if at.level.0 == 0 { TABLE } else { 0 };
        Ok(Words {
            first: split(address) | attributes.0 | kind,
            step: at.size(),
            // Bits 47:16 carry into bit 48 of the word, which is not the address's.
            count: ((1 << 48) - (address & low_bits(48))) >> at.shift,
        })
    }

    fn group(&self, word: u64, at: Position) -> u8 {
        let may_be = self.contiguous && at.level.0 <= 1 && word & CONTIGUOUS != 0;
        if may_be { GROUP } else { 0 }
    }

    fn group_leaves(
        &self,
        output: Gpa,
        attributes: LpaAttributes,
        at: Position,
        group: u8,
    ) -> Result<Words, Unencodable> {
        let place = self.contiguous && at.level.0 <= 1 && group == GROUP;
        if !place || output.get() & low_bits(at.shift + group) != 0 {
            return Err(Unencodable { at });
        }
        let words = self.leaves(output, attributes, at)?;
        Ok(Words { first: words.first | CONTIGUOUS, ..words })
    }

    fn table(&self, table: Gpa, width: u8, at: Position) -> Result<u64, Unencodable> {
        let fits = table.get() & !(low_bits(52) & !low_bits(PAGE)) == 0;
        if fits && width == 13 && at.level.0 > 0 {
            Ok(split(table.get()) | TABLE | VALID)
        } else {
            Err(Unencodable { at })
        }
    }

    fn bits(&self, _: Position) -> Bits {
        Bits {
            present: VALID,
            accessed: Record::set(AF),
            dirty: Record::cleared_when(READ_ONLY, Pattern::all_set(DBM)).or(Mark {
                mask: DIRTY,
                recorded: DIRTY,
                when: Pattern::all_set(READ_ONLY).without(DBM),
            }),
            table: Record::NONE,
            // Not the memory type, the shareability and the scope of a translation (D8.17.1).
            in_place: USER | READ_ONLY | AF | DBM | PXN | UXN | SOFTWARE,
        }
    }

    fn restrict(&self, limits: u64, word: u64, _: Position) -> u64 {
        limits | word & TABLE_LIMITS
    }

    fn check(&self, word: u64, at: Position, limits: u64, access: Access) -> Result<(), Abort> {
        if Self::allows(word, limits, access) {
            Ok(())
        } else {
            Err(self.fault(Cause::Denied, access, Some(at), word))
        }
    }

    /// Permission faults, aborts on table walks, and translation faults for the rest.
    fn fault(&self, cause: Cause, access: Access, at: Option<Position>, _: u64) -> Abort {
        Self::abort(
            match cause {
                Cause::Denied => 0b00_1100,
                Cause::TableAccess => 0b01_0100,
                _ => 0b00_0100,
            },
            access,
            at,
        )
    }

    /// Tables that set no limits; pages whose address has no high part.
    fn shortcuts(&self, access: Option<Access>) -> Option<Shortcuts> {
        let address = Field::in_place(IN_PLACE);
        let tables = Pattern::all_set(VALID | TABLE).without(TABLE_LIMITS | HIGH);
        let page = Pattern::all_set(VALID | TABLE).without(HIGH);
        let page = if self.contiguous { page.without(CONTIGUOUS) } else { page };
        let page = match access {
            None => page,
            // Which write makes a page dirty, and which page a supervisor may not execute, more
            // bits decide together.
            Some(access) => {
                let page = page.with(AF);
                let page = match (access.privilege, access.kind) {
                    (Privilege::User, AccessKind::Fetch) => page.without(UXN),
                    (Privilege::Supervisor, AccessKind::Fetch) => page.without(PXN | USER),
                    (_, AccessKind::Write) => page.without(READ_ONLY),
                    (_, AccessKind::Read) => page,
                };
                if access.privilege == Privilege::User { page.with(USER) } else { page }
            }
        };
        let mut steps = [Step::NONE; MAX_LEVELS];
        steps[0] = Step::new(16, 13, page, address);
        steps[1] = Step::new(29, 13, tables, address);
        steps[2] = Step::new(42, 6, tables, address);
        Some(Shortcuts::new(3, steps))
    }
}

impl FirstStage for Lpa {}
