//! Stage 1: 4-level and 5-level paging (SDM §4.5 to §4.7; APM §5.3 to §5.6).

use pgtable::{
    Access, AccessKind, AccessedDirty, ByteOrder, Cause, EntryOf, Format, Geometry, Gpa, Gva,
    Pattern, Position, Privilege, Stage1, Unencodable,
};

use crate::attributes::PageAttributes;
use crate::controls::{Controls, Levels};
use crate::entry::PageEntry;
use crate::page_fault::{LongModeFault, PageFaultCode};
use crate::registers::{Cr0, Cr3, Cr4, Efer, Registers};
use crate::shape::{entry_offset, shift};
use crate::tree::{Demand, Path, Tree};

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
    /// The address bits that index the tree.
    address_mask: u64,
}

impl LongMode {
    /// Tables of `levels` levels under `controls`.
    #[must_use]
    pub const fn new(levels: Levels, controls: Controls) -> Self {
        let Controls { gib_pages, nxe, maxphyaddr, amd, .. } = controls;
        let tree = Tree::new(levels, gib_pages, nxe, maxphyaddr, amd);
        Self { tree, controls, address_mask: tree.geometry.address_mask() }
    }

    /// The controls.
    #[must_use]
    pub const fn controls(&self) -> &Controls {
        &self.controls
    }

    /// How many levels there are.
    #[must_use]
    pub const fn levels(&self) -> Levels {
        if self.tree.geometry.levels() == 5 { Levels::Five } else { Levels::Four }
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
        let Controls { wp, smep, smap, ac, .. } = self.controls;
        let write = matches!(access.kind, AccessKind::Write);
        let fetch = matches!(access.kind, AccessKind::Fetch);
        match access.privilege {
            Privilege::User => Demand::user_mode(write, fetch),
            Privilege::Supervisor => {
                let no_user = if fetch { smep } else { smap && !ac };
                Demand::supervisor_mode(write && wp, fetch, no_user)
            }
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

    const BYTE_ORDER: ByteOrder = ByteOrder::Little;

    #[inline(always)]
    fn geometry(&self) -> &Geometry {
        self.tree.geometry
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
    fn offset(&self, address: Gva) -> Option<u64> {
        // Half the tree's reach further, the canonical addresses are those below all of it.
        let canonical =
            address.get().wrapping_add((self.address_mask >> 1) + 1) & !self.address_mask == 0;
        canonical.then_some(address.get() & self.address_mask)
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
    fn predicted_table(&self, word: u64, at: Position) -> Option<u64> {
        self.tree.predicted_table(word, at)
    }

    #[inline(always)]
    fn quick_table(&self, word: u64, _: Position, access: Access) -> Option<u64> {
        self.tree.quick_table(word, self.demand(access))
    }

    /// Where user-mode addresses are forbidden, or have keys of their own, each entry of the way
    /// may be the one that makes it another.
    #[inline(always)]
    fn quick_restricts_nothing(&self, access: Access) -> bool {
        !self.demand(access).forbids_user_mode() && !self.controls.any_keys()
    }

    /// Where protection keys are in use, whose key a page has depends on all entries of the way.
    #[inline(always)]
    fn quick_page(&self, word: u64, access: Access) -> Option<(Gpa, PageAttributes)> {
        if self.controls.any_keys() {
            return None;
        }
        self.tree
            .quick_page(word, self.demand(access))
            .map(|(page, attributes)| (Gpa::new(page), attributes))
    }

    #[inline(always)]
    fn usual_leaf(&self, at: Position) -> Option<Pattern> {
        self.tree.usual_leaf(at)
    }

    #[inline(always)]
    fn present_mask(&self) -> u64 {
        self.tree.present_mask()
    }

    #[inline(always)]
    fn table_word(&self, table: Gpa, width: u8, at: Position) -> Option<u64> {
        self.tree.table_word(table.get(), width, at)
    }

    #[inline(always)]
    fn leaf_word(&self, attributes: PageAttributes, at: Position) -> Result<u64, Unencodable> {
        self.tree.leaf_word(attributes, at)
    }

    #[inline(always)]
    fn output_mask(&self, at: Position) -> u64 {
        self.tree.output_mask(at)
    }

    #[inline(always)]
    fn accessed_dirty(&self) -> AccessedDirty {
        self.tree.accessed_dirty()
    }

    #[inline(always)]
    fn restrict(&self, path: Path, word: u64) -> Path {
        path.through(word)
    }

    fn is_user_page(&self, word: u64, path: Path) -> bool {
        path.through(word).is_user_mode()
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
        let denied_by_key = self.controls.any_keys() && self.key_denies(word, path, access);
        if allowed && !denied_by_key {
            return Ok(());
        }
        Err(LongModeFault::PageFault(
            self.code(access).because(Cause::Denied).with_pk(denied_by_key),
        ))
    }

    fn fault(&self, cause: Cause, access: Access) -> LongModeFault {
        match cause {
            Cause::Address => LongModeFault::GeneralProtection,
            _ => LongModeFault::PageFault(self.code(access).because(cause)),
        }
    }
}

#[cfg(test)]
#[path = "long_mode_tests.rs"]
mod tests;
