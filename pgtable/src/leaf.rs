//! One leaf, mapped or unmapped without a trail: the common case of both verbs.
//!
//! A quick descent comes to the leaf's table, by entries of the tree's own shape, and the table's
//! state names this tree. Where it meets anything else, or where more than this one entry changes (a
//! table is missing, a table becomes empty), nothing is changed, and the verb begins as for a range.

use crate::address::low_bits;
use crate::allocator::TableAllocator;
use crate::descent::InPlace;
use crate::format::{Entry, Format, Input, Output};
use crate::gather::{Gather, Invalidate};
use crate::geometry::Level;
use crate::group::group_of;
use crate::memory::TableMemory;
use crate::quick::descend_quickly_to;
use crate::space::Leaves;
use crate::table::PageTable;

impl<F, M, A> PageTable<F, M, A>
where
    F: Format,
    M: TableMemory<Output<F>>,
    A: TableAllocator<Output<F>>,
{
    /// Maps one leaf of `LEVEL`; false, and nothing changed, if that is not all that there is to do.
    #[inline(always)]
    pub(crate) fn map_leaf<const LEVEL: u8>(
        &mut self,
        input: Input<F>,
        output: Output<F>,
        bytes: u64,
        attributes: F::Attributes,
        leaves: Leaves,
    ) -> bool {
        let format = &self.format;
        let Some(shortcuts) = format.shortcuts(None) else { return false };
        if !self.has_leaves::<LEVEL>(shortcuts.root()) {
            return false;
        }
        let shift = shortcuts.step(LEVEL).shift();
        let Some(offset) = self.leaf_at_once(input, (shift, bytes), leaves) else { return false };
        let memory = InPlace(&self.memory);
        let Ok(last) = descend_quickly_to::<F, _>(&shortcuts, memory, self.root, LEVEL, offset)
        else {
            return false;
        };
        let node = last.node();
        let Ok(leaf) = format.leaves(output, attributes, node.position()) else { return false };
        // If it is absent and not empty, it may be annotated.
        if last.word != 0 {
            return false;
        }
        if !self.state(node).is_some_and(|state| state.add_one(self.tree)) {
            return false;
        }
        last.slot.store(leaf.first);
        self.wrote(node.entry::<F>(offset), 1);
        self.appeared(offset, 1 << node.shift);
        true
    }

    /// Unmaps one leaf of `LEVEL` from a table that keeps others; false, and nothing changed, if it
    /// is any other case.
    #[inline(always)]
    pub(crate) fn unmap_leaf<const LEVEL: u8, I: Invalidate<F::Stage>>(
        &mut self,
        input: Input<F>,
        bytes: u64,
        gather: &mut Gather<'_, F::Stage, I>,
    ) -> bool {
        let Some(shortcuts) = self.format.shortcuts(None) else { return false };
        if !self.has_leaves::<LEVEL>(shortcuts.root()) {
            return false;
        }
        let shift = shortcuts.step(LEVEL).shift();
        let at_once = self.leaf_at_once(input, (shift, bytes), Leaves::Largest);
        let Some(offset) = at_once else { return false };
        let memory = InPlace(&self.memory);
        let Ok(last) = descend_quickly_to::<F, _>(&shortcuts, memory, self.root, LEVEL, offset)
        else {
            return false;
        };
        let (node, word) = (last.node(), last.word);
        let at = node.position();
        let leaf = match LEVEL {
            0 => last.step.address(word).is_some(),
            _ => {
                matches!(self.format.decode(word, at), Entry::Leaf { .. })
                    && group_of(&self.format, word, at) == 0
            }
        };
        if !leaf {
            return false;
        }
        let Some(state) = self.state(node) else { return false };
        let keeps = || LEVEL == 0 && self.kept.is_in(offset >> node.span());
        if !(state.remove_one(self.tree) || keeps() && state.remove_last(self.tree)) {
            return false;
        }
        last.slot.store(0);
        self.wrote(node.entry::<F>(offset), 1);
        gather.pages(input, input, node.shift);
        true
    }

    /// Whether trees have leaves of `LEVEL`, below the root or in it.
    #[inline(always)]
    fn has_leaves<const LEVEL: u8>(&self, root: u8) -> bool {
        LEVEL == 0 || LEVEL <= root && self.format.geometry().is_leaf_level(Level(LEVEL))
    }

    /// The offset of `input`, if `bytes` bytes from there are one leaf of `2^shift` bytes, and it
    /// may be mapped as such.
    #[inline(always)]
    pub(crate) fn leaf_at_once(
        &self,
        input: Input<F>,
        (shift, bytes): (u8, u64),
        leaves: Leaves,
    ) -> Option<u64> {
        match leaves {
            Leaves::Largest => {}
            Leaves::AtMost(limit) if limit >= shift => {}
            Leaves::Exactly(exact) if exact == shift => {}
            Leaves::AtMost(_) | Leaves::Exactly(_) => return None,
        }
        let offset = self.format.offset(input)?;
        (bytes == 1 << shift && offset & low_bits(shift) == 0).then_some(offset)
    }
}
