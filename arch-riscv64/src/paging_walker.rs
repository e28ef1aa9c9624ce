//! Walkers of whatever state a hart is in.

use pgtable::bytes::Translate;
use pgtable::memory::{MemoryError, ReadMemory};
use pgtable::two_stage::TwoStage;
use pgtable::vcpu::{PagingState, PagingTree, Walk};
use pgtable::walk::Walker;
use pgtable::{Access, AccessKind, Fault, Gpa, Gva, Hpa, Translation};

use crate::attributes::{GuestAttributes, PageAttributes};
use crate::format::PHYSICAL_BITS;
use crate::format::Sv;
use crate::paging::{GuestPaging, Paging};
use crate::trap::Trap;

/// Where a virtual address goes: the page's size, and what the leaf says. `None` while addresses
/// are not translated (Bare): then everything is allowed.
pub type VirtualTranslation = Translation<Gpa, Option<PageAttributes>>;

/// Where a guest's virtual address goes through both stages, and what the leaves say; `None` of a
/// stage that is Bare.
pub type GuestTranslation = Translation<Hpa, (Option<PageAttributes>, Option<GuestAttributes>)>;

/// Translates a hart's virtual addresses.
///
/// By itself it judges each access and records nothing; [`Recording`](pgtable::bytes::Recording)
/// also sets A and D; [`Debugger`](pgtable::bytes::Debugger) reaches whatever is mapped, and writes
/// read-only pages. An address is masked first, if pointer masking applies.
///
/// ```
/// use pgtable_riscv64::{Extensions, Paging, Registers};
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
/// let walker = Paging::of(&registers, Extensions::new())?.walker(&tables);
/// let bytes = GuestBytes::new(Debugger(walker), &memory);
/// bytes.write(Gva::new(0x1fff), b"across pages")?;
///
/// let mut read = [0; 12];
/// bytes.read(Gva::new(0x1fff), &mut read)?;
/// assert_eq!(&read, b"across pages");
/// # Ok::<(), Box<dyn core::error::Error>>(())
/// ```
pub type PagingWalker<M> = pgtable::vcpu::PagingWalker<Paging, M>;

impl PagingState for Paging {
    type Format = Sv;

    #[inline(always)]
    fn walk<M: ReadMemory<Gpa>>(
        &self,
        memory: &M,
        gva: Gva,
        access: Access,
        walk: Walk,
    ) -> Result<VirtualTranslation, Fault<Sv>> {
        let input = self.masked(gva, access);
        let tree = match self.tables() {
            None => PagingTree::Off { output: Gpa::new(input.get()), shift: PHYSICAL_BITS },
            Some((format, root)) => PagingTree::On { format, root, input },
        };
        tree.walk(memory, access, walk)
    }
}

impl Paging {
    /// A walker of the page tables in `memory`.
    #[must_use]
    pub const fn walker<M: ReadMemory<Gpa>>(self, memory: M) -> PagingWalker<M> {
        PagingWalker::new(self, memory)
    }
}

/// Translates a guest's virtual addresses through both stages, with all tables in host memory.
/// Accesses are judged; nothing is recorded. A fault is the [`Trap`] into HS-mode.
#[derive(Clone, Copy, Debug)]
pub struct GuestWalker<M> {
    paging: GuestPaging,
    memory: M,
}

impl GuestPaging {
    /// A walker of the tables in `memory`.
    #[must_use]
    pub const fn walker<M: ReadMemory<Hpa>>(self, memory: M) -> GuestWalker<M> {
        GuestWalker { paging: self, memory }
    }
}

/// Host memory where hgatp is Bare: guest-physical addresses are host-physical ones.
struct Same<'m, M>(&'m M);

impl<M: ReadMemory<Hpa>> ReadMemory<Gpa> for Same<'_, M> {
    fn load(&self, address: Gpa) -> Result<u64, MemoryError> {
        self.0.load(Hpa::new(address.get()))
    }

    fn compare_exchange(&self, address: Gpa, current: u64, new: u64) -> Result<bool, MemoryError> {
        self.0.compare_exchange(Hpa::new(address.get()), current, new)
    }

    fn is_writable(&self, address: Gpa) -> bool {
        self.0.is_writable(Hpa::new(address.get()))
    }
}

impl<M: ReadMemory<Hpa>> Translate for GuestWalker<M> {
    type Input = Gva;
    type Output = Hpa;
    type Attributes = (Option<PageAttributes>, Option<GuestAttributes>);
    type Fault = Trap;

    fn translate(&self, gva: Gva, access: Access) -> Result<GuestTranslation, Trap> {
        let GuestPaging { first, second } = self.paging;
        let Some((guest, root)) = second else {
            let found = first.translate(Same(&self.memory), gva, access);
            let Translation { output, shift, attributes } =
                found.map_err(|fault| Trap::from(&fault))?;
            let output = Hpa::new(output.get());
            return Ok(Translation { output, shift, attributes: (attributes, None) });
        };
        let guest = Walker::new(guest, &self.memory, root);
        let gva = first.masked(gva, access);
        let Some((own, root)) = first.tables() else {
            // All accesses of a guest are explicit ones.
            let explicit = match access.kind {
                AccessKind::Read => Access::READ.by_user(),
                _ => access,
            };
            let found = guest.translate(Gpa::new(gva.get()), explicit);
            let Translation { output, shift, attributes } =
                found.map_err(|fault| Trap::from(&fault))?;
            return Ok(Translation { output, shift, attributes: (None, Some(attributes)) });
        };
        let both = TwoStage::new(own, root, guest).translate(gva, access);
        let both = both.map_err(|fault| Trap::from(&fault))?;
        let attributes = (Some(both.stage1.attributes), Some(both.stage2.attributes));
        Ok(Translation { output: both.output(), shift: both.shift(), attributes })
    }
}
