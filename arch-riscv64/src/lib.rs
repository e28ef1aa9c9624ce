//! RISC-V MMU formats for [`pgtable`]: Sv39, Sv48, Sv57, and the guest stages Sv39x4, Sv48x4,
//! Sv57x4.
//!
//! - **Formats as values**: [`Sv`] (satp, vsatp) and [`SvX4`] (hgatp), each with the hart's state
//!   that takes part in translation. `pgtable` walks, builds and changes their trees.
//! - **Faults as the hart reports them**: [`Exception`], and [`Trap`] with stval, htval, htinst.
//! - **Invalidation**, from what a gather collected: fences of this hart ([`sfence_vma`],
//!   [`hfence_vvma`], [`hfence_gvma`], by SINVAL where there is Svinval), of others
//!   ([`remote_sfence_vma`] and its like), of an IOMMU ([`iotinval_vma`], [`iotinval_gvma`]); and
//!   what is owed after a map: [`fence_after_map`].
//! - **For VMMs and debuggers**: [`boot_tables`] writes a vCPU's first tables; [`gva_to_gpa`] says
//!   what an address means; [`PagingWalker`] reaches the bytes there; [`GuestPaging`] goes through
//!   both stages.
//! - **The RISC-V IOMMU** walks the same trees: [`DeviceContext`], [`process_context`], [`ddtp`].
//!
//! Not covered: Sv32, big-endian tables, shadow-stack accesses (Zicfiss), Svukte, physical memory
//! protection and attributes (an access fault comes only from memory that cannot be read).
//! [`Paging::of`] refuses by name what a register says of these: [`CONTROL_BITS`] lists every bit.
//!
//! ```
//! use core::sync::atomic::AtomicU64;
//! use pgtable_riscv64::{Controls, Exception, Mode, Satp, Sv};
//! use pgtable::memory::DirectMap;
//! use pgtable::walk::Walker;
//! use pgtable::{Access, Gpa, Gva};
//!
//! // A root table at 0 whose first entry maps 1 GiB: V, R, X, A, D.
//! let words: Vec<AtomicU64> = (0..512).map(|_| AtomicU64::new(0)).collect();
//! words[0].store(0xcb, core::sync::atomic::Ordering::Relaxed);
//! let memory = DirectMap::new(&words, Gpa::new(0));
//!
//! let format = Sv::new(Mode::Sv39, Controls::new());
//! assert_eq!(format.satp(Gpa::new(0), 1), Satp::from_bits(0x8000_1000_0000_0000));
//! let walker = Walker::new(format, &memory, Gpa::new(0));
//! let fault = walker.translate(Gva::new(0x1234), Access::WRITE).unwrap_err();
//! assert_eq!(fault.arch, Exception::StorePageFault);
//! ```
//!
//! The manual is "The RISC-V Instruction Set Manual, Volume II: Privileged Architecture", version
//! 20240411 and later, quoted by its section titles. Levels are counted from the bottom, as
//! everywhere in `pgtable` and in the manual: 0 is the last one.
#![no_std]
#![forbid(unsafe_code)]

mod attributes;
mod boot;
mod control_bits;
mod controls;
mod entry;
mod exception;
mod fence;
mod format;
mod iommu;
mod paging;
mod paging_walker;
mod pointer_mask;
mod registers;
mod sbi;
mod trap;

pub use attributes::{GuestAttributes, LeafAttributes, PageAttributes};
pub use boot::{BootError, BootMapping, BootTables, boot_tables};
pub use control_bits::{CONTROL_BITS, ControlBits, ControlRegister, Effect, RefusedBit};
pub use controls::{Controls, Extensions, GuestControls, Mode};
pub use entry::PageTableEntry;
pub use exception::Exception;
pub use fence::{
    CEILING, Fence, FenceInstruction, fence_after_map, hfence_gvma, hfence_vvma, sfence_vma,
};
pub use format::{Sv, SvStage, SvTables, SvX4};
pub use iommu::{
    DeviceContext, Iohgatp, IommuInvalidation, ProcessDirectory, TranslationControl, ddtp,
    device_indices, directory_entry, iotinval_gvma, iotinval_vma, process_context, process_indices,
};
pub use paging::{GuestPaging, GvaError, Paging, Registers, Unsupported, gva_to_gpa};
pub use paging_walker::{GuestTranslation, GuestWalker, PagingWalker, VirtualTranslation};
pub use pointer_mask::PointerMask;
pub use registers::{Hgatp, Satp};
pub use sbi::{
    HartMask, HartMasks, RFENCE, SbiCall, remote_hfence_gvma, remote_hfence_vvma, remote_sfence_vma,
};
pub use trap::{PSEUDO_READ, PSEUDO_WRITE, Trap};

#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
