//! The software tree as a [`Format`]: no hardware walks it, so its directory entries may look like
//! radix's.

use core::sync::atomic::AtomicU64;

use pgtable::format::{
    Bits, ByteOrder, Entry, EntryOf, Format, Geometry, Input, Output, Record, Unencodable, Words,
};
use pgtable::{Access, Cause, Gpa, Gva, Level, Position, Stage1, low_bits};

use super::attributes::HashAttributes;
use super::pages::Pages;
use super::pte::{C, R, V};
use crate::hash::authority::{Authority, judge};
use crate::hash::mmu::HashFault;
use crate::hash::segment::{Segment, SegmentSize};
use crate::interrupt::{Interrupt, Status};
use crate::radix::Pde;

/// The format of a software tree of these pages.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SoftwareTree {
    pages: Pages,
}

impl SoftwareTree {
    /// The format.
    #[must_use]
    pub const fn new(pages: Pages) -> Self {
        Self { pages }
    }

    /// Its pages.
    #[must_use]
    pub const fn pages(&self) -> Pages {
        self.pages
    }

    fn leaf_at(&self, at: Position) -> bool {
        self.geometry().is_leaf_level(at.level) && self.geometry().shift(at.level) == at.shift
    }
}

/// The interrupt of a fault; none of the table's own faults comes from a software tree.
fn interrupt(fault: HashFault) -> Interrupt {
    match fault {
        HashFault::Interrupt(interrupt) => interrupt,
        HashFault::Table(_) | HashFault::MultiHit(_) => {
            Interrupt { vector: crate::Vector::DataStorage, status: Status::new() }
        }
    }
}

impl Format for SoftwareTree {
    type Stage = Stage1;
    type Attributes = HashAttributes;
    type Fault = Interrupt;
    type Path = ();
    type Word = AtomicU64;

    const BYTE_ORDER: ByteOrder = ByteOrder::Big;

    #[inline(always)]
    fn geometry(&self) -> &Geometry {
        self.pages.geometry()
    }

    #[inline(always)]
    fn offset(&self, address: Input<Self>) -> Option<u64> {
        (address.get() & !low_bits(self.geometry().address_bits()) == 0).then_some(address.get())
    }

    #[inline(always)]
    fn address(&self, offset: u64) -> Input<Self> {
        Gva::new(offset)
    }

    #[inline]
    fn decode(&self, word: u64, at: Position) -> EntryOf<Self> {
        let pde = Pde::from_bits(word);
        if !pde.v() {
            return Entry::Absent;
        }
        if pde.l() {
            if !self.leaf_at(at) {
                return Entry::Malformed;
            }
            let output = Gpa::new(word & self.pages.rpn(at.shift));
            return Entry::Leaf { output, attributes: self.pages.attributes(word) };
        }
        let width = pde.nls();
        let table = pde.table();
        let fits = at.level.0 > 0
            && width == self.geometry().width(Level(at.level.0 - 1))
            && table & low_bits(width + 3) == 0;
        if fits { Entry::Table { table: Gpa::new(table), width } } else { Entry::Malformed }
    }

    #[inline]
    fn leaves(
        &self,
        output: Output<Self>,
        attributes: HashAttributes,
        at: Position,
    ) -> Result<Words, Unencodable> {
        let page = output.get();
        let mask = self.pages.rpn(at.shift);
        match self.pages.word(attributes) {
            Some(word) if self.leaf_at(at) && page & !mask == 0 => {
                let bits = 64 - mask.leading_zeros() as u8;
                Ok(Words::contiguous(word | page, page, at.shift, bits, 0))
            }
            _ => Err(Unencodable { at }),
        }
    }

    #[inline]
    fn table(&self, table: Output<Self>, width: u8, at: Position) -> Result<u64, Unencodable> {
        let word = Pde::new().with_v(true).with_nls(width & 31);
        if table.get() & !Pde::ADDRESS == 0 {
            Ok(word.into_bits() | table.get())
        } else {
            Err(Unencodable { at })
        }
    }

    /// No hardware walks the tree: every bit may change in place.
    #[inline(always)]
    fn bits(&self, _: Position) -> Bits {
        Bits {
            present: V,
            accessed: Record::set(R),
            dirty: Record::set(C),
            table: Record::NONE,
            in_place: u64::MAX,
        }
    }

    #[inline(always)]
    fn restrict(&self, (): (), _: u64, _: Position) {}

    fn check(&self, word: u64, at: Position, (): (), access: Access) -> Result<(), Interrupt> {
        let r = self.pages.attributes(word).with_c(true).entry(0, self.pages.sizes(at.shift));
        let segment = segment(0, SegmentSize::M256, self.pages);
        judge(r, &segment, access, Authority::default())
            .map_err(|status| interrupt(HashFault::storage(access, status)))
    }

    fn fault(&self, cause: Cause, access: Access, _: Option<Position>, _: u64) -> Interrupt {
        interrupt(match cause {
            Cause::Address => HashFault::segment(access),
            _ => HashFault::no_entry(access),
        })
    }
}

/// A segment of a hashed address space: privileged state has key 0, problem state key 1.
pub(crate) const fn segment(vsid: u64, size: SegmentSize, pages: Pages) -> Segment {
    Segment { vsid, size, base: pages.base(), ks: false, kp: true, n: false, class: true }
}
