//! x86 MMU formats for [`pgtable`]: 32-bit, PAE and long mode, EPT, nested paging.
//!
//! - **Formats as values**: [`LongMode`] (stage 1, 4 or 5 levels), [`Pae`] and [`Paging32`] (stage
//!   1 of 32-bit guests), [`Npt`] and [`Ept`] (stage 2), each with the processor's controls that
//!   take part in translation. `pgtable` walks, builds and changes their trees.
//! - **Faults as the processor reports them**: [`LongModeFault`], [`NestedPageFault`],
//!   [`EptFault`].
//! - **Confidential guests**: [`Privacy`] names the C-bit of SEV or the shared bit of TDX, which
//!   then is no address bit.
//! - **Invalidation** as operands of INVLPG, INVPCID, INVVPID, INVEPT, INVLPGA, INVLPGB, VMRUN:
//!   from what a gather collected to [`Flush`], [`invpcid`], [`invvpid`], [`invept`], [`invlpga`],
//!   [`invlpgb`], [`tlb_control`].
//! - **Dirty logs**: [`logged_pages`] reads the page-modification log (PML) of EPT and NPT.
//! - **For VMMs**: [`boot_tables`] writes a vCPU's first tables; [`gva_to_gpa`] says what a
//!   guest's address means in whatever mode it is; [`PagingWalker`] reaches the bytes there.
//!   [`AddressRules`] are LAM, UAI and LASS.
//!
//! Not covered: sub-page permissions, guest-paging verification, paging-write, HLAT, guest-mode
//! execute trap: [`Ept::of`] and [`Npt::of`] refuse them by name, [`STAGE2_BITS`] lists every bit.
//! [`Paging::of`] refuses reserved bits: [`CONTROL_BITS`] lists every bit.
//!
//! # Evidence
//!
//! | rules | compared with |
//! | --- | --- |
//! | 4-level paging, NX, SMEP, SMAP, protection keys of user-mode addresses | processors under KVM, as far as the machine has them; QEMU 10.0's processor under KVM, with 5-level paging too |
//! | 32-bit and PAE paging | QEMU 10.0, Bochs 2.7; KVM_TRANSLATE |
//! | EPT, with A/D flags, execute-only pages and what the guest's walk does through it | Bochs 2.7's VMX |
//! | nested paging, 4 and 5 levels | QEMU 10.0's and Bochs 2.7's SVM |
//! | LAM | no processor: QEMU 10.0 has LAM under KVM only (`-accel tcg -cpu max,+lam`: "TCG doesn't support requested feature: CPUID.07H:EAX.lam"); Bochs (2.7, and its sources of August 2026) leaves it out of the processors that have it. KVM's `vmx_get_untagged_addr` states the same rules |
//! | UAI | no processor: neither emulator has it, in any version |
//! | LASS, shadow stacks, protection keys of supervisor-mode addresses, encryption bits, 5-level EPT, mode-based execute control | no processor: rows from the manuals, and a model written from them |
//!
//! `cargo xtask probe --arch x86 [--emulated | --legacy | --stage2]` in the repository repeats the
//! comparisons.
//!
//! ```
//! use core::sync::atomic::AtomicU64;
//! use pgtable_x86::{BootMapping, Controls, Levels, LongMode, boot_tables};
//! use pgtable::memory::DirectMap;
//! use pgtable::walk::Walker;
//! use pgtable::{Access, Gpa, Gva, Prot};
//!
//! # let words: Vec<AtomicU64> = (0..0x10000 / 8).map(|_| AtomicU64::new(0)).collect();
//! let memory = DirectMap::new(&words, Gpa::new(0));
//! let format = LongMode::new(Levels::Four, Controls { smap: true, ..Controls::new() });
//! let read_only = BootMapping::identity(1 << 30, Prot::R.for_user().into());
//! let boot = boot_tables(format, &memory, Gpa::new(0x9000)..Gpa::new(0xc000), [read_only])?;
//!
//! let walker = Walker::new(format, &memory, boot.registers.cr3.root());
//! let fault = walker.translate(Gva::new(0x1234), Access::WRITE.by_user()).unwrap_err();
//! assert_eq!(fault.arch.to_string(), "#PF error 0x7: user write to a present page");
//! # Ok::<(), pgtable_x86::BootError>(())
//! ```
//!
//! "SDM" is Intel's Software Developer's Manual, volume 3, by the sections of the 2023 editions, in
//! which paging is chapter 4 and EPT chapter 29; "APM" is AMD's Architecture Programmer's Manual,
//! volume 2. Levels are counted from the bottom, as everywhere in `pgtable`: 0 is the page table
//! (PT), 1 the page directory (PD), 2 the page-directory-pointer table (PDPT), 3 the PML4, 4 the
//! PML5.
#![no_std]
#![forbid(unsafe_code)]

mod attributes;
mod attributes32;
mod boot;
mod broadcast;
mod control_bits;
mod controls;
mod entry;
mod ept;
mod ept_attributes;
mod ept_controls;
mod ept_entry;
mod ept_fault;
mod gva;
mod invalidate;
mod linear;
mod long_mode;
mod npt;
mod pae;
mod page_fault;
mod page_log;
mod paging32;
mod paging_walker;
mod privacy;
mod registers;
mod rights;
mod shape;
mod stage2_registers;
mod tree;

pub use attributes::PageAttributes;
pub use attributes32::Attributes32;
pub use boot::{BootError, BootMapping, BootTables, boot_tables};
pub use broadcast::{
    BroadcastTarget, Invlpga, Invlpgb, InvlpgbAddress, InvlpgbContext, InvlpgbCount, invlpga,
    invlpgb, invlpgb_nested,
};
pub use control_bits::{CONTROL_BITS, ControlBits, ControlRegister, Effect, RefusedBit};
pub use controls::{Controls, KeyRegister, KeyRights, Levels};
pub use entry::{HugePageEntry, HugePageEntry32, PageEntry, Pdpte, TableEntry};
pub use ept::{Ept, EptPath};
pub use ept_attributes::EptAttributes;
pub use ept_controls::EptControls;
pub use ept_entry::{EptPageEntry, EptTableEntry, Eptp, MemoryType};
pub use ept_fault::{EptFault, EptViolation};
pub use gva::{GvaError, Paging, Unsupported, gva_to_gpa};
pub use invalidate::{
    CEILING, Flush, Invept, InveptDescriptor, InveptType, Invpcid, InvpcidDescriptor, InvpcidType,
    Invvpid, InvvpidDescriptor, InvvpidType, Pages, TlbControl, invept, invpcid, invvpid,
    tlb_control,
};
pub use linear::AddressRules;
pub use long_mode::LongMode;
pub use npt::{NestedPageFault, Npt, NptAttributes, NptControls};
pub use pae::{Pae, PdpteError, Pdptes};
pub use page_fault::{LongModeFault, PageFaultCode};
pub use page_log::{PML_ENTRIES, logged_pages};
pub use paging_walker::{LinearTranslation, PagingWalker};
pub use paging32::Paging32;
pub use privacy::Privacy;
pub use registers::{Cr0, Cr3, Cr3Pae, Cr3Pcid, Cr4, Efer, Pcid, Registers};
pub use stage2_registers::{STAGE2_BITS, Stage2Bits, Stage2Register, Stage2Unsupported};
pub use tree::Path;

#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
