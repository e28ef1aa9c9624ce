//! Harvests: what hardware recorded, taken back from a range of leaves.

use core::sync::atomic::Ordering;

use crate::address::{Address, low_bits};
use crate::allocator::TableAllocator;
use crate::error::{Error, RangeError};
use crate::format::{Format, Input, Mark, Output, Record, usual_leaf};
use crate::gather::{Gather, Invalidate};
use crate::geometry::{Level, Position};
use crate::group::has_groups;
use crate::lock::Locks;
use crate::memory::TableMemory;
use crate::record::{Recorded, Writers};
use crate::run::Run;
use crate::shortcut::Pattern;
use crate::stale::Extent;
use crate::stretch::next_run;
use crate::table::PageTable;
use crate::table_word::TableWord;
use crate::trail::Trail;
use crate::walk::bounds;
use crate::word::{Word, swap};

impl<F, M, A> PageTable<F, M, A>
where
    F: Format,
    M: TableMemory<Output<F>>,
    A: TableAllocator<Output<F>>,
{
    /// Collects which pages in the `bytes` bytes from `input` on were used, and clears the record;
    /// returns how many bits of `bitmap` it set.
    ///
    /// Bit `n` of `bitmap` (bit `n % 64` of word `n / 64`) is the `n`th page of the format's usual
    /// size ([`Geometry::page_shift`](crate::format::Geometry::page_shift)) from `input` on, and
    /// the range is one of whole such pages; bits that are set already stay. A larger leaf sets the
    /// bits of all its pages. A leaf that reaches beyond the range is reported and not cleared, so
    /// that nothing is lost for who asks about the rest. Pages beyond the bitmap are left alone.
    ///
    /// What was cleared is in `gather`; until it is finished, hardware may use cached translations
    /// that do not record. Attributes made from a [`Prot`](crate::Prot) are marked as used, so a
    /// page is reported once after it was mapped with them.
    ///
    /// ```
    /// # use pgtable_conformance::prelude::*;
    /// # pgtable_conformance::example!(mapped: tree, gather);
    /// # let clean = &mut [0; 8];
    /// # let (all, dirty) = (0x20_0000, Recorded::Dirty);
    /// # tree.harvest(Gva::new(0), all, dirty, Writers::Stopped, clean, &mut gather)?;
    /// tree.walker().access(Gva::new(0x2000), Access::WRITE)?;
    /// let mut log = [0; 8];
    /// let (at, bytes) = (Gva::new(0), 0x20_0000);
    /// tree.harvest(at, bytes, Recorded::Dirty, Writers::Running, &mut log, &mut gather)?;
    /// gather.finish(tree.tables())?;
    /// // Now the page is read and sent.
    /// assert_eq!(log[0], 1 << 2);
    /// # Ok::<(), Box<dyn core::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// [`Error::Range`], [`Error::Unaligned`]; [`Error::NoRecord`] where the format keeps no such
    /// record; otherwise [`RangeError`] as for iteration. Everything before that address is
    /// harvested.
    pub fn harvest<I: Invalidate<F::Stage>>(
        &mut self,
        input: Input<F>,
        bytes: u64,
        recorded: Recorded,
        writers: Writers,
        bitmap: &mut [u64],
        gather: &mut Gather<'_, F::Stage, I>,
    ) -> Result<u64, RangeError<Input<F>>> {
        self.alone(|trail| {
            self.harvest_range(trail, (input, bytes), recorded, writers, bitmap, gather)
        })
    }

    /// [`harvest`](Self::harvest), by any writer.
    pub(crate) fn harvest_range<L: Locks, I: Invalidate<F::Stage>>(
        &self,
        trail: &mut Trail<L>,
        (input, bytes): (Input<F>, u64),
        recorded: Recorded,
        writers: Writers,
        bitmap: &mut [u64],
        gather: &mut Gather<'_, F::Stage, I>,
    ) -> Result<u64, RangeError<Input<F>>> {
        let page_shift = self.format.geometry().page_shift();
        let room = (bitmap.len() as u64).saturating_mul(64).saturating_mul(1 << page_shift);
        let bytes = bytes.min(room);
        let (start, end) = bounds(&self.format, input, bytes, page_shift)?;
        let base = Position { level: Level(0), shift: page_shift };
        if !recorded.of(self.format.bits(base)).exists() {
            return Err(RangeError { at: input, error: Error::NoRecord });
        }
        let mut map = PageMap { bitmap, start, end, page_shift, set: 0 };
        let mut at = start;
        while let Some(run) = next_run(&self.format, &self.memory, trail, &mut at, end)? {
            if harvest_run(&run, recorded.of(self.format.bits(run.at())), writers, &mut map, gather)
            {
                self.wrote(run.entry().get(), run.words().len());
            }
        }
        Ok(map.set)
    }
}

