//! The radix tree as a [`pgtable::Format`], for both scopes.

use pgtable::{
    Access, AccessKind, AccessedDirty, Address, ByteOrder, Cause, Entry, EntryOf, Format, Geometry,
    Input, Level, Output, Pattern, Position, Stage1, Stage2, Unencodable, low_bits,
};

use super::attributes::PageAttributes;
use super::entry::{Pde, Pte};
use super::geometry::{Granule, PageSize, RPDS, WIDTH, entry_offset, supports_table};
use super::policy::{Amr, Iamr, Quadrants, RcPolicy, Strictness, TableFault};
use super::scope::Scope;
use crate::interrupt::{Interrupt, Status};

/// A radix tree's format: its granule, its policies, and the controls of its scope.
///
/// The default controls are those of POWER9 with AMR and IAMR zero: R and C left to software,
/// tables as the manual wants them.
///
/// ```
/// use arch_ppc64::radix::{Granule, PageAttributes, ProcessScoped, Quadrants};
/// use pgtable::{Access, Format, Gva, Level, Position, Prot};
///
/// let format = ProcessScoped::new(Granule::K64).with_quadrants(Quadrants::Three);
/// assert_eq!(format.offset(Gva::new(0xc000_0000_0001_2345)), Some(0x1_2345));
/// assert_eq!(format.offset(Gva::new(0x1_2345)), None);
///
/// let page = Position { level: Level(0), shift: 16 };
/// let word = format.leaf_word(PageAttributes::from(Prot::R), page)? | 0x2_0000;
/// assert_eq!(word, 0xc000_0000_0002_018c);
/// let interrupt = format.check(word, page, (), Access::WRITE).unwrap_err();
/// assert_eq!(interrupt.to_string(), "DSI 0x300, DSISR 0x0a000000: protection, store");
/// # Ok::<(), pgtable::Unencodable>(())
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Radix<S: Scope> {
    granule: Granule,
    last: LastLevel,
    rc: RcPolicy,
    strictness: Strictness,
    controls: S::Controls,
}

/// What the granule says of a walk's last step, computed once: a walk that meets it anew for each
/// address has it in three loads.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct LastLevel {
    /// log2 of a page.
    shift: u8,
    /// How far an address is shifted for the index to stand where the entry's offset has it, and
    /// the bits of that offset.
    entry_shift: u8,
    entries: u64,
    /// How to know usual leaves.
    usual: Pattern,
}

impl LastLevel {
    fn of(granule: Granule) -> Self {
        let shift = granule.geometry().page_shift();
        Self {
            shift,
            entry_shift: shift - 3,
            entries: low_bits(granule.last_width()) << 3,
            usual: usual(shift),
        }
    }
}

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

    const BYTE_ORDER: ByteOrder = ByteOrder::Big;

    #[inline(always)]
    fn geometry(&self) -> &Geometry {
        self.granule.geometry()
    }

    #[inline(always)]
    fn shift(&self, level: u8) -> u8 {
        match level {
            3 => 39,
            2 => 30,
            1 => 21,
            _ => self.last.shift,
        }
    }

    #[inline(always)]
    fn entry_offset(&self, level: u8, offset: u64) -> u64 {
        match level {
            3 => entry_offset(39, RPDS, offset),
            2 => entry_offset(30, WIDTH, offset),
            1 => entry_offset(21, WIDTH, offset),
            _ => offset >> (self.last.entry_shift & 63) & self.last.entries,
        }
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

    /// With V, NLS and nothing else but an aligned NLB, what is left when the expected bits are
    /// taken off is the table's address. Anything odd (reserved bits, a misaligned base, the other
    /// granule) goes to [`decode`](Format::decode).
    #[inline(always)]
    fn predicted_table(&self, word: u64, at: Position) -> Option<u64> {
        let width = match at.level.0 {
            3 | 2 => WIDTH,
            1 => self.granule.last_width(),
            _ => return None,
        };
        let table = word ^ (Pde::VALID | u64::from(width));
        if table & !(Pde::ADDRESS & !low_bits(width + 3)) == 0 { Some(table) } else { None }
    }

    /// Directories restrict nothing.
    #[inline(always)]
    fn quick_table(&self, word: u64, at: Position, _: Access) -> Option<u64> {
        self.predicted_table(word, at)
    }

    #[inline(always)]
    fn quick_page(&self, word: u64, access: Access) -> Option<(Output<Self>, PageAttributes)> {
        if self.last.usual.odd(word) != 0 {
            return None;
        }
        self.check(word, Position { level: Level(0), shift: self.last.shift }, (), access).ok()?;
        let pte = Pte::from_bits(word);
        Some((Output::<Self>::new(pte.page()), PageAttributes::of(pte)))
    }

    #[inline(always)]
    fn usual_leaf(&self, at: Position) -> Option<Pattern> {
        (at.level.0 == 0).then(|| usual(at.shift))
    }

    #[inline(always)]
    fn present_mask(&self) -> u64 {
        Pde::VALID
    }

    #[inline]
    fn table_word(&self, table: Output<Self>, width: u8, at: Position) -> Option<u64> {
        let fits = supports_table(at.level, width)
            && table.get() & !(Pde::ADDRESS & !low_bits(width + 3)) == 0;
        fits.then(|| Pde::VALID | table.get() | u64::from(width))
    }

    #[inline(always)]
    fn leaf_word(&self, attributes: PageAttributes, at: Position) -> Result<u64, Unencodable> {
        match PageSize::of_shift(at.shift) {
            Some(size) if size.level() == at.level => Ok(attributes.pte().into_bits()),
            _ => Err(Unencodable { at }),
        }
    }

    #[inline(always)]
    fn output_mask(&self, at: Position) -> u64 {
        Pte::ADDRESS & !low_bits(at.shift)
    }

    #[inline(always)]
    fn accessed_dirty(&self) -> AccessedDirty {
        AccessedDirty { accessed: Pte::R, dirty: Pte::C, table: 0 }
    }

    /// In this order: nothing is fetched from non-idempotent storage; authority, privilege and
    /// keys; R and C.
    #[inline(always)]
    fn check(&self, word: u64, _: Position, (): (), access: Access) -> Result<(), Interrupt> {
        let guarded = access.kind == AccessKind::Fetch && word & Pte::ATT == Pte::NON_IDEMPOTENT;
        if guarded || !S::allows(&self.controls, self.strictness, word, access) {
            return Err(self.fault(Cause::Denied, access));
        }
        let record = if access.kind == AccessKind::Write { Pte::R | Pte::C } else { Pte::R };
        if self.rc == RcPolicy::Fault && word & record != record {
            return Err(S::interrupt(Status::new().with_reference_change(true), access));
        }
        Ok(())
    }

    /// The partition scope takes an access to a table of the process scope for a load.
    #[inline]
    fn fault_of_guest_table(&self, fault: Interrupt) -> Interrupt {
        fault.of_guest_table()
    }

    #[cold]
    fn fault(&self, cause: Cause, access: Access) -> Interrupt {
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
}

#[cfg(test)]
mod tests;
