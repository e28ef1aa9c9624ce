//! How one architecture encodes a tree: the trait that every tree format implements.
//!
//! A format is a VALUE: level count, granule and the CPU's controls (x86 CR0.WP, CR4.SMEP; POWER
//! AMR, IAMR) are fields of it, chosen at run time. What is fixed per architecture (byte order,
//! attribute type) is in the type, so that each walk is compiled for its architecture.
//!
//! A format sees words in the architecture's own bit order, as a native `u64`. Memory order is this
//! crate's affair, at one place ([`ByteOrder`]).

use core::fmt;

use crate::access::{Access, Attributes};
use crate::fault::Cause;
use crate::geometry::{Geometry, Position};
use crate::stage::Stage;

/// The stage's input address type of a format.
pub type Input<F> = <<F as Format>::Stage as Stage>::Input;
/// The stage's output address type of a format.
pub type Output<F> = <<F as Format>::Stage as Stage>::Output;

/// The order of a table word's bytes in memory.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ByteOrder {
    /// x86.
    Little,
    /// POWER, whatever order the operating system itself runs in.
    Big,
}

impl ByteOrder {
    /// A word as it was loaded from memory → the value that the manual describes. Its own inverse.
    #[inline(always)]
    #[must_use]
    pub const fn swap(self, word: u64) -> u64 {
        match self {
            Self::Little => word.to_le(),
            Self::Big => word.to_be(),
        }
    }
}

/// What an entry is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Entry<A, T> {
    /// Nothing is mapped here. Software may keep what it likes in the other bits.
    Absent,
    /// The next table.
    Table {
        /// Its address.
        table: A,
        /// Its index bits.
        width: u8,
    },
    /// A page.
    Leaf {
        /// The page's address; aligned to its size.
        output: A,
        /// Its attributes.
        attributes: T,
    },
    /// Present, but no valid entry of this level: reserved bits, an impossible size, a misaligned
    /// base. What hardware does with it is the format's [`Format::fault`].
    Malformed,
}

/// [`Entry`] as format `F` decodes it.
pub type EntryOf<F> = Entry<Output<F>, <F as Format>::Attributes>;

/// The attributes that were asked for have no encoding at that place.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("these attributes have no encoding at {}, pages of 2^{} bytes", at.level, at.shift)]
pub struct Unencodable {
    /// Where they were to stand.
    pub at: Position,
}

