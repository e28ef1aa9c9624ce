//! A change of an address space, as the tables of changes say it on every architecture.

use pgtable::Prot;

use crate::allows::Allows;
use crate::look::Finds;

/// What is done.
#[derive(Clone, Copy, Debug)]
pub enum Act {
    /// Unmap.
    Unmap,
    /// Map to this guest-physical address in leaves of this log2 size.
    Map(u64, u8, Prot),
    /// Protect.
    Protect(Prot),
}

/// A change, and what must follow from it.
#[derive(Clone, Copy, Debug)]
pub struct Change {
    pub name: &'static str,
    pub pid: u32,
    pub input: u64,
    pub bytes: u64,
    pub act: Act,
    /// How many bytes are affected: mapped ones in the range.
    pub affects: u64,
    /// How many tables leave the tree.
    pub frees: usize,
    /// Places to look at afterwards, and what is found there.
    pub then: &'static [(u64, Finds)],
}

pub const RWX: Allows = Allows::both("rwx");
pub const USER_RW: Prot = Prot::RW.for_user();
pub const USER_R: Prot = Prot::R.for_user();

pub const fn change(
    (name, pid): (&'static str, u32),
    (input, bytes): (u64, u64),
    act: Act,
    (affects, frees): (u64, usize),
    then: &'static [(u64, Finds)],
) -> Change {
    Change { name, pid, input, bytes, act, affects, frees, then }
}
