//! A cursor: page after page of one last-level table without descending again.
//!
//! # Protocol
//! The cursor borrows the tree exclusively, so it is the one writer. It keeps the table it stands
//! in, and how many entries it added to it or took from it; the count goes to the table's state,
//! and the stale range to the gather, when it leaves that table: on the way to another, at
//! [`finish`](Cursor::finish), or when it is dropped. While it stands in a table, the count there
//! is marked as unknown and the gather as untold. So if a cursor is forgotten, the next writer that
//! needs the count counts, and the gather invalidates everything.

mod enter;
mod leaf;

use crate::address::{Address, low_bits};
use crate::allocator::TableAllocator;
use crate::error::Error;
use crate::format::{Entry, Format, Input, Output, Presence, base_shift};
use crate::gather::{Gather, Invalidate};
use crate::geometry::{Level, Position};
use crate::group::{group_of, has_groups, translation_by};
use crate::lock::{Locks as _, Owned};
use crate::memory::TableMemory;
use crate::table::PageTable;
use crate::trail::Trail;
use crate::walk::TranslationOf;
use crate::word::{Word, load_raw};

use leaf::Leaf;

/// Changes a tree page by page. For sequential pages, several times as fast as one call of the
/// tree's own verbs per page.
///
/// A cursor that is forgotten (`mem::forget`) is safe: its gather invalidates everything, and the
/// next verb counts the entries of the table where it stood. Only a log of written table memory
/// ([`TableMemory::wrote`]) is not told before that.
///
/// Works on pages of the size that the format makes of its own accord
/// ([`Geometry::page_shift`](crate::format::Geometry::page_shift)). Larger leaves in its way are
/// [`Error::Mapped`] to [`map`](Self::map), and split by [`unmap`](Self::unmap). Last-level tables
/// of pages of another size (POWER's 4 KiB pages in a tree of 64 KiB pages, and the other way
/// round) are [`Error::LeafSize`] to `map`, as they are to [`PageTable::map`].
#[derive(Debug)]
pub struct Cursor<
    't,
    'g,
    'i,
    F: Format,
    M: TableMemory<Output<F>>,
    A: TableAllocator<Output<F>>,
    I: Invalidate<F::Stage>,
> {
    table: &'t PageTable<F, M, A>,
    /// A copy of the tree's, one load nearer.
    format: F,
    gather: &'g mut Gather<'i, F::Stage, I>,
    trail: Trail<Owned<'t, A, F>>,
    leaf: Leaf<'t, F::Word>,
}

impl<F, M, A> PageTable<F, M, A>
where
    F: Format,
    M: TableMemory<Output<F>>,
    A: TableAllocator<Output<F>>,
{
    /// A cursor on this tree, which puts what becomes stale into `gather`.
    ///
    /// ```
    /// # use pgtable_conformance::prelude::*;
    /// # pgtable_conformance::example!(tree: tree, gather);
    /// let mut cursor = tree.cursor(&mut gather);
    /// for page in 0..64 {
    ///     let (at, to) = (Gva::new(page << 12), Gpa::new((page ^ 1) << 12));
    ///     cursor.map(at, to, Prot::RW.into())?;
    /// }
    /// cursor.finish()?;
    /// # gather.finish(tree.tables())?;
    /// # Ok::<(), Box<dyn core::error::Error>>(())
    /// ```
    pub fn cursor<'t, 'g, 'i, I: Invalidate<F::Stage>>(
        &'t mut self,
        gather: &'g mut Gather<'i, F::Stage, I>,
    ) -> Cursor<'t, 'g, 'i, F, M, A, I> {
        let (trail, format) = (self.trail(), self.format);
        Cursor { table: self, format, gather, trail, leaf: Leaf::nowhere() }
    }
}

/// Where the entries stand that a cursor works on: in a last-level table of base pages.
#[inline(always)]
fn usual<F: Format>(format: &F) -> Position {
    Position { level: Level(0), shift: base_shift(format) }
}

