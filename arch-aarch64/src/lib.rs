//! AArch64 MMU formats for [`pgtable`]: VMSAv8-64, both stages, every granule.
//!
//! - **Formats as values**: [`VmsaStage1`] (EL1&0, EL2, EL2&0) and [`VmsaStage2`], with the
//!   granule, the address sizes and the control bits that take part in translation. `pgtable`
//!   walks, builds and changes their trees.
//! - **Faults as the processor reports them**: [`Esr`], [`hpfar`], [`FailedPar`]. [`Abort`] is
//!   what the handler at EL2 reads: the address and the access to fault in.
//! - **Invalidation** as operands of TLBI and barriers: [`tlbi_stage1`], [`tlbi_stage2`].
//! - **For VMMs**: [`Paging::of`] and [`stage2_of`] make formats of a processor's registers;
//!   [`gva_to_gpa`] says what an address means; [`PagingWalker`] reaches the bytes there;
//!   [`boot_tables`] writes a vCPU's first tables.
//!
//! Not covered: AArch32, indirect permissions and overlays (FEAT_S1PIE, FEAT_S1POE and stage 2's),
//! 128-bit descriptors, hardware-managed table access flags (FEAT_HAFT), nested virtualization
//! (FEAT_NV), big-endian walks, Secure and Realm state beyond the NS bits in descriptors, and what
//! comes after translation (granule protection, memory tags). [`Paging::of`] refuses by name what a
//! register says of these: [`CONTROL_BITS`] lists every bit.
//!
//! ```
//! use core::sync::atomic::AtomicU64;
//! use pgtable_aarch64::{Granule, Stage1Controls, VmsaStage1};
//! use pgtable::memory::DirectMap;
//! use pgtable::walk::Walker;
//! use pgtable::{Access, Gpa, Gva};
//!
//! // Two levels of 16-KiB tables: a page at 0x4000 that EL0 may read.
//! let mut words: Vec<AtomicU64> = (0..0x8000 / 8).map(|_| AtomicU64::new(0)).collect();
//! words[0] = AtomicU64::new(0x4003);
//! words[0x800 + 1] = AtomicU64::new(0x8000 | 0x4c3 | 1 << 10);
//! let controls = Stage1Controls { granule: Granule::K16, input_bits: 36, ..Stage1Controls::new() };
//! let format = VmsaStage1::new(controls)?;
//! let walker = Walker::new(format, DirectMap::new(&words, Gpa::new(0)), Gpa::new(0));
//!
//! let page = walker.translate(Gva::new(0x4567), Access::READ.by_user()).unwrap();
//! assert_eq!(page.output, Gpa::new(0x8567));
//! let fault = walker.translate(Gva::new(0x4567), Access::WRITE.by_user()).unwrap_err();
//! assert_eq!(fault.arch.to_string(), "ESR 0x9200004f: write, permission fault, level 3");
//! # Ok::<(), pgtable_aarch64::ShapeError>(())
//! ```
//!
//! "DDI 0487" is the Arm Architecture Reference Manual for A-profile, by the sections of issue
//! M.a.a; its chapter D8 describes translation. System registers are named: their sections move.
//! Levels are counted from the bottom, as everywhere in `pgtable`: 0 is the manual's level 3. Start
//! levels and faults use the manual's numbers.
#![no_std]
#![forbid(unsafe_code)]

mod abort;
mod boot;
mod control_bits;
mod descriptor;
mod gva;
mod invalidate;
mod memory_type;
mod paging_walker;
mod registers;
mod shape;
mod stage1;
mod stage1_attributes;
mod stage1_controls;
mod stage2;
mod stage2_attributes;
mod syndrome;
mod tree_registers;

pub use abort::{Abort, NotStage2};
pub use boot::{BootError, BootMapping, BootTables, boot_tables};
pub use control_bits::{CONTROL_BITS, ControlBits, ControlRegister, Effect, RefusedBit};
pub use descriptor::{Stage1Descriptor, Stage2Descriptor, TableDescriptor};
pub use gva::{Half, Paging, Tree, Unsupported, stage2_of};
pub use invalidate::{
    Asids, Barrier, Tlbi, TlbiAddress, TlbiFeatures, TlbiRange, stage1 as tlbi_stage1,
    stage2 as tlbi_stage2,
};
pub use memory_type::{Mair, combined_memory, combined_shareability};
pub use paging_walker::{GvaError, PagingWalker, StageTranslation, gva_to_gpa};
pub use registers::{Hcr, Processor, Registers, Sctlr, Tcr, TcrEl2, Ttbr, Vtcr};
pub use shape::{Granule, ShapeError};
pub use stage1::VmsaStage1;
pub use stage1_attributes::{Shareability, Stage1Attributes};
pub use stage1_controls::{Regime, Stage1Controls, VaRange};
pub use stage2::{Stage2Controls, VmsaStage2};
pub use stage2_attributes::{Stage2Attributes, Stage2Execute, Stage2Memory};
pub use syndrome::{Esr, FailedPar, FaultKind, FaultStatus, hpfar};

#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
