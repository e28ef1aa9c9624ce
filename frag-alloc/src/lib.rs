//! The fragment allocator.
#![no_std]
