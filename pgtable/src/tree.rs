//! A tree that this process owns and changes: root, memory, and the allocator its tables come from.
//!
//! # Protocol
//! There is one writer at a time (`&mut self`; for several see
//! [`SharedPageTable`](crate::shared::SharedPageTable)); hardware and any number of [`Walker`]s
//! read meanwhile, and hardware sets accessed and dirty bits. So:
//! - a table is filled before the entry that links it is stored (`Release`), and its words are
//!   never `&mut`;
//! - an entry that hardware may be updating is replaced by an exchange that keeps late bits;
//! - a table that lost its last live entry is unlinked at once, and freed by the [`Gather`] after
//!   the invalidation;
//! - the count of live entries changes beside the store that changes the entry, in
//!   [`TableState`](crate::allocator::TableState).
//!
//! # Tables that others write
//! A guest that can write the tables can make any entry lead to any table. So a verb enters a table
//! to change it only if the allocator has a state for it ([`TableAllocator::state`]: it is a live
//! table of this allocator and of that size), if the state names this tree, and if it is neither
//! the root nor on the way to itself. Otherwise the verb ends with [`Error::Malformed`], which
//! names the entry. The state of a table names no tree before it is queued to be freed, so it is
//! queued once.
//!
//! Bound: a verb that changes a range enters tables of at most `2 × levels × n` entries together,
//! where `n` is the number of entries of all tables of the tree, and looks at each entry of a
//! table that it entered once; whatever the range, and whatever the tables say. (A tree that
//! nobody else writes needs less than half of that.) Then it is [`Error::Malformed`] too.
//!
//! # Verbs
//! `map` and `cursor` make entries; `unmap`, `modify`, `protect`, `write_protect`,
//! `set_attributes`, `remap`, `split`, `promote` and `harvest` change them, and put what is stale
//! into the gather that they are given; `relocate` moves tables. Each is owed
//! [`Gather::finish`](crate::invalidate::Gather::finish) before anything relies on the change. What
//! an architecture owes after entries *appear* is
//! [`TableMemory::appeared`](crate::memory::TableMemory::appeared)'s.
//!
//! [`Walker`]: crate::walk::Walker
//! [`Gather`]: crate::invalidate::Gather
//! [`TableAllocator::state`]: crate::allocator::TableAllocator::state
//! [`Error::Malformed`]: crate::Error::Malformed

pub use crate::anchor::Anchored;
pub use crate::annotate::Annotation;
pub use crate::cursor::Cursor;
pub use crate::record::{Recorded, Writers};
pub use crate::table::PageTable;
