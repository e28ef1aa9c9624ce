//! A cache of translations, and what keeps it honest.
//!
//! # Protocol
//! A [`Generation`] counts invalidations. Whoever invalidates does it through a [`Watch`], which
//! counts on *before* the embedder's own invalidation returns; every [`TranslationCache`] compares
//! the count before each look-up, and forgets everything if it has moved. So a cache is never
//! staler than a TLB: once a gather is finished, nothing that it gathered is answered any more. One
//! generation serves any number of caches on any number of threads; a cache is one thread's own.

use core::cell::Cell;
use core::sync::atomic::{AtomicU64, Ordering};

use crate::access::{Access, Prot};
use crate::address::Address;
use crate::fault::Fault;
use crate::format::{Format, Input, Output};
use crate::gather::{Invalidate, InvalidateFailed};
use crate::geometry::Position;
use crate::memory::ReadMemory;
use crate::stage::Stage;
use crate::stale::Stale;
use crate::walk::{Leaf, TranslationOf, Walker};

/// How many invalidations there were.
#[derive(Debug, Default)]
pub struct Generation(AtomicU64);

impl Generation {
    /// No invalidation yet.
    ///
    /// ```
    /// # use pgtable_conformance::prelude::*;
    /// static GENERATION: Generation = Generation::new();
    /// let cache = TranslationCache::<Sv, 64>::new(&GENERATION);
    /// ```
    #[must_use]
    pub const fn new() -> Self {
        Self(AtomicU64::new(0))
    }

    /// Makes every cache forget: for changes that no [`Gather`](crate::invalidate::Gather) saw,
    /// such as a guest's own.
    ///
    /// ```
    /// # use pgtable_conformance::prelude::*;
    /// // The guest changed its tables and executed SFENCE.VMA.
    /// let generation = Generation::new();
    /// generation.advance();
    /// # Ok::<(), Box<dyn core::error::Error>>(())
    /// ```
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
    ///
    /// ```
    /// # use pgtable_conformance::prelude::*;
    /// # pgtable_conformance::example!(mapped: tree, unused);
    /// # let tlb = Tlb::default();
    /// let generation = Generation::new();
    /// let shootdown = Watch::new(&tlb, &generation);
    /// let mut gather = Gather::new(&shootdown, 7);
    /// tree.unmap(Gva::new(0x1000), 0x1000, &mut gather)?;
    /// // Every cache of this generation forgets what it has.
    /// gather.finish(tree.tables())?;
    /// # unused.finish(tree.tables())?;
    /// # Ok::<(), Box<dyn core::error::Error>>(())
    /// ```
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

    fn invalidate(
        &self,
        identity: I::Identity,
        stale: &Stale<S::Input>,
    ) -> Result<(), InvalidateFailed> {
        self.generation.advance();
        self.inner.invalidate(identity, stale)
    }

    fn abandoned(
        &self,
        identity: I::Identity,
        tables: usize,
        failed: Result<(), InvalidateFailed>,
    ) {
        self.inner.abandoned(identity, tables, failed);
    }
}

/// A translation, by the smallest page that it is looked up by. In one cache line.
#[derive(Debug)]
#[repr(align(64))]
struct Slot<F: Format> {
    /// The number of the page, as the input address has it, plus 1; 0 if the slot is empty.
    tag: Cell<u64>,
    leaf: Cell<Leaf<F>>,
}

/// A cache of `N` translations of one tree.
///
/// Permissions are judged anew for each access, so one entry serves reads, writes and fetches; only
/// successes are kept. Translations are looked up by the smallest leaf that was met since the last
/// invalidation; a larger one takes an entry for each part of that size that is used.
#[derive(Debug)]
pub struct TranslationCache<'g, F: Format, const N: usize = 64> {
    slots: [Slot<F>; N],
    /// log2 of the pages by which translations are looked up: the smallest that was met.
    shift: Cell<u8>,
    generation: &'g Generation,
    seen: Cell<u64>,
}

/// No page was met yet.
const ANY: u8 = 63;

impl<'g, F: Format, const N: usize> TranslationCache<'g, F, N> {
    /// An empty cache, kept honest by `generation`.
    ///
    /// ```
    /// # use pgtable_conformance::prelude::*;
    /// # pgtable_conformance::example!(mapped: tree, gather);
    /// let generation = Generation::new();
    /// let cache = TranslationCache::<Sv, 64>::new(&generation);
    /// assert!(cache.translate(&tree.walker(), Gva::new(0x1000), Access::READ).is_ok());
    /// # gather.finish(tree.tables())?;
    /// # Ok::<(), Box<dyn core::error::Error>>(())
    /// ```
    #[must_use]
    pub fn new(generation: &'g Generation) -> Self {
        let at = Position { level: crate::Level(0), shift: 0 };
        let attributes = F::Attributes::from(Prot::new());
        let leaf = Leaf { word: 0, at, path: F::Path::default(), output: 0, attributes };
        Self {
            slots: core::array::from_fn(|_| Slot { tag: Cell::new(0), leaf: Cell::new(leaf) }),
            shift: Cell::new(ANY),
            generation,
            seen: Cell::new(generation.now()),
        }
    }

