//! The POWER MMU (Power ISA v3.0 and later, Book III): formats for [`pgtable`], and what stands
//! around the trees: process and partition tables, interrupts, invalidation.
//!
//! Bits are numbered as IBM does where a field is named (0 is the most significant); hexadecimal
//! masks are ordinary numbers. Every table in memory is big-endian, whatever order the guest runs
//! in; that is [`pgtable::ByteOrder::Big`]'s affair, and every word here is a native `u64`.
//!
//! # Features
//! | feature | what for |
//! | --- | --- |
//! | `kvm` | `kvm`: the MMU ioctls of KVM on POWER (needs `std` and Linux) |
//!
//! Without features the crate is `no_std` with `alloc`.
#![no_std]

extern crate alloc;

#[cfg(all(feature = "kvm", target_os = "linux"))]
extern crate std;

pub mod hash;
mod interrupt;
#[cfg(all(feature = "kvm", target_os = "linux"))]
pub mod kvm;
pub mod radix;
pub mod second_stage;
pub mod shadow;

pub use interrupt::{Interrupt, Status, Vector};

#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
