//! Structures and constants of `<linux/kvm.h>` and POWER’s `<asm/kvm.h>`, by their C names: what
//! `kvm-bindings` would have in a module `powerpc`.
//!
//! `tests/kvm_abi.rs` checks each against the kernel’s headers. Those of the MMU’s own calls stand
//! in [`pgtable_ppc64::kvm`].

mod cap;
mod one_reg;
mod regs;
mod run;
mod sregs;
mod vm;

pub use cap::*;
pub use one_reg::*;
pub use regs::kvm_regs;
pub use run::*;
pub use sregs::{kvm_sregs, kvm_sregs_ppc32, kvm_sregs_ppc64, kvm_sregs_s, kvm_sregs_slb};
pub use vm::*;
