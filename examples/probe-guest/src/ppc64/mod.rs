//! The guest on POWER, under KVM-HV, with radix or hashed translation.
//!
//! The protocol. The VMM owns the guest’s memory; the guest’s code stands at its beginning
//! ([`ProbeGuest::code_size`] bytes). Before each access the VMM sets the vCPU’s registers, so
//! nothing is carried over from one access to the next but memory and the hardware’s cached
//! translations. The guest runs one stub with relocation on, and stops with exactly one report:
//! that the stub came through, or which interrupt it took.
//!
//! One thing is asked of the tables: the page of stubs ([`ProbeGuest::stubs`], 4 KB) must be mapped
//! readable and executable for whoever makes the access, at the addresses that the VMM says
//! ([`StubsAt`]). Interrupts arrive in real mode, untranslated by the guest’s tables.
//!
//! A VMM cannot run `tlbie` for its guest. The guest has LPCR\[GTSE\], so it runs `tlbie` itself,
//! when the VMM asks: [`ProbeGuest::tlbie`].

mod hashed;
mod image;
mod msr;
mod outcome;

pub use hashed::SlbWords;
pub use outcome::{Interrupt, Outcome, vector};

use super::Probe;
use super::ticker::Ticker;
use image::Image;
use kvm_ppc::bindings::{
    KVM_CAP_PPC_PAPR, KVM_REG_PPC_AMR, KVM_REG_PPC_IAMR, KVM_REG_PPC_LPCR_64, KVM_REG_PPC_PID,
    KVM_VM_PPC_HV, kvm_enable_cap, kvm_regs,
};
use kvm_ppc::{Kvm, Slots, VcpuExit, VcpuFd, VmFd};
use pgtable::{Access, AccessKind, Gpa, Gva, Privilege, Stage1};
use pgtable_ppc64::kvm::{KVM_PPC_MMUV3_GTSE, KVM_PPC_MMUV3_RADIX, PpcMmu, kvm_ppc_mmuv3_cfg};
use pgtable_ppc64::radix::{Amr, Iamr, ProcessTableWord, Ric, Tlbie};
use std::io;
use std::time::{Duration, Instant};
use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};

/// `H_PUT_TERM_CHAR`: PAPR 14.15.3.1.
const H_PUT_TERM_CHAR: u64 = 0x58;
/// The guest’s report; the number is agreed with `guest.S`.
const H_PROBE_REPORT: u64 = 0xfa00;
/// What another hypercall left in R3 to R11; the number is agreed with `guest.S`.
const H_PROBE_ANSWER: u64 = 0xfa04;
/// A hypercall was done.
const H_SUCCESS: u64 = 0;
/// A hypercall is unknown: the value is −2.
const H_FUNCTION: u64 = (-2_i64) as u64;

/// How long one access may take before the guest is taken to hang, unless somebody says otherwise.
const PATIENCE: Duration = Duration::from_secs(5);
/// How often the clock is looked at.
const TICK: Duration = Duration::from_millis(50);

/// Where the tables map the page of stubs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct StubsAt {
    /// For accesses in privileged state.
    pub supervisor: Gva,
    /// For accesses in problem state.
    pub user: Gva,
}

/// What an edit of a table looked like from inside: three loads of the same address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Edited {
    /// Loaded before the edit.
    pub before: u64,
    /// Loaded after the edit and before the invalidation: the old translation or the new one.
    pub between: u64,
    /// Loaded after the invalidation.
    pub after: u64,
}

/// An edit that [`ProbeGuest::edit`] makes.
#[derive(Clone, Copy, Debug)]
pub struct Edit {
    /// The address to load from.
    pub address: Gva,
    /// The effective address of the entry that translates it.
    pub entry: Gva,
    /// The entry’s new content, in the architecture’s bit order.
    pub word: u64,
    /// What makes the old translation unreachable; RIC must be 0.
    pub tlbie: Tlbie<Stage1>,
}

/// How an access begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Start {
    /// The stub’s first instruction: the load or store itself, or what leads to the call.
    pub pc: Gva,
    /// The machine state.
    pub msr: u64,
}

