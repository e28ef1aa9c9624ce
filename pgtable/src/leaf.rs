//! One leaf, mapped or unmapped without a trail: the common case of both verbs.
//!
//! A quick descent comes to the leaf's table, by entries of the tree's own shape, and the state of
//! that table names this tree. Where the descent meets anything else, nothing is changed, and the
//! verb begins as for a range.
//!
//! A table of the last level is made for its first page and leaves with its last one. There, and
//! for leaves above the last level, all tables on the way are looked at, as where a range is
//! changed: each must be this tree's, and none may be on the way to itself. For a page they are
//! not: where a guest makes a circle, an entry of an upper table of its own tree may become a
//! page's, and is counted as one.

use arrayvec::ArrayVec;

use crate::address::Address;
use crate::allocator::{Contents, TableAllocator};
use crate::descent::{InPlace, Node};
use crate::format::{Entry, Format, Input, Output};
use crate::gather::{Gather, Invalidate};
use crate::geometry::{Level, MAX_LEVELS};
use crate::group::group_of;
use crate::memory::TableMemory;
use crate::quick::{Last, descend_quickly, entry, to_table_by};
use crate::shortcut::Shortcuts;
use crate::space::Leaves;
use crate::table::PageTable;
use crate::tree_tables::layout;
use crate::word::Word;

/// The addresses of tables, from the root on.
type Way = ArrayVec<u64, MAX_LEVELS>;

