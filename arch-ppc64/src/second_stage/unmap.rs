//! Unmapping: one page, a memory slot, or whatever a host's notifier names. Tables that become
//! empty leave the tree and are freed.

use core::ops::ControlFlow;

use pgtable::allocator::TableAllocator;
use pgtable::invalidate::{Gather, Invalidate};
use pgtable::memory::TableMemory;
use pgtable::{Gpa, Hpa, RangeError, Stage2};

use super::leaf::EAA;
use super::sequence::Ticket;
use super::{Leaf, SecondStage};

impl<M: TableMemory<Hpa>, A: TableAllocator<Hpa>> SecondStage<M, A> {
    /// How much has been unmapped so far. Take it before looking a host page up, give it to
    /// [`fault_in`](Self::fault_in).
    pub fn ticket(&self) -> Ticket {
        self.sequence.ticket()
    }

    /// The host is about to take pages away: until [`invalidation_ends`](Self::invalidation_ends),
    /// nothing can be faulted in. They nest.
    pub fn invalidation_begins(&mut self) {
        self.sequence.begin();
    }

    /// The host has taken the pages away.
    pub fn invalidation_ends(&mut self) {
        self.sequence.end();
    }

    /// Unmaps every leaf that maps any of the `bytes` bytes from `gpa` on, as a whole, and shows
    /// each to `gone` with the R and C that it had in the end: what was dirty goes into a log,
    /// [`Nested::lost`](crate::shadow::Nested::lost) drops the shadows. Returns how many bytes were
    /// mapped.
    ///
    /// The pages themselves may be given away once `gather` is finished.
    ///
    /// # Errors
    /// [`pgtable::Error::Range`] for addresses beyond the tree; [`pgtable::Error::Malformed`],
    /// [`pgtable::Error::Memory`] if somebody else wrote the tree; [`pgtable::Error::Invalidate`].
    /// Unmap again: what is gone already is no error, though it may be reported twice.
    pub fn unmap<I: Invalidate<Stage2, Identity = u32>>(
        &mut self,
        gpa: Gpa,
        bytes: u64,
        gather: &mut Gather<'_, Stage2, I>,
        gone: impl FnMut(Leaf),
    ) -> Result<u64, RangeError<Gpa>> {
        self.sequence.advance();
        self.take(gpa, bytes, gather, gone)
    }

    /// The same, without a word to those who are about to fault in.
    pub(crate) fn take<I: Invalidate<Stage2, Identity = u32>>(
        &mut self,
        gpa: Gpa,
        bytes: u64,
        gather: &mut Gather<'_, Stage2, I>,
        mut gone: impl FnMut(Leaf),
    ) -> Result<u64, RangeError<Gpa>> {
        let mut whole: Option<(u64, u64)> = None;
        let visited = self.for_each_standing(gpa, bytes, |standing| {
            let (first, end) = (standing.gpa.get(), standing.gpa.get() + standing.at.size());
            whole = Some((whole.map_or(first, |(first, _)| first), end));
            gone(standing.leaf(standing.clear(EAA)));
            ControlFlow::<()>::Continue(())
        });
        // What was taken away goes even if the rest of the range could not be read.
        let unmapped = match whole {
            Some((first, end)) => self.table.unmap(Gpa::new(first), end - first, gather)?,
            None => 0,
        };
        visited.map(|_| unmapped)
    }
}
