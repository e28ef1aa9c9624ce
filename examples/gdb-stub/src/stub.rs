//! What `gdbstub` asks of a machine.

use std::collections::BTreeMap;
use std::error::Error;
use std::io;
use std::net::TcpStream;

use gdbstub::common::Signal;
use gdbstub::conn::{Connection, ConnectionExt};
use gdbstub::stub::run_blocking::{BlockingEventLoop, Event, WaitForStopReasonError};
use gdbstub::stub::{DisconnectReason, GdbStub, SingleThreadStopReason};
use gdbstub::target::ext::base::BaseOps;
use gdbstub::target::ext::base::singlethread::{
    SingleThreadBase, SingleThreadResume, SingleThreadResumeOps, SingleThreadSingleStep,
    SingleThreadSingleStepOps,
};
use gdbstub::target::ext::breakpoints::{
    Breakpoints, BreakpointsOps, SwBreakpoint, SwBreakpointOps,
};
use gdbstub::target::{Target, TargetError, TargetResult};
use gdbstub_arch::x86::X86_64_SSE;
use gdbstub_arch::x86::reg::X86_64CoreRegs;
use kvm_bindings::kvm_regs;
use pgtable::Gva;

use crate::machine::{Machine, Stopped};

/// What stands at a breakpoint: HLT, one byte, at which supervisor code leaves the guest on every
/// KVM. (Not every one lets a VMM have INT3: `kvm_pvm` does not.)
const BREAK: u8 = 0xf4;

/// A machine, and the bytes where breakpoints stand.
struct Debugged {
    machine: Machine,
    breakpoints: BTreeMap<u64, u8>,
}

/// Serves one gdb until it leaves, or the guest comes to its end.
pub fn serve(machine: Machine, connection: TcpStream) -> Result<String, Box<dyn Error>> {
    let mut debugged = Debugged { machine, breakpoints: BTreeMap::new() };
    let stub = GdbStub::new(connection);
    match stub.run_blocking::<EventLoop>(&mut debugged).map_err(|error| error.to_string())? {
        DisconnectReason::TargetExited(code) => Ok(format!("the guest ended with {code}")),
        reason => Ok(format!("{reason:?}")),
    }
}

impl Debugged {
    /// If the guest halted at a breakpoint, sets RIP to it.
    fn back_to_breakpoint(&self) -> io::Result<bool> {
        let mut registers = self.machine.registers()?;
        registers.rip = registers.rip.wrapping_sub(1);
        let ours = self.breakpoints.contains_key(&registers.rip);
        if ours {
            self.machine.set_registers(&registers)?;
        }
        Ok(ours)
    }
}

impl Target for Debugged {
    type Arch = X86_64_SSE;
    type Error = io::Error;

    fn base_ops(&mut self) -> BaseOps<'_, X86_64_SSE, io::Error> {
        BaseOps::SingleThread(self)
    }

    fn support_breakpoints(&mut self) -> Option<BreakpointsOps<'_, Self>> {
        Some(self)
    }
}

impl SingleThreadBase for Debugged {
    fn read_registers(&mut self, to: &mut X86_64CoreRegs) -> TargetResult<(), Self> {
        let it = self.machine.registers()?;
        to.regs = [
            it.rax, it.rbx, it.rcx, it.rdx, it.rsi, it.rdi, it.rbp, it.rsp, it.r8, it.r9, it.r10,
            it.r11, it.r12, it.r13, it.r14, it.r15,
        ];
        (to.rip, to.eflags) = (it.rip, it.rflags as u32);
        let segments = &mut to.segments;
        [segments.cs, segments.ss, segments.ds, segments.es, segments.fs, segments.gs] =
            self.machine.selectors()?;
        Ok(())
    }

    fn write_registers(&mut self, from: &X86_64CoreRegs) -> TargetResult<(), Self> {
        let [rax, rbx, rcx, rdx, rsi, rdi, rbp, rsp, r8, r9, r10, r11, r12, r13, r14, r15] =
            from.regs;
        let (rip, rflags) = (from.rip, from.eflags.into());
        self.machine.set_registers(&kvm_regs {
            rax,
            rbx,
            rcx,
            rdx,
            rsi,
            rdi,
            rbp,
            rsp,
            r8,
            r9,
            r10,
            r11,
            r12,
            r13,
            r14,
            r15,
            rip,
            rflags,
        })?;
        Ok(())
    }

