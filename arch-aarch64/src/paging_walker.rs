//! Translates a vCPU's addresses by what its registers say.

use pgtable::bytes::Translate as _;
use pgtable::memory::ReadMemory;
use pgtable::vcpu::{PagingState, Walk};
use pgtable::{Access, Fault, Gpa, Gva, Privilege, Translation};

use crate::gva::{Paging, Unsupported};
use crate::registers::{Processor, Registers};
use crate::stage1::VmsaStage1;
use crate::stage1_attributes::Stage1Attributes;
use crate::stage1_controls::Regime;

/// Where an address goes: its guest-physical address, the page's size, and what the leaf says.
/// `None` while translation is off: then everything is allowed, and memory is a device's for data,
/// unless HCR_EL2.DC is set (D8.2.12.1).
pub type StageTranslation = Translation<Gpa, Option<Stage1Attributes>>;

/// Translates a vCPU's virtual addresses by what its registers say.
///
/// By itself it judges each access and records nothing; [`Recording`](pgtable::bytes::Recording)
/// also sets access flags and dirty state; [`Debugger`](pgtable::bytes::Debugger) reaches whatever
/// is mapped, and writes read-only pages.
///
/// ```
/// use pgtable_aarch64::{Paging, Processor, Regime, Registers};
/// use pgtable::bytes::{Debugger, GuestBytes};
/// use pgtable::memory::GuestTables;
/// use pgtable::Gva;
/// use vm_memory::{GuestAddress, GuestMemoryMmap};
///
/// // A gdb stub's whole memory access. (Here the vCPU has not turned on translation.)
/// let memory = GuestMemoryMmap::<()>::from_ranges(&[(GuestAddress(0), 1 << 20)])?;
/// let registers = Registers::default();
///
/// let tables = GuestTables::new(&memory)?;
/// let walker = Paging::of(Regime::El10, registers, &Processor::MAX)?.walker(&tables);
/// let bytes = GuestBytes::new(Debugger(walker), &memory);
/// bytes.write(Gva::new(0x1fff), b"across pages")?;
///
/// let mut read = [0; 12];
/// bytes.read(Gva::new(0x1fff), &mut read)?;
/// assert_eq!(&read, b"across pages");
/// # Ok::<(), Box<dyn core::error::Error>>(())
/// ```
pub type PagingWalker<M> = pgtable::vcpu::PagingWalker<Paging, M>;

impl Paging {
    /// A walker of the tables in `memory`.
    #[must_use]
    pub const fn walker<M: ReadMemory<Gpa>>(self, memory: M) -> PagingWalker<M> {
        PagingWalker::new(self, memory)
    }

    /// Translates one access, with the tables in `memory`. Nothing is recorded; for bytes, a
    /// debugger's view, or access flags and dirty state see [`walker`](Self::walker).
    ///
    /// # Errors
    /// The fault that the access takes.
    pub fn translate<M: ReadMemory<Gpa>>(
        &self,
        memory: M,
        gva: Gva,
        access: Access,
    ) -> Result<StageTranslation, Fault<VmsaStage1>> {
        self.walker(memory).translate(gva, access)
    }
}

/// Why a guest's address has no guest-physical one.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum GvaError {
    /// The guest would take this fault.
    #[error(transparent)]
    Fault(#[from] Fault<VmsaStage1>),
    /// This crate does not translate by these registers.
    #[error(transparent)]
    Unsupported(#[from] Unsupported),
}

/// The guest-physical address that a vCPU with these registers reaches by `access` to `gva` at EL1
/// or EL0, its tables being in `memory`.
///
/// For [`Processor::MAX`]; [`Paging::of`] takes another processor, and the regimes of EL2. Nothing
/// is written: access flags and dirty state stay as they are.
///
/// ```
/// use core::sync::atomic::AtomicU64;
/// use pgtable_aarch64::{BootMapping, Registers, Stage1Controls, boot_tables, gva_to_gpa};
/// use pgtable::memory::DirectMap;
/// use pgtable::{Access, Gpa, Gva, Prot};
///
/// # let words: Vec<AtomicU64> = (0..0x10000 / 8).map(|_| AtomicU64::new(0)).collect();
/// # let memory = DirectMap::new(&words, Gpa::new(0));
/// let ram = Gpa::new(0x4000_0000);
/// let image = BootMapping::new(Gva::new(0xffff_0000_0000_0000), ram, 2 << 20, Prot::RX.into());
/// let area = Gpa::new(0x1000)..Gpa::new(0x9000);
/// let boot = boot_tables(Stage1Controls::new(), &memory, area, &[], &[image])?;
///
/// // A gdb stub reads these from the vCPU.
/// let Registers { tcr, ttbr0, ttbr1, sctlr, .. } = boot.registers;
/// let registers = Registers { tcr, ttbr0, ttbr1, sctlr, ..Registers::default() };
/// let gpa = gva_to_gpa(&registers, &memory, Gva::new(0xffff_0000_0000_1234), Access::FETCH)?;
/// assert_eq!(gpa, Gpa::new(0x4000_1234));
/// # Ok::<(), Box<dyn core::error::Error>>(())
/// ```
///
/// # Errors
/// [`GvaError`].
pub fn gva_to_gpa<M: ReadMemory<Gpa>>(
    registers: &Registers,
    memory: M,
    gva: Gva,
    access: Access,
) -> Result<Gpa, GvaError> {
    let paging = Paging::of(Regime::El10, *registers, &Processor::MAX)?;
    Ok(paging.translate(memory, gva, access)?.output)
}

impl PagingState for Paging {
    type Format = VmsaStage1;

    #[inline(always)]
    fn walk<M: ReadMemory<Gpa>>(
        &self,
        memory: &M,
        gva: Gva,
        access: Access,
        walk: Walk,
    ) -> Result<StageTranslation, Fault<VmsaStage1>> {
        // E0PD is a right, and a debugger's accesses are not judged by rights.
        let privilege = match walk {
            Walk::Debug => Privilege::Supervisor,
            Walk::Translate | Walk::Record => access.privilege,
        };
        self.tree(gva, Access { privilege, ..access })?.walk(memory, access, walk)
    }
}
