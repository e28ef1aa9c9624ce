//! The machine states that the guest runs in, and two bits of the LPCR.
//!
//! Power ISA v3.0B, book III: MSR 3.2.1, LPCR 2.2.

/// 64-bit mode.
const SF: u64 = 1 << 63;
/// Interrupts from outside are taken.
const EE: u64 = 1 << 15;
/// Problem state.
pub(super) const PR: u64 = 1 << 14;
/// Machine checks are interrupts.
const ME: u64 = 1 << 12;
/// Instruction relocation.
const IR: u64 = 1 << 5;
/// Data relocation.
const DR: u64 = 1 << 4;
/// Recoverable interrupt.
const RI: u64 = 1 << 1;
/// Little-endian.
const LE: u64 = 1;

/// Privileged, without relocation.
pub(super) const REAL: u64 = SF | ME | RI | LE;
/// Privileged, with relocation.
pub(super) const RELOCATED: u64 = REAL | IR | DR;
/// Problem state, with relocation. It always has EE: KVM-HV adds it to an MSR that lacks it.
pub(super) const USER: u64 = RELOCATED | PR | EE;

/// Interrupts are taken little-endian.
pub(super) const LPCR_ILE: u64 = 1 << 25;
/// The decrementer is more than 32 bits wide.
pub(super) const LPCR_LD: u64 = 1 << 17;
