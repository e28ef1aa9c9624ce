//! AMD's IOMMU, host page tables (AMD I/O Virtualization Technology Specification, 2.2.3), as an
//! example of a format: an entry says which level its table has, so that levels may be left out,
//! and a page may have any power of two as its size, as a group of equal entries.
//!
//! Four levels; accessed and dirty bits are kept (HASup, HDSup).

use core::fmt;
use core::sync::atomic::AtomicU64;

use pgtable::format::{
    Bits, ByteOrder, Entry, EntryOf, Format, Geometry, Groups, LevelGeometry, MAX_GROUP, Record,
    SecondStage, Unencodable, Words,
};
use pgtable::{
    Access, AccessKind, Attributes, Cause, Gpa, Hpa, Level, Memory, Position, Prot, Stage2,
    low_bits,
};

const PR: u64 = 1;
const A: u64 = 1 << 5;
const D: u64 = 1 << 6;
/// Next Level: 0 for a page of the level's size, 7 for one whose size the address encodes,
/// otherwise the level of the table.
const NEXT: u64 = 7 << 9;
const PAGE_OF_LEVEL: u64 = 0;
const PAGE_OF_ANY_SIZE: u64 = 7;
/// Bits 51:12 of an address.
const ADDRESS: u64 = low_bits(52) & !low_bits(12);
const FC: u64 = 1 << 60;
const IR: u64 = 1 << 61;
const IW: u64 = 1 << 62;
const ATTRIBUTES: u64 = A | D | FC | IR | IW;
const RESERVED: u64 = low_bits(52) & !(ADDRESS | PR | A | D | NEXT) | 0x7f << 52;
const PAGE: u8 = 12;
const WIDTH: u8 = 9;

const LEVEL: LevelGeometry = LevelGeometry { width: WIDTH, leaf: true };

/// Pages of every power of two, up to half of what a table covers.
const fn every_size(shape: Geometry) -> Geometry {
    let (mut shape, mut level) = (shape, 0);
    while level < 3 {
        let mut group = 1;
        while group <= MAX_GROUP {
            shape = shape.with_groups(Level(level), group);
            group += 1;
        }
        level += 1;
    }
    shape
}

static SHAPE: Geometry =
    every_size(Geometry::new(PAGE, &[LEVEL, LEVEL, LEVEL, LevelGeometry { leaf: false, ..LEVEL }]));

/// The format.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Amd;

/// IR, IW, FC, A and D.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct AmdAttributes(u64);

impl From<Prot> for AmdAttributes {
    fn from(prot: Prot) -> Self {
        let when = |wanted: bool, bits| if wanted { bits } else { 0 };
        Self(when(prot.read(), IR) | when(prot.write(), IW) | FC | A | D)
    }
}

impl Attributes for AmdAttributes {
    fn prot(&self) -> Prot {
        Prot::new().with_read(self.0 & IR != 0).with_write(self.0 & IW != 0)
    }

    fn with_prot(self, prot: Prot) -> Self {
        Self(self.0 & !(IR | IW) | Self::from(prot).0 & (IR | IW))
    }

    fn memory(&self) -> Memory {
        if self.0 & FC != 0 { Memory::Normal } else { Memory::Uncached }
    }

    fn with_memory(self, memory: Memory) -> Self {
        Self(if memory == Memory::Normal { self.0 | FC } else { self.0 & !FC })
    }
}

/// An I/O page fault: what its event log entry says.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct IoPageFault {
    /// PR: the page is present, and the access is not allowed.
    pub present: bool,
    /// RZ: a reserved bit is set.
    pub reserved: bool,
    /// RW.
    pub write: bool,
}

impl fmt::Display for IoPageFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { present, reserved, write } = self;
        write!(f, "I/O page fault: present {present}, reserved {reserved}, write {write}")
    }
}

const fn next(word: u64) -> u64 {
    (word & NEXT) >> 9
}

/// log2 of the size that the address in `word` encodes: the ones at its low end, and the zero above
/// them.
const fn encoded_size(word: u64) -> u8 {
    PAGE + ((word & ADDRESS) >> PAGE).trailing_ones() as u8 + 1
}

impl Amd {
    fn is_page(word: u64, at: Position) -> bool {
        word & PR != 0
            && at.level.0 < 3
            && (next(word) == PAGE_OF_LEVEL || next(word) == PAGE_OF_ANY_SIZE)
    }
}

impl Format for Amd {
    type Stage = Stage2;
    type Attributes = AmdAttributes;
    type Fault = IoPageFault;
    /// The rights that some table on the way does not give.
    type Path = u64;
    type Word = AtomicU64;

