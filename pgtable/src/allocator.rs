//! Where tables come from, and what software knows about each.
//!
//! A table's own words belong to the hardware. What software knows about a table (how many of its
//! entries are live, whether it is locked, whether it left its tree) stands in one small atomic
//! word per table, [`TableState`], which the allocator keeps beside its own books and does not
//! look at. It makes "is this table empty now?" a decrement, not a scan.

use core::sync::atomic::Ordering;

#[cfg(not(loom))]
use core::sync::atomic::AtomicU32;
#[cfg(loom)]
use loom::sync::atomic::AtomicU32;

use crate::address::Address;
use crate::geometry::Level;

/// The size (and so the alignment) of a table, and what it is for.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct TableLayout {
    /// log2 of its size in bytes; its address is a multiple of that.
    pub shift: u8,
    /// The level of the tree in which it will stand.
    pub level: Level,
}

impl TableLayout {
    /// A table of `2^width` words of 8 bytes.
    #[inline]
    #[must_use]
    pub const fn of_width(width: u8, level: Level) -> Self {
        Self { shift: width + 3, level }
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
    #[error("no memory left for a table of 2^{} bytes ({})", layout.shift, layout.level)]
    Exhausted {
        /// What was asked for.
        layout: TableLayout,
    },
    /// The allocator never hands out tables of that size.
    #[error("this allocator has no tables of 2^{} bytes ({})", layout.shift, layout.level)]
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
/// ships.
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

impl<A: Address, T: TableAllocator<A> + ?Sized> TableAllocator<A> for &T {
    #[inline]
    fn allocate(&self, layout: TableLayout) -> Result<A, AllocError> {
        (**self).allocate(layout)
    }

    #[inline]
    fn allocate_stale(&self, layout: TableLayout) -> Result<A, AllocError> {
        (**self).allocate_stale(layout)
    }

    #[inline]
    fn free(&self, table: A, layout: TableLayout, contents: Contents) -> Result<(), AllocError> {
        (**self).free(table, layout, contents)
    }

    #[inline]
    fn state(&self, table: A, layout: TableLayout) -> Option<&TableState> {
        (**self).state(table, layout)
    }
}

/// Why a table was not locked.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum LockRefused {
    /// Another writer has it.
    Busy,
    /// It left the tree.
    Left,
}

/// What a tree knows about one of its tables, in 32 bits: lock (bit 0), left the tree (bit 1), live
/// entries (bits 2 to 31).
///
/// # Protocol
/// The word belongs to the tree. The tree makes it zero when it has allocated the table; then only
/// the table's writer changes it, the one of an exclusive tree or the one that has the lock. The
/// count wraps without a carry into the flags, so whatever a guest writes into the tables, a table
/// that has left stays so until it is allocated again, and is freed once.
#[derive(Debug, Default)]
#[repr(transparent)]
pub struct TableState(AtomicU32);

impl TableState {
    /// One writer has the table to itself.
    const LOCK: u32 = 1;
    /// The table left the tree: nothing locks, changes or frees it any more.
    const LEFT: u32 = 2;
    /// One live entry.
    const ONE: u32 = 4;

    /// A state with no live entry.
    #[cfg(not(loom))]
    #[must_use]
    pub const fn new() -> Self {
        Self(AtomicU32::new(0))
    }

    /// A state with no live entry. (A model checker's atomics are not made at compile time.)
    #[cfg(loom)]
    #[must_use]
    pub fn new() -> Self {
        Self(AtomicU32::new(0))
    }

    /// How many entries of the table are present.
    #[inline]
    #[must_use]
    pub fn live(&self) -> u32 {
        self.0.load(Ordering::Relaxed) / Self::ONE
    }

    /// Whether the table is in a tree and not locked.
    #[inline]
    #[must_use]
    pub fn is_open(&self) -> bool {
        self.0.load(Ordering::Relaxed) & (Self::LOCK | Self::LEFT) == 0
    }

    /// `entries` more are live. For the table's writer: a load and a store, not a
    /// read-modify-write.
    #[inline]
    pub(crate) fn add(&self, entries: u32) {
        let state = self.0.load(Ordering::Relaxed);
        self.0.store(state.wrapping_add(entries.wrapping_mul(Self::ONE)), Ordering::Relaxed);
    }

    /// `entries` fewer are live; returns how many remain. For the table's writer.
    #[inline]
    pub(crate) fn sub(&self, entries: u32) -> u32 {
        let state = self.0.load(Ordering::Relaxed);
        let left = state.wrapping_sub(entries.wrapping_mul(Self::ONE));
        self.0.store(left, Ordering::Relaxed);
        left / Self::ONE
    }

    /// One more entry is live, of a table that is in a tree and not locked. False, and nothing
    /// changed, if it is not.
    #[inline(always)]
    pub(crate) fn add_if_open(&self) -> bool {
        let state = self.0.load(Ordering::Relaxed);
        let open = state & (Self::LOCK | Self::LEFT) == 0;
        if open {
            self.0.store(state.wrapping_add(Self::ONE), Ordering::Relaxed);
        }
        open
    }

    /// Tries once to lock the table.
    #[inline]
    pub(crate) fn try_lock(&self) -> Result<(), LockRefused> {
        let state = self.0.load(Ordering::Relaxed);
        if state & Self::LEFT != 0 {
            // What the writer that took it out of the tree stored before is seen by whoever looks
            // for it once more.
            self.0.load(Ordering::Acquire);
            return Err(LockRefused::Left);
        }
        if state & Self::LOCK != 0 {
            return Err(LockRefused::Busy);
        }
        match self.0.compare_exchange(
            state,
            state | Self::LOCK,
            Ordering::Acquire,
            Ordering::Acquire,
        ) {
            Ok(_) => Ok(()),
            Err(found) if found & Self::LEFT != 0 => Err(LockRefused::Left),
            Err(_) => Err(LockRefused::Busy),
        }
    }

    /// Tries once to lock the table, until what this returns is dropped: also by the panic of an
    /// embedder's code.
    #[inline(always)]
    pub(crate) fn lock_once(&self) -> Option<Locked<'_>> {
        self.try_lock().ok().map(|()| Locked(self))
    }

    /// Whether a writer has the table.
    #[inline]
    pub(crate) fn is_locked(&self) -> bool {
        self.0.load(Ordering::Relaxed) & Self::LOCK != 0
    }

    /// Unlocks the table. For the writer that has locked it, so nothing else changes the word
    /// meanwhile.
    #[inline]
    pub(crate) fn unlock(&self) {
        self.0.store(self.0.load(Ordering::Relaxed) & !Self::LOCK, Ordering::Release);
    }

    /// The table left the tree: a writer that waits for its lock, and one that comes later, has to
    /// look elsewhere. For the table's writer, whose lock goes with it.
    #[inline]
    pub(crate) fn leave(&self) {
        self.0.store(Self::LEFT, Ordering::Release);
    }

    /// The table was allocated: no live entry, unlocked, in a tree.
    #[inline]
    pub(crate) fn reset(&self) {
        self.0.store(0, Ordering::Relaxed);
    }
}

/// A table that is locked until this is dropped.
#[must_use]
#[derive(Debug)]
pub(crate) struct Locked<'s>(&'s TableState);

impl Drop for Locked<'_> {
    #[inline(always)]
    fn drop(&mut self) {
        self.0.unlock();
    }
}
