//! Stage 2 on Intel: the extended page-table mechanism (SDM §29.3).

use pgtable::{
    Access, AccessKind, AccessedDirty, ByteOrder, Cause, Entry, EntryOf, Format, Geometry, Gpa,
    Hpa, Level, Pattern, Position, Privilege, Stage2, Unencodable, low_bits,
};

use crate::controls::Levels;
use crate::ept_attributes::EptAttributes;
use crate::ept_entry::{EptPageEntry, EptTableEntry, Eptp, MemoryType};
use crate::ept_fault::{EptFault, EptViolation};
use crate::shape::{
    PAGE_SHIFT, WIDTH, address_bits, beyond_maxphyaddr, entry_offset, geometry, shift,
};

/// The host's state that takes part in EPT translation.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct EptControls {
    /// "Mode-based execute control for EPT": XU governs fetches from user-mode linear addresses, X
    /// those from supervisor-mode ones. The [`Privilege`] of an access is then that of the linear
    /// address (its U/S bits), not of the CPL; [`TwoStage`](pgtable::TwoStage) sees to that.
    pub mode_based_execute: bool,
    /// The EPT pointer enables accessed and dirty flags.
    pub accessed_dirty: bool,
    /// `IA32_VMX_EPT_VPID_CAP` bit 0: execute-only pages are supported.
    pub execute_only: bool,
    /// `IA32_VMX_EPT_VPID_CAP` bit 17: 1-GiB pages are supported.
    pub gib_pages: bool,
    /// MAXPHYADDR: physical address bits from here on are reserved. 52 at most.
    pub maxphyaddr: u8,
}

impl EptControls {
    /// Accessed and dirty flags, execute-only and 1-GiB pages, 52 bits of physical address; no
    /// mode-based execute control.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            mode_based_execute: false,
            accessed_dirty: true,
            execute_only: true,
            gib_pages: true,
            maxphyaddr: 52,
        }
    }
}

impl Default for EptControls {
    fn default() -> Self {
        Self::new()
    }
}

const RIGHTS: EptTableEntry = EptTableEntry::new().with_r(true).with_w(true).with_x(true);
const XU: EptTableEntry = EptTableEntry::new().with_xu(true);
const RESERVED_IN_TABLE: u64 = EptTableEntry::new().with_reserved(0xf).into_bits();
const PS: u64 = EptTableEntry::new().with_ps(true).into_bits();
const R: u64 = EptTableEntry::new().with_r(true).into_bits();
const W: u64 = EptTableEntry::new().with_w(true).into_bits();
const X: u64 = EptTableEntry::new().with_x(true).into_bits();

/// What the entries on the way to an EPT page deny. Each right has to be granted by all of them. A
/// bit that is set was clear in some entry.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct EptPath {
    denied: EptTableEntry,
}

impl EptPath {
    const COUNTS: u64 = RIGHTS.into_bits() | XU.into_bits();

    /// The path, continued through the entry `word`, whether it is a table's or a leaf.
    #[inline(always)]
    const fn through(self, word: u64) -> Self {
        Self { denied: EptTableEntry::from_bits(self.denied.into_bits() | !word & Self::COUNTS) }
    }
}

/// The tables that an EPT pointer refers to, as a processor in this state reads them.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Ept {
    geometry: &'static Geometry,
    controls: EptControls,
    /// Bits that are reserved in every entry.
    reserved: u64,
}

impl Ept {
    /// Tables of `levels` levels under `controls`.
    #[must_use]
    pub const fn new(levels: Levels, controls: EptControls) -> Self {
        let reserved = beyond_maxphyaddr(controls.maxphyaddr);
        Self { geometry: geometry(levels, controls.gib_pages), controls, reserved }
    }

    /// The controls.
    #[must_use]
    pub const fn controls(&self) -> &EptControls {
        &self.controls
    }

    /// The EPT pointer for the tree whose root table stands at `root`: write-back tables, this
    /// format's levels and flags.
    #[must_use]
    pub const fn eptp(&self, root: Hpa) -> Eptp {
        Eptp::new()
            .with_memory_type(MemoryType::WriteBack as u8)
            .with_walk_length(self.geometry.levels() - 1)
            .with_ad(self.controls.accessed_dirty)
            .with_frame((root.get() & address_bits(PAGE_SHIFT)) >> PAGE_SHIFT)
    }

