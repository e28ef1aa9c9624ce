//! R and C, and the permission to write: what faults set, what dirty logs and working-set scans
//! clear.
//!
//! | verb | clears | invalidates |
//! | --- | --- | --- |
//! | [`age`](SecondStage::age) | R | no: a translation that is still cached goes on unrecorded for a while, as in Linux |
//! | [`test_and_clear_dirty`](SecondStage::test_and_clear_dirty) | C | the page |
//! | [`write_protect`](SecondStage::write_protect) | write | the pages |
//! | [`harvest`](SecondStage::harvest) | R or C | the pages |
//!
//! What is set needs no invalidation. Each verb clears in whole leaves: those that map any of the
//! range, and so reach beyond it. Whatever is cleared here must be cleared in the shadows of a
//! nested guest too: [`Nested::restrict`](crate::shadow::Nested::restrict), which finds these
//! leaves by the same range.

use core::ops::ControlFlow;

use pgtable::allocator::TableAllocator;
use pgtable::invalidate::{Gather, Invalidate};
use pgtable::memory::TableMemory;
use pgtable::tree::{Recorded, Writers};
use pgtable::{Gpa, Hpa, RangeError, Stage2};

use super::leaf::{C, R, RC, W};
use super::{Leaf, SecondStage};
use crate::radix::Pte;

impl<M: TableMemory<Hpa>, A: TableAllocator<Hpa>> SecondStage<M, A> {
    /// Sets R, and for a `store` C, in the leaf that maps `gpa`: what an interrupt for want of them
    /// asks for. False, and nothing changed, if there is no leaf or it does not allow the store:
    /// then the page has to be faulted in.
    ///
    /// # Errors
    /// [`pgtable::Error::Malformed`], [`pgtable::Error::Memory`]: somebody else wrote the tree.
    pub fn set_rc(&mut self, gpa: Gpa, store: bool) -> Result<bool, RangeError<Gpa>> {
        let set = self.standing_at(gpa, |standing| {
            let allowed = !store || standing.pte().eaa().write();
            if allowed {
                standing.set(if store { RC } else { R });
            }
            allowed
        })?;
        Ok(set.unwrap_or(false))
    }

    /// Gives the leaf that maps `gpa` the permission to write back, with R and C: for a store to a
    /// page that was write-protected for a log, which logs it. False if there is no leaf: then the
    /// page has to be faulted in.
    ///
    /// # Errors
    /// As [`set_rc`](Self::set_rc).
    pub fn redirty(&mut self, gpa: Gpa) -> Result<bool, RangeError<Gpa>> {
        let set = self.standing_at(gpa, |standing| {
            standing.set(Pte::from_bits(W.into_bits() | RC.into_bits()))
        })?;
        Ok(set.is_some())
    }

    /// Takes the permission to write from every leaf that maps any of the `bytes` bytes from `gpa`
    /// on; R and C stay. Returns how many leaves lost it.
    ///
    /// # Errors
    /// [`pgtable::Error::Range`] for addresses beyond the tree, else as [`set_rc`](Self::set_rc);
    /// everything before the error's address is done.
    pub fn write_protect<I: Invalidate<Stage2, Identity = u32>>(
        &mut self,
        gpa: Gpa,
        bytes: u64,
        gather: &mut Gather<'_, Stage2, I>,
    ) -> Result<u64, RangeError<Gpa>> {
        self.sequence.advance();
        self.clear_where(gpa, bytes, W, |leaf| gather.pages(leaf.input, leaf.input, leaf.shift))
    }

    /// Clears R in every leaf that maps any of the `bytes` bytes from `gpa` on; returns whether any
    /// had it. Nothing is invalidated: see the module.
    ///
    /// # Errors
    /// As [`write_protect`](Self::write_protect).
    pub fn age(&mut self, gpa: Gpa, bytes: u64) -> Result<bool, RangeError<Gpa>> {
        self.clear_where(gpa, bytes, R, |_| ()).map(|leaves| leaves > 0)
    }

    /// Whether any leaf that maps any of the `bytes` bytes from `gpa` on has R.
    ///
    /// # Errors
    /// As [`write_protect`](Self::write_protect).
    pub fn test_age(&self, gpa: Gpa, bytes: u64) -> Result<bool, RangeError<Gpa>> {
        let found = self.for_each_standing(gpa, bytes, |standing| {
            if standing.pte().r() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        })?;
        Ok(found.is_break())
    }

    /// Clears C in the leaf that maps `gpa`; returns the leaf as it was if it had it. Read the page
    /// after `gather` is finished.
    ///
    /// # Errors
    /// As [`set_rc`](Self::set_rc).
    pub fn test_and_clear_dirty<I: Invalidate<Stage2, Identity = u32>>(
        &mut self,
        gpa: Gpa,
        gather: &mut Gather<'_, Stage2, I>,
    ) -> Result<Option<Leaf>, RangeError<Gpa>> {
        let mut dirty = None;
        let cleared = self.clear_where(gpa, 1, C, |leaf| {
            gather.pages(leaf.input, leaf.input, leaf.shift);
            dirty = Some(leaf);
        });
        match cleared {
            Err(RangeError { error: pgtable::Error::Range, .. }) => Ok(None),
            cleared => cleared.map(|_| dirty),
        }
    }

    /// Collects what was used or written in the `bytes` bytes from `gpa` on as bits of `bitmap`,
    /// and clears the record: see [`pgtable::tree::PageTable::harvest`].
    ///
    /// # Errors
    /// As [`write_protect`](Self::write_protect).
    pub fn harvest<I: Invalidate<Stage2, Identity = u32>>(
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

    /// Clears `mask` in every leaf of the range that has any of it, and shows `cleared` each as it
    /// was; returns how many those were.
    pub(crate) fn clear_where(
        &mut self,
        gpa: Gpa,
        bytes: u64,
        mask: Pte,
        mut cleared: impl FnMut(Leaf),
    ) -> Result<u64, RangeError<Gpa>> {
        let mut leaves = 0;
        let visited = self.for_each_standing(gpa, bytes, |standing| {
            if standing.pte().into_bits() & mask.into_bits() != 0 {
                cleared(standing.leaf(standing.clear(mask)));
                leaves += 1;
            }
            ControlFlow::<()>::Continue(())
        });
        visited.map(|_| leaves)
    }
}
