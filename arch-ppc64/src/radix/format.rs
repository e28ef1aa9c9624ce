//! The radix tree as a [`pgtable::format::Format`], for both scopes.

use core::sync::atomic::AtomicU64;

use pgtable::format::{
    Bits, ByteOrder, Entry, EntryOf, Field, FirstStage, Format, Geometry, Input, Output, Pattern,
    Record, SecondStage, Shortcuts, Step, Unencodable, Words,
};
use pgtable::{Access, AccessKind, Address, Cause, Gpa, Position, Stage1, Stage2, low_bits};

use super::attributes::PageAttributes;
use super::entry::{Pde, Pte};
use super::geometry::{Granule, PageSize, RPDS, WIDTH, supports_table};
use super::policy::{Amr, Iamr, Quadrants, RcPolicy, Strictness, TableFault};
use super::scope::Scope;
use crate::interrupt::{Interrupt, Status};

/// A radix tree's format: its granule, its policies, and the controls of its scope.
///
/// The default controls are those of POWER9 with AMR and IAMR zero: R and C left to software,
/// tables as the manual wants them.
///
/// ```
/// use pgtable_ppc64::radix::{Granule, PageAttributes, ProcessScoped, Quadrants};
/// use pgtable::format::Format;
/// use pgtable::{Access, Address, Gpa, Gva, Level, Position, Prot};
///
/// let format = ProcessScoped::new(Granule::K64).with_quadrants(Quadrants::Three);
/// assert_eq!(format.offset(Gva::new(0xc000_0000_0001_2345)), Some(0x1_2345));
/// assert_eq!(format.offset(Gva::new(0x1_2345)), None);
///
/// let page = Position { level: Level(0), shift: 16 };
/// let word = format.leaves(Gpa::new(0x2_0000), PageAttributes::from(Prot::R), page)?.first;
/// assert_eq!(word, 0xc000_0000_0002_018c);
/// let interrupt = format.check(word, page, (), Access::WRITE).unwrap_err();
/// assert_eq!(interrupt.to_string(), "DSI 0x300, DSISR 0x0a000000: protection, store");
/// # Ok::<(), pgtable::format::Unencodable>(())
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Radix<S: Scope> {
    granule: Granule,
    last: LastLevel,
    rc: RcPolicy,
    strictness: Strictness,
    controls: S::Controls,
}

/// What the granule says of the last steps of a walk: computed once, so that a walk has it in a few
/// loads.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct LastLevel {
    /// log2 of a page.
    shift: u8,
    /// The bits that are the byte offset of an entry of a page table.
    index_mask: u32,
    /// What is compared of a usual leaf.
    compared: u64,
    /// Usual entries of the directory above, whose tables are page tables.
    directory: Pattern,
}

impl LastLevel {
    fn of(granule: Granule) -> Self {
        let shift = granule.geometry().page_shift();
        let width = granule.last_width();
        // At most 9 index bits.
        let index_mask = Step::index_mask::<AtomicU64>(width) as u32;
        let table = Pde::ADDRESS & !low_bits(width + 3);
        let directory = Pattern { compared: !table, value: Pde::VALID | u64::from(width) };
        Self { shift, index_mask, compared: usual(shift).compared, directory }
    }

    /// The step to the page.
    #[inline(always)]
    const fn page(self) -> Step {
        let usual = Pattern { compared: self.compared, value: Pte::LEAF };
        let address = Field::in_place(Pte::ADDRESS);
        Step::of_mask::<AtomicU64>(self.shift, self.index_mask as u64, usual, address)
    }

    /// The step to the page table.
    #[inline(always)]
    const fn directory(self) -> Step {
        Step::new(21, WIDTH, self.directory, Field::in_place(u64::MAX))
    }
}

/// The step from a directory whose entries cover `2^shift` bytes to a table of `2^below` entries.
///
/// With V, NLS, an aligned NLB and nothing else, an entry is a table for every strictness.
#[inline(always)]
const fn directory(shift: u8, width: u8, below: u8) -> Step {
    let address = Pde::ADDRESS & !low_bits(below + 3);
    let usual = Pattern { compared: !address, value: Pde::VALID | below as u64 };
    Step::new(shift, width, usual, Field::in_place(u64::MAX))
}

