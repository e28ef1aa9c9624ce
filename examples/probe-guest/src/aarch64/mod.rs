//! The guest on AArch64, at EL1 and EL0.
//!
//! The protocol. The VMM owns the guest's memory; the guest's code is a page of it ([`Corner`]),
//! and the tables map it where the VMM says, and a device beside it. Before each access the VMM
//! sets the vCPU's registers, so nothing is carried over from one access to the next but memory and
//! cached translations. The guest runs one stub, at EL0 or EL1, and stops with exactly one report,
//! a store to the device: which exception it took, as its handler found it. A stub that comes
//! through ends with a breakpoint.

mod image;
pub mod register;

use std::fmt;
use std::io;
use std::time::{Duration, Instant};

use kvm_bindings::{KVM_ARM_VCPU_PSCI_0_2, kvm_userspace_memory_region, kvm_vcpu_init};
use kvm_ioctls::{Kvm, VcpuExit, VcpuFd, VmFd};
use pgtable::{AccessKind, Gpa, Gva, Privilege};
use pgtable_aarch64::{Esr, Mair, Registers, Tlbi};
use vm_memory::{
    Address, Bytes, GuestAddress, GuestMemoryBackend, GuestMemoryMmap, GuestMemoryRegion,
};

use super::Probe;
use super::ticker::Ticker;
use image::Image;
use register::{MAIR, PC, PSTATE, SCTLR, TCR, TTBR0, TTBR1, VBAR, core};

pub use image::{GREETING, target};
pub use register::Features;

/// How long one access may take before the guest is taken to hang.
const PATIENCE: Duration = Duration::from_secs(20);
/// How often the clock is looked at.
const TICK: Duration = Duration::from_millis(50);

/// The exception class of BRK (DDI 0487, "ESR_EL1").
const BREAKPOINT: u8 = 0x3c;
/// PSTATE: interrupts masked, EL1 with its own stack pointer, or EL0.
const EL1: u64 = 0x3c5;
const EL0: u64 = 0x3c0;
/// SCTLR_EL1: translation, caches, and no PAN after exceptions.
const SCTLR_BITS: u64 = 1 | 1 << 2 | 1 << 12 | 1 << 23;

/// Where the guest's own pages are.
#[derive(Clone, Copy, Debug)]
pub struct Corner {
    /// The guest-physical address of the code.
    pub code: Gpa,
    /// The guest-physical address of the device, where no memory is.
    pub device: Gpa,
    /// Where the code is mapped for EL1; the device is on the next page.
    pub supervisor: Gva,
    /// Where the code is mapped for EL0.
    pub user: Gva,
}

impl Corner {
    /// Where the device is mapped, for EL1.
    #[must_use]
    pub fn device_at(&self) -> u64 {
        self.supervisor.get() + 0x1000
    }
}

/// An exception that the guest took, as the guest's handler saw it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Trap {
    /// ESR_EL1.
    pub esr: Esr,
    /// FAR_EL1: the address that it is about.
    pub far: u64,
    /// ELR_EL1: the instruction that took it.
    pub elr: u64,
    /// In which mode.
    pub privilege: Privilege,
}

/// What came of an access.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It was done.
    Completed {
        /// What was loaded or said; what was stored.
        value: u64,
    },
    /// It was translated, to where the guest has no memory.
    NoMemory {
        /// Where.
        address: Gpa,
    },
    /// It took an exception.
    Trapped(Trap),
    /// The guest never came back.
    Hung {
        /// Where it was last.
        pc: u64,
    },
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Completed { value } => write!(f, "done, value {value:#x}"),
            Self::NoMemory { address } => write!(f, "no memory at {address:#x}"),
            Self::Trapped(Trap { esr, far, elr, privilege }) => {
                let esr = esr.into_bits();
                write!(f, "ESR {esr:#x}, FAR {far:#x}, ELR {elr:#x}, {privilege:?}")
            }
            Self::Hung { pc } => write!(f, "hangs at {pc:#x}"),
        }
    }
}

/// A VM with one vCPU that makes accesses on request.
#[derive(Debug)]
pub struct ProbeGuest {
    vcpu: VcpuFd,
    _vm: VmFd,
    image: Image,
    corner: Corner,
    console: Vec<u8>,
    _ticker: Ticker,
    /// Last, so that it outlives the VM.
    _memory: GuestMemoryMmap,
}

