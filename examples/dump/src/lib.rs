//! What the page tables in an image of memory say: lists, translations, counts, differences. The
//! part of `ptdump` that is no user interface.
//!
//! [`locate`] finds the root, [`Space::of`] makes of it an address space that can be asked. Trees
//! are read by `pgtable`'s walkers, hashed page tables by `pgtable-ppc64`'s; what these refuse is
//! shown as a fault in its place, and reading goes on behind it.
//!
//! Whatever the image holds, work and memory are bounded by the
//! [`Allowance`](memory_image::Allowance); depth by the tree's levels.

mod arm_root;
mod census;
mod describe;
mod diff;
mod explain;
mod fold;
mod hash;
mod hash_root;
mod linux;
mod linux_kernel;
mod process;
mod radix_root;
mod range;
mod riscv_root;
mod root;
mod root_error;
mod search;
mod space;
mod tree;
mod x86_root;

pub use census::{Census, HashCensus, LevelCensus, TreeCensus};
pub use describe::{Describe, Names};
pub use diff::{Difference, Mismatch, Side};
pub use explain::{Flags, flags_of};
pub use fold::Fold;
pub use hash::{HashSpace, HashTable, HashView};
pub use linux::{LinuxLayout, Place};
pub use linux_kernel::{FoundBy, NoTasks, Process, Processes, processes};
pub use process::{Which, locate_kernel, locate_process, of_process, processes_by_looks};
pub use range::{Range, Repeats, Rights, State, Step};
pub use root::{Arch, Located, Request, Root, RootChoice, locate};
pub use root_error::{RootError, Several};
pub use space::Space;
pub use tree::Tree;
