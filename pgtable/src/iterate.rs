//! Iteration over what is mapped: by runs of one table (the fast form, which everything else is
//! built on), by leaves, as an `Iterator`, coalesced.

use core::ops::ControlFlow;

use crate::address::Address;
use crate::error::RangeError;
use crate::format::{Format, Input, Output};
use crate::memory::{ReadMemory, TableMemory};
use crate::run::{Run, RunLeaves};
use crate::space::Mapping;
use crate::stretch::{Found, Place, Stretch};
use crate::trail::Trail;
use crate::walk::{LeafOf, Walker, bounds};

impl<F: Format, M: TableMemory<Output<F>>> Walker<F, M> {
    /// Calls `visit` for each run of entries in the `bytes` bytes from `input` on, in order, until
    /// it breaks: whole last-level tables (or the part of them in the range) and single larger
    /// leaves. The fast way to look at a range.
    ///
    /// ```
    /// # use pgtable_conformance::prelude::*;
    /// # pgtable_conformance::example!(mapped: tree, gather);
    /// # let walker = tree.walker();
    /// let mut entries = 0;
    /// let _ = walker.for_each_run(Gva::new(0), 1 << 30, |run| {
    ///     entries += run.words().len();
    ///     ControlFlow::<()>::Continue(())
    /// })?;
    /// assert_eq!(entries, 512);
    /// # gather.finish(tree.tables())?;
    /// # Ok::<(), Box<dyn core::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// [`RangeError`]: a range that is none of this space, a malformed entry above the last level,
    /// a table that lies outside table memory or may only be read. Everything before that address
    /// was visited: of a table that lies outside in part, what is there, in runs as long as the
    /// memory has them in one piece.
    #[inline]
    pub fn for_each_run<B>(
        &self,
        input: Input<F>,
        bytes: u64,
        mut visit: impl FnMut(Run<'_, F>) -> ControlFlow<B>,
    ) -> Result<ControlFlow<B>, RangeError<Input<F>>> {
        let mut place = self.place(input, bytes)?;
        while let (next, Some(stretch)) = place.next(self.format(), self.memory())? {
            place = next;
            let run = stretch.run(self.format(), self.memory(), &mut place.offset)?;
            if let ControlFlow::Break(value) = visit(run) {
                return Ok(ControlFlow::Break(value));
            }
        }
        Ok(ControlFlow::Continue(()))
    }
}

impl<F: Format, M: ReadMemory<Output<F>>> Walker<F, M> {
    fn place(&self, input: Input<F>, bytes: u64) -> Result<Place, RangeError<Input<F>>> {
        let (offset, end) = bounds(self.format(), input, bytes, 0)?;
        Ok(Place { trail: Trail::new(self.root_node()), offset, end })
    }

    /// Calls `visit` for each leaf in the `bytes` bytes from `input` on, in order, until it breaks.
    ///
    /// ```
    /// # use pgtable_conformance::prelude::*;
    /// # pgtable_conformance::example!(mapped: tree, gather);
    /// # let walker = tree.walker();
    /// let found = walker.for_each(Gva::new(0), 1 << 30, |page| match page.output.get() {
    ///     0x80_3000 => ControlFlow::Break(page.input),
    ///     _ => ControlFlow::Continue(()),
    /// })?;
    /// assert_eq!(found, ControlFlow::Break(Gva::new(0x3000)));
    /// # gather.finish(tree.tables())?;
    /// # Ok::<(), Box<dyn core::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// [`RangeError`]: a range that is none of this space, a malformed entry, a table outside table
    /// memory. Everything before that address was visited.
    #[inline]
    pub fn for_each<B>(
        &self,
        input: Input<F>,
        bytes: u64,
        visit: impl FnMut(LeafOf<F>) -> ControlFlow<B>,
    ) -> Result<ControlFlow<B>, RangeError<Input<F>>> {
        self.visit_all(self.place(input, bytes)?, visit)
    }

    /// The leaves from `place` on.
    #[inline]
    fn visit_all<B>(
        &self,
        mut place: Place,
        mut visit: impl FnMut(LeafOf<F>) -> ControlFlow<B>,
    ) -> Result<ControlFlow<B>, RangeError<Input<F>>> {
        while let (next, Some(stretch)) = place.next(self.format(), self.memory())? {
            place = next;
            let flow = match stretch.in_place(self.format(), self.memory()) {
                Some(run) => run.visit(&mut visit)?,
                None => self.visit_by_value(stretch, &mut visit)?,
            };
            if let ControlFlow::Break(value) = flow {
                return Ok(ControlFlow::Break(value));
            }
        }
        Ok(ControlFlow::Continue(()))
    }

