//! Interrupt presentation controllers (PAPR "Interrupt Presentation Controller", Linux `xics`): one
//! per CPU. The only source is another CPU: a message by `H_IPI`.
//!
//! A CPU has a priority (CPPR) and a message's priority (MFRR); a lower number is more urgent, 0xff
//! is none. A message more urgent than the CPU's own priority raises the external interrupt.
//! `H_XIRR` accepts it: it returns XIRR = CPPR << 24 | source, and the CPU takes the message's
//! priority; `H_EOI` gives the old priority back.

use std::sync::{Mutex, PoisonError};

/// The source number of messages between CPUs (Linux `XICS_IPI`).
const IPI: u32 = 2;

/// One CPU's controller.
#[derive(Clone, Copy, Debug)]
struct Controller {
    cppr: u8,
    mfrr: u8,
}

impl Controller {
    /// As after reset: the CPU takes nothing, and no message is there.
    const RESET: Self = Self { cppr: 0, mfrr: 0xff };

    fn pending(self) -> bool {
        self.mfrr < self.cppr
    }

    fn xirr(self) -> u32 {
        u32::from(self.cppr) << 24 | if self.pending() { IPI } else { 0 }
    }
}

/// What became of an operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Presented {
    /// XIRR as it was before a pending interrupt was accepted.
    pub xirr: u32,
    /// The priority of the message.
    pub mfrr: u8,
}

/// All controllers of a machine.
#[derive(Debug)]
pub(super) struct Controllers(Vec<Mutex<Controller>>);

impl Controllers {
    pub fn new(cpus: u32) -> Self {
        Self((0..cpus).map(|_| Mutex::new(Controller::RESET)).collect())
    }

    /// Changes one controller, and calls `line` with whether its interrupt is pending then, before
    /// anybody else changes it. `None`: no such CPU.
    fn change(
        &self,
        cpu: u64,
        line: impl FnOnce(bool),
        change: impl FnOnce(&mut Controller),
    ) -> Option<Presented> {
        let controller = self.0.get(usize::try_from(cpu).ok()?)?;
        let mut controller = controller.lock().unwrap_or_else(PoisonError::into_inner);
        let before = Presented { xirr: controller.xirr(), mfrr: controller.mfrr };
        change(&mut controller);
        line(controller.pending());
        Some(before)
    }

    /// `H_CPPR`.
    pub fn set_priority(&self, cpu: u64, cppr: u8, line: impl FnOnce(bool)) -> Option<Presented> {
        self.change(cpu, line, |it| it.cppr = cppr)
    }

    /// `H_IPI`.
    pub fn message(&self, cpu: u64, mfrr: u8, line: impl FnOnce(bool)) -> Option<Presented> {
        self.change(cpu, line, |it| it.mfrr = mfrr)
    }

    /// `H_XIRR`.
    pub fn accept(&self, cpu: u64, line: impl FnOnce(bool)) -> Option<Presented> {
        self.change(cpu, line, |it| {
            if it.pending() {
                it.cppr = it.mfrr;
            }
        })
    }

    /// `H_EOI`.
    pub fn end(&self, cpu: u64, xirr: u32, line: impl FnOnce(bool)) -> Option<Presented> {
        self.change(cpu, line, |it| it.cppr = (xirr >> 24) as u8)
    }

    /// `H_IPOLL`.
    pub fn poll(&self, cpu: u64) -> Option<Presented> {
        self.change(cpu, |_| {}, |_| {})
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_comes_and_goes() {
        let all = Controllers::new(2);
        let mut line = Vec::new();
        let seen = |presented: Option<Presented>| presented.map(|it| (it.xirr, it.mfrr));
        all.message(1, 4, |up| line.push(up));
        assert_eq!(line, [false], "a CPU that takes nothing is not disturbed");
        all.set_priority(1, 0xff, |up| line.push(up));
        assert_eq!(seen(all.poll(1)), Some((0xff00_0002, 4)));
        assert_eq!(seen(all.accept(1, |up| line.push(up))), Some((0xff00_0002, 4)));
        assert_eq!(
            seen(all.accept(1, |up| line.push(up))),
            Some((0x0400_0000, 4)),
            "it is accepted once"
        );
        all.message(1, 0xff, |up| line.push(up));
        all.end(1, 0xff00_0002, |up| line.push(up));
        assert_eq!(line, [false, true, false, false, false, false]);
        assert_eq!(seen(all.poll(1)), Some((0xff00_0000, 0xff)));
        for cpu in [2, u64::from(u32::MAX), u64::MAX] {
            assert_eq!(all.poll(cpu), None);
        }
    }
}
