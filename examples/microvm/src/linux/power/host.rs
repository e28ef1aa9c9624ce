//! KVM under the platform.

use std::sync::Arc;

use kvm_ppc::bindings::KVM_REG_PPC_LPCR_64;
use kvm_ppc::{Result, Slots, VcpuControl};
use pgtable_ppc64::kvm::{PpcMmu, kvm_ppc_mmuv3_cfg};
use pseries::{CpuState, Host};

use crate::linux::gate::{Gate, Start};
use crate::linux::screen::Screen;

/// The VM, its vCPUs, and who sees what the guest prints.
pub struct KvmHost {
    pub slots: Slots,
    pub vcpus: Vec<Arc<VcpuControl>>,
    pub gate: Gate,
    pub screen: Screen,
}

/// A 64-bit register of a vCPU.
pub fn register(vcpu: &VcpuControl, id: u64) -> Result<u64> {
    let mut bytes = [0; 8];
    vcpu.get_one_reg(id, &mut bytes)?;
    Ok(u64::from_ne_bytes(bytes))
}

impl KvmHost {
    /// Sets bits of a vCPU's LPCR; false if they do not stay.
    fn set_lpcr_of(vcpu: &VcpuControl, mask: u64, bits: u64) -> bool {
        let lpcr = || register(vcpu, KVM_REG_PPC_LPCR_64);
        let set = || {
            let word = lpcr()? & !mask | bits;
            vcpu.set_one_reg(KVM_REG_PPC_LPCR_64, &word.to_ne_bytes())?;
            lpcr()
        };
        set().is_ok_and(|lpcr: u64| lpcr & mask == bits)
    }
}

impl Host for KvmHost {
    fn set_lpcr(&self, mask: u64, bits: u64) -> bool {
        // All of them get it, also after one that refused.
        let stayed: Vec<_> =
            self.vcpus.iter().map(|vcpu| Self::set_lpcr_of(vcpu, mask, bits)).collect();
        stayed.into_iter().all(|stayed| stayed)
    }

    fn configure_mmu(&self, configuration: &kvm_ppc_mmuv3_cfg) -> bool {
        self.slots
            .vm()
            .configure_v3_mmu(configuration)
            .map_err(|error| self.note(&format!("the process table: {error}")))
            .is_ok()
    }

    fn external_interrupt(&self, cpu: u32, pending: bool) {
        if let Some(Err(error)) = self.vcpus.get(cpu as usize).map(|vcpu| vcpu.interrupt(pending)) {
            self.note(&format!("an interrupt for CPU {cpu} was lost: {error}"));
        }
    }

    fn cpu_state(&self, cpu: u32) -> CpuState {
        self.gate.state(cpu)
    }

    fn start_cpu(&self, cpu: u32, entry: u64, r3: u64) -> bool {
        self.gate.start(cpu, Start { entry, r3 })
    }

    fn print(&self, bytes: &[u8]) {
        self.screen.print(bytes);
    }

    fn note(&self, text: &str) {
        self.screen.note(text);
    }
}
