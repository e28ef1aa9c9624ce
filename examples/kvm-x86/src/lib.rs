//! What the x86-64 programs do with KVM beyond `kvm-ioctls`: what the processor offers, memory
//! slots, long mode's segments.
#![cfg(all(target_os = "linux", target_arch = "x86_64"))]

mod features;
mod segments;
mod slots;

pub use features::Features;
pub use segments::{GDT, Selector, long_mode_segments};
pub use slots::Slots;
