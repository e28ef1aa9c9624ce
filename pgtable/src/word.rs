//! One table word in memory: where memory order becomes the architecture's bit order, and which
//! orderings apply.
//!
//! # Orderings
//! A store that links a table is `Release`, after the table's own words. A walker loads `Relaxed`:
//! the address of its next load depends on the value of the last, and every architecture that Rust
//! supports orders dependent loads (an `Acquire` would cost a barrier per level on POWER, and buys
//! only what the dependency gives). Rust's memory model has no dependency ordering, so under loom,
//! which checks by that model, the loads are `Acquire`.

use core::sync::atomic::Ordering;

use crate::format::Format;
use crate::table_word::TableWord;

/// The ordering of a walker's loads. See the module's documentation.
const WALK: Ordering = if cfg!(pgtable_loom) { Ordering::Acquire } else { Ordering::Relaxed };

/// A word in memory order → the architecture's bit order, and back.
#[inline(always)]
pub(crate) fn swap<F: Format>(word: u64) -> u64 {
    F::Word::swap(F::BYTE_ORDER, word)
}

/// A word of a table of format `F`, seen in the architecture's bit order.
#[derive(Debug)]
pub(crate) struct Word<'m, F: Format> {
    memory: &'m F::Word,
}

impl<F: Format> Clone for Word<'_, F> {
    #[inline(always)]
    fn clone(&self) -> Self {
        *self
    }
}

impl<F: Format> Copy for Word<'_, F> {}

impl<'m, F: Format> Word<'m, F> {
    #[inline(always)]
    pub(crate) fn new(memory: &'m F::Word) -> Self {
        Self { memory }
    }

    /// The word as it stands in memory.
    #[inline(always)]
    pub(crate) fn memory(self) -> &'m F::Word {
        self.memory
    }

    #[inline(always)]
    pub(crate) fn load(self) -> u64 {
        swap::<F>(self.memory.load_raw(WALK))
    }

    /// Stores a leaf, or nothing.
    #[inline(always)]
    pub(crate) fn store(self, word: u64) {
        self.memory.store_raw(swap::<F>(word), Ordering::Relaxed);
    }

    /// Stores an entry by which walkers reach what was stored before.
    #[inline(always)]
    pub(crate) fn publish(self, word: u64) {
        self.memory.store_raw(swap::<F>(word), Ordering::Release);
    }

    /// Takes the entry out: what it held, with everything that hardware has set until now.
    #[inline(always)]
    pub(crate) fn take(self) -> u64 {
        swap::<F>(self.memory.swap_raw(0, Ordering::AcqRel))
    }

    /// Stores `marked` if the entry still holds `judged`.
    #[inline(always)]
    pub(crate) fn mark(self, judged: u64, marked: u64) -> bool {
        self.memory.exchange_raw(swap::<F>(judged), swap::<F>(marked))
    }
}

/// Any of `mask`'s bits set in `memory`, without bringing the word into the architecture's order.
#[inline(always)]
pub(crate) fn any_set<F: Format>(memory: &F::Word, mask: u64) -> bool {
    load_raw(memory) & swap::<F>(mask) != 0
}

/// What `memory` holds, in memory order.
#[inline(always)]
pub(crate) fn load_raw<W: TableWord>(memory: &W) -> u64 {
    memory.load_raw(WALK)
}

/// What `memory` holds, in the architecture's bit order, if any of `mask`'s bits is set: one load,
/// and no change of order for nothing.
#[inline(always)]
pub(crate) fn load_any<F: Format>(memory: &F::Word, mask: u64) -> Option<u64> {
    let word = load_raw(memory);
    (word & swap::<F>(mask) != 0).then(|| swap::<F>(word))
}
