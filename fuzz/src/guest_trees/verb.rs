//! Verbs that every writer of a tree has.

use arbitrary::Unstructured;
use pgtable::{Error, Gpa, Gva, Leaves, Prot, RangeError};

/// The most pages of a verb's range.
const PAGES: u64 = 600;
/// Where a verb maps its range to.
const OUTPUT: u64 = 1 << 30;

/// A verb and its range.
#[derive(Clone, Copy)]
pub(super) struct Verb {
    /// Which one in the lower four bits; the others choose parameters.
    pub(super) what: u8,
    pub(super) at: u64,
    pub(super) bytes: u64,
    pub(super) page: u64,
}

impl Verb {
    /// A verb of a tree whose pages have `page` bytes.
    pub(super) fn of(input: &mut Unstructured<'_>, page: u64) -> Self {
        let mut byte = || input.arbitrary::<u8>().unwrap_or(0);
        let (near, far) = (u64::from(byte()), byte());
        let at = page * (near + 500 * u64::from(far % 3) + (u64::from(far >> 2 & 1) << 18));
        let bytes = page * (1 + u64::from(byte()) * 5 % PAGES);
        Self { what: byte(), at, bytes, page }
    }

    pub(super) fn input(self) -> Gva {
        Gva::new(self.at)
    }

    pub(super) fn output(self) -> Gpa {
        Gpa::new(self.at + OUTPUT)
    }

    pub(super) fn prot(self) -> Prot {
        if self.what & 0x80 == 0 { Prot::RW } else { Prot::R }
    }

    pub(super) fn shift(self) -> u8 {
        self.page.trailing_zeros() as u8
    }

    pub(super) fn leaves(self) -> Leaves {
        if self.what & 0x40 == 0 { Leaves::Largest } else { Leaves::Exactly(self.shift()) }
    }

    /// Room for a bit for each page.
    pub(super) fn bitmap(self) -> Vec<u64> {
        vec![0; (self.bytes / self.page).div_ceil(64) as usize]
    }

    /// Whether its range lies within that of `other`.
    pub(super) fn is_within(self, other: Self) -> bool {
        self.at >= other.at && self.at + self.bytes <= other.at + other.bytes
    }
}

/// Does `$verb` by `$hand`: a tree, a writer, or a locked range.
macro_rules! common {
    ($hand:expr, $verb:expr, $gather:expr) => {{
        use pgtable::tree::{Recorded, Writers};
        use pgtable::{Attributes as _, Memory};
        let (verb, hand, gather) = ($verb, &mut $hand, $gather);
        let (input, bytes, prot) = (verb.input(), verb.bytes, verb.prot());
        match verb.what & 15 {
            0..4 => hand.map(input, verb.output(), bytes, prot.into(), verb.leaves()),
            4 | 5 => hand.unmap(input, bytes, gather).map(drop),
            6 => hand.protect(input, bytes, prot, gather).map(drop),
            7 => hand.promote(input, bytes, gather).map(drop),
            8 => hand.split(input, bytes, verb.shift(), gather).map(drop),
            9 | 10 => {
                let (recorded, writers) = match verb.what & 15 {
                    9 => (Recorded::Accessed, Writers::Running),
                    _ => (Recorded::Dirty, Writers::Stopped),
                };
                let mut bits = verb.bitmap();
                hand.harvest(input, bytes, recorded, writers, &mut bits, gather).map(drop)
            }
            11 => hand.annotate(input, bytes, u64::from(verb.what), gather),
            12 => hand.annotate(input, bytes, 0, gather),
            // Where a format says so by break-before-make.
            13 => {
                let memory = [Memory::Normal, Memory::Device][usize::from(verb.what >> 4 & 1)];
                let edit = |leaf: pgtable::walk::LeafOf<F>| leaf.attributes.with_memory(memory);
                hand.modify(input, bytes, edit, gather).map(drop)
            }
            14 => hand.unmap_with(input, bytes, |_| (), gather).map(drop),
            _ if verb.what & 0x10 == 0 => {
                hand.set_attributes(input, bytes, prot.into(), gather).map(drop)
            }
            _ => hand.write_protect(input, bytes, gather).map(drop),
        }
    }};
}
pub(super) use common;

/// Any error but one that blames the embedder; `contended`: nor that another writer is in the way.
pub(super) fn fine(result: Result<(), RangeError<Gva>>, contended: bool) {
    if let Err(RangeError { error, .. }) = result {
        assert!(error != Error::Range && (contended || error != Error::Contended), "{error}");
    }
}
