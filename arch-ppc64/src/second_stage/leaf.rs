//! One leaf in memory, and the only way in which this module changes one: atomically, returning
//! what was there (KVM's `kvmppc_radix_update_pte`).
//!
//! Whoever changes a leaf is the tree's one writer, so between a look and a change only hardware's
//! own bits (R, C) can differ; they are kept, and what the change returns holds them.

use core::cell::Cell;
use core::ops::ControlFlow;
use core::sync::atomic::{AtomicU64, Ordering};

use pgtable::allocator::TableAllocator;
use pgtable::format::{ByteOrder, Entry, Format};
use pgtable::memory::TableMemory;
use pgtable::{Error, Gpa, Hpa, Position, RangeError};

use super::{Leaf, SecondStage};
use crate::radix::{PageAttributes, PartitionScoped, Pte};

/// A leaf that stands in the tree.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Standing<'m> {
    memory: &'m AtomicU64,
    /// Whether it was changed.
    changed: &'m Cell<bool>,
    /// The first guest address that it maps.
    pub(crate) gpa: Gpa,
    /// Where it stands.
    pub(crate) at: Position,
}

impl Standing<'_> {
    /// What it holds.
    pub(crate) fn pte(self) -> Pte {
        Pte::from_bits(ByteOrder::Big.swap(self.memory.load(Ordering::Relaxed)))
    }

    /// Clears the bits of `mask`; returns what it held.
    pub(crate) fn clear(self, mask: Pte) -> Pte {
        let old = self.memory.fetch_and(ByteOrder::Big.swap(!mask.into_bits()), Ordering::AcqRel);
        self.changed.set(true);
        Pte::from_bits(ByteOrder::Big.swap(old))
    }

    /// Sets the bits of `mask`; returns what it held.
    pub(crate) fn set(self, mask: Pte) -> Pte {
        let old = self.memory.fetch_or(ByteOrder::Big.swap(mask.into_bits()), Ordering::AcqRel);
        self.changed.set(true);
        Pte::from_bits(ByteOrder::Big.swap(old))
    }

    /// The leaf as which `pte` stands here.
    pub(crate) fn leaf(self, pte: Pte) -> Leaf {
        let output = Hpa::new(pte.page() & !(self.at.size() - 1));
        let (bytes, shift) = (self.at.size(), self.at.shift);
        Leaf { input: self.gpa, output, bytes, shift, attributes: PageAttributes::of(pte) }
    }
}

/// Bits of a leaf, by name.
pub(crate) const R: Pte = Pte::new().with_r(true);
pub(crate) const C: Pte = Pte::new().with_c(true);
pub(crate) const RC: Pte = R.with_c(true);
pub(crate) const W: Pte = Pte::new().with_eaa(crate::radix::Eaa::new().with_write(true));
pub(crate) const EAA: Pte = Pte::new().with_eaa(crate::radix::Eaa::from_bits(15));

impl<M: TableMemory<Hpa>, A: TableAllocator<Hpa>> SecondStage<M, A> {
    /// Shows `visit` every leaf that maps any of the `bytes` bytes from `gpa` on, in order, until
    /// it breaks. Tells the table memory of each that it changes.
    pub(crate) fn for_each_standing<B>(
        &self,
        gpa: Gpa,
        bytes: u64,
        mut visit: impl FnMut(Standing<'_>) -> ControlFlow<B>,
    ) -> Result<ControlFlow<B>, RangeError<Gpa>> {
        let format: PartitionScoped = *self.table.format();
        self.table.walker().for_each_run(gpa, bytes, |run| {
            let at = run.at();
            for (index, memory) in run.words().iter().enumerate() {
                let word = ByteOrder::Big.swap(memory.load(Ordering::Relaxed));
                if let Entry::Leaf { .. } = format.decode(word, at) {
                    let gpa = Gpa::new(run.input().get() + ((index as u64) << at.shift));
                    let changed = Cell::new(false);
                    let step = visit(Standing { memory, changed: &changed, gpa, at });
                    if changed.get() {
                        let entry = run.entry().get() + index as u64 * 8;
                        self.table.memory().wrote(Hpa::new(entry), 1);
                    }
                    if step.is_break() {
                        return step;
                    }
                }
            }
            ControlFlow::Continue(())
        })
    }

    /// Shows `visit` the leaf that maps `gpa`; `None` if there is none, or `gpa` is no address of
    /// the tree.
    pub(crate) fn standing_at<R>(
        &self,
        gpa: Gpa,
        visit: impl FnOnce(Standing<'_>) -> R,
    ) -> Result<Option<R>, RangeError<Gpa>> {
        let mut visit = Some(visit);
        let seen = self.for_each_standing(gpa, 1, |standing| match visit.take() {
            Some(visit) => ControlFlow::Break(visit(standing)),
            None => ControlFlow::Continue(()),
        });
        match seen {
            Ok(ControlFlow::Break(value)) => Ok(Some(value)),
            Ok(ControlFlow::Continue(())) | Err(RangeError { error: Error::Range, .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }
}
