//! How a cursor comes to a table of the last level, and leaves it.

use crate::address::{Address, low_bits};
use crate::allocator::{Contents, TableAllocator};
use crate::descent::InPlace;
use crate::error::Error;
use crate::format::{Format, Output};
use crate::gather::Invalidate;
use crate::lock::Locks as _;
use crate::memory::TableMemory;
use crate::state::LOST;
use crate::table::PageTable;

use super::Cursor;
use super::leaf::Leaf;

impl<F, M, A, I> Cursor<'_, '_, '_, F, M, A, I>
where
    F: Format,
    M: TableMemory<Output<F>>,
    A: TableAllocator<Output<F>>,
    I: Invalidate<F::Stage>,
{
    /// Leaves the table where the cursor stands: its books are settled.
    pub(super) fn leave(&mut self) -> Result<(), Error> {
        // Also if an embedder's code panics below, it stands nowhere from now on.
        let words = core::mem::take(&mut self.leaf.words);
        if words.is_empty() {
            return Ok(());
        }
        self.gather.untold(false);
        let leaf = &mut self.leaf;
        leaf.book_filled(leaf.filled);
        leaf.book_emptied(leaf.emptied);
        let (first, last) = leaf.stale;
        if first <= last || leaf.delta != 0 {
            self.table.wrote(leaf.node.table, words.len());
        }
        if leaf.mapped {
            self.table.appeared(leaf.base, 1 << leaf.node.span());
        }
        if first <= last {
            let page = |index: usize| {
                self.table.format.address(leaf.base + ((index as u64) << leaf.node.shift))
            };
            self.gather.pages(page(first), page(last), leaf.node.shift);
        }
        // The count is known again. (It wraps.)
        let more = (leaf.delta as u32).wrapping_sub(LOST);
        self.table.count(leaf.node, more, self.table.tree);
        if leaf.delta > 0 {
            return Ok(());
        }
        // Also where nothing was taken: a table that was made here and not filled does not stay.
        self.table.discount(&mut self.trail, leaf.base, leaf.node.level, 0, self.gather)
    }

    /// Moves to the last-level table of usual pages for `offset`, making it (and those above) if
    /// `make` says so. Returns false if there is none.
    #[cold]
    #[inline(never)]
    pub(super) fn enter(&mut self, offset: u64, make: bool) -> Result<bool, Error> {
        self.leave()?;
        let table = self.table;
        self.trail.locks.begin(table.allowance());
        let stop =
            self.trail.seek(&table.format, InPlace(&table.memory), offset, 0).map_err(|lost| {
                self.trail.locks.take_refusal().unwrap_or(PageTable::<F, M, A>::lost(lost))
            })?;
        let mut node = stop.node;
        if node.level > 0 {
            if !make || table.leaf_at(&stop, offset)?.is_some() {
                return Ok(false);
            }
            table.check_unannotated(node, stop.word)?;
            let width = table.format.geometry().width(crate::Level(0));
            // Looked at where it is: it is large, and a move is a copy.
            let grown = table.grow(node, offset, (0, width), Contents::Zeroed, table.tree);
            let nodes = match &grown {
                Ok(nodes) => nodes,
                Err(error) => return Err(*error),
            };
            let (Some(&top), Some(&bottom)) = (nodes.first(), nodes.last()) else {
                return Ok(false);
            };
            let link = match table.table_word(node, top) {
                Ok(link) => link,
                Err(error) => {
                    table.shrink(nodes, table.tree);
                    return Err(error);
                }
            };
            table.count(node, 1, table.tree);
            table.publish(stop.slot, node.entry::<F>(offset), link);
            for &node in nodes {
                self.trail.extend(node);
            }
            node = bottom;
        }
        if node.shift != table.format.geometry().page_shift() {
            return Ok(false);
        }
        let words = table.words(node.table, 1 << node.width)?;
        // If this cursor is forgotten, or stops by a panic, the next writer counts.
        let known = table.live(node, table.tree).is_some();
        if !known {
            return Ok(false);
        }
        table.count(node, LOST, table.tree);
        self.gather.untold(true);
        let base = offset & !low_bits(node.span());
        let input = table.format.address(base).get();
        self.leaf = Leaf { words, node, base, input, ..Leaf::nowhere() };
        Ok(true)
    }
}
