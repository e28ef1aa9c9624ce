//! Hysteresis: the last-level table that became empty last stays in the tree, if its owner wants
//! that.
//!
//! A workload that maps and unmaps one page again and again (a bounce buffer, a fixmap) otherwise
//! makes and frees up to a table per level each time. What is kept is known by the part of the tree
//! it covers, not by its address: whatever else happens to the tree, it is looked up again before
//! it leaves.

use crate::allocator::TableAllocator;
use crate::descent::InPlace;
use crate::error::{Error, RangeError};
use crate::format::{Format, Input, Output, base_shift};
use crate::gather::{Gather, Invalidate};
use crate::memory::TableMemory;
use crate::table::PageTable;

/// Which table is kept.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Kept {
    wanted: bool,
    /// The number of the part of the tree that it covers, plus 1; 0 if there is none.
    part: u64,
}

impl Kept {
    /// Whether the table of `part` is the one that may stay.
    #[inline(always)]
    pub(crate) fn is_in(self, part: u64) -> bool {
        self.part == part + 1
    }
}

impl<F, M, A> PageTable<F, M, A>
where
    F: Format,
    M: TableMemory<Output<F>>,
    A: TableAllocator<Output<F>>,
{
    /// From now on, if `keep`, the last-level table that [`unmap`](Self::unmap) of a single page
    /// emptied last stays in the tree until another becomes empty, or until [`trim`](Self::trim);
    /// otherwise, as at the beginning, empty tables leave at once.
    ///
    /// Where it stays no larger leaf can be mapped: that is [`Error::Mapped`] or comes as smaller
    /// leaves, as over any table.
    ///
    /// ```
    /// # use pgtable_conformance::prelude::*;
    /// # pgtable_conformance::example!(tree: tree, gather);
    /// tree.keep_last_empty(true);
    /// for frame in [0x9000, 0xa000] {
    ///     // The tables for this page are made once.
    ///     let (at, to) = (Gva::new(1 << 30), Gpa::new(frame));
    ///     tree.map(at, to, 0x1000, Prot::RW.into(), Leaves::Largest)?;
    ///     tree.unmap(at, 0x1000, &mut gather)?;
    ///     gather.finish(tree.tables())?;
    /// }
    /// tree.trim(&mut gather)?;
    /// # gather.finish(tree.tables())?;
    /// # Ok::<(), Box<dyn core::error::Error>>(())
    /// ```
    pub fn keep_last_empty(&mut self, keep: bool) {
        self.kept.wanted = keep;
    }

    /// Lets the empty table that was kept, if any, leave the tree.
    ///
    /// ```
    /// # use pgtable_conformance::prelude::*;
    /// # pgtable_conformance::example!(tree: tree, gather);
    /// # tree.map(Gva::new(0), Gpa::new(0), 0x1000, Prot::RW.into(), Leaves::Largest)?;
    /// tree.keep_last_empty(true);
    /// tree.unmap(Gva::new(0), 0x1000, &mut gather)?;
    /// // Idle: the table that was kept goes.
    /// tree.trim(&mut gather)?;
    /// assert_eq!(gather.finish(tree.tables())?.tables, 3);
    /// # Ok::<(), Box<dyn core::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// [`Error::Memory`], [`Error::Invalidate`], [`Error::Alloc`]; it is not kept any more all the
    /// same.
    pub fn trim<I: Invalidate<F::Stage>>(
        &mut self,
        gather: &mut Gather<'_, F::Stage, I>,
    ) -> Result<(), Error> {
        let Some(part) = core::mem::take(&mut self.kept.part).checked_sub(1) else { return Ok(()) };
        let offset = part << self.last_span();
        let trimmed = self.alone(|trail| {
            let fail = |error| RangeError { at: self.format.address(offset), error };
            let node = trail
                .seek(&self.format, InPlace(&self.memory), offset, 0)
                .map_err(|it| fail(Self::lost(it)))?
                .node;
            if node.level == 0 && self.live(node, self.tree) == Some(0) {
                self.discount(trail, offset, 0, 0, gather).map_err(fail)?;
            }
            Ok(())
        });
        trimmed.map_err(|RangeError { error, .. }| error)
    }

    /// Makes the table around `input` the one that stays; says whether any may.
    pub(crate) fn keep<I: Invalidate<F::Stage>>(
        &mut self,
        input: Input<F>,
        gather: &mut Gather<'_, F::Stage, I>,
    ) -> Result<bool, RangeError<Input<F>>> {
        let Some(offset) = self.format.offset(input).filter(|_| self.kept.wanted) else {
            return Ok(false);
        };
        self.trim(gather).map_err(|error| RangeError { at: input, error })?;
        self.kept.part = (offset >> self.last_span()) + 1;
        Ok(true)
    }

    /// log2 of what a last-level table of usual pages covers.
    fn last_span(&self) -> u8 {
        base_shift(&self.format) + self.format.geometry().width(crate::Level(0))
    }
}