impl ProbeGuest {
    /// Makes a VM of the memory, and puts the guest's code into it.
    ///
    /// There are no tables yet: [`set_registers`](Self::set_registers) comes before the first
    /// access.
    ///
    /// # Errors
    /// Memory that lacks the page of code, or the OS error.
    pub fn new(kvm: &Kvm, memory: GuestMemoryMmap, corner: Corner) -> io::Result<Self> {
        let image = Image::linked();
        memory
            .write_slice(image.bytes, GuestAddress(corner.code.get()))
            .map_err(io::Error::other)?;
        let vm = kvm.create_vm()?;
        for (slot, region) in (0..).zip(memory.iter()) {
            let region = kvm_userspace_memory_region {
                slot,
                flags: 0,
                guest_phys_addr: region.start_addr().raw_value(),
                memory_size: region.len(),
                userspace_addr: region.as_ptr() as u64,
            };
            // SAFETY: the region is a mapping of `memory`, which this value holds and drops after
            // VM and vCPU. `vm-memory` hands out volatile and atomic access only.
            unsafe { vm.set_user_memory_region(region) }?;
        }
        let vcpu = vm.create_vcpu(0)?;
        let mut target = kvm_vcpu_init::default();
        vm.get_preferred_target(&mut target)?;
        target.features[0] |= 1 << KVM_ARM_VCPU_PSCI_0_2;
        vcpu.vcpu_init(&target)?;
        let guest = Self {
            vcpu,
            _vm: vm,
            image,
            corner,
            console: Vec::new(),
            _ticker: Ticker::start(TICK)?,
            _memory: memory,
        };
        guest.set(VBAR, corner.supervisor.get() + image.vectors)?;
        guest.set(MAIR, Mair::USUAL.0)?;
        Ok(guest)
    }

    /// What the guest has printed.
    #[must_use]
    pub fn console(&self) -> &[u8] {
        &self.console
    }

    /// What the vCPU has.
    ///
    /// # Errors
    /// The OS error.
    pub fn features(&self) -> io::Result<Features> {
        Features::of(&self.vcpu)
    }

    /// SCTLR_EL1 with translation and caches on.
    ///
    /// # Errors
    /// The OS error.
    pub fn sctlr(&self) -> io::Result<u64> {
        Ok(self.get(SCTLR)? | SCTLR_BITS)
    }

    /// Sets TCR_EL1, both TTBRs and SCTLR_EL1.
    ///
    /// # Errors
    /// The OS error.
    pub fn set_registers(&self, registers: &Registers) -> io::Result<()> {
        let Registers { tcr, ttbr0, ttbr1, sctlr, .. } = *registers;
        let all = [(TCR, tcr), (TTBR0, ttbr0), (TTBR1, ttbr1), (SCTLR, sctlr)];
        all.into_iter().try_for_each(|(register, value)| self.set(register, value))
    }

    /// Has the guest make one access.
    ///
    /// # Errors
    /// The OS error of running the vCPU; a vCPU that stopped for what no access can lead to.
    pub fn probe(&mut self, probe: &Probe) -> io::Result<Outcome> {
        if probe.access.kind == AccessKind::Fetch {
            self.stub(self.image.fresh, &[])?;
        }
        let pc = self.place(probe);
        let registers = [(core(1), probe.address.get()), (core(0), probe.value)];
        self.run(pc, probe.access.privilege, &registers)
    }

    /// Whether the exception is that access's own.
    #[must_use]
    pub fn is_of(&self, trap: &Trap, probe: &Probe) -> bool {
        trap.far == probe.address.get()
            && trap.elr == self.place(probe)
            && trap.privilege == probe.access.privilege
    }

    /// Has the guest print its line, at EL1.
    ///
    /// # Errors
    /// As for [`probe`](Self::probe).
    pub fn hello(&mut self) -> io::Result<Outcome> {
        self.stub(self.image.hello, &[])
    }

    /// Has the guest run one TLBI of stage 1, with the barriers before and after it.
    ///
    /// # Errors
    /// As for [`probe`](Self::probe); an operation of stage 2.
    pub fn tlbi(&mut self, operation: Tlbi) -> io::Result<Outcome> {
        let Some((stub, operand)) = self.image.tlbi(operation) else {
            return Err(io::Error::other(format!("{operation:?} is EL2's")));
        };
        self.stub(stub, &[(core(1), operand)])
    }