/// Bits of a page's address that a leaf can hold.
const PAGE_BITS: u8 = Pte::ADDRESS.ilog2() as u8 + 1;

/// The format of a process-scoped tree, `Gva → Gpa`: a guest's own.
pub type ProcessScoped = Radix<Stage1>;
/// The format of a partition-scoped tree, `Gpa → Hpa`: the hypervisor's.
pub type PartitionScoped = Radix<Stage2>;

impl<S: Scope> Radix<S> {
    /// A tree that makes last-level tables of this granule.
    #[must_use]
    pub fn new(granule: Granule) -> Self {
        let (rc, strictness, controls) =
            (RcPolicy::default(), Strictness::default(), S::Controls::default());
        Self { granule, last: LastLevel::of(granule), rc, strictness, controls }
    }

    /// The same with R and C set by others.
    #[must_use]
    pub const fn with_rc(mut self, rc: RcPolicy) -> Self {
        self.rc = rc;
        self
    }

    /// The same, as strict about entries that break the manual's rules.
    #[must_use]
    pub const fn with_strictness(mut self, strictness: Strictness) -> Self {
        self.strictness = strictness;
        self
    }

    /// Which last-level tables it makes.
    #[must_use]
    pub const fn granule(&self) -> Granule {
        self.granule
    }

    /// Who sets R and C.
    #[must_use]
    pub const fn rc(&self) -> RcPolicy {
        self.rc
    }

    /// How strict it is.
    #[must_use]
    pub const fn strictness(&self) -> Strictness {
        self.strictness
    }

    /// The controls of its scope.
    #[must_use]
    pub const fn controls(&self) -> &S::Controls {
        &self.controls
    }

    /// What the leaf `word` holds once hardware has made `access` through it: with R, and C for a
    /// store, where hardware sets them.
    #[must_use]
    pub const fn recorded(&self, word: u64, access: Access) -> u64 {
        match (self.rc, access.kind) {
            (RcPolicy::Fault, _) => word,
            (RcPolicy::HardwareUpdate, AccessKind::Write) => word | Pte::R | Pte::C,
            (RcPolicy::HardwareUpdate, AccessKind::Read | AccessKind::Fetch) => word | Pte::R,
        }
    }

    fn decode_leaf(&self, pte: Pte, at: Position) -> EntryOf<Self> {
        let within = low_bits(at.shift);
        let page = pte.page();
        let malformed = match self.strictness {
            Strictness::Qemu => false,
            Strictness::Kvm => page & within != 0,
            Strictness::Strict => page & within != 0 || pte.into_bits() & Pte::RESERVED != 0,
        };
        if malformed
            || (self.strictness != Strictness::Qemu && !self.geometry().is_leaf_level(at.level))
        {
            return Entry::Malformed;
        }
        Entry::Leaf {
            output: Output::<Self>::new(page & !within),
            attributes: PageAttributes::of(pte),
        }
    }

    fn decode_table(&self, pde: Pde, at: Position) -> EntryOf<Self> {
        let width = (pde.into_bits() & Pde::NLS) as u8;
        let within = low_bits(width + 3);
        let malformed = match self.strictness {
            Strictness::Qemu => false,
            Strictness::Kvm => pde.table() & within != 0,
            Strictness::Strict => pde.table() & within != 0 || pde.into_bits() & Pde::RESERVED != 0,
        };
        if malformed || !supports_table(at.level, width) || width >= at.shift {
            return Entry::Malformed;
        }
        Entry::Table { table: Output::<Self>::new(pde.table() & !within), width }
    }
}

impl ProcessScoped {
    /// The same, reached from these quadrants.
    #[must_use]
    pub const fn with_quadrants(mut self, quadrants: Quadrants) -> Self {
        self.controls.quadrants = quadrants;
        self
    }

    /// The same under this Authority Mask Register.
    #[must_use]
    pub const fn with_amr(mut self, amr: Amr) -> Self {
        self.controls.amr = amr;
        self
    }

    /// The same under this Instruction Authority Mask Register.
    #[must_use]
    pub const fn with_iamr(mut self, iamr: Iamr) -> Self {
        self.controls.iamr = iamr;
        self
    }

