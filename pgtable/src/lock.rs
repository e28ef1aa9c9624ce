//! Who may change a table: the one writer of an exclusive tree, without a lock; or, of a shared
//! tree, whoever has locked it.
//! For the protocol see [`shared`](crate::shared).

use core::cell::Cell;
use core::marker::PhantomData;

use crate::address::Address;
use crate::allocator::TableAllocator;
use crate::descent::{Link, Node};
use crate::error::Error;
use crate::format::{Format, Output};
use crate::ranges::Ranges;
use crate::state::{LockRefused, Owner, TableState};
use crate::tree_tables::layout;
use crate::work::Allowance;

/// The reader's side of an embedder's read-copy-update: what a writer of a
/// [`SharedPageTable`](crate::shared::SharedPageTable) descends under.
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
    ///
    /// Give up after longer than a verb takes, its invalidations included. The default spins for
    /// about a second.
    fn wait(turns: u32) -> bool {
        core::hint::spin_loop();
        turns < 1 << 25
    }
}

/// An allocator that keeps a freed table from reuse for as long as a reader could still see it:
/// what a tree needs that many threads change, or read without a lock.
///
/// It gives out the readers for which it waits, so that a tree cannot be read under readers that
/// its allocator does not know. `frag-alloc`'s `Deferred` is one.
#[diagnostic::on_unimplemented(
    message = "`{Self}` does not keep freed tables from readers without a lock",
    note = "`frag_alloc::Deferred::new(cache, frag_alloc::Epochs::new(threads))` does"
)]
pub trait DeferringAllocator<A: Address>: TableAllocator<A> {
    /// One thread's reading side.
    type Reader<'a>: ReadSide
    where
        Self: 'a;

    /// A reader for one thread; `None` if there can be no more of them now.
    fn reader(&self) -> Option<Self::Reader<'_>>;
}

/// The trait for a pointer to an allocator.
macro_rules! through {
    ($($pointer:ty),*) => {$(
        impl<A: Address, T: DeferringAllocator<A> + ?Sized> DeferringAllocator<A> for $pointer {
            type Reader<'a>
                = T::Reader<'a>
            where
                Self: 'a;

            fn reader(&self) -> Option<Self::Reader<'_>> {
                (**self).reader()
            }
        }
    )*};
}

through!(&T);
#[cfg(feature = "alloc")]
through!(alloc::boxed::Box<T>, alloc::rc::Rc<T>, alloc::sync::Arc<T>);

/// How a verb comes to the tables that it changes.
pub(crate) trait Locks {
    /// Tables have to be had to be changed: `enter` is asked about each.
    const ASKS: bool;
    /// What is had is locked.
    const HOLDS: bool;

    /// Gets the table of `node`, to which `link` leads from the lowest table of `above`; false if
    /// it cannot be had.
    fn enter(&mut self, node: Node, above: &[Node], link: Link) -> bool;

    /// The same for a table whose state is at hand.
    fn enter_known(&mut self, node: Node, state: &TableState, above: &[Node], link: Link) -> bool;

    /// Unlocks the table of `node`.
    fn leave(&mut self, node: Node);

    /// `2^width` entries of a table that is had have to be looked at again: false if that is more
    /// than a tree needs that only its writers and hardware change.
    fn again(&mut self, width: u8) -> bool;

    /// Who changes tables here: the owner that their states name once they are had, and with which
    /// new ones are born.
    fn owner(&self) -> Owner;

    /// The tables of `nodes`, which have this owner, are about to be linked below a table that is
    /// had.
    fn made(&mut self, _nodes: &[Node]) {}

    /// Why a table could not be had, if one could not.
    fn take_refusal(&mut self) -> Option<Error>;
}

/// A table beside the trail that a verb has, until it has left the tree; unlocked if it does not.
pub(crate) struct Had<'l, L: Locks> {
    locks: &'l mut L,
    node: Node,
}

impl<'l, L: Locks> Had<'l, L> {
    /// The writer of `locks` has the table of `node`.
    #[inline(always)]
    pub(crate) fn new(locks: &'l mut L, node: Node) -> Self {
        Self { locks, node }
    }

    /// The writer.
    pub(crate) fn owner(&self) -> Owner {
        self.locks.owner()
    }

    /// It left, and its lock with it.
    #[inline(always)]
    pub(crate) fn left(self) {
        core::mem::forget(self);
    }
}

