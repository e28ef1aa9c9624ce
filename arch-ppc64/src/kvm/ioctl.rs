//! `ioctl(2)` request numbers as POWER encodes them, and the calls that take them.
//!
//! Linux packs an ioctl request as `dir | size | type | nr`. Most architectures use
//! `asm-generic/ioctl.h`; POWER has its own widths and direction values
//! (`arch/powerpc/include/uapi/asm/ioctl.h`):
//!
//! | field | asm-generic | POWER |
//! | --- | --- | --- |
//! | `nr` | bits 0..=7 | bits 0..=7 |
//! | `type` | bits 8..=15 | bits 8..=15 |
//! | size of the argument | bits 16..=29 | bits 16..=28 |
//! | direction | bits 30..=31 | bits 29..=31 |
//! | `_IOC_NONE`, `_IOC_READ`, `_IOC_WRITE` | 0, 2, 1 | 1, 2, 4 |
//!
//! `vmm-sys-util`’s `ioctl_*_nr!` macros (0.15) know only the first column, so on a POWER host they
//! give numbers that KVM answers with `ENOTTY`. [`Request`] knows only the second column, and on
//! every host: the numbers are a property of KVM on POWER and can be tested on any machine.

use std::io;
use std::os::fd::RawFd;
use std::os::raw::{c_int, c_ulong};

const NR_SHIFT: u32 = 0;
const TYPE_SHIFT: u32 = 8;
const SIZE_SHIFT: u32 = 16;
const SIZE_BITS: u32 = 13;
const DIR_SHIFT: u32 = 29;

const NONE: u32 = 1;
const READ: u32 = 2;
const WRITE: u32 = 4;

/// The ioctl type of every KVM request, `KVMIO`.
pub const KVMIO: u8 = 0xae;

/// An ioctl request number in POWER’s encoding.
///
/// The direction is seen from the caller, as in the kernel’s macros: `read` means that the kernel
/// writes the argument.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Request(u32);

impl Request {
    const fn encode(dir: u32, kind: u8, nr: u8, size: usize) -> Self {
        assert!(size < 1 << SIZE_BITS, "the argument does not fit _IOC_SIZEBITS");
        Self(
            dir << DIR_SHIFT
                | (size as u32) << SIZE_SHIFT
                | (kind as u32) << TYPE_SHIFT
                | (nr as u32) << NR_SHIFT,
        )
    }

    /// A KVM request without an encoded argument: `_IO(KVMIO, nr)`.
    #[must_use]
    pub const fn none(nr: u8) -> Self {
        Self::encode(NONE, KVMIO, nr, 0)
    }

    /// A KVM request whose number says that the kernel writes a `T`: `_IOR(KVMIO, nr, T)`.
    #[must_use]
    pub const fn read<T>(nr: u8) -> Self {
        Self::encode(READ, KVMIO, nr, size_of::<T>())
    }

    /// A KVM request whose number says that the kernel reads a `T`: `_IOW(KVMIO, nr, T)`.
    #[must_use]
    pub const fn write<T>(nr: u8) -> Self {
        Self::encode(WRITE, KVMIO, nr, size_of::<T>())
    }

    /// A KVM request whose number says that the kernel reads and writes a `T`:
    /// `_IOWR(KVMIO, nr, T)`.
    #[must_use]
    pub const fn read_write<T>(nr: u8) -> Self {
        Self::encode(READ | WRITE, KVMIO, nr, size_of::<T>())
    }

    /// The number as the kernel sees it.
    #[must_use]
    pub const fn number(self) -> u32 {
        self.0
    }

    /// The number in the type that this host’s C library takes.
    #[allow(clippy::cast_lossless, reason = "`Ioctl` is `c_int` with musl, `c_ulong` with glibc")]
    fn as_os(self) -> libc::Ioctl {
        self.0 as libc::Ioctl
    }

    /// Makes the request with an integer argument, and returns what the kernel returned (≥ 0).
    ///
    /// # Errors
    /// The OS error of `ioctl(2)`.
    ///
    /// # Safety
    /// The kernel must not take `argument` for an address when `fd` gets this request.
    pub unsafe fn call_value(self, fd: RawFd, argument: c_ulong) -> io::Result<c_int> {
        // SAFETY: the caller says that the argument is an integer, so the kernel touches none of
        // this process’s memory on its account.
        checked(unsafe { libc::ioctl(fd, self.as_os(), argument) })
    }

    /// Makes the request with the address of something that the kernel reads.
    ///
    /// # Errors
    /// The OS error of `ioctl(2)`.
    ///
    /// # Safety
    /// The kernel must read no more than one `T` behind the address, write nothing there, and the
    /// request’s other effects must be sound.
    pub unsafe fn call_ref<T>(self, fd: RawFd, argument: &T) -> io::Result<c_int> {
        // SAFETY: the address is that of a live `T`; the caller says that the kernel reads no more.
        checked(unsafe { libc::ioctl(fd, self.as_os(), std::ptr::from_ref(argument)) })
    }

    /// Makes the request with the address of something that the kernel writes (and may read).
    ///
    /// # Errors
    /// The OS error of `ioctl(2)`.
    ///
    /// # Safety
    /// The kernel must read and write no more than one `T` behind the address, must leave a valid
    /// `T` there, and the request’s other effects must be sound.
    pub unsafe fn call_mut<T>(self, fd: RawFd, argument: &mut T) -> io::Result<c_int> {
        // SAFETY: the address is that of a live `T` borrowed exclusively; the caller says that the
        // kernel stays within it and leaves a valid value.
        checked(unsafe { libc::ioctl(fd, self.as_os(), std::ptr::from_mut(argument)) })
    }
}

fn checked(returned: c_int) -> io::Result<c_int> {
    if returned < 0 { Err(io::Error::last_os_error()) } else { Ok(returned) }
}
