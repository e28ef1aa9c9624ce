//! A writer's common case: one page of the usual size in a table that is there, and that nobody has
//! locked.

use crate::descent::InPlace;
use crate::format::{Format, Input, Output};
use crate::gather::{Gather, Invalidate};
use crate::lock::{DeferringAllocator, ReadSide};
use crate::memory::TableMemory;
use crate::quick::{Last, descend_quickly};
use crate::space::Leaves;
use crate::state::Locked;
use crate::table::PageTable;
use crate::word::{Word, load_raw};

use super::Writer;

impl<F, M, A> Writer<'_, F, M, A>
where
    F: Format,
    M: TableMemory<Output<F>>,
    A: DeferringAllocator<Output<F>>,
{
    /// The common case of [`map`](Self::map): one page of the usual size into a table that is
    /// there, and that nobody has locked. False, and nothing changed, if it is any other.
    #[inline(always)]
    pub(super) fn map_page(
        &self,
        input: Input<F>,
        output: Output<F>,
        bytes: u64,
        attributes: F::Attributes,
        leaves: Leaves,
    ) -> bool {
        let Some(offset) = self.table.base_page_at(input, bytes, leaves) else { return false };
        self.with_page(offset, |table, last, locked| {
            let node = last.node::<F>();
            let free = load_raw(last.slot.memory()) == 0;
            let Some(leaf) = table.base_page(node, output, attributes).filter(|_| free) else {
                return false;
            };
            last.slot.store(leaf);
            locked.added();
            table.wrote(node.entry::<F>(offset), 1);
            table.appeared(offset, 1 << node.shift);
            true
        })
        .unwrap_or(false)
    }

    /// Does `change` to the last-level entry for `offset`, with its table locked; `None` if there
    /// is none, or it is not to be had at once.
    #[inline(always)]
    fn with_page<T>(
        &self,
        offset: u64,
        change: impl FnOnce(&PageTable<F, M, A>, &Last<Word<'_, F>>, &mut Locked<'_>) -> T,
    ) -> Option<T> {
        let table = self.table;
        let mut reader = self.reader.try_borrow_mut().ok()?;
        let reading = reader.read();
        let shortcuts = table.format.shortcuts(None)?;
        let memory = InPlace(&table.memory);
        let last = descend_quickly::<F, _>(&shortcuts, memory, table.root, offset).ok()?;
        let mut locked = table.state(last.node::<F>())?.lock_once(self.me, table.tree)?;
        // What is locked stays.
        drop(reading);
        Some(change(table, &last, &mut locked))
    }

    /// The common case of [`unmap`](Self::unmap): one page of the usual size in a table that keeps
    /// others, and that nobody has locked. False, and nothing changed, if it is any other.
    #[inline(always)]
    pub(super) fn unmap_page<I: Invalidate<F::Stage>>(
        &self,
        input: Input<F>,
        bytes: u64,
        gather: &mut Gather<'_, F::Stage, I>,
    ) -> bool {
        let Some(offset) = self.table.base_page_at(input, bytes, Leaves::Largest) else {
            return false;
        };
        self.with_page(offset, |table, last, locked| {
            let node = last.node::<F>();
            if locked.live() <= 1 || last.step.address(last.slot.load()).is_none() {
                return false;
            }
            last.slot.store(0);
            locked.removed();
            gather.pages(input, input, node.shift);
            table.wrote(node.entry::<F>(offset), 1);
            true
        })
        .unwrap_or(false)
    }
}
