//! Memory slots: the guest's memory as KVM knows it.

use crate::bindings::{KVM_MEM_LOG_DIRTY_PAGES, kvm_userspace_memory_region};
use crate::{Error, Result, VmFd};
use vm_memory::{Address, GuestMemoryBackend, GuestMemoryMmap, GuestMemoryRegion};

/// Has the host back this memory with its own pages, never with transparent huge ones: which pages
/// a guest with a hashed page table may have depends on the pages that back them, and huge ones
/// come and go. To be called before anything touches the memory.
///
/// # Errors
/// The OS error. A host without huge pages is none.
pub fn back_with_base_pages(memory: &GuestMemoryMmap) -> Result<()> {
    for region in memory.iter() {
        let length = usize::try_from(region.len()).map_err(|_| Error::new(libc::EINVAL))?;
        // SAFETY: the region is a mapping of `memory`, and the advice does not change what it
        // holds.
        let done = unsafe { libc::madvise(region.as_ptr().cast(), length, libc::MADV_NOHUGEPAGE) };
        if done != 0 {
            let error = Error::last();
            // What a kernel without transparent huge pages says.
            if error.errno() != libc::EINVAL {
                return Err(error);
            }
        }
    }
    Ok(())
}

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
        slots.set(0)?;
        Ok(slots)
    }

    /// Has KVM log which pages the guest writes, or has it stop.
    ///
    /// # Errors
    /// The OS error.
    pub fn log_dirty_pages(&self, on: bool) -> Result<()> {
        self.set(if on { KVM_MEM_LOG_DIRTY_PAGES } else { 0 })
    }

    fn set(&self, flags: u32) -> Result<()> {
        for (slot, region) in (0..).zip(self.memory.iter()) {
            let region = kvm_userspace_memory_region {
                slot,
                flags,
                guest_phys_addr: region.start_addr().raw_value(),
                memory_size: region.len(),
                userspace_addr: region.as_ptr() as u64,
            };
            // SAFETY: the region is a mapping of `memory`, which this value holds and drops after
            // the VM (a vCPU that outlives it cannot run, as its owner runs it through the value
            // that owns both). `vm-memory` hands out volatile and atomic access only.
            unsafe { self.vm.set_user_memory_region(region) }?;
        }
        Ok(())
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
