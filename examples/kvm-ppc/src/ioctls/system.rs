//! `/dev/kvm`.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::raw::c_ulong;
use std::path::Path;

use super::cap::{self, Cap};
use super::requests::{KVM_CREATE_VM, KVM_GET_API_VERSION, KVM_GET_VCPU_MMAP_SIZE};
use super::vm::VmFd;
use super::{Error, Result};

/// An open `/dev/kvm`.
#[derive(Debug)]
pub struct Kvm(File);

impl Kvm {
    /// Opens `/dev/kvm`.
    ///
    /// # Errors
    /// The OS error: no such device, no permission.
    pub fn new() -> Result<Self> {
        Self::new_with_path("/dev/kvm")
    }

    /// Opens KVM’s device at another path.
    ///
    /// # Errors
    /// The OS error: no such device, no permission.
    pub fn new_with_path(path: impl AsRef<Path>) -> Result<Self> {
        Ok(Self(OpenOptions::new().read(true).write(true).open(path)?))
    }

    /// The API’s version, [`KVM_API_VERSION`](crate::bindings::KVM_API_VERSION); negative: the
    /// device is not KVM’s.
    #[must_use]
    pub fn get_api_version(&self) -> i32 {
        // SAFETY: KVM takes no argument.
        unsafe { KVM_GET_API_VERSION.call_value(self.as_raw_fd(), 0) }.unwrap_or(-1)
    }

    /// Whether the kernel has a capability.
    #[must_use]
    pub fn check_extension(&self, cap: Cap) -> bool {
        self.check_extension_int(cap) > 0
    }

    /// A capability’s own number: 0 for “not at all”, negative where the call fails.
    #[must_use]
    pub fn check_extension_int(&self, cap: Cap) -> i32 {
        self.check_extension_raw(cap as c_ulong)
    }

    /// Like [`check_extension_int`](Self::check_extension_int), of a `KVM_CAP_*` number.
    #[must_use]
    pub fn check_extension_raw(&self, cap: c_ulong) -> i32 {
        cap::check_extension(self.as_raw_fd(), cap)
    }

    /// How many bytes of a vCPU’s file descriptor are mapped to reach its `kvm_run`.
    ///
    /// # Errors
    /// The OS error.
    pub fn get_vcpu_mmap_size(&self) -> Result<usize> {
        // SAFETY: KVM takes no argument.
        let size = unsafe { KVM_GET_VCPU_MMAP_SIZE.call_value(self.as_raw_fd(), 0) }?;
        Ok(size.unsigned_abs() as usize)
    }

    /// Creates a VM without memory and without vCPUs; the kernel chooses between KVM-HV and KVM-PR.
    ///
    /// # Errors
    /// The OS error.
    pub fn create_vm(&self) -> Result<VmFd> {
        self.create_vm_with_type(0)
    }

    /// Creates a VM of a type: [`KVM_VM_PPC_HV`](crate::bindings::KVM_VM_PPC_HV),
    /// [`KVM_VM_PPC_PR`](crate::bindings::KVM_VM_PPC_PR), or 0.
    ///
    /// # Errors
    /// `EINVAL`: the module for this type is not loaded. The OS error.
    pub fn create_vm_with_type(&self, vm_type: u64) -> Result<VmFd> {
        let run_size = self.get_vcpu_mmap_size()?;
        let vm_type = c_ulong::try_from(vm_type).map_err(|_| Error::new(libc::EINVAL))?;
        let fd = loop {
            // SAFETY: KVM takes the type as a value.
            match unsafe { KVM_CREATE_VM.call_value(self.as_raw_fd(), vm_type) } {
                // Linux's `mm_take_all_locks` gives up where a signal is pending.
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                result => break result?,
            }
        };
        // SAFETY: KVM has just opened this descriptor for the caller; nobody else owns it.
        Ok(VmFd::new(unsafe { OwnedFd::from_raw_fd(fd) }, run_size))
    }
}

impl AsRawFd for Kvm {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }
}
