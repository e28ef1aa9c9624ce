//! Calls: `/dev/kvm`, a VM, a vCPU.

mod cap;
mod exit;
mod keep_vectors;
pub mod requests;
mod run_mapping;
mod system;
mod vcpu;
mod vm;

pub use cap::Cap;
pub use exit::{PaprHcallExit, VcpuExit};
pub use system::Kvm;
pub use vcpu::{VcpuControl, VcpuFd, reg_size};
pub use vm::VmFd;
pub use vmm_sys_util::errno::Error;

/// The result of a call.
pub type Result<T> = std::result::Result<T, Error>;
