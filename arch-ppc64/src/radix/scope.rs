//! The two scopes of radix translation, as the stages that they are: what differs between
//! process-scoped trees (`Gva → Gpa`, a guest's own) and partition-scoped ones (`Gpa → Hpa`, the
//! hypervisor's). All else is [`Radix`](super::Radix).

use core::fmt::Debug;

use pgtable::{Access, AccessKind, Gpa, Gva, Privilege, Stage, Stage1, Stage2};

use super::entry::Pte;
use super::geometry::ADDRESS_BITS;
use super::policy::{Amr, Iamr, Quadrants, Strictness, TableFault};
use super::tlbie::Rs;
use crate::interrupt::{Interrupt, Status, Vector};

mod sealed {
    pub trait Sealed {}
    impl Sealed for pgtable::Stage1 {}
    impl Sealed for pgtable::Stage2 {}
}

/// A scope of radix translation: [`Stage1`] is process-scoped, [`Stage2`] partition-scoped.
pub trait Scope: Stage + Copy + Eq + Debug + Send + Sync + sealed::Sealed {
    /// What only this scope's trees are controlled by.
    type Controls: Copy + Eq + Default + Debug + Send + Sync + 'static;

    /// The interrupt of a data access that does not translate.
    const DATA: Vector;
    /// The interrupt of a fetch that does not translate.
    const FETCH: Vector;

    /// Whether invalidations are process-scoped (PRS).
    const PROCESS_SCOPED: bool;
    /// The IH of the `slbia` that drops this scope's effective-to-real translations: Linux's
    /// `PPC_RADIX_INVALIDATE_ERAT_USER` and `…_GUEST`.
    const SLBIA: u8;

    /// The process, or partition, 0 in the place of `whose`.
    fn nobody(whose: Rs) -> Rs;

    /// See [`pgtable::format::Format::offset`].
    fn offset(controls: &Self::Controls, address: Self::Input) -> Option<u64>;

    /// See [`pgtable::format::Format::address`].
    fn address(controls: &Self::Controls, offset: u64) -> Self::Input;

    /// Whether the authority of the leaf `word` allows `access`, as `strictness` reads it.
    fn allows(controls: &Self::Controls, strictness: Strictness, word: u64, access: Access)
    -> bool;

    /// Whether a page has to be privileged (or must not be) to certainly allow `access`; `None` if
    /// that does not matter.
    fn privileged(controls: &Self::Controls, access: Access) -> Option<bool>;

    /// The interrupt for an address that is none of the scope's.
    fn address_fault(access: Access) -> Interrupt;

    /// The interrupt for a table outside memory.
    fn table_fault(controls: &Self::Controls, access: Access) -> Interrupt;

    /// The interrupt that `access` takes for `cause`: a store says so, a fetch has its own vector.
    #[inline]
    fn interrupt(cause: Status, access: Access) -> Interrupt {
        match access.kind {
            AccessKind::Fetch => Interrupt { vector: Self::FETCH, status: cause },
            AccessKind::Read => Interrupt { vector: Self::DATA, status: cause },
            AccessKind::Write => Interrupt { vector: Self::DATA, status: cause.with_store(true) },
        }
    }
}

/// What controls process-scoped translation besides its tables.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct ProcessControls {
    /// From which quadrants the tree is reached.
    pub quadrants: Quadrants,
    /// The Authority Mask Register.
    pub amr: Amr,
    /// The Instruction Authority Mask Register.
    pub iamr: Iamr,
    /// Who hears of a table outside memory.
    pub table_fault: TableFault,
}

impl ProcessControls {
    /// Whether key 0 of AMR and IAMR allows a supervisor's access.
    #[inline(always)]
    const fn key_0_allows(&self, kind: AccessKind) -> bool {
        match kind {
            AccessKind::Read => self.amr.into_bits() & Amr::NO_LOAD == 0,
            AccessKind::Write => self.amr.into_bits() & Amr::NO_STORE == 0,
            AccessKind::Fetch => self.iamr.into_bits() & Iamr::NO_EXECUTE == 0,
        }
    }
}

/// The address bits that no tree translates: quadrant, and those that must be zero.
const TOP: u64 = !pgtable::low_bits(ADDRESS_BITS);
/// The top of a quadrant 3 address.
pub(crate) const QUADRANT_3: u64 = 3 << 62;

/// Loads, stores or fetches, whoever makes them. EAA has no write-only: what may be written may be
/// read, unless `write_only`.
#[inline(always)]
fn authorises(word: u64, kind: AccessKind, write_only: bool) -> bool {
    match kind {
        AccessKind::Read => word & Pte::READ != 0 || (word & Pte::WRITE != 0 && !write_only),
        AccessKind::Write => word & Pte::WRITE != 0,
        AccessKind::Fetch => word & Pte::EXECUTE != 0,
    }
}

