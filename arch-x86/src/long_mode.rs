//! Stage 1: 4-level and 5-level paging (SDM §4.5 to §4.7; APM §5.3 to §5.6).

use core::sync::atomic::AtomicU64;

use pgtable::format::{
    Bits, ByteOrder, EntryOf, FirstStage, Format, Geometry, Shortcuts, Unencodable, Words,
};
use pgtable::{Access, Cause, Gpa, Gva, Position, Prot, Stage1, low_bits};

use crate::attributes::PageAttributes;
use crate::controls::{Controls, Levels};
use crate::entry::TableEntry;
use crate::page_fault::LongModeFault;
use crate::registers::{Cr0, Cr3, Cr4, Efer, Registers};
use crate::rights::{Judge, rights};
use crate::tree::{Path, Tree};

/// The tables that a 64-bit guest's CR3 refers to, as a processor with these [`Controls`] reads
/// them.
///
/// Order of checks: canonical address; then, level by level from the root, P and reserved bits;
/// then, at the leaf, the rights that all entries of the way grant together, and the protection
/// key.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct LongMode {
    tree: Tree,
    judge: Judge,
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
        let Controls { gib_pages, nxe, maxphyaddr, amd, privacy, .. } = controls;
        let tree = Tree::new(levels, gib_pages, nxe, maxphyaddr, amd, privacy);
        let address_mask = tree.geometry.address_mask();
        let (judge, half) = (Judge::new(controls, &tree), (address_mask >> 1) + 1);
        Self { tree, judge, within: address_mask, beyond: !address_mask, half }
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

    /// The same tables, whose entries for tables, and CR3, say that these are private (or not),
    /// where the controls' `privacy` has a bit for that. By default they are private.
    #[must_use]
    pub const fn with_private_tables(self, private: bool) -> Self {
        Self { tree: self.tree.with_private_tables(private), ..self }
    }

    /// The controls.
    #[must_use]
    pub const fn controls(&self) -> &Controls {
        self.judge.controls()
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
        let &Controls { wp, smep, smap, nxe, pke, pks, cet, .. } = self.controls();
        Registers {
            cr0: Cr0::new().with_pe(true).with_pg(true).with_wp(wp),
            cr3: Cr3::of(Gpa::new(self.tree.root(root.get()))),
            cr4: Cr4::new()
                .with_pae(true)
                .with_la57(matches!(self.levels(), Levels::Five))
                .with_smep(smep)
                .with_smap(smap)
                .with_pke(pke)
                .with_pks(pks)
                .with_cet(cet),
            efer: Efer::new().with_lme(true).with_lma(true).with_nxe(nxe),
        }
    }

    /// `offset`, with the bits above the tree's address bits equal to the highest of them.
    #[inline(always)]
    const fn sign_extended(&self, offset: u64) -> u64 {
        let unused = 64 - self.tree.geometry.address_bits();
        ((offset << unused) as i64 >> unused) as u64
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
        self.judge.check(&self.tree, word, path, access)
    }

    fn fault(&self, cause: Cause, access: Access, _: Option<Position>, _: u64) -> LongModeFault {
        self.judge.fault(cause, access)
    }

    /// Where protection keys are in use, which kind of key a page has depends on all entries of the
    /// way; so does whether a page is a shadow stack.
    #[inline(always)]
    fn shortcuts(&self, access: Option<Access>) -> Option<Shortcuts> {
        match access {
            None => Some(self.tree.shortcuts(None)),
            Some(_) if !self.judge.is_plain() => None,
            Some(access) => Some(self.tree.shortcuts(Some(self.judge.demand(&self.tree, access)))),
        }
    }
}

impl FirstStage for LongMode {
    fn is_user_page(&self, word: u64, _: Position, path: Path) -> bool {
        path.through(word).is_user_mode()
    }

    fn rights(&self, word: u64, _: Position, path: Path) -> Prot {
        rights(word, path)
    }
}

#[cfg(test)]
#[path = "long_mode_tests.rs"]
mod tests;
