//! The thread of the vCPU.

use std::io;
use std::sync::mpsc::Sender;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use kvm_ioctls::{VcpuExit, VcpuFd};
use probe_guest::Ticker;
use vm_memory::GuestMemoryMmap;

use super::port::Ports;
use super::{IMAGE, Registers};
use crate::linux::Event;
use crate::linux::dying::last_words;
use crate::linux::gate::Gate;

/// How long a run lasts at most.
const TICK: Duration = Duration::from_millis(50);

/// Runs the vCPU until the machine ends. What goes wrong is told; while it stands still, its
/// registers are in `registers`.
pub fn run(
    mut vcpu: VcpuFd,
    gate: &Gate,
    ports: &Ports<'_>,
    registers: &Mutex<Option<Registers>>,
    memory: &GuestMemoryMmap,
    events: &Sender<Event>,
) {
    let event = match run_to_the_end(&mut vcpu, gate, ports, registers) {
        Ok(false) => return,
        // A kernel that panics asks for a reset too.
        Ok(true) => match last_words(memory, IMAGE.0, IMAGE.1) {
            None => Event::Ended(true, "the guest asked for a reset".into()),
            Some(words) => {
                Event::Ended(false, format!("the guest's operating system gave up: {words}"))
            }
        },
        Err(error) => Event::Broken(format!("CPU 0: {error}")),
    };
    // It stands still for whoever looks at what was wrong.
    publish(&vcpu, registers);
    gate.leave(0);
    // Whoever watches may have gone already.
    let _ = events.send(event);
}

fn publish(vcpu: &VcpuFd, registers: &Mutex<Option<Registers>>) {
    let read = vcpu.get_regs().and_then(|regs| Ok(Registers { regs, sregs: vcpu.get_sregs()? }));
    *registers.lock().unwrap_or_else(PoisonError::into_inner) = read.ok();
}

/// True: the guest asked for a reset. False: somebody ended it.
fn run_to_the_end(
    vcpu: &mut VcpuFd,
    gate: &Gate,
    ports: &Ports<'_>,
    registers: &Mutex<Option<Registers>>,
) -> io::Result<bool> {
    let _ticker = Ticker::start(TICK)?;
    if gate.wait(0).is_none() {
        return Ok(false);
    }
    while gate.pass(0, || publish(vcpu, registers)) {
        match vcpu.run() {
            Ok(VcpuExit::IoOut(port, data)) => {
                if ports.write(port, data)? {
                    return Ok(true);
                }
            }
            Ok(VcpuExit::IoIn(port, data)) => ports.read(port, data)?,
            Ok(VcpuExit::MmioRead(_, data)) => data.fill(0xff),
            Ok(VcpuExit::MmioWrite(..) | VcpuExit::Intr) => {}
            Ok(VcpuExit::Shutdown) => return Err(io::Error::other("a triple fault")),
            Ok(exit) => return Err(io::Error::other(format!("the vCPU stopped: {exit:?}"))),
            Err(error) if error.errno() == libc::EINTR || error.errno() == libc::EAGAIN => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(false)
}
