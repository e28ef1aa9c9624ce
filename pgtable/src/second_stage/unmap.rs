//! Unmapping: one page, a memory slot, or whatever a host's notifier names. Tables that become
//! empty leave the tree and are freed.

use super::Stage2Tree;
use super::page_state::PageState;
use super::sequence::Ticket;
use crate::address::{Gpa, Hpa};
use crate::allocator::TableAllocator;
use crate::error::RangeError;
use crate::format::SecondStage;
use crate::gather::{Gather, Invalidate};
use crate::memory::TableMemory;
use crate::stage::Stage2;

impl<F, M, A, T> Stage2Tree<F, M, A, T>
where
    F: SecondStage,
    M: TableMemory<Hpa>,
    A: TableAllocator<Hpa>,
    T: Copy,
{
    /// How much has been unmapped so far. Take it before looking a host page up, give it to
    /// [`fault_in`](Self::fault_in).
    pub fn ticket(&self) -> Ticket {
        self.sequence.ticket()
    }

    /// The host is about to take pages away: until [`invalidation_ends`](Self::invalidation_ends),
    /// nothing can be faulted in. They nest.
    ///
    /// ```
    /// # use pgtable_conformance::prelude::*;
    /// # pgtable_conformance::example!(faulted: stage, gather, slot);
    /// # let page = pgtable::second_stage::HostPage {
    /// #     frame: Hpa::new(0x8000_5000), shift: 12, attributes: Prot::RWX.into(),
    /// # };
    /// use pgtable::second_stage::FaultInError;
    ///
    /// stage.invalidation_begins();
    /// stage.unmap(Gpa::new(0x5000), 0x1000, &mut gather, |_| ())?;
    /// let (ticket, gpa, kind) = (stage.ticket(), Gpa::new(0x5678), AccessKind::Read);
    /// let again = stage.fault_in(ticket, gpa, kind, &slot, page, &mut gather, |_| ());
    /// assert_eq!(again, Err(FaultInError::Again));
    /// stage.finish(&mut gather)?;
    /// stage.invalidation_ends();
    /// # Ok::<(), Box<dyn core::error::Error>>(())
    /// ```
    pub fn invalidation_begins(&mut self) {
        self.sequence.begin();
    }

    /// The host has taken the pages away.
    pub fn invalidation_ends(&mut self) {
        self.sequence.end();
    }

    /// Unmaps every leaf that maps any of the `bytes` bytes from `gpa` on, as a whole, and shows
    /// each to `gone` as hardware left it: what was dirty goes into a log. Returns how many bytes
    /// were mapped.
    ///
    /// The pages themselves may be given away once `gather` is finished.
    ///
    /// ```
    /// # use pgtable_conformance::prelude::*;
    /// # pgtable_conformance::example!(faulted: stage, gather, slot);
    /// let mut written = Vec::new();
    /// let gone = |state: pgtable::second_stage::PageState<_>| {
    ///     written.extend(state.dirty.then_some(state.leaf.output));
    /// };
    /// assert_eq!(stage.unmap(Gpa::new(0x5678), 1, &mut gather, gone)?, 0x1000);
    /// stage.finish(&mut gather)?;
    /// assert_eq!(written, [Hpa::new(0x8000_5000)]);
    /// # Ok::<(), Box<dyn core::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// [`Error::Range`](crate::Error::Range) for addresses beyond the tree;
    /// [`Error::Malformed`](crate::Error::Malformed), [`Error::Memory`](crate::Error::Memory) if
    /// somebody else wrote the tree; [`Error::Invalidate`](crate::Error::Invalidate). Everything
    /// before the error's address is unmapped.
    pub fn unmap<I: Invalidate<Stage2, Identity = T>>(
        &mut self,
        gpa: Gpa,
        bytes: u64,
        gather: &mut Gather<'_, Stage2, I>,
        gone: impl FnMut(PageState<F>),
    ) -> Result<u64, RangeError<Gpa>> {
        self.sequence.advance();
        self.take(gpa, bytes, gather, gone)
    }

    /// The same, without a word to those who are about to fault in.
    pub(super) fn take<I: Invalidate<Stage2, Identity = T>>(
        &mut self,
        gpa: Gpa,
        bytes: u64,
        gather: &mut Gather<'_, Stage2, I>,
        mut gone: impl FnMut(PageState<F>),
    ) -> Result<u64, RangeError<Gpa>> {
        let Some((first, bytes)) = self.whole(gpa, bytes)? else { return Ok(0) };
        let format = *self.format();
        let each = |leaf| gone(PageState::of(&format, leaf));
        self.table.unmap_with(first, bytes, each, gather)
    }
}
