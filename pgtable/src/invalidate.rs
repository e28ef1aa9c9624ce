//! What a change made stale, and what may be freed once nobody can reach it any more.
//!
//! # Protocol
//! 1. A verb (unmap, protect, split …) stores the new entries, then adds to a [`Gather`] the ranges
//!    whose old translations hardware may still hold, and the tables that left the tree.
//! 2. [`Invalidate::invalidate`] makes every gathered translation unreachable.
//! 3. Only then are the tables returned to their allocator.
//!
//! Freeing without step 2 is not expressible: retired tables are private to the gather, and the
//! only way out runs the invalidation first. A gather that fills up in the middle of a verb runs
//! steps 2 and 3 by itself and goes on. A gather that is dropped unfinished invalidates, loses its
//! tables, and says so to [`Invalidate::abandoned`].
//!
//! # Mapping again
//! A verb that makes entries (`map`, by any writer, a cursor, a locked range, an
//! [`AddressSpace`](crate::AddressSpace)) is given no gather. Where something was unmapped before,
//! finish the gather that holds it first, on whichever thread it is: until then a processor may use
//! the old translation beside the new one, and some architectures do not define what it does if it
//! has both (Arm DDI 0487, "Break-before-make"). Verbs that are given the gather
//! ([`remap`](crate::tree::PageTable::remap), and those of
//! [`Stage2Tree`](crate::second_stage::Stage2Tree) that place a page) invalidate by themselves what
//! it holds of the addresses that they map; another gather they do not see.
//!
//! An [`Invalidate`] turns what is [stale](Stale) into the operands of an architecture's
//! instructions: [`Flush`] gives them page by page, or says that everything goes. Code that no
//! hardware walks (boot tables, tests) uses [`Unused`].

pub use crate::flush::{Flush, Pages};
pub use crate::gather::{Finished, Gather, GatherError, Invalidate, InvalidateFailed, Unused};
pub use crate::stale::{Stale, StaleRange};
