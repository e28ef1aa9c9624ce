//! The calls themselves, as methods on whatever holds a VM file descriptor.

use super::{
    DirtyLog, KVM_GET_DIRTY_LOG, KVM_PPC_ALLOCATE_HTAB, KVM_PPC_CONFIGURE_V3_MMU,
    KVM_PPC_GET_HTAB_FD, KVM_PPC_GET_RMMU_INFO, KVM_PPC_GET_SMMU_INFO, KVM_PPC_RESIZE_HPT_COMMIT,
    KVM_PPC_RESIZE_HPT_PREPARE, ResizePrepare, kvm_get_htab_fd, kvm_ppc_mmuv3_cfg,
    kvm_ppc_resize_hpt, kvm_ppc_rmmu_info, kvm_ppc_smmu_info,
};
use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::time::Duration;

/// The MMU calls of a VM on POWER, for a type that holds a VM’s file descriptor: implement it for a
/// VMM’s own VM type, or put any other holder into a [`VmFd`].
///
/// On a host that isn’t POWER every call returns an error (`ENOTTY`).
///
/// A `File` may be anything, so that it has none of these methods:
/// ```compile_fail,E0599
/// use pgtable_ppc64::kvm::PpcMmu;
///
/// std::fs::File::open("/dev/kvm")?.get_rmmu_info()?;
/// # Ok::<(), std::io::Error>(())
/// ```
///
/// # Safety
/// While the value lives, `as_raw_fd` gives a file descriptor that KVM has made for a VM
/// (`KVM_CREATE_VM`), or one on which `ioctl(2)` fails. Whatever else answers the same request
/// numbers may read and write memory of its own choice; and what it answers in place of a new file
/// descriptor would be closed, whoever owns it.
pub unsafe trait PpcMmu: AsRawFd {
    /// Says which MMU the guest uses and where its process table is.
    ///
    /// # Errors
    /// `EINVAL`: unknown flags, GR and [`KVM_PPC_MMUV3_RADIX`](super::KVM_PPC_MMUV3_RADIX)
    /// disagree, PRTS > 24, or a mode the host lacks. `EBUSY`: a change of mode while a vCPU runs.
    /// `ENODEV`: a host before POWER9.
    fn configure_v3_mmu(&self, cfg: &kvm_ppc_mmuv3_cfg) -> io::Result<()> {
        // SAFETY: KVM reads one `kvm_ppc_mmuv3_cfg`; what it changes is the guest’s translation.
        unsafe { KVM_PPC_CONFIGURE_V3_MMU.call_ref(self.as_raw_fd(), cfg) }.map(drop)
    }

    /// Asks which radix trees the host takes.
    ///
    /// # Errors
    /// `EINVAL`: the host has no radix MMU.
    fn get_rmmu_info(&self) -> io::Result<kvm_ppc_rmmu_info> {
        let mut info = kvm_ppc_rmmu_info::default();
        // SAFETY: KVM writes one `kvm_ppc_rmmu_info`, of which every bit pattern is valid.
        unsafe { KVM_PPC_GET_RMMU_INFO.call_mut(self.as_raw_fd(), &mut info) }?;
        Ok(info)
    }

    /// Asks which segments and page sizes the host’s hashed MMU takes.
    ///
    /// # Errors
    /// The OS error.
    fn get_smmu_info(&self) -> io::Result<kvm_ppc_smmu_info> {
        let mut info = kvm_ppc_smmu_info::default();
        // SAFETY: KVM writes one `kvm_ppc_smmu_info`, of which every bit pattern is valid.
        unsafe { KVM_PPC_GET_SMMU_INFO.call_mut(self.as_raw_fd(), &mut info) }?;
        Ok(info)
    }

    /// Gives the guest an empty hashed page table of `1 << order` bytes (18..=46), and returns the
    /// order that the kernel chose. A radix guest becomes a hashed one.
    ///
    /// # Errors
    /// `EINVAL`: the order. `EBUSY`: a vCPU runs. `EOPNOTSUPP`: a nested host. `ENOMEM`.
    fn allocate_htab(&self, order: u32) -> io::Result<u32> {
        let mut order = order;
        // SAFETY: KVM reads and writes one `u32`.
        unsafe { KVM_PPC_ALLOCATE_HTAB.call_mut(self.as_raw_fd(), &mut order) }?;
        Ok(order)
    }