impl<L: Locks> Drop for Had<'_, L> {
    #[inline(always)]
    fn drop(&mut self) {
        self.locks.leave(self.node);
    }
}

/// Reading: nothing is had.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Exclusive;

impl Locks for Exclusive {
    const ASKS: bool = false;
    const HOLDS: bool = false;

    #[inline(always)]
    fn enter(&mut self, _: Node, _: &[Node], _: Link) -> bool {
        true
    }

    #[inline(always)]
    fn enter_known(&mut self, _: Node, _: &TableState, _: &[Node], _: Link) -> bool {
        true
    }

    #[inline(always)]
    fn leave(&mut self, _: Node) {}

    #[inline(always)]
    fn again(&mut self, _: u8) -> bool {
        true
    }

    fn owner(&self) -> Owner {
        Owner::NONE
    }

    fn take_refusal(&mut self) -> Option<Error> {
        None
    }
}

/// Which tables are a tree's own, to be changed by its writers: live tables of its allocator that
/// have not left it, each once on the way down, and no more of them than the tree has. An entry
/// that somebody else wrote can lead to any other.
#[derive(Debug)]
pub(crate) struct Own<'t, A, F> {
    tables: &'t A,
    root: u64,
    allowance: Allowance<'t>,
    /// Why a table is not to be had. None is, after that.
    refused: Option<Error>,
    format: PhantomData<F>,
}

impl<'t, F: Format, A: TableAllocator<Output<F>>> Own<'t, A, F> {
    pub(crate) fn new(tables: &'t A, root: u64, allowance: Allowance<'t>) -> Self {
        Self { tables, root, allowance, refused: None, format: PhantomData }
    }

    /// The state of the table of `node`, to which `link` leads; where there is none, it is not to
    /// be had.
    #[inline]
    fn known(&mut self, node: Node, link: Link) -> Option<&'t TableState> {
        let state = self.state(node);
        if state.is_none() {
            self.refused.get_or_insert(link.malformed());
        }
        state
    }

    /// Whether the table of `node`, to which `link` leads, and which is live, may be changed.
    #[inline]
    fn check(&mut self, node: Node, above: &[Node], link: Link) -> bool {
        if self.refused.is_some() {
            return false;
        }
        let circle = node.table == self.root || above.iter().any(|it| it.table == node.table);
        let checked = !circle && self.allowance.enter(node.width);
        if !checked {
            self.refused = Some(link.malformed());
        }
        checked
    }

    fn state(&self, node: Node) -> Option<&'t TableState> {
        self.tables.state(<Output<F> as Address>::new(node.table), layout::<F>(node))
    }

    fn begin(&mut self, allowance: Allowance<'t>) {
        (self.allowance, self.refused) = (allowance, None);
    }
}

/// The one writer of a tree: there is nothing to lock.
#[derive(Debug)]
pub(crate) struct Owned<'t, A, F> {
    own: Own<'t, A, F>,
    tree: Owner,
}

impl<'t, F: Format, A: TableAllocator<Output<F>>> Owned<'t, A, F> {
    pub(crate) fn new(own: Own<'t, A, F>, tree: Owner) -> Self {
        Self { own, tree }
    }

    /// A verb begins, which may do so much.
    pub(crate) fn begin(&mut self, allowance: Allowance<'t>) {
        self.own.begin(allowance);
    }
}

impl<F: Format, A: TableAllocator<Output<F>>> Locks for Owned<'_, A, F> {
    const ASKS: bool = true;
    const HOLDS: bool = false;

    #[inline]
    fn enter(&mut self, node: Node, above: &[Node], link: Link) -> bool {
        let state = self.own.known(node, link);
        state.is_some_and(|state| self.enter_known(node, state, above, link))
    }

    #[inline]
    fn enter_known(&mut self, node: Node, state: &TableState, above: &[Node], link: Link) -> bool {
        let ours = self.own.check(node, above, link) && state.adopt(self.tree);
        if !ours {
            self.own.refused.get_or_insert(link.malformed());
        }
        ours
    }

    #[inline(always)]
    fn leave(&mut self, _: Node) {}

    fn again(&mut self, width: u8) -> bool {
        self.own.allowance.enter(width)
    }

    #[inline(always)]
    fn owner(&self) -> Owner {
        self.tree
    }

    fn take_refusal(&mut self) -> Option<Error> {
        self.own.refused.take()
    }
}

