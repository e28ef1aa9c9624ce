//! The formats: Sv39, Sv48 and Sv57 by satp or vsatp, and their guest stages by hgatp.
//!
//! "Sv39: Page-Based 39-bit Virtual-Memory System" and following; "Virtual Address Translation
//! Process"; "Guest Physical Address Translation".

use core::fmt::Debug;
use core::marker::PhantomData;
use core::sync::atomic::AtomicU64;

use pgtable::format::{
    Bits, ByteOrder, Entry, EntryOf, Field, FirstStage, Format, Geometry, Groups, LevelGeometry,
    Pattern, Record, SecondStage, Shortcuts, Step, Unencodable, Words,
};
use pgtable::{
    Access, AccessKind, Address, Cause, Level, Position, Privilege, Stage, Stage1, Stage2, low_bits,
};

use crate::attributes::{GuestAttributes, Leaf, PageAttributes};
use crate::controls::{Controls, Extensions, GuestControls, Mode};
use crate::entry::{
    A, D, N, PBMT, PPN, PPN_TO_ADDRESS, PageTableEntry, R, RSW_HIGH, U, UNDEFINED, V, W, X,
};
use crate::exception::Exception;

/// log2 of the smallest page, and of a table.
pub(crate) const PAGE_SHIFT: u8 = 12;
/// Physical address bits.
pub(crate) const PHYSICAL_BITS: u8 = 56;
/// Index bits of every table but a guest stage's root.
const WIDTH: u8 = 9;
/// log2 of the entries of a NAPOT leaf: the only size that Svnapot defines.
const NAPOT: u8 = 4;
/// The bits of PPN that encode this size, and what they are.
const NAPOT_SIZE: u64 = PageTableEntry::new().with_ppn(15).into_bits();
const NAPOT_64K: u64 = PageTableEntry::new().with_ppn(8).into_bits();

/// The shapes of first stages and of guest stages, by the number of levels. Every level may have
/// leaves. A guest stage's root has four times as many entries.
static SHAPES: [[Geometry; 3]; 2] = {
    const LEVEL: LevelGeometry = LevelGeometry { width: WIDTH, leaf: true };
    const ROOT: LevelGeometry = LevelGeometry { width: WIDTH + 2, leaf: true };
    [
        [
            Geometry::new(PAGE_SHIFT, &[LEVEL; 3]),
            Geometry::new(PAGE_SHIFT, &[LEVEL; 4]),
            Geometry::new(PAGE_SHIFT, &[LEVEL; 5]),
        ],
        [
            Geometry::new(PAGE_SHIFT, &[LEVEL, LEVEL, ROOT]),
            Geometry::new(PAGE_SHIFT, &[LEVEL, LEVEL, LEVEL, ROOT]),
            Geometry::new(PAGE_SHIFT, &[LEVEL, LEVEL, LEVEL, LEVEL, ROOT]),
        ],
    ]
};

/// The same with Svnapot: 16 entries of the last level may be one leaf.
static NAPOT_SHAPES: [[Geometry; 3]; 2] = {
    let mut shapes = SHAPES;
    let mut n = 0;
    while n < 6 {
        shapes[n / 3][n % 3] = shapes[n / 3][n % 3].with_groups(Level(0), NAPOT);
        n += 1;
    }
    shapes
};

/// The stages that have these formats: [`Stage1`] and [`Stage2`].
pub trait SvStage: Stage + Copy + Eq + Debug + Send + Sync {
    /// Leaf attributes of the stage.
    type Leaf: Leaf;
    /// Whether it is the guest stage.
    const GUEST: bool;
    /// Its own fault, of a load.
    const PAGE_FAULT: Exception;
}

impl SvStage for Stage1 {
    type Leaf = PageAttributes;
    const GUEST: bool = false;
    const PAGE_FAULT: Exception = Exception::LoadPageFault;
}

impl SvStage for Stage2 {
    type Leaf = GuestAttributes;
    const GUEST: bool = true;
    const PAGE_FAULT: Exception = Exception::LoadGuestPageFault;
}

/// The right that a load needs.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Loads {
    Readable,
    /// MXR.
    ReadableOrExecutable,
    /// HLVX.
    Executable,
}

/// What an access demands of a leaf.
#[derive(Clone, Copy)]
struct Demand {
    /// All of these bits are set …
    set: u64,
    /// … none of these …
    clear: u64,
    /// … and at least one of these.
    any: u64,
}

