//! Memory slots: the guest's memory as KVM knows it.

use crate::bindings::kvm_userspace_memory_region;
use crate::{Result, VmFd};
use vm_memory::{Address, GuestMemoryBackend, GuestMemoryMmap, GuestMemoryRegion};

/// One slot per region of a VM's memory.
#[derive(Debug)]
pub struct Slots {
    vm: VmFd,
    /// Last, so that it outlives the VM.
    memory: GuestMemoryMmap,
}

impl Slots {
    /// Gives the VM its memory.
    ///
    /// # Errors
    /// The OS error.
    pub fn new(vm: VmFd, memory: GuestMemoryMmap) -> Result<Self> {
        let slots = Self { vm, memory };
        for (slot, region) in (0..).zip(slots.memory.iter()) {
            let region = kvm_userspace_memory_region {
                slot,
                flags: 0,
                guest_phys_addr: region.start_addr().raw_value(),
                memory_size: region.len(),
                userspace_addr: region.as_ptr() as u64,
            };
            // SAFETY: the region is a mapping of `memory`, which this value holds and drops after
            // the VM (a vCPU that outlives it cannot run, as its owner runs it through the value
            // that owns both). `vm-memory` hands out volatile and atomic access only.
            unsafe { slots.vm.set_user_memory_region(region) }?;
        }
        Ok(slots)
    }

    /// The memory.
    #[must_use]
    pub fn memory(&self) -> &GuestMemoryMmap {
        &self.memory
    }

    /// The VM.
    #[must_use]
    pub fn vm(&self) -> &VmFd {
        &self.vm
    }
}
