//! A serial port by `vm-superio`: eight registers, and an interrupt line of KVM's.

use std::collections::VecDeque;
use std::io::{self, Write};
use std::sync::{Mutex, MutexGuard, PoisonError};

use kvm_ioctls::VmFd;
use vm_superio::serial::NoEvents;
use vm_superio::{Serial, Trigger};

use super::screen::Screen;

/// How many registers there are, of a byte each.
pub const REGISTERS: u8 = 8;

/// The interrupt line: an edge for each trigger.
struct Line<'a> {
    vm: &'a VmFd,
    irq: u32,
}

impl Trigger for Line<'_> {
    type E = io::Error;

    fn trigger(&self) -> io::Result<()> {
        for level in [true, false] {
            self.vm.set_irq_line(self.irq, level).map_err(io::Error::from)?;
        }
        Ok(())
    }
}

/// The screen, as a place to write to.
struct Output<'a>(&'a Screen);

impl Write for Output<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.print(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

struct State<'a> {
    serial: Serial<Line<'a>, NoEvents, Output<'a>>,
    /// What was typed and has no room in the serial port's buffer.
    typed: VecDeque<u8>,
}

impl State<'_> {
    fn feed(&mut self) -> io::Result<()> {
        let count = self.serial.fifo_capacity().min(self.typed.len());
        if count > 0 {
            let bytes: Vec<u8> = self.typed.drain(..count).collect();
            self.serial.enqueue_raw_bytes(&bytes).map_err(failed)?;
        }
        Ok(())
    }
}

fn failed(error: impl std::fmt::Debug) -> io::Error {
    io::Error::other(format!("the serial port: {error:?}"))
}

/// The port.
pub struct Port<'a> {
    state: Mutex<State<'a>>,
    screen: &'a Screen,
}

impl<'a> Port<'a> {
    /// Prints on `screen`, and interrupts `vm` by its line `irq`.
    pub fn new(screen: &'a Screen, vm: &'a VmFd, irq: u32) -> Self {
        let serial = Serial::new(Line { vm, irq }, Output(screen));
        Self { state: Mutex::new(State { serial, typed: VecDeque::new() }), screen }
    }

    fn state(&self) -> MutexGuard<'_, State<'a>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Types `bytes`.
    pub fn type_in(&self, bytes: &[u8]) {
        let mut state = self.state();
        state.typed.extend(bytes);
        if let Err(error) = state.feed() {
            self.screen.note(&error.to_string());
        }
    }

    /// The guest writes a register.
    pub fn write(&self, register: u8, byte: u8) -> io::Result<()> {
        self.state().serial.write(register, byte).map_err(failed)
    }

    /// The guest reads a register.
    pub fn read(&self, register: u8) -> io::Result<u8> {
        let mut state = self.state();
        let byte = state.serial.read(register);
        state.feed()?;
        Ok(byte)
    }
}
