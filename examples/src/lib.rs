//! What the example programs share.
//!
//! * [`kvm_ppc`]: VMs and vCPUs of KVM on POWER, in the manner of `kvm-ioctls`;
//! * `kvm_x86` (on x86-64): what `kvm-ioctls` leaves to a VMM;
//! * [`pseries`]: the platform of a Linux guest on POWER: how it boots, and what answers its calls;
//! * [`statement`]: what a Linux guest says of its own memory, for comparing;
//! * [`guest`]: a guest that makes one memory access at a time and says what came of it.
#![cfg(target_os = "linux")]

pub mod guest;
pub mod kvm_ppc;
#[cfg(target_arch = "x86_64")]
pub mod kvm_x86;
pub mod pseries;
pub mod statement;

#[cfg(doctest)]
#[doc = include_str!("../../README.md")]
struct Readme;
