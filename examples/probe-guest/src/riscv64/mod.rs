//! The guest on RISC-V, in VS- and VU-mode.
//!
//! The protocol. The VMM owns the guest's memory; the guest's code is a page of it ([`Corner`]),
//! and the tables map it where the VMM says, and a device beside it. Before each access the VMM
//! sets the vCPU's registers, so nothing is carried over from one access to the next but memory and
//! cached translations. The guest runs one stub, in user or supervisor mode, and stops with exactly
//! one report, a store to the device: which exception it took, as its handler found it. A stub that
//! comes through ends with a breakpoint.

mod image;

use std::fmt;
use std::io;
use std::time::{Duration, Instant};

use kvm_bindings::kvm_userspace_memory_region;
use kvm_ioctls::{Kvm, VcpuExit, VcpuFd, VmFd};
use pgtable::{AccessKind, Gpa, Gva, Privilege};
use vm_memory::{
    Address, Bytes, GuestAddress, GuestMemoryBackend, GuestMemoryMmap, GuestMemoryRegion,
};

use super::Probe;
use super::ticker::Ticker;
use image::Image;

pub use image::{GREETING, target};

/// How long one access may take before the guest is taken to hang.
const PATIENCE: Duration = Duration::from_secs(20);
/// How often the clock is looked at.
const TICK: Duration = Duration::from_millis(50);

/// `scause` of a breakpoint.
const BREAKPOINT: u64 = 3;
/// `sstatus.SPP`.
const SPP: u64 = 1 << 8;

/// Numbers of registers (Linux, `arch/riscv/include/uapi/asm/kvm.h`): 64 bits of the core, which
/// begins with pc, x1, x2 …, and of the CSRs.
const CORE: u64 = 0x8030_0000_0200_0000;
const MODE: u64 = CORE + 32;
const CSR: u64 = 0x8030_0000_0300_0000;
/// The MODE of the widest satp, of the vCPU's configuration.
const SATP_MODE: u64 = 0x8030_0000_0100_0000 + 6;
const STVEC: u64 = CSR + 2;
const SATP: u64 = CSR + 8;
/// x5, x6, x7, x28: t0 to t3.
const TEMPORARIES: [u64; 4] = [CORE + 5, CORE + 6, CORE + 7, CORE + 28];

/// a0 to a7.
const fn argument(number: u64) -> u64 {
    CORE + 10 + number
}

/// Where the guest's own pages are.
#[derive(Clone, Copy, Debug)]
pub struct Corner {
    /// The guest-physical address of the code.
    pub code: Gpa,
    /// The guest-physical address of the device, where no memory is.
    pub device: Gpa,
    /// Where the code is mapped for a supervisor; the device is on the next page.
    pub supervisor: Gva,
    /// Where the code is mapped for a user.
    pub user: Gva,
}

impl Corner {
    /// Where the device is mapped, for a supervisor.
    #[must_use]
    pub fn device_at(&self) -> u64 {
        self.supervisor.get() + 0x1000
    }
}

