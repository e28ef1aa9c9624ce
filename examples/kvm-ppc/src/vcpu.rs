//! A vCPU: its registers, which any thread may reach between two runs, and running it, which one
//! thread does.

use super::cap::{self, Cap};
use super::exit::VcpuExit;
use super::keep_vectors;
use super::one_reg::{KVM_GET_ONE_REG, KVM_SET_ONE_REG, OneReg, kvm_one_reg};
use super::regs::{KVM_GET_REGS, KVM_SET_REGS, kvm_regs};
use super::run::RunMapping;
use super::sregs::{KVM_GET_SREGS, KVM_SET_SREGS, kvm_sregs};
use arch_ppc64::kvm::ioctl::Request;
use std::io;
use std::ops::Deref;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::sync::Arc;

/// Request number of [`Vcpu::run`].
pub const KVM_RUN: Request = Request::none(0x80);
/// Request number of [`VcpuControl::interrupt`].
pub const KVM_INTERRUPT: Request = Request::write::<kvm_interrupt>(0x86);

/// The argument of `KVM_INTERRUPT`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct kvm_interrupt {
    /// [`KVM_INTERRUPT_SET_LEVEL`] or [`KVM_INTERRUPT_UNSET`].
    pub irq: u32,
}

/// The external interrupt is pending until it is unset.
pub const KVM_INTERRUPT_SET_LEVEL: u32 = 0u32.wrapping_sub(3);
/// The external interrupt is not pending.
pub const KVM_INTERRUPT_UNSET: u32 = 0u32.wrapping_sub(2);

/// A vCPU’s file descriptor and its `kvm_run`.
#[derive(Debug)]
pub struct Vcpu {
    control: Arc<VcpuControl>,
    run: RunMapping,
}

/// What can be done to a vCPU from any thread. While another thread runs it, a call waits until it
/// stops; only [`interrupt`](Self::interrupt) does not.
#[derive(Debug)]
pub struct VcpuControl {
    fd: OwnedFd,
}

impl VcpuControl {
    /// Raises or lowers the external interrupt; a vCPU that waits for one goes on.
    ///
    /// # Errors
    /// The OS error.
    pub fn interrupt(&self, pending: bool) -> io::Result<()> {
        let irq = if pending { KVM_INTERRUPT_SET_LEVEL } else { KVM_INTERRUPT_UNSET };
        // SAFETY: KVM reads one `kvm_interrupt`.
        unsafe { KVM_INTERRUPT.call_ref(self.as_raw_fd(), &kvm_interrupt { irq }) }.map(drop)
    }

    /// Switches a capability on.
    ///
    /// # Errors
    /// `EINVAL`: the capability isn’t one of a vCPU.
    pub fn enable_cap(&self, cap: Cap, args: [u64; 4]) -> io::Result<()> {
        cap::enable_cap(self.as_raw_fd(), cap, args)
    }

    /// Reads the general registers.
    ///
    /// # Errors
    /// The OS error.
    pub fn get_regs(&self) -> io::Result<kvm_regs> {
        let mut regs = kvm_regs::default();
        // SAFETY: KVM writes one `kvm_regs`, of which every bit pattern is valid.
        unsafe { KVM_GET_REGS.call_mut(self.as_raw_fd(), &mut regs) }?;
        Ok(regs)
    }

    /// Writes the general registers.
    ///
    /// # Errors
    /// The OS error.
    pub fn set_regs(&self, regs: &kvm_regs) -> io::Result<()> {
        // SAFETY: KVM reads one `kvm_regs`; guest state is no concern of this process’s memory.
        unsafe { KVM_SET_REGS.call_ref(self.as_raw_fd(), regs) }.map(drop)
    }

