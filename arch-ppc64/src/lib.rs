//! The POWER MMU (Power ISA v3.0 and later, Book III): formats for [`pgtable`], and what stands
//! around the trees: process and partition tables, interrupts, invalidation.
//!
//! Bits are numbered as IBM does where a field is named (0 is the most significant); hexadecimal
//! masks are ordinary numbers. Every table in memory is big-endian, whatever order the guest runs
//! in; that is [`pgtable::format::ByteOrder::Big`]'s affair, and every word here is a native `u64`.
//!
//! # Features
//! | feature | what it adds | default |
//! | --- | --- | --- |
//! | `hash` | `hash`: hashed page tables | yes |
//! | `shadow` | `shadow`: shadow tables of nested guests; needs `alloc` | yes |
//! | `kvm` | `kvm`: KVM's MMU ioctls; needs `std` and Linux | no |
#![no_std]

#[cfg(feature = "shadow")]
extern crate alloc;

#[cfg(all(feature = "kvm", target_os = "linux"))]
extern crate std;

#[cfg(feature = "hash")]
pub mod hash;
mod interrupt;
#[cfg(all(feature = "kvm", target_os = "linux"))]
pub mod kvm;
mod lpcr;
pub mod radix;
pub mod second_stage;
#[cfg(feature = "shadow")]
pub mod shadow;

pub use interrupt::{Interrupt, Status, Vector};
pub use lpcr::{Bearing, Lpcr, Translation, Unmodelled};

#[cfg(all(doctest, feature = "hash", feature = "shadow"))]
#[doc = include_str!("../README.md")]
struct Readme;
