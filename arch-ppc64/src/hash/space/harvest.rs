//! Which pages were used, or written, since the last time.
//!
//! The software tree knows: R and C stand in a page's word before an entry exists that allows the
//! access. So the record of a page is cleared by taking its entries out of the hashed table, by the
//! slots that it remembers, and then clearing the bit in its word: its next use makes an entry
//! anew, and is noted there. A page without the bit is not touched, nor is its entry.

use pgtable::allocator::TableAllocator;
use pgtable::format::Format;
use pgtable::invalidate::{Gather, Invalidate, Unused};
use pgtable::memory::TableMemory;
use pgtable::tree::{Recorded, Writers};
use pgtable::{Gpa, Gva, RangeError, Stage1};

use super::HashedSpace;
use super::change::{Arrays, gather_error};
use super::pte::{C, R};

impl<M, A, H> HashedSpace<M, A, H>
where
    M: TableMemory<Gpa>,
    A: TableAllocator<Gpa>,
    H: TableMemory<Gpa>,
{
    /// Collects which pages in the `bytes` bytes from `input` on were used (or written), and clears
    /// the record, as [`PageTable::harvest`](pgtable::tree::PageTable::harvest) does for a tree:
    /// bit `n` of `bitmap` is the `n`th page of the space's smallest size. Returns how many bits it
    /// set. Hardware may go on meanwhile.
    ///
    /// What was cleared is in `gather`. Until it is finished, hardware may write by translations
    /// that it remembers, without recording: for a copy that is to be complete, harvest, finish the
    /// gather, and *then* read the pages.
    ///
    /// # Errors
    /// [`RangeError`] as for iteration; everything before that address is harvested.
    pub fn harvest<I: Invalidate<Stage1>>(
        &mut self,
        input: Gva,
        bytes: u64,
        recorded: Recorded,
        bitmap: &mut [u64],
        gather: &mut Gather<'_, Stage1, I>,
    ) -> Result<u64, RangeError<Gva>> {
        let bit = match recorded {
            Recorded::Accessed => R,
            Recorded::Dirty => C,
        };
        let page_shift = self.tree.format().geometry().page_shift();
        let room = (bitmap.len() as u64).saturating_mul(64).saturating_mul(1 << page_shift);
        let bytes = bytes.min(room);
        self.check_range(input, bytes)?;
        self.flush(input, bytes, gather, Arrays::Keep, bit)?;
        // Nobody but this crate writes the tree, and the space is exclusive. What is stale is in
        // the caller's gather already.
        let mut unused = Gather::new(&Unused, ());
        let found =
            self.tree.harvest(input, bytes, recorded, Writers::Stopped, bitmap, &mut unused);
        let finished = unused.finish(self.tree.tables());
        finished.map_err(|error| RangeError { at: input, error: gather_error(error) }).and(found)
    }
}
