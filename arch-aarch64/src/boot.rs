//! Tables for a vCPU that starts with translation on: built in guest memory, in one call.
//!
//! ```
//! use core::sync::atomic::AtomicU64;
//! use arch_aarch64::{BootMapping, Stage1Controls, boot_tables};
//! use pgtable::memory::DirectMap;
//! use pgtable::{Gpa, Gva, Prot};
//!
//! # let words: Vec<AtomicU64> = (0..0x10000 / 8).map(|_| AtomicU64::new(0)).collect();
//! let memory = DirectMap::new(&words, Gpa::new(0)); // or `GuestTables`, over vm-memory
//! let controls = Stage1Controls { input_bits: 39, ..Stage1Controls::new() };
//! let kernel = Gva::new(0xffff_ff80_0000_0000);
//! let boot = boot_tables(
//!     controls,
//!     &memory,
//!     Gpa::new(0x1000)..Gpa::new(0x9000),
//!     &[BootMapping::identity(1 << 32, Prot::RWX.into())],
//!     &[BootMapping::new(kernel, Gpa::new(0x4000_0000), 512 << 20, Prot::RWX.into())],
//! )?;
//! assert_eq!(boot.ttbr0.root(false), 0x1000);
//! // Set these registers, MAIR_EL1 to `Mair::USUAL`, and M in SCTLR_EL1.
//! # Ok::<(), arch_aarch64::BootError>(())
//! ```

use core::ops::Range;

use pgtable::Gpa;
use pgtable::memory::TableMemory;
use pgtable::vcpu::build_boot_tables;

use crate::registers::{Tcr, Ttbr};
use crate::shape::ShapeError;
use crate::stage1::VmsaStage1;
use crate::stage1_attributes::Stage1Attributes;
use crate::stage1_controls::{Stage1Controls, VaRange};

/// One range to map, by pages of at least the granule.
pub type BootMapping = pgtable::vcpu::BootMapping<Stage1Attributes>;

/// Why boot tables could not be made.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum BootError {
    /// No tree has such addresses.
    #[error(transparent)]
    Shape(#[from] ShapeError),
    /// The tables could not be built.
    #[error(transparent)]
    Tables(#[from] pgtable::vcpu::BootError),
}

/// Tables in guest memory, and how a vCPU uses them.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct BootTables {
    /// TCR_EL1: a range without mappings has no walks.
    pub tcr: Tcr,
    /// TTBR0_EL1.
    pub ttbr0: Ttbr,
    /// TTBR1_EL1.
    pub ttbr1: Ttbr,
    /// One past the last byte of the tables.
    pub end: Gpa,
}

/// Builds tables under `controls`, whose own address range does not count, within `area` of guest
/// memory: a tree for the mappings of `lower`, then one for those of `upper`, if there are any.
/// What the area held is overwritten. Trees of a single level are not built.
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
    let mut boot =
        BootTables { tcr: Tcr::new(), ttbr0: Ttbr::new(), ttbr1: Ttbr::new(), end: area.start };
    let mut build = |range, mappings: &[BootMapping]| -> Result<Ttbr, BootError> {
        if mappings.is_empty() {
            return Ok(Ttbr::new());
        }
        let format = VmsaStage1::new(Stage1Controls { range, ..controls })?;
        // A root smaller than a granule stands at a granule's start.
        let granule = 1 << controls.granule.shift();
        let start = boot.end.get().checked_next_multiple_of(granule).map_or(area.end, Gpa::new);
        let (root, end) = build_boot_tables(format, memory, start..area.end, mappings)?;
        boot.tcr = Tcr::from_bits(boot.tcr.into_bits() | format.tcr().into_bits());
        boot.end = end;
        Ok(Ttbr::of(root.get(), 0, format.output_bits() == 52))
    };
    let (ttbr0, ttbr1) = (build(VaRange::Lower, lower)?, build(VaRange::Upper, upper)?);
    let tcr = boot.tcr.with_epd0(lower.is_empty()).with_epd1(upper.is_empty());
    Ok(BootTables { tcr, ttbr0, ttbr1, ..boot })
}
