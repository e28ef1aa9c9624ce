//! How one architecture encodes a tree: the trait that every tree format implements.
//!
//! A format is a value: level count, granule and the CPU's controls (x86 CR0.WP, CR4.SMEP; POWER
//! AMR, IAMR) are its fields, chosen at run time. Byte order and attribute type are part of its
//! type, so each walk is compiled for its architecture.
//!
//! A format sees words in the architecture's own bit order, as a native `u64`; this crate converts
//! from and to their order and width in memory ([`ByteOrder`], [`TableWord`]).
//!
//! # Protocol
//! - **The codec.** Addresses enter and leave words only in [`Format::decode`], [`Format::leaves`]
//!   and [`Format::table`]. This crate never masks an address out of a word or combines one with
//!   attributes by itself, so an address may be shifted, split or encoded in any way.
//! - **Shortcuts are data.** A format may offer masked compares for the usual entries
//!   ([`Format::shortcuts`]). A word that passes is what the codec says it is, and a word that does
//!   not pass is decoded. Shortcuts therefore change the speed of a walk and never its result; the
//!   conformance kit checks this for every format.

use core::fmt;

pub use crate::geometry::{Geometry, LevelGeometry, MAX_GROUP, MAX_LEVELS};
pub use crate::record_bits::{Bits, Mark, Record};
pub use crate::shortcut::{Field, Pattern, Shortcuts, Step};
pub use crate::stage_hooks::{FirstStage, SecondStage};
pub use crate::table_word::TableWord;

use crate::access::{Access, Attributes};
use crate::address::low_bits;
use crate::fault::Cause;
use crate::geometry::{Level, Position};
use crate::group::{group_of, has_groups};
use crate::stage::Stage;
use crate::word::{load_raw, swap};

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
    /// A 64-bit word as it was loaded from memory → the value that the manual describes. Its own
    /// inverse. For words of a format's width see [`TableWord::swap`].
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

/// The attributes or the address have no encoding at that place.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("no entry of 2^{} bytes encodes this page or table", at.shift)]
pub struct Unencodable {
    /// Where the entry would stand.
    pub at: Position,
}

/// The words of neighbouring leaves of one size, whose outputs are neighbours too and whose
/// attributes are equal.
///
/// The word of the `n`th leaf is `first + n * step`, for `n` below `count`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Words {
    /// The word of the first leaf.
    pub first: u64,
    /// The difference between two neighbouring words.
    pub step: u64,
    /// The number of leaves until the encoding of the address jumps (a split field), or until
    /// addresses have no encoding any more. At least 1.
    pub count: u64,
}

impl Words {
    /// The words of leaves of `2^shift` bytes, the first of which is `first` and maps `output`,
    /// for an encoding that holds the address bits below `2^bits` shifted left by `left` (negative:
    /// right), without a gap.
    #[inline(always)]
    #[must_use]
    pub const fn contiguous(first: u64, output: u64, shift: u8, bits: u8, left: i8) -> Self {
        let size = 1u64 << (shift & 63);
        let step = if left < 0 { size >> (-left as u32 & 63) } else { size << (left as u32 & 63) };
        Self { first, step, count: (low_bits(bits) >> (shift & 63)) + 1 - (output >> (shift & 63)) }
    }

    /// The words from the `n`th on, which must be below `count`.
    #[inline]
    #[must_use]
    pub const fn skip(self, n: u64) -> Self {
        let first = self.first.wrapping_add(self.step.wrapping_mul(n));
        Self { first, step: self.step, count: self.count - n }
    }
}

/// How the entries of a group are written: neighbouring entries that map one leaf together.
///
/// A group has `2^n` entries and is aligned to its size; [`Geometry::with_groups`] says which `n`
/// trees of a format value make. Hardware may use any entry of a group for all of its addresses, so
/// what it records in one counts for all.
///
/// This crate keeps groups whole: each verb changes all entries of a group, or first replaces the
/// group by ordinary leaves. In tables that somebody else wrote a group may be incomplete (its
/// entries differ). There each entry counts for itself, as the architectures describe it: a
/// translation uses the entry that its address indexes, and iteration shows each as a leaf of its
/// own.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Groups {
    /// There are no groups.
    None,
    /// Each entry has the address of its own part (AArch64's contiguous hint).
    Apart,
    /// All entries are equal, and have the address of the whole (RISC-V's Svnapot).
    Alike,
}