    /// Translates one access by what is remembered, or else by `walker`, and remembers it.
    ///
    /// The cache belongs to one tree: `walker` must be that tree's each time.
    ///
    /// ```
    /// # use pgtable_conformance::prelude::*;
    /// # pgtable_conformance::example!(mapped: tree, gather);
    /// let generation = Generation::new();
    /// let cache = TranslationCache::<Sv, 64>::new(&generation);
    /// let walker = tree.walker();
    /// for access in [Access::READ, Access::WRITE] {
    ///     let found = cache.translate(&walker, Gva::new(0x1234), access)?;
    ///     assert_eq!(found.output, Gpa::new(0x80_1234));
    /// }
    /// # gather.finish(tree.tables())?;
    /// # Ok::<(), Box<dyn core::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// The [`Fault`] that the hardware raises for it.
    #[inline(always)]
    pub fn translate<M: ReadMemory<Output<F>>>(
        &self,
        walker: &Walker<F, M>,
        input: Input<F>,
        access: Access,
    ) -> Result<TranslationOf<F>, Fault<F>> {
        match self.remembered(walker.format(), input, access) {
            Some(translation) if self.is_current() => Ok(translation),
            _ => self.translate_and_remember(walker, input, access),
        }
    }

    /// Whether nothing was invalidated since something was remembered.
    #[inline(always)]
    fn is_current(&self) -> bool {
        self.generation.now() == self.seen.get()
    }

    /// The same for who remembers something of his own besides, since the count stood at `seen`.
    #[inline(always)]
    pub(crate) fn is_current_since(&self, seen: u64) -> bool {
        self.is_current() && self.seen.get() == seen
    }

    /// Forgets all if something was invalidated; returns the count as of which the cache is
    /// current.
    #[inline]
    pub(crate) fn make_current(&self) -> u64 {
        let now = self.generation.now();
        if now != self.seen.get() {
            self.forget(now);
        }
        now
    }

    /// The slot in which a page is looked for first: neighbours never share one.
    #[inline(always)]
    fn first(&self, page: u64) -> Option<&Slot<F>> {
        self.slots.get((page % N.max(1) as u64) as usize)
    }

    /// The slot to which it goes when another page needs the first one: which page of those that
    /// share the first goes where is no pattern of theirs.
    #[inline(always)]
    fn second(&self, page: u64) -> Option<&Slot<F>> {
        // 2^64 divided by the golden ratio.
        let spread = page.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32;
        self.slots.get(((spread * N as u64) >> 32) as usize)
    }

    /// What is remembered of `input`, if it allows `access`. For who looks whether the cache is
    /// current.
    #[inline(always)]
    pub(crate) fn remembered(
        &self,
        format: &F,
        input: Input<F>,
        access: Access,
    ) -> Option<TranslationOf<F>> {
        let page = input.get() >> (self.shift.get() & 63);
        let here = |slot: &&Slot<F>| slot.tag.get() == page.wrapping_add(1);
        let leaf =
            self.first(page).filter(here).or_else(|| self.second(page).filter(here))?.leaf.get();
        let allowed = format.check(leaf.word, leaf.at, leaf.path, access).is_ok();
        allowed.then(|| leaf.translation(format, input.get()))
    }

    #[inline(never)]
    fn translate_and_remember<M: ReadMemory<Output<F>>>(
        &self,
        walker: &Walker<F, M>,
        input: Input<F>,
        access: Access,
    ) -> Result<TranslationOf<F>, Fault<F>> {
        self.make_current();
        let (leaf, offset) = walker.find(input, access)?;
        if leaf.at.shift < self.shift.get() {
            // At most once for each size of leaves; then all are looked up by the smallest.
            self.forget(self.seen.get());
            self.shift.set(leaf.at.shift);
        }
        let page = input.get() >> (self.shift.get() & 63);
        if let Some(first) = self.first(page) {
            let (tag, before) = (first.tag.replace(page.wrapping_add(1)), first.leaf.replace(leaf));
            let moves = tag != 0 && tag != page.wrapping_add(1);
            // Which may be the same slot: then it is forgotten.
            let second = self
                .second(tag.wrapping_sub(1))
                .filter(|second| moves && !core::ptr::eq(*second, first));
            if let Some(second) = second {
                second.tag.set(tag);
                second.leaf.set(before);
            }
        }
        Ok(leaf.translation(walker.format(), offset))
    }

    #[cold]
    #[inline(never)]
    fn forget(&self, now: u64) {
        for slot in &self.slots {
            slot.tag.set(0);
        }
        self.shift.set(ANY);
        self.seen.set(now);
    }
}
