//! The machine: a vCPU, and what a debugger does with it.

use std::error::Error;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use kvm_bindings::{
    KVM_GUESTDBG_ENABLE, KVM_GUESTDBG_SINGLESTEP, kvm_dtable, kvm_guest_debug, kvm_regs,
};
use kvm_ioctls::{Kvm, VcpuExit, VcpuFd};
use kvm_x86::{Features, GDT, Slots, long_mode_segments};
use pgtable::bytes::{Debugger, GuestBytes};
use pgtable::memory::GuestTables;
use pgtable::{Gpa, Gva, Privilege};
use pgtable_x86::{Paging, PagingWalker, Registers};
use probe_guest::Ticker;
use vm_memory::{GuestAddress, GuestMemoryMmap};

use crate::guest;

/// How long the guest runs before the connection is looked at.
const TICK: Duration = Duration::from_millis(20);
/// Why the guest stands still.
pub enum Stopped {
    /// It ran HLT, which is what breakpoints are made of; RIP is behind it.
    Halted,
    /// It made one step.
    Step,
    /// It has run for a while.
    Tick,
    /// It says that it is at its end.
    Done,
}

/// A VM with one vCPU.
pub struct Machine {
    vcpu: VcpuFd,
    slots: Slots,
    tables: GuestTables<'static, Gpa>,
    features: Features,
    _ticker: Ticker,
}

/// The guest's memory by its own addresses.
type Memory<'m> =
    GuestBytes<'m, Debugger<PagingWalker<&'m GuestTables<'static, Gpa>>>, GuestMemoryMmap>;

impl Machine {
    /// The guest, before its first instruction.
    pub fn new() -> Result<Self, Box<dyn Error>> {
        let kvm = Kvm::new().map_err(|error| format!("/dev/kvm is not usable: {error}"))?;
        let (features, cpuid) = Features::supported(&kvm)?;
        let memory = GuestMemoryMmap::from_ranges(&[(GuestAddress(0), guest::MEMORY)])?;
        let tables = GuestTables::new(Arc::new(memory.clone()))?;
        let registers = guest::load(&memory, &tables, features)?;
        let slots = Slots::new(kvm.create_vm()?, memory)?;
        let vcpu = slots.vm().create_vcpu(0)?;
        vcpu.set_cpuid2(&cpuid)?;
        let mut sregs = vcpu.get_sregs()?;
        long_mode_segments(&mut sregs, Privilege::Supervisor, (guest::TASK, 0x67));
        let limit = size_of_val(&GDT) as u16 - 1;
        sregs.gdt = kvm_dtable { base: guest::DESCRIPTORS.get(), limit, ..kvm_dtable::default() };
        sregs.cr0 = registers.cr0.into_bits();
        sregs.cr3 = registers.cr3.into_bits();
        sregs.cr4 = registers.cr4.into_bits();
        sregs.efer = registers.efer.into_bits();
        vcpu.set_sregs(&sregs)?;
        let rip = guest::BASE.get();
        vcpu.set_regs(&kvm_regs { rip, rflags: 2, ..kvm_regs::default() })?;
        let ticker = Ticker::start(TICK)?;
        Ok(Self { vcpu, slots, tables, features, _ticker: ticker })
    }

    /// The guest's memory, as the vCPU's registers translate now. No right is judged.
    pub fn memory(&self) -> Result<Memory<'_>, Box<dyn Error>> {
        let sregs = self.vcpu.get_sregs()?;
        let registers = Registers::from_raw(sregs.cr0, sregs.cr3, sregs.cr4, sregs.efer);
        let paging = Paging::of(registers, self.features.controls())?;
        Ok(GuestBytes::new(Debugger(paging.walker(&self.tables)), self.slots.memory()))
    }

    /// The general registers.
    pub fn registers(&self) -> io::Result<kvm_regs> {
        Ok(self.vcpu.get_regs()?)
    }

    /// Sets them.
    pub fn set_registers(&self, registers: &kvm_regs) -> io::Result<()> {
        Ok(self.vcpu.set_regs(registers)?)
    }

    /// The selectors of CS, SS, DS, ES, FS and GS.
    pub fn selectors(&self) -> io::Result<[u32; 6]> {
        let it = self.vcpu.get_sregs()?;
        Ok([it.cs, it.ss, it.ds, it.es, it.fs, it.gs].map(|segment| segment.selector.into()))
    }

    /// Swaps a byte of the guest's.
    pub fn swap_byte(&self, at: Gva, byte: u8) -> Result<u8, Box<dyn Error>> {
        let (memory, mut old) = (self.memory()?, [0]);
        let wrong = |stopped: &dyn std::fmt::Display| stopped.to_string();
        memory.read(at, &mut old).map_err(|it| wrong(&it))?;
        memory.write(at, &[byte]).map_err(|it| wrong(&it))?;
        Ok(old[0])
    }

    /// Says how the guest is to run.
    pub fn prepare(&mut self, single_step: bool) -> io::Result<()> {
        let step = if single_step { KVM_GUESTDBG_SINGLESTEP } else { 0 };
        let control = KVM_GUESTDBG_ENABLE | step;
        Ok(self.vcpu.set_guest_debug(&kvm_guest_debug { control, ..kvm_guest_debug::default() })?)
    }

    /// Runs the guest for a while.
    pub fn run(&mut self) -> io::Result<Stopped> {
        match self.vcpu.run() {
            Ok(VcpuExit::Debug(_)) => Ok(Stopped::Step),
            Ok(VcpuExit::Hlt) => Ok(Stopped::Halted),
            Ok(VcpuExit::IoOut(guest::PORT_DONE, _)) => Ok(Stopped::Done),
            Ok(VcpuExit::Intr) => Ok(Stopped::Tick),
            Ok(exit) => Err(io::Error::other(format!("the vCPU stopped: {exit:?}"))),
            // EINTR: the ticker.
            Err(error) if io::Error::from(error).kind() == io::ErrorKind::Interrupted => {
                Ok(Stopped::Tick)
            }
            Err(error) => Err(error.into()),
        }
    }
}
