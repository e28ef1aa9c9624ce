//! COM1 by `vm-superio`, and every other port, behind which nothing is.

use std::collections::VecDeque;
use std::io::{self, Write};
use std::sync::{Mutex, MutexGuard, PoisonError};

use kvm_ioctls::VmFd;
use vm_superio::serial::NoEvents;
use vm_superio::{Serial, Trigger};

use crate::linux::screen::Screen;

/// COM1's ports.
const COM1: std::ops::Range<u16> = 0x3f8..0x400;
/// COM1's interrupt.
const IRQ: u32 = 4;
/// The keyboard controller's command port.
const KEYBOARD: u16 = 0x64;
/// Its command to reset the machine.
const RESET: u8 = 0xfe;

/// The interrupt line of COM1: an edge for each trigger.
struct Line<'a>(&'a VmFd);

impl Trigger for Line<'_> {
    type E = io::Error;

    fn trigger(&self) -> io::Result<()> {
        for level in [true, false] {
            self.0.set_irq_line(IRQ, level).map_err(io::Error::from)?;
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
            self.serial
                .enqueue_raw_bytes(&bytes)
                .map_err(|error| io::Error::other(format!("COM1: {error:?}")))?;
        }
        Ok(())
    }
}

/// The machine's ports.
pub struct Ports<'a> {
    state: Mutex<State<'a>>,
    screen: &'a Screen,
}

impl<'a> Ports<'a> {
    /// COM1 prints on `screen` and interrupts `vm`.
    pub fn new(screen: &'a Screen, vm: &'a VmFd) -> Self {
        let serial = Serial::new(Line(vm), Output(screen));
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

    /// The guest writes to a port. True: it asks for a reset.
    pub fn write(&self, port: u16, data: &[u8]) -> io::Result<bool> {
        if let (true, &[byte]) = (COM1.contains(&port), data) {
            let written = self.state().serial.write((port - COM1.start) as u8, byte);
            written.map_err(|error| io::Error::other(format!("COM1: {error:?}")))?;
        }
        Ok(port == KEYBOARD && data == [RESET])
    }

    /// The guest reads a port: all ones where nothing is.
    pub fn read(&self, port: u16, data: &mut [u8]) -> io::Result<()> {
        match data {
            [byte] if COM1.contains(&port) => {
                let mut state = self.state();
                *byte = state.serial.read((port - COM1.start) as u8);
                state.feed()?;
            }
            data => data.fill(0xff),
        }
        Ok(())
    }
}
