//! The first stage: Sv39, Sv48, Sv57 by satp, or by vsatp for a guest.
//!
//! "Sv39: Page-Based 39-bit Virtual-Memory System" and following; "Virtual Address Translation
//! Process".

use pgtable::{
    Access, AccessKind, Bits, ByteOrder, Cause, EntryOf, FirstStage, Format, Geometry, Gpa, Gva,
    Position, Privilege, Shortcuts, Stage1, Unencodable, Words, low_bits,
};

use crate::attributes::PageAttributes;
use crate::controls::{Controls, Mode};
use crate::entry::U;
use crate::exception::Exception;
use crate::registers::Satp;
use crate::tree::{Demand, Loads, Tree, geometry};

/// The tables that satp or vsatp refers to, as a hart in this state reads them.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Sv {
    tree: Tree,
    sum: bool,
    mxr: bool,
    loads: Loads,
}

impl Sv {
    /// Tables of `mode` under `controls`.
    #[must_use]
    pub const fn new(mode: Mode, controls: Controls) -> Self {
        let Controls { sum, mxr, extensions } = controls;
        let loads = if mxr { Loads::ReadableOrExecutable } else { Loads::Readable };
        Self { tree: Tree::new(geometry(mode), mode, extensions), sum, mxr, loads }
    }

    /// The same tables as HLVX reads them: loads need X instead of R, whatever MXR says
    /// ("Hypervisor Virtual-Machine Load and Store Instructions").
    #[must_use]
    pub const fn for_hlvx(self) -> Self {
        Self { loads: Loads::Executable, ..self }
    }

    /// The mode.
    #[must_use]
    pub const fn mode(&self) -> Mode {
        self.tree.mode()
    }

    /// The controls.
    #[must_use]
    pub const fn controls(&self) -> Controls {
        Controls { sum: self.sum, mxr: self.mxr, extensions: self.tree.extensions() }
    }

    /// satp (or vsatp) for the tree whose root table stands at `root`, with this ASID.
    #[must_use]
    pub const fn satp(&self, root: Gpa, asid: u16) -> Satp {
        Satp::of(self.mode(), root, asid)
    }

    #[inline(always)]
    const fn demand(&self, access: Access) -> Demand {
        let demand = self.tree.demand(access.kind, self.loads);
        match (access.privilege, access.kind) {
            (Privilege::User, _) => demand.and(U, 0),
            (Privilege::Supervisor, AccessKind::Read | AccessKind::Write) if self.sum => demand,
            (Privilege::Supervisor, _) => demand.and(0, U),
        }
    }
}

impl Format for Sv {
    type Stage = Stage1;
    type Attributes = PageAttributes;
    type Fault = Exception;
    type Path = ();

    const BYTE_ORDER: ByteOrder = ByteOrder::Little;

    #[inline(always)]
    fn geometry(&self) -> &Geometry {
        self.tree.geometry
    }

    /// The bits above the tree's highest address bit must be equal to it.
    #[inline(always)]
    fn offset(&self, address: Gva) -> Option<u64> {
        let offset = address.get() & low_bits(self.tree.geometry.address_bits());
        (self.address(offset) == address).then_some(offset)
    }

    #[inline(always)]
    fn address(&self, offset: u64) -> Gva {
        let unused = 64 - self.tree.geometry.address_bits();
        Gva::new(((offset << unused) as i64 >> unused) as u64)
    }

    #[inline(always)]
    fn decode(&self, word: u64, at: Position) -> EntryOf<Self> {
        self.tree.decode(word, at)
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
        Tree::bits()
    }

    #[inline(always)]
    fn restrict(&self, (): (), _: u64, _: Position) {}

    #[inline(always)]
    fn check(&self, word: u64, _: Position, (): (), access: Access) -> Result<(), Exception> {
        if self.demand(access).is_met_by(word) {
            Ok(())
        } else {
            Err(Exception::LoadPageFault.with_kind(access.kind))
        }
    }

    /// An address that is not sign-extended is a page fault; a table that cannot be read is an
    /// access fault, like memory itself.
    fn fault(&self, cause: Cause, access: Access, _: Option<Position>, _: u64) -> Exception {
        Exception::of(cause, access.kind, Exception::LoadPageFault)
    }

    #[inline(always)]
    fn shortcuts(&self, access: Option<Access>) -> Option<Shortcuts> {
        Some(self.tree.shortcuts(access.map(|access| self.demand(access))))
    }
}

impl FirstStage for Sv {}