    /// Reads the special registers.
    ///
    /// # Errors
    /// The OS error.
    pub fn get_sregs(&self) -> io::Result<kvm_sregs> {
        let mut sregs = kvm_sregs::default();
        // SAFETY: KVM writes one `kvm_sregs`, of which every bit pattern is valid.
        unsafe { KVM_GET_SREGS.call_mut(self.as_raw_fd(), &mut sregs) }?;
        Ok(sregs)
    }

    /// Writes the special registers.
    ///
    /// # Errors
    /// `EINVAL`: a PVR other than the host’s.
    pub fn set_sregs(&self, sregs: &kvm_sregs) -> io::Result<()> {
        // SAFETY: KVM reads one `kvm_sregs`; guest state is no concern of this process’s memory.
        unsafe { KVM_SET_SREGS.call_ref(self.as_raw_fd(), sregs) }.map(drop)
    }

    /// Reads one register, zero-extended.
    ///
    /// # Errors
    /// `EINVAL`: the kernel doesn’t know it.
    pub fn get_one_reg(&self, reg: OneReg) -> io::Result<u64> {
        let mut bytes = [0; 8];
        let argument = kvm_one_reg { id: reg.id(), addr: bytes.as_mut_ptr() as u64 };
        // SAFETY: KVM reads the argument, and writes the register’s size, 4 or 8 bytes, to `bytes`.
        unsafe { KVM_GET_ONE_REG.call_ref(self.as_raw_fd(), &argument) }?;
        Ok(if reg.size() == 4 {
            u32::from_ne_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]).into()
        } else {
            u64::from_ne_bytes(bytes)
        })
    }

    /// Writes one register; of a 32-bit one the low half of `value`.
    ///
    /// # Errors
    /// `EINVAL`: the kernel doesn’t know it.
    pub fn set_one_reg(&self, reg: OneReg, value: u64) -> io::Result<()> {
        let wide = value.to_ne_bytes();
        let narrow = (value as u32).to_ne_bytes();
        let addr = if reg.size() == 4 { narrow.as_ptr() } else { wide.as_ptr() } as u64;
        let argument = kvm_one_reg { id: reg.id(), addr };
        // SAFETY: KVM reads the argument, and the register’s size, 4 or 8 bytes, at `addr`.
        unsafe { KVM_SET_ONE_REG.call_ref(self.as_raw_fd(), &argument) }.map(drop)
    }
}

impl Vcpu {
    pub(super) fn new(fd: OwnedFd, run_size: usize) -> io::Result<Self> {
        let run = RunMapping::new(&fd, run_size)?;
        Ok(Self { control: Arc::new(VcpuControl { fd }), run })
    }

    /// The part that other threads may use.
    #[must_use]
    pub fn control(&self) -> Arc<VcpuControl> {
        Arc::clone(&self.control)
    }

    /// Runs the vCPU until it stops for something that the VMM must see.
    ///
    /// Before the next call KVM finishes what the last exit began: it puts a hypercall’s `ret` and
    /// `args` into R3 and R4 to R12, over anything that [`set_regs`](VcpuControl::set_regs) put
    /// there.
    ///
    /// # Errors
    /// `EINVAL`: PAPR mode isn’t enabled, or the MMU isn’t set up. `EFAULT`: guest memory that the
    /// host cannot provide. The OS error.
    pub fn run(&mut self) -> io::Result<VcpuExit<'_>> {
        // SAFETY: what KVM writes is `kvm_run`, which is not borrowed now, and guest memory, which
        // was registered by a caller that vouches for it.
        match unsafe { keep_vectors::run(self.as_raw_fd()) } {
            Ok(()) => Ok(VcpuExit::of(self.run.get_mut())),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => Ok(VcpuExit::Intr),
            Err(error) => Err(error),
        }
    }
}

impl Deref for Vcpu {
    type Target = VcpuControl;

    fn deref(&self) -> &VcpuControl {
        &self.control
    }
}

impl AsRawFd for VcpuControl {
    fn as_raw_fd(&self) -> RawFd {
        self.fd.as_raw_fd()
    }
}
