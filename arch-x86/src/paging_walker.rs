//! A walker of whatever paging mode a vCPU is in.

use pgtable::{
    Access, Fault, Gpa, Gva, PagingState, PagingTree, ReadMemory, Translation, low_bits,
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
pub type PagingWalker<M> = pgtable::PagingWalker<Paging, M>;

impl PagingState for Paging {
    type Format = LongMode;

    #[inline(always)]
    fn tree(&self, gva: Gva, _: Access) -> Result<PagingTree<LongMode>, Fault<LongMode>> {
        Ok(match *self {
            Self::Off => PagingTree::Off { output: Gpa::new(gva.get() & low_bits(32)), shift: 32 },
            Self::Long { format, root } => PagingTree::On { format, root, input: gva },
        })
    }
}

impl Paging {
    /// A walker of the page tables in `memory`.
    #[must_use]
    pub const fn walker<M: ReadMemory<Gpa>>(self, memory: M) -> PagingWalker<M> {
        PagingWalker::new(self, memory)
    }
}
