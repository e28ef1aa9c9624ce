//! COM1, and every other port, behind which nothing is.

use std::io;

use kvm_ioctls::VmFd;

use crate::linux::screen::Screen;
use crate::linux::serial::{Port, REGISTERS};

/// COM1's ports.
const COM1: u16 = 0x3f8;
/// COM1's interrupt.
const IRQ: u32 = 4;
/// The keyboard controller's command port.
const KEYBOARD: u16 = 0x64;
/// Its command to reset the machine.
const RESET: u8 = 0xfe;

/// The machine's ports.
pub struct Ports<'a> {
    com1: Port<'a>,
}

impl<'a> Ports<'a> {
    /// COM1 prints on `screen` and interrupts `vm`.
    pub fn new(screen: &'a Screen, vm: &'a VmFd) -> Self {
        Self { com1: Port::new(screen, vm, IRQ) }
    }

    /// Types `bytes`.
    pub fn type_in(&self, bytes: &[u8]) {
        self.com1.type_in(bytes);
    }

    /// The guest writes to a port. True: it asks for a reset.
    pub fn write(&self, port: u16, data: &[u8]) -> io::Result<bool> {
        if let (Some(register), &[byte]) = (register(port), data) {
            self.com1.write(register, byte)?;
        }
        Ok(port == KEYBOARD && data == [RESET])
    }

    /// The guest reads a port: all ones where nothing is.
    pub fn read(&self, port: u16, data: &mut [u8]) -> io::Result<()> {
        match (register(port), data) {
            (Some(register), [byte]) => *byte = self.com1.read(register)?,
            (_, data) => data.fill(0xff),
        }
        Ok(())
    }
}

/// COM1's register behind a port.
fn register(port: u16) -> Option<u8> {
    let register = u8::try_from(port.checked_sub(COM1)?).ok()?;
    (register < REGISTERS).then_some(register)
}
