//! A walker of whatever a vCPU's registers say.

use pgtable::memory::ReadMemory;
use pgtable::vcpu::{PagingState, Walk};
use pgtable::{Access, Fault, Gpa, Gva, Translation};

use crate::gva::Paging;
use crate::stage1::VmsaStage1;
use crate::stage1_attributes::Stage1Attributes;

/// Where an address goes: its guest-physical address, the page's size, and what the leaf says.
/// `None` while translation is off: then everything is allowed, and memory is a device's unless
/// HCR_EL2.DC is set (D8.2.12).
pub type StageTranslation = Translation<Gpa, Option<Stage1Attributes>>;

/// Translates a vCPU's virtual addresses by what its registers say.
///
/// By itself it judges each access and records nothing; [`Recording`](pgtable::bytes::Recording)
/// also sets access flags and dirty state; [`Debugger`](pgtable::bytes::Debugger) reaches whatever
/// is mapped, and writes read-only pages.
///
/// ```
/// use arch_aarch64::{Hcr, Paging, Processor, Regime, Registers};
/// use pgtable::bytes::{Debugger, GuestBytes};
/// use pgtable::memory::GuestTables;
/// use pgtable::Gva;
/// use vm_memory::{GuestAddress, GuestMemoryMmap};
///
/// // A gdb stub's whole memory access. (Here the vCPU has not turned on translation.)
/// let memory = GuestMemoryMmap::<()>::from_ranges(&[(GuestAddress(0), 1 << 20)])?;
/// let hcr = Hcr::new().with_rw(true).into_bits();
/// let registers = Registers { hcr, ..Registers::default() };
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
        self.tree(gva, access)?.walk(memory, access, walk)
    }
}
