//! Changing what is mapped: unmap and protect are one traversal with two verbs.
//!
//! The traversal descends, skips holes, splits leaves that reach beyond the range, hands each run
//! of entries of one table to the verb, and keeps the books: what became stale goes to the
//! [`Gather`], the live count goes down, empty tables leave the tree.

use core::sync::atomic::{AtomicU64, Ordering};

use crate::address::{Address, low_bits};
use crate::allocator::{Contents, TableAllocator};
use crate::descent::{InPlace, Trail, decode};
use crate::error::{Error, RangeError};
use crate::format::{Entry, Format, Input, Output, Pattern};
use crate::gather::{Extent, Gather, Invalidate};
use crate::geometry::{Level, Position};
use crate::lock::Locks;
use crate::memory::TableMemory;
use crate::quick::descend_to_last;
use crate::record::Writers;
use crate::table::{PageTable, layout};
use crate::walk::bounds;
use crate::word::{Word, any_set, load_any};

/// What a verb did to a run of entries.
#[derive(Clone, Copy, Debug, Default)]
struct Done {
    /// How many entries it found present (and dealt with).
    present: usize,
    /// How many of them are not present any more.
    removed: usize,
    /// The first and the last entry whose old translation may live on in hardware.
    stale: Extent<usize>,
    /// The entry at which it had to stop, the word there, and whether the attributes (or else the
    /// word) are to blame.
    stopped: Option<(usize, Refusal)>,
}

/// Why a verb stopped at an entry.
#[derive(Clone, Copy, Debug)]
enum Refusal {
    /// The new attributes have no encoding there.
    Unencodable,
    /// The entry, which holds this word, is no leaf.
    NoLeaf(u64),
}

/// What is done to each run of present leaves.
trait Verb<F: Format> {
    /// Changes the entries of `run`, which stand at `at`. Absent ones are passed over.
    fn run(&self, format: &F, run: &[AtomicU64], at: Position) -> Done;
}

/// Unmap: entries become absent.
struct Clear;

impl<F: Format> Verb<F> for Clear {
    #[inline]
    fn run(&self, format: &F, run: &[AtomicU64], _: Position) -> Done {
        let present = format.present_mask();
        let mut done = Done::default();
        for (index, memory) in run.iter().enumerate() {
            if any_set::<F>(memory, present) {
                Word::<F>::new(memory).store(0);
                done.removed += 1;
                done.stale.add(index, index);
            }
        }
        done.present = done.removed;
        done
    }
}

/// Protect: leaves keep their address and what hardware recorded, and take new attributes.
struct Protect<T> {
    attributes: T,
    writers: Writers,
}

impl<F: Format> Verb<F> for Protect<F::Attributes> {
    #[inline]
    fn run(&self, format: &F, run: &[AtomicU64], at: Position) -> Done {
        let present = format.present_mask();
        let Ok(leaf) = format.leaf_word(self.attributes, at) else {
            return Done { stopped: Some((0, Refusal::Unencodable)), ..Done::default() };
        };
        let recorded = format.accessed_dirty();
        let recorded = recorded.accessed | recorded.dirty;
        let keep = format.output_mask(at) | recorded;
        let usual = format.usual_leaf(at).filter(|_| self.writers == Writers::Stopped);
        let mut done = Done::default();
        let mut index = 0;
        while let Some(rest @ [_, ..]) = run.get(index..) {
            if let Some(usual) = usual {
                let (rewritten, changed) = rewrite::<F>(rest, usual, leaf, keep);
                if let Some((first, last)) = changed.0 {
                    done.stale.add(index + first, index + last);
                }
                done.present += rewritten;
                index += rewritten;
            }
            for memory in run.iter().skip(index).take(EIGHT) {
                if let Some(old) = load_any::<F>(memory, present) {
                    let slot = Word::<F>::new(memory);
                    if !matches!(format.decode(old, at), Entry::Leaf { .. }) {
                        return Done { stopped: Some((index, Refusal::NoLeaf(old))), ..done };
                    }
                    done.present += 1;
                    let new = leaf | (old & keep);
                    if new != old {
                        match self.writers {
                            Writers::Running => slot.replace(new, recorded),
                            Writers::Stopped => slot.store(new),
                        }
                        done.stale.add(index, index);
                    }
                }
                index += 1;
            }
        }
        done
    }
}

/// Entries that are dealt with in one turn: a cache line. (The compiler does not unroll loops of
/// atomic accesses.)
const EIGHT: usize = 8;