    const BYTE_ORDER: ByteOrder = ByteOrder::Little;
    const GROUPS: Groups = Groups::Alike;
    const SKIPS: bool = true;

    fn geometry(&self) -> &Geometry {
        &SHAPE
    }

    fn offset(&self, address: Gpa) -> Option<u64> {
        (address.get() >> 48 == 0).then_some(address.get())
    }

    fn address(&self, offset: u64) -> Gpa {
        Gpa::new(offset)
    }

    fn decode(&self, word: u64, at: Position) -> EntryOf<Self> {
        let (address, attributes) = (word & ADDRESS, AmdAttributes(word & ATTRIBUTES));
        if word & PR == 0 {
            return Entry::Absent;
        }
        match next(word) {
            _ if word & RESERVED != 0 => Entry::Malformed,
            PAGE_OF_LEVEL if Self::is_page(word, at) && address & low_bits(at.shift) == 0 => {
                Entry::Leaf { output: Hpa::new(address), attributes }
            }
            PAGE_OF_ANY_SIZE if self.group(word, at) > 0 => {
                let output = address & !low_bits(encoded_size(word));
                Entry::Leaf { output: Hpa::new(output), attributes }
            }
            level @ 1..7 if level <= u64::from(at.level.0) => {
                Entry::Table { table: Hpa::new(address), width: WIDTH }
            }
            _ => Entry::Malformed,
        }
    }

    fn leaves(
        &self,
        output: Hpa,
        attributes: AmdAttributes,
        at: Position,
    ) -> Result<Words, Unencodable> {
        let output = output.get();
        if at.level.0 >= 3 || output & !(ADDRESS & !low_bits(at.shift)) != 0 {
            return Err(Unencodable { at });
        }
        Ok(Words::contiguous(output | attributes.0 | PR, output, at.shift, 52, 0))
    }

    fn table(&self, table: Hpa, width: u8, at: Position) -> Result<u64, Unencodable> {
        if at.level.0 == 0 || at.level.0 > 6 || width != WIDTH || table.get() & !ADDRESS != 0 {
            return Err(Unencodable { at });
        }
        Ok(table.get() | u64::from(at.level.0) << 9 | IR | IW | PR)
    }

    fn bits(&self, _: Position) -> Bits {
        Bits {
            present: PR,
            accessed: Record::set(A),
            dirty: Record::set(D),
            table: Record::NONE,
            in_place: u64::MAX,
        }
    }

    fn restrict(&self, denied: u64, word: u64, _: Position) -> u64 {
        denied | !word & (IR | IW)
    }

    fn check(
        &self,
        word: u64,
        at: Position,
        denied: u64,
        access: Access,
    ) -> Result<(), IoPageFault> {
        let right = if access.kind == AccessKind::Write { IW } else { IR };
        if word & !denied & right != 0 {
            Ok(())
        } else {
            Err(self.fault(Cause::Denied, access, Some(at), word))
        }
    }

    fn fault(&self, cause: Cause, access: Access, _: Option<Position>, _: u64) -> IoPageFault {
        IoPageFault {
            present: cause == Cause::Denied,
            reserved: cause == Cause::Malformed,
            write: access.kind == AccessKind::Write,
        }
    }

    fn skipped(&self, word: u64, at: Position) -> u8 {
        match next(word) {
            level @ 1..7 => at.level.0.saturating_sub(level as u8),
            _ => 0,
        }
    }

    fn group(&self, word: u64, at: Position) -> u8 {
        let group = encoded_size(word).saturating_sub(at.shift);
        let any_size = Self::is_page(word, at) && next(word) == PAGE_OF_ANY_SIZE;
        if any_size && group <= MAX_GROUP { group } else { 0 }
    }

    fn group_leaves(
        &self,
        output: Hpa,
        attributes: AmdAttributes,
        at: Position,
        group: u8,
    ) -> Result<Words, Unencodable> {
        let size = at.shift.saturating_add(group);
        if group == 0 || group > MAX_GROUP || output.get() & low_bits(size) != 0 {
            return Err(Unencodable { at });
        }
        let words = self.leaves(output, attributes, at)?;
        let encoded = low_bits(size - 1) & !low_bits(PAGE) | PAGE_OF_ANY_SIZE << 9;
        let (first, step) = (words.first | encoded, words.step << group);
        Ok(Words { first, step, count: words.count >> group })
    }
}

impl SecondStage for Amd {}
