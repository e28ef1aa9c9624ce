//! POWER MMU formats.
#![no_std]
