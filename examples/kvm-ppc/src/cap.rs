//! Capabilities: what a kernel can do, and switching some of it on.

use arch_ppc64::kvm::ioctl::Request;
use std::io;
use std::os::fd::RawFd;
use std::os::raw::c_ulong;

/// Request number of `check_extension`, on `/dev/kvm` and on a VM.
pub const KVM_CHECK_EXTENSION: Request = Request::none(0x03);
/// Request number of `enable_cap`, on a VM and on a vCPU.
pub const KVM_ENABLE_CAP: Request = Request::write::<kvm_enable_cap>(0xa3);

/// A capability, by its number in `<linux/kvm.h>`.
#[repr(u32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cap {
    /// A vCPU in PAPR mode: hypercalls are a PAPR guest’s. Must be enabled before the vCPU runs.
    PpcPapr = 68,
    /// Registers are read and written one by one.
    OneReg = 70,
    /// The guest’s hashed page table can be read and written through a file descriptor.
    PpcHtabFd = 84,
    /// Which hypercalls the kernel carries out itself.
    PpcEnableHcall = 104,
    /// Radix guests.
    PpcMmuRadix = 134,
    /// Hashed guests with ISA v3.0 process tables.
    PpcMmuHashV3 = 135,
    /// `kvm_run.immediate_exit` is honoured.
    ImmediateExit = 136,
    /// Guests that run guests of their own.
    PpcNestedHv = 160,
    /// `H_RPT_INVALIDATE` in the kernel.
    PpcRptInvalidate = 202,
}

/// The argument of `KVM_ENABLE_CAP`.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct kvm_enable_cap {
    /// The capability’s number.
    pub cap: u32,
    /// Must be zero unless the capability defines flags.
    pub flags: u32,
    /// What the capability takes.
    pub args: [u64; 4],
    /// Reserved.
    pub pad: [u8; 64],
}

/// Asks what a file descriptor of KVM can do: 0 for “not at all”, else a capability’s own number.
pub(super) fn check_extension(fd: RawFd, cap: Cap) -> io::Result<u32> {
    // SAFETY: KVM takes the capability’s number as a value.
    let answer = unsafe { KVM_CHECK_EXTENSION.call_value(fd, cap as c_ulong) }?;
    Ok(answer.unsigned_abs())
}

/// Switches a capability on for a VM or a vCPU.
pub(super) fn enable_cap(fd: RawFd, cap: Cap, args: [u64; 4]) -> io::Result<()> {
    let cap = kvm_enable_cap { cap: cap as u32, flags: 0, args, pad: [0; 64] };
    // SAFETY: KVM reads one `kvm_enable_cap`. None of the capabilities of `Cap` takes an address.
    unsafe { KVM_ENABLE_CAP.call_ref(fd, &cap) }.map(drop)
}
