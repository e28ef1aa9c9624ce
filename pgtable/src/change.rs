//! Changing what is mapped: unmapping and modifying are one traversal with two verbs.
//!
//! The traversal descends, skips holes, splits leaves that reach beyond the range, hands each run
//! of entries of one table to the verb, and keeps the books: what became stale goes to the
//! [`Gather`], the live count goes down, empty tables leave the tree.

use arrayvec::ArrayVec;

use crate::allocator::TableAllocator;
use crate::descent::{InPlace, Node};
use crate::error::{Error, RangeError};
use crate::format::{Format, Input, Output};
use crate::gather::{Gather, Invalidate};
use crate::geometry::Position;
use crate::group::has_groups;
use crate::interrupted::OnPanic;
use crate::lock::Locks;
use crate::memory::TableMemory;
use crate::stale::Extent;
use crate::state::Owner;
use crate::table::PageTable;
use crate::table_word::TableWord as _;
use crate::trail::Trail;
use crate::walk::bounds;
use crate::word::Word;

/// What a verb did to a run of entries.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Done {
    /// How many entries it found present (and dealt with).
    pub(crate) present: usize,
    /// How many of them are not present any more.
    pub(crate) removed: usize,
    /// The first and the last entry whose old translation may live on in hardware.
    pub(crate) stale: Extent<usize>,
    /// The entry at which it had to stop, and why.
    pub(crate) stopped: Option<(usize, Refusal)>,
}

/// Why a verb stopped at an entry.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Refusal {
    /// The new attributes have no encoding there.
    Unencodable,
    /// The entry, which holds this word, is no leaf.
    NoLeaf(u64),
    /// The entry must not change while hardware holds it: it has to be
    /// [taken out](Verb::take_out) first.
    Break,
    /// The entry kept changing.
    Contended,
    /// The entry belongs to a group that is too large to be taken out at once.
    TooLarge,
}

/// What is done to each run of present leaves.
pub(crate) trait Verb<F: Format> {
    /// Whether what it changes in place becomes stale.
    const TELLS: bool = true;

    /// Changes the entries of `run`, which stand at `at`, and the first of which covers `offset`.
    /// Absent ones are passed over.
    fn run(&mut self, format: &F, run: &[F::Word], at: Position, offset: u64) -> Done;

    /// Makes entries from the first of `run` on absent, for a verb that stopped there with
    /// [`Refusal::Break`].
    fn take_out(
        &mut self,
        format: &F,
        run: &[F::Word],
        at: Position,
        offset: u64,
    ) -> Result<Broken, Refusal> {
        let _ = (format, run, at, offset);
        Ok(Broken { entries: ArrayVec::new(), seen: 0 })
    }
}

/// A verb after which old translations may live on in hardware.
pub(crate) struct Quietly<V>(pub(crate) V);

impl<F: Format, V: Verb<F>> Verb<F> for Quietly<V> {
    const TELLS: bool = false;

    fn run(&mut self, format: &F, run: &[F::Word], at: Position, offset: u64) -> Done {
        self.0.run(format, run, at, offset)
    }

    fn take_out(
        &mut self,
        format: &F,
        run: &[F::Word],
        at: Position,
        offset: u64,
    ) -> Result<Broken, Refusal> {
        self.0.take_out(format, run, at, offset)
    }
}

/// How many entries are made absent for one invalidation: the largest group of an architecture that
/// demands it (AArch64 with 16-KiB pages).
pub(crate) const BATCH: usize = 128;

/// Entries that were made absent, for others to take their places after an invalidation.
#[derive(Debug)]
pub(crate) struct Broken {
    /// Which entry of the run, what it held, and what it is to hold.
    pub(crate) entries: ArrayVec<(usize, u64, u64), BATCH>,
    /// How many entries of the run were dealt with, absent ones included.
    pub(crate) seen: usize,
}

