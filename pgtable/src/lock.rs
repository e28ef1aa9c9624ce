//! Who may change a table: the one writer of an exclusive tree, without a lock; or, of a shared
//! tree, whoever has locked it.
//!
//! # Protocol
//! Each table has a lock bit and a "left the tree" bit in its [`TableState`]. A table's words, its
//! count of live entries and its leaving the tree are the affair of the writer who has its lock,
//! and of nobody else (hardware sets its bits in entries all the same).
//!
//! 1. A writer descends without a lock, as readers do, to the lowest table that covers all of its
//!    range, its *cover*, and locks that. While it descends it reads (see [`ReadSide`]): no table
//!    that it can reach is handed out again meanwhile. Has the table left the tree before it was
//!    locked, which its state says, the descent begins anew.
//! 2. Below, it locks every table before it reads an entry of it for a change, holding the one
//!    above: down the way to its address, and up again as it moves on to the right. At any time it
//!    has the tables on the way from its cover to where it works.
//! 3. A table is linked, or unlinked, by the writer who has the one above; to unlink a table he
//!    must have that too. It is marked as having left, its lock goes with it, and it waits in the
//!    [`Gather`](crate::Gather) for its invalidation and then, with the allocator, for those who
//!    may still read it.
//! 4. A cover that became empty cannot be unlinked by its writer, who has not the one above. So he
//!    lets go of it, locks the one above (as in 1), then the empty one (as in 2), and takes it out
//!    if it still is empty.
//!
//! This is the tree protocol (A. Silberschatz, Z. Kedem, "Consistency in hierarchical database
//! systems", J. ACM 27, 1980): after his first lock, a writer locks only a table whose parent he
//! holds. So a waiting writer waits for one who holds nothing but tables further down, and no
//! circle of waiting exists; and overlapping operations have the effect of one after the other.
//!
//! # Memory that others write
//! The books are right as long as nobody but the writers (and hardware, in its own bits) changes
//! table words. A guest that writes its own tables can make an entry lead to any table. A writer
//! never waits for a table that it holds itself ([`Error::Malformed`]), and waits for others no
//! longer than [`ReadSide::wait`] says ([`Error::Contended`]). What comes of it is wrong in that
//! guest's tree only.
//!
//! Checked by `loom/pgtable/tests/writers.rs` and, with threads, `tests/model/writers.rs`.

use core::marker::PhantomData;

use crate::address::Address;
use crate::allocator::{LockRefused, TableAllocator, TableState};
use crate::descent::{Link, Node};
use crate::error::Error;
use crate::table::layout;

/// The reader's side of an embedder's read-copy-update: what a writer of a
/// [`SharedPageTable`](crate::SharedPageTable) descends under.
///
/// One value per thread. `frag-alloc`'s `Reader` is one, for trees whose tables come from its
/// `Deferred`.
pub trait ReadSide {
    /// While it lives, no table that was reachable when it began is handed out again by the tree's
    /// allocator.
    type Reading<'r>
    where
        Self: 'r;

    /// Begins to read.
    fn read(&mut self) -> Self::Reading<'_>;

    /// Called again and again by a writer that waits for another one's lock, with how often it was
    /// called before; to let the other go on. False gives up waiting, with [`Error::Contended`].
    fn wait(turns: u32) -> bool {
        core::hint::spin_loop();
        turns < 1 << 26
    }
}

/// How writers keep out of each other's way.
pub(crate) trait Locks {
    /// Tables have to be held to be changed.
    const HOLDS: bool;

    /// Locks the table of `node`, to which `link` leads from the lowest table of `above`; false if
    /// it cannot be had.
    fn enter(&mut self, node: Node, above: &[Node], link: Link) -> bool;

    /// Unlocks the table of `node`.
    fn leave(&mut self, node: Node);

    /// A table that is held left the tree; `state` is its state.
    fn left(state: &TableState);
}

/// One writer: nothing to lock, and nothing paid for it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Exclusive;

impl Locks for Exclusive {
    const HOLDS: bool = false;

    #[inline(always)]
    fn enter(&mut self, _: Node, _: &[Node], _: Link) -> bool {
        true
    }

    #[inline(always)]
    fn leave(&mut self, _: Node) {}

    #[inline(always)]
    fn left(state: &TableState) {
        state.reset();
    }
}

/// One of many writers of a tree whose tables come from `A`.
#[derive(Debug)]
pub(crate) struct Shared<'t, A, O> {
    tables: &'t A,
    wait: fn(u32) -> bool,
    /// Why a table could not be locked. Nothing is locked any more after that.
    refused: Option<Error>,
    output: PhantomData<O>,
}

impl<'t, O: Address, A: TableAllocator<O>> Shared<'t, A, O> {
    pub(crate) fn new(tables: &'t A, wait: fn(u32) -> bool) -> Self {
        Self { tables, wait, refused: None, output: PhantomData }
    }

    /// Why a table could not be locked, if one could not; the next one may be tried.
    pub(crate) fn take_refusal(&mut self) -> Option<Error> {
        self.refused.take()
    }

    /// Tries once to lock the table of `node`. What is no live table of this allocator has left.
    #[inline]
    pub(crate) fn try_lock(&self, node: Node) -> Result<(), LockRefused> {
        let state = self.tables.state(O::new(node.table), layout(node));
        state.map_or(Err(LockRefused::Left), TableState::try_lock)
    }

    /// Locks the table of `node`, waiting for whoever has it.
    ///
    /// # Errors
    /// Why not; `None` if it left the tree, or is no live table of this allocator.
    fn lock(&self, node: Node) -> Result<(), Option<Error>> {
        let mut turns = 0;
        loop {
            match self.try_lock(node) {
                Ok(()) => return Ok(()),
                Err(LockRefused::Left) => return Err(None),
                Err(LockRefused::Busy) if (self.wait)(turns) => turns = turns.saturating_add(1),
                Err(LockRefused::Busy) => return Err(Some(Error::Contended)),
            }
        }
    }
}

impl<O: Address, A: TableAllocator<O>> Locks for Shared<'_, A, O> {
    const HOLDS: bool = true;

    #[inline]
    fn enter(&mut self, node: Node, above: &[Node], link: Link) -> bool {
        if self.refused.is_some() {
            return false;
        }
        // An entry of a table that is held leads to one that has not left, and not back up; unless
        // somebody else wrote it.
        let malformed = Error::Malformed { at: link.at, entry: link.entry, word: link.word };
        self.refused = if above.iter().any(|held| held.table == node.table) {
            Some(malformed)
        } else {
            self.lock(node).err().map(|error| error.unwrap_or(malformed))
        };
        self.refused.is_none()
    }

    #[inline]
    fn leave(&mut self, node: Node) {
        if let Some(state) = self.tables.state(O::new(node.table), layout(node)) {
            state.unlock();
        }
    }

    #[inline]
    fn left(state: &TableState) {
        state.leave();
    }
}
