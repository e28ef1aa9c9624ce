//! A VM: its memory and its vCPUs.

use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::raw::c_ulong;

use pgtable_ppc64::kvm::{KVM_GET_DIRTY_LOG, PpcMmu, kvm_dirty_log};

use super::cap::{self, Cap};
use super::requests::{KVM_CREATE_VCPU, KVM_SET_USER_MEMORY_REGION};
use super::vcpu::VcpuFd;
use super::{Error, Result};
use crate::bindings::{kvm_enable_cap, kvm_userspace_memory_region};

/// A VM’s file descriptor. The MMU’s calls are those of [`PpcMmu`].
#[derive(Debug)]
pub struct VmFd {
    fd: OwnedFd,
    run_size: usize,
}

impl VmFd {
    pub(super) fn new(fd: OwnedFd, run_size: usize) -> Self {
        Self { fd, run_size }
    }

    /// Whether this VM has a capability.
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

    /// Switches a capability on.
    ///
    /// # Errors
    /// `EINVAL`: the capability is not one of a VM.
    pub fn enable_cap(&self, cap: &kvm_enable_cap) -> Result<()> {
        cap::enable_cap(self.as_raw_fd(), cap)
    }

    /// Sets, moves or takes away a memory slot.
    ///
    /// # Errors
    /// `EINVAL`: alignment, flags. `EEXIST`: the guest addresses overlap another slot’s.
    ///
    /// # Safety
    /// The guest reads and writes `memory_size` bytes at `userspace_addr` until the slot is taken
    /// away or the VM is gone. They must stay mapped for so long, and this process must touch them
    /// only as memory that others change at any time (atomically, or through raw pointers).
    pub unsafe fn set_user_memory_region(&self, region: kvm_userspace_memory_region) -> Result<()> {
        // SAFETY: KVM reads one `kvm_userspace_memory_region`; the caller answers for the memory.
        let done = unsafe { KVM_SET_USER_MEMORY_REGION.call_ref(self.as_raw_fd(), &region) };
        done.map(drop).map_err(Error::from)
    }

    /// What was written in slot `slot`, of `memory_size` bytes, since KVM was last asked: a bit for
    /// each page of the host. KVM clears its own record.
    ///
    /// # Errors
    /// `ENOENT`: there is no such slot, or it is not logged.
    ///
    /// # Safety
    /// The slot must be no larger than `memory_size`: KVM writes a bit for each of its pages.
    pub unsafe fn get_dirty_log(&self, slot: u32, memory_size: usize) -> Result<Vec<u64>> {
        // SAFETY: the call takes a number and returns one.
        let page = match unsafe { libc::sysconf(libc::_SC_PAGESIZE) } {
            -1 => return Err(Error::last()),
            page => page as usize,
        };
        let mut bitmap = vec![0u64; memory_size.div_ceil(page).div_ceil(64)];
        let dirty_bitmap = bitmap.as_mut_ptr() as u64;
        let argument = kvm_dirty_log { slot, padding1: 0, dirty_bitmap };
        // SAFETY: KVM reads the argument and writes a bit per page of the slot, for which the
        // caller says that the bitmap is large enough.
        unsafe { KVM_GET_DIRTY_LOG.call_ref(self.as_raw_fd(), &argument) }?;
        Ok(bitmap)
    }

    /// Creates a vCPU.
    ///
    /// # Errors
    /// `EEXIST`: the id is taken. `EINVAL`: the id is too large. The OS error of mapping `kvm_run`.
    pub fn create_vcpu(&self, id: u64) -> Result<VcpuFd> {
        let id = c_ulong::try_from(id).map_err(|_| Error::new(libc::EINVAL))?;
        // SAFETY: KVM takes the id as a value.
        let fd = unsafe { KVM_CREATE_VCPU.call_value(self.as_raw_fd(), id) }?;
        // SAFETY: KVM has just opened this descriptor for the caller; nobody else owns it.
        VcpuFd::new(unsafe { OwnedFd::from_raw_fd(fd) }, self.run_size)
    }

    /// How many bytes of a vCPU’s file descriptor are mapped to reach its `kvm_run`.
    #[must_use]
    pub fn run_size(&self) -> usize {
        self.run_size
    }
}

impl AsRawFd for VmFd {
    fn as_raw_fd(&self) -> RawFd {
        self.fd.as_raw_fd()
    }
}

// SAFETY: the descriptor is what `KVM_CREATE_VM` answered, and this type owns it.
unsafe impl PpcMmu for VmFd {}