    /// The same, reporting tables outside memory like this.
    #[must_use]
    pub const fn with_table_fault(mut self, table_fault: TableFault) -> Self {
        self.controls.table_fault = table_fault;
        self
    }
}

/// Leaves without reserved bits, whose page of `2^shift` bytes is aligned: those that every
/// strictness takes for leaves.
#[inline(always)]
const fn usual(shift: u8) -> Pattern {
    Pattern {
        compared: Pte::LEAF | Pte::RESERVED | Pte::ADDRESS & low_bits(shift),
        value: Pte::LEAF,
    }
}

#[inline(always)]
fn usual_leaf<S: Scope>(word: u64) -> EntryOf<Radix<S>> {
    let pte = Pte::from_bits(word);
    Entry::Leaf { output: Output::<Radix<S>>::new(pte.page()), attributes: PageAttributes::of(pte) }
}

impl<S: Scope> Format for Radix<S> {
    type Stage = S;
    type Attributes = PageAttributes;
    type Fault = Interrupt;
    type Path = ();
    type Word = AtomicU64;

    const BYTE_ORDER: ByteOrder = ByteOrder::Big;

    #[inline(always)]
    fn geometry(&self) -> &Geometry {
        self.granule.geometry()
    }

    #[inline(always)]
    fn offset(&self, address: Input<Self>) -> Option<u64> {
        S::offset(&self.controls, address)
    }

    #[inline(always)]
    fn address(&self, offset: u64) -> Input<Self> {
        S::address(&self.controls, offset)
    }

    #[inline(always)]
    fn decode(&self, word: u64, at: Position) -> EntryOf<Self> {
        // What is most often met, first.
        if at.level.0 == 0 && usual(at.shift).odd(word) == 0 {
            return usual_leaf::<S>(word);
        }
        match word & Pte::LEAF {
            Pte::LEAF => self.decode_leaf(Pte::from_bits(word), at),
            Pde::VALID => self.decode_table(Pde::from_bits(word), at),
            _ => Entry::Absent,
        }
    }

    #[inline]
    fn leaves(
        &self,
        output: Output<Self>,
        attributes: PageAttributes,
        at: Position,
    ) -> Result<Words, Unencodable> {
        let page = output.get();
        let fits = page & !(Pte::ADDRESS & !low_bits(at.shift)) == 0;
        match PageSize::of_shift(at.shift) {
            Some(size) if size.level() == at.level && fits => {
                let first = attributes.pte().into_bits() | page;
                Ok(Words::contiguous(first, page, at.shift, PAGE_BITS, 0))
            }
            _ => Err(Unencodable { at }),
        }
    }

    #[inline]
    fn table(&self, table: Output<Self>, width: u8, at: Position) -> Result<u64, Unencodable> {
        let fits = supports_table(at.level, width)
            && table.get() & !(Pde::ADDRESS & !low_bits(width + 3)) == 0;
        if fits { Ok(Pde::VALID | table.get() | u64::from(width)) } else { Err(Unencodable { at }) }
    }

    /// Hardware may use a leaf as it was until `tlbie`, and no change of bits other than address
    /// and size is worse than that.
    #[inline(always)]
    fn bits(&self, _: Position) -> Bits {
        Bits {
            present: Pde::VALID,
            accessed: Record::set(Pte::R),
            dirty: Record::set(Pte::C),
            table: Record::NONE,
            in_place: u64::MAX,
        }
    }

    /// Directories restrict nothing.
    #[inline(always)]
    fn restrict(&self, (): (), _: u64, _: Position) {}

    /// In this order: nothing is fetched from non-idempotent storage; authority, privilege and
    /// keys; R and C.
    #[inline(always)]
    fn check(&self, word: u64, at: Position, (): (), access: Access) -> Result<(), Interrupt> {
        let guarded = access.kind == AccessKind::Fetch && word & Pte::ATT == Pte::NON_IDEMPOTENT;
        if guarded || !S::allows(&self.controls, self.strictness, word, access) {
            return Err(self.fault(Cause::Denied, access, Some(at), word));
        }
        let record = self.required(access);
        if word & record != record {
            return Err(S::interrupt(Status::new().with_reference_change(true), access));
        }
        Ok(())
    }

