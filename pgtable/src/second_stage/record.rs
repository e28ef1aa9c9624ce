//! Accessed, dirty, and the right to write: what faults set, what dirty logs and working-set scans
//! clear.

use core::ops::ControlFlow;

use crate::access::{AccessKind, Attributes};
use crate::address::{Gpa, Hpa};
use crate::allocator::TableAllocator;
use crate::change::Quietly;
use crate::edit::{Each, Modify};
use crate::error::{Error, RangeError};
use crate::format::SecondStage;
use crate::gather::{Gather, Invalidate};
use crate::geometry::{Level, Position};
use crate::memory::TableMemory;
use crate::record::{Recorded, Writers};
use crate::stage::Stage2;
use crate::walk::LeafOf;

use super::Stage2Tree;
use super::page_state::{PageState, with_write};

/// Whether the leaves that an edit changes are stale.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Tells {
    Stale,
    Nothing,
}

impl Tells {
    /// After an edit that allows what was refused.
    pub(super) fn refused<F: SecondStage>(format: &F) -> Self {
        if format.keeps_refusals() { Self::Stale } else { Self::Nothing }
    }
}

impl<F, M, A, T> Stage2Tree<F, M, A, T>
where
    F: SecondStage,
    M: TableMemory<Hpa>,
    A: TableAllocator<Hpa>,
    T: Copy,
{
    /// Records an access of `kind` in the leaf that maps `gpa`: what a fault for want of a record
    /// asks for (POWER's reference/change, RISC-V without Svadu, AArch64's access flag). False, and
    /// nothing changed, if there is no leaf or it does not allow the access: then the page has to
    /// be faulted in.
    ///
    /// ```
    /// # use pgtable_conformance::prelude::*;
    /// # pgtable_conformance::example!(faulted: stage, gather, slot);
    /// stage.clear_dirty(Gpa::new(0x5000), 0x1000, &mut gather, |_| ())?;
    /// assert!(stage.record(Gpa::new(0x5678), AccessKind::Write, &mut gather)?);
    /// assert!(stage.state_at(Gpa::new(0x5000))?.is_some_and(|state| state.dirty));
    /// assert!(!stage.record(Gpa::new(0x6000), AccessKind::Read, &mut gather)?);
    /// # stage.finish(&mut gather)?;
    /// # Ok::<(), Box<dyn core::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// [`Error::Malformed`], [`Error::Memory`]: somebody else wrote the tree.
    pub fn record<I: Invalidate<Stage2, Identity = T>>(
        &mut self,
        gpa: Gpa,
        kind: AccessKind,
        gather: &mut Gather<'_, Stage2, I>,
    ) -> Result<bool, RangeError<Gpa>> {
        let format = *self.format();
        let allows = |state: &PageState<F>| {
            let prot = state.leaf.attributes.prot();
            match kind {
                AccessKind::Read => prot.read(),
                AccessKind::Write => prot.write(),
                AccessKind::Fetch => prot.execute(),
            }
        };
        self.edit_at(gpa, Tells::refused(&format), gather, allows, |state| {
            state.used(&format, kind == AccessKind::Write)
        })
    }

    /// Gives the leaf that maps `gpa` the right to write back, and records the store: for a store
    /// to a page that was write-protected for a log, which logs it. False if there is no leaf: then
    /// the page has to be faulted in.
    ///
    /// The caller knows that the host page and the slot are writable.
    ///
    /// ```
    /// # use pgtable_conformance::prelude::*;
    /// # pgtable_conformance::example!(faulted: stage, gather, slot);
    /// stage.write_protect(Gpa::new(0), 0x1_0000, &mut gather)?;
    /// // Then the guest stores to the page, and faults:
    /// assert!(stage.redirty(Gpa::new(0x5678), &mut gather)?);
    /// let state = stage.state_at(Gpa::new(0x5000))?.ok_or("not mapped")?;
    /// assert!(state.dirty && state.leaf.attributes.prot().write());
    /// # stage.finish(&mut gather)?;
    /// # Ok::<(), Box<dyn core::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// As [`record`](Self::record).
    pub fn redirty<I: Invalidate<Stage2, Identity = T>>(
        &mut self,
        gpa: Gpa,
        gather: &mut Gather<'_, Stage2, I>,
    ) -> Result<bool, RangeError<Gpa>> {
        let format = *self.format();
        self.edit_at(
            gpa,
            Tells::refused(&format),
            gather,
            |_| true,
            |state| {
                let prot = state.leaf.attributes.prot();
                state.with(&format, prot.with_write(true), true)
            },
        )
    }

    /// Takes the right to write from every leaf that maps any of the `bytes` bytes from `gpa` on;
    /// records stay. Returns how many leaves lost it.
    ///
    /// Where a leaf keeps no record of stores, the right to write was all that told of one:
    /// afterwards [`PageState::dirty`] is false. [`clear_dirty`](Self::clear_dirty) shows such
    /// pages before it takes the right.
    ///
    /// ```
    /// # use pgtable_conformance::prelude::*;
    /// # pgtable_conformance::example!(faulted: stage, gather, slot);
    /// assert_eq!(stage.write_protect(Gpa::new(0), 0x1_0000, &mut gather)?, 1);
    /// # stage.finish(&mut gather)?;
    /// # Ok::<(), Box<dyn core::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// [`Error::Range`] for addresses beyond the tree, [`Error::Contended`] for a leaf that keeps
    /// changing, else as [`record`](Self::record); everything before the error's address is done.
    pub fn write_protect<I: Invalidate<Stage2, Identity = T>>(
        &mut self,
        gpa: Gpa,
        bytes: u64,
        gather: &mut Gather<'_, Stage2, I>,
    ) -> Result<u64, RangeError<Gpa>> {
        self.sequence.advance();
        let edit = |state: &PageState<F>| with_write(state.leaf.attributes, false);
        self.edit(gpa, bytes, Tells::Stale, gather, edit, |_| ())
    }

    /// Clears the accessed record of every leaf that maps any of the `bytes` bytes from `gpa` on;
    /// returns whether any had it. Nothing becomes stale by that: see the module.
    ///
    /// Where the format keeps no such record, the leaves are unmapped and shown to `gone`: those
    /// that fault in again were used.
    ///
    /// ```
    /// # use pgtable_conformance::prelude::*;
    /// # pgtable_conformance::example!(faulted: stage, gather, slot);
    /// let (start, bytes) = (Gpa::new(0), 0x1_0000);
    /// assert!(stage.age(start, bytes, &mut gather, |_| ())?);
    /// assert!(!stage.test_age(start, bytes)?);
    /// # stage.finish(&mut gather)?;
    /// # Ok::<(), Box<dyn core::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// As [`write_protect`](Self::write_protect).
    pub fn age<I: Invalidate<Stage2, Identity = T>>(
        &mut self,
        gpa: Gpa,
        bytes: u64,
        gather: &mut Gather<'_, Stage2, I>,
        gone: impl FnMut(PageState<F>),
    ) -> Result<bool, RangeError<Gpa>> {
        let format = *self.format();
        if !self.records_use() {
            return self.unmap(gpa, bytes, gather, gone).map(|unmapped| unmapped > 0);
        }
        let edit = |state: &PageState<F>| state.aged(&format);
        self.edit(gpa, bytes, Tells::Nothing, gather, edit, |_| ()).map(|leaves| leaves > 0)
    }

    /// Whether any leaf that maps any of the `bytes` bytes from `gpa` on was used since it was
    /// mapped or [aged](Self::age).
    ///
    /// ```
    /// # use pgtable_conformance::prelude::*;
    /// # pgtable_conformance::example!(faulted: stage, gather, slot);
    /// assert!(stage.test_age(Gpa::new(0x5000), 0x1000)?);
    /// assert!(!stage.test_age(Gpa::new(0x6000), 0x1000)?);
    /// # stage.finish(&mut gather)?;
    /// # Ok::<(), Box<dyn core::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// As [`write_protect`](Self::write_protect).
    pub fn test_age(&self, gpa: Gpa, bytes: u64) -> Result<bool, RangeError<Gpa>> {
        let Some((first, bytes)) = self.whole(gpa, bytes)? else { return Ok(false) };
        let found = self.table.walker().for_each(first, bytes, |leaf| {
            match PageState::of(self.format(), leaf).accessed {
                true => ControlFlow::Break(()),
                false => ControlFlow::Continue(()),
            }
        })?;
        Ok(found.is_break())
    }

    /// Clears the dirty record of every leaf that maps any of the `bytes` bytes from `gpa` on and
    /// has it, and shows `dirty` each as it was; returns how many those were. Read the pages after
    /// `gather` is finished.
    ///
    /// A leaf that keeps no such record loses the right to write instead, and the next store to it
    /// faults ([`redirty`](Self::redirty)).
    ///
    /// ```
    /// # use pgtable_conformance::prelude::*;
    /// # pgtable_conformance::example!(faulted: stage, gather, slot);
    /// let mut send = Vec::new();
    /// let dirty = |state: pgtable::second_stage::PageState<_>| send.push(state.leaf.input);
    /// assert_eq!(stage.clear_dirty(Gpa::new(0), 0x1_0000, &mut gather, dirty)?, 1);
    /// stage.finish(&mut gather)?;
    /// assert_eq!(send, [Gpa::new(0x5000)]);
    /// # Ok::<(), Box<dyn core::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// As [`write_protect`](Self::write_protect). What was shown is cleared, or is shown again.
    pub fn clear_dirty<I: Invalidate<Stage2, Identity = T>>(
        &mut self,
        gpa: Gpa,
        bytes: u64,
        gather: &mut Gather<'_, Stage2, I>,
        dirty: impl FnMut(PageState<F>),
    ) -> Result<u64, RangeError<Gpa>> {
        let format = *self.format();
        let edit = |state: &PageState<F>| match state.dirty {
            true => state.cleaned(&format),
            false => state.leaf.attributes,
        };
        self.edit(gpa, bytes, Tells::Stale, gather, edit, dirty)
    }

    /// [`clear_dirty`](Self::clear_dirty) for each page of a log that hardware keeps (x86's
    /// page-modification log, AArch64's HDBSS), so that a round costs what was written and not what
    /// is mapped. Addresses where nothing is mapped any more, and addresses beyond the tree, are
    /// passed over; a page that the log has twice is shown once, unless it was written in between.
    ///
    /// ```
    /// # use pgtable_conformance::prelude::*;
    /// # pgtable_conformance::example!(faulted: stage, gather, slot);
    /// let log = [0x5000, 0x9000, 0x5000].map(Gpa::new);
    /// assert_eq!(stage.clear_logged(log, &mut gather, |state| assert!(state.dirty))?, 1);
    /// # stage.finish(&mut gather)?;
    /// # Ok::<(), Box<dyn core::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// As [`record`](Self::record), and [`Error::Contended`].
    pub fn clear_logged<I: Invalidate<Stage2, Identity = T>>(
        &mut self,
        log: impl IntoIterator<Item = Gpa>,
        gather: &mut Gather<'_, Stage2, I>,
        mut dirty: impl FnMut(PageState<F>),
    ) -> Result<u64, RangeError<Gpa>> {
        log.into_iter().try_fold(0, |leaves, gpa| {
            Ok(leaves + beyond_is(0, self.clear_dirty(gpa, 1, gather, &mut dirty))?)
        })
    }

    /// Collects what was used or written in the `bytes` bytes from `gpa` on as bits of `bitmap`,
    /// and clears the record: see [`PageTable::harvest`](crate::tree::PageTable::harvest).
    ///
    /// ```
    /// # use pgtable_conformance::prelude::*;
    /// # pgtable_conformance::example!(faulted: stage, gather, slot);
    /// let mut log = [0];
    /// let (recorded, writers) = (Recorded::Dirty, Writers::Running);
    /// stage.harvest(Gpa::new(0), 0x1_0000, recorded, writers, &mut log, &mut gather)?;
    /// stage.finish(&mut gather)?;
    /// assert_eq!(log, [1 << 5]);
    /// # Ok::<(), Box<dyn core::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// As there: [`Error::NoRecord`] where the format keeps no such record.
    pub fn harvest<I: Invalidate<Stage2, Identity = T>>(
        &mut self,
        gpa: Gpa,
        bytes: u64,
        recorded: Recorded,
        writers: Writers,
        bitmap: &mut [u64],
        gather: &mut Gather<'_, Stage2, I>,
    ) -> Result<u64, RangeError<Gpa>> {
        self.table.harvest(gpa, bytes, recorded, writers, bitmap, gather)
    }

    /// Whether the format has a record of use.
    fn records_use(&self) -> bool {
        let shift = self.format().geometry().page_shift();
        self.format().bits(Position { level: Level(0), shift }).accessed.exists()
    }

    /// Edits the leaf that maps `gpa` if it `allows` that; whether there is one, and it does.
    fn edit_at<I: Invalidate<Stage2, Identity = T>>(
        &mut self,
        gpa: Gpa,
        tells: Tells,
        gather: &mut Gather<'_, Stage2, I>,
        allows: impl Fn(&PageState<F>) -> bool,
        edit: impl Fn(&PageState<F>) -> F::Attributes,
    ) -> Result<bool, RangeError<Gpa>> {
        let mut allowed = false;
        let edit = |state: &PageState<F>| {
            allowed = allows(state);
            if allowed { edit(state) } else { state.leaf.attributes }
        };
        beyond_is(0, self.edit(gpa, 1, tells, gather, edit, |_| ()))?;
        Ok(allowed)
    }

    /// Gives every leaf that maps any of the `bytes` bytes from `gpa` on the attributes that `edit`
    /// says, and shows `changed` each leaf that changed as it was; returns how many those were.
    pub(super) fn edit<I: Invalidate<Stage2, Identity = T>>(
        &mut self,
        gpa: Gpa,
        bytes: u64,
        tells: Tells,
        gather: &mut Gather<'_, Stage2, I>,
        mut edit: impl FnMut(&PageState<F>) -> F::Attributes,
        mut changed: impl FnMut(PageState<F>),
    ) -> Result<u64, RangeError<Gpa>> {
        let Some((first, bytes)) = self.whole(gpa, bytes)? else { return Ok(0) };
        let format = *self.table.format();
        let mut leaves = 0;
        let mut settle = |state: Option<PageState<F>>| {
            if let Some(state) = state {
                leaves += 1;
                changed(state);
            }
        };
        // The leaf that was edited last: it may be judged anew, since hardware records meanwhile.
        let mut last: Option<PageState<F>> = None;
        let each = Each(|leaf: LeafOf<F>| {
            let state = PageState::of(&format, leaf);
            let attributes = edit(&state);
            let new = (attributes != leaf.attributes).then_some(state);
            let before = core::mem::replace(&mut last, new);
            settle(before.filter(|before| before.leaf.input != leaf.input));
            attributes
        });
        let verb = Modify::new(each, Writers::Running);
        let (table, range) = (&self.table, (first, bytes));
        let done = match tells {
            Tells::Stale => table.alone(|trail| table.change_range(trail, range, verb, gather)),
            Tells::Nothing => {
                table.alone(|trail| table.change_range(trail, range, Quietly(verb), gather))
            }
        };
        let failed_at = done.err().map(|error| error.at);
        settle(last.filter(|state| Some(state.leaf.input) != failed_at));
        done.map(|_| leaves)
    }
}

/// `none` for addresses beyond the tree, where nothing is mapped.
fn beyond_is<R>(none: R, done: Result<R, RangeError<Gpa>>) -> Result<R, RangeError<Gpa>> {
    match done {
        Err(RangeError { error: Error::Range, .. }) => Ok(none),
        done => done,
    }
}
