//! What a hypervisor in a logical partition tells its own hypervisor of a guest's translation, by
//! PAPR's nested API v2: elements of guest-state buffers.
//!
//! Under that API there is no partition table that the partition keeps. It hands over a guest-wide
//! buffer by [`H_GUEST_SET_STATE`], in which two elements stand for the two doublewords of a
//! partition table entry: [`PartitionTableElement`] and [`ProcessTableElement`]. Why a guest's last
//! access was refused comes back in elements of the run's output ([`data_storage`],
//! [`instruction_storage`]). After a change of the tree, [`RptInvalidate`](super::RptInvalidate)
//! for a second stage has the translations forgotten.
//!
//! Layouts: Linux `Documentation/arch/powerpc/kvm-nested.rst`, `guest-state-buffer.h`. Everything
//! in a buffer is big-endian.
//!
//! ```
//! use pgtable_ppc64::radix::guest_state::{
//!     Element, Elements, PartitionTableElement, ProcessTableElement, Writer,
//! };
//! use pgtable_ppc64::radix::{Pate, RadixRoot};
//!
//! let tree = RadixRoot::of_tree(0x10_0000).unwrap().with_hr(true);
//! let pate = Pate { tree, process_table: 0x8000_0000_0013_0004.into() };
//! let mut bytes = [0; 128];
//! let mut buffer = Writer::new(&mut bytes).unwrap();
//! buffer.put(&PartitionTableElement::of_tree(pate.tree)).unwrap();
//! buffer.put(&ProcessTableElement::of_word(pate.process_table)).unwrap();
//! let length = buffer.finish();
//! assert_eq!(length, 4 + (4 + 24) + (4 + 16));
//! let mut elements = Elements::of(&bytes[..length]).unwrap();
//! let (id, value) = elements.next().unwrap().unwrap();
//! let element = PartitionTableElement::of(id, value).unwrap().unwrap();
//! assert_eq!(element.tree(), Some(pate.tree));
//! ```

mod buffer;
#[cfg(test)]
mod tests;

use pgtable::{Gpa, Gva};

pub use buffer::{BufferError, Elements, Writer};

use super::descriptor::{ProcessTableWord, RadixRoot};
use super::geometry::{ADDRESS_BITS, RPDS};
use super::hypervisor::HypervisorFault;
use crate::interrupt::{Interrupt, Status, Vector};

/// The hypercall number of `H_GUEST_GET_STATE`.
pub const H_GUEST_GET_STATE: u64 = 0x478;
/// The hypercall number of `H_GUEST_SET_STATE`.
pub const H_GUEST_SET_STATE: u64 = 0x47C;
/// The flag of both by which a buffer is about the whole guest, and not one vCPU: both tables are.
/// It is bit 0 of the doubleword.
pub const GUEST_WIDE: u64 = 1 << 63;

/// An element of a guest-state buffer.
pub trait Element: Sized {
    /// Its identity.
    const ID: u16;
    /// The doublewords of its value.
    const WORDS: usize;

    /// The doublewords, of which [`WORDS`](Self::WORDS) count.
    fn words(&self) -> [u64; 3];

    /// The element of these doublewords.
    fn of_words(words: [u64; 3]) -> Self;

    /// The element with this identity and value; `None`: another one.
    ///
    /// # Errors
    /// [`BufferError::Length`].
    fn of(id: u16, value: &[u8]) -> Result<Option<Self>, BufferError> {
        if id != Self::ID {
            return Ok(None);
        }
        if value.len() != 8 * Self::WORDS {
            return Err(BufferError::Length { id, length: value.len() });
        }
        let mut words = [0; 3];
        for (word, bytes) in words.iter_mut().zip(value.chunks_exact(8)) {
            *word = bytes.iter().fold(0, |word, &byte| word << 8 | u64::from(byte));
        }
        Ok(Some(Self::of_words(words)))
    }
}

