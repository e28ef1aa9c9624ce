//! A walker of whatever paging mode a vCPU is in.

use pgtable::format::Format;
use pgtable::memory::{MemoryError, ReadMemory};
use pgtable::vcpu::{PagingState, PagingTree, Walk};
use pgtable::{Access, Cause, Fault, Gpa, Gva, Stage1, Translation, low_bits};

use crate::attributes::PageAttributes;
use crate::attributes32::Attributes32;
use crate::gva::Paging;
use crate::long_mode::LongMode;
use crate::pae::{Pae, Pdptes};
use crate::page_fault::LongModeFault;

/// Where a linear address goes: its guest-physical address, the page's size, and what the leaf says
/// (memory type and rights). `None` while paging is off: then everything is allowed, and the MTRRs
/// alone say the memory type (SDM §12.11.3).
pub type LinearTranslation = Translation<Gpa, Option<PageAttributes>>;

/// Translates a vCPU's linear addresses in the paging mode that it is in.
///
/// By itself it judges each access and records nothing; [`Recording`](pgtable::bytes::Recording)
/// also sets accessed and dirty flags; [`Debugger`](pgtable::bytes::Debugger) reaches whatever is
/// mapped, and writes read-only pages.
///
/// ```
/// use pgtable_x86::{Controls, Paging, Registers};
/// use pgtable::bytes::{Debugger, GuestBytes};
/// use pgtable::memory::GuestTables;
/// use pgtable::Gva;
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
pub type PagingWalker<M> = pgtable::vcpu::PagingWalker<Paging, M>;

/// Where PDPTE registers are read: beyond all physical addresses.
const REGISTERS: Gpa = Gpa::new(1 << 60);

/// Memory, and PDPTE registers.
struct WithPdptes<'m, M> {
    pdptes: Pdptes,
    memory: &'m M,
}

impl<M: ReadMemory<Gpa>> ReadMemory<Gpa> for WithPdptes<'_, M> {
    fn load(&self, address: Gpa) -> Result<u64, MemoryError> {
        let index = address.get().wrapping_sub(REGISTERS.get()) / 8;
        let register = usize::try_from(index).ok().and_then(|index| self.pdptes.0.get(index));
        match register {
            Some(word) => Ok(Pae::BYTE_ORDER.swap(*word)),
            None => self.memory.load(address),
        }
    }

    /// Nothing is recorded in the registers.
    fn compare_exchange(&self, address: Gpa, current: u64, new: u64) -> Result<bool, MemoryError> {
        self.memory.compare_exchange(address, current, new)
    }

    fn is_writable(&self, address: Gpa) -> bool {
        self.memory.is_writable(address)
    }
}

/// A fault of a walk by another format, which reports it in the same terms. Registers have no
/// address.
fn fault<F: Format<Stage = Stage1, Fault = LongModeFault>>(fault: Fault<F>) -> Fault<LongMode> {
    let Fault { address, access, cause, at, entry, arch } = fault;
    let entry = entry.filter(|entry| entry.get() < REGISTERS.get());
    Fault { address, access, cause, at, entry, arch }
}

impl PagingState for Paging {
    type Format = LongMode;

    #[inline(always)]
    fn walk<M: ReadMemory<Gpa>>(
        &self,
        memory: &M,
        gva: Gva,
        access: Access,
        walk: Walk,
    ) -> Result<LinearTranslation, Fault<LongMode>> {
        let narrow = Gva::new(gva.get() & low_bits(32));
        match *self {
            Self::Off => {
                let output = Gpa::new(narrow.get());
                PagingTree::<LongMode>::Off { output, shift: 32 }.walk(memory, access, walk)
            }
            Self::Long { format, root, addresses } => {
                let addresses = match walk {
                    Walk::Debug => addresses.without_separation(),
                    Walk::Translate | Walk::Record => addresses,
                };
                let Some(input) = addresses.linear(gva, access) else {
                    return Err(forbidden(&format, gva, access));
                };
                PagingTree::On { format, root, input }.walk(memory, access, walk)
            }
            Self::Pae { format, root, pdptes: None } => {
                PagingTree::On { format, root, input: narrow }
                    .walk(memory, access, walk)
                    .map_err(fault)
            }
            Self::Pae { format, pdptes: Some(pdptes), .. } => {
                PagingTree::On { format, root: REGISTERS, input: narrow }
                    .walk(&WithPdptes { pdptes, memory }, access, walk)
                    .map_err(fault)
            }
            Self::Bits32 { format, root } => {
                let tree = PagingTree::On { format, root, input: narrow };
                let found = tree.walk(memory, access, walk).map_err(fault)?;
                let Translation { output, shift, attributes } = found;
                let attributes = attributes.map(Attributes32::page);
                Ok(Translation { output, shift, attributes })
            }
        }
    }
}

/// The fault of an address that the access may not use at all.
#[cold]
fn forbidden(format: &LongMode, address: Gva, access: Access) -> Fault<LongMode> {
    let cause = Cause::Address;
    let arch = format.fault(cause, access, None, 0);
    Fault { address, access, cause, at: None, entry: None, arch }
}

impl Paging {
    /// A walker of the page tables in `memory`.
    #[must_use]
    pub const fn walker<M: ReadMemory<Gpa>>(self, memory: M) -> PagingWalker<M> {
        PagingWalker::new(self, memory)
    }
}
