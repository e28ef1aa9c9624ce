//! The platform that Linux expects of a POWER hypervisor (PAPR; Linux calls it pseries), without
//! any firmware.
//!
//! [`boot`] puts kernel, initrd and device tree into a guest's memory; [`Platform`] answers its
//! hypercalls and RTAS calls. Neither knows KVM: what only a VMM can do is behind [`Host`]. All of
//! it takes any arguments from any guest: addresses are checked by `vm-memory`, lengths are
//! bounded, and nothing panics.
//!
//! | file | what |
//! | --- | --- |
//! | `boot`, `layout` | what stands where in memory when the guest begins |
//! | `tree` | the flattened device tree |
//! | `hcall` | hypercalls, a file for each group |
//! | `rtas` | Run-Time Abstraction Services: power, time, the other CPUs |
//! | `presentation` | the interrupt presentation controllers (XICS): interrupts between CPUs |
//! | `console` | the virtual terminal |
#![cfg(target_os = "linux")]

mod boot;
mod console;
mod hcall;
mod host;
mod layout;
mod presentation;
mod rtas;
mod status;
mod tree;

pub use boot::{BootError, ENTRY_MSR, Entry, boot};
pub use console::Console;
pub use hcall::{Hypercall, Next, Platform};
pub use host::{CpuState, Ending, Host};
pub use layout::{Layout, MIN_MEMORY};
pub use status::Status;
pub use tree::{Machine, Mmu};

#[cfg(doctest)]
#[doc = include_str!("../../../README.md")]
struct Readme;