/// Gives the leaves at the beginning of `run`, which nobody else writes, the bits of `leaf` but for
/// those in `keep`, cache line by cache line as far as they are all usual leaves. Returns how many,
/// and the first and the last of the lines that changed by that.
// Not inlined: there it is short of registers.
#[inline(never)]
fn rewrite<F: Format>(
    run: &[AtomicU64],
    usual: Pattern,
    leaf: u64,
    keep: u64,
) -> (usize, Extent<usize>) {
    // All as it stands in memory. What `leaf` sets of what is kept is new where it is not set yet.
    let usual = usual.in_memory::<F>();
    let (leaf, keep) = (F::BYTE_ORDER.swap(leaf), F::BYTE_ORDER.swap(keep));
    let same = Pattern { compared: !keep | leaf, value: leaf };
    let (mut rewritten, mut stale) = (0, Extent::default());
    for eight in run.chunks_exact(EIGHT) {
        let Ok(eight) = <&[AtomicU64; EIGHT]>::try_from(eight) else { break };
        let old: [u64; EIGHT] = core::array::from_fn(|index| eight[index].load(Ordering::Relaxed));
        // Bits that are set in any, and bits that are set in all: where these agree, all are alike.
        let (any, all) =
            old.iter().fold((0, u64::MAX), |(any, all), &word| (any | word, all & word));
        if usual.odd(any) | usual.odd(all) != 0 {
            break;
        }
        for (memory, old) in eight.iter().zip(old) {
            memory.store(leaf | old & keep, Ordering::Relaxed);
        }
        if same.odd(any) | same.odd(all) != 0 {
            stale.add(rewritten, rewritten + EIGHT - 1);
        }
        rewritten += EIGHT;
    }
    (rewritten, stale)
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
    /// # Errors
    /// [`Error::Range`]; [`Error::Alloc`] or [`Error::LeafSize`] if a leaf cannot be split;
    /// [`Error::Malformed`], [`Error::Memory`], [`Error::Invalidate`]. Everything before the
    /// error's address is unmapped, nothing from it on was changed.
    #[inline(always)]
    pub fn unmap<I: Invalidate<F::Stage>>(
        &mut self,
        input: Input<F>,
        bytes: u64,
        gather: &mut Gather<'_, F::Stage, I>,
    ) -> Result<u64, RangeError<Input<F>>> {
        if bytes == 1 << self.format.shift(0) && self.unmap_page(input, gather) {
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
        if bytes == 1 << self.format.shift(0)
            && self.keep(input, gather)?
            && self.unmap_page(input, gather)
        {
            return Ok(bytes);
        }
        self.unmap_range(&mut self.trail(), input, bytes, gather)
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
                Ok(None) => self.change_run(trail, &mut offset, end, &Clear, gather),
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
        let run = self.memory.table(<Output<F> as Address>::new(node.entry(offset)), entries)?;
        let (mut unmapped, mut gone, mut room) = (0, 0, Ok(()));
        for memory in run {
            let slot = Word::<F>::new(memory);
            let last = *at + size;
            let word = slot.load();
            match decode(&self.format, word, node.position()) {
                Entry::Absent => {}
                Entry::Leaf { .. } => {
                    slot.store(0);
                    let page = self.format.address(*at);
                    gather.pages(page, page, node.shift);
                    unmapped += size;
                    gone += 1;
                }
                Entry::Table { table, width } => {
                    let below = node.below(table.get(), width);
                    let Some(state) = self.state(below) else { break };
                    room = gather.make_room(&self.tables).map_err(Error::Invalidate);
                    let pages = [*at, last - below.position().size()]
                        .map(|offset| self.format.address(offset));
                    if room.is_err() || !trail.visit(below, node.position(), node.entry(*at), word)
                    {
                        break;
                    }
                    // From here until it has left it is locked without a guard: no code of the
                    // embedder's, which could panic, runs in between.
                    slot.store(0);
                    let live = state.live();
                    L::left(state);
                    gather.pages(pages[0], pages[1], below.shift);
                    unmapped += u64::from(live) << below.shift;
                    gone += 1;
                    gather.retire(table, layout(below), Contents::Stale);
                }
                Entry::Malformed => break,
            }
            *at = last;
        }
        trail.cut(1);
        if gone > 0 {
            self.wrote(node.entry(offset), entries);
            self.discount(trail, offset, 1, gone, gather)?;
        }
        room.map(|()| (*at > offset).then_some(unmapped))
    }

    /// The common case of [`unmap`](Self::unmap), one page of the usual size in a table that keeps
    /// others; false if it is any other case.
    #[inline(always)]
    fn unmap_page<I: Invalidate<F::Stage>>(
        &mut self,
        input: Input<F>,
        gather: &mut Gather<'_, F::Stage, I>,
    ) -> bool {
        let format = &self.format;
        let Some(offset) = format.offset(input) else { return false };
        let table = |word, at| format.predicted_table(word, at);
        let Ok(last) = descend_to_last(format, InPlace(&self.memory), self.root, offset, table)
        else {
            return false;
        };
        let at = last.node(format).position();
        if offset & low_bits(at.shift) != 0 || last.word & format.present_mask() == 0 {
            return false;
        }
        let Some(state) = self.state(last.node(format)) else { return false };
        if state.live() > 1 || self.kept.is_in(offset >> last.node(format).span()) {
            last.slot.store(0);
            self.wrote(last.node(format).entry(offset), 1);
            gather.pages(input, input, at.shift);
            state.sub(1);
            return true;
        }
        false
    }

    /// One step of [`unmap`](Self::unmap), for the cursor.
    pub(crate) fn unmap_run<I: Invalidate<F::Stage>>(
        &self,
        trail: &mut Trail,
        at: &mut u64,
        end: u64,
        gather: &mut Gather<'_, F::Stage, I>,
    ) -> Result<u64, Error> {
        self.change_run(trail, at, end, &Clear, gather)
    }

    /// Gives whatever is mapped in the `bytes` bytes from `input` on these attributes; returns how
    /// many bytes that were. What hardware recorded (accessed, dirty) is kept. Leaves that reach
    /// beyond the range are split. Holes are no error.
    ///
    /// # Errors
    /// As [`unmap`](Self::unmap), and [`Error::Unencodable`].
    pub fn protect<I: Invalidate<F::Stage>>(
        &mut self,
        input: Input<F>,
        bytes: u64,
        attributes: F::Attributes,
        gather: &mut Gather<'_, F::Stage, I>,
    ) -> Result<u64, RangeError<Input<F>>> {
        self.protect_beside(input, bytes, attributes, Writers::Running, gather)
    }

    /// The same where it is known whether anybody else sets bits in the entries meanwhile: if
    /// nobody does, entries are stored, not exchanged, which is several times as fast.
    ///
    /// # Errors
    /// As [`protect`](Self::protect).
    pub fn protect_beside<I: Invalidate<F::Stage>>(
        &mut self,
        input: Input<F>,
        bytes: u64,
        attributes: F::Attributes,
        writers: Writers,
        gather: &mut Gather<'_, F::Stage, I>,
    ) -> Result<u64, RangeError<Input<F>>> {
        self.protect_range(&mut self.trail(), (input, bytes), attributes, writers, gather)
    }

    /// [`protect`](Self::protect), by any writer.
    #[inline(never)]
    pub(crate) fn protect_range<L: Locks, I: Invalidate<F::Stage>>(
        &self,
        trail: &mut Trail<L>,
        (input, bytes): (Input<F>, u64),
        attributes: F::Attributes,
        writers: Writers,
        gather: &mut Gather<'_, F::Stage, I>,
    ) -> Result<u64, RangeError<Input<F>>> {
        let (mut offset, end) =
            bounds(&self.format, input, bytes, self.format.geometry().finest_shift())?;
        let verb = Protect { attributes, writers };
        let mut changed = 0;
        while offset < end {
            match self.change_run(trail, &mut offset, end, &verb, gather) {
                Ok(present) => changed += present,
                Err(error) => return Err(RangeError { at: self.format.address(offset), error }),
            }
        }
        Ok(changed)
    }

    /// One step: a hole, a split, or a run of one table. Moves `at` on by what is done, and returns
    /// how many bytes of that were mapped.
    fn change_run<L: Locks, V: Verb<F>, I: Invalidate<F::Stage>>(
        &self,
        trail: &mut Trail<L>,
        at: &mut u64,
        end: u64,
        verb: &V,
        gather: &mut Gather<'_, F::Stage, I>,
    ) -> Result<u64, Error> {
        let offset = *at;
        let stop =
            trail.seek(&self.format, InPlace(&self.memory), offset, 0).map_err(Self::lost)?;
        let node = stop.node;
        let whole =
            offset & (node.position().size() - 1) == 0 && end - offset >= node.position().size();
        let entries = if node.level == 0 && whole {
            node.entries(offset, end & !(node.position().size() - 1))
        } else if self.leaf_at(&stop, offset)?.is_none() {
            *at = node.next_entry(offset).min(end);
            return Ok(0);
        } else if whole {
            1
        } else {
            self.split_leaf(&stop, offset, gather)?;
            return Ok(0);
        };
        let run = self.memory.table(<Output<F> as Address>::new(node.entry(offset)), entries)?;
        let done = verb.run(&self.format, run, node.position());
        *at += (done.stopped.map_or(entries, |(index, _)| index) as u64) << node.shift;
        if let Some((first, last)) = done.stale.0 {
            self.wrote(node.entry(offset) + first as u64 * 8, last - first + 1);
            let page = |index: usize| self.format.address(offset + ((index as u64) << node.shift));
            gather.pages(page(first), page(last), node.shift);
        }
        // A table in which nothing was may be one that had to stay when it became empty.
        if done.removed > 0 || done.present == 0 {
            self.discount(trail, offset, node.level, done.removed as u16, gather)?;
        }
        match done.stopped {
            None => Ok((done.present as u64) << node.shift),
            Some((_, Refusal::Unencodable)) => Err(Error::Unencodable { at: node.position() }),
            Some((_, Refusal::NoLeaf(word))) => {
                Err(Error::Malformed { at: node.position(), entry: node.entry(*at), word })
            }
        }
    }
}
