//! The guest on x86-64, in long mode.
//!
//! The protocol. The VMM owns the guest's memory; the guest's code, descriptors and stack are its
//! first pages ([`Corner`]), and the tables map them where the VMM says. Before each access the VMM
//! sets the vCPU's registers, so nothing is carried over from one access to the next but memory and
//! cached translations. The guest runs one stub, in user or supervisor mode, and stops with exactly
//! one report: that the stub came through, or which exception it took, with error code and CR2 as
//! its handler found them.
//!
//! User mode reports at a port by itself. IOPL 3 permits it, and the task state segment does:
//! `kvm_pvm`, which runs a guest's supervisor in the processor's user mode, honours only the
//! latter, and QEMU's emulation of SVM only the former.

mod image;
mod outcome;
mod system;

use std::io;
use std::time::{Duration, Instant};

use kvm_bindings::{kvm_dtable, kvm_regs, kvm_sregs};
use kvm_ioctls::{Kvm, VcpuExit, VcpuFd};
use pgtable::{Access, AccessKind, Gpa, Gva, Privilege};
use pgtable_x86::Registers;
use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};

use super::Probe;
use super::ticker::Ticker;
use image::{Image, PORT_CONSOLE, PORT_DONE, PORT_TRAPPED};
use kvm_x86::{Features, Slots, long_mode_segments};

pub use image::GREETING;
pub use outcome::{Outcome, Trap, vector};
pub use system::{BYTES, CODE, Corner, DESCRIPTORS, STACK};

/// How long one access may take before the guest is taken to hang.
const PATIENCE: Duration = Duration::from_secs(5);
/// How often the clock is looked at.
const TICK: Duration = Duration::from_millis(50);

/// EFLAGS: bit 1 is always set; IOPL 3.
const RFLAGS: u64 = 0x3002;
/// EFLAGS.AC.
const RFLAGS_AC: u64 = 1 << 18;

/// What an edit of a table looked like from inside: three loads of the same address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Edited {
    /// Loaded before the edit.
    pub before: u64,
    /// Loaded after the edit and before the invalidation: by the old translation or the new one.
    pub between: u64,
    /// Loaded after the invalidation.
    pub after: u64,
}

/// An edit that [`ProbeGuest::edit`] makes.
#[derive(Clone, Copy, Debug)]
pub struct Edit {
    /// The address to load from.
    pub address: Gva,
    /// The address of the entry that translates it.
    pub entry: Gva,
    /// The entry's new content.
    pub word: u64,
}

/// What KVM_TRANSLATE says: the kernel's own walker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Translated {
    /// Where the address leads; `None`: nowhere.
    pub output: Option<Gpa>,
}

/// A VM with one vCPU that makes accesses on request.
#[derive(Debug)]
pub struct ProbeGuest {
    vcpu: VcpuFd,
    slots: Slots,
    features: Features,
    image: Image,
    corner: Corner,
    sregs: kvm_sregs,
    /// In which mode the vCPU's segments are; `None`: nobody knows.
    mode: Option<Privilege>,
    alignment_check: bool,
    console: Vec<u8>,
    _ticker: Ticker,
}

impl ProbeGuest {
    /// Makes a VM of the memory, and puts the guest's own pages into it.
    ///
    /// There are no tables yet: [`set_registers`](Self::set_registers) comes before the first
    /// access.
    ///
    /// # Errors
    /// Memory that lacks the first pages, or the OS error.
    pub fn new(kvm: &Kvm, memory: GuestMemoryMmap, corner: Corner) -> io::Result<Self> {
        let image = Image::linked();
        corner.write(&image, &memory).map_err(io::Error::other)?;
        let (features, cpuid) = Features::supported(kvm)?;
        let slots = Slots::new(kvm.create_vm()?, memory)?;
        let vcpu = slots.vm().create_vcpu(0)?;
        vcpu.set_cpuid2(&cpuid)?;
        let mut sregs = vcpu.get_sregs()?;
        let table = |(base, limit)| kvm_dtable { base, limit, ..kvm_dtable::default() };
        sregs.gdt = table(corner.gdt());
        sregs.idt = table(corner.idt());
        Ok(Self {
            vcpu,
            slots,
            features,
            image,
            corner,
            sregs,
            mode: None,
            alignment_check: false,
            console: Vec::new(),
            _ticker: Ticker::start(TICK)?,
        })
    }

    /// The guest's memory.
    #[must_use]
    pub fn memory(&self) -> &GuestMemoryMmap {
        self.slots.memory()
    }

    /// What its processor can do.
    #[must_use]
    pub fn features(&self) -> Features {
        self.features
    }

    /// A function of eight bytes that a probe may jump to: it says `number`. Copy it to where the
    /// guest shall find it.
    #[must_use]
    pub fn target(&self, number: u32) -> [u8; 8] {
        self.image.target(number)
    }