    /// The leaves of a stretch that memory gives by value only.
    #[inline(never)]
    fn visit_by_value<B>(
        &self,
        mut stretch: Stretch,
        visit: &mut impl FnMut(LeafOf<F>) -> ControlFlow<B>,
    ) -> Result<ControlFlow<B>, RangeError<Input<F>>> {
        while let Some((rest, leaf)) = stretch.next_leaf(self.format(), self.memory()) {
            stretch = rest;
            if let ControlFlow::Break(value) = visit(leaf?) {
                return Ok(ControlFlow::Break(value));
            }
        }
        Ok(ControlFlow::Continue(()))
    }

    /// The leaves in the `bytes` bytes from `input` on, in order. Ends after the first error.
    ///
    /// [`for_each_run`](Self::for_each_run) is the faster form.
    ///
    /// ```
    /// # use pgtable_conformance::prelude::*;
    /// # pgtable_conformance::example!(mapped: tree, gather);
    /// # let walker = tree.walker();
    /// for page in walker.iter(Gva::new(0x1000), 0x2000)? {
    ///     let page = page?;
    ///     println!("{} is {}", page.input, page.output);
    /// }
    /// assert_eq!(walker.iter(Gva::new(0x1000), 0x2000)?.count(), 2);
    /// # gather.finish(tree.tables())?;
    /// # Ok::<(), Box<dyn core::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// [`Error::Range`](crate::Error::Range) for a range that is none of this space; the items'
    /// errors are those of [`for_each`](Self::for_each).
    pub fn iter(
        &self,
        input: Input<F>,
        bytes: u64,
    ) -> Result<LeafIter<'_, F, M>, RangeError<Input<F>>> {
        let place = self.place(input, bytes)?;
        Ok(LeafIter { walker: self, place, run: None, by_value: None, failed: false })
    }

    /// Calls `visit` for each mapping in the `bytes` bytes from `input` on, in order, until it
    /// breaks: neighbouring leaves of one size whose outputs are neighbours too and whose
    /// attributes are equal come as one.
    ///
    /// ```
    /// # use pgtable_conformance::prelude::*;
    /// # pgtable_conformance::example!(mapped: tree, gather);
    /// # let walker = tree.walker();
    /// let mut all = Vec::new();
    /// let _ = walker.for_each_coalesced(Gva::new(0), 1 << 30, |mapping| {
    ///     all.push((mapping.input, mapping.bytes));
    ///     ControlFlow::<()>::Continue(())
    /// })?;
    /// assert_eq!(all, [(Gva::new(0), 0x20_0000)]);
    /// # gather.finish(tree.tables())?;
    /// # Ok::<(), Box<dyn core::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// As [`for_each`](Self::for_each).
    pub fn for_each_coalesced<B>(
        &self,
        input: Input<F>,
        bytes: u64,
        visit: impl FnMut(LeafOf<F>) -> ControlFlow<B>,
    ) -> Result<ControlFlow<B>, RangeError<Input<F>>> {
        self.visit_coalesced(self.place(input, bytes)?, visit)
    }

    /// Calls `visit` for each mapping of the whole tree, until it breaks: as
    /// [`for_each_coalesced`](Self::for_each_coalesced), over every address of the space. (Of x86
    /// first those of the lower half, then those of the upper one.)
    ///
    /// Tables that somebody else wrote may map every page of the space, by few tables: count, and
    /// break where it is enough.
    ///
    /// ```
    /// # use pgtable_conformance::prelude::*;
    /// # pgtable_conformance::example!(mapped: tree, gather);
    /// # let walker = tree.walker();
    /// let mut lines = Vec::new();
    /// let _ = walker.for_each_mapping(|mapping| {
    ///     let Mapping { input, output, bytes, attributes, .. } = mapping;
    ///     lines.push(format!("{input} is {output}, {bytes:#x} bytes, {:?}", attributes.prot()));
    ///     if lines.len() < 1000 { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
    /// })?;
    /// assert_eq!(lines.len(), 1);
    /// assert!(lines[0].starts_with("gva 0x0 is gpa 0x800000, 0x200000 bytes"));
    /// # gather.finish(tree.tables())?;
    /// # Ok::<(), Box<dyn core::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// As [`for_each`](Self::for_each).
    pub fn for_each_mapping<B>(
        &self,
        visit: impl FnMut(LeafOf<F>) -> ControlFlow<B>,
    ) -> Result<ControlFlow<B>, RangeError<Input<F>>> {
        // Of a space of 64 bits the last byte is out of reach, and so is its page.
        let end = self.format().geometry().address_mask().saturating_add(1);
        self.visit_coalesced(Place { trail: Trail::new(self.root_node()), offset: 0, end }, visit)
    }

