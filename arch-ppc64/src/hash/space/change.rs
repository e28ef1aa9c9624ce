//! Changing what is mapped: first the entries of the range leave the hashed table, by the slots
//! that its pages remember; then the tree changes.

use core::ops::ControlFlow;
use core::sync::atomic::{AtomicU64, Ordering};

use pgtable::allocator::{Contents, TableAllocator};
use pgtable::invalidate::{Gather, GatherError, Invalidate, Unused};
use pgtable::memory::TableMemory;
use pgtable::tree::PageTable;
use pgtable::walk::Run;
use pgtable::{Address, Error, Gpa, Gva, Level, RangeError, Stage1, low_bits};

use super::leaving::Leaving;
use super::pages::Pages;
use super::pte::V;
use super::slots::{ARRAY_WORDS, Slots};
use super::{ARRAY, Fragments, HashedSpace, SoftwareTree};
use crate::hash::page_size::PageSize;
use crate::hash::table::HptError;

/// What becomes of the slot arrays of 16M pages whose entries are taken out.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Arrays {
    /// The page is unmapped.
    Free,
    /// The page stays.
    Keep,
}

type Tree<M, A> = PageTable<SoftwareTree, M, Fragments<A>>;
/// No hardware walks the tree: its tables are free as soon as they left it.
type TreeGather<'i> = Gather<'i, Stage1, Unused>;

const M16: u8 = PageSize::M16.shift();

/// What a caller can do about a gather that could not be finished.
pub(super) fn gather_error(error: GatherError) -> Error {
    match error {
        GatherError::Invalidate(error) => error.into(),
        GatherError::Alloc(error) => error.into(),
    }
}

/// What a caller can do about a hashed table that could not be used: nothing but to look at its
/// memory.
fn hpt_error(error: HptError) -> Error {
    match error {
        HptError::Memory(error) => error.into(),
        HptError::Busy(_) | HptError::Misaligned { .. } => {
            pgtable::memory::MemoryError::outside(pgtable::Gpa::new(0), 0).into()
        }
    }
}

