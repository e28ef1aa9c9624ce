//! Tables for a vCPU that starts with translation on: built in guest memory, in one call.
//!
//! ```
//! use core::sync::atomic::AtomicU64;
//! use pgtable_aarch64::{BootMapping, Stage1Attributes, Stage1Controls, boot_tables};
//! use pgtable::memory::DirectMap;
//! use pgtable::{Attributes, Gpa, Gva, Memory, Prot};
//!
//! # let words: Vec<AtomicU64> = (0..0x10000 / 8).map(|_| AtomicU64::new(0)).collect();
//! let ram = Gpa::new(0x4000_0000);
//! let memory = DirectMap::new(&words, ram); // or `GuestTables`, over vm-memory
//! let controls = Stage1Controls { input_bits: 39, ..Stage1Controls::new() };
//! // Devices are mapped as such: processors access memory speculatively.
//! let devices = Stage1Attributes::from(Prot::RW).with_memory(Memory::Device);
//! let kernel = Gva::new(0xffff_ff80_0000_0000);
//! let boot = boot_tables(
//!     controls,
//!     &memory,
//!     ram..Gpa::new(0x4000_8000),
//!     &[
//!         BootMapping::identity(1 << 30, devices),
//!         BootMapping::identity_at(ram, 512 << 20, Prot::RWX.into()),
//!     ],
//!     &[BootMapping::new(kernel, ram, 512 << 20, Prot::RWX.into())],
//! )?;
//! // Set TCR_EL1, TTBR0_EL1, TTBR1_EL1 and MAIR_EL1 to these, and these bits in SCTLR_EL1.
//! let registers = boot.registers;
//! assert_eq!((registers.ttbr0, registers.sctlr), (0x4000_0000, 0x1005));
//! assert_eq!(boot.mair.attr(4), 0x04); // Device-nGnRE
//! # Ok::<(), pgtable_aarch64::BootError>(())
//! ```

use core::ops::Range;

use pgtable::Gpa;
use pgtable::memory::TableMemory;
use pgtable::vcpu::build_boot_tables;

use crate::memory_type::Mair;
use crate::registers::{Hcr, Registers, Tcr};
use crate::shape::ShapeError;
use crate::stage1::VmsaStage1;
use crate::stage1_attributes::Stage1Attributes;
use crate::stage1_controls::{Regime, Stage1Controls, VaRange};

/// One range to map, by pages of at least the granule.
pub type BootMapping = pgtable::vcpu::BootMapping<Stage1Attributes>;

/// Why boot tables could not be made.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum BootError {
    /// No tree has such addresses.
    #[error(transparent)]
    Shape(#[from] ShapeError),
    /// Mappings for the upper range, which the EL2 regime does not have.
    #[error("the EL2 regime has no upper address range")]
    NoUpperRange,
    /// The tables could not be built.
    #[error(transparent)]
    Tables(#[from] pgtable::vcpu::BootError),
}

/// Tables in guest memory, and how a vCPU uses them.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct BootTables {
    /// TCR, TTBR0 and TTBR1 as a whole, with ASID 0; the bits of SCTLR that have to be set
    /// ([`VmsaStage1::sctlr`]). A range without mappings has no walks (TCR.EPD*x*). HCR_EL2 has
    /// E2H in the EL2&0 regime; TGE, by which EL0 belongs to that regime, is the caller's.
    pub registers: Registers,
    /// MAIR: the memory types that [`Stage1Attributes`] names by index.
    pub mair: Mair,
    /// One past the last byte of the tables.
    pub end: Gpa,
}

/// Builds tables under `controls`, whose own address range does not count, within `area` of guest
/// memory: a tree for the mappings of `lower`, then one for those of `upper`, if there are any.
/// What the area held is overwritten. The registers are those of the controls' regime. Trees of a
/// single level are not built.
///
/// Leaves have AF, are inner shareable, have attribute index 0 and, where they may be written, DBM,
/// unless their attributes choose others.
///
/// # Errors
/// [`BootError`]; the area holds part of the tables then.
pub fn boot_tables<M: TableMemory<Gpa>>(
    controls: Stage1Controls,
    memory: &M,
    area: Range<Gpa>,
    lower: &[BootMapping],
    upper: &[BootMapping],
) -> Result<BootTables, BootError> {
    let el0 = controls.regime.has_el0();
    if !el0 && !upper.is_empty() {
        return Err(BootError::NoUpperRange);
    }
    let (mut tcr, mut sctlr, mut end) = (0, 0, area.start);
    let mut build = |range, mappings: &[BootMapping]| -> Result<u64, BootError> {
        if mappings.is_empty() {
            return Ok(0);
        }
        let format = VmsaStage1::new(Stage1Controls { range, ..controls })?;
        // A root smaller than a granule stands at a granule's start.
        let granule = 1 << controls.granule.shift();
        let start = end.get().checked_next_multiple_of(granule).map_or(area.end, Gpa::new);
        let (root, next) = build_boot_tables(format, memory, start..area.end, mappings)?;
        tcr |= if el0 { format.tcr().into_bits() } else { format.tcr_el2().into_bits() };
        sctlr = format.sctlr().into_bits();
        end = next;
        Ok(format.ttbr(root, 0).into_bits())
    };
    let (ttbr0, ttbr1) = (build(VaRange::Lower, lower)?, build(VaRange::Upper, upper)?);
    if el0 {
        let both = Tcr::from_bits(tcr);
        tcr = both.with_epd0(lower.is_empty()).with_epd1(upper.is_empty()).into_bits();
    }
    let hcr = Hcr::new().with_rw(true).with_e2h(controls.regime == Regime::El20).into_bits();
    let registers =
        Registers { tcr, ttbr0, ttbr1, sctlr, hcr, pan: controls.pan, ..Registers::default() };
    Ok(BootTables { registers, mair: Mair::USUAL, end })
}
