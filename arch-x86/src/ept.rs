//! Stage 2 on Intel: the extended page-table mechanism (SDM §29.3).

use core::sync::atomic::AtomicU64;

use pgtable::format::{
    Bits, ByteOrder, Entry, EntryOf, Format, Geometry, Pattern, Record, SecondStage, Shortcuts,
    Unencodable, Words,
};
use pgtable::{
    Access, AccessKind, Cause, Gpa, Hpa, Level, Position, Privilege, Prot, Stage2, low_bits,
};

use crate::controls::Levels;
use crate::ept_attributes::EptAttributes;
use crate::ept_controls::EptControls;
use crate::ept_entry::{EptPageEntry, EptTableEntry, Eptp, MemoryType};
use crate::ept_fault::{EptFault, EptViolation};
use crate::shape::{
    PAGE_SHIFT, WIDTH, address_bits, beyond_maxphyaddr, geometry, shortcuts, words,
};

const RIGHTS: EptTableEntry = EptTableEntry::new().with_r(true).with_w(true).with_x(true);
const XU: EptTableEntry = EptTableEntry::new().with_xu(true);
const RESERVED_IN_TABLE: u64 = EptTableEntry::new().with_reserved(0xf).into_bits();
const PS: u64 = EptTableEntry::new().with_ps(true).into_bits();
const R: u64 = EptTableEntry::new().with_r(true).into_bits();
const W: u64 = EptTableEntry::new().with_w(true).into_bits();
const X: u64 = EptTableEntry::new().with_x(true).into_bits();
const SHADOW_STACK: u64 = EptPageEntry::new().with_supervisor_shadow_stack(true).into_bits();

/// What the entries on the way to an EPT page deny. Each right has to be granted by all of them. A
/// bit that is set was clear in some entry.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct EptPath {
    denied: EptTableEntry,
}

impl EptPath {
    /// The path, continued through the entry `word`, whether it is a table's or a leaf. Only the
    /// bits in `rights` count.
    #[inline(always)]
    const fn through(self, word: u64, rights: u64) -> Self {
        Self { denied: EptTableEntry::from_bits(self.denied.into_bits() | !word & rights) }
    }
}

/// The tables that an EPT pointer refers to, as a processor in this state reads them.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Ept {
    geometry: &'static Geometry,
    five: bool,
    controls: EptControls,
    /// Bits that a guest-physical address must have.
    required: u64,
    /// Bits that it must have, or must not have.
    checked: u64,
    /// Bits that are reserved in every entry.
    reserved: u64,
    /// The bits of a page's number in the entries that have none of these set.
    frames: u64,
    /// Entries that refer to tables, their address left out.
    table: EptTableEntry,
}

impl Ept {
    /// Tables of `levels` levels under `controls`.
    #[must_use]
    pub const fn new(levels: Levels, controls: EptControls) -> Self {
        let reserved = beyond_maxphyaddr(controls.maxphyaddr);
        let geometry = geometry(levels, controls.gib_pages);
        Self {
            geometry,
            five: matches!(levels, Levels::Five),
            controls,
            required: 0,
            checked: !geometry.address_mask(),
            reserved,
            frames: (address_bits(PAGE_SHIFT) & !reserved) >> PAGE_SHIFT,
            // They restrict nothing: the leaf alone decides. They are marked accessed, as the
            // leaves that software makes are.
            table: RIGHTS.with_xu(controls.mode_based_execute).with_a(controls.accessed_dirty),
        }
    }

    /// The same tables, whose entries for tables have the bits of `entry`: rights, A and the
    /// ignored bits. The reserved bits and the address are set as they have to be. By default they
    /// grant everything and, where there are accessed flags, A is set.
    ///
    /// A walk decodes entries that do not grant reads, writes and fetches alike; they cost it time.
    #[must_use]
    pub const fn with_table_entry(self, entry: EptTableEntry) -> Self {
        Self { table: entry.with_reserved(0).with_ps(false).with_frame(0), ..self }
    }

    /// The tree of a TDX guest's shared memory: that of the VMCS's shared EPT pointer. The
    /// processor walks it for guest-physical addresses that have the shared bit (bit 47 or 51), by
    /// all of their bits, and the secure EPT for others. So addresses without it do not belong to
    /// this tree; [`Privacy::Shared`](crate::Privacy::Shared) takes the bit on and off.
    ///
    /// # Panics
    /// In a constant, at compile time: if the tree's addresses have no such bit.
    #[must_use]
    pub const fn with_shared_bit(self, bit: u8) -> Self {
        assert!(bit < self.geometry.address_bits(), "a bit of the tree's addresses");
        let required = 1 << bit;
        Self { required, checked: !self.geometry.address_mask() | required, ..self }
    }

