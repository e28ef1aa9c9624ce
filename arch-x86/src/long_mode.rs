//! Stage 1: 4-level and 5-level paging (SDM §4.5 to §4.7; APM §5.3 to §5.6).

use core::sync::atomic::AtomicU64;

use pgtable::{
    Access, AccessKind, Bits, ByteOrder, Cause, EntryOf, FirstStage, Format, Geometry, Gpa, Gva,
    Position, Privilege, Shortcuts, Stage1, Unencodable, Words, low_bits,
};

use crate::attributes::PageAttributes;
use crate::controls::{Controls, Levels};
use crate::entry::{PageEntry, TableEntry};
use crate::page_fault::{LongModeFault, PageFaultCode};
use crate::registers::{Cr0, Cr3, Cr4, Efer, Registers};
use crate::tree::{Demand, Path, SupervisorMode, Tree};

/// The tables that a 64-bit guest's CR3 refers to, as a processor with these [`Controls`] reads
/// them.
///
/// Order of checks: canonical address; then, level by level from the root, P and reserved bits;
/// then, at the leaf, the rights that all entries of the way grant together, and the protection
/// key.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct LongMode {
    tree: Tree,
    controls: Controls,
    /// What `controls` say of each access, so that a walk has it in a load: of supervisor mode, and
    /// whether protection keys are on.
    supervisor: SupervisorMode,
    keys: bool,
    /// The address bits that index the tree, and those that do not.
    within: u64,
    beyond: u64,
    /// Half of what the tree covers.
    half: u64,
}

impl LongMode {
    /// Tables of `levels` levels under `controls`.
    #[must_use]
    pub const fn new(levels: Levels, controls: Controls) -> Self {
        let Controls { gib_pages, nxe, maxphyaddr, amd, wp, smep, smap, ac, .. } = controls;
        let tree = Tree::new(levels, gib_pages, nxe, maxphyaddr, amd);
        let address_mask = tree.geometry.address_mask();
        let supervisor = tree.supervisor_mode(wp, smap && !ac, smep);
        let (keys, half) = (controls.any_keys(), (address_mask >> 1) + 1);
        Self { tree, controls, supervisor, keys, within: address_mask, beyond: !address_mask, half }
    }

    /// The same tables, whose entries for tables have the bits of `entry`: R/W, U/S, A, PWT, PCD,
    /// XD and the ignored bits. P, PS and the address are set as they have to be. By default R/W,
    /// U/S and A are set, so the leaf alone decides.
    ///
    /// For images that are compared bit by bit: a VMM that writes `P | R/W` passes
    /// `TableEntry::new().with_rw(true)`.
    #[must_use]
    pub const fn with_table_entry(self, entry: TableEntry) -> Self {
        Self { tree: self.tree.with_table_entry(entry), ..self }
    }

    /// The controls.
    #[must_use]
    pub const fn controls(&self) -> &Controls {
        &self.controls
    }

    /// How many levels there are.
    #[must_use]
    pub const fn levels(&self) -> Levels {
        if self.tree.five { Levels::Five } else { Levels::Four }
    }

    /// CR3 for the tree whose root table stands at `root`, and the bits of CR0, CR4 and EFER that a
    /// vCPU needs for it. What else these registers hold is not this crate's affair.
    #[must_use]
    pub const fn registers(&self, root: Gpa) -> Registers {
        let Controls { wp, smep, smap, nxe, pke, pks, .. } = self.controls;
        Registers {
            cr0: Cr0::new().with_pe(true).with_pg(true).with_wp(wp),
            cr3: Cr3::of(root),
            cr4: Cr4::new()
                .with_pae(true)
                .with_la57(matches!(self.levels(), Levels::Five))
                .with_smep(smep)
                .with_smap(smap)
                .with_pke(pke)
                .with_pks(pks),
            efer: Efer::new().with_lme(true).with_lma(true).with_nxe(nxe),
        }
    }

    /// `offset`, with the bits above the tree's address bits equal to the highest of them.
    #[inline(always)]
    const fn sign_extended(&self, offset: u64) -> u64 {
        let unused = 64 - self.tree.geometry.address_bits();
        ((offset << unused) as i64 >> unused) as u64
    }

