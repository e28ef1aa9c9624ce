//! What a Linux kernel in an image says of its processes, in its own structures: symbols of its
//! kallsyms, members of its BTF.
//!
//! Nothing of a release's layout is built in. A kernel that does not tell where its symbols are
//! (before Linux 6.0), or has only those of code, is searched for its BTF and its first idle task;
//! one that has no BTF cannot be asked so.

mod btf;
mod kallsyms;
mod memory;
mod tasks;

pub use tasks::{FoundBy, NoTasks, Process, Processes, processes};

#[cfg(test)]
mod tests;
