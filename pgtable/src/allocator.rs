//! Where tables come from, and what software knows about each.
//!
//! A table's own words belong to the hardware. What software knows about a table (how many of its
//! entries are live, whether it is locked, whether it left its tree) stands in one small atomic
//! word per table, [`TableState`], which the allocator keeps beside its own books and does not
//! look at. It makes "is this table empty now?" a decrement, not a scan.
//!
//! # Protocol
//! A verb that needs a table calls [`TableAllocator::allocate`], and initialises the state that
//! [`TableAllocator::state`] gives for it; no other call of the allocator reads or writes that
//! state. A table that left a tree comes back by [`TableAllocator::free`] after the invalidation
//! (see [`invalidate`](crate::invalidate)), and once. The allocator is shared by reference, locks
//! what it needs itself, and is called with tables of the tree locked: it must not call verbs.

pub use crate::state::TableState;

use crate::address::Address;
use crate::format::Format;
use crate::geometry::Level;
use crate::table_word::TableWord as _;

/// The size (and so the alignment) of a table, and what it is for.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct TableLayout {
    /// log2 of its size in bytes; its address is a multiple of that.
    pub shift: u8,
    /// The level of the tree in which it will stand.
    pub level: Level,
}

impl TableLayout {
    /// A table of `2^width` entries of format `F`.
    #[inline]
    #[must_use]
    pub const fn of<F: Format>(width: u8, level: Level) -> Self {
        Self { shift: width + F::Word::SHIFT, level }
    }

    /// Its size in bytes.
    #[inline]
    #[must_use]
    pub const fn bytes(self) -> usize {
        1 << self.shift
    }
}

/// What a table that comes back holds.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Contents {
    /// Every word is zero: it can be handed out again as it is.
    Zeroed,
    /// Anything.
    Stale,
}

/// Why an allocator did not do what it was asked.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AllocError {
    /// No memory is left for a table of that size: free some, or give the allocator more, and try
    /// again.
    #[error("no memory left for a table of 2^{} bytes", layout.shift)]
    Exhausted {
        /// What was asked for.
        layout: TableLayout,
    },
    /// The allocator never hands out tables of that size.
    #[error("this allocator has no tables of 2^{} bytes", layout.shift)]
    Unsupported {
        /// What was asked for.
        layout: TableLayout,
    },
    /// The allocator handed out a table and has no state for it: it cannot be used by a tree, which
    /// would never find a table empty, nor free one. The table was given back.
    #[error("the allocator has no state for the table at {address:#x} that it handed out")]
    Stateless {
        /// The table.
        address: u64,
    },
    /// The address is not that of a live table of this allocator: freed twice, or never handed out.
    /// Nothing was changed.
    #[error(
        "{address:#x} is not a live table of this allocator (freed twice, or never handed out)"
    )]
    NotLive {
        /// The address that was given back.
        address: u64,
    },
}

/// Source of tables: a table of a given size, aligned to it, zeroed; and its return.
///
/// By `&self`, on an instance, fallible. `frag-alloc` is the implementation that this project
/// ships. It passes through `&T`, and with feature `alloc` through `Box`, `Rc` and `Arc`.
#[diagnostic::on_unimplemented(
    message = "`{Self}` is no allocator of tables at addresses of type `{A}`",
    note = "`frag_alloc::Cache` is one, also by reference or as `Arc`; others: implement \
            `pgtable::allocator::TableAllocator`"
)]
pub trait TableAllocator<A: Address> {
    /// A table: `layout.bytes()` zero bytes at a multiple of that, that nobody else has.
    ///
    /// # Errors
    /// [`AllocError::Exhausted`], [`AllocError::Unsupported`].
    fn allocate(&self, layout: TableLayout) -> Result<A, AllocError>;

    /// The same for whoever stores every word of it before anybody can reach it: it need not be
    /// zeroed, and holds anything.
    ///
    /// # Errors
    /// As [`allocate`](Self::allocate).
    #[inline]
    fn allocate_stale(&self, layout: TableLayout) -> Result<A, AllocError> {
        self.allocate(layout)
    }

    /// Takes a table back. No hardware walker may still reach it; readers in software that still
    /// could are the allocator's affair if it promises them anything.
    ///
    /// # Errors
    /// [`AllocError::NotLive`] if `table` is not a live table of that layout; nothing was changed
    /// then.
    fn free(&self, table: A, layout: TableLayout, contents: Contents) -> Result<(), AllocError>;

    /// The state word of the live table of that layout that this allocator handed out at `table`.
    ///
    /// `None` if there is no such table: the address is outside the allocator's memory or inside a
    /// table, the table is free or of another size, or it belongs to somebody else. An entry that a
    /// guest wrote can lead anywhere; by this a tree tells which tables it may change.
    ///
    /// The word belongs to the tree, which initialises it when it has allocated the table. The
    /// allocator keeps it, and neither reads nor writes it.
    fn state(&self, table: A, layout: TableLayout) -> Option<&TableState>;
}

/// The trait for a pointer to an allocator.
macro_rules! through {
    ($($pointer:ty),*) => {$(
        impl<A: Address, T: TableAllocator<A> + ?Sized> TableAllocator<A> for $pointer {
            #[inline]
            fn allocate(&self, layout: TableLayout) -> Result<A, AllocError> {
                (**self).allocate(layout)
            }

            #[inline]
            fn allocate_stale(&self, layout: TableLayout) -> Result<A, AllocError> {
                (**self).allocate_stale(layout)
            }

            #[inline]
            fn free(
                &self,
                table: A,
                layout: TableLayout,
                contents: Contents,
            ) -> Result<(), AllocError> {
                (**self).free(table, layout, contents)
            }

            #[inline]
            fn state(&self, table: A, layout: TableLayout) -> Option<&TableState> {
                (**self).state(table, layout)
            }
        }
    )*};
}

through!(&T);
#[cfg(feature = "alloc")]
through!(alloc::boxed::Box<T>, alloc::rc::Rc<T>, alloc::sync::Arc<T>);