    /// What could be read; an error where nothing is mapped.
    fn read_addrs(&mut self, start: u64, data: &mut [u8]) -> TargetResult<usize, Self> {
        let memory = self.machine.memory().map_err(|_| TargetError::NonFatal)?;
        match memory.read(Gva::new(start), data) {
            Ok(()) => Ok(data.len()),
            Err(stopped) if stopped.done > 0 => Ok(stopped.done as usize),
            Err(_) => Err(TargetError::NonFatal),
        }
    }

    fn write_addrs(&mut self, start: u64, data: &[u8]) -> TargetResult<(), Self> {
        let memory = self.machine.memory().map_err(|_| TargetError::NonFatal)?;
        memory.write(Gva::new(start), data).map_err(|_| TargetError::NonFatal)
    }

    fn support_resume(&mut self) -> Option<SingleThreadResumeOps<'_, Self>> {
        Some(self)
    }
}

impl SingleThreadResume for Debugged {
    fn resume(&mut self, _: Option<Signal>) -> io::Result<()> {
        self.machine.prepare(false)
    }

    fn support_single_step(&mut self) -> Option<SingleThreadSingleStepOps<'_, Self>> {
        Some(self)
    }
}

impl SingleThreadSingleStep for Debugged {
    fn step(&mut self, _: Option<Signal>) -> io::Result<()> {
        self.machine.prepare(true)
    }
}

impl Breakpoints for Debugged {
    fn support_sw_breakpoint(&mut self) -> Option<SwBreakpointOps<'_, Self>> {
        Some(self)
    }
}

impl SwBreakpoint for Debugged {
    fn add_sw_breakpoint(&mut self, at: u64, _: usize) -> TargetResult<bool, Self> {
        if self.breakpoints.contains_key(&at) {
            return Ok(true);
        }
        let Ok(byte) = self.machine.swap_byte(Gva::new(at), BREAK) else { return Ok(false) };
        self.breakpoints.insert(at, byte);
        Ok(true)
    }

    fn remove_sw_breakpoint(&mut self, at: u64, _: usize) -> TargetResult<bool, Self> {
        let Some(byte) = self.breakpoints.remove(&at) else { return Ok(false) };
        Ok(self.machine.swap_byte(Gva::new(at), byte).is_ok())
    }
}

/// Runs the guest, and looks at the connection in between.
enum EventLoop {}

impl BlockingEventLoop for EventLoop {
    type Target = Debugged;
    type Connection = TcpStream;
    type StopReason = SingleThreadStopReason<u64>;

    fn wait_for_stop_reason(
        target: &mut Debugged,
        connection: &mut TcpStream,
    ) -> Result<
        Event<SingleThreadStopReason<u64>>,
        WaitForStopReasonError<io::Error, <TcpStream as Connection>::Error>,
    > {
        loop {
            let stopped = target.machine.run().map_err(WaitForStopReasonError::Target)?;
            let reason = match stopped {
                Stopped::Halted => match target.back_to_breakpoint() {
                    Ok(true) => SingleThreadStopReason::SwBreak(()),
                    // The guest's own: it waits for an interrupt.
                    Ok(false) => continue,
                    Err(error) => return Err(WaitForStopReasonError::Target(error)),
                },
                Stopped::Step => SingleThreadStopReason::DoneStep,
                Stopped::Done => SingleThreadStopReason::Exited(0),
                Stopped::Tick => {
                    let waiting = connection.peek().map_err(WaitForStopReasonError::Connection)?;
                    if waiting.is_none() {
                        continue;
                    }
                    let byte = ConnectionExt::read(connection)
                        .map_err(WaitForStopReasonError::Connection)?;
                    return Ok(Event::IncomingData(byte));
                }
            };
            return Ok(Event::TargetStopped(reason));
        }
    }

    fn on_interrupt(_: &mut Debugged) -> Result<Option<SingleThreadStopReason<u64>>, io::Error> {
        Ok(Some(SingleThreadStopReason::Signal(Signal::SIGINT)))
    }
}