/// Element 0x0005: the partition-scoped tree.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct PartitionTableElement {
    /// The address of the root, in the memory of the partition that runs the guest.
    pub root: Gpa,
    /// Address bits that the tree translates.
    pub address_bits: u64,
    /// Bytes of the root.
    pub root_bytes: u64,
}

impl PartitionTableElement {
    /// The element for the tree of a partition table entry.
    #[must_use]
    pub fn of_tree(tree: RadixRoot) -> Self {
        Self {
            root: Gpa::new(tree.base()),
            address_bits: tree.address_bits().into(),
            // At most 2^34.
            root_bytes: 1 << (tree.rpds() + 3),
        }
    }

    /// The tree as a partition table entry has it, with HR. `None` if a number has no encoding
    /// there: fewer than 31 or more than 62 bits, a root of another size than a power of 2, or at
    /// an address that is not aligned to 256 bytes.
    #[must_use]
    pub fn tree(&self) -> Option<RadixRoot> {
        let rts = u8::try_from(self.address_bits.checked_sub(31)?).ok().filter(|rts| *rts < 32)?;
        let shift = self.root_bytes.is_power_of_two().then(|| self.root_bytes.trailing_zeros())?;
        let rpds = u8::try_from(shift.checked_sub(3)?).ok().filter(|rpds| *rpds < 32)?;
        let tree = RadixRoot::new().with_hr(true).with_rts(rts).with_rpds(rpds);
        let root = self.root.get();
        let with_root = RadixRoot::from_bits(tree.into_bits() | root);
        (with_root.base() == root).then_some(with_root)
    }

    /// Whether the tree has the one size that hardware supports.
    #[must_use]
    pub fn is_supported(&self) -> bool {
        self.address_bits == u64::from(ADDRESS_BITS) && self.root_bytes == 1 << (RPDS + 3)
    }
}

impl Element for PartitionTableElement {
    const ID: u16 = 0x0005;
    const WORDS: usize = 3;

    fn words(&self) -> [u64; 3] {
        [self.root.get(), self.address_bits, self.root_bytes]
    }

    fn of_words([root, address_bits, root_bytes]: [u64; 3]) -> Self {
        Self { root: Gpa::new(root), address_bits, root_bytes }
    }
}

/// Element 0x0006: where the guest's process table is.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct ProcessTableElement {
    /// Its address, in the guest's own memory.
    pub base: Gpa,
    /// Its bytes.
    pub bytes: u64,
}

impl ProcessTableElement {
    /// The element for the second doubleword of a partition table entry.
    #[must_use]
    pub fn of_word(word: ProcessTableWord) -> Self {
        // At most 2^43.
        Self { base: Gpa::new(word.base()), bytes: 1 << (word.prts() + 12) }
    }

    /// The doubleword, with GR. `None` if a number has no encoding there: a table of another size
    /// than a power of 2 from 4 KiB on, or at an address that is not aligned to 4 KiB.
    #[must_use]
    pub fn word(&self) -> Option<ProcessTableWord> {
        let shift = self.bytes.is_power_of_two().then(|| self.bytes.trailing_zeros())?;
        let prts = u8::try_from(shift.checked_sub(12)?).ok().filter(|prts| *prts < 32)?;
        let base = self.base.get();
        let word = ProcessTableWord::new().with_gr(true).with_prts(prts);
        let word = ProcessTableWord::from_bits(word.into_bits() | base);
        (word.base() == base && word.prts() == prts).then_some(word)
    }
}

impl Element for ProcessTableElement {
    const ID: u16 = 0x0006;
    const WORDS: usize = 2;

    fn words(&self) -> [u64; 3] {
        [self.base.get(), self.bytes, 0]
    }

    fn of_words([base, bytes, _]: [u64; 3]) -> Self {
        Self { base: Gpa::new(base), bytes }
    }
}

/// The elements of a run's output that storage interrupts are told by.
const NIA: u16 = 0x1021;
const MSR: u16 = 0x1022;
const HDAR: u16 = 0xF000;
const HDSISR: u16 = 0xF001;
const ASDR: u16 = 0xF003;

