//! Request numbers of the calls.

use pgtable_ppc64::kvm::ioctl::Request;

use crate::bindings::*;

/// Request number of [`Kvm::get_api_version`](crate::Kvm::get_api_version).
pub const KVM_GET_API_VERSION: Request = Request::none(0x00);
/// Request number of [`Kvm::create_vm`](crate::Kvm::create_vm).
pub const KVM_CREATE_VM: Request = Request::none(0x01);
/// Request number of `check_extension`, on `/dev/kvm` and on a VM.
pub const KVM_CHECK_EXTENSION: Request = Request::none(0x03);
/// Request number of [`Kvm::get_vcpu_mmap_size`](crate::Kvm::get_vcpu_mmap_size).
pub const KVM_GET_VCPU_MMAP_SIZE: Request = Request::none(0x04);
/// Request number of [`VmFd::create_vcpu`](crate::VmFd::create_vcpu).
pub const KVM_CREATE_VCPU: Request = Request::none(0x41);
/// Request number of [`VmFd::set_user_memory_region`](crate::VmFd::set_user_memory_region).
pub const KVM_SET_USER_MEMORY_REGION: Request = Request::write::<kvm_userspace_memory_region>(0x46);
/// Request number of [`VcpuFd::run`](crate::VcpuFd::run).
pub const KVM_RUN: Request = Request::none(0x80);
/// Request number of [`VcpuControl::get_regs`](crate::VcpuControl::get_regs).
pub const KVM_GET_REGS: Request = Request::read::<kvm_regs>(0x81);
/// Request number of [`VcpuControl::set_regs`](crate::VcpuControl::set_regs).
pub const KVM_SET_REGS: Request = Request::write::<kvm_regs>(0x82);
/// Request number of [`VcpuControl::get_sregs`](crate::VcpuControl::get_sregs).
pub const KVM_GET_SREGS: Request = Request::read::<kvm_sregs>(0x83);
/// Request number of [`VcpuControl::set_sregs`](crate::VcpuControl::set_sregs).
pub const KVM_SET_SREGS: Request = Request::write::<kvm_sregs>(0x84);
/// Request number of [`VcpuControl::interrupt`](crate::VcpuControl::interrupt).
pub const KVM_INTERRUPT: Request = Request::write::<kvm_interrupt>(0x86);
/// Request number of `enable_cap`, on a VM and on a vCPU.
pub const KVM_ENABLE_CAP: Request = Request::write::<kvm_enable_cap>(0xa3);
/// Request number of [`VcpuControl::get_one_reg`](crate::VcpuControl::get_one_reg).
///
/// The kernel writes through the address inside the argument, not to the argument itself: `_IOW` is
/// right.
pub const KVM_GET_ONE_REG: Request = Request::write::<kvm_one_reg>(0xab);
/// Request number of [`VcpuControl::set_one_reg`](crate::VcpuControl::set_one_reg).
pub const KVM_SET_ONE_REG: Request = Request::write::<kvm_one_reg>(0xac);