/// How one architecture encodes a tree.
///
/// # Contract
/// Implementations are pure: the same value and arguments give the same answer, and no word makes
/// them panic. [`decode`](Self::decode) answers `Table` only with a width of 1 to 20 bits that is
/// less than the position's shift; the walker takes any other for malformed.
pub trait Format: Copy + Eq + fmt::Debug + Send + Sync + 'static {
    /// The stage that it belongs to.
    type Stage: Stage;
    /// What a leaf says besides its address.
    type Attributes: Attributes;
    /// The fault as this architecture reports it: an error code, an interrupt vector and its cause
    /// register.
    type Fault: Copy + Eq + fmt::Debug + fmt::Display;
    /// What the table entries on the way down restrict (x86: R/W, U/S and NX of every level;
    /// POWER: nothing, `()`).
    type Path: Copy + Eq + Default + fmt::Debug;

    /// The width of its words in memory: `AtomicU64`, or `AtomicU32` for entries of 4 bytes. The
    /// methods below see both as `u64`; of 32-bit words the upper half is zero.
    type Word: TableWord;

    /// The order of the bytes of a word in memory.
    const BYTE_ORDER: ByteOrder;

    /// Whether several entries may be one leaf, and how they are written then.
    ///
    /// A format with groups also has [`group`](Self::group) and
    /// [`group_leaves`](Self::group_leaves), and a [`geometry`](Self::geometry) that says which
    /// groups its trees make.
    const GROUPS: Groups = Groups::None;

    /// Whether a table entry may lead past levels (AMD's IOMMU: the next level is a field of the
    /// entry). Then [`skipped`](Self::skipped) says past how many.
    ///
    /// Walkers follow such entries: translation, `query`, `access`, `trace`, iteration of leaves
    /// and of tables; harvesting too. Trees of this crate have none. Verbs that would change an
    /// entry below one refuse it ([`Error::SkipsLevels`](crate::Error::SkipsLevels)): a page beside
    /// those that it leads to would need it replaced, and hardware may hold it. A
    /// [`snapshot`](crate::walk::Walker::snapshot) has the tables in between, and may be changed.
    const SKIPS: bool = false;

    /// Whether the text of [`Fault`](Self::Fault) says the level. The text of a
    /// [`pgtable::Fault`](crate::Fault) then leaves it out.
    const FAULT_SAYS_LEVEL: bool = false;

    /// The manual's number of a level, for texts. By default levels are counted from the bottom, as
    /// everywhere in this crate.
    #[must_use]
    fn level_number(level: Level) -> i8 {
        level.0 as i8
    }

    /// The shape of the tree.
    fn geometry(&self) -> &Geometry;

    /// The part of an input address that indexes the tree: sign extension or quadrant taken off.
    /// `None` if the address does not belong to this space (not canonical; bits beyond the tree).
    fn offset(&self, address: Input<Self>) -> Option<u64>;

    /// The input address whose [`offset`](Self::offset) is `offset`: the inverse.
    ///
    /// Addresses of one table of the last level are as far from each other as their offsets.
    fn address(&self, offset: u64) -> Input<Self>;

    /// What `word`, standing at `at`, is.
    fn decode(&self, word: u64, at: Position) -> EntryOf<Self>;

    /// The words of leaves at `at` with `attributes`, the first of which maps `output`.
    ///
    /// # Errors
    /// [`Unencodable`] if there is no leaf at `at`, if the attributes have no encoding, or if
    /// `output` has none (misaligned, too large).
    fn leaves(
        &self,
        output: Output<Self>,
        attributes: Self::Attributes,
        at: Position,
    ) -> Result<Words, Unencodable>;

    /// The entry at `at` for a table of `width` index bits at `table`.
    ///
    /// # Errors
    /// [`Unencodable`] if the address or the width has no encoding there.
    fn table(&self, table: Output<Self>, width: u8, at: Position) -> Result<u64, Unencodable>;

    /// The bits of entries at `at` that say whether they are present, that hardware records in, and
    /// that may change in place.
    fn bits(&self, at: Position) -> Bits;

    /// The path, continued through the table entry `word` at `at`.
    fn restrict(&self, path: Self::Path, word: u64, at: Position) -> Self::Path;

    /// Whether the leaf `word` at `at`, reached by `path`, allows `access`.
    ///
    /// # Errors
    /// The architecture's fault if it does not, or if the access needs an accessed or dirty update
    /// that hardware leaves to software.
    fn check(
        &self,
        word: u64,
        at: Position,
        path: Self::Path,
        access: Access,
    ) -> Result<(), Self::Fault>;

    /// The fault that hardware raises where a walk for `access` ends for another reason than
    /// permission: at the entry `word` at `at`, or before the first entry (`None`, and 0). If the
    /// entry could not be read, `word` is 0.
    fn fault(&self, cause: Cause, access: Access, at: Option<Position>, word: u64) -> Self::Fault;

    /// Past how many levels the table entry `word` at `at` leads. Its table is of the level
    /// `at.level - 1 - skipped`, and has the shape that the geometry gives that level. Address bits
    /// of the levels in between must be zero: at other addresses nothing is mapped.
    #[inline(always)]
    fn skipped(&self, word: u64, at: Position) -> u8 {
        let _ = (word, at);
        0
    }

    /// log2 of how many entries the group has to which the leaf `word` at `at` belongs; 0 if it
    /// belongs to none. One of the widths that the geometry has at that level.
    ///
    /// [`decode`](Self::decode) answers for such a word the address of the entry's own part
    /// ([`Groups::Apart`]) or of the whole group ([`Groups::Alike`]).
    #[inline(always)]
    fn group(&self, word: u64, at: Position) -> u8 {
        let _ = (word, at);
        0
    }

    /// The words of groups of `2^group` entries at `at` with `attributes`, the first of which maps
    /// `output`: of each entry ([`Groups::Apart`]; the count is a multiple of `2^group`), or of
    /// each group ([`Groups::Alike`]).
    ///
    /// # Errors
    /// [`Unencodable`] as for [`leaves`](Self::leaves), and if there is no such group at `at`.
    fn group_leaves(
        &self,
        output: Output<Self>,
        attributes: Self::Attributes,
        at: Position,
        group: u8,
    ) -> Result<Words, Unencodable> {
        let _ = (output, attributes, group);
        Err(Unencodable { at })
    }

    /// Masked compares for the usual entries; `None` if there are none, or if what `access` needs
    /// cannot be decided entry by entry.
    ///
    /// With an `access`, an entry that passes grants all that the access needs of it, so below
    /// tables that pass, a larger leaf that [`check`](Self::check) allows on the default path is
    /// allowed. Without one, rights do not matter. An entry of a group never passes.
    #[inline(always)]
    fn shortcuts(&self, access: Option<Access>) -> Option<Shortcuts> {
        let _ = access;
        None
    }
}

