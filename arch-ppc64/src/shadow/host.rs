//! From our side: what our own second stage loses, its shadows lose.

use pgtable::{Gpa, Hpa, Stage2, low_bits};

use pgtable::allocator::TableAllocator;

use pgtable::invalidate::{Gather, Invalidate};

use pgtable::memory::TableMemory;

use super::{Error, Nested};
use crate::radix::RcPolicy;
use crate::second_stage::SecondStage;

/// What was taken away from leaves of our second stage that are still there.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[non_exhaustive]
pub enum Restriction {
    /// R: they were aged. Nothing is invalidated, as for the leaves themselves.
    Reference,
    /// C: they are being logged.
    Change,
    /// The permission to write.
    Write,
}

impl Restriction {
    /// Takes it from the shadow entry for `n_gpa`. Where hardware sets C by itself, the permission
    /// to write goes with C.
    fn take_from<M, A, I>(
        self,
        shadow: &mut SecondStage<M, A>,
        n_gpa: Gpa,
        gather: &mut Gather<'_, Stage2, I>,
    ) -> Result<(), Error>
    where
        M: TableMemory<Hpa>,
        A: TableAllocator<Hpa>,
        I: Invalidate<Stage2, Identity = u32>,
    {
        let records = shadow.format().rc() == RcPolicy::HardwareUpdate;
        if self == Self::Reference {
            shadow.age(n_gpa, 1, gather, |_| ())?;
        }
        if self == Self::Change {
            shadow.clear_dirty(n_gpa, 1, gather, |_| ())?;
        }
        if self == Self::Write || self == Self::Change && records {
            shadow.write_protect(n_gpa, 1, gather)?;
        }
        Ok(())
    }
}

/// The range, and what the leaves at its ends reach beyond it.
fn whole_leaves<M: TableMemory<Hpa>, A: TableAllocator<Hpa>>(
    host: &SecondStage<M, A>,
    gpa: Gpa,
    bytes: u64,
) -> Result<(Gpa, u64), Error> {
    let Some(last) = bytes.checked_sub(1).map(|more| gpa.get().saturating_add(more)) else {
        return Ok((gpa, 0));
    };
    // Beyond the tree there are no leaves.
    let leaf = |address| Ok::<_, Error>(host.state_at(Gpa::new(address))?.map(|state| state.leaf));
    let first = leaf(gpa.get())?.map_or(gpa.get(), |leaf| leaf.input.get());
    let last = leaf(last)?.map_or(last, |leaf| leaf.input.get() | low_bits(leaf.shift));
    Ok((Gpa::new(first), (last - first).saturating_add(1)))
}

impl<M: TableMemory<Hpa>, A: TableAllocator<Hpa>> Nested<M, A> {
    /// Our second stage no longer maps the `bytes` bytes of L1's memory from `gpa` on: drops every
    /// shadow entry that was made through any of them, and makes it unreachable. Returns how many
    /// those were.
    ///
    /// To be called for each leaf that
    /// [`SecondStage::unmap`](crate::second_stage::SecondStage::unmap) or
    /// [`fault_in`](crate::second_stage::SecondStage::fault_in) reports gone, before the page is
    /// given away.
    ///
    /// # Errors
    /// The first [`Error`]; all entries were tried, and the page must not be given away.
    pub fn lost<I: Invalidate<Stage2, Identity = u32>>(
        &mut self,
        gpa: Gpa,
        bytes: u64,
        by: &I,
    ) -> Result<usize, Error> {
        let Self { partitions, links, .. } = self;
        let mut dropped = Ok(0);
        links.take(gpa, bytes, |link| {
            let Some(partition) = partitions.get_mut(&link.l2()) else { return };
            let done = partition.change(by, |shadow, gather| {
                Ok(shadow.unmap(link.n_gpa(), link.bytes(), gather, |_| ()).map(|_| ())?)
            });
            dropped = dropped.and_then(|dropped| done.map(|()| dropped + 1));
        });
        dropped
    }

    /// The leaves of our second stage `host` that map any of the `bytes` bytes of L1's memory from
    /// `gpa` on lost something: so do the shadow entries that were made through any part of them.
    /// (Whatever takes something from a range takes it from whole leaves.)
    ///
    /// To be called before anything else changes `host`.
    ///
    /// # Errors
    /// The first [`Error`]; all entries were tried.
    pub fn restrict<M0, A0, I>(
        &mut self,
        host: &SecondStage<M0, A0>,
        gpa: Gpa,
        bytes: u64,
        what: Restriction,
        by: &I,
    ) -> Result<(), Error>
    where
        M0: TableMemory<Hpa>,
        A0: TableAllocator<Hpa>,
        I: Invalidate<Stage2, Identity = u32>,
    {
        let Self { partitions, links, .. } = self;
        let mut all = Ok(());
        let (gpa, bytes) = whole_leaves(host, gpa, bytes)?;
        links.for_each(gpa, bytes, |link| {
            let Some(partition) = partitions.get_mut(&link.l2()) else { return };
            let done =
                partition.change(by, |shadow, gather| what.take_from(shadow, link.n_gpa(), gather));
            all = all.and(done);
        });
        all
    }

    /// Whether any shadow entry that was made through the `bytes` bytes of L1's memory from `gpa`
    /// on has R.
    ///
    /// # Errors
    /// [`Error::Tree`]: somebody else wrote a shadow.
    pub fn test_age(&self, gpa: Gpa, bytes: u64) -> Result<bool, Error> {
        let mut young = Ok(false);
        self.links.for_each(gpa, bytes, |link| {
            if let (Ok(false), Some(partition)) = (&young, self.partitions.get(&link.l2())) {
                young = partition.shadow.test_age(link.n_gpa(), 1).map_err(Error::from);
            }
        });
        young
    }
}