    /// What the guest has printed.
    #[must_use]
    pub fn console(&self) -> &[u8] {
        &self.console
    }

    /// Sets what the processor translates by. Bits that `registers` has no names for are off.
    pub fn set_registers(&mut self, registers: Registers) {
        let Registers { cr0, cr3, cr4, efer } = registers;
        self.sregs.cr0 = cr0.into_bits();
        self.sregs.cr3 = cr3.into_bits();
        self.sregs.cr4 = cr4.into_bits();
        self.sregs.efer = efer.into_bits();
        self.mode = None;
    }

    /// Sets EFLAGS.AC for the accesses to come. (CR0.AM is off, so that it concerns SMAP only.)
    pub fn set_alignment_check(&mut self, on: bool) {
        self.alignment_check = on;
    }

    /// Has KVM forget what it knows of the guest's tables: see [`Slots::renew`].
    ///
    /// # Errors
    /// The OS error.
    pub fn forget_tables(&self) -> io::Result<()> {
        self.slots.renew()
    }

    /// Has the guest make one access.
    ///
    /// # Errors
    /// The OS error of running the vCPU; a vCPU that stopped for what no access can lead to.
    pub fn probe(&mut self, probe: &Probe) -> io::Result<Outcome> {
        let entry = self.entry(probe.access.kind);
        self.run(entry, probe.access.privilege, |regs| {
            regs.rbx = probe.address.get();
            regs.rax = probe.value;
        })
    }

    /// Where an exception of such an access is reported at, if the access itself takes it: the
    /// instruction, or for a fetch its target.
    #[must_use]
    pub fn is_of(&self, trap: &Trap, address: Gva, access: Access) -> bool {
        let stub = self.page(access.privilege).wrapping_add(self.entry(access.kind));
        // A fetch takes #PF at the target, and #GP at the jump (Intel) or at the target (AMD).
        let place = match (access.kind, trap.vector) {
            (AccessKind::Fetch, vector::PAGE_FAULT) => trap.rip == address.get(),
            (AccessKind::Fetch, _) => trap.rip == stub || trap.rip == address.get(),
            _ => trap.rip == stub,
        };
        place && trap.privilege() == access.privilege
    }

    /// Has the guest print its line, in user mode.
    ///
    /// # Errors
    /// As for [`probe`](Self::probe).
    pub fn hello(&mut self) -> io::Result<Outcome> {
        self.run(self.image.entry.hello, Privilege::User, |regs| regs.rcx = GREETING.len() as u64)
    }

    /// Has the guest run INVLPG for `pages` pages of `2^shift` bytes from `start` on.
    ///
    /// # Errors
    /// As for [`probe`](Self::probe).
    pub fn invlpg(&mut self, start: Gva, pages: u64, shift: u8) -> io::Result<Outcome> {
        self.run(self.image.entry.invlpg, Privilege::Supervisor, |regs| {
            (regs.rbx, regs.rcx, regs.rdx) = (start.get(), pages, 1 << (shift & 63));
        })
    }

    /// Has the guest load CR3 again.
    ///
    /// # Errors
    /// As for [`probe`](Self::probe).
    pub fn flush(&mut self) -> io::Result<Outcome> {
        self.run(self.image.entry.flush, Privilege::Supervisor, |_| ())
    }

    /// Has the guest set PKRU; CR4.PKE must be on.
    ///
    /// # Errors
    /// As for [`probe`](Self::probe).
    pub fn write_pkru(&mut self, pkru: u32) -> io::Result<Outcome> {
        self.run(self.image.entry.wrpkru, Privilege::Supervisor, |regs| regs.rax = pkru.into())
    }

    /// Has the guest load, edit the entry that translates the load, load again, invalidate, and
    /// load again, all in supervisor mode and without leaving the guest.
    ///
    /// # Errors
    /// The outcome, if it did not come through. Else as for [`probe`](Self::probe).
    pub fn edit(&mut self, edit: &Edit) -> io::Result<Result<Edited, Outcome>> {
        let Edit { address, entry, word } = *edit;
        let outcome = self.run(self.image.entry.edit, Privilege::Supervisor, |regs| {
            (regs.rbx, regs.rcx, regs.rsi) = (address.get(), entry.get(), word);
        })?;
        let Outcome::Completed { value } = outcome else { return Ok(Err(outcome)) };
        let kvm_regs { r8, r9, .. } = self.vcpu.get_regs()?;
        Ok(Ok(Edited { before: value, between: r8, after: r9 }))
    }