    /// What an access demands of a page (SDM §4.6.1), protection keys left out.
    #[inline(always)]
    const fn demand(&self, access: Access) -> Demand {
        let write = matches!(access.kind, AccessKind::Write);
        let fetch = matches!(access.kind, AccessKind::Fetch);
        match access.privilege {
            Privilege::User => self.tree.user_mode(write, fetch),
            Privilege::Supervisor => self.supervisor.demand(write, fetch),
        }
    }

    /// Whether the protection key of the leaf `word` forbids an access.
    const fn key_denies(&self, word: u64, path: Path, access: Access) -> bool {
        let key = PageEntry::from_bits(word).protection_key();
        let user_access = matches!(access.privilege, Privilege::User);
        self.controls.key_denies(key, path.is_user_mode(), user_access, access.kind)
    }

    /// The error code's bits that say what the access was.
    const fn code(&self, access: Access) -> PageFaultCode {
        PageFaultCode::of(access, self.controls.nxe || self.controls.smep)
    }
}

impl Format for LongMode {
    type Stage = Stage1;
    type Attributes = PageAttributes;
    type Fault = LongModeFault;
    type Path = Path;
    type Word = AtomicU64;

    const BYTE_ORDER: ByteOrder = ByteOrder::Little;

    #[inline(always)]
    fn geometry(&self) -> &Geometry {
        self.tree.geometry
    }

    #[inline(always)]
    fn offset(&self, address: Gva) -> Option<u64> {
        // Half the tree's reach further, the canonical addresses are those below all of it.
        if address.get().wrapping_add(self.half) & self.beyond != 0 {
            return None;
        }
        // The lower bits index the tree whatever its levels: where only they count, nothing is
        // left of this mask.
        Some(address.get() & (self.within | low_bits(48)))
    }

    #[inline(always)]
    fn address(&self, offset: u64) -> Gva {
        Gva::new(self.sign_extended(offset))
    }

    #[inline(always)]
    fn decode(&self, word: u64, at: Position) -> EntryOf<Self> {
        self.tree.decode(word, at, |attributes| attributes)
    }

    #[inline(always)]
    fn leaves(
        &self,
        output: Gpa,
        attributes: PageAttributes,
        at: Position,
    ) -> Result<Words, Unencodable> {
        self.tree.leaves(output.get(), attributes, at)
    }

    #[inline(always)]
    fn table(&self, table: Gpa, width: u8, at: Position) -> Result<u64, Unencodable> {
        self.tree.table(table.get(), width, at)
    }

    #[inline(always)]
    fn bits(&self, _: Position) -> Bits {
        self.tree.bits()
    }

    #[inline(always)]
    fn restrict(&self, path: Path, word: u64, _: Position) -> Path {
        path.through(word)
    }

    #[inline(always)]
    fn check(
        &self,
        word: u64,
        _: Position,
        path: Path,
        access: Access,
    ) -> Result<(), LongModeFault> {
        let path = path.through(word);
        let allowed = path.meets(self.demand(access));
        let denied_by_key = self.keys && self.key_denies(word, path, access);
        if allowed && !denied_by_key {
            return Ok(());
        }
        Err(LongModeFault::PageFault(
            self.code(access).because(Cause::Denied).with_pk(denied_by_key),
        ))
    }

    fn fault(&self, cause: Cause, access: Access, _: Option<Position>, _: u64) -> LongModeFault {
        match cause {
            Cause::Address => LongModeFault::GeneralProtection,
            _ => LongModeFault::PageFault(self.code(access).because(cause)),
        }
    }

    /// Where protection keys are in use, which kind of key a page has depends on all entries of the
    /// way.
    #[inline(always)]
    fn shortcuts(&self, access: Option<Access>) -> Option<Shortcuts> {
        match access {
            None => Some(self.tree.shortcuts(None)),
            Some(_) if self.keys => None,
            Some(access) => Some(self.tree.shortcuts(Some(self.demand(access)))),
        }
    }
}

impl FirstStage for LongMode {
    fn is_user_page(&self, word: u64, _: Position, path: Path) -> bool {
        path.through(word).is_user_mode()
    }
}

#[cfg(test)]
#[path = "long_mode_tests.rs"]
mod tests;
