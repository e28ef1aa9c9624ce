//! Unmapping: leaves are cleared, and tables that become empty leave the tree.

use crate::address::Address;
use crate::alike::EIGHT;
use crate::allocator::{Contents, TableAllocator};
use crate::change::{Done, Verb};
use crate::descent::{InPlace, Link, Node, decode};
use crate::error::{Error, RangeError};
use crate::format::{Entry, Format, Input, Output, Presence, base_shift};
use crate::gather::{Gather, Invalidate};
use crate::geometry::{Level, Position};
use crate::group::{group_of, has_groups, taken_out, unit_in};
use crate::interrupted::OnPanic;
use crate::lock::{Had, Locks, Owned};
use crate::memory::TableMemory;
use crate::space::Mapping;
use crate::state::UNKNOWN;
use crate::table::PageTable;
use crate::trail::Trail;
use crate::walk::{LeafOf, bounds};
use crate::word::{Word, load_raw};

/// Unmap: entries become absent.
struct Clear;

impl Clear {
    /// Clears `run`, the first of which has the index `first`, entry by entry.
    #[inline(always)]
    fn each<F: Format>(
        format: &F,
        entries: Presence,
        run: &[F::Word],
        first: usize,
        done: &mut Done,
    ) {
        for (index, memory) in (first..).zip(run) {
            if !entries.is_absent(format, memory) {
                Word::<F>::new(memory).store(0);
                done.removed += 1;
                done.stale.add(index, index);
            }
        }
    }
}

impl<F: Format> Verb<F> for Clear {
    #[inline]
    fn run(&mut self, format: &F, run: &[F::Word], at: Position, _: u64) -> Done {
        let entries = Presence::at(format, at);
        let (mut done, mut index) = (Done::default(), 0);
        let mut eights = run.chunks_exact(EIGHT);
        for eight in &mut eights {
            let (all, any) = eight.iter().fold((u64::MAX, 0), |(all, any), memory| {
                let word = load_raw(memory);
                (all & word, any | word)
            });
            if entries.all_of(all, any) {
                eight.iter().for_each(|memory| Word::<F>::new(memory).store(0));
                done.removed += EIGHT;
                done.stale.add(index, index + EIGHT - 1);
            } else if !entries.none_of(any) {
                Self::each(format, entries, eight, index, &mut done);
            }
            index += EIGHT;
        }
        Self::each(format, entries, eights.remainder(), index, &mut done);
        done.present = done.removed;
        done
    }
}

/// Unmap, and tell what each leaf said last.
pub(crate) struct Report<C>(pub(crate) C);

impl<F: Format, C: FnMut(LeafOf<F>)> Verb<F> for Report<C> {
    #[inline]
    fn run(&mut self, format: &F, run: &[F::Word], at: Position, offset: u64) -> Done {
        let entries = Presence::at(format, at);
        let mut done = Done::default();
        if has_groups::<F>() {
            let mut next = 0;
            while let Some(memory) = run.get(next) {
                let Some(word) = entries.load(format, memory) else {
                    next += 1;
                    continue;
                };
                let unit = unit_in(format, (at, offset), run, next, word);
                let taken = taken_out(format, at, run, unit);
                next = unit.entries().end;
                done.removed += unit.entries().len();
                done.stale.add(unit.first, next - 1);
                if let Some(leaf) = taken.leaf(format, at, offset) {
                    (self.0)(leaf);
                }
            }
            done.present = done.removed;
            return done;
        }
        for (index, memory) in run.iter().enumerate() {
            if entries.is_absent(format, memory) {
                continue;
            }
            // Hardware records nothing in an absent entry, so this is the last that it recorded.
            let word = Word::<F>::new(memory).take();
            done.removed += 1;
            done.stale.add(index, index);
            if let Entry::Leaf { output, attributes } = format.decode(word, at) {
                let input = format.address(offset + ((index as u64) << at.shift));
                let (bytes, shift) = (at.size(), at.shift);
                (self.0)(Mapping { input, output, bytes, shift, attributes });
            }
        }
        done.present = done.removed;
        done
    }
}