/// The tables that satp, vsatp or hgatp refers to, as a hart in this state reads them.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SvTables<S: SvStage> {
    geometry: &'static Geometry,
    mode: Mode,
    controls: Controls,
    loads: Loads,
    /// Bits that are reserved in every entry, N left out.
    reserved: u64,
    /// The address bits that are translated, and the one that those above must be equal to: none in
    /// a guest stage. Computed once: a walk begins with them.
    translated: u64,
    sign: u64,
    /// Usual tables; usual pages, and by privilege and kind those that allow an access.
    tables: Pattern,
    readable: Pattern,
    pages: [[Pattern; 3]; 2],
    stage: PhantomData<S>,
}

/// The tables of a first stage: satp, vsatp.
pub type Sv = SvTables<Stage1>;

/// The tables of a guest stage: hgatp. [`Mode::Sv39`] means Sv39x4.
///
/// Every access counts as one of user mode. The privilege of an [`Access`] therefore says something
/// else here: a supervisor's load is an *implicit* load, as of a guest's table, to which MXR does
/// not apply, and a user's load is the guest's own, whichever mode the guest is in.
/// [`TwoStage`](pgtable::two_stage::TwoStage) asks so by itself, and so does
/// [`Trap::access`](crate::Trap::access). Without MXR there is no difference.
///
/// ```
/// use core::sync::atomic::AtomicU64;
/// use pgtable_riscv64::{GuestControls, Mode, SvX4};
/// use pgtable::memory::DirectMap;
/// use pgtable::walk::Walker;
/// use pgtable::{Access, Gpa, Hpa};
///
/// // A page of 1 GiB that is executable only: V, X, U, A, D.
/// let words: Vec<AtomicU64> = (0..0x800).map(|_| AtomicU64::new(0xd9)).collect();
/// let format = SvX4::new(Mode::Sv39, GuestControls { mxr: true, ..GuestControls::new() });
/// let walker = Walker::new(format, DirectMap::new(&words, Hpa::new(0)), Hpa::new(0));
/// // The guest may load from it, but no table of the guest's stands there.
/// assert!(walker.translate(Gpa::new(0x1234), Access::READ.by_user()).is_ok());
/// assert!(walker.translate(Gpa::new(0x1234), Access::READ).is_err());
/// ```
pub type SvX4 = SvTables<Stage2>;

impl Sv {
    /// Tables of `mode` under `controls`.
    #[must_use]
    pub const fn new(mode: Mode, controls: Controls) -> Self {
        Self::of(mode, controls)
    }

    /// The controls.
    #[must_use]
    pub const fn controls(&self) -> Controls {
        self.controls
    }
}

impl SvX4 {
    /// Tables of `mode` under `controls`.
    #[must_use]
    pub const fn new(mode: Mode, controls: GuestControls) -> Self {
        let GuestControls { mxr, extensions } = controls;
        Self::of(mode, Controls { sum: false, mxr, extensions })
    }

    /// The controls.
    #[must_use]
    pub const fn controls(&self) -> GuestControls {
        GuestControls { mxr: self.controls.mxr, extensions: self.controls.extensions }
    }
}

impl<S: SvStage> SvTables<S> {
    const fn of(mode: Mode, controls: Controls) -> Self {
        let Extensions { pbmte, svnapot, rsw60t59b, .. } = controls.extensions;
        let shapes = if svnapot { &NAPOT_SHAPES } else { &SHAPES };
        let pbmt = if pbmte { 0 } else { PBMT };
        let rsw = if rsw60t59b { 0 } else { RSW_HIGH };
        let geometry = &shapes[S::GUEST as usize][mode.levels() as usize - 3];
        let translated = geometry.address_mask();
        let reserved = UNDEFINED | pbmt | rsw;
        Self {
            geometry,
            translated,
            sign: if S::GUEST { 0 } else { translated & !(translated >> 1) },
            mode,
            controls,
            loads: if controls.mxr { Loads::ReadableOrExecutable } else { Loads::Readable },
            reserved,
            tables: Pattern::all_set(V).without(R | W | X | U | A | D | PBMT | N | reserved),
            readable: Pattern::all_set(V | R).without(PBMT | N | reserved),
            pages: [[Pattern::NONE; 3]; 2],
            stage: PhantomData,
        }
        .with_pages()
    }

    const fn with_pages(mut self) -> Self {
        const ACCESSES: [Access; 3] = [Access::READ, Access::WRITE, Access::FETCH];
        let mut n = 0;
        while n < 6 {
            let access = if n < 3 { ACCESSES[n] } else { ACCESSES[n - 3].by_user() };
            let Demand { set, clear, .. } = self.demand(access);
            self.pages[access.privilege as usize][access.kind as usize] =
                self.readable.with(set).without(clear);
            n += 1;
        }
        self
    }