    /// As what access EPT judges a load of a guest's page-table walk: a write where accessed and
    /// dirty flags are on (SDM §29.3.3.2).
    #[must_use]
    pub const fn guest_table_access(&self) -> Access {
        if self.controls.accessed_dirty { Access::WRITE } else { Access::READ }
    }

    /// SDM §29.3.3.1: writable but not readable, or executable but not readable without support for
    /// that.
    #[inline(always)]
    const fn rights_misconfigured(&self, word: u64) -> bool {
        let xu = if self.controls.mode_based_execute { XU.into_bits() } else { 0 };
        let executable = word & (X | xu) != 0;
        word & R == 0 && (word & W != 0 || executable && !self.controls.execute_only)
    }

    /// The right that an access needs.
    #[inline(always)]
    const fn right(&self, access: Access) -> u64 {
        match access.kind {
            AccessKind::Read => R,
            AccessKind::Write => W,
            AccessKind::Fetch
                if self.controls.mode_based_execute
                    && matches!(access.privilege, Privilege::User) =>
            {
                XU.into_bits()
            }
            AccessKind::Fetch => X,
        }
    }

    #[inline(always)]
    const fn is_leaf(&self, word: u64, level: Level) -> bool {
        level.0 == 0 || word & PS != 0
    }
}

impl Format for Ept {
    type Stage = Stage2;
    type Attributes = EptAttributes;
    type Fault = EptFault;
    type Path = EptPath;

    const BYTE_ORDER: ByteOrder = ByteOrder::Little;

    #[inline(always)]
    fn geometry(&self) -> &Geometry {
        self.geometry
    }

    #[inline(always)]
    fn shift(&self, level: u8) -> u8 {
        shift(level)
    }

    #[inline(always)]
    fn entry_offset(&self, level: u8, offset: u64) -> u64 {
        entry_offset(level, offset)
    }

    #[inline(always)]
    fn offset(&self, address: Gpa) -> Option<u64> {
        (address.get() & !self.geometry.address_mask() == 0).then_some(address.get())
    }

    #[inline(always)]
    fn address(&self, offset: u64) -> Gpa {
        Gpa::new(offset)
    }

    #[inline(always)]
    fn decode(&self, word: u64, at: Position) -> EntryOf<Self> {
        if word & self.present_mask() == 0 {
            return Entry::Absent;
        }
        if self.rights_misconfigured(word) || word & self.reserved != 0 {
            return Entry::Malformed;
        }
        if !self.is_leaf(word, at.level) {
            return if word & RESERVED_IN_TABLE == 0 {
                Entry::Table { table: Hpa::new(word & address_bits(PAGE_SHIFT)), width: WIDTH }
            } else {
                Entry::Malformed
            };
        }
        // Bits 20:12 or 29:12 of a huge page.
        let misaligned = low_bits(at.shift) & !low_bits(PAGE_SHIFT);
        match EptAttributes::from_leaf(word) {
            Some(attributes) if self.geometry.is_leaf_level(at.level) && word & misaligned == 0 => {
                Entry::Leaf { output: Hpa::new(word & address_bits(at.shift)), attributes }
            }
            _ => Entry::Malformed,
        }
    }

    /// The common table entry, which allows everything; one that restricts takes the decoder.
    #[inline(always)]
    fn predicted_table(&self, word: u64, at: Position) -> Option<u64> {
        let compared = RIGHTS.into_bits() | RESERVED_IN_TABLE | PS | self.reserved;
        (word & compared == RIGHTS.into_bits() && at.level.0 != 0)
            .then_some(word & address_bits(PAGE_SHIFT))
    }

    #[inline(always)]
    fn quick_table(&self, word: u64, _: Position, access: Access) -> Option<u64> {
        let granted = RIGHTS.into_bits() | self.right(access);
        let compared = granted | RESERVED_IN_TABLE | PS | self.reserved;
        if word & compared == granted { Some(word & address_bits(PAGE_SHIFT)) } else { None }
    }

    /// SDM §29.3.2: XU governs fetches from user-mode linear addresses, X those from
    /// supervisor-mode ones.
    #[inline(always)]
    fn asks_whose_page(&self, access: Access) -> bool {
        self.controls.mode_based_execute && access.kind == AccessKind::Fetch
    }

    /// The exit qualification tells of XU, which table entries need not grant.
    #[inline(always)]
    fn quick_restricts_nothing(&self, _: Access) -> bool {
        !self.controls.mode_based_execute
    }

