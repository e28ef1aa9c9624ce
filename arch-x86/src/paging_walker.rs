//! A walker of whatever paging mode a vCPU is in.

use pgtable::{
    Access, Fault, Gpa, Gva, ReadMemory, Translate, TranslateRecording, TranslateUnjudged,
    Translation, Walker, low_bits,
};

use crate::attributes::PageAttributes;
use crate::gva::Paging;
use crate::long_mode::LongMode;

/// Where a linear address goes: its guest-physical address, the page's size, and what the leaf says
/// (memory type and rights). `None` while paging is off: then everything is allowed, and the MTRRs
/// alone say the memory type (SDM §12.11.3).
pub type LinearTranslation = Translation<Gpa, Option<PageAttributes>>;

/// Translates a vCPU's linear addresses in the paging mode that it is in.
///
/// By itself it judges each access and records nothing; [`Recording`](pgtable::Recording) also sets
/// accessed and dirty flags; [`Debugger`](pgtable::Debugger) reaches whatever is mapped, and writes
/// read-only pages.
///
/// ```
/// use arch_x86::{Controls, Paging, Registers};
/// use pgtable::{Debugger, GuestBytes, GuestTables, Gva};
/// use vm_memory::{GuestAddress, GuestMemoryMmap};
///
/// // A gdb stub's whole memory access. (Here the vCPU has not turned on paging.)
/// let memory = GuestMemoryMmap::<()>::from_ranges(&[(GuestAddress(0), 1 << 20)])?;
/// let registers = Registers::from_raw(0x11, 0, 0, 0);
///
/// let tables = GuestTables::new(&memory)?;
/// let walker = Paging::of(registers, Controls::new())?.walker(&tables);
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
    /// A walker of the page tables in `memory`.
    #[must_use]
    pub const fn walker<M: ReadMemory<Gpa>>(self, memory: M) -> PagingWalker<M> {
        PagingWalker { paging: self, memory }
    }
}

impl<M: ReadMemory<Gpa>> PagingWalker<M> {
    /// What `walk` finds in the tables, or the address itself while paging is off.
    #[inline(always)]
    fn go(
        &self,
        gva: Gva,
        walk: impl FnOnce(
            Walker<LongMode, &M>,
        ) -> Result<Translation<Gpa, PageAttributes>, Fault<LongMode>>,
    ) -> Result<LinearTranslation, Fault<LongMode>> {
        match self.paging {
            Paging::Off => {
                let output = Gpa::new(gva.get() & low_bits(32));
                Ok(Translation { output, shift: 32, attributes: None })
            }
            Paging::Long { format, root } => {
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
    type Attributes = Option<PageAttributes>;
    type Fault = Fault<LongMode>;

    #[inline(always)]
    fn translate(&self, gva: Gva, access: Access) -> Result<LinearTranslation, Fault<LongMode>> {
        self.go(gva, |walker| walker.translate(gva, access))
    }
}

impl<M: ReadMemory<Gpa>> TranslateRecording for PagingWalker<M> {
    fn access(&self, gva: Gva, access: Access) -> Result<LinearTranslation, Fault<LongMode>> {
        self.go(gva, |walker| walker.access(gva, access))
    }
}

impl<M: ReadMemory<Gpa>> TranslateUnjudged for PagingWalker<M> {
    fn debug_translate(
        &self,
        gva: Gva,
        access: Access,
    ) -> Result<LinearTranslation, Fault<LongMode>> {
        self.go(gva, |walker| walker.debug_translate(gva, access))
    }
}
