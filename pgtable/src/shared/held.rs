//! The tables that a writer has locked, from the one that covers its range down to where it works.

use crate::address::Address;
use crate::allocator::TableAllocator;
use crate::descent::{InPlace, Link, Node, descend};
use crate::error::{Error, RangeError};
use crate::format::{Format, Input, Output};
use crate::geometry::Level;
use crate::lock::{DeferringAllocator, Locks as _, ReadSide, Shared};
use crate::memory::TableMemory;
use crate::state::{LockRefused, Owner, TableState};
use crate::table::PageTable;
use crate::trail::Trail;
use crate::walk::bounds;

use super::Writer;

/// How many tables that left the tree under it a writer follows before it gives up. Each is another
/// writer's progress.
const TRIES: usize = 1 << 12;

/// The way to where a writer works, by tables that he has locked.
pub(super) type TrailOf<'t, F, A> = Trail<Shared<'t, A, F>>;

/// The tables that a writer has locked, until it is dropped.
#[derive(Debug)]
pub(super) struct Held<'t, F: Format, A: TableAllocator<Output<F>>>(Trail<Shared<'t, A, F>>);

impl<F: Format, A: TableAllocator<Output<F>>> Drop for Held<'_, F, A> {
    fn drop(&mut self) {
        self.0.release();
    }
}

impl<'t, F: Format, A: TableAllocator<Output<F>>> Held<'t, F, A> {
    /// The highest of them.
    pub(super) fn top(&self) -> Node {
        self.0.node(self.0.top())
    }

    /// The way down from it. What is refused on it is the caller's to take.
    pub(super) fn trail(&mut self) -> &mut TrailOf<'t, F, A> {
        &mut self.0
    }

    /// Does `verb`; if a table could not be locked on the way, says why.
    pub(super) fn run<T, I: Address>(
        &mut self,
        verb: impl FnOnce(&mut TrailOf<'t, F, A>) -> Result<T, RangeError<I>>,
    ) -> Result<T, RangeError<I>> {
        let result = verb(&mut self.0);
        match self.0.locks.take_refusal() {
            Some(refusal) => {
                result.map_err(|RangeError { at, .. }| RangeError { at, error: refusal })
            }
            None => result,
        }
    }
}

impl<'t, F, M, A> Writer<'t, F, M, A>
where
    F: Format,
    M: TableMemory<Output<F>>,
    A: DeferringAllocator<Output<F>>,
{
    /// Locks the lowest table of `level` or above that covers the offsets `start` to `last`.
    pub(super) fn hold(&self, start: u64, last: u64, level: u8) -> Result<Held<'t, F, A>, Error> {
        let cover = self.hold_cover(start, last, level, self.me)?;
        let (own, ranges) = (self.table.own(), self.ranges);
        let locks = Shared::new(own, self.me, ranges, A::Reader::<'t>::wait);
        Ok(Held(Trail::from(cover, start, locks)))
    }

    /// The same for `me`, for a caller that unlocks it.
    ///
    /// It does not wait while it reads: an invalidation, or a grace period, that another writer
    /// waits for with a table locked never depends on a reading of one that waits for the table.
    pub(super) fn hold_cover(
        &self,
        start: u64,
        last: u64,
        level: u8,
        me: Owner,
    ) -> Result<Node, Error> {
        let geometry = self.table.format.geometry();
        let mut floor = geometry.root().0;
        while floor > level && (start ^ last) >> geometry.shift(Level(floor)) == 0 {
            floor -= 1;
        }
        let mut turns = 0;
        loop {
            if let Some(cover) = self.try_hold(start, last, floor, me)? {
                return Ok(cover);
            }
            if !A::Reader::<'t>::wait(turns) {
                return Err(Error::Contended);
            }
            turns = turns.saturating_add(1);
        }
    }

    /// Locks the lowest table of `floor` or above that covers the offsets `start` to `last`, within
    /// one reading; `None` if another writer has it.
    fn try_hold(&self, start: u64, last: u64, floor: u8, me: Owner) -> Result<Option<Node>, Error> {
        let table = self.table;
        let root = Node::root(&table.format, table.root);
        let mut reader = self.reader.try_borrow_mut().map_err(|_| Error::Contended)?;
        let _reading = reader.read();
        let mut gone = None;
        for _ in 0..TRIES {
            let (mut cover, mut link) = (root, None);
            let memory = InPlace(&table.memory);
            descend(&table.format, memory, root, start, floor, |node, leads_there| {
                if (start ^ last) >> node.span() == 0 {
                    (cover, link) = (node, Some(leads_there));
                }
            })
            .map_err(PageTable::<F, M, A>::lost)?;
            // What is no live table of the allocator any more has left.
            let state = table.state(cover);
            let lock = |state: &TableState| state.try_lock(me, self.ranges);
            match state.map_or(Err(LockRefused::Left), lock) {
                Ok(()) => return Ok(Some(cover)),
                Err(LockRefused::Busy) => return Ok(None),
                // A verb in the callback of another one of this writer would wait for itself.
                Err(LockRefused::Mine) => return Err(Error::Contended),
                // It was unlinked before it said that it left, and its place is not used again
                // while this thread reads. So nothing leads there any more, unless somebody else
                // wrote the tables.
                Err(LockRefused::Left) if gone == Some(cover.table) => {
                    return Err(link.map_or(Error::Contended, Link::malformed));
                }
                Err(LockRefused::Left) => gone = Some(cover.table),
            }
        }
        Err(Error::Contended)
    }

    /// Locks a table that covers `bytes` bytes from `input` on, and more than those: so that it
    /// stays where it is whatever becomes of them.
    pub(super) fn hold_around(
        &self,
        input: Input<F>,
        bytes: u64,
    ) -> Result<Held<'t, F, A>, RangeError<Input<F>>> {
        let (start, end) = bounds(&self.table.format, input, bytes, 0)?;
        let geometry = self.table.format.geometry();
        // The lowest level at which one entry is less than the range.
        let larger = |level: &u8| {
            u32::from(geometry.shift(Level(level + 1))) > 63 - bytes.max(1).leading_zeros()
        };
        let level = (0..geometry.root().0).find(larger).unwrap_or(geometry.root().0);
        let last = end.max(start + 1) - 1;
        self.hold(start, last, level).map_err(|error| RangeError { at: input, error })
    }
}