    /// A readable page: others may be misconfigured.
    #[inline(always)]
    fn quick_page(&self, word: u64, access: Access) -> Option<(Hpa, EptAttributes)> {
        let granted = R | self.right(access);
        if word & (granted | self.reserved) != granted {
            return None;
        }
        Some((Hpa::new(word & address_bits(PAGE_SHIFT)), EptAttributes::from_leaf(word)?))
    }

    /// Readable, and of ordinary memory.
    #[inline(always)]
    fn usual_leaf(&self, at: Position) -> Option<Pattern> {
        const WRITE_BACK: u64 =
            EptPageEntry::new().with_memory_type(MemoryType::WriteBack as u8).into_bits();
        const MEMORY_TYPE: u64 = EptPageEntry::new().with_memory_type(7).into_bits();
        (at.level.0 == 0)
            .then_some(Pattern { compared: R | MEMORY_TYPE | self.reserved, value: R | WRITE_BACK })
    }

    #[inline(always)]
    fn present_mask(&self) -> u64 {
        if self.controls.mode_based_execute { EptPath::COUNTS } else { RIGHTS.into_bits() }
    }

    /// An entry that restricts nothing: the leaf alone decides. It is marked accessed, as the
    /// leaves that software makes are.
    #[inline(always)]
    fn table_word(&self, table: Hpa, width: u8, at: Position) -> Option<u64> {
        let xu = if self.controls.mode_based_execute { XU.into_bits() } else { 0 };
        let entry = RIGHTS.into_bits() | xu | self.accessed_dirty().table;
        let fits = table.get() & !(address_bits(PAGE_SHIFT) & !self.reserved) == 0;
        (fits && width == WIDTH && at.level.0 != 0 && at.level.0 < self.geometry.levels())
            .then_some(entry | table.get())
    }

    #[inline(always)]
    fn leaf_word(&self, attributes: EptAttributes, at: Position) -> Result<u64, Unencodable> {
        let word = attributes.to_leaf(at.level);
        let absent = word & self.present_mask() == 0;
        if absent || self.rights_misconfigured(word) || !self.geometry.is_leaf_level(at.level) {
            return Err(Unencodable { at });
        }
        Ok(word)
    }

    #[inline(always)]
    fn output_mask(&self, at: Position) -> u64 {
        address_bits(at.shift) & !self.reserved
    }

    #[inline(always)]
    fn accessed_dirty(&self) -> AccessedDirty {
        if !self.controls.accessed_dirty {
            return AccessedDirty::default();
        }
        const {
            AccessedDirty {
                accessed: EptPageEntry::new().with_a(true).into_bits(),
                dirty: EptPageEntry::new().with_d(true).into_bits(),
                table: EptTableEntry::new().with_a(true).into_bits(),
            }
        }
    }

    #[inline(always)]
    fn restrict(&self, path: EptPath, word: u64) -> EptPath {
        path.through(word)
    }

    #[inline(always)]
    fn check(&self, word: u64, _: Position, path: EptPath, access: Access) -> Result<(), EptFault> {
        let EptPath { denied } = path.through(word);
        if denied.into_bits() & self.right(access) == 0 {
            return Ok(());
        }
        Err(EptFault::Violation(
            EptViolation::of(access)
                .with_readable(!denied.r())
                .with_writable(!denied.w())
                .with_executable(!denied.x())
                .with_user_executable(self.controls.mode_based_execute && !denied.xu()),
        ))
    }

    #[inline]
    fn guest_table_access(&self) -> Access {
        Self::guest_table_access(self)
    }

    #[inline]
    fn fault_of_guest_table(&self, fault: EptFault) -> EptFault {
        match fault {
            EptFault::Violation(violation) => EptFault::Violation(violation.of_guest_table()),
            EptFault::Misconfiguration => EptFault::Misconfiguration,
        }
    }

    /// An address beyond the tree, like an entry that is not present, is a violation at which
    /// nothing is allowed.
    fn fault(&self, cause: Cause, access: Access) -> EptFault {
        match cause {
            Cause::Malformed => EptFault::Misconfiguration,
            Cause::Address
            | Cause::NotPresent
            | Cause::TableAccess
            | Cause::Contended
            | Cause::Denied => EptFault::Violation(EptViolation::of(access)),
        }
    }
}

#[cfg(test)]
#[path = "ept_tests.rs"]
mod tests;