impl<F, M, A> PageTable<F, M, A>
where
    F: Format,
    M: TableMemory<Output<F>>,
    A: TableAllocator<Output<F>>,
{
    /// Does `verb` to whatever is mapped in a range, by any writer; returns how many bytes are
    /// mapped there.
    #[inline(never)]
    pub(crate) fn change_range<V: Verb<F>, L: Locks, I: Invalidate<F::Stage>>(
        &self,
        trail: &mut Trail<L>,
        (input, bytes): (Input<F>, u64),
        verb: V,
        gather: &mut Gather<'_, F::Stage, I>,
    ) -> Result<u64, RangeError<Input<F>>> {
        let (mut offset, end) =
            bounds(&self.format, input, bytes, self.format.geometry().finest_shift())?;
        let (mut verb, mut mapped) = (verb, 0);
        while offset < end {
            match self.change_run(trail, &mut offset, end, &mut verb, gather) {
                Ok(present) => mapped += present,
                Err(error) => return Err(RangeError { at: self.format.address(offset), error }),
            }
        }
        Ok(mapped)
    }

    /// One step: a hole, a split, or a run of one table. Moves `at` on by what is done, and returns
    /// how many bytes of that were mapped.
    pub(crate) fn change_run<L: Locks, V: Verb<F>, I: Invalidate<F::Stage>>(
        &self,
        trail: &mut Trail<L>,
        at: &mut u64,
        end: u64,
        verb: &mut V,
        gather: &mut Gather<'_, F::Stage, I>,
    ) -> Result<u64, Error> {
        let offset = *at;
        let stop =
            trail.seek(&self.format, InPlace(&self.memory), offset, 0).map_err(Self::lost)?;
        let node = stop.node;
        let whole =
            offset & (node.position().size() - 1) == 0 && end - offset >= node.position().size();
        let mut entries = 1;
        if has_groups::<F>() {
            if self.ungroup_ends(&mut trail.locks, node, stop.word, (offset, end), gather)? {
                return Ok(0);
            }
            if node.level > 0 && whole && self.leaf_at(&stop, offset)?.is_some() {
                entries = self.unit_at(node, offset, stop.word)?.entries().len();
            }
        }
        let entries = if node.level == 0 && whole {
            node.entries(offset, end & !(node.position().size() - 1))
        } else if self.leaf_at(&stop, offset)?.is_none() {
            *at = node.next_entry(offset).min(end);
            return Ok(0);
        } else if whole {
            entries
        } else {
            self.split_leaf(trail, &stop, offset, (offset, node.shift), gather)?;
            return Ok(0);
        };
        let run = self.words(node.entry::<F>(offset), entries)?;
        let owner = trail.locks.owner();
        // All of the run, of which it is not known what was done.
        let tell = |gather: &mut Gather<'_, F::Stage, I>| {
            let last = offset + ((entries as u64 - 1) << node.shift);
            let [first, last] = [offset, last].map(|offset| self.format.address(offset));
            gather.pages(first, last, node.shift);
            self.interrupted(node, offset, entries, owner);
        };
        let interrupted = OnPanic::new(|| tell(gather));
        let done = verb.run(&self.format, run, node.position(), offset);
        interrupted.disarm();
        *at += (done.stopped.map_or(entries, |(index, _)| index) as u64) << node.shift;
        if let Some((first, last)) = done.stale.0 {
            self.wrote(
                node.entry::<F>(offset) + ((first as u64) << F::Word::SHIFT),
                last - first + 1,
            );
            let page = |index: usize| self.format.address(offset + ((index as u64) << node.shift));
            if V::TELLS {
                gather.pages(page(first), page(last), node.shift);
            }
        }
        // A table in which nothing was may be one that had to stay when it became empty.
        if done.removed > 0 || done.present == 0 {
            self.discount(trail, offset, node.level, done.removed as u32, gather)?;
        }
        let Some((index, mut refusal)) = done.stopped else {
            return Ok((done.present as u64) << node.shift);
        };
        if matches!(refusal, Refusal::Break) {
            let interrupted = OnPanic::new(|| tell(gather));
            let broken = verb.take_out(&self.format, &run[index..], node.position(), *at);
            interrupted.disarm();
            // Also where it put back what it took: a log may have seen the place empty.
            self.wrote(node.entry::<F>(*at), entries - index);
            match broken {
                Ok(broken) => {
                    let remade = self.remake(&run[index..], node, at, &broken, gather)?;
                    return Ok(((done.present + remade) as u64) << node.shift);
                }
                Err(Refusal::TooLarge) => {
                    let memory = run.get(index).ok_or(Error::Contended)?;
                    let word = Word::<F>::new(memory).load();
                    self.ungroup(&mut trail.locks, node, *at, word, gather)?;
                    return Ok((done.present as u64) << node.shift);
                }
                Err(other) => refusal = other,
            }
        }
        Err(match refusal {
            Refusal::Unencodable => Error::Unencodable { at: node.position() },
            Refusal::Break | Refusal::TooLarge | Refusal::Contended => Error::Contended,
            Refusal::NoLeaf(word) => {
                Error::Malformed { at: node.position(), entry: node.entry::<F>(*at), word }
            }
        })
    }

    /// A panic interrupted the change of `entries` entries of `node`'s table from the one for
    /// `offset` on, which `owner` has.
    #[cold]
    pub(crate) fn interrupted(&self, node: Node, offset: u64, entries: usize, owner: Owner) {
        if let Some(state) = self.state(node) {
            state.unknown(owner);
        }
        self.wrote(node.entry::<F>(offset), entries);
    }

    /// Invalidates the entries of `run` that were taken out of `node`'s table, the first of which
    /// covers `at`, and stores their successors; returns how many. Moves `at` on.
    #[cold]
    fn remake<I: Invalidate<F::Stage>>(
        &self,
        run: &[F::Word],
        node: Node,
        at: &mut u64,
        broken: &Broken,
        gather: &mut Gather<'_, F::Stage, I>,
    ) -> Result<usize, Error> {
        let start = *at;
        let page = |index: usize| self.format.address(start + ((index as u64) << node.shift));
        if let (Some((first, ..)), Some((last, ..))) =
            (broken.entries.first(), broken.entries.last())
        {
            gather.pages(page(*first), page(*last), node.shift);
        }
        let store = |made: bool| {
            for &(index, old, new) in &broken.entries {
                if let Some(memory) = run.get(index) {
                    Word::<F>::new(memory).store(if made { new } else { old });
                }
            }
            self.wrote(node.entry::<F>(start), broken.seen);
            self.appeared(start, (broken.seen as u64) << node.shift);
        };
        let interrupted = OnPanic::new(|| store(false));
        let flushed = gather.flush(&self.tables).map_err(Error::Invalidate);
        interrupted.disarm();
        store(flushed.is_ok());
        flushed?;
        *at = start + ((broken.seen as u64) << node.shift);
        Ok(broken.entries.len())
    }
}