    fn visit_coalesced<B>(
        &self,
        place: Place,
        mut visit: impl FnMut(LeafOf<F>) -> ControlFlow<B>,
    ) -> Result<ControlFlow<B>, RangeError<Input<F>>> {
        let mut pending: Option<LeafOf<F>> = None;
        let flow = self.visit_all(place, |leaf| match &mut pending {
            Some(mapping) if continues(mapping, &leaf) => {
                mapping.bytes += leaf.bytes;
                ControlFlow::Continue(())
            }
            _ => pending.replace(leaf).map_or(ControlFlow::Continue(()), &mut visit),
        });
        // What was collected before an error, or before the end, is still to be shown.
        let last = match (&flow, pending) {
            (Ok(ControlFlow::Break(_)), _) | (_, None) => ControlFlow::Continue(()),
            (_, Some(mapping)) => visit(mapping),
        };
        match (flow?, last) {
            (ControlFlow::Continue(()), last) => Ok(last),
            (flow, _) => Ok(flow),
        }
    }
}

fn continues<I: Address, O: Address, T: Eq>(
    mapping: &Mapping<I, O, T>,
    leaf: &Mapping<I, O, T>,
) -> bool {
    mapping.shift == leaf.shift
        && mapping.attributes == leaf.attributes
        && mapping.input.checked_add(mapping.bytes) == Some(leaf.input)
        && mapping.output.checked_add(mapping.bytes) == Some(leaf.output)
}

/// The leaves of a range, as [`Walker::iter`] gives them.
#[derive(Debug)]
pub struct LeafIter<'m, F: Format, M> {
    walker: &'m Walker<F, M>,
    place: Place,
    run: Option<RunLeaves<'m, F>>,
    /// What is left of a stretch that memory gives by value only.
    by_value: Option<Stretch>,
    failed: bool,
}

impl<F: Format, M: ReadMemory<Output<F>>> Iterator for LeafIter<'_, F, M> {
    type Item = Result<LeafOf<F>, RangeError<Input<F>>>;

    #[inline(always)]
    fn next(&mut self) -> Option<Self::Item> {
        let single = |run: &mut RunLeaves<'_, F>| run.next_single(run.at());
        match self.run.as_mut().and_then(single) {
            Some(leaf) => Some(Ok(leaf)),
            None => self.further(),
        }
    }
}

impl<F: Format, M: ReadMemory<Output<F>>> LeafIter<'_, F, M> {
    /// The next leaf that is not a single entry of the run at hand. An error is the last item.
    #[inline(never)]
    fn further(&mut self) -> Option<Found<F>> {
        let found = loop {
            if self.failed {
                return None;
            }
            if let Some(leaf) = self.run.as_mut().and_then(Iterator::next) {
                break leaf;
            }
            let (format, memory) = (self.walker.format(), self.walker.memory());
            if let Some((rest, leaf)) =
                self.by_value.take().and_then(|stretch| stretch.next_leaf(format, memory))
            {
                self.by_value = Some(rest);
                break leaf;
            }
            match self.place.next(format, memory) {
                Ok((place, Some(stretch))) => {
                    let run = stretch.in_place(format, memory).map(|run| run.leaves());
                    self.by_value = if run.is_none() { Some(stretch) } else { None };
                    (self.place, self.run) = (place, run);
                }
                Ok((_, None)) => return None,
                Err(error) => break Err(error),
            }
        };
        if found.is_err() {
            (self.failed, self.run) = (true, None);
        }
        Some(found)
    }
}
