//! The thread of a vCPU.

use std::io;
use std::sync::PoisonError;
use std::sync::mpsc::Sender;
use std::time::Duration;

use kvm_bindings::{KVM_SYSTEM_EVENT_RESET, KVM_SYSTEM_EVENT_SHUTDOWN};
use kvm_ioctls::{VcpuExit, VcpuFd};
use probe_guest::Ticker;
use vm_memory::GuestMemoryMmap;

use super::boot::at;
use super::{Board, IMAGE_BYTES, Still};
use crate::linux::Event;
use crate::linux::dying::last_words;
use crate::linux::serial::REGISTERS;

/// How long a run lasts at most.
const TICK: Duration = Duration::from_millis(50);

/// How the guest ends the machine, by PSCI.
enum Ending {
    PowerOff,
    Reset,
}

/// Runs the vCPU until the machine ends. What goes wrong is told; while it stands still, the board
/// has its registers.
pub fn run(
    cpu: u32,
    mut vcpu: VcpuFd,
    board: &Board<'_>,
    memory: &GuestMemoryMmap,
    events: &Sender<Event>,
) {
    let event = match run_to_the_end(cpu, &mut vcpu, board) {
        Ok(None) => return,
        Ok(Some(Ending::PowerOff)) => Event::Ended(true, "the guest powered off".into()),
        // A kernel that panics asks for a reset.
        Ok(Some(Ending::Reset)) => {
            let words = last_words(memory, at::MEMORY, IMAGE_BYTES);
            let words = words.map_or(String::new(), |words| format!(": {words}"));
            Event::Ended(false, format!("the guest's operating system gave up{words}"))
        }
        Err(error) => Event::Broken(format!("CPU {cpu}: {error}")),
    };
    // It stands still for those who look at what was wrong.
    publish(cpu, &vcpu, board);
    board.gate.leave(cpu);
    // The one who watches may have gone already.
    let _ = events.send(event);
}

fn publish(cpu: u32, vcpu: &VcpuFd, board: &Board<'_>) {
    if let Some(still) = board.still.get(cpu as usize) {
        let read = Still::of(vcpu, &board.features).ok();
        *still.lock().unwrap_or_else(PoisonError::into_inner) = read;
    }
}

/// How the guest ended the machine; `None`: it was ended from outside.
fn run_to_the_end(cpu: u32, vcpu: &mut VcpuFd, board: &Board<'_>) -> io::Result<Option<Ending>> {
    let _ticker = Ticker::start(TICK)?;
    if board.gate.wait(cpu).is_none() {
        return Ok(None);
    }
    while board.gate.pass(cpu, || publish(cpu, vcpu, board)) {
        match vcpu.run() {
            Ok(VcpuExit::MmioRead(address, data)) => match (register(address), data) {
                (Some(register), [byte, rest @ ..]) => {
                    *byte = board.serial.read(register)?;
                    rest.fill(0);
                }
                (_, data) => data.fill(0xff),
            },
            Ok(VcpuExit::MmioWrite(address, data)) => {
                if let (Some(register), [byte, ..]) = (register(address), data) {
                    board.serial.write(register, *byte)?;
                }
            }
            Ok(VcpuExit::Intr) => {}
            Ok(VcpuExit::SystemEvent(KVM_SYSTEM_EVENT_SHUTDOWN, _)) => {
                return Ok(Some(Ending::PowerOff));
            }
            Ok(VcpuExit::SystemEvent(KVM_SYSTEM_EVENT_RESET, _)) => {
                return Ok(Some(Ending::Reset));
            }
            Ok(exit) => return Err(io::Error::other(format!("the vCPU stopped: {exit:?}"))),
            Err(error) if error.errno() == libc::EINTR || error.errno() == libc::EAGAIN => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(None)
}

/// The serial port's register at an address.
fn register(address: u64) -> Option<u8> {
    let register = u8::try_from(address.checked_sub(at::SERIAL)?).ok()?;
    (register < REGISTERS).then_some(register)
}
