//! What the platform asks of whoever runs the vCPUs.

use std::fmt;

use pgtable_ppc64::kvm::kvm_ppc_mmuv3_cfg;

/// Whether a CPU runs, as RTAS `query-cpu-stopped-state` tells it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CpuState {
    /// It was never started, or has stopped itself.
    Stopped,
    /// It was started and has not begun.
    Starting,
    /// It runs.
    Running,
}

/// Why the machine ends, by the guest's own will.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ending {
    /// RTAS `power-off`.
    PowerOff,
    /// RTAS `system-reboot`: without firmware there is nothing to boot again.
    Reboot,
    /// RTAS `ibm,os-term`: the operating system gave up, and says why.
    Terminated(String),
}

impl fmt::Display for Ending {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::PowerOff => f.write_str("the guest powered off"),
            Self::Reboot => f.write_str("the guest asked for a reboot"),
            Self::Terminated(why) => write!(f, "the guest's operating system gave up: {why}"),
        }
    }
}

/// The VMM under the platform. CPUs are numbered from 0; the platform asks only for those below its
/// number of CPUs.
pub trait Host {
    /// Sets the bits `bits` of those under `mask` in the LPCR of every CPU. False if the first
    /// CPU's LPCR does not hold them then.
    fn set_lpcr(&self, mask: u64, bits: u64) -> bool;

    /// Tells the MMU where the guest's process table is. False if it refuses.
    fn configure_mmu(&self, configuration: &kvm_ppc_mmuv3_cfg) -> bool;

    /// Raises or lowers the external interrupt of a CPU.
    fn external_interrupt(&self, cpu: u32, pending: bool);

    /// What a CPU does.
    fn cpu_state(&self, cpu: u32) -> CpuState;

    /// Starts a stopped CPU at real address `entry`, with R3 as given. False if it was not stopped.
    fn start_cpu(&self, cpu: u32, entry: u64, r3: u64) -> bool;

    /// The guest prints.
    fn print(&self, bytes: &[u8]);

    /// Something that a person who looks after the guest may want to know.
    fn note(&self, text: &str);
}
