//! x86 MMU formats.
#![no_std]