/// A VM with one vCPU that makes accesses on request.
#[derive(Debug)]
pub struct ProbeGuest {
    patience: Duration,
    vcpu: VcpuFd,
    slots: Slots,
    image: Image,
    stubs_at: StubsAt,
    console: Vec<u8>,
    _ticker: Ticker,
}

impl ProbeGuest {
    /// Makes a VM of the memory, and puts the guest’s code into it.
    ///
    /// Translation is not set up yet: [`set_process_table`](Self::set_process_table) comes before
    /// the first access.
    ///
    /// # Errors
    /// No KVM-HV here, a program that wasn’t built for POWER, memory that doesn’t begin at guest
    /// real address 0, or another OS error.
    pub fn new(kvm: &Kvm, memory: GuestMemoryMmap) -> io::Result<Self> {
        let image = Image::linked()
            .ok_or_else(|| io::Error::other("built for a machine that has no guest code"))?;
        memory.write_slice(image.bytes, GuestAddress(0)).map_err(io::Error::other)?;

        let slots = Slots::new(kvm.create_vm_with_type(KVM_VM_PPC_HV.into())?, memory)?;
        let vcpu = slots.vm().create_vcpu(0)?;
        vcpu.enable_cap(&kvm_enable_cap { cap: KVM_CAP_PPC_PAPR, ..Default::default() })?;
        let mut lpcr = [0; 8];
        vcpu.get_one_reg(KVM_REG_PPC_LPCR_64, &mut lpcr)?;
        let lpcr = u64::from_ne_bytes(lpcr) | msr::LPCR_ILE | msr::LPCR_LD;
        vcpu.set_one_reg(KVM_REG_PPC_LPCR_64, &lpcr.to_ne_bytes())?;
        let stubs_at = StubsAt { supervisor: Gva::new(image.stubs), user: Gva::new(image.stubs) };
        let ticker = Ticker::start(TICK)?;
        Ok(Self {
            patience: PATIENCE,
            vcpu,
            slots,
            image,
            stubs_at,
            console: Vec::new(),
            _ticker: ticker,
        })
    }

    /// The guest’s memory.
    pub fn memory(&self) -> &GuestMemoryMmap {
        self.slots.memory()
    }

    /// The guest’s memory as KVM knows it.
    pub fn slots(&self) -> &Slots {
        &self.slots
    }

    /// The VM, for asking what its MMU can do.
    pub fn vm(&self) -> &VmFd {
        self.slots.vm()
    }

    /// The Processor Version Register.
    ///
    /// # Errors
    /// The OS error.
    pub fn pvr(&self) -> io::Result<u32> {
        Ok(self.vcpu.get_sregs()?.pvr)
    }

    /// How many bytes from guest real address 0 are the guest’s code.
    pub fn code_size(&self) -> u64 {
        self.image.bytes.len() as u64
    }

    /// Where the page of stubs is in the guest’s memory.
    pub fn stubs(&self) -> Gpa {
        Gpa::new(self.image.stubs)
    }

    /// A function that a probe may call: it adds `addend` to the probe’s value. It is
    /// position-independent; copy it to where the guest shall find it.
    pub fn target(&self, addend: i16) -> Vec<u8> {
        self.image.target(addend)
    }

    /// What the guest has printed.
    pub fn console(&self) -> &[u8] {
        &self.console
    }

    /// Tells the hardware where the guest’s process table is.
    ///
    /// # Errors
    /// `EINVAL`: PRTS is too large, GR isn’t set. The OS error.
    pub fn set_process_table(&mut self, word: ProcessTableWord) -> io::Result<()> {
        self.slots.vm().configure_v3_mmu(&kvm_ppc_mmuv3_cfg {
            flags: KVM_PPC_MMUV3_RADIX | KVM_PPC_MMUV3_GTSE,
            process_table: word.into(),
        })
    }

    /// Tells the guest where its tables map the stubs.
    pub fn set_stubs(&mut self, at: StubsAt) {
        self.stubs_at = at;
    }

