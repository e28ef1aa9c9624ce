//! Locking the tables of a range, and unlocking them.

use crate::address::{Address, low_bits};
use crate::descent::{Link, Node, decode};
use crate::error::Error;
use crate::format::{Entry, Format, Output};
use crate::lock::{DeferringAllocator, ReadSide};
use crate::memory::TableMemory;
use crate::state::LockRefused;
use crate::word::Word;

use super::range::LockedRange;

impl<'w, 't, F, M, A> LockedRange<'w, 't, F, M, A>
where
    F: Format,
    M: TableMemory<Output<F>>,
    A: DeferringAllocator<Output<F>>,
{
    /// Calls `visit` with each table to which an entry of `node`'s table leads whose part of the
    /// range is not empty, the first offset of that part, and the entry. `at` is an offset in
    /// `node`'s part.
    fn tables_below(
        &self,
        node: Node,
        at: u64,
        mut visit: impl FnMut(Node, u64, Link) -> Result<(), Error>,
    ) -> Result<(), Error> {
        let table = self.writer.table;
        if node.level == 0 {
            return Ok(());
        }
        let base = at & !low_bits(node.span());
        let (mut offset, last) =
            (base.max(self.start), (base | low_bits(node.span())).min(self.last));
        let entries = ((last >> node.shift) - (offset >> node.shift)) as usize + 1;
        for memory in table.words(node.entry::<F>(offset), entries)? {
            let word = Word::<F>::new(memory).load();
            if let Entry::Table { table, width } = decode(&table.format, word, node.position()) {
                let link = Link { at: node.position(), entry: node.entry::<F>(offset), word };
                visit(node.below(table.get(), width), offset, link)?;
            }
            offset = (offset | low_bits(node.shift)).saturating_add(1);
        }
        Ok(())
    }

    /// Locks the tables below that of `node`, in the part of the range around `at`.
    pub(crate) fn lock_below(&self, node: Node, at: u64) -> Result<(), Error> {
        self.tables_below(node, at, |below, offset, link| self.lock_table(below, offset, link))
    }

    /// Locks the table of `below`, to which `link` leads, and those below it.
    fn lock_table(&self, below: Node, offset: u64, link: Link) -> Result<(), Error> {
        let malformed = link.malformed();
        let state = self.writer.table.state(below).ok_or(malformed)?;
        let mut turns = 0;
        loop {
            match state.try_lock(self.me(), self.writer.ranges) {
                Ok(()) => break,
                // The one above is locked, so it cannot have been unlinked since; and this is the
                // first way to it.
                Err(LockRefused::Left | LockRefused::Mine) => return Err(malformed),
                Err(LockRefused::Busy) => {}
            }
            if !A::Reader::<'t>::wait(turns) {
                return Err(Error::Contended);
            }
            turns = turns.saturating_add(1);
        }
        self.trail.locks.more(1);
        self.lock_below(below, offset)
    }

    /// Unlocks the tables below that of `node`, no more than `held`, and then that table.
    pub(crate) fn unlock(&self, node: Node, at: u64, held: &mut u64) {
        // Memory that cannot be read has no tables that could have been locked.
        let _ = self.tables_below(node, at, |below, offset, _| {
            let state = self.writer.table.state(below);
            if state.is_some_and(|state| state.is_of(self.me())) && *held > 0 {
                *held -= 1;
                self.unlock(below, offset, held);
            }
            Ok(())
        });
        if let Some(state) = self.writer.table.state(node) {
            state.unlock(self.me());
        }
    }
}
