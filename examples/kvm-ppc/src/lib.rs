//! KVM on POWER with the API of `kvm-ioctls`.
//!
//! `kvm-bindings` and `kvm-ioctls` do not compile for POWER. This crate has what they would have
//! there, by their names: [`bindings`] (structures and constants), [`Kvm`], [`VmFd`], [`VcpuFd`],
//! [`VcpuExit`], [`Cap`], [`Error`]. The MMU’s own calls are in [`pgtable_ppc64::kvm::PpcMmu`],
//! which [`VmFd`] has. `tests/kvm_abi.rs` checks every number against the kernel’s headers.
//!
//! All of it compiles on every Linux host, and returns the OS’s error where KVM is not POWER’s.
//!
//! ```no_run
//! use kvm_ppc::bindings::{KVM_CAP_PPC_PAPR, KVM_VM_PPC_HV, kvm_enable_cap, kvm_regs};
//! use kvm_ppc::{Kvm, VcpuExit};
//!
//! let kvm = Kvm::new()?;
//! let vm = kvm.create_vm_with_type(KVM_VM_PPC_HV.into())?;
//! let mut vcpu = vm.create_vcpu(0)?;
//! vcpu.enable_cap(&kvm_enable_cap { cap: KVM_CAP_PPC_PAPR, ..Default::default() })?;
//! vcpu.set_regs(&kvm_regs { pc: 0x100, ..Default::default() })?;
//! match vcpu.run()? {
//!     VcpuExit::PaprHcall(call) => *call.ret = 0,
//!     exit => println!("the vCPU stopped: {exit:?}"),
//! }
//! # Ok::<(), kvm_ppc::Error>(())
//! ```
#![cfg(target_os = "linux")]

pub mod bindings;
pub mod host;
mod ioctls;
mod slots;

pub use ioctls::{
    Cap, Error, Kvm, PaprHcallExit, Result, VcpuControl, VcpuExit, VcpuFd, VmFd, reg_size, requests,
};
pub use slots::{Slots, back_with_base_pages};