    /// Says which process the guest runs: whose tree translates quadrant 0.
    ///
    /// # Errors
    /// The OS error.
    pub fn set_pid(&self, pid: u32) -> io::Result<()> {
        self.vcpu.set_one_reg(KVM_REG_PPC_PID, &u64::from(pid).to_ne_bytes())?;
        Ok(())
    }

    /// Sets AMR and IAMR: what privileged state may not do to problem state’s pages.
    ///
    /// # Errors
    /// The OS error.
    pub fn set_authority(&self, amr: Amr, iamr: Iamr) -> io::Result<()> {
        self.vcpu.set_one_reg(KVM_REG_PPC_AMR, &u64::from(amr).to_ne_bytes())?;
        self.vcpu.set_one_reg(KVM_REG_PPC_IAMR, &u64::from(iamr).to_ne_bytes())?;
        Ok(())
    }

    /// Says how long an access may take before the guest is taken to hang.
    pub fn set_patience(&mut self, patience: Duration) {
        self.patience = patience;
    }

    /// Has the guest put its decrementer off, and print a line.
    ///
    /// # Errors
    /// The OS error.
    pub fn hello(&mut self) -> io::Result<Outcome> {
        let Start { pc, msr } = self.start_of(self.image.entry.hello, Privilege::Supervisor);
        Ok(self.run_at(pc.get(), msr, &[])?.outcome())
    }

    /// How an access begins: what SRR0 and SRR1 hold if it takes an interrupt.
    pub fn start(&self, access: Access) -> Start {
        let entry = match access.kind {
            AccessKind::Read => self.image.entry.load,
            AccessKind::Write => self.image.entry.store,
            AccessKind::Fetch => self.image.entry.fetch,
        };
        self.start_of(entry, access.privilege)
    }

    fn start_of(&self, entry: u64, privilege: Privilege) -> Start {
        let (stubs, msr) = match privilege {
            Privilege::Supervisor => (self.stubs_at.supervisor, msr::RELOCATED),
            Privilege::User => (self.stubs_at.user, msr::RELOCATED | msr::USER),
        };
        Start { pc: Gva::new(stubs.get().wrapping_add(entry)), msr }
    }

    /// Has the guest make one access.
    ///
    /// # Errors
    /// The OS error of running the vCPU.
    pub fn probe(&mut self, probe: &Probe) -> io::Result<Outcome> {
        let Start { pc, msr } = self.start(probe.access);
        Ok(self.run_at(pc.get(), msr, &[probe.address.get(), probe.value])?.outcome())
    }

    /// Has the guest run `ptesync; tlbie; eieio; tlbsync; ptesync`.
    ///
    /// # Errors
    /// The OS error of running the vCPU.
    pub fn tlbie(&mut self, it: Tlbie<Stage1>) -> io::Result<Outcome> {
        let entry = match it.ric() {
            Ric::Tlb => self.image.entry.tlbie_tlb,
            Ric::WalkCache => self.image.entry.tlbie_pwc,
            Ric::All => self.image.entry.tlbie_all,
        };
        // Real mode: the tables may be in any state just now.
        Ok(self
            .run_at(self.image.stubs + entry, msr::REAL, &[it.rb().into(), 0, it.rs().into()])?
            .outcome())
    }

    /// Has the guest load, edit the entry that translates the load, load again, invalidate, and
    /// load again, all in privileged state and without leaving the guest.
    ///
    /// # Errors
    /// The outcome, if it did not come through. The OS error of running the vCPU.
    pub fn edit(&mut self, edit: &Edit) -> io::Result<Result<Edited, Outcome>> {
        let Edit { address, entry, word, tlbie } = *edit;
        let pc = self.stubs_at.supervisor.get().wrapping_add(self.image.entry.edit);
        // The guest stores little-endian; entries are big-endian.
        let operands = [
            address.get(),
            0,
            tlbie.rs().into(),
            entry.get(),
            word.swap_bytes(),
            tlbie.rb().into(),
        ];
        let report = self.run_at(pc, msr::RELOCATED, &operands)?;
        Ok(match report.outcome() {
            Outcome::Completed { value } => {
                let [between, after] = report.more;
                Ok(Edited { before: value, between, after })
            }
            outcome => Err(outcome),
        })
    }

