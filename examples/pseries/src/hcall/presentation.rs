//! `H_CPPR`, `H_EOI`, `H_IPI`, `H_IPOLL`, `H_XIRR` (PAPR 14.5.4.4): a CPU and its interrupt
//! presentation controller.

use vm_memory::GuestMemoryBackend;

use super::Platform;
use crate::host::Host;
use crate::presentation::Presented;
use crate::status::Status;

/// A missing CPU is the caller's mistake.
fn known(presented: Option<Presented>) -> Status {
    if presented.is_some() { Status::SUCCESS } else { Status::PARAMETER }
}

impl<M: GuestMemoryBackend, H: Host> Platform<M, H> {
    fn line(&self, cpu: u64) -> impl FnOnce(bool) {
        move |pending| self.host.external_interrupt(cpu as u32, pending)
    }

    /// R4: the priority, in the lowest byte.
    pub(super) fn cppr(&self, cpu: u32, args: &[u64; 9]) -> Status {
        let cpu = cpu.into();
        known(self.controllers.set_priority(cpu, args[0] as u8, self.line(cpu)))
    }

    /// R4: XIRR as `H_XIRR` returned it.
    pub(super) fn eoi(&self, cpu: u32, args: &[u64; 9]) -> Status {
        let cpu = cpu.into();
        known(self.controllers.end(cpu, args[0] as u32, self.line(cpu)))
    }

    /// R4: the CPU; R5: the message's priority.
    pub(super) fn ipi(&self, args: &[u64; 9]) -> Status {
        let [cpu, mfrr, ..] = *args;
        known(self.controllers.message(cpu, mfrr as u8, self.line(cpu)))
    }

    /// R4: the CPU. Returns XIRR in R4, MFRR in R5, and accepts nothing.
    pub(super) fn ipoll(&self, args: &mut [u64; 9]) -> Status {
        let presented = self.controllers.poll(args[0]);
        if let Some(presented) = presented {
            [args[0], args[1]] = [presented.xirr.into(), presented.mfrr.into()];
        }
        known(presented)
    }

    /// Returns XIRR in R4.
    pub(super) fn xirr(&self, cpu: u32, args: &mut [u64; 9]) -> Status {
        let presented = self.controllers.accept(cpu.into(), self.line(cpu.into()));
        if let Some(presented) = presented {
            args[0] = presented.xirr.into();
        }
        known(presented)
    }
}
