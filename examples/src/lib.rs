//! What the example programs share.
//!
//! * [`kvm_ppc`]: VMs and vCPUs of KVM on POWER, in the manner of `kvm-ioctls`;
//! * [`guest`]: a guest that makes one memory access at a time and says what came of it.
#![cfg(target_os = "linux")]

pub mod guest;
pub mod kvm_ppc;

#[cfg(doctest)]
#[doc = include_str!("../../README.md")]
struct Readme;
