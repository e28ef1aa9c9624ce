//! The guest on POWER, under KVM-HV with radix translation.
//!
//! The protocol. The VMM owns the guest’s memory; the guest’s code stands at its beginning
//! ([`ProbeGuest::code_size`] bytes). Before each access the VMM sets the vCPU’s registers, so nothing is carried over
//! from one access to the next but memory and the hardware’s cached translations. The guest runs one
//! stub with relocation on, and stops with exactly one report: that the stub came through, or which
//! interrupt it took.
//!
//! One thing is asked of the tables: the page of stubs ([`ProbeGuest::stubs`], 4 KB) must be mapped
//! executable for whoever makes the access, at the address that the VMM says. Interrupts arrive in real
//! mode, untranslated by the guest’s tables.
//!
//! A VMM cannot run `tlbie` for its guest. The guest has LPCR\[GTSE\], so it runs `tlbie` itself, when
//! the VMM asks: [`ProbeGuest::tlbie`].

mod image;
mod msr;
mod outcome;

pub use outcome::{Interrupt, Outcome, vector};

use super::Probe;
use super::ticker::Ticker;
use crate::kvm_ppc::{Cap, Kvm, OneReg, Vcpu, VcpuExit, Vm, VmType, kvm_regs, kvm_userspace_memory_region};
use arch_ppc64::kvm::{KVM_PPC_MMUV3_GTSE, KVM_PPC_MMUV3_RADIX, PpcMmu, kvm_ppc_mmuv3_cfg};
use image::Image;
use pgtable::{AccessKind, Gpa, Gva, Privilege};
use std::io;
use std::time::{Duration, Instant};
use vm_memory::{Address, Bytes, GuestAddress, GuestMemoryBackend, GuestMemoryMmap, GuestMemoryRegion};

/// `H_PUT_TERM_CHAR`: PAPR 14.15.3.1.
const H_PUT_TERM_CHAR: u64 = 0x58;
/// The guest’s report; the number is agreed with `guest.S`.
const H_PROBE_REPORT: u64 = 0xfa00;
/// A hypercall was done.
const H_SUCCESS: u64 = 0;
/// A hypercall is unknown: the value is −2.
const H_FUNCTION: u64 = (-2_i64) as u64;

/// How long one access may take before the guest is taken to hang.
const PATIENCE: Duration = Duration::from_secs(5);
/// How often the clock is looked at.
const TICK: Duration = Duration::from_millis(50);

/// What a `tlbie` drops: its RIC field.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Ric {
    /// Translations (0).
    Tlb,
    /// The page-walk cache (1).
    PageWalkCache,
    /// Translations, the page-walk cache and the cached process-table entry (2).
    All,
}

/// A VM with one vCPU that makes accesses on request.
#[derive(Debug)]
pub struct ProbeGuest {
    vcpu: Vcpu,
    vm: Vm,
    image: Image,
    /// Where the tables map the page of stubs.
    stubs_at: Gva,
    console: Vec<u8>,
    _ticker: Ticker,
    /// Last, so that it outlives the VM.
    memory: GuestMemoryMmap,
}

impl ProbeGuest {
    /// Makes a VM of the memory, and puts the guest’s code into it.
    ///
    /// Translation is not set up yet: [`set_process_table`](Self::set_process_table) comes before the
    /// first access.
    ///
    /// # Errors
    /// No KVM-HV here, a program that wasn’t built for POWER, memory that doesn’t begin at guest real
    /// address 0, or another OS error.
    pub fn new(kvm: &Kvm, memory: GuestMemoryMmap) -> io::Result<Self> {
        let image = Image::linked().ok_or_else(|| io::Error::other("built for a machine that has no guest code"))?;
        memory.write_slice(image.bytes, GuestAddress(0)).map_err(io::Error::other)?;

        let vm = kvm.create_vm_with_type(VmType::Hv)?;
        for (slot, region) in (0..).zip(memory.iter()) {
            let region = kvm_userspace_memory_region {
                slot,
                flags: 0,
                guest_phys_addr: region.start_addr().raw_value(),
                memory_size: region.len(),
                userspace_addr: region.as_ptr() as u64,
            };
            // SAFETY: the region is a mapping of `memory`, which lives in the same value as the VM
            // and is dropped after it. `vm-memory` hands out volatile and atomic access only.
            unsafe { vm.set_user_memory_region(&region) }?;
        }

        let vcpu = vm.create_vcpu(0)?;
        vcpu.enable_cap(Cap::PpcPapr, [0; 4])?;
        let lpcr = vcpu.get_one_reg(OneReg::Lpcr)?;
        vcpu.set_one_reg(OneReg::Lpcr, lpcr | msr::LPCR_ILE | msr::LPCR_LD)?;
        Ok(Self { vcpu, vm, image, stubs_at: Gva::new(0), console: Vec::new(), _ticker: Ticker::start(TICK)?, memory })
    }

    /// The guest’s memory.
    pub fn memory(&self) -> &GuestMemoryMmap {
        &self.memory
    }

    /// The VM, for asking what its MMU can do.
    pub fn vm(&self) -> &Vm {
        &self.vm
    }

    /// How many bytes from guest real address 0 are the guest’s code.
    pub fn code_size(&self) -> u64 {
        self.image.bytes.len() as u64
    }

