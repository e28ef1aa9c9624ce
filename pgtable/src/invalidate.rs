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
//! An [`Invalidate`] turns what is [stale](Stale) into the operands of an architecture's
//! instructions: [`Flush`] gives them page by page, or says that everything goes. Code that no
//! hardware walks (boot tables, tests) uses [`Unused`].

pub use crate::flush::{Flush, Pages};
pub use crate::gather::{Finished, Gather, GatherError, Invalidate, InvalidateFailed, Unused};
pub use crate::stale::{Stale, StaleRange};
