//! A guest that makes one memory access at a time and says what came of it.
//!
//! A VMM builds translation tables in the guest’s memory, and then asks the *hardware* about them:
//! “load from this address, in problem state”. The guest does just that with relocation on, and the
//! answer is either the value, or the interrupt that the access took with every register that says
//! why. A software walker’s opinion can so be held against the machine’s, address by address.
//!
//! A [`Probe`] is the question, for any architecture. The answer and the machine that gives it are
//! an architecture’s own: [`ppc64`], on AArch64 `aarch64`, on x86-64 `x86`, and on RISC-V
//! `riscv64`.
#![cfg(target_os = "linux")]

#[cfg(target_arch = "aarch64")]
pub mod aarch64;
pub mod ppc64;
#[cfg(target_arch = "riscv64")]
pub mod riscv64;
mod ticker;
#[cfg(target_arch = "x86_64")]
pub mod x86;

pub use ticker::Ticker;

use pgtable::{Access, Gva};

/// One access of eight bytes, or one call.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Probe {
    /// Where.
    pub address: Gva,
    /// What the guest does there, and as whom. A fetch calls the function there.
    pub access: Access,
    /// What a store stores; what a called function starts from.
    pub value: u64,
}
