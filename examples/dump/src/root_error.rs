//! Why there is no root.

use std::fmt;

use memory_image::Held;
use pgtable::Cause;

use super::linux_kernel::NoTasks;
use super::root::Arch;

/// Candidates of which the user has to take one.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Several {
    /// Of what.
    pub what: &'static str,
    /// Each, in words, with the option that takes it.
    pub candidates: Vec<String>,
}

impl fmt::Display for Several {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the image has {} {}: give ", self.candidates.len(), self.what)?;
        f.write_str(&self.candidates.join(", or "))
    }
}

/// Why there is no root.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RootError {
    /// Neither the user nor the image says which tables.
    #[error("the image does not tell its architecture: give --arch")]
    NoArch,
    /// Neither the user nor the image says where they begin.
    #[error("the image does not tell where the tables begin: give --root ({0})")]
    NoRoot(String),
    /// The image has fewer CPUs.
    #[error("the image has the registers of {cpus} CPUs: there is no CPU {cpu}")]
    NoCpu {
        /// Which was asked for.
        cpu: usize,
        /// How many there are.
        cpus: usize,
    },
    /// No CPU translates, or not the one that was asked for.
    #[error("{0}")]
    NoPaging(String),
    /// The tables are of a kind that is not read.
    #[error("{0}")]
    Unsupported(String),
    /// Several candidates, of which none is better than the others.
    #[error("{0}")]
    Several(Several),
    /// The root that was given is none.
    #[error("{root:#x} is no root: {why}")]
    Bad {
        /// What was given.
        root: u64,
        /// What is wrong with it.
        why: &'static str,
    },
    /// The root is not in the image.
    #[error("unknown: the root table at {root:#x} ({source_of_root}) is {held}")]
    Unreadable {
        /// Its address.
        root: u64,
        /// Where it comes from.
        source_of_root: String,
        /// What became of it.
        held: Held,
    },
    /// The process has no tree.
    #[error("process {pid} has no tree: its entry in the process table at {table:#x} {why}")]
    NoProcess {
        /// Which process.
        pid: u32,
        /// Where the process table stands.
        table: u64,
        /// What is wrong with the entry.
        why: String,
    },
    /// The kernel does not tell of its processes.
    #[error("{0}")]
    Processes(NoTasks),
    /// There is no such process, or it has no tables.
    #[error("process {name} {why}")]
    NoSuchProcess {
        /// Its number, or its name.
        name: String,
        /// Why not.
        why: String,
    },
    /// An option that says nothing about these tables.
    #[error("{option} says nothing about {arch}: leave it out", arch = .arch.name())]
    Option {
        /// Which option.
        option: &'static str,
        /// Of which tables.
        arch: Arch,
    },
}

impl RootError {
    pub(crate) fn no_process(pid: u32, table: u64, cause: Cause) -> Self {
        Self::NoProcess { pid, table, why: cause.to_string() }
    }
}