/// An exception that the guest took, as the guest's handler saw it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Trap {
    /// The exception's code.
    pub scause: u64,
    /// The address that it is about.
    pub stval: u64,
    /// The instruction that took it.
    pub sepc: u64,
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
            Self::Trapped(Trap { scause, stval, sepc, privilege }) => {
                write!(f, "scause {scause}, stval {stval:#x}, sepc {sepc:#x}, {privilege:?}")
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
    /// There are no tables yet: [`set_satp`](Self::set_satp) comes before the first access.
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
        let guest = Self {
            vcpu,
            _vm: vm,
            image,
            corner,
            console: Vec::new(),
            _ticker: Ticker::start(TICK)?,
            _memory: memory,
        };
        guest.set(STVEC, corner.supervisor.get() + image.handler)?;
        Ok(guest)
    }

    /// What the guest has printed.
    #[must_use]
    pub fn console(&self) -> &[u8] {
        &self.console
    }

    /// The greatest MODE of satp that the vCPU has.
    ///
    /// # Errors
    /// The OS error.
    pub fn satp_mode(&self) -> io::Result<u64> {
        self.get(SATP_MODE)
    }

    /// Sets the tree that the guest's accesses go through.
    ///
    /// # Errors
    /// The OS error.
    pub fn set_satp(&self, satp: u64) -> io::Result<()> {
        self.set(SATP, satp)
    }

    /// Has the guest make one access.
    ///
    /// # Errors
    /// The OS error of running the vCPU; a vCPU that stopped for what no access can lead to.
    pub fn probe(&mut self, probe: &Probe) -> io::Result<Outcome> {
        let pc = self.place(probe);
        let registers = [(argument(1), probe.address.get()), (argument(0), probe.value)];
        self.run(pc, probe.access.privilege, &registers)
    }

    /// Whether the exception is that access's own.
    #[must_use]
    pub fn is_of(&self, trap: &Trap, probe: &Probe) -> bool {
        trap.stval == probe.address.get()
            && trap.sepc == self.place(probe)
            && trap.privilege == probe.access.privilege
    }

    /// Has the guest print its line, in supervisor mode.
    ///
    /// # Errors
    /// As for [`probe`](Self::probe).
    pub fn hello(&mut self) -> io::Result<Outcome> {
        self.run(self.corner.supervisor.get() + self.image.hello, Privilege::Supervisor, &[])
    }

    /// Has the guest run SFENCE.VMA for an address of an address space, or for all of that.
    ///
    /// # Errors
    /// As for [`probe`](Self::probe).
    pub fn sfence(&mut self, address: Option<Gva>, asid: u16) -> io::Result<Outcome> {
        let stub = if address.is_some() { self.image.sfence } else { self.image.flush };
        let registers =
            [(argument(1), address.map_or(0, Gva::get)), (argument(2), u64::from(asid))];
        self.run(self.corner.supervisor.get() + stub, Privilege::Supervisor, &registers)
    }

    /// Has the guest load from `address`, store `word` to the entry at `entry` that translates it,
    /// load again, invalidate, and load again, in supervisor mode: what it loaded.
    ///
    /// # Errors
    /// The outcome, if it did not come through. Else as for [`probe`](Self::probe).
    pub fn edit(
        &mut self,
        address: Gva,
        (entry, word): (Gva, u64),
        asid: u16,
    ) -> io::Result<Result<[u64; 3], Outcome>> {
        let registers = [
            (argument(1), address.get()),
            (argument(2), u64::from(asid)),
            (argument(3), word),
            (argument(4), entry.get()),
        ];
        let pc = self.corner.supervisor.get() + self.image.edit;
        let outcome = self.run(pc, Privilege::Supervisor, &registers)?;
        let Outcome::Completed { value } = outcome else { return Ok(Err(outcome)) };
        Ok(Ok([value, self.get(argument(5))?, self.get(argument(6))?]))
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
        self.vcpu.set_one_reg(register, &value.to_le_bytes())?;
        Ok(())
    }

    fn get(&self, register: u64) -> io::Result<u64> {
        let mut bytes = [0; 8];
        self.vcpu.get_one_reg(register, &mut bytes)?;
        Ok(u64::from_le_bytes(bytes))
    }

    /// Runs a stub to its report.
    fn run(
        &mut self,
        pc: u64,
        privilege: Privilege,
        registers: &[(u64, u64)],
    ) -> io::Result<Outcome> {
        let device = (argument(7), self.corner.device_at());
        let mode = (MODE, u64::from(privilege == Privilege::Supervisor));
        for &(register, value) in registers.iter().chain(&[(CORE, pc), mode, device]) {
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
                Ok(VcpuExit::Intr) => return Ok(Outcome::Hung { pc: self.get(CORE)? }),
                Err(error) if error.errno() == libc::EINTR => {
                    return Ok(Outcome::Hung { pc: self.get(CORE)? });
                }
                Ok(exit) => return Err(io::Error::other(format!("the vCPU stopped: {exit:?}"))),
                Err(error) => return Err(error.into()),
            }
        }
        self.complete()?;
        let [scause, stval, sepc, sstatus] = TEMPORARIES.map(|register| self.get(register));
        let (scause, stval, sepc, sstatus) = (scause?, stval?, sepc?, sstatus?);
        if scause == BREAKPOINT {
            let value = self.get(argument(0))?;
            return Ok(unbacked
                .map_or(Outcome::Completed { value }, |address| Outcome::NoMemory { address }));
        }
        let privilege = if sstatus & SPP == 0 { Privilege::User } else { Privilege::Supervisor };
        Ok(Outcome::Trapped(Trap { scause, stval, sepc, privilege }))
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