impl Scope for Stage1 {
    type Controls = ProcessControls;

    const DATA: Vector = Vector::DataStorage;
    const FETCH: Vector = Vector::InstructionStorage;
    const PROCESS_SCOPED: bool = true;
    const SLBIA: u8 = 3;

    #[inline]
    fn nobody(whose: Rs) -> Rs {
        whose.with_pid(0)
    }

    #[inline(always)]
    fn offset(controls: &ProcessControls, address: Gva) -> Option<u64> {
        let top = address.get() & TOP;
        let legal = match controls.quadrants {
            Quadrants::Zero => top == 0,
            Quadrants::Three => top == QUADRANT_3,
            Quadrants::ZeroAndThree => top == 0 || top == QUADRANT_3,
        };
        if legal { Some(address.get() & !TOP) } else { None }
    }

    #[inline(always)]
    fn address(controls: &ProcessControls, offset: u64) -> Gva {
        match controls.quadrants {
            Quadrants::Zero => Gva::new(offset),
            Quadrants::Three | Quadrants::ZeroAndThree => Gva::new(offset | QUADRANT_3),
        }
    }

    /// In the order of ISA "Storage Protection": a privileged page is nobody else's; a supervisor's
    /// access to any other page goes by key 0 of AMR and IAMR too.
    #[inline(always)]
    fn allows(
        controls: &ProcessControls,
        strictness: Strictness,
        word: u64,
        access: Access,
    ) -> bool {
        let privileged = word & Pte::PRIVILEGED != 0;
        let reachable = match access.privilege {
            Privilege::User => !privileged,
            Privilege::Supervisor => privileged || controls.key_0_allows(access.kind),
        };
        authorises(word, access.kind, strictness == Strictness::Kvm) && reachable
    }

    #[inline(always)]
    fn privileged(controls: &ProcessControls, access: Access) -> Option<bool> {
        match access.privilege {
            Privilege::User => Some(false),
            Privilege::Supervisor => (!controls.key_0_allows(access.kind)).then_some(true),
        }
    }

    #[inline]
    fn address_fault(access: Access) -> Interrupt {
        let vector = match access.kind {
            AccessKind::Read | AccessKind::Write => Vector::DataSegment,
            AccessKind::Fetch => Vector::InstructionSegment,
        };
        Interrupt { vector, status: Status::new() }
    }

    #[inline]
    fn table_fault(controls: &ProcessControls, _: Access) -> Interrupt {
        let vector = match controls.table_fault {
            TableFault::ToHypervisor => Vector::HypervisorDataStorage,
            TableFault::Reflected => Vector::DataStorage,
        };
        Interrupt {
            vector,
            status: Status::new().with_no_translation(true).with_table_access(true),
        }
    }
}

impl Scope for Stage2 {
    type Controls = ();

    const DATA: Vector = Vector::HypervisorDataStorage;
    const FETCH: Vector = Vector::HypervisorInstructionStorage;
    const PROCESS_SCOPED: bool = false;
    const SLBIA: u8 = 6;

    #[inline]
    fn nobody(whose: Rs) -> Rs {
        whose.with_lpid(0)
    }

    #[inline(always)]
    fn offset((): &(), address: Gpa) -> Option<u64> {
        if address.get() & TOP == 0 { Some(address.get()) } else { None }
    }

    #[inline(always)]
    fn address((): &(), offset: u64) -> Gpa {
        Gpa::new(offset)
    }

    /// Partition scope does not know privilege, nor keys. (KVM's walker of nested guests' trees
    /// takes what may be written for readable.)
    #[inline(always)]
    fn allows((): &(), _: Strictness, word: u64, access: Access) -> bool {
        authorises(word, access.kind, false)
    }

    #[inline(always)]
    fn privileged((): &(), _: Access) -> Option<bool> {
        None
    }

    /// A guest real address beyond the tree has no translation. (QEMU's MMU ignores the bits
    /// beyond: there such an address is an alias of the one below 2^52. Nobody should rely on that,
    /// and we do not follow.)
    #[inline]
    fn address_fault(access: Access) -> Interrupt {
        Self::interrupt(Status::new().with_no_translation(true), access)
    }

    /// The hypervisor's tables stand in real memory: nothing translates their addresses, and
    /// hardware takes a machine check where there is no memory. Software that walks them reports
    /// tables that cannot be used.
    #[inline]
    fn table_fault((): &(), access: Access) -> Interrupt {
        Self::interrupt(Status::new().with_bad_configuration(true), access)
    }
}
