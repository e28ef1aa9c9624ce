//! `/dev/kvm`.

use super::cap::{self, Cap};
use super::vm::Vm;
use arch_ppc64::kvm::ioctl::Request;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::raw::c_ulong;

/// Request number of [`Kvm::get_api_version`].
pub const KVM_GET_API_VERSION: Request = Request::none(0x00);
/// Request number of [`Kvm::create_vm_with_type`].
pub const KVM_CREATE_VM: Request = Request::none(0x01);
/// Request number of [`Kvm::get_vcpu_mmap_size`].
pub const KVM_GET_VCPU_MMAP_SIZE: Request = Request::none(0x04);

/// The only version of the API that there has been since Linux 2.6.22.
pub const KVM_API_VERSION: u32 = 12;

/// Which of KVM’s two implementations on POWER runs a VM.
#[repr(u32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum VmType {
    /// The kernel chooses.
    Default = 0,
    /// KVM-HV: the guest runs in the CPU’s own supervisor state.
    Hv = 1,
    /// KVM-PR: the guest runs in problem state and the kernel emulates the rest.
    Pr = 2,
}

/// An open `/dev/kvm`.
#[derive(Debug)]
pub struct Kvm(File);

impl Kvm {
    /// Opens `/dev/kvm`.
    ///
    /// # Errors
    /// The OS error: no such device, no permission.
    pub fn new() -> io::Result<Self> {
        OpenOptions::new().read(true).write(true).open("/dev/kvm").map(Self)
    }

    /// The API’s version, [`KVM_API_VERSION`].
    ///
    /// # Errors
    /// `ENOTTY`: this isn’t POWER’s KVM.
    pub fn get_api_version(&self) -> io::Result<u32> {
        // SAFETY: KVM takes no argument.
        unsafe { KVM_GET_API_VERSION.call_value(self.as_raw_fd(), 0) }.map(i32::unsigned_abs)
    }

    /// Asks for a capability: 0 for “not at all”, else the capability’s own number.
    ///
    /// # Errors
    /// The OS error.
    pub fn check_extension(&self, cap: Cap) -> io::Result<u32> {
        cap::check_extension(self.as_raw_fd(), cap)
    }

    /// How many bytes of a vCPU’s file descriptor are mapped to reach its `kvm_run`.
    ///
    /// # Errors
    /// The OS error.
    pub fn get_vcpu_mmap_size(&self) -> io::Result<usize> {
        // SAFETY: KVM takes no argument.
        let size = unsafe { KVM_GET_VCPU_MMAP_SIZE.call_value(self.as_raw_fd(), 0) }?;
        Ok(size.unsigned_abs() as usize)
    }

    /// Creates a VM without memory and without vCPUs.
    ///
    /// # Errors
    /// `EINVAL`: the module for this type isn’t loaded. The OS error.
    pub fn create_vm_with_type(&self, kind: VmType) -> io::Result<Vm> {
        let run_size = self.get_vcpu_mmap_size()?;
        // SAFETY: KVM takes the type as a value.
        let fd = unsafe { KVM_CREATE_VM.call_value(self.as_raw_fd(), kind as c_ulong) }?;
        // SAFETY: KVM has just opened this descriptor for the caller; nobody else owns it.
        Ok(Vm::new(unsafe { OwnedFd::from_raw_fd(fd) }, run_size))
    }
}

impl AsRawFd for Kvm {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }
}