/// How to know the present entries of one place.
#[derive(Clone, Copy)]
pub(crate) struct Presence {
    at: Position,
    /// In memory order: an entry with none of these bits is absent, and one that fits is present.
    /// Others are decoded.
    some: u64,
    usual: Pattern,
}

impl Presence {
    /// Of the entries at `at`.
    #[inline(always)]
    pub(crate) fn at<F: Format>(format: &F, at: Position) -> Self {
        let some = swap::<F>(format.bits(at).present);
        Self { at, some, usual: usual_leaf(format, at).in_memory::<F>() }
    }

    /// What the entry in `memory` holds, in the architecture's bit order, if it is present.
    #[inline(always)]
    pub(crate) fn load<F: Format>(self, format: &F, memory: &F::Word) -> Option<u64> {
        self.present(format, load_raw(memory))
    }

    #[inline(always)]
    fn present<F: Format>(self, format: &F, raw: u64) -> Option<u64> {
        if raw & self.some == 0 {
            return None;
        }
        let word = swap::<F>(raw);
        let absent = || matches!(format.decode(word, self.at), Entry::Absent);
        if self.usual.fits(raw) || !absent() { Some(word) } else { None }
    }

    /// Whether entries are certainly absent whose words, as loaded from memory, make `any` by OR.
    #[inline(always)]
    pub(crate) fn none_of(self, any: u64) -> bool {
        any & self.some == 0
    }

    /// Whether entries are certainly leaves whose words, as loaded from memory, make `all` by AND
    /// and `any` by OR.
    #[inline(always)]
    pub(crate) fn all_of(self, all: u64, any: u64) -> bool {
        self.usual.fits(all) && self.usual.fits(any)
    }

    /// The same, if it is no part of a group.
    #[inline(always)]
    pub(crate) fn load_single<F: Format>(self, format: &F, memory: &F::Word) -> Option<u64> {
        // A usual entry is present, and none of a group.
        let raw = load_raw(memory);
        if has_groups::<F>() && self.usual.fits(raw) {
            return Some(swap::<F>(raw));
        }
        let word = self.present(format, raw)?;
        (group_of(format, word, self.at) == 0).then_some(word)
    }

    /// Whether the entry in `memory` is absent.
    #[inline(always)]
    pub(crate) fn is_absent<F: Format>(self, format: &F, memory: &F::Word) -> bool {
        self.load(format, memory).is_none()
    }
}

/// The usual leaves at `at`, whatever they allow.
#[inline(always)]
pub(crate) fn usual_leaf<F: Format>(format: &F, at: Position) -> Pattern {
    match format.shortcuts(None) {
        Some(all) if at == (Position { level: Level(0), shift: all.step(0).shift_of::<F>() }) => {
            all.step(0).usual()
        }
        _ => Pattern::NONE,
    }
}

/// log2 of the smallest page that this format makes of its own accord: the geometry's answer, as a
/// constant where the format has shortcuts.
#[inline(always)]
pub(crate) fn base_shift<F: Format>(format: &F) -> u8 {
    match format.shortcuts(None) {
        Some(all) => all.step(0).shift_of::<F>(),
        None => format.geometry().page_shift(),
    }
}