/// The pages of a range as bits.
struct PageMap<'b> {
    bitmap: &'b mut [u64],
    start: u64,
    end: u64,
    page_shift: u8,
    set: u64,
}

impl PageMap<'_> {
    /// Whether `size` bytes at `offset` lie in the range.
    fn contains(&self, offset: u64, size: u64) -> bool {
        offset >= self.start && offset + size <= self.end
    }

    /// Sets the bits of the pages that `size` bytes at `offset` share with the range.
    #[inline(always)]
    fn set(&mut self, offset: u64, size: u64) {
        if let Some(page) = self.page_at(offset, size) {
            if let Some(word) = self.bitmap.get_mut((page / 64) as usize) {
                let bit = 1 << (page % 64);
                self.set += u64::from(*word & bit == 0);
                *word |= bit;
            }
            return;
        }
        self.set_all(offset, size);
    }

    /// The page that begins at `offset`, in the range, if leaves of `size` are one page each.
    #[inline(always)]
    fn page_at(&self, offset: u64, size: u64) -> Option<u64> {
        (size == 1 << self.page_shift).then(|| (offset - self.start) >> self.page_shift)
    }

    /// Sets the bits of a cache line's pages from `page` on.
    #[inline(always)]
    fn set_line(&mut self, page: u64) {
        let (index, bits) = ((page / 64) as usize, u128::from(u8::MAX) << (page % 64));
        for (word, bits) in
            self.bitmap.iter_mut().skip(index).zip([bits as u64, (bits >> 64) as u64])
        {
            self.set += u64::from((bits & !*word).count_ones());
            *word |= bits;
        }
    }

    /// The same for leaves of any size, wherever they begin.
    fn set_all(&mut self, offset: u64, size: u64) {
        let first = (offset.max(self.start) - self.start) >> self.page_shift;
        let last = ((offset + size).min(self.end) - 1 - self.start) >> self.page_shift;
        let mut page = first;
        while page <= last {
            let Some(word) = self.bitmap.get_mut((page / 64) as usize) else { return };
            let count = (last - page + 1).min(64 - page % 64);
            let bits = low_bits(count as u8) << (page % 64);
            self.set += u64::from((bits & !*word).count_ones());
            *word |= bits;
            page += count;
        }
    }
}

/// Entries that are looked over at once: a cache line of 8-byte entries.
const LINE: usize = 8;

/// The record that is harvested, in memory order.
#[derive(Clone, Copy)]
struct Sought {
    /// Its bits.
    mask: u64,
    /// `word ^ flip` has bits of `mask` set where they are as recorded.
    flip: u64,
    /// Usual leaves with the record.
    usual: Pattern,
}

impl Sought {
    fn of<F: Format>(format: &F, at: Position, mark: Mark) -> Self {
        let recorded = Pattern { compared: mark.mask, value: mark.recorded };
        Self {
            mask: swap::<F>(mark.mask),
            flip: swap::<F>(mark.mask ^ mark.recorded),
            usual: usual_leaf(format, at).and(recorded).and(mark.when).in_memory::<F>(),
        }
    }

    /// Bits of `word` that may be the record.
    #[inline(always)]
    fn bits(self, word: u64) -> u64 {
        (word ^ self.flip) & self.mask
    }

    /// Whether any of these words may have the record: one operation a word, as all bits of a
    /// record are set, or all are clear.
    #[inline(always)]
    fn may_be_in<W: TableWord>(self, words: &[W]) -> bool {
        let words = words.iter().map(|memory| memory.load_raw(Ordering::Relaxed));
        if self.flip == 0 {
            words.fold(0, |any, word| any | word) & self.mask != 0
        } else {
            !words.fold(u64::MAX, |all, word| all & word) & self.mask != 0
        }
    }

    /// Takes the record back.
    #[inline(always)]
    fn clear<W: TableWord>(self, memory: &W, writers: Writers) {
        let order = Ordering::AcqRel;
        match writers {
            Writers::Running if self.flip == 0 => memory.and_raw(!self.mask, order),
            Writers::Running => memory.or_raw(self.mask, order),
            Writers::Stopped => {
                let word = memory.load_raw(Ordering::Relaxed);
                memory.store_raw(word & !self.mask | self.flip, Ordering::Relaxed);
            }
        }
    }
}

