//! `KVM_RUN` that keeps the caller's vector and floating-point registers.
//!
//! Linux 6.1 (Debian's 6.1.0-50, on an emulated POWER9 host) sometimes returns from `KVM_RUN` with
//! zero in a vector register that a function must preserve (v20 to v31: 64-Bit ELF V2 ABI 2.2.2.1).
//! A VMM that keeps a constant there computes with zero afterwards. So these registers, and
//! floating point's, are kept on the stack over the call.

use std::io;
use std::os::fd::RawFd;

use super::requests::KVM_RUN;

#[cfg(all(target_arch = "powerpc64", target_endian = "little"))]
unsafe extern "C" {
    /// `ioctl(2)`, in `keep_vectors.S`.
    fn kvm_ppc_ioctl_keeping_vectors(
        fd: libc::c_int,
        request: libc::c_ulong,
        argument: libc::c_ulong,
    ) -> libc::c_int;
}

/// Runs the vCPU behind `fd`.
///
/// # Errors
/// The OS error.
///
/// # Safety
/// `fd` is a vCPU whose `kvm_run` is not borrowed, or no vCPU.
#[cfg(all(target_arch = "powerpc64", target_endian = "little"))]
pub(super) unsafe fn run(fd: RawFd) -> io::Result<()> {
    // SAFETY: the request takes no argument; for what KVM writes the caller vouches.
    let returned = unsafe { kvm_ppc_ioctl_keeping_vectors(fd, KVM_RUN.number().into(), 0) };
    if returned < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Runs the vCPU behind `fd`, if there can be one.
///
/// # Errors
/// The OS error.
///
/// # Safety
/// `fd` is a vCPU whose `kvm_run` is not borrowed, or no vCPU.
#[cfg(not(all(target_arch = "powerpc64", target_endian = "little")))]
pub(super) unsafe fn run(fd: RawFd) -> io::Result<()> {
    // SAFETY: the request takes no argument; for what KVM writes the caller vouches.
    unsafe { KVM_RUN.call_value(fd, 0) }.map(drop)
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::os::fd::AsRawFd;

    use super::*;

    #[test]
    fn the_error_of_the_call_arrives() {
        let file = File::open("/dev/null").expect("a file");
        // Neither is a vCPU. What the call says differs: QEMU's user mode knows no `KVM_RUN`.
        for fd in [file.as_raw_fd(), -1] {
            // SAFETY: the request takes no argument.
            let plain = unsafe { KVM_RUN.call_value(fd, 0) }.expect_err("no vCPU");
            // SAFETY: this is no vCPU.
            let error = unsafe { run(fd) }.expect_err("no vCPU");
            assert!(error.raw_os_error().is_some_and(|number| number > 0), "{error:?}");
            assert_eq!(error.raw_os_error(), plain.raw_os_error());
        }
    }
}
