//! A walker of whatever a vCPU's registers say.

use pgtable::bytes::{Translate, TranslateRecording, TranslateUnjudged};
use pgtable::memory::ReadMemory;
use pgtable::walk::{TranslationOf, Walker};
use pgtable::{Access, Fault, Gpa, Gva, Translation};

use crate::gva::{Paging, Tree};
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
#[derive(Clone, Copy, Debug)]
pub struct PagingWalker<M> {
    paging: Paging,
    memory: M,
}

impl Paging {
    /// A walker of the tables in `memory`.
    #[must_use]
    pub const fn walker<M: ReadMemory<Gpa>>(self, memory: M) -> PagingWalker<M> {
        PagingWalker { paging: self, memory }
    }
}

impl<M: ReadMemory<Gpa>> PagingWalker<M> {
    /// What `walk` finds in the tables, or the address itself while translation is off.
    fn go(
        &self,
        gva: Gva,
        access: Access,
        walk: impl FnOnce(
            Walker<VmsaStage1, &M>,
        ) -> Result<TranslationOf<VmsaStage1>, Fault<VmsaStage1>>,
    ) -> Result<StageTranslation, Fault<VmsaStage1>> {
        match self.paging.tree(gva, access)? {
            Tree::Off { output, shift } => Ok(Translation { output, shift, attributes: None }),
            Tree::On { format, root, .. } => {
                let Translation { output, shift, attributes } =
                    walk(Walker::new(format, &self.memory, root))?;
                Ok(Translation { output, shift, attributes: Some(attributes) })
            }
        }
    }
}

impl<M: ReadMemory<Gpa>> Translate for PagingWalker<M> {
    type Input = Gva;
    type Output = Gpa;
    type Attributes = Option<Stage1Attributes>;
    type Fault = Fault<VmsaStage1>;

    fn translate(&self, gva: Gva, access: Access) -> Result<StageTranslation, Self::Fault> {
        self.go(gva, access, |walker| walker.translate(gva, access))
    }
}

impl<M: ReadMemory<Gpa>> TranslateRecording for PagingWalker<M> {
    fn access(&self, gva: Gva, access: Access) -> Result<StageTranslation, Self::Fault> {
        self.go(gva, access, |walker| walker.access(gva, access))
    }
}

impl<M: ReadMemory<Gpa>> TranslateUnjudged for PagingWalker<M> {
    fn debug_translate(&self, gva: Gva, access: Access) -> Result<StageTranslation, Self::Fault> {
        self.go(gva, access, |walker| walker.debug_translate(gva, access))
    }
}
