//! The generic page-table layer.
#![no_std]
