//! What the example programs share.
//!
//! * [`kvm_ppc`]: VMs and vCPUs of KVM on POWER, in the manner of `kvm-ioctls`;
#![cfg(target_os = "linux")]

pub mod kvm_ppc;