    #[cold]
    fn fault(&self, cause: Cause, access: Access, _: Option<Position>, _: u64) -> Interrupt {
        match cause {
            Cause::Address => S::address_fault(access),
            Cause::TableAccess => S::table_fault(&self.controls, access),
            Cause::NotPresent | Cause::Contended => {
                S::interrupt(Status::new().with_no_translation(true), access)
            }
            Cause::Malformed => S::interrupt(Status::new().with_bad_configuration(true), access),
            Cause::Denied if access.kind == AccessKind::Fetch => {
                S::interrupt(Status::new().with_no_execute(true), access)
            }
            Cause::Denied => S::interrupt(Status::new().with_protection(true), access),
        }
    }

    #[inline(always)]
    fn shortcuts(&self, access: Option<Access>) -> Option<Shortcuts> {
        let last = self.last.page();
        let usual = last.usual();
        let page = match access {
            None => usual,
            Some(access) => self.allowing(usual, access),
        };
        let none = const { Step::new(12, WIDTH, Pattern::NONE, Field::in_place(0)) };
        let steps = [
            last.with_usual(page),
            self.last.directory(),
            const { directory(30, WIDTH, WIDTH) },
            const { directory(39, RPDS, WIDTH) },
            none,
            none,
            none,
            none,
        ];
        Some(Shortcuts::new(4, steps))
    }
}

impl<S: Scope> Radix<S> {
    /// What a leaf must have recorded to allow `access`.
    #[inline(always)]
    const fn required(&self, access: Access) -> u64 {
        match (self.rc, access.kind) {
            (RcPolicy::HardwareUpdate, _) => 0,
            (RcPolicy::Fault, AccessKind::Write) => Pte::R | Pte::C,
            (RcPolicy::Fault, AccessKind::Read | AccessKind::Fetch) => Pte::R,
        }
    }

    /// Those of the leaves `usual` that certainly allow `access`. (A page that may be written and
    /// does not say that it may be read is not among them, nor is a fetch from anything but
    /// ordinary storage.)
    #[inline(always)]
    fn allowing(&self, usual: Pattern, access: Access) -> Pattern {
        let (right, ordinary) = match access.kind {
            AccessKind::Read => (Pte::READ, 0),
            AccessKind::Write => (Pte::WRITE, 0),
            AccessKind::Fetch => (Pte::EXECUTE, Pte::ATT),
        };
        let usual = usual.with(right | self.required(access)).without(ordinary);
        match S::privileged(&self.controls, access) {
            Some(true) => usual.with(Pte::PRIVILEGED),
            Some(false) => usual.without(Pte::PRIVILEGED),
            None => usual,
        }
    }
}

impl FirstStage for ProcessScoped {
    /// As QEMU's MMU does: the size of a table is judged when its entry has been found.
    #[cold]
    fn looked_for_before_judged(&self, word: u64, at: Position, offset: u64) -> Option<Gpa> {
        let pde = Pde::from_bits(word);
        let judged_late = self.strictness == Strictness::Qemu && pde.v() && !pde.l();
        judged_late.then(|| {
            let table = pde.table() & !low_bits(pde.nls() + 3);
            Gpa::new(entry_of(table, pde.nls(), at.shift, offset))
        })
    }
}

/// The address of the entry for `offset` in a table of `2^width` entries, which together cover
/// `2^covers` bytes. A table wider than what it covers is indexed as a 64-bit shift by a negative
/// count does it.
pub(crate) fn entry_of(table: u64, width: u8, covers: u8, offset: u64) -> u64 {
    let index =
        offset.wrapping_shr(u32::from(covers).wrapping_sub(u32::from(width))) & low_bits(width);
    table.wrapping_add(index * 8)
}

impl SecondStage for PartitionScoped {
    /// Hardware loads the entry anew after it refused an access by it (ISA v3.1, Book III, "Setting
    /// a Reference or Change Bit or Upgrading Access Authority"; Linux:
    /// `radix__ptep_set_access_flags`).
    #[inline]
    fn keeps_refusals(&self) -> bool {
        false
    }

    /// The partition scope takes an access to a table of the process scope for a load.
    #[inline]
    fn fault_of_guest_table(&self, fault: Interrupt, _: Access) -> Interrupt {
        fault.of_guest_table()
    }
}

#[cfg(test)]
mod tests;