    /// The rights that an entry can grant. One that grants none is absent.
    #[inline(always)]
    const fn present(&self) -> u64 {
        let xu = if self.controls.mode_based_execute { XU.into_bits() } else { 0 };
        RIGHTS.into_bits() | xu
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
            .with_sss(self.controls.supervisor_shadow_stack)
            .with_frame((root.get() & address_bits(PAGE_SHIFT)) >> PAGE_SHIFT)
    }

    /// As what access EPT judges a load of a guest's page-table walk: a write where accessed and
    /// dirty flags are on (SDM §29.3.3.2).
    #[must_use]
    pub const fn guest_table_access(&self) -> Access {
        let access = if self.controls.accessed_dirty { Access::WRITE } else { Access::READ };
        // Never a supervisor's shadow-stack access.
        if self.controls.shadow_stack { access.by_user() } else { access }
    }

    /// Whether `access` is a shadow-stack access. A fetch never is.
    #[inline(always)]
    const fn is_shadow_stack(&self, access: Access) -> bool {
        self.controls.shadow_stack && !matches!(access.kind, AccessKind::Fetch)
    }

    /// Whether the leaf `word`, reached by `path`, allows `access`, all entries together denying
    /// `denied`.
    #[inline(always)]
    const fn allows(&self, word: u64, path: EptPath, denied: u64, access: Access) -> bool {
        let supervisor = matches!(access.privilege, Privilege::Supervisor);
        if self.controls.supervisor_shadow_stack && supervisor && self.is_shadow_stack(access) {
            let needed = R | SHADOW_STACK;
            return path.denied.into_bits() & (R | W) == 0 && word & needed == needed;
        }
        denied & self.right(access) == 0
    }