    /// Where the page of stubs is in the guest’s memory.
    pub fn stubs(&self) -> Gpa {
        Gpa::new(self.image.stubs)
    }

    /// The function that a probe may call: it adds one to the probe’s value. It is
    /// position-independent; copy it to where the guest shall find it.
    pub fn target(&self) -> &'static [u8] {
        self.image.target
    }

    /// What the guest has printed.
    pub fn console(&self) -> &[u8] {
        &self.console
    }

    /// Tells the hardware where the guest’s process table is, and the guest at which address its tables
    /// map the stubs.
    ///
    /// `patb1` is the second doubleword of the partition-table entry, with GR set.
    ///
    /// # Errors
    /// `EINVAL`: PRTS is too large, GR isn’t set. The OS error.
    pub fn set_process_table(&mut self, patb1: u64, stubs_at: Gva) -> io::Result<()> {
        self.stubs_at = stubs_at;
        self.vm.configure_v3_mmu(&kvm_ppc_mmuv3_cfg {
            flags: KVM_PPC_MMUV3_RADIX | KVM_PPC_MMUV3_GTSE,
            process_table: patb1,
        })
    }

    /// Says which process the guest runs: whose tree translates quadrant 0.
    ///
    /// # Errors
    /// The OS error.
    pub fn set_pid(&self, pid: u32) -> io::Result<()> {
        self.vcpu.set_one_reg(OneReg::Pid, pid.into())
    }

    /// Has the guest put its decrementer off, and print a line.
    ///
    /// # Errors
    /// The OS error.
    pub fn hello(&mut self) -> io::Result<Outcome> {
        self.run_stub(self.image.entry.hello, msr::RELOCATED, [0; 3])
    }

    /// Has the guest make one access.
    ///
    /// # Errors
    /// The OS error of running the vCPU.
    pub fn probe(&mut self, probe: &Probe) -> io::Result<Outcome> {
        let entry = match probe.access.kind {
            AccessKind::Read => self.image.entry.load,
            AccessKind::Write => self.image.entry.store,
            AccessKind::Fetch => self.image.entry.fetch,
        };
        let msr = match probe.access.privilege {
            Privilege::Supervisor => msr::RELOCATED,
            Privilege::User => msr::RELOCATED | msr::PR,
        };
        self.run_stub(entry, msr, [probe.address.get(), probe.value, 0])
    }

    /// Has the guest run `ptesync; tlbie; eieio; tlbsync; ptesync` with these operands,
    /// process-scoped.
    ///
    /// # Errors
    /// The OS error of running the vCPU.
    pub fn tlbie(&mut self, ric: Ric, rb: u64, rs: u64) -> io::Result<Outcome> {
        let entry = match ric {
            Ric::Tlb => self.image.entry.tlbie_tlb,
            Ric::PageWalkCache => self.image.entry.tlbie_pwc,
            Ric::All => self.image.entry.tlbie_all,
        };
        // Real mode: the tables may be in any state just now.
        self.run_stub_at(self.image.stubs + entry, msr::REAL, [rb, 0, rs])
    }

    fn run_stub(&mut self, entry: u64, msr: u64, operands: [u64; 3]) -> io::Result<Outcome> {
        self.run_stub_at(self.stubs_at.get().wrapping_add(entry), msr, operands)
    }

    fn run_stub_at(&mut self, pc: u64, msr: u64, operands: [u64; 3]) -> io::Result<Outcome> {
        let mut regs = kvm_regs { pc, msr, ..kvm_regs::default() };
        regs.gpr[14..17].copy_from_slice(&operands);
        self.vcpu.set_regs(&regs)?;
        self.run_to_report(Instant::now() + PATIENCE)
    }

    fn run_to_report(&mut self, deadline: Instant) -> io::Result<Outcome> {
        let mut mmio = None;
        loop {
            match self.vcpu.run()? {
                VcpuExit::PaprHcall(call) if call.nr == H_PROBE_REPORT => {
                    let [vector, srr0, srr1, dsisr, dar, value, ..] = call.args;
                    call.ret = H_SUCCESS;
                    let interrupt = Interrupt { vector, srr0, srr1, dsisr: dsisr as u32, dar };
                    return Ok(match (interrupt.vector, mmio) {
                        (vector::SYSTEM_CALL, None) => Outcome::Completed { value },
                        (vector::SYSTEM_CALL, Some(address)) => Outcome::NoMemory { address },
                        _ => Outcome::Interrupted(interrupt),
                    });
                }
                VcpuExit::PaprHcall(call) if call.nr == H_PUT_TERM_CHAR => {
                    let [_, length, first, second, ..] = call.args;
                    let characters = [first.to_be_bytes(), second.to_be_bytes()];
                    let length = usize::try_from(length).unwrap_or(usize::MAX);
                    self.console.extend(characters.as_flattened().iter().take(length));
                    call.ret = H_SUCCESS;
                }
                VcpuExit::PaprHcall(call) => call.ret = H_FUNCTION,
                VcpuExit::Mmio(access) => {
                    access.data = [0; 8];
                    mmio = Some(Gpa::new(access.phys_addr));
                }
                VcpuExit::Intr if Instant::now() < deadline => {}
                VcpuExit::Intr => return Ok(Outcome::Hung { pc: self.vcpu.get_regs()?.pc }),
                exit => return Err(io::Error::other(format!("the vCPU stopped: {exit:?}"))),
            }
        }
    }
}
