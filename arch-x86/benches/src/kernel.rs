//! A vCPU of KVM's: KVM_TRANSLATE walks the guest's tables for it, and KVM_GET_SREGS has what our
//! walk begins with.

use kvm_bindings::kvm_userspace_memory_region;
use kvm_ioctls::{Kvm, VcpuFd, VmFd};
use pgtable::memory::GuestTables;
use pgtable::{Access, Gpa};
use pgtable_x86::gva_to_gpa;
use vm_memory::{GuestMemoryBackend, GuestMemoryRegion};

use super::{Contestant, Row};
use crate::guest::{Guest, PAGES, address, page};

/// A vCPU that never runs.
pub struct Kernel {
    vcpu: VcpuFd,
    // Both as long as the vCPU.
    _vm: VmFd,
    guest: Guest,
}

impl Kernel {
    /// `None` where /dev/kvm cannot be used.
    pub fn new() -> Option<Self> {
        let kvm = Kvm::new().ok()?;
        let vm = kvm.create_vm().ok()?;
        let guest = Guest::new();
        for (slot, region) in (0..).zip(guest.memory.iter()) {
            let described = kvm_userspace_memory_region {
                slot,
                flags: 0,
                guest_phys_addr: region.start_addr().0,
                memory_size: region.len(),
                userspace_addr: guest.memory.get_host_address(region.start_addr()).ok()? as u64,
            };
            // SAFETY: the mapping lives as long as the VM, in `Self`, and the regions do not
            // overlap.
            unsafe { vm.set_user_memory_region(described) }.ok()?;
        }
        let vcpu = vm.create_vcpu(0).ok()?;
        let mut registers = vcpu.get_sregs().ok()?;
        let boot = guest.boot.registers;
        // PE, and a segment of 64-bit code, without which long mode is none.
        registers.cr0 |= boot.cr0.into_bits() | 1;
        registers.cr3 = boot.cr3.into_bits();
        registers.cr4 |= boot.cr4.into_bits();
        registers.efer |= boot.efer.into_bits();
        (registers.cs.l, registers.cs.db) = (1, 0);
        vcpu.set_sregs(&registers).ok()?;
        Some(Self { vcpu, _vm: vm, guest })
    }
}

impl Contestant<Row> for Kernel {
    fn name(&self) -> &'static str {
        "KVM_TRANSLATE"
    }

    fn has(&self, _: Row) -> bool {
        true
    }

    fn prepare(&mut self, _: Row) {}

    fn run(&mut self, _: Row) {
        for number in 0..PAGES {
            let answer = self.vcpu.translate_gva(address(number).get()).expect("KVM_TRANSLATE");
            assert_eq!((answer.valid, answer.physical_address), (1, page(number).get()));
        }
    }

    fn verify(&mut self, _: Row) {}
}

/// Ours by a VMM that does not have the registers at hand: fetched for each address.
pub struct Fetched {
    kernel: Kernel,
    tables: GuestTables<'static, Gpa>,
}

impl Fetched {
    /// `None` where /dev/kvm cannot be used.
    pub fn new() -> Option<Self> {
        let kernel = Kernel::new()?;
        let tables = GuestTables::new(kernel.guest.memory.clone()).ok()?;
        Some(Self { kernel, tables })
    }
}

impl Contestant<Row> for Fetched {
    fn name(&self) -> &'static str {
        "registers fetched"
    }

    fn has(&self, _: Row) -> bool {
        true
    }

    fn prepare(&mut self, _: Row) {}

    fn run(&mut self, _: Row) {
        for number in 0..PAGES {
            let it = self.kernel.vcpu.get_sregs().expect("KVM_GET_SREGS");
            let (gva, read) = (address(number), Access::READ);
            let gpa = gva_to_gpa(it.cr0, it.cr3, it.cr4, it.efer, &self.tables, gva, read);
            assert_eq!(gpa, Ok(page(number)));
        }
    }

    fn verify(&mut self, _: Row) {}
}