    /// The violation of `access`, of which nothing else is known.
    const fn violation(&self, access: Access) -> EptViolation {
        EptViolation::of(access).with_shadow_stack(self.is_shadow_stack(access))
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
    type Word = AtomicU64;

    const BYTE_ORDER: ByteOrder = ByteOrder::Little;

    #[inline(always)]
    fn geometry(&self) -> &Geometry {
        self.geometry
    }

    #[inline(always)]
    fn offset(&self, address: Gpa) -> Option<u64> {
        ((address.get() ^ self.required) & self.checked == 0)
            .then_some(address.get() & self.geometry.address_mask())
    }

    #[inline(always)]
    fn address(&self, offset: u64) -> Gpa {
        Gpa::new(offset)
    }

    #[inline(always)]
    fn decode(&self, word: u64, at: Position) -> EntryOf<Self> {
        if word & self.present() == 0 {
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

    #[inline(always)]
    fn leaves(
        &self,
        output: Hpa,
        attributes: EptAttributes,
        at: Position,
    ) -> Result<Words, Unencodable> {
        let word = attributes.to_leaf(at.level);
        let absent = word & self.present() == 0;
        if absent
            || self.rights_misconfigured(word)
            || !self.geometry.is_leaf_level(at.level)
            || output.get() & !(address_bits(at.shift) & !self.reserved) != 0
        {
            return Err(Unencodable { at });
        }
        Ok(words(word, output.get(), at.shift, low_bits(self.controls.maxphyaddr)))
    }

    #[inline(always)]
    fn table(&self, table: Hpa, width: u8, at: Position) -> Result<u64, Unencodable> {
        let entry = self.table.into_bits();
        let fits = table.get() & !(address_bits(PAGE_SHIFT) & !self.reserved) == 0
            && entry & self.present() != 0
            && !self.rights_misconfigured(entry);
        if fits && width == WIDTH && at.level.0 != 0 && at.level.0 < self.geometry.levels() {
            Ok(entry | table.get())
        } else {
            Err(Unencodable { at })
        }
    }

    /// A processor may use a leaf as it was until INVEPT, and no change of bits other than address
    /// and size is worse than that (SDM §29.4.3.3).
    #[inline(always)]
    fn bits(&self, _: Position) -> Bits {
        let recorded = |mask| if self.controls.accessed_dirty { mask } else { 0 };
        Bits {
            present: self.present(),
            accessed: Record::set(recorded(const { EptPageEntry::new().with_a(true).into_bits() })),
            dirty: Record::set(recorded(const { EptPageEntry::new().with_d(true).into_bits() })),
            table: Record::set(recorded(const { EptTableEntry::new().with_a(true).into_bits() })),
            in_place: u64::MAX,
        }
    }

    #[inline(always)]
    fn restrict(&self, path: EptPath, word: u64, _: Position) -> EptPath {
        path.through(word, self.present())
    }

    #[inline(always)]
    fn check(&self, word: u64, _: Position, path: EptPath, access: Access) -> Result<(), EptFault> {
        let EptPath { denied } = path.through(word, self.present());
        if self.allows(word, path, denied.into_bits(), access) {
            return Ok(());
        }
        let marked = self.controls.supervisor_shadow_stack && word & SHADOW_STACK != 0;
        Err(EptFault::Violation(
            self.violation(access)
                .with_supervisor_shadow_stack(marked)
                .with_readable(!denied.r())
                .with_writable(!denied.w())
                .with_executable(!denied.x())
                .with_user_executable(self.controls.mode_based_execute && !denied.xu()),
        ))
    }

    /// An address beyond the tree, like an entry that is not present, is a violation at which
    /// nothing is allowed.
    fn fault(&self, cause: Cause, access: Access, _: Option<Position>, _: u64) -> EptFault {
        match cause {
            Cause::Malformed => EptFault::Misconfiguration,
            Cause::Address
            | Cause::NotPresent
            | Cause::TableAccess
            | Cause::Contended
            | Cause::Denied => EptFault::Violation(self.violation(access)),
        }
    }

    /// Tables that allow reads, writes and fetches; readable pages of ordinary memory. Others may
    /// be misconfigured.
    #[inline(always)]
    fn shortcuts(&self, access: Option<Access>) -> Option<Shortcuts> {
        const WRITE_BACK: u64 =
            EptPageEntry::new().with_memory_type(MemoryType::WriteBack as u8).into_bits();
        const MEMORY_TYPE: u64 = EptPageEntry::new().with_memory_type(7).into_bits();
        let right = match access {
            // Two kinds of pages allow them.
            Some(access) if self.is_shadow_stack(access) => return None,
            Some(access) => self.right(access),
            None => 0,
        };
        let tables = Pattern::all_set(RIGHTS.into_bits() | right)
            .without(RESERVED_IN_TABLE | PS | self.reserved);
        let page = Pattern {
            compared: R | right | MEMORY_TYPE | self.reserved,
            value: R | right | WRITE_BACK,
        };
        Some(shortcuts(self.five, tables, page, self.frames))
    }
}

impl SecondStage for Ept {
    /// An EPT violation invalidates the mappings that would be used to translate its guest-physical
    /// address (SDM vol. 3, "Operations that Invalidate Cached Mappings").
    #[inline]
    fn keeps_refusals(&self) -> bool {
        false
    }

    /// SDM §29.3.2: XU governs fetches from user-mode linear addresses, X those from
    /// supervisor-mode ones.
    #[inline(always)]
    fn asks_whose_page(&self, access: Access) -> bool {
        self.controls.mode_based_execute && access.kind == AccessKind::Fetch
    }

    #[inline]
    fn guest_table_access(&self) -> Access {
        Self::guest_table_access(self)
    }

    /// SDM §29.3.3.2: to update a guest's accessed and dirty flags is a data write. Where EPT has
    /// such flags too, the loads are writes already.
    #[inline(always)]
    fn guest_table_update(&self) -> Option<Access> {
        if self.controls.accessed_dirty { None } else { Some(Access::WRITE.by_user()) }
    }

    /// SDM §28.2.1, bits 11:9, where there is advanced information.
    fn fault_of_page(&self, fault: EptFault, rights: Prot) -> EptFault {
        match fault {
            EptFault::Violation(violation) if self.controls.advanced_information => {
                EptFault::Violation(violation.of_page(rights))
            }
            fault => fault,
        }
    }

    #[inline]
    fn fault_of_guest_table(&self, fault: EptFault, _: Access) -> EptFault {
        match fault {
            EptFault::Violation(violation) => EptFault::Violation(violation.of_guest_table()),
            EptFault::Misconfiguration => EptFault::Misconfiguration,
        }
    }
}

#[cfg(test)]
#[path = "ept_tests.rs"]
mod tests;
