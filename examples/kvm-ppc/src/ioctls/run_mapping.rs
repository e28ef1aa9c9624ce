//! The mapping of a vCPU’s `kvm_run`.

use std::os::fd::{AsRawFd, OwnedFd};
use std::ptr::{self, NonNull};

use super::{Error, Result};
use crate::bindings::kvm_run;

/// The mapping of one vCPU’s `kvm_run`.
#[derive(Debug)]
pub(super) struct RunMapping {
    run: NonNull<kvm_run>,
    size: usize,
}

// SAFETY: the mapping belongs to the process, not to a thread, and is owned by this value.
unsafe impl Send for RunMapping {}

impl RunMapping {
    pub(super) fn new(vcpu: &OwnedFd, size: usize) -> Result<Self> {
        if size < size_of::<kvm_run>() {
            return Err(Error::new(libc::EINVAL));
        }
        // SAFETY: a new mapping at an address that the kernel chooses touches no other memory.
        let address = unsafe {
            libc::mmap(
                ptr::null_mut(),
                size,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_SHARED,
                vcpu.as_raw_fd(),
                0,
            )
        };
        match NonNull::new(address.cast()) {
            Some(run) if address != libc::MAP_FAILED => Ok(Self { run, size }),
            _ => Err(Error::last()),
        }
    }

    /// The shared structure, while the vCPU is outside `KVM_RUN`.
    pub(super) fn get_mut(&mut self) -> &mut kvm_run {
        // SAFETY: the mapping is at least a `kvm_run`, page aligned, any bit pattern is valid, and
        // it lives as long as `self`. KVM touches it only inside `KVM_RUN`, which a vCPU enters
        // with `&mut self`, so never while this borrow lives.
        unsafe { self.run.as_mut() }
    }
}

impl Drop for RunMapping {
    fn drop(&mut self) {
        // SAFETY: exactly the mapping that `new` made, and no borrow of it is left.
        unsafe { libc::munmap(self.run.as_ptr().cast(), self.size) };
    }
}