    /// Has the guest load from `address`, break the entry at `entry` that translates it, invalidate
    /// by VAE1IS with `operand`, make the entry `word`, and load again, at EL1: what it loaded.
    ///
    /// # Errors
    /// The outcome, if it did not come through. Else as for [`probe`](Self::probe).
    pub fn edit(
        &mut self,
        address: Gva,
        (entry, word): (Gva, u64),
        operand: u64,
    ) -> io::Result<Result<[u64; 2], Outcome>> {
        let registers =
            [(core(1), address.get()), (core(2), operand), (core(3), word), (core(4), entry.get())];
        let outcome = self.stub(self.image.edit, &registers)?;
        let Outcome::Completed { value } = outcome else { return Ok(Err(outcome)) };
        Ok(Ok([value, self.get(core(5))?]))
    }

    /// Where the access is made: the stub's first instruction, or for a fetch its target.
    fn place(&self, probe: &Probe) -> u64 {
        let page = match probe.access.privilege {
            Privilege::Supervisor => self.corner.supervisor.get(),
            Privilege::User => self.corner.user.get(),
        };
        match probe.access.kind {
            AccessKind::Read => page + self.image.load,
            AccessKind::Write => page + self.image.store,
            AccessKind::Fetch => probe.address.get(),
        }
    }

    fn set(&self, register: u64, value: u64) -> io::Result<()> {
        register::set(&self.vcpu, register, value)
    }

    fn get(&self, register: u64) -> io::Result<u64> {
        register::get(&self.vcpu, register)
    }

    /// Runs a stub at EL1.
    fn stub(&mut self, stub: u64, registers: &[(u64, u64)]) -> io::Result<Outcome> {
        self.run(self.corner.supervisor.get() + stub, Privilege::Supervisor, registers)
    }

    /// Runs from `pc` to the report.
    fn run(
        &mut self,
        pc: u64,
        privilege: Privilege,
        registers: &[(u64, u64)],
    ) -> io::Result<Outcome> {
        let device = (core(7), self.corner.device_at());
        let state = (PSTATE, if privilege == Privilege::User { EL0 } else { EL1 });
        for &(register, value) in registers.iter().chain(&[(PC, pc), state, device]) {
            self.set(register, value)?;
        }
        let reports = self.corner.device.get();
        let deadline = Instant::now() + PATIENCE;
        let mut unbacked = None;
        loop {
            match self.vcpu.run() {
                Ok(VcpuExit::MmioWrite(address, _)) if address == reports => break,
                Ok(VcpuExit::MmioWrite(address, text)) if address == reports + 8 => {
                    self.console.extend(text);
                }
                Ok(VcpuExit::MmioRead(address, bytes)) => {
                    bytes.fill(0);
                    unbacked = Some(Gpa::new(address));
                }
                Ok(VcpuExit::MmioWrite(address, _)) => unbacked = Some(Gpa::new(address)),
                Ok(VcpuExit::Intr) if Instant::now() < deadline => {}
                Err(error) if error.errno() == libc::EINTR && Instant::now() < deadline => {}
                Ok(VcpuExit::Intr) => return Ok(Outcome::Hung { pc: self.get(PC)? }),
                Err(error) if error.errno() == libc::EINTR => {
                    return Ok(Outcome::Hung { pc: self.get(PC)? });
                }
                Ok(exit) => return Err(io::Error::other(format!("the vCPU stopped: {exit:?}"))),
                Err(error) => return Err(error.into()),
            }
        }
        self.complete()?;
        let [esr, far, elr, spsr] = [8, 9, 10, 11].map(|number| self.get(core(number)));
        let (esr, far, elr, spsr) = (Esr::from_bits(esr?), far?, elr?, spsr?);
        if esr.class() == BREAKPOINT {
            let value = self.get(core(0))?;
            return Ok(unbacked
                .map_or(Outcome::Completed { value }, |address| Outcome::NoMemory { address }));
        }
        let privilege =
            if spsr & register::LEVEL == 0 { Privilege::User } else { Privilege::Supervisor };
        Ok(Outcome::Trapped(Trap { esr, far, elr, privilege }))
    }

    /// Has KVM end the store that reported. It does so at the next `KVM_RUN`, and would move a pc
    /// that was set meanwhile.
    fn complete(&mut self) -> io::Result<()> {
        self.vcpu.set_kvm_immediate_exit(1);
        let ended = match self.vcpu.run() {
            Ok(VcpuExit::Intr) => Ok(()),
            Ok(exit) => Err(io::Error::other(format!("the vCPU stopped: {exit:?}"))),
            Err(error) if error.errno() == libc::EINTR => Ok(()),
            Err(error) => Err(error.into()),
        };
        self.vcpu.set_kvm_immediate_exit(0);
        ended
    }
}