/// How one architecture encodes a tree.
///
/// # Contract
/// Implementations are pure: the same value and arguments give the same answer, and no word makes
/// them panic. [`decode`](Self::decode) answers `Table` only with a width of 1 to 20 bits that is
/// less than the position's shift; the walker relies on that to end.
pub trait Format: Copy + Eq + fmt::Debug + Send + Sync + 'static {
    /// The stage it belongs to.
    type Stage: Stage;
    /// What a leaf says besides its address.
    type Attributes: Attributes;
    /// The fault as this architecture reports it: an error code, an interrupt vector and its cause
    /// register.
    type Fault: Copy + Eq + fmt::Debug + fmt::Display;
    /// What the table entries on the way down restrict (x86: R/W, U/S and NX of every level count;
    /// POWER: nothing, `()`).
    type Path: Copy + Eq + Default + fmt::Debug;

    /// The order of the bytes of a word in memory.
    const BYTE_ORDER: ByteOrder;

    /// The shape of the tree.
    fn geometry(&self) -> &Geometry;

    /// log2 of what an entry of `level` covers. The geometry's answer, as
    /// [`entry_offset`](Self::entry_offset).
    #[inline(always)]
    fn shift(&self, level: u8) -> u8 {
        self.geometry().shift(crate::Level(level))
    }

    /// The byte offset, in a table of `level` that is as wide as the geometry says, of the entry
    /// that covers `offset`. The geometry's answer; formats whose shape hardly varies give it with
    /// constants, which a walk is faster by.
    #[inline(always)]
    fn entry_offset(&self, level: u8, offset: u64) -> u64 {
        self.geometry().entry_offset(crate::Level(level), offset)
    }

    /// The part of an input address that indexes the tree: sign extension or quadrant taken off.
    /// `None`: not an address of this space (not canonical; bits beyond the tree).
    fn offset(&self, address: Input<Self>) -> Option<u64>;

    /// The input address whose [`offset`](Self::offset) is `offset`: the inverse.
    fn address(&self, offset: u64) -> Input<Self>;

    /// What `word`, standing at `at`, is.
    fn decode(&self, word: u64, at: Position) -> EntryOf<Self>;

    /// The fast half of [`decode`](Self::decode): the address of the next table if `word` is a
    /// table entry whose table has exactly the width that [`geometry`](Self::geometry) predicts,
    /// else `None` ("decode it properly"). One masked compare where the format allows.
    #[inline(always)]
    fn predicted_table(&self, word: u64, at: Position) -> Option<u64> {
        match self.decode(word, at) {
            Entry::Table { table, width }
                if width == self.geometry().width(crate::Level(at.level.0.wrapping_sub(1))) =>
            {
                Some(crate::Address::get(table))
            }
            _ => None,
        }
    }

    /// [`predicted_table`](Self::predicted_table) of an entry that grants everything that `access`
    /// could demand of the way to its page; `None` if it doesn't, or if a look at this entry alone
    /// doesn't show it ("walk properly").
    #[inline(always)]
    fn quick_table(&self, word: u64, at: Position, access: Access) -> Option<u64> {
        let _ = access;
        let open = self.restrict(Self::Path::default(), word) == Self::Path::default();
        self.predicted_table(word, at).filter(|_| open)
    }

    /// Whether a walk for `access` may go on from an entry that [`quick_table`](Self::quick_table)s
    /// led to as if it had begun there: what those grant makes no difference to
    /// [`check`](Self::check), nor to the fault that it reports.
    #[inline(always)]
    fn quick_restricts_nothing(&self, access: Access) -> bool {
        let _ = access;
        true
    }

    /// The page of a last-level entry, reached by [`quick_table`](Self::quick_table)s alone for the
    /// same `access`, which it allows: its address and attributes, as [`decode`](Self::decode) has
    /// them. `None`: "walk properly". One masked compare where the format allows.
    #[inline(always)]
    fn quick_page(&self, word: u64, access: Access) -> Option<(Output<Self>, Self::Attributes)> {
        let at = Position { level: crate::Level(0), shift: self.shift(0) };
        match self.decode(word, at) {
            Entry::Leaf { output, attributes }
                if self.check(word, at, Self::Path::default(), access).is_ok() =>
            {
                Some((output, attributes))
            }
            _ => None,
        }
    }

    /// How to know the leaves at `at` that are met most often by one masked compare:
    /// [`decode`](Self::decode) takes every word that passes for a leaf whose address is its
    /// [`output_mask`](Self::output_mask). What does not pass may be one all the same.
    #[inline(always)]
    fn usual_leaf(&self, at: Position) -> Option<Pattern> {
        let _ = at;
        None
    }

    /// Any of these bits set means that an entry is present (`Absent` otherwise).
    fn present_mask(&self) -> u64;

    /// The entry for a table of `width` index bits at `table`.
    ///
    /// # Errors
    /// `None` if the address has no encoding there.
    fn table_word(&self, table: Output<Self>, width: u8, at: Position) -> Option<u64>;

    /// The entry for a page at output address 0 with `attributes`; a page elsewhere is this OR its
    /// address.
    ///
    /// # Errors
    /// [`Unencodable`] if the format cannot say it, or has no leaf there.
    fn leaf_word(&self, attributes: Self::Attributes, at: Position) -> Result<u64, Unencodable>;

    /// The bits of a leaf at `at` that hold its output address. An output address with others has
    /// no encoding.
    fn output_mask(&self, at: Position) -> u64;

    /// The bits that hardware sets: accessed (POWER: R) and dirty (POWER: C). Zero where it has
    /// none.
    fn accessed_dirty(&self) -> AccessedDirty;

    /// `path`, restricted by the table entry `word`.
    #[inline(always)]
    fn restrict(&self, path: Self::Path, word: u64) -> Self::Path {
        let _ = word;
        path
    }

    /// Judges `access` against the leaf `word` at `at`, reached by `path`.
    ///
    /// # Errors
    /// The fault that the hardware raises.
    fn check(
        &self,
        word: u64,
        at: Position,
        path: Self::Path,
        access: Access,
    ) -> Result<(), Self::Fault>;

    /// Whether a page that was reached by `path` (its own entry `word` included or not) is one of
    /// user mode, whoever accesses it. For a second stage that [asks](Self::asks_whose_page). Where
    /// user mode is no matter of pages: yes.
    #[inline]
    fn is_user_page(&self, word: u64, path: Self::Path) -> bool {
        let _ = (word, path);
        true
    }

    /// Whether this stage judges `access` by whose page the stage before it makes of the address
    /// (then that is the access's privilege), not by who accesses it. EPT does so for fetches under
    /// mode-based execute control.
    #[inline(always)]
    fn asks_whose_page(&self, access: Access) -> bool {
        let _ = access;
        false
    }

    /// As what access this stage judges the reads of tables of the stage before it (a guest's own).
    /// A load on most; AMD's nested paging takes it for a user's write.
    #[inline]
    fn guest_table_access(&self) -> Access {
        Access::READ
    }

    /// `fault`, which this stage raised for a table of the stage before it.
    #[inline]
    fn fault_of_guest_table(&self, fault: Self::Fault) -> Self::Fault {
        fault
    }

    /// The fault that the hardware raises where a walk for `access` ends for another reason than
    /// permission.
    fn fault(&self, cause: Cause, access: Access) -> Self::Fault;
}

/// Words of which some bits are given.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Pattern {
    /// The bits that are compared.
    pub compared: u64,
    /// What they are. No others are set.
    pub value: u64,
}

impl Pattern {
    /// The compared bits of `word` that are not as they should be: zero if it passes.
    #[inline(always)]
    #[must_use]
    pub const fn odd(self, word: u64) -> u64 {
        word & self.compared ^ self.value
    }

    /// The same for words as they stand in memory.
    #[inline(always)]
    #[must_use]
    pub fn in_memory<F: Format>(self) -> Self {
        Self { compared: F::BYTE_ORDER.swap(self.compared), value: F::BYTE_ORDER.swap(self.value) }
    }

    /// The same with these bits set.
    #[inline(always)]
    #[must_use]
    pub const fn with(self, bits: u64) -> Self {
        Self { compared: self.compared | bits, value: self.value | bits }
    }
}

/// The bits of entries that record use. See [`Format::accessed_dirty`].
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct AccessedDirty {
    /// Set by any access.
    pub accessed: u64,
    /// Set by a store.
    pub dirty: u64,
    /// Of a table entry: set by a walk through it (x86's A; POWER has none).
    pub table: u64,
}