    /// The same tables as HLVX reads them: loads need X instead of R, whatever MXR says
    /// ("Hypervisor Virtual-Machine Load and Store Instructions").
    #[must_use]
    pub const fn for_hlvx(self) -> Self {
        Self { loads: Loads::Executable, ..self }.with_pages()
    }

    /// The mode.
    #[must_use]
    pub const fn mode(&self) -> Mode {
        self.mode
    }

    /// What an access demands: the right, the privilege, and what must be recorded already.
    #[inline(always)]
    const fn demand(&self, Access { kind, privilege }: Access) -> Demand {
        let supervisor = matches!(privilege, Privilege::Supervisor);
        let loads = if S::GUEST && supervisor { Loads::Readable } else { self.loads };
        let (right, any) = match (kind, loads) {
            (AccessKind::Write, _) => (W, V),
            (AccessKind::Fetch, _) | (AccessKind::Read, Loads::Executable) => (X, V),
            (AccessKind::Read, Loads::Readable) => (R, V),
            (AccessKind::Read, Loads::ReadableOrExecutable) => (0, R | X),
        };
        let recorded = match kind {
            _ if self.controls.extensions.adue => 0,
            AccessKind::Write => A | D,
            AccessKind::Read | AccessKind::Fetch => A,
        };
        let (user, clear) = match kind {
            _ if S::GUEST || !supervisor => (U, 0),
            AccessKind::Read | AccessKind::Write if self.controls.sum => (0, 0),
            _ => (0, U),
        };
        Demand { set: right | recorded | user, clear, any }
    }

    /// Whether the leaf `word` at `at` is one of 64 KiB, if that may be.
    #[inline(always)]
    fn is_napot(&self, word: u64, at: Position) -> bool {
        self.controls.extensions.svnapot && at.level.0 == 0 && word & N != 0
    }

    /// Whether a leaf at `at` may have this word, its address and N left out.
    #[inline(always)]
    fn is_leaf(&self, word: u64, at: Position) -> bool {
        word & self.reserved == 0
            && word & (R | W) != W
            && word & PBMT != PBMT
            && self.geometry.is_leaf_level(at.level)
    }
}

impl<S: SvStage> Format for SvTables<S> {
    type Stage = S;
    type Attributes = S::Leaf;
    type Fault = Exception;
    type Path = ();
    type Word = AtomicU64;

    const BYTE_ORDER: ByteOrder = ByteOrder::Little;
    const GROUPS: Groups = Groups::Alike;

    #[inline(always)]
    fn geometry(&self) -> &Geometry {
        self.geometry
    }

    /// The bits above the tree's highest address bit must be equal to it; in a guest stage, zero.
    #[inline(always)]
    fn offset(&self, address: S::Input) -> Option<u64> {
        let address = address.get();
        let canonical = address.wrapping_add(self.sign) & !self.translated == 0;
        canonical.then_some(address & self.translated)
    }

    #[inline(always)]
    fn address(&self, offset: u64) -> S::Input {
        Address::new(offset.wrapping_sub((offset & self.sign) << 1))
    }

    #[inline(always)]
    fn decode(&self, word: u64, at: Position) -> EntryOf<Self> {
        let address = (word & PPN) << PPN_TO_ADDRESS;
        let leaf = |address| Entry::Leaf {
            output: Address::new(address),
            attributes: Leaf::from_leaf(word),
        };
        // What is most often met, by one compare.
        if at.level.0 == 0 && self.readable.fits(word) {
            return leaf(address);
        }
        if word & V == 0 {
            return Entry::Absent;
        }
        if word & (R | W | X) == 0 {
            if at.level.0 == 0 || word & (self.reserved | U | A | D | PBMT | N) != 0 {
                return Entry::Malformed;
            }
            return Entry::Table { table: Address::new(address), width: WIDTH };
        }
        let napot = self.is_napot(word, at);
        let (odd, address) = if napot {
            (word & NAPOT_SIZE ^ NAPOT_64K, address & !low_bits(PAGE_SHIFT + NAPOT))
        } else {
            (word & N | address & low_bits(at.shift), address)
        };
        if !self.is_leaf(word, at) || odd != 0 {
            return Entry::Malformed;
        }
        leaf(address)
    }

    #[inline(always)]
    fn leaves(
        &self,
        output: S::Output,
        attributes: S::Leaf,
        at: Position,
    ) -> Result<Words, Unencodable> {
        let (word, output) = (attributes.to_leaf(), output.get());
        let odd = output & !(low_bits(PHYSICAL_BITS) & !low_bits(at.shift));
        if !self.is_leaf(word, at) || word & (R | X) == 0 || odd != 0 {
            return Err(Unencodable { at });
        }
        let left = -(PPN_TO_ADDRESS as i8);
        let first = word | output >> PPN_TO_ADDRESS;
        Ok(Words::contiguous(first, output, at.shift, PHYSICAL_BITS, left))
    }

