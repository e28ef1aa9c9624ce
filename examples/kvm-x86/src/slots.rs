//! Memory slots: the guest's memory as KVM knows it.

use std::io;

use kvm_bindings::kvm_userspace_memory_region;
use kvm_ioctls::VmFd;
use vm_memory::{Address, GuestMemoryBackend, GuestMemoryMmap, GuestMemoryRegion};

/// One slot per region of a VM's memory.
#[derive(Debug)]
pub struct Slots {
    vm: VmFd,
    regions: Vec<kvm_userspace_memory_region>,
    /// Last, so that it outlives the VM.
    memory: GuestMemoryMmap,
}

impl Slots {
    /// Gives the VM its memory.
    ///
    /// # Errors
    /// The OS error.
    pub fn new(vm: VmFd, memory: GuestMemoryMmap) -> io::Result<Self> {
        let regions = (0..)
            .zip(memory.iter())
            .map(|(slot, region)| kvm_userspace_memory_region {
                slot,
                flags: 0,
                guest_phys_addr: region.start_addr().raw_value(),
                memory_size: region.len(),
                userspace_addr: region.as_ptr() as u64,
            })
            .collect();
        let slots = Self { vm, regions, memory };
        for region in &slots.regions {
            slots.set(*region)?;
        }
        Ok(slots)
    }

    /// The memory.
    pub fn memory(&self) -> &GuestMemoryMmap {
        &self.memory
    }

    /// The VM.
    pub fn vm(&self) -> &VmFd {
        &self.vm
    }

    /// Takes the slot that holds guest-physical address 0 away and gives it back, at which KVM
    /// forgets all that it has derived from the guest's tables, wherever they stand.
    ///
    /// A host without EPT or NPT *shadows* the guest's tables: the processor walks tables that KVM
    /// made of them, and KVM notices the guest's own stores to them, but not the VMM's through its
    /// own mapping. No instruction of the guest's makes it look again.
    ///
    /// # Errors
    /// The OS error.
    pub fn renew(&self) -> io::Result<()> {
        let Some(first) = self.regions.first() else { return Ok(()) };
        self.set(kvm_userspace_memory_region { memory_size: 0, ..*first })?;
        self.set(*first)
    }

    fn set(&self, region: kvm_userspace_memory_region) -> io::Result<()> {
        // SAFETY: the region is a mapping of `memory`, which this value holds and drops after the
        // VM (a vCPU that outlives it cannot run, as its owner runs it through the value that owns
        // both). `vm-memory` hands out volatile and atomic access only.
        unsafe { self.vm.set_user_memory_region(region) }.map_err(io::Error::from)
    }
}
