//! The guest stage: Sv39x4, Sv48x4, Sv57x4 by hgatp.
//!
//! "Guest Physical Address Translation".

use pgtable::{
    Access, AccessKind, Bits, ByteOrder, Cause, EntryOf, Format, Geometry, Gpa, Hpa, Position,
    Privilege, SecondStage, Shortcuts, Stage2, Unencodable, Words,
};

use crate::attributes::GuestAttributes;
use crate::controls::{GuestControls, Mode};
use crate::entry::U;
use crate::exception::Exception;
use crate::registers::Hgatp;
use crate::tree::{Demand, Loads, Tree, geometry_x4};

/// The tables that hgatp refers to, as a hart in this state reads them.
///
/// Every access counts as one of user mode. The privilege of an [`Access`] therefore says something
/// else here: a supervisor's load is an *implicit* load, as of a guest's table, to which MXR does
/// not apply, and a user's load is the guest's own, whichever mode the guest is in.
/// [`TwoStage`](pgtable::TwoStage) asks so by itself. Without MXR there is no difference.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SvX4 {
    tree: Tree,
    mxr: bool,
    /// How the guest's own loads are judged.
    loads: Loads,
}

impl SvX4 {
    /// Tables of `mode` (Sv39 means Sv39x4) under `controls`.
    #[must_use]
    pub const fn new(mode: Mode, controls: GuestControls) -> Self {
        let GuestControls { mxr, extensions } = controls;
        let loads = if mxr { Loads::ReadableOrExecutable } else { Loads::Readable };
        Self { tree: Tree::new(geometry_x4(mode), mode, extensions), mxr, loads }
    }

    /// The same tables as HLVX reads them: [`Sv::for_hlvx`](crate::Sv::for_hlvx).
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
    pub const fn controls(&self) -> GuestControls {
        GuestControls { mxr: self.mxr, extensions: self.tree.extensions() }
    }

    /// hgatp for the tree whose root table stands at `root`, with this VMID.
    #[must_use]
    pub const fn hgatp(&self, root: Hpa, vmid: u16) -> Hgatp {
        Hgatp::of(self.mode(), root, vmid)
    }

    #[inline(always)]
    const fn demand(&self, access: Access) -> Demand {
        let loads = match access.privilege {
            Privilege::User => self.loads,
            Privilege::Supervisor => Loads::Readable,
        };
        self.tree.demand(access.kind, loads).and(U, 0)
    }
}

impl Format for SvX4 {
    type Stage = Stage2;
    type Attributes = GuestAttributes;
    type Fault = Exception;
    type Path = ();

    const BYTE_ORDER: ByteOrder = ByteOrder::Little;

    #[inline(always)]
    fn geometry(&self) -> &Geometry {
        self.tree.geometry
    }

    /// The bits above the tree's highest address bit must be zero.
    #[inline(always)]
    fn offset(&self, address: Gpa) -> Option<u64> {
        (address.get() & !self.tree.geometry.address_mask() == 0).then_some(address.get())
    }

    #[inline(always)]
    fn address(&self, offset: u64) -> Gpa {
        Gpa::new(offset)
    }

    #[inline(always)]
    fn decode(&self, word: u64, at: Position) -> EntryOf<Self> {
        self.tree.decode(word, at)
    }

    #[inline(always)]
    fn leaves(
        &self,
        output: Hpa,
        attributes: GuestAttributes,
        at: Position,
    ) -> Result<Words, Unencodable> {
        self.tree.leaves(output.get(), attributes, at)
    }

    #[inline(always)]
    fn table(&self, table: Hpa, width: u8, at: Position) -> Result<u64, Unencodable> {
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
            Err(Exception::LoadGuestPageFault.with_kind(access.kind))
        }
    }

    fn fault(&self, cause: Cause, access: Access, _: Option<Position>, _: u64) -> Exception {
        Exception::of(cause, access.kind, Exception::LoadGuestPageFault)
    }

    #[inline(always)]
    fn shortcuts(&self, access: Option<Access>) -> Option<Shortcuts> {
        Some(self.tree.shortcuts(access.map(|access| self.demand(access))))
    }
}

impl SecondStage for SvX4 {
    /// Where the guest's own loads are judged otherwise than implicit ones: under MXR and for HLVX.
    #[inline(always)]
    fn asks_whose_page(&self, access: Access) -> bool {
        !matches!(self.loads, Loads::Readable) && matches!(access.kind, AccessKind::Read)
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