/// One of many writers of a tree.
#[derive(Debug)]
pub(crate) struct Shared<'t, A, F> {
    own: Own<'t, A, F>,
    me: Owner,
    ranges: &'t Ranges,
    wait: fn(u32) -> bool,
}

impl<'t, F: Format, A: TableAllocator<Output<F>>> Shared<'t, A, F> {
    /// A verb of `me`, beside the locked ranges of the tree.
    pub(crate) fn new(
        own: Own<'t, A, F>,
        me: Owner,
        ranges: &'t Ranges,
        wait: fn(u32) -> bool,
    ) -> Self {
        Self { own, me, ranges, wait }
    }
}

impl<F: Format, A: TableAllocator<Output<F>>> Locks for Shared<'_, A, F> {
    const ASKS: bool = true;
    const HOLDS: bool = true;

    #[inline]
    fn enter(&mut self, node: Node, above: &[Node], link: Link) -> bool {
        let state = self.own.known(node, link);
        state.is_some_and(|state| self.enter_known(node, state, above, link))
    }

    /// Locks the table, waiting for another writer that has it.
    #[inline]
    fn enter_known(&mut self, node: Node, state: &TableState, above: &[Node], link: Link) -> bool {
        if !self.own.check(node, above, link) {
            return false;
        }
        let mut turns = 0;
        loop {
            let error = match state.try_lock(self.me, self.ranges) {
                Ok(()) => return true,
                // An entry of a table that is held leads to one that has not left, unless somebody
                // else wrote it.
                Err(LockRefused::Left) => link.malformed(),
                Err(LockRefused::Busy) if (self.wait)(turns) => {
                    turns = turns.saturating_add(1);
                    continue;
                }
                // A verb in the callback of another one of this writer would wait for itself.
                Err(LockRefused::Busy | LockRefused::Mine) => Error::Contended,
            };
            self.own.refused = Some(error);
            return false;
        }
    }

    #[inline]
    fn leave(&mut self, node: Node) {
        if let Some(state) = self.own.state(node) {
            state.unlock(self.me);
        }
    }

    fn again(&mut self, width: u8) -> bool {
        self.own.allowance.enter(width)
    }

    #[inline(always)]
    fn owner(&self) -> Owner {
        self.me
    }

    fn take_refusal(&mut self) -> Option<Error> {
        self.own.refused.take()
    }
}

/// The writer of a range that has every table of it locked, from the first table of its trail
/// down.
#[derive(Debug)]
pub(crate) struct Whole<'t, A, F> {
    own: Own<'t, A, F>,
    me: Owner,
    /// How many tables were locked below the first; no fewer than are locked still.
    held: Cell<u64>,
}

impl<'t, F: Format, A: TableAllocator<Output<F>>> Whole<'t, A, F> {
    pub(crate) fn new(own: Own<'t, A, F>, me: Owner) -> Self {
        Self { own, me, held: Cell::new(0) }
    }

    /// A verb begins, which may do so much.
    pub(crate) fn begin(&mut self, allowance: Allowance<'t>) {
        self.own.begin(allowance);
    }

    /// No fewer than the tables that are locked below the first.
    pub(crate) fn held(&self) -> u64 {
        self.held.get()
    }

    /// `tables` more are locked.
    pub(crate) fn more(&self, tables: u64) {
        self.held.set(self.held.get() + tables);
    }
}

impl<F: Format, A: TableAllocator<Output<F>>> Locks for Whole<'_, A, F> {
    const ASKS: bool = true;
    const HOLDS: bool = true;

    #[inline]
    fn enter(&mut self, node: Node, above: &[Node], link: Link) -> bool {
        let state = self.own.known(node, link);
        state.is_some_and(|state| self.enter_known(node, state, above, link))
    }

    /// It has them all, but for what somebody else linked here.
    #[inline]
    fn enter_known(&mut self, node: Node, state: &TableState, above: &[Node], link: Link) -> bool {
        let mine = self.own.check(node, above, link) && state.is_of(self.me);
        if !mine {
            self.own.refused.get_or_insert(link.malformed());
        }
        mine
    }

    #[inline]
    fn leave(&mut self, _: Node) {}

    fn again(&mut self, width: u8) -> bool {
        self.own.allowance.enter(width)
    }

    #[inline(always)]
    fn owner(&self) -> Owner {
        self.me
    }

    fn made(&mut self, nodes: &[Node]) {
        self.more(nodes.len() as u64);
    }

    fn take_refusal(&mut self) -> Option<Error> {
        self.own.refused.take()
    }
}