impl<'t, F, M, A, I> Cursor<'t, '_, '_, F, M, A, I>
where
    F: Format,
    M: TableMemory<Output<F>>,
    A: TableAllocator<Output<F>>,
    I: Invalidate<F::Stage>,
{
    /// How many pages `input` is beyond the first of the table where the cursor stands: rotated
    /// right by a page's bits, so that an address that is no page's first is far beyond the table.
    ///
    /// The addresses of one table are as far from each other as their offsets.
    #[inline(always)]
    fn pages_on(&self, input: Input<F>) -> u64 {
        let within = input.get().wrapping_sub(self.leaf.input);
        within.rotate_right(base_shift(&self.format).into())
    }

    /// The entry for `input` in the table where the cursor stands, if it stands in the right one.
    #[inline(always)]
    fn here(&self, input: Input<F>) -> Option<(&'t F::Word, usize)> {
        let pages = self.pages_on(input) & low_bits(64 - base_shift(&self.format));
        self.entry(pages)
    }

    /// The same, if `input` is the first address of a page.
    #[inline(always)]
    fn page_here(&self, input: Input<F>) -> Option<(&'t F::Word, usize)> {
        self.entry(self.pages_on(input))
    }

    #[inline(always)]
    fn entry(&self, index: u64) -> Option<(&'t F::Word, usize)> {
        let index = usize::try_from(index).ok()?;
        Some((self.leaf.words.get(index)?, index))
    }

    /// Maps the page at `input` to the one at `output`.
    ///
    /// Not a page that this cursor unmapped: hardware may still hold the old translation, and some
    /// architectures forbid two for one address. Finish the cursor and its gather first.
    ///
    /// ```
    /// # use pgtable_conformance::prelude::*;
    /// # pgtable_conformance::example!(mapped: tree, gather);
    /// # let mut cursor = tree.cursor(&mut gather);
    /// cursor.map(Gva::new(0x20_0000), Gpa::new(0x7000), Prot::R.into())?;
    /// let again = cursor.map(Gva::new(0x20_0000), Gpa::new(0x7000), Prot::R.into());
    /// assert!(matches!(again, Err(Error::Mapped { .. })));
    /// # cursor.finish()?;
    /// # gather.finish(tree.tables())?;
    /// # Ok::<(), Box<dyn core::error::Error>>(())
    /// ```
    ///
    /// Not where the cursor, or another holder of a gather, unmapped something before and the
    /// gather is not finished: see [mapping again](crate::invalidate#mapping-again).
    ///
    /// # Errors
    /// [`Error::Mapped`], [`Error::Range`], [`Error::LeafSize`] (not aligned, or pages of another
    /// size stand there), [`Error::Unencodable`], [`Error::Alloc`]; nothing was changed then.
    #[inline(always)]
    pub fn map(
        &mut self,
        input: Input<F>,
        output: Output<F>,
        attributes: F::Attributes,
    ) -> Result<(), Error> {
        if self.map_here(input, output, attributes) {
            Ok(())
        } else {
            self.map_anywhere(input, output, attributes)
        }
    }

    /// The common case of [`map`](Self::map); false, and nothing changed, if it is any other.
    #[inline(always)]
    fn map_here(&mut self, input: Input<F>, output: Output<F>, attributes: F::Attributes) -> bool {
        let (format, at) = (&self.format, usual(&self.format));
        let Some((memory, index)) = self.page_here(input) else { return false };
        let Ok(words) = format.leaves(output, attributes, at) else { return false };
        if load_raw(memory) != 0 {
            return false;
        }
        Word::<F>::new(memory).store(words.first);
        if !self.leaf.filled.add(index) {
            self.leaf.fill_apart(index);
        }
        true
    }

    #[cold]
    #[inline(never)]
    fn map_anywhere(
        &mut self,
        input: Input<F>,
        output: Output<F>,
        attributes: F::Attributes,
    ) -> Result<(), Error> {
        let format = self.table.format;
        let offset = format.offset(input).ok_or(Error::Range)?;
        if self.here(input).is_none() && !self.enter(offset, true)? {
            let at = self.trail.bottom().position();
            return Err(if at.level.0 == 0 { Error::LeafSize } else { Error::Mapped { at } });
        }
        if self.map_here(input, output, attributes) {
            return Ok(());
        }
        let at = usual(&format);
        let (memory, _) = self.here(input).ok_or(Error::Range)?;
        if !Presence::at(&format, at).is_absent(&format, memory) {
            return Err(Error::Mapped { at });
        }
        self.table.check_unannotated(self.leaf.node, Word::<F>::new(memory).load())?;
        let words = format.leaves(output, attributes, at)?;
        if offset & low_bits(at.shift) != 0 {
            return Err(Error::LeafSize);
        }
        // Absent, though some of its bits are set.
        Word::<F>::new(memory).store(words.first);
        self.leaf.delta += 1;
        self.leaf.mapped = true;
        Ok(())
    }

    /// What is mapped at `input`; `None` if nothing is.
    ///
    /// ```
    /// # use pgtable_conformance::prelude::*;
    /// # pgtable_conformance::example!(mapped: tree, gather);
    /// # let mut cursor = tree.cursor(&mut gather);
    /// let page = cursor.query(Gva::new(0x3000))?.expect("it is mapped");
    /// assert_eq!(page.output, Gpa::new(0x80_3000));
    /// # cursor.finish()?;
    /// # gather.finish(tree.tables())?;
    /// # Ok::<(), Box<dyn core::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// [`Error::Range`], [`Error::Malformed`], [`Error::Memory`].
    #[inline(always)]
    pub fn query(&mut self, input: Input<F>) -> Result<Option<TranslationOf<F>>, Error> {
        match self.query_here(input) {
            Some(found) => Ok(Some(found)),
            None => self.query_anywhere(input),
        }
    }

    /// The common case of [`query`](Self::query).
    #[inline(always)]
    fn query_here(&self, input: Input<F>) -> Option<TranslationOf<F>> {
        let (format, at) = (&self.format, usual(&self.format));
        let (memory, _) = self.here(input)?;
        let offset = self.leaf.base.wrapping_add(input.get().wrapping_sub(self.leaf.input));
        let word = Word::<F>::new(memory).load();
        match format.decode(word, at) {
            Entry::Leaf { output, attributes } => {
                Some(translation_by(format, word, at, (output, attributes), offset))
            }
            Entry::Absent | Entry::Malformed | Entry::Table { .. } => None,
        }
    }

    #[cold]
    #[inline(never)]
    fn query_anywhere(&mut self, input: Input<F>) -> Result<Option<TranslationOf<F>>, Error> {
        let offset = self.table.format.offset(input).ok_or(Error::Range)?;
        if self.here(input).is_none() && self.enter(offset, false)? {
            if let Some(found) = self.query_here(input) {
                return Ok(Some(found));
            }
        }
        self.table.walker().query(input)
    }

    /// Unmaps the page at `input`; returns whether one was mapped.
    ///
    /// ```
    /// # use pgtable_conformance::prelude::*;
    /// # pgtable_conformance::example!(mapped: tree, gather);
    /// # let mut cursor = tree.cursor(&mut gather);
    /// assert!(cursor.unmap(Gva::new(0x3000))?);
    /// // It is a hole now.
    /// assert!(!cursor.unmap(Gva::new(0x3000))?);
    /// # cursor.finish()?;
    /// # gather.finish(tree.tables())?;
    /// # Ok::<(), Box<dyn core::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// [`Error::Range`], [`Error::Malformed`], [`Error::Memory`], [`Error::Invalidate`];
    /// [`Error::Alloc`] or [`Error::LeafSize`] if a larger leaf cannot be split.
    #[inline(always)]
    pub fn unmap(&mut self, input: Input<F>) -> Result<bool, Error> {
        if self.unmap_here(input) { Ok(true) } else { self.unmap_anywhere(input) }
    }

    /// The common case of [`unmap`](Self::unmap); false, and nothing changed, if it is any other.
    #[inline(always)]
    fn unmap_here(&mut self, input: Input<F>) -> bool {
        let format = &self.format;
        let Some((memory, index)) = self.here(input) else { return false };
        if Presence::at(format, usual(format)).load_single(format, memory).is_none() {
            return false;
        }
        Word::<F>::new(memory).store(0);
        if !self.leaf.emptied.add(index) {
            self.leaf.empty_apart(index);
        }
        true
    }

    #[cold]
    #[inline(never)]
    fn unmap_anywhere(&mut self, input: Input<F>) -> Result<bool, Error> {
        let offset = self.table.format.offset(input).ok_or(Error::Range)?;
        if self.here(input).is_none() && !self.enter(offset, false)? {
            return self.unmap_larger(offset);
        }
        let (format, table) = (&self.format, self.leaf.node);
        let Some((memory, _)) = self.here(input).filter(|_| has_groups::<F>()) else {
            return Ok(self.unmap_here(input));
        };
        let word = Word::<F>::new(memory).load();
        let leaf = matches!(format.decode(word, table.position()), Entry::Leaf { .. });
        if leaf && group_of(format, word, table.position()) > 0 {
            let locks = &mut self.trail.locks;
            self.table.ungroup(locks, table, offset, word, self.gather)?;
        }
        Ok(self.unmap_here(input))
    }

    /// A page of a larger leaf, or none at all.
    #[cold]
    fn unmap_larger(&mut self, offset: u64) -> Result<bool, Error> {
        let table = self.table;
        let size = 1 << table.format.geometry().page_shift();
        let mut at = offset & !(size - 1);
        let end = at + size;
        let mut unmapped = 0;
        self.trail.locks.begin(table.allowance());
        while at < end {
            let done = table.unmap_run(&mut self.trail, &mut at, end, self.gather);
            unmapped += done.map_err(|error| self.trail.locks.take_refusal().unwrap_or(error))?;
        }
        Ok(unmapped > 0)
    }

    /// Settles the books.
    ///
    /// ```
    /// # use pgtable_conformance::prelude::*;
    /// # pgtable_conformance::example!(mapped: tree, gather);
    /// # let mut cursor = tree.cursor(&mut gather);
    /// cursor.unmap(Gva::new(0x3000))?;
    /// cursor.finish()?;
    /// gather.finish(tree.tables())?;
    /// # Ok::<(), Box<dyn core::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// [`Error::Invalidate`] or [`Error::Alloc`] if an empty table could not be freed,
    /// [`Error::Memory`] if it could not be unlinked.
    pub fn finish(mut self) -> Result<(), Error> {
        self.leave()
    }
}

impl<F, M, A, I> Drop for Cursor<'_, '_, '_, F, M, A, I>
where
    F: Format,
    M: TableMemory<Output<F>>,
    A: TableAllocator<Output<F>>,
    I: Invalidate<F::Stage>,
{
    fn drop(&mut self) {
        // An error here means that somebody else wrote the tables, or that the gather could not be
        // flushed, which the gather keeps and reports.
        let _ = self.leave();
    }
}