    #[inline(always)]
    fn group(&self, word: u64, at: Position) -> u8 {
        if self.is_napot(word, at) { NAPOT } else { 0 }
    }

    fn group_leaves(
        &self,
        output: S::Output,
        attributes: S::Leaf,
        at: Position,
        group: u8,
    ) -> Result<Words, Unencodable> {
        let place = self.controls.extensions.svnapot && at.level.0 == 0 && group == NAPOT;
        if !place || output.get() & low_bits(PAGE_SHIFT + NAPOT) != 0 {
            return Err(Unencodable { at });
        }
        let Words { first, step, count } = self.leaves(output, attributes, at)?;
        Ok(Words { first: first | N | NAPOT_64K, step: step << NAPOT, count: count >> NAPOT })
    }

    #[inline(always)]
    fn table(&self, table: S::Output, width: u8, at: Position) -> Result<u64, Unencodable> {
        let odd = table.get() & !(low_bits(PHYSICAL_BITS) & !low_bits(PAGE_SHIFT));
        if odd == 0 && width == WIDTH && (1..self.geometry.levels()).contains(&at.level.0) {
            Ok(table.get() >> PPN_TO_ADDRESS | V)
        } else {
            Err(Unencodable { at })
        }
    }

    /// A hart may use a leaf as it was until its translation is fenced; whichever of the old and
    /// the new it uses, nothing worse happens ("Supervisor Memory-Management Fence Instruction").
    #[inline(always)]
    fn bits(&self, _: Position) -> Bits {
        Bits {
            present: V,
            accessed: Record::set(A),
            dirty: Record::set(D),
            table: Record::NONE,
            in_place: u64::MAX,
        }
    }

    #[inline(always)]
    fn restrict(&self, (): (), _: u64, _: Position) {}

    #[inline(always)]
    fn check(&self, word: u64, _: Position, (): (), access: Access) -> Result<(), Exception> {
        let Demand { set, clear, any } = self.demand(access);
        if word & (set | clear) == set && word & any != 0 {
            Ok(())
        } else {
            Err(S::PAGE_FAULT.with_kind(access.kind))
        }
    }

    /// An address of another space is a page fault; a table that cannot be read is an access fault,
    /// like memory itself.
    fn fault(&self, cause: Cause, access: Access, _: Option<Position>, _: u64) -> Exception {
        let load =
            if cause == Cause::TableAccess { Exception::LoadAccessFault } else { S::PAGE_FAULT };
        load.with_kind(access.kind)
    }

    /// The usual entries: tables, and readable pages of 4 KiB without a memory type.
    #[inline(always)]
    fn shortcuts(&self, access: Option<Access>) -> Option<Shortcuts> {
        let address = Field { mask: PPN, left: PPN_TO_ADDRESS };
        let tables = self.tables;
        let page = match access {
            None => self.readable,
            Some(Access { kind, privilege }) => self.pages[privilege as usize][kind as usize],
        };
        let levels = self.mode.levels();
        // Written out, so that it folds where the format is a constant.
        let step = |level: u8, usual| {
            let wide = if S::GUEST && level == levels - 1 { 2 } else { 0 };
            Step::new(PAGE_SHIFT + level * WIDTH, WIDTH + wide, usual, address)
        };
        let [first, second, third] = [step(0, page), step(1, tables), step(2, tables)];
        let [fourth, fifth, none] = [step(3, tables), step(4, tables), Step::NONE];
        let steps = [first, second, third, fourth, fifth, none, none, none];
        Some(Shortcuts::new(levels, steps))
    }
}

impl FirstStage for Sv {}

impl SecondStage for SvX4 {
    /// Where the guest's own loads are judged otherwise than implicit ones: under MXR and for HLVX.
    #[inline(always)]
    fn asks_whose_page(&self, access: Access) -> bool {
        self.loads != Loads::Readable && access.kind == AccessKind::Read
    }

    /// To record A or D in the guest's tables is a store, and recorded in turn.
    #[inline(always)]
    fn guest_table_update(&self) -> Option<Access> {
        Some(Access::WRITE)
    }

    /// Faults name the original access, not the one to the table.
    #[inline]
    fn fault_of_guest_table(&self, fault: Exception, access: Access) -> Exception {
        fault.with_kind(access.kind)
    }
}
