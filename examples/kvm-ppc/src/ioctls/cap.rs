//! Capabilities as an enum.

use std::os::fd::RawFd;
use std::os::raw::c_ulong;

use super::requests::{KVM_CHECK_EXTENSION, KVM_ENABLE_CAP};
use super::{Error, Result};
use crate::bindings::*;

/// A capability: the part of `kvm_ioctls::Cap` that concerns POWER.
#[repr(u32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Cap {
    /// A vCPU in PAPR mode: hypercalls are a PAPR guest’s. Enabled before the vCPU runs.
    PpcPapr = KVM_CAP_PPC_PAPR,
    /// Registers are read and written one by one.
    OneReg = KVM_CAP_ONE_REG,
    /// The guest’s hashed page table is read and written through a file descriptor.
    PpcHtabFd = KVM_CAP_PPC_HTAB_FD,
    /// Which hypercalls the kernel carries out itself.
    PpcEnableHcall = KVM_CAP_PPC_ENABLE_HCALL,
    /// Radix guests.
    PpcMmuRadix = KVM_CAP_PPC_MMU_RADIX,
    /// Hashed guests with ISA v3.0 process tables.
    PpcMmuHashV3 = KVM_CAP_PPC_MMU_HASH_V3,
    /// `kvm_run.immediate_exit` is honoured.
    ImmediateExit = KVM_CAP_IMMEDIATE_EXIT,
    /// Guests that run guests of their own.
    PpcNestedHv = KVM_CAP_PPC_NESTED_HV,
    /// `H_RPT_INVALIDATE` in the kernel.
    PpcRptInvalidate = KVM_CAP_PPC_RPT_INVALIDATE,
}

/// Asks what a file descriptor of KVM can do: 0 for “not at all”, else a capability’s own number; a
/// negative number: it is no file descriptor of KVM.
pub(super) fn check_extension(fd: RawFd, cap: c_ulong) -> i32 {
    // SAFETY: KVM takes the capability’s number as a value.
    unsafe { KVM_CHECK_EXTENSION.call_value(fd, cap) }.unwrap_or(-1)
}

/// Switches a capability on for a VM or a vCPU.
pub(super) fn enable_cap(fd: RawFd, cap: &kvm_enable_cap) -> Result<()> {
    // SAFETY: KVM reads one `kvm_enable_cap`. No capability of POWER has an address in it.
    unsafe { KVM_ENABLE_CAP.call_ref(fd, cap) }.map(drop).map_err(Error::from)
}
