//! The guest’s hashed page table: `KVM_PPC_ALLOCATE_HTAB` and `KVM_PPC_GET_HTAB_FD`.

use super::ioctl::Request;

/// Request number of [`PpcMmu::allocate_htab`](super::PpcMmu::allocate_htab).
pub const KVM_PPC_ALLOCATE_HTAB: Request = Request::read_write::<u32>(0xa7);
/// Request number of [`PpcMmu::get_htab_fd`](super::PpcMmu::get_htab_fd).
pub const KVM_PPC_GET_HTAB_FD: Request = Request::write::<kvm_get_htab_fd>(0xaa);

/// Flag: read only bolted entries.
pub const KVM_GET_HTAB_BOLTED_ONLY: u64 = 1;
/// Flag: the file descriptor is for writing entries, not for reading them.
pub const KVM_GET_HTAB_WRITE: u64 = 2;

/// The argument of `KVM_PPC_GET_HTAB_FD`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct kvm_get_htab_fd {
    /// [`KVM_GET_HTAB_BOLTED_ONLY`] and [`KVM_GET_HTAB_WRITE`].
    pub flags: u64,
    /// The slot where reading begins.
    pub start_index: u64,
    /// Must be zero.
    pub reserved: [u64; 2],
}

/// What stands before each run of entries in the stream of that file descriptor.
///
/// The header is in the host’s byte order; the `n_valid` pairs of doublewords behind it are
/// big-endian.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct kvm_get_htab_header {
    /// The run’s first slot.
    pub index: u32,
    /// How many entries follow.
    pub n_valid: u16,
    /// How many slots after those are invalid; nothing follows for them.
    pub n_invalid: u16,
}