/// The bits of HSRR1 that say why a fetch was refused, 33 to 36 and 42 to 47 (Power ISA v3.0B Book
/// III 6.5.18).
const HSRR1_CAUSES: u64 = 0x783f_0000;

/// Those elements, as far as they are there.
#[derive(Default)]
struct Registers {
    nia: Option<u64>,
    msr: Option<u64>,
    hdar: Option<u64>,
    hdsisr: Option<u32>,
    asdr: Option<u64>,
}

impl Registers {
    fn of(output: Elements<'_>) -> Result<Self, BufferError> {
        let mut found = Self::default();
        for element in output {
            let (id, value) = element?;
            let wrong = BufferError::Length { id, length: value.len() };
            let doubleword = || value.try_into().map(u64::from_be_bytes).map_err(|_| wrong);
            match id {
                NIA => found.nia = Some(doubleword()?),
                MSR => found.msr = Some(doubleword()?),
                HDAR => found.hdar = Some(doubleword()?),
                ASDR => found.asdr = Some(doubleword()?),
                HDSISR => {
                    let word = value.try_into().map(u32::from_be_bytes).map_err(|_| wrong)?;
                    found.hdsisr = Some(word);
                }
                _ => {}
            }
        }
        Ok(found)
    }
}

/// The hypervisor's data storage interrupt that the output of a run tells of, which
/// `H_GUEST_RUN_VCPU` answered with vector 0xe00. `None` if HDAR, HDSISR or ASDR is missing.
/// [`StorageFault::of`](crate::second_stage::StorageFault::of) takes it from there.
///
/// # Errors
/// [`BufferError`].
pub fn data_storage(output: Elements<'_>) -> Result<Option<HypervisorFault>, BufferError> {
    let Registers { hdar: Some(hdar), hdsisr: Some(status), asdr: Some(asdr), .. } =
        Registers::of(output)?
    else {
        return Ok(None);
    };
    let status = Status::from_bits(status);
    let interrupt = Interrupt { vector: Vector::HypervisorDataStorage, status };
    Ok(Some(HypervisorFault { interrupt, hdar: Gva::new(hdar), asdr: Gpa::new(asdr) }))
}

/// The hypervisor's instruction storage interrupt that the output of a run tells of, which
/// `H_GUEST_RUN_VCPU` answered with vector 0xe20. `None` if NIA, MSR or ASDR is missing: the first
/// two stand for HSRR0 and HSRR1 (Linux `kvmppc_handle_exit_hv`, which reads them so).
///
/// # Errors
/// [`BufferError`].
///
/// ```
/// use pgtable_ppc64::radix::guest_state::{Elements, instruction_storage};
///
/// let mut output = vec![0, 0, 0, 3];
/// for (id, value) in [(0x1021_u16, 0x1000_u64), (0x1022, 0x4000_0000), (0xf003, 0x7_0000)] {
///     output.extend(id.to_be_bytes());
///     output.extend(8_u16.to_be_bytes());
///     output.extend(value.to_be_bytes());
/// }
/// let fault = instruction_storage(Elements::of(&output)?)?.unwrap();
/// assert_eq!((fault.hdar.get(), fault.asdr.get()), (0x1000, 0x7_0000));
/// assert!(fault.interrupt.status.no_translation());
/// # Ok::<(), pgtable_ppc64::radix::guest_state::BufferError>(())
/// ```
pub fn instruction_storage(output: Elements<'_>) -> Result<Option<HypervisorFault>, BufferError> {
    let Registers { nia: Some(nia), msr: Some(msr), asdr: Some(asdr), .. } = Registers::of(output)?
    else {
        return Ok(None);
    };
    let status = Status::from_bits((msr & HSRR1_CAUSES) as u32);
    let interrupt = Interrupt { vector: Vector::HypervisorInstructionStorage, status };
    Ok(Some(HypervisorFault { interrupt, hdar: Gva::new(nia), asdr: Gpa::new(asdr) }))
}
