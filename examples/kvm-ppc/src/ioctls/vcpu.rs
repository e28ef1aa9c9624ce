//! A vCPU: its registers, which any thread may reach between two runs, and running it, which one
//! thread does.

use std::ops::Deref;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::sync::Arc;

use super::exit::VcpuExit;
use super::requests::*;
use super::run_mapping::RunMapping;
use super::{Error, Result, cap, keep_vectors};
use crate::bindings::*;

/// The size in bytes of the register with this id.
#[must_use]
pub fn reg_size(reg_id: u64) -> usize {
    1 << ((reg_id & KVM_REG_SIZE_MASK) >> KVM_REG_SIZE_SHIFT)
}

/// A vCPU’s file descriptor and its `kvm_run`.
#[derive(Debug)]
pub struct VcpuFd {
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
    pub fn interrupt(&self, pending: bool) -> Result<()> {
        let irq = if pending { KVM_INTERRUPT_SET_LEVEL } else { KVM_INTERRUPT_UNSET };
        // SAFETY: KVM reads one `kvm_interrupt`.
        unsafe { KVM_INTERRUPT.call_ref(self.as_raw_fd(), &kvm_interrupt { irq }) }
            .map(drop)
            .map_err(Error::from)
    }

    /// Switches a capability on.
    ///
    /// # Errors
    /// `EINVAL`: the capability is not one of a vCPU.
    pub fn enable_cap(&self, cap: &kvm_enable_cap) -> Result<()> {
        cap::enable_cap(self.as_raw_fd(), cap)
    }

    /// Reads the general registers.
    ///
    /// # Errors
    /// The OS error.
    pub fn get_regs(&self) -> Result<kvm_regs> {
        let mut regs = kvm_regs::default();
        // SAFETY: KVM writes one `kvm_regs`, of which every bit pattern is valid.
        unsafe { KVM_GET_REGS.call_mut(self.as_raw_fd(), &mut regs) }?;
        Ok(regs)
    }

    /// Writes the general registers.
    ///
    /// # Errors
    /// The OS error.
    pub fn set_regs(&self, regs: &kvm_regs) -> Result<()> {
        // SAFETY: KVM reads one `kvm_regs`; guest state is no concern of this process’s memory.
        unsafe { KVM_SET_REGS.call_ref(self.as_raw_fd(), regs) }.map(drop).map_err(Error::from)
    }

    /// Reads the special registers.
    ///
    /// # Errors
    /// The OS error.
    pub fn get_sregs(&self) -> Result<kvm_sregs> {
        let mut sregs = kvm_sregs::default();
        // SAFETY: KVM writes one `kvm_sregs`, of which every bit pattern is valid.
        unsafe { KVM_GET_SREGS.call_mut(self.as_raw_fd(), &mut sregs) }?;
        Ok(sregs)
    }

    /// Writes the special registers.
    ///
    /// # Errors
    /// `EINVAL`: a PVR other than the host’s.
    pub fn set_sregs(&self, sregs: &kvm_sregs) -> Result<()> {
        // SAFETY: KVM reads one `kvm_sregs`; guest state is no concern of this process’s memory.
        unsafe { KVM_SET_SREGS.call_ref(self.as_raw_fd(), sregs) }.map(drop).map_err(Error::from)
    }

    /// Reads one register, a `KVM_REG_PPC_*`, into `data`, in the host’s byte order. Returns its
    /// size in bytes.
    ///
    /// # Errors
    /// `EINVAL`: the kernel does not know the register, or `data` is shorter than it.
    pub fn get_one_reg(&self, reg_id: u64, data: &mut [u8]) -> Result<usize> {
        let size = reg_size(reg_id);
        let data = data.get_mut(..size).ok_or(Error::new(libc::EINVAL))?;
        let argument = kvm_one_reg { id: reg_id, addr: data.as_mut_ptr() as u64 };
        // SAFETY: KVM reads the argument, and writes the register’s size to `data`.
        unsafe { KVM_GET_ONE_REG.call_ref(self.as_raw_fd(), &argument) }?;
        Ok(size)
    }

    /// Writes one register, a `KVM_REG_PPC_*`, from `data`, in the host’s byte order. Returns its
    /// size in bytes.
    ///
    /// # Errors
    /// `EINVAL`: the kernel does not know the register, or `data` is shorter than it.
    pub fn set_one_reg(&self, reg_id: u64, data: &[u8]) -> Result<usize> {
        let size = reg_size(reg_id);
        let data = data.get(..size).ok_or(Error::new(libc::EINVAL))?;
        let argument = kvm_one_reg { id: reg_id, addr: data.as_ptr() as u64 };
        // SAFETY: KVM reads the argument, and the register’s size from `data`.
        unsafe { KVM_SET_ONE_REG.call_ref(self.as_raw_fd(), &argument) }?;
        Ok(size)
    }
}

impl VcpuFd {
    pub(super) fn new(fd: OwnedFd, run_size: usize) -> Result<Self> {
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
    /// `EINTR`: a signal. `EINVAL`: PAPR mode is not enabled, or the MMU is not set up. `EFAULT`:
    /// guest memory that the host cannot provide. The OS error.
    pub fn run(&mut self) -> Result<VcpuExit<'_>> {
        // SAFETY: what KVM writes is `kvm_run`, which is not borrowed now, and guest memory, which
        // was registered by a caller that vouches for it.
        unsafe { keep_vectors::run(self.as_raw_fd()) }?;
        Ok(VcpuExit::of(self.run.get_mut()))
    }

    /// The memory that KVM and this process share for this vCPU.
    pub fn get_kvm_run(&mut self) -> &mut kvm_run {
        self.run.get_mut()
    }

    /// With 1, [`run`](Self::run) returns `EINTR` at once; 0 takes it back.
    pub fn set_kvm_immediate_exit(&mut self, val: u8) {
        self.run.get_mut().immediate_exit = val;
    }
}

impl Deref for VcpuFd {
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
