//! Hypercalls (PAPR, "Hypervisor Call Functions"): which there are, and who answers.
//!
//! KVM-HV answers many in the kernel (the hashed table's, `H_CEDE`, `H_REGISTER_VPA`, …); these are
//! the rest. One that is not in the table gets `H_FUNCTION`, and is noted the first time.

mod presentation;
mod process_table;
mod set_mode;
mod terminal;

use std::collections::BTreeSet;
use std::sync::{Mutex, PoisonError};

use pgtable_ppc64::radix::ProcessTableWord;
use vm_memory::GuestMemoryBackend;

use super::console::Console;
use super::host::{Ending, Host};
use super::presentation::Controllers;
use super::rtas::H_RTAS;
use super::status::Status;
use super::tree::Machine;

/// A hypercall: its number, and R4 to R12, in which results come back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hypercall {
    /// R3.
    pub nr: u64,
    /// R4 to R12.
    pub args: [u64; 9],
}

/// How a CPU goes on after its call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Next {
    /// With this in R3.
    Resume(Status),
    /// Not at all until somebody starts it again: RTAS `stop-self`.
    Stop,
    /// The whole machine ends.
    End(Ending),
}

/// How many unknown calls are remembered, so that each is noted once: what a guest can make us keep
/// has a bound.
const NOTED: usize = 256;

/// The hypervisor's side of a running guest.
#[derive(Debug)]
pub struct Platform<M, H> {
    pub(super) memory: M,
    pub(super) host: H,
    pub(super) machine: Machine,
    /// What is typed.
    pub console: Console,
    pub(super) controllers: Controllers,
    process_table: Mutex<Option<ProcessTableWord>>,
    noted: Mutex<BTreeSet<u64>>,
}

/// The calls' numbers (Linux `asm/hvcall.h`).
mod number {
    pub const H_GET_TERM_CHAR: u64 = 0x54;
    pub const H_PUT_TERM_CHAR: u64 = 0x58;
    pub const H_EOI: u64 = 0x64;
    pub const H_CPPR: u64 = 0x68;
    pub const H_IPI: u64 = 0x6c;
    pub const H_IPOLL: u64 = 0x70;
    pub const H_XIRR: u64 = 0x74;
    pub const H_SET_MODE: u64 = 0x31c;
    pub const H_REGISTER_PROC_TBL: u64 = 0x37c;
}

impl<M: GuestMemoryBackend, H: Host> Platform<M, H> {
    /// The platform of a guest in `memory` that [`boot`](super::boot) made for `machine`.
    pub fn new(memory: M, host: H, machine: Machine) -> Self {
        Self {
            memory,
            host,
            machine,
            console: Console::default(),
            controllers: Controllers::new(machine.cpus),
            process_table: Mutex::new(None),
            noted: Mutex::new(BTreeSet::new()),
        }
    }

    /// The guest's memory.
    pub fn memory(&self) -> &M {
        &self.memory
    }

    /// Whoever runs the vCPUs.
    pub fn host(&self) -> &H {
        &self.host
    }

    /// What the machine is.
    pub fn machine(&self) -> Machine {
        self.machine
    }

    /// The process table that the guest has registered for radix translation.
    pub fn process_table(&self) -> Option<ProcessTableWord> {
        *self.process_table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Answers one call of `cpu`; results are in `call.args` then.
    pub fn hypercall(&self, cpu: u32, call: &mut Hypercall) -> Next {
        let args = &mut call.args;
        let status = match call.nr {
            number::H_GET_TERM_CHAR => self.get_term_char(args),
            number::H_PUT_TERM_CHAR => self.put_term_char(args),
            number::H_EOI => self.eoi(cpu, args),
            number::H_CPPR => self.cppr(cpu, args),
            number::H_IPI => self.ipi(args),
            number::H_IPOLL => self.ipoll(args),
            number::H_XIRR => self.xirr(cpu, args),
            number::H_SET_MODE => self.set_mode(args),
            number::H_REGISTER_PROC_TBL => self.register_process_table(args),
            H_RTAS => return self.rtas(args),
            nr => {
                self.note_once(nr, || format!("hypercall {nr:#x} is not there: H_FUNCTION"));
                Status::FUNCTION
            }
        };
        Next::Resume(status)
    }

    /// Notes an access to an address where no device is, the first time; `address` only tells it
    /// from others.
    pub fn note_device(&self, address: u64, text: &str) {
        self.note_once(address | 1 << 63, || text.to_owned());
    }

    /// Notes something about `what` the first time.
    pub(super) fn note_once(&self, what: u64, text: impl FnOnce() -> String) {
        let mut noted = self.noted.lock().unwrap_or_else(PoisonError::into_inner);
        if noted.len() < NOTED && noted.insert(what) {
            self.host.note(&text());
        }
    }
}