    /// Asks the kernel's walker. It judges as for a supervisor's load, and knows no canonical
    /// addresses; it marks entries accessed.
    ///
    /// # Errors
    /// The OS error.
    pub fn translate(&mut self, address: Gva) -> io::Result<Translated> {
        // With the control registers that the next access will have.
        self.enter(Privilege::Supervisor)?;
        let answer = self.vcpu.translate_gva(address.get())?;
        Ok(Translated { output: (answer.valid != 0).then(|| Gpa::new(answer.physical_address)) })
    }

    /// CR2, as the VMM sees it.
    ///
    /// # Errors
    /// The OS error.
    pub fn cr2(&self) -> io::Result<u64> {
        Ok(self.vcpu.get_sregs()?.cr2)
    }

    fn entry(&self, kind: AccessKind) -> u64 {
        match kind {
            AccessKind::Read => self.image.entry.load,
            AccessKind::Write => self.image.entry.store,
            AccessKind::Fetch => self.image.entry.fetch,
        }
    }

    /// Where the code is mapped for such accesses.
    fn page(&self, privilege: Privilege) -> u64 {
        match privilege {
            Privilege::Supervisor => self.corner.supervisor.get(),
            Privilege::User => self.corner.user.get(),
        }
    }

    /// Sets the special registers, if they are not so yet.
    fn enter(&mut self, privilege: Privilege) -> io::Result<()> {
        if self.mode != Some(privilege) {
            long_mode_segments(&mut self.sregs, privilege, self.corner.task());
            self.vcpu.set_sregs(&self.sregs)?;
            self.mode = Some(privilege);
        }
        Ok(())
    }

    /// Runs a stub to its report.
    fn run(
        &mut self,
        entry: u64,
        privilege: Privilege,
        set: impl FnOnce(&mut kvm_regs),
    ) -> io::Result<Outcome> {
        self.enter(privilege)?;
        let mut regs = kvm_regs {
            rip: self.page(privilege).wrapping_add(entry),
            rsp: self.corner.stack_end(),
            rflags: if self.alignment_check { RFLAGS | RFLAGS_AC } else { RFLAGS },
            ..kvm_regs::default()
        };
        set(&mut regs);
        self.vcpu.set_regs(&regs)?;
        let deadline = Instant::now() + PATIENCE;
        let mut unbacked = None;
        loop {
            match self.vcpu.run() {
                Ok(VcpuExit::IoOut(PORT_CONSOLE, text)) => self.console.extend(text),
                Ok(VcpuExit::IoOut(PORT_DONE, _)) => {
                    let value = self.vcpu.get_regs()?.rax;
                    return Ok(unbacked.map_or(Outcome::Completed { value }, |address| {
                        Outcome::NoMemory { address }
                    }));
                }
                Ok(VcpuExit::IoOut(PORT_TRAPPED, _)) => return self.trapped(),
                Ok(VcpuExit::MmioRead(address, bytes)) => {
                    bytes.fill(0);
                    unbacked = Some(Gpa::new(address));
                }
                Ok(VcpuExit::MmioWrite(address, _)) => unbacked = Some(Gpa::new(address)),
                Ok(VcpuExit::Shutdown) => {
                    self.mode = None;
                    return Ok(Outcome::Shutdown);
                }
                // Not ports of ours, and no instruction that a stub comes to.
                Ok(VcpuExit::IoOut(..) | VcpuExit::IoIn(..) | VcpuExit::Hlt) => {
                    self.mode = None;
                    return Ok(Outcome::Astray { rip: self.vcpu.get_regs()?.rip });
                }
                Ok(VcpuExit::Intr) if Instant::now() < deadline => {}
                Err(error) if error.errno() == libc::EINTR && Instant::now() < deadline => {}
                Ok(VcpuExit::Intr) => return self.hung(),
                Err(error) if error.errno() == libc::EINTR => return self.hung(),
                Ok(exit) => return Err(io::Error::other(format!("the vCPU stopped: {exit:?}"))),
                Err(error) => return Err(error.into()),
            }
        }
    }

    fn hung(&mut self) -> io::Result<Outcome> {
        self.mode = None;
        Ok(Outcome::Hung { rip: self.vcpu.get_regs()?.rip })
    }

    /// Reads the frame that the exception's handler completed.
    fn trapped(&mut self) -> io::Result<Outcome> {
        // The handler runs in supervisor mode.
        if self.mode == Some(Privilege::User) {
            self.mode = None;
        }
        let rsp = self.vcpu.get_regs()?.rsp;
        let frame = self
            .corner
            .on_stack(rsp)
            .ok_or_else(|| io::Error::other(format!("no exception frame at {rsp:#x}")))?;
        let words: [u64; 5] =
            self.memory().read_obj(GuestAddress(frame.get())).map_err(io::Error::other)?;
        let [cr2, vector, code, rip, cs] = words.map(u64::from_le);
        Ok(Outcome::Trapped(Trap { vector, code, cr2, rip, cs }))
    }
}