impl<F, M, A> PageTable<F, M, A>
where
    F: Format,
    M: TableMemory<Output<F>>,
    A: TableAllocator<Output<F>>,
{
    /// Maps one leaf of `LEVEL`; false, and nothing changed, if that is not all that there is to
    /// do.
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
        let shift = shortcuts.step(LEVEL).shift_of::<F>();
        let Some(offset) = self.leaf_at_once(input, (shift, bytes), leaves) else { return false };
        let Some(last) = self.leaf_entry::<LEVEL>(&shortcuts, offset) else { return false };
        let node = last.node::<F>();
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
        let shift = shortcuts.step(LEVEL).shift_of::<F>();
        let at_once = self.leaf_at_once(input, (shift, bytes), Leaves::Largest);
        let Some(offset) = at_once else { return false };
        let Some(last) = self.leaf_entry::<LEVEL>(&shortcuts, offset) else { return false };
        let (node, word) = (last.node::<F>(), last.word);
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

    /// Maps one page in a table of the last level that is made for it; false, and nothing changed,
    /// if that is not all that there is to do.
    pub(crate) fn map_first(
        &mut self,
        input: Input<F>,
        output: Output<F>,
        bytes: u64,
        attributes: F::Attributes,
        leaves: Leaves,
    ) -> bool {
        let Some(shortcuts) = self.format.shortcuts(None) else { return false };
        let page = shortcuts.step(0);
        let at_once = self.leaf_at_once(input, (page.shift_of::<F>(), bytes), leaves);
        let Some(offset) = at_once else { return false };
        let ours = self.entry_of_ours(&shortcuts, 1, offset);
        let Some((above, _)) = ours else { return false };
        // If it is absent and not empty, it may be annotated.
        if above.word != 0 {
            return false;
        }
        let (parent, width) = (above.node::<F>(), page.width());
        let at = parent.below(0, width).position();
        let Ok(leaf) = self.format.leaves(output, attributes, at) else { return false };
        let layout = layout::<F>(parent.below(0, width));
        // Whatever fails is told by the general case, which meets it again.
        let Ok(table) = self.allocate(layout, Contents::Zeroed, self.tree) else { return false };
        let node = parent.below(table.get(), width);
        let entry = node.entry::<F>(offset);
        let made = match (self.word(entry), self.table_word(parent, node)) {
            (Ok(slot), Ok(link)) => self
                .state(parent)
                .is_some_and(|state| state.add_one(self.tree))
                .then_some((slot, link)),
            _ => None,
        };
        let Some((slot, link)) = made else {
            // It is a live table of this tree, which nothing leads to.
            self.shrink(&[node], self.tree);
            return false;
        };
        Word::<F>::new(slot).store(leaf.first);
        self.wrote(entry, 1);
        self.count(node, 1, self.tree);
        self.publish(above.slot, parent.entry::<F>(offset), link);
        self.appeared(offset, 1 << node.shift);
        true
    }

    /// Unmaps the last page of a table of the last level, which leaves a table that keeps others;
    /// false, and nothing changed, if it is any other case.
    pub(crate) fn unmap_last<I: Invalidate<F::Stage>>(
        &mut self,
        input: Input<F>,
        bytes: u64,
        gather: &mut Gather<'_, F::Stage, I>,
    ) -> bool {
        let Some(shortcuts) = self.format.shortcuts(None) else { return false };
        let at_once =
            self.leaf_at_once(input, (shortcuts.step(0).shift_of::<F>(), bytes), Leaves::Largest);
        let Some(offset) = at_once else { return false };
        let ours = self.entry_of_ours(&shortcuts, 1, offset);
        let Some((above, way)) = ours else { return false };
        let Some(table) = above.step.address(above.word) else { return false };
        let memory = InPlace(&self.memory);
        let last = entry::<F, _>(&shortcuts, memory, (0, table), offset);
        let Some(last) = last.filter(|last| last.step.address(last.word).is_some()) else {
            return false;
        };
        let (parent, node) = (above.node::<F>(), last.node::<F>());
        let [Some(state), Some(state_above)] = [node, parent].map(|node| self.state(node)) else {
            return false;
        };
        if way.contains(&table)
            || state.live_of(self.tree) != Some(1)
            || gather.make_room(&self.tables).is_err()
            || !state_above.remove_one(self.tree)
        {
            return false;
        }
        state.remove_last(self.tree);
        last.slot.store(0);
        self.wrote(node.entry::<F>(offset), 1);
        above.slot.store(0);
        self.wrote(parent.entry::<F>(offset), 1);
        gather.pages(input, input, node.shift);
        self.retire(node, self.tree, Contents::Zeroed, gather);
        true
    }

    /// The entry of `LEVEL` for `offset`. Above the last level, where an entry that a guest wrote
    /// can be a table as well as a leaf, the tables on the way are looked at.
    #[inline(always)]
    fn leaf_entry<const LEVEL: u8>(
        &self,
        shortcuts: &Shortcuts,
        offset: u64,
    ) -> Option<Last<Word<'_, F>>> {
        if LEVEL > 0 {
            return self.entry_of_ours(shortcuts, LEVEL, offset).map(|(last, _)| last);
        }
        descend_quickly::<F, _>(shortcuts, InPlace(&self.memory), self.root, offset).ok()
    }

    /// The entry of `level` for `offset`, and the tables on the way there from the root on: each is
    /// this tree's, and none is there twice.
    #[inline(always)]
    fn entry_of_ours(
        &self,
        shortcuts: &Shortcuts,
        level: u8,
        offset: u64,
    ) -> Option<(Last<Word<'_, F>>, Way)> {
        let (memory, root) = (InPlace(&self.memory), shortcuts.root());
        if level > root {
            return None;
        }
        let mut way = Way::new();
        way.try_push(self.root).ok()?;
        let enter = |_, table| way.try_push(table).unwrap_or(());
        let top = (root, self.root);
        let table = to_table_by::<F, _>(shortcuts, memory, top, level, offset, enter).ok()?;
        let geometry = self.format.geometry();
        for (index, &table) in way.iter().enumerate() {
            let at = Level(root - index as u8);
            let (width, shift) = (geometry.width(at), geometry.shift(at));
            let node = Node { table, level: at.0, width, shift };
            self.state(node)?.live_of(self.tree)?;
            for &other in way.iter().take(index) {
                if other == table {
                    return None;
                }
            }
        }
        Some((entry::<F, _>(shortcuts, memory, (level, table), offset)?, way))
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
        (bytes == 1 << shift && offset & (bytes - 1) == 0).then_some(offset)
    }
}