    /// Runs from `pc` on, with the operands in R14 and up, to the report.
    fn run_at(&mut self, pc: u64, msr: u64, operands: &[u64]) -> io::Result<Report> {
        let mut regs = kvm_regs { pc, msr, ..kvm_regs::default() };
        for (register, &operand) in regs.gpr[14..].iter_mut().zip(operands) {
            *register = operand;
        }
        self.vcpu.set_regs(&regs)?;
        self.run_to_report(pc, msr)
    }

    fn run_to_report(&mut self, pc: u64, msr: u64) -> io::Result<Report> {
        let deadline = Instant::now() + self.patience;
        let mut report = Report { pc, msr, ..Report::default() };
        loop {
            let exit = match self.vcpu.run() {
                Err(error) if error.errno() == libc::EINTR => VcpuExit::Intr,
                exit => exit?,
            };
            match exit {
                VcpuExit::PaprHcall(call) if call.nr == H_PROBE_REPORT => {
                    let [vector, srr0, srr1, dsisr, dar, value, more @ ..] = *call.args;
                    *call.ret = H_SUCCESS;
                    report.interrupt =
                        Some(Interrupt { vector, srr0, srr1, dsisr: dsisr as u32, dar });
                    report.value = value;
                    report.more = [more[0], more[1]];
                    return Ok(report);
                }
                VcpuExit::PaprHcall(call) if call.nr == H_PROBE_ANSWER => {
                    report.answer = Some(*call.args);
                    *call.ret = H_SUCCESS;
                    return Ok(report);
                }
                VcpuExit::PaprHcall(call) if call.nr == H_PUT_TERM_CHAR => {
                    let [_, length, first, second, ..] = *call.args;
                    let characters = [first.to_be_bytes(), second.to_be_bytes()];
                    let length = usize::try_from(length).unwrap_or(usize::MAX);
                    self.console.extend(characters.as_flattened().iter().take(length));
                    *call.ret = H_SUCCESS;
                }
                VcpuExit::PaprHcall(call) => *call.ret = H_FUNCTION,
                VcpuExit::MmioRead(address, data) => {
                    data.fill(0);
                    report.mmio = Some(Gpa::new(address));
                }
                VcpuExit::MmioWrite(address, _) => report.mmio = Some(Gpa::new(address)),
                VcpuExit::Intr if Instant::now() < deadline => {}
                VcpuExit::Intr => {
                    report.hung = self.vcpu.get_regs()?.pc;
                    return Ok(report);
                }
                exit => return Err(io::Error::other(format!("the vCPU stopped: {exit:?}"))),
            }
        }
    }
}

/// How a run from `pc` on in state `msr` ended.
#[derive(Clone, Copy, Debug, Default)]
struct Report {
    pc: u64,
    msr: u64,
    /// The interrupt that ended it; `None`: it never ended.
    interrupt: Option<Interrupt>,
    /// R15.
    value: u64,
    /// R17 and R18.
    more: [u64; 2],
    /// What a hypercall left in R3 to R11.
    answer: Option<[u64; 9]>,
    /// Where an access met no memory.
    mmio: Option<Gpa>,
    /// Where it was when patience ended.
    hung: u64,
}

impl Report {
    fn outcome(&self) -> Outcome {
        let Some(interrupt) = self.interrupt else { return Outcome::Hung { pc: self.hung } };
        match self.mmio {
            _ if !self.came_through(&interrupt) => Outcome::Interrupted(interrupt),
            Some(address) => Outcome::NoMemory { address },
            None => Outcome::Completed { value: self.value },
        }
    }

    /// Whether the interrupt is the stub’s own last word: a system call out of the page that it was
    /// started in, in the state that it was started in.
    fn came_through(&self, interrupt: &Interrupt) -> bool {
        const PAGE: u64 = !0xfff;
        let call = interrupt.srr0.wrapping_sub(4);
        interrupt.vector == vector::SYSTEM_CALL
            && call & PAGE == self.pc & PAGE
            && (interrupt.srr1 ^ self.msr) & msr::PR == 0
    }
}
