//! A VM: its memory and its vCPUs.

use super::cap::{self, Cap};
use super::vcpu::Vcpu;
use arch_ppc64::kvm::PpcMmu;
use arch_ppc64::kvm::ioctl::Request;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::raw::c_ulong;

/// Request number of [`Vm::create_vcpu`].
pub const KVM_CREATE_VCPU: Request = Request::none(0x41);
/// Request number of [`Vm::set_user_memory_region`].
pub const KVM_SET_USER_MEMORY_REGION: Request = Request::write::<kvm_userspace_memory_region>(0x46);

/// A memory slot: guest real addresses, and the memory of this process behind them.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct kvm_userspace_memory_region {
    /// The slot’s number.
    pub slot: u32,
    /// Flags; KVM on POWER takes `KVM_MEM_LOG_DIRTY_PAGES` (1) only.
    pub flags: u32,
    /// First guest real address, aligned to a page of the host.
    pub guest_phys_addr: u64,
    /// Bytes, a multiple of the host’s page size; 0 takes the slot away.
    pub memory_size: u64,
    /// First address in this process, aligned to a page of the host.
    pub userspace_addr: u64,
}

/// A VM’s file descriptor.
#[derive(Debug)]
pub struct Vm {
    fd: OwnedFd,
    run_size: usize,
}

impl Vm {
    pub(super) fn new(fd: OwnedFd, run_size: usize) -> Self {
        Self { fd, run_size }
    }

    /// Asks this VM for a capability: 0 for “not at all”, else the capability’s own number.
    ///
    /// # Errors
    /// The OS error.
    pub fn check_extension(&self, cap: Cap) -> io::Result<u32> {
        cap::check_extension(self.as_raw_fd(), cap)
    }

    /// Switches a capability on.
    ///
    /// # Errors
    /// `EINVAL`: the capability isn’t one of a VM.
    pub fn enable_cap(&self, cap: Cap, args: [u64; 4]) -> io::Result<()> {
        cap::enable_cap(self.as_raw_fd(), cap, args)
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
    pub unsafe fn set_user_memory_region(
        &self,
        region: &kvm_userspace_memory_region,
    ) -> io::Result<()> {
        // SAFETY: KVM reads one `kvm_userspace_memory_region`; the caller answers for the memory.
        unsafe { KVM_SET_USER_MEMORY_REGION.call_ref(self.as_raw_fd(), region) }.map(drop)
    }

    /// Creates a vCPU.
    ///
    /// # Errors
    /// `EEXIST`: the id is taken. `EINVAL`: the id is too large. The OS error of mapping `kvm_run`.
    pub fn create_vcpu(&self, id: u32) -> io::Result<Vcpu> {
        // SAFETY: KVM takes the id as a value.
        let fd = unsafe { KVM_CREATE_VCPU.call_value(self.as_raw_fd(), c_ulong::from(id)) }?;
        // SAFETY: KVM has just opened this descriptor for the caller; nobody else owns it.
        Vcpu::new(unsafe { OwnedFd::from_raw_fd(fd) }, self.run_size)
    }
}

impl AsRawFd for Vm {
    fn as_raw_fd(&self) -> RawFd {
        self.fd.as_raw_fd()
    }
}

// SAFETY: the descriptor is what `KVM_CREATE_VM` answered, and this type owns it.
unsafe impl PpcMmu for Vm {}