impl<F, M, A> PageTable<F, M, A>
where
    F: Format,
    M: TableMemory<Output<F>>,
    A: TableAllocator<Output<F>>,
{
    /// Unmaps whatever is mapped in the `bytes` bytes from `input` on; returns how many bytes that
    /// were. Leaves that reach beyond the range are split; tables that become empty leave the tree.
    /// Holes are no error.
    ///
    /// ```
    /// # use pgtable_conformance::prelude::*;
    /// # pgtable_conformance::example!(mapped: tree, gather);
    /// assert_eq!(tree.unmap(Gva::new(0x1000), 0x4000, &mut gather)?, 0x4000);
    /// // The range is a hole now, which is no error.
    /// assert_eq!(tree.unmap(Gva::new(0), 0x4000, &mut gather)?, 0x1000);
    /// // Nothing uses the pages any more once this returns.
    /// gather.finish(tree.tables())?;
    /// # Ok::<(), Box<dyn core::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// [`Error::Range`], [`Error::Unaligned`]; [`Error::Alloc`] or [`Error::LeafSize`] if a leaf
    /// cannot be split; [`Error::Malformed`], [`Error::Memory`], [`Error::Invalidate`]. Everything
    /// before the error's address is unmapped, nothing from it on was changed.
    #[inline(always)]
    pub fn unmap<I: Invalidate<F::Stage>>(
        &mut self,
        input: Input<F>,
        bytes: u64,
        gather: &mut Gather<'_, F::Stage, I>,
    ) -> Result<u64, RangeError<Input<F>>> {
        if self.unmap_leaf::<0, I>(input, bytes, gather) {
            return Ok(bytes);
        }
        self.unmap_otherwise(input, bytes, gather)
    }

    /// [`unmap`](Self::unmap), whatever it meets.
    #[inline(never)]
    fn unmap_otherwise<I: Invalidate<F::Stage>>(
        &mut self,
        input: Input<F>,
        bytes: u64,
        gather: &mut Gather<'_, F::Stage, I>,
    ) -> Result<u64, RangeError<Input<F>>> {
        if bytes == 1 << base_shift(&self.format)
            && self.keep(input, gather)?
            && self.unmap_leaf::<0, I>(input, bytes, gather)
        {
            return Ok(bytes);
        }
        if self.unmap_last(input, bytes, gather)
            || self.unmap_leaf::<1, I>(input, bytes, gather)
            || self.unmap_leaf::<2, I>(input, bytes, gather)
        {
            return Ok(bytes);
        }
        self.alone(|trail| self.unmap_range(trail, input, bytes, gather))
    }

    /// As [`unmap`](Self::unmap), and calls `each` for each leaf that is unmapped, in order, with
    /// what it said last: accessed and dirty as hardware left them. It reads every entry, where
    /// `unmap` drops whole tables unread.
    ///
    /// ```
    /// # use pgtable_conformance::prelude::*;
    /// # pgtable_conformance::example!(mapped: tree, gather);
    /// // Frames, with what their pages said last.
    /// let mut frames = Vec::new();
    /// let note = |page: LeafOf<Sv>| frames.push((page.output, page.attributes));
    /// tree.unmap_with(Gva::new(0), 0x2000, note, &mut gather)?;
    /// assert_eq!(frames[1].0, Gpa::new(0x80_1000));
    /// # gather.finish(tree.tables())?;
    /// # Ok::<(), Box<dyn core::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// As [`unmap`](Self::unmap).
    pub fn unmap_with<I: Invalidate<F::Stage>>(
        &mut self,
        input: Input<F>,
        bytes: u64,
        each: impl FnMut(LeafOf<F>),
        gather: &mut Gather<'_, F::Stage, I>,
    ) -> Result<u64, RangeError<Input<F>>> {
        self.alone(|trail| self.change_range(trail, (input, bytes), Report(each), gather))
    }

    /// The general case of [`unmap`](Self::unmap), by any writer.
    pub(crate) fn unmap_range<L: Locks, I: Invalidate<F::Stage>>(
        &self,
        trail: &mut Trail<L>,
        input: Input<F>,
        bytes: u64,
        gather: &mut Gather<'_, F::Stage, I>,
    ) -> Result<u64, RangeError<Input<F>>> {
        let (mut offset, end) =
            bounds(&self.format, input, bytes, self.format.geometry().finest_shift())?;
        let mut unmapped = 0;
        while offset < end {
            let done = match self.drop_tables(trail, &mut offset, end, gather) {
                Ok(Some(done)) => Ok(done),
                Ok(None) => self.change_run(trail, &mut offset, end, &mut Clear, gather),
                Err(error) => Err(error),
            };
            match done {
                Ok(done) => unmapped += done,
                Err(error) => return Err(RangeError { at: self.format.address(offset), error }),
            }
        }
        Ok(unmapped)
    }

    /// Takes whole last-level tables out of the tree, unread: their live counts say what was mapped
    /// there. Moves `at` on over the entries of one table of level 1, as far as they are tables,
    /// larger leaves or holes that the range covers whole; returns how many bytes were mapped
    /// there, or `None` if the first is nothing of that kind.
    fn drop_tables<L: Locks, I: Invalidate<F::Stage>>(
        &self,
        trail: &mut Trail<L>,
        at: &mut u64,
        end: u64,
        gather: &mut Gather<'_, F::Stage, I>,
    ) -> Result<Option<u64>, Error> {
        let offset = *at;
        let size =
            Position { level: Level(1), shift: self.format.geometry().shift(Level(1)) }.size();
        if self.format.geometry().root().0 <= 1 || offset & (size - 1) != 0 || end - offset < size {
            return Ok(None);
        }
        let stop =
            trail.seek(&self.format, InPlace(&self.memory), offset, 1).map_err(Self::lost)?;
        let node = stop.node;
        if node.level != 1 {
            return Ok(None);
        }
        let entries = node.entries(offset, end & !(size - 1));
        let run = self.words(node.entry::<F>(offset), entries)?;
        let owner = trail.locks.owner();
        let interrupted = OnPanic::new(|| self.interrupted(node, offset, entries, owner));
        let (mut unmapped, mut gone, mut done, mut room) = (0, 0, 0, Ok(()));
        while let Some(memory) = run.get(done) {
            let here = offset + done as u64 * size;
            let slot = Word::<F>::new(memory);
            match decode(&self.format, slot.load(), node.position()) {
                Entry::Absent => done += 1,
                Entry::Leaf { .. } if group_of(&self.format, slot.load(), node.position()) > 0 => {
                    break;
                }
                Entry::Leaf { .. } => {
                    slot.store(0);
                    let page = self.format.address(here);
                    gather.pages(page, page, node.shift);
                    unmapped += size;
                    (gone, done) = (gone + 1, done + 1);
                }
                Entry::Table { width, .. } => {
                    room = gather.make_room(&self.tables).map_err(Error::Invalidate);
                    if room.is_err() {
                        break;
                    }
                    let run = run.get(done..).unwrap_or_default();
                    let (tables, pages) = self.drop_alike(trail, (node, width), run, here, gather);
                    if tables == 0 {
                        break;
                    }
                    unmapped += pages << (node.shift - width);
                    (gone, done) = (gone + tables as u32, done + tables);
                }
                Entry::Malformed => break,
            }
        }
        *at = offset + done as u64 * size;
        interrupted.disarm();
        trail.cut(1);
        if gone > 0 {
            self.wrote(node.entry::<F>(offset), entries);
            self.discount(trail, offset, 1, gone, gather)?;
        }
        room.map(|()| (done > 0).then_some(unmapped))
    }

    /// Takes the tables out of the tree to which the entries of `run` lead, as far as they follow
    /// each other, are all of `width`, may be taken out, and the gather has room; returns how many,
    /// and how many pages they mapped. The entries stand in `node`'s table, at which the trail
    /// ends, and the first covers `offset`.
    fn drop_alike<L: Locks, I: Invalidate<F::Stage>>(
        &self,
        trail: &mut Trail<L>,
        (node, width): (Node, u8),
        run: &[F::Word],
        offset: u64,
        gather: &mut Gather<'_, F::Stage, I>,
    ) -> (usize, u64) {
        let (at, shape) = (node.position(), node.below(0, width));
        let shortcuts = self.format.shortcuts(None);
        let usual = shortcuts
            .filter(|all| all.step(1).shift_of::<F>() == at.shift && all.step(0).width() == width);
        let usual = usual.map(|all| all.step(1));
        let (above, locks) = trail.parts();
        let (mut tables, mut pages) = (0, 0);
        // If a panic comes before the pages are told, everything is stale.
        gather.untold(true);
        for memory in run {
            let slot = Word::<F>::new(memory);
            let word = slot.load();
            let table = match usual.and_then(|step| step.address(word)) {
                Some(table) => table,
                None => match decode(&self.format, word, at) {
                    Entry::Table { table, width: its } if its == width => table.get(),
                    _ => break,
                },
            };
            let below = Node { table, ..shape };
            let Some(state) = self.state(below).filter(|_| !gather.is_full()) else { break };
            let entry = node.entry::<F>(offset + ((tables as u64) << at.shift));
            if !locks.enter_known(below, state, above, Link { at, entry, word }) {
                break;
            }
            // An embedder's code that panics leaves it unlocked.
            let had = Had::new(locks, below);
            if self.is_annotated() {
                break;
            }
            let live = match state.live() {
                UNKNOWN.. => self.live(below, had.owner()).unwrap_or(0),
                live => live,
            };
            slot.store(0);
            self.retire(below, had.owner(), Contents::Stale, gather);
            had.left();
            pages += u64::from(live);
            tables += 1;
        }
        gather.untold(false);
        if tables > 0 {
            let last = offset + ((tables as u64) << at.shift) - shape.position().size();
            let [first, last] = [offset, last].map(|offset| self.format.address(offset));
            gather.pages(first, last, shape.shift);
        }
        (tables, pages)
    }

    /// One step of [`unmap`](Self::unmap), for the cursor.
    pub(crate) fn unmap_run<I: Invalidate<F::Stage>>(
        &self,
        trail: &mut Trail<Owned<'_, A, F>>,
        at: &mut u64,
        end: u64,
        gather: &mut Gather<'_, F::Stage, I>,
    ) -> Result<u64, Error> {
        self.change_run(trail, at, end, &mut Clear, gather)
    }
}