impl<M, A, H> HashedSpace<M, A, H>
where
    M: TableMemory<Gpa>,
    A: TableAllocator<Gpa>,
    H: TableMemory<Gpa>,
{
    /// Every address of the range must be one of this space.
    pub(super) fn check_range(&self, input: Gva, bytes: u64) -> Result<(), RangeError<Gva>> {
        let (_, size) = pgtable::AddressSpace::range(self);
        let fits = input.get().checked_add(bytes).is_some_and(|end| end <= size);
        if fits { Ok(()) } else { Err(RangeError { at: input, error: Error::Range }) }
    }

    /// Takes the entries of the range out of the hashed table, splits the pages that reach beyond
    /// it, and lets `verb` change as much of the range as then can be.
    pub(super) fn change<I: Invalidate<Stage1>>(
        &mut self,
        input: Gva,
        bytes: u64,
        gather: &mut Gather<'_, Stage1, I>,
        arrays: Arrays,
        verb: impl FnOnce(&mut Tree<M, A>, u64, &mut TreeGather<'_>) -> Result<u64, RangeError<Gva>>,
    ) -> Result<u64, RangeError<Gva>> {
        self.check_range(input, bytes)?;
        let end = input.get() + bytes;
        self.split(input, gather).map_err(|error| RangeError { at: input, error })?;
        // Where the last page cannot be split, all before it is done nevertheless.
        let cut = self.split(Gva::new(end), gather).map_err(|error| {
            let page = end & !low_bits(M16);
            RangeError { at: Gva::new(page.max(input.get())), error }
        });
        let bytes = cut.as_ref().map_or_else(|error| error.at.get() - input.get(), |()| bytes);
        self.flush(input, bytes, gather, arrays, V)?;
        let mut tables = Gather::new(&Unused, ());
        let changed = verb(&mut self.tree, bytes, &mut tables);
        let freed = tables
            .finish(self.tree.tables())
            .map_err(|error| RangeError { at: input, error: gather_error(error) });
        cut.and(freed.and(changed))
    }

    /// Splits the 16M page in which `at` lies, unless it begins there.
    fn split<I: Invalidate<Stage1>>(
        &mut self,
        at: Gva,
        gather: &mut Gather<'_, Stage1, I>,
    ) -> Result<(), Error> {
        if self.pages != Pages::K64 || at.is_aligned(M16) {
            return Ok(());
        }
        let page = Gva::new(at.get() & !low_bits(M16));
        let walker = self.tree.walker();
        let trace = walker.trace(page);
        let entry = match trace.last() {
            Some(last)
                if last.at.level.0 > 0
                    && matches!(last.entry, pgtable::format::Entry::Leaf { .. }) =>
            {
                last.address
            }
            _ => return Ok(()),
        };
        self.flush(page, 1 << M16, gather, Arrays::Keep, V).map_err(|stopped| stopped.error)?;
        let mut tables = Gather::new(&Unused, ());
        let split = self.tree.split(page, 1 << M16, PageSize::K64.shift(), &mut tables);
        tables.finish(self.tree.tables()).map_err(gather_error)?;
        split.map_err(|stopped| stopped.error)?;
        let second = self.second_half(entry, Level(1))?;
        second.map_or(Ok(()), |second| self.free_array(second))
    }

    /// Takes all entries of the pages in the range whose words have one of the bits in `of` out of
    /// the hashed table. Each of these that hardware may know goes to the gather.
    pub(super) fn flush<I: Invalidate<Stage1>>(
        &self,
        input: Gva,
        bytes: u64,
        gather: &mut Gather<'_, Stage1, I>,
        arrays: Arrays,
        of: u64,
    ) -> Result<(), RangeError<Gva>> {
        let walker = self.tree.walker();
        let flow = walker.for_each_run(input, bytes, |run| {
            match self.flush_run(&run, gather, arrays, of) {
                Ok(()) => ControlFlow::Continue(()),
                Err(error) => ControlFlow::Break(RangeError { at: run.input(), error }),
            }
        })?;
        match flow {
            ControlFlow::Continue(()) => Ok(()),
            ControlFlow::Break(error) => Err(error),
        }
    }

    fn flush_run<I: Invalidate<Stage1>>(
        &self,
        run: &Run<'_, SoftwareTree>,
        gather: &mut Gather<'_, Stage1, I>,
        arrays: Arrays,
        of: u64,
    ) -> Result<(), Error> {
        let (at, hashpte, of) = (run.at(), self.pages.hashpte().to_be(), of.to_be());
        let used = |word: &AtomicU64| {
            let word = word.load(Ordering::Relaxed);
            word & hashpte != 0 && word & of != 0
        };
        let large = at.level.0 > 0;
        if !large && !run.words().iter().any(used) {
            return Ok(());
        }
        let walker = self.tree.walker();
        let trace = walker.trace(run.input());
        let Some(first) = trace.last().filter(|last| last.at == at) else { return Ok(()) };
        let second = match self.second_half(first.address, at.level)? {
            Some(_) => {
                let half = 8u64 << self.pages.geometry().width(at.level);
                self.tree
                    .memory()
                    .table(Gpa::new(first.address.get().wrapping_add(half)), run.words().len())?
            }
            None => &[],
        };
        if large {
            return self.flush_large(run, first.address, second, used, gather, arrays);
        }
        self.flush_small(run, second, used, gather).map_err(hpt_error)
    }

    /// Pages of one last-level table, which lies in one segment. Their entries are collected, and
    /// thereby brought nearer, before any is taken out: whoever takes an entry out waits for it, so
    /// that otherwise each would come alone.
    fn flush_small<I: Invalidate<Stage1>>(
        &self,
        run: &Run<'_, SoftwareTree>,
        second: &[AtomicU64],
        used: impl Fn(&AtomicU64) -> bool,
        gather: &mut Gather<'_, Stage1, I>,
    ) -> Result<(), HptError> {
        let shift = run.at().shift;
        let Some(segment) = self.segment(run.input()) else { return Ok(()) };
        let mut leaving = Leaving::new(&self.hpt, segment, run.input(), self.pages.sizes(shift));
        let base = self.pages.sizes(shift).base().shift();
        let hashed = self.pages.hashed().to_be();
        // Pages that follow one another, and where the next would be.
        let (mut first, mut next) = (run.input(), run.input());
        let drained = run.words().iter().enumerate().filter(|(_, word)| used(word)).try_for_each(
            |(index, word)| {
                let input = Gva::new(run.input().get() + ((index as u64) << shift));
                // No exchange: whoever changes the tree has the space for himself.
                let before = word.load(Ordering::Relaxed);
                word.store(before & !hashed, Ordering::Relaxed);
                if input != next {
                    self.stale(first, next, shift, gather);
                    first = input;
                }
                next = Gva::new(input.get() + (1 << shift));
                let slots = second.get(index).map_or(Slots::InWord, Slots::Nibbles);
                slots.drain(u64::from_be(before), |piece, at| {
                    leaving.add(Gva::new(input.get() | (piece as u64) << base), at)
                })
            },
        );
        self.stale(first, next, shift, gather);
        drained.and(leaving.leave())
    }

    fn flush_large<I: Invalidate<Stage1>>(
        &self,
        run: &Run<'_, SoftwareTree>,
        first: Gpa,
        second: &[AtomicU64],
        used: impl Fn(&AtomicU64) -> bool,
        gather: &mut Gather<'_, Stage1, I>,
        arrays: Arrays,
    ) -> Result<(), Error> {
        let at = run.at();
        for (index, word) in run.words().iter().enumerate() {
            let input = Gva::new(run.input().get() + ((index as u64) << at.shift));
            if used(word) {
                let slots = self.leaf_of(first, at.level, at.shift)?.slots;
                let before = u64::from_be(word.load(Ordering::Relaxed));
                word.store((before & !self.pages.hashed()).to_be(), Ordering::Relaxed);
                self.stale(input, Gva::new(input.get() + (1 << at.shift)), at.shift, gather);
                // A page lies in one segment.
                let Some(segment) = self.segment(input) else { continue };
                let sizes = self.pages.sizes(at.shift);
                let mut leaving = Leaving::new(&self.hpt, segment, input, sizes);
                let drained = slots.drain(before, |piece, at| {
                    leaving.add(Gva::new(input.get() | (piece as u64) << sizes.base().shift()), at)
                });
                drained.and(leaving.leave()).map_err(hpt_error)?;
            }
            if let (Arrays::Free, Some(second)) = (arrays, second.get(index)) {
                self.free_array(second)?;
            }
        }
        Ok(())
    }

    /// Hardware may have translations of the pages from `first` to before `end`, of the size that
    /// their entries have.
    fn stale<I: Invalidate<Stage1>>(
        &self,
        first: Gva,
        end: Gva,
        shift: u8,
        gather: &mut Gather<'_, Stage1, I>,
    ) {
        let actual = self.pages.sizes(shift).actual().shift();
        if end > first {
            gather.pages(first, Gva::new(end.get() - (1 << actual)), actual);
        }
    }

    /// Frees the slot array whose address stands in `second`, if there is one. It has no slots any
    /// more.
    fn free_array(&self, second: &AtomicU64) -> Result<(), Error> {
        match u64::from_be(second.swap(0, Ordering::Relaxed)) {
            0 => Ok(()),
            array => Ok(self.tables().free(Gpa::new(array), ARRAY, Contents::Zeroed)?),
        }
    }

    /// Gives each 16M page in the range, which was just mapped, an array for its slots. If there is
    /// none left it is unmapped again, with all after it.
    pub(super) fn allocate_arrays(
        &mut self,
        input: Gva,
        bytes: u64,
    ) -> Result<(), RangeError<Gva>> {
        if self.pages != Pages::K64 || bytes < 1 << M16 {
            return Ok(());
        }
        let walker = self.tree.walker();
        let flow = walker.for_each_run(input, bytes, |run| match self.allocate_array(&run) {
            Ok(()) => ControlFlow::Continue(()),
            Err(error) => ControlFlow::Break(RangeError { at: run.input(), error }),
        })?;
        let ControlFlow::Break(stopped) = flow else { return Ok(()) };
        let rest = input.get() + bytes - stopped.at.get();
        let mut tables = Gather::new(&Unused, ());
        let unmapped = self.tree.unmap(stopped.at, rest, &mut tables);
        tables
            .finish(self.tree.tables())
            .map_err(|error| RangeError { at: stopped.at, error: gather_error(error) })?;
        unmapped.and(Err(stopped))
    }

    fn allocate_array(&self, run: &Run<'_, SoftwareTree>) -> Result<(), Error> {
        let at = run.at();
        let present =
            run.words().first().is_some_and(|word| word.load(Ordering::Relaxed) & V.to_be() != 0);
        if at.level.0 == 0 || !present {
            return Ok(());
        }
        let walker = self.tree.walker();
        let trace = walker.trace(run.input());
        let Some(last) = trace.last().filter(|last| last.at == at) else { return Ok(()) };
        let Some(second) = self.second_half(last.address, at.level)? else { return Ok(()) };
        let array = self.tables().allocate(ARRAY)?;
        if let Err(error) = self.tree.memory().table(array, ARRAY_WORDS) {
            self.tables().free(array, ARRAY, Contents::Zeroed)?;
            return Err(error.into());
        }
        second.store(array.get().to_be(), Ordering::Relaxed);
        Ok(())
    }
}
