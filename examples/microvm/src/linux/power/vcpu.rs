//! The thread of one vCPU.

use std::sync::mpsc::Sender;
use std::time::Duration;

use kvm_ppc::bindings::kvm_regs;
use kvm_ppc::{VcpuExit, VcpuFd};
use probe_guest::Ticker;
use pseries::{ENTRY_MSR, Ending, Hypercall, Next, Platform};
use vm_memory::GuestMemoryMmap;

use super::host::KvmHost;
use crate::linux::Event;

/// How long a run lasts at most.
const TICK: Duration = Duration::from_millis(50);

/// Runs a vCPU until the machine ends. What goes wrong is told.
pub fn run(
    cpu: u32,
    mut vcpu: VcpuFd,
    platform: &Platform<GuestMemoryMmap, KvmHost>,
    events: &Sender<Event>,
) {
    let event = match run_to_the_end(cpu, &mut vcpu, platform) {
        Ok(None) => return,
        Ok(Some(ending)) => Event::Ended(ending == Ending::PowerOff, ending.to_string()),
        Err(error) => Event::Broken(format!("CPU {cpu}: {error}")),
    };
    platform.host().gate.leave(cpu);
    // Whoever watches may have gone already.
    let _ = events.send(event);
}

/// How the guest ended the machine; `None`: somebody else did.
fn run_to_the_end(
    cpu: u32,
    vcpu: &mut VcpuFd,
    platform: &Platform<GuestMemoryMmap, KvmHost>,
) -> std::io::Result<Option<Ending>> {
    let gate = &platform.host().gate;
    let _ticker = Ticker::start(TICK)?;
    while let Some(start) = gate.wait(cpu) {
        let mut regs = kvm_regs { pc: start.entry, msr: ENTRY_MSR, ..kvm_regs::default() };
        regs.gpr[3] = start.r3;
        vcpu.set_regs(&regs)?;
        loop {
            if !gate.pass(cpu, || {}) {
                return Ok(None);
            }
            let exit = match vcpu.run() {
                Err(error) if error.errno() == libc::EINTR => continue,
                exit => exit?,
            };
            match exit {
                VcpuExit::PaprHcall(exit) => {
                    let mut call = Hypercall { nr: exit.nr, args: *exit.args };
                    let next = platform.hypercall(cpu, &mut call);
                    *exit.args = call.args;
                    match next {
                        Next::Resume(status) => *exit.ret = status.r3(),
                        Next::Stop => break,
                        Next::End(ending) => return Ok(Some(ending)),
                    }
                }
                // No device is there: loads see all ones, as on a bus where nobody answers.
                VcpuExit::MmioRead(at, data) => {
                    let what = format!("a load at guest real {at:#x}, where nothing is");
                    platform.note_device(at, &what);
                    data.fill(0xff);
                }
                VcpuExit::MmioWrite(at, _) => {
                    let what = format!("a store at guest real {at:#x}, where nothing is");
                    platform.note_device(at, &what);
                }
                VcpuExit::Intr => {}
                exit => return Err(std::io::Error::other(format!("the vCPU stopped: {exit:?}"))),
            }
        }
    }
    Ok(None)
}
