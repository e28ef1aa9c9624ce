//! One leaf becomes a table of smaller ones, or tables of yet smaller ones: taken out, invalidated,
//! and replaced (see [`reshape`](crate::reshape)).

use crate::address::{Address, low_bits};
use crate::allocator::{Contents, TableAllocator};
use crate::descent::{Node, Stop};
use crate::error::Error;
use crate::format::{Entry, Format, Output};
use crate::gather::{Gather, Invalidate};
use crate::geometry::{Level, Position};
use crate::interrupted::OnPanic;
use crate::lock::Locks;
use crate::memory::TableMemory;
use crate::state::Owner;
use crate::table::PageTable;
use crate::trail::Trail;
use crate::word::Word;

/// log2 of the entries that are stored at most while a leaf is absent that is split: 1 GiB in
/// pages of 4 KiB.
const UNSEEN_AT_ONCE: u8 = 18;

impl<F, M, A> PageTable<F, M, A>
where
    F: Format,
    M: TableMemory<Output<F>>,
    A: TableAllocator<Output<F>>,
{
    /// Replaces the leaf at which `stop` stands by a table of smaller leaves that say the same; and
    /// those of them before `end` that are larger than `2^shift` bytes, as far as there are tables,
    /// by tables of yet smaller ones: returns how many those were.
    ///
    /// Break before make: the leaf is taken out and invalidated before the table is linked, since
    /// hardware must not hold two sizes for one address. What is linked below a table that hardware
    /// never saw needs no invalidation of its own.
    pub(crate) fn split_leaf<L: Locks, I: Invalidate<F::Stage>>(
        &self,
        trail: &mut Trail<L>,
        stop: &Stop<F, Word<'_, F>>,
        offset: u64,
        (end, shift): (u64, u8),
        gather: &mut Gather<'_, F::Stage, I>,
    ) -> Result<usize, Error> {
        let node = stop.node;
        let geometry = self.format.geometry();
        let below = crate::Level(node.level.wrapping_sub(1));
        if !geometry.is_leaf_level(below) {
            return Err(Error::LeafSize);
        }
        let owner = trail.locks.owner();
        let table = (below.0, geometry.width(below));
        let nodes = self.grow(node, offset, table, Contents::Stale, owner)?;
        let Some(&table) = nodes.first() else { return Err(Error::LeafSize) };
        let base = offset & !(node.position().size() - 1);
        let page = self.format.address(base);
        gather.pages(page, page, node.shift);
        let old = stop.slot.take();
        let appear = |word| {
            self.publish(stop.slot, node.entry::<F>(offset), word);
            self.appeared(base, node.position().size());
        };
        let interrupted = OnPanic::new(|| {
            appear(old);
            self.shrink(&nodes, owner);
        });
        let made = gather
            .flush(&self.tables)
            .map_err(Error::Invalidate)
            .and_then(|()| self.fill_split(node, old, table, owner));
        interrupted.disarm();
        match made {
            Ok(word) => {
                trail.locks.made(&nodes);
                trail.grown(&nodes);
                // From here on the table is whole at any moment.
                let interrupted = OnPanic::new(|| appear(word));
                let leaf = (node.position(), old, base);
                let further = self.split_unseen(trail, leaf, table, (offset, end), shift);
                interrupted.disarm();
                appear(word);
                Ok(further)
            }
            Err(error) => {
                appear(old);
                self.shrink(&nodes, owner);
                Err(error)
            }
        }
    }

    /// Replaces leaves of `node`'s table that hardware never saw, from the one for `offset` to
    /// before `end`, by tables of smaller ones, if they are larger than `2^shift` bytes; returns
    /// how many, until there are no more tables. Together they are the leaf `old` that stood at
    /// `at`, for the addresses from `base` on.
    ///
    /// The larger leaf is absent meanwhile, so the work is bounded.
    fn split_unseen<L: Locks>(
        &self,
        trail: &mut Trail<L>,
        (at, old, base): (Position, u64, u64),
        node: Node,
        (offset, end): (u64, u64),
        shift: u8,
    ) -> usize {
        let geometry = self.format.geometry();
        let below = Level(node.level.wrapping_sub(1));
        // Not halfway: then the smaller leaves would be taken out one by one.
        if node.shift <= shift || !geometry.is_leaf_level(below) || geometry.shift(below) > shift {
            return 0;
        }
        let width = geometry.width(below);
        if node.width + width > UNSEEN_AT_ONCE {
            return 0;
        }
        let Entry::Leaf { output, attributes } = self.format.decode(old, at) else { return 0 };
        let (first, entries) = (offset & !low_bits(node.shift), node.entries(offset, end));
        for entry in 0..entries {
            let part = first + ((entry as u64) << node.shift);
            let Some(output) = output.checked_add(part - base) else { return entry };
            let leaf = (part, output, attributes);
            if self.split_entry(trail, node, leaf, (below.0, width)).is_err() {
                return entry;
            }
        }
        entries
    }

    /// Replaces one entry of `node`'s table, for the addresses from `offset` on, by a table of that
    /// level and width, whose leaves map `output` and what follows.
    fn split_entry<L: Locks>(
        &self,
        trail: &mut Trail<L>,
        node: Node,
        (offset, output, attributes): (u64, Output<F>, F::Attributes),
        (level, width): (u8, u8),
    ) -> Result<(), Error> {
        let owner = trail.locks.owner();
        let slot = Word::<F>::new(self.word(node.entry::<F>(offset))?);
        let made = self.grow(node, offset, (level, width), Contents::Stale, owner)?;
        let filled = match made.first() {
            Some(&table) => self.fill_table(table, output, attributes, owner),
            None => Err(Error::LeafSize),
        };
        let link = match (filled, made.first()) {
            (Ok(()), Some(&table)) => self.table_word(node, table),
            (Err(error), _) => Err(error),
            (_, None) => Err(Error::LeafSize),
        };
        match link {
            Ok(link) => {
                trail.locks.made(&made);
                // It is born locked, and on no trail.
                made.iter().for_each(|&table| trail.locks.leave(table));
                self.publish(slot, node.entry::<F>(offset), link);
                Ok(())
            }
            Err(error) => {
                self.shrink(&made, owner);
                Err(error)
            }
        }
    }

    /// Where a split goes on after it replaced the leaf for `offset` of `node`'s table, and
    /// `further` of the leaves below, which are small enough then.
    pub(crate) fn after_split(&self, node: Node, offset: u64, further: usize) -> u64 {
        match node.level.checked_sub(1) {
            Some(below) if further > 0 => {
                let shift = self.format.geometry().shift(Level(below));
                (offset & !low_bits(shift)) + ((further as u64) << shift)
            }
            _ => offset,
        }
    }

    /// Fills the table `below`, which `owner` has, with leaves that say what `old`, a leaf of
    /// `node`'s table, says; returns the entry that links it.
    fn fill_split(&self, node: Node, old: u64, below: Node, owner: Owner) -> Result<u64, Error> {
        let Entry::Leaf { output, attributes } = self.format.decode(old, node.position()) else {
            return Err(Error::Malformed { at: node.position(), entry: node.table, word: old });
        };
        self.fill_table(below, output, attributes, owner)?;
        self.table_word(node, below)
    }

    /// Fills the new table of `node`, which `owner` has, with leaves that map `output` and what
    /// follows.
    fn fill_table(
        &self,
        node: Node,
        output: Output<F>,
        attributes: F::Attributes,
        owner: Owner,
    ) -> Result<(), Error> {
        let words = self.format.leaves(output, attributes, node.position())?;
        let entries = 1usize << node.width;
        let run = self.words(node.table, entries)?;
        self.fill(run, words, output.get(), attributes, (node, 0))?;
        self.wrote(node.table, entries);
        self.count(node, entries as u32, owner);
        Ok(())
    }
}