/// Harvests one run; whether it took any record back.
#[inline]
fn harvest_run<F: Format, I: Invalidate<F::Stage>>(
    run: &Run<'_, F>,
    record: Record,
    writers: Writers,
    map: &mut PageMap<'_>,
    gather: &mut Gather<'_, F::Stage, I>,
) -> bool {
    if has_groups::<F>() {
        return harvest_units(run, record, writers, map, gather);
    }
    let mut took = harvest_marks(run, record.hardware, writers, map, gather);
    if record.software.mask != 0 {
        took |= harvest_marks(run, record.software, writers, map, gather);
    }
    took
}

/// Harvests the records that `mark` holds in one run: line by line, touching only cache lines with
/// a record; whether it took any back.
#[inline]
fn harvest_marks<F: Format, I: Invalidate<F::Stage>>(
    run: &Run<'_, F>,
    mark: Mark,
    writers: Writers,
    map: &mut PageMap<'_>,
    gather: &mut Gather<'_, F::Stage, I>,
) -> bool {
    let size = run.at().size();
    let sought = Sought::of(run.format(), run.at(), mark);
    let mut stale = Extent::default();
    let (mut start, mut lines) = (run.offset(), run.words().chunks_exact(LINE));
    for words in &mut lines {
        let here = start;
        start += LINE as u64 * size;
        if !sought.may_be_in(words) {
            continue;
        }
        if let (Ok(words), Some(page)) = (words.try_into(), map.page_at(here, size)) {
            if are_recorded(words, sought) {
                map.set_line(page);
                words.iter().for_each(|memory| sought.clear(memory, writers));
                stale.add(here, here + (LINE as u64 - 1) * size);
                continue;
            }
        }
        harvest_each(run, (words, here), (mark, sought), writers, map, &mut stale);
    }
    harvest_each(run, (lines.remainder(), start), (mark, sought), writers, map, &mut stale);
    let Some((first, last)) = stale.0 else { return false };
    gather.pages(run.format().address(first), run.format().address(last), run.at().shift);
    true
}

/// The same entry by entry: of `words`, the first of which covers `start`.
#[inline(always)]
fn harvest_each<F: Format>(
    run: &Run<'_, F>,
    (words, start): (&[F::Word], u64),
    (mark, sought): (Mark, Sought),
    writers: Writers,
    map: &mut PageMap<'_>,
    stale: &mut Extent<u64>,
) {
    let size = run.at().size();
    for (index, memory) in words.iter().enumerate() {
        let raw = memory.load_raw(Ordering::Relaxed);
        let recorded =
            sought.bits(raw) == sought.mask && run.is_leaf(raw) && mark.is_in(swap::<F>(raw));
        if !recorded {
            continue;
        }
        let offset = start + index as u64 * size;
        map.set(offset, size);
        if map.contains(offset, size) {
            sought.clear(memory, writers);
            stale.add(offset, offset);
        }
    }
}

/// The same leaf by leaf, for formats with groups: a group has the record if any of its entries
/// has, and all of them lose it.
fn harvest_units<F: Format, I: Invalidate<F::Stage>>(
    run: &Run<'_, F>,
    record: Record,
    writers: Writers,
    map: &mut PageMap<'_>,
    gather: &mut Gather<'_, F::Stage, I>,
) -> bool {
    let marks = [record.hardware, record.software]
        .map(|mark| (mark, Sought::of(run.format(), run.at(), mark)));
    let mut stale = Extent::default();
    let mut next = 0;
    while let Some(unit) = run.next_unit(&mut next) {
        let offset = run.offset_of(unit.first);
        let size = run.at().size() << unit.group;
        if !run.is_leaf(swap::<F>(unit.word)) || !record.is_in(unit.word) {
            continue;
        }
        map.set(offset, size);
        if map.contains(offset, size) {
            for memory in run.entries_of(unit) {
                let word = Word::<F>::new(memory).load();
                for (mark, sought) in &marks {
                    if mark.is_in(word) {
                        sought.clear(memory, writers);
                    }
                }
            }
            stale.add(offset, offset + size - run.at().size());
        }
    }
    let Some((first, last)) = stale.0 else { return false };
    gather.pages(run.format().address(first), run.format().address(last), run.at().shift);
    true
}

/// Whether all of a cache line's entries are usual leaves with the record.
#[inline(always)]
fn are_recorded<W: TableWord>(words: &[W; LINE], sought: Sought) -> bool {
    let words: [u64; LINE] = core::array::from_fn(|index| words[index].load_raw(Ordering::Relaxed));
    words.iter().fold(0, |odd, &word| odd | sought.usual.odd(word)) == 0
}
