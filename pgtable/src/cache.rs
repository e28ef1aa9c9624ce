//! A cache of translations, and what keeps it honest.
//!
//! # Protocol
//! A [`Generation`] counts invalidations. Whoever invalidates does it through a [`Watch`], which counts on *before* the embedder's own
//! invalidation returns; every [`TranslationCache`] compares the count before each look-up, and forgets everything if
//! it has moved. So a cache is never staler than a TLB: once a gather is finished, nothing that it gathered is answered
//! any more. One generation serves any number of caches on any number of threads; a cache is one thread's own.

use core::cell::Cell;
use core::sync::atomic::{AtomicU64, Ordering};

use crate::access::{Access, Prot};
use crate::address::{Address, low_bits};
use crate::fault::Fault;
use crate::format::{Format, Input, Output};
use crate::gather::{Invalidate, InvalidateFailed, Stale};
use crate::geometry::Position;
use crate::memory::TableMemory;
use crate::stage::Stage;
use crate::walk::{Leaf, TranslationOf, Walker};

/// How many invalidations there were.
#[derive(Debug, Default)]
pub struct Generation(AtomicU64);

impl Generation {
    /// No invalidation yet.
    #[must_use]
    pub const fn new() -> Self {
        Self(AtomicU64::new(0))
    }

    /// Makes every cache forget: for changes that no [`Gather`](crate::Gather) saw, such as a guest's own.
    pub fn advance(&self) {
        self.0.fetch_add(1, Ordering::Release);
    }

    fn now(&self) -> u64 {
        self.0.load(Ordering::Acquire)
    }
}

/// An [`Invalidate`] that also advances a [`Generation`].
#[derive(Clone, Copy, Debug)]
pub struct Watch<'g, I> {
    inner: I,
    generation: &'g Generation,
}

impl<'g, I> Watch<'g, I> {
    /// `inner`, watched by `generation`'s caches.
    pub const fn new(inner: I, generation: &'g Generation) -> Self {
        Self { inner, generation }
    }

    /// What does the invalidating.
    pub const fn inner(&self) -> &I {
        &self.inner
    }
}

impl<S: Stage, I: Invalidate<S>> Invalidate<S> for Watch<'_, I> {
    type Identity = I::Identity;

    fn invalidate(&self, identity: I::Identity, stale: &Stale<S::Input>) -> Result<(), InvalidateFailed> {
        self.generation.advance();
        self.inner.invalidate(identity, stale)
    }

    fn abandoned(&self, identity: I::Identity, tables: usize, failed: Result<(), InvalidateFailed>) {
        self.inner.abandoned(identity, tables, failed);
    }
}

/// A translation, by the smallest page that it is looked up by.
#[derive(Clone, Copy, Debug)]
struct Slot<F: Format> {
    /// The page's number, plus 1; 0 if the slot is empty.
    tag: u64,
    leaf: Leaf<F>,
}

/// A direct-mapped cache of `N` translations of one tree.
///
/// Permissions are judged anew for each access, so one entry serves reads, writes and fetches; only successes are kept. A larger leaf
/// takes an entry for each small page of it that is used.
#[derive(Debug)]
pub struct TranslationCache<'g, F: Format, const N: usize = 64> {
    slots: [Cell<Slot<F>>; N],
    generation: &'g Generation,
    seen: Cell<u64>,
}

impl<'g, F: Format, const N: usize> TranslationCache<'g, F, N> {
    /// An empty cache, kept honest by `generation`.
    #[must_use]
    pub fn new(generation: &'g Generation) -> Self {
        let at = Position { level: crate::Level(0), shift: 0 };
        let attributes = F::Attributes::from(Prot::new());
        let leaf = Leaf { word: 0, at, path: F::Path::default(), output: 0, attributes };
        Self {
            slots: core::array::from_fn(|_| Cell::new(Slot { tag: 0, leaf })),
            generation,
            seen: Cell::new(generation.now()),
        }
    }

    /// Translates one access by what is remembered, or else by `walker`, and remembers it.
    ///
    /// The cache belongs to one tree: `walker` must be that tree's each time.
    ///
    /// # Errors
    /// The [`Fault`] that the hardware raises for it.
    #[inline]
    pub fn translate<M: TableMemory<Output<F>>>(
        &self,
        walker: &Walker<F, M>,
        input: Input<F>,
        access: Access,
    ) -> Result<TranslationOf<F>, Fault<F>> {
        let now = self.generation.now();
        if now != self.seen.get() {
            self.forget(now);
        }
        let format = walker.format();
        let page_shift = format.geometry().finest_shift();
        let page = format.offset(input).map(|offset| offset >> page_shift);
        let slot = page.and_then(|page| self.slots.get(page as usize % N.max(1)));
        if let (Some(slot), Some(page)) = (slot, page) {
            let Slot { tag, leaf } = slot.get();
            if tag == page + 1 && format.check(leaf.word, leaf.at, leaf.path, access).is_ok() {
                return Ok(leaf.translation((page << page_shift) | (input.get() & low_bits(page_shift))));
            }
        }
        let (leaf, offset) = walker.find(input, access)?;
        if let (Some(slot), Some(page)) = (slot, page) {
            slot.set(Slot { tag: page + 1, leaf });
        }
        Ok(leaf.translation(offset))
    }

    #[cold]
    fn forget(&self, now: u64) {
        for slot in &self.slots {
            slot.set(Slot { tag: 0, ..slot.get() });
        }
        self.seen.set(now);
    }
}