    /// Opens the stream of the guest’s hashed page table, for saving or for loading it.
    ///
    /// Its records are [`kvm_get_htab_header`](super::kvm_get_htab_header)s with their entries.
    ///
    /// # Errors
    /// `EINVAL`: unknown flags.
    fn get_htab_fd(&self, which: &kvm_get_htab_fd) -> io::Result<File> {
        // SAFETY: KVM reads one `kvm_get_htab_fd`.
        let fd = unsafe { KVM_PPC_GET_HTAB_FD.call_ref(self.as_raw_fd(), which) }?;
        // SAFETY: it is KVM that answered, as the trait’s contract says, and it has just opened
        // this descriptor for the caller; nobody else owns it.
        Ok(unsafe { OwnedFd::from_raw_fd(fd) }.into())
    }

    /// Adds to `log` what was written in its slot since KVM was last asked, and clears KVM’s own
    /// record.
    ///
    /// # Errors
    /// `ENOENT`: there is no such slot, or it is not logged.
    ///
    /// # Safety
    /// The slot must be no larger than `log` was made for, and the host’s pages no smaller: KVM
    /// writes a bit for each page.
    unsafe fn add_dirty_log(&self, log: &mut DirtyLog) -> io::Result<()> {
        let mut latest = log.clone();
        latest.clear();
        let argument = latest.argument();
        // SAFETY: KVM reads one `kvm_dirty_log` and writes the bitmap that it names, which is
        // borrowed exclusively and, as the caller vouches, large enough.
        unsafe { KVM_GET_DIRTY_LOG.call_ref(self.as_raw_fd(), &argument) }?;
        log.add(&latest);
        Ok(())
    }

    /// Starts (or asks after) the allocation of a table of another size.
    ///
    /// # Errors
    /// `EINVAL`: flags, the shift, or a radix guest. `ENOMEM`.
    fn resize_hpt_prepare(&self, resize: &kvm_ppc_resize_hpt) -> io::Result<ResizePrepare> {
        // SAFETY: KVM reads one `kvm_ppc_resize_hpt`.
        let wait = unsafe { KVM_PPC_RESIZE_HPT_PREPARE.call_ref(self.as_raw_fd(), resize) }?;
        Ok(match wait.unsigned_abs() {
            0 => ResizePrepare::Ready,
            milliseconds => ResizePrepare::Busy(Duration::from_millis(milliseconds.into())),
        })
    }

    /// Moves the bolted entries into the prepared table and switches to it. The prepared table is
    /// released in every case.
    ///
    /// # Errors
    /// `EINVAL`: as for preparing. `ENXIO`: nothing was prepared with this shift. `EBUSY`: it isn’t
    /// ready. `ENOSPC`: two bolted entries collide in the smaller table.
    fn resize_hpt_commit(&self, resize: &kvm_ppc_resize_hpt) -> io::Result<()> {
        // SAFETY: KVM reads one `kvm_ppc_resize_hpt`.
        unsafe { KVM_PPC_RESIZE_HPT_COMMIT.call_ref(self.as_raw_fd(), resize) }.map(drop)
    }
}

/// A VM’s file descriptor, whoever holds it: for types that [`PpcMmu`] cannot be implemented for.
#[derive(Debug)]
pub struct VmFd<F>(F);

impl<F: AsRawFd> VmFd<F> {
    /// The VM whose file descriptor `fd` holds.
    ///
    /// # Safety
    /// As [`PpcMmu`] demands.
    pub const unsafe fn new(fd: F) -> Self {
        Self(fd)
    }

    /// The holder of the file descriptor.
    pub fn into_inner(self) -> F {
        self.0
    }
}

impl<F: AsRawFd> AsRawFd for VmFd<F> {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }
}

// SAFETY: who made it vouched for the file descriptor.
unsafe impl<F: AsRawFd> PpcMmu for VmFd<F> {}
