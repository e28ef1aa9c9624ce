//! When has every reader left who could still see a table that left its tree?
//!
//! # Protocol of [`Epochs`]
//! A reader announces the epoch in which it starts, in a slot of its own, and clears the slot when
//! it ends. A grace period starts by moving the epoch on; it has passed when no slot shows an older
//! epoch.
//!
//! A reader whose announcement the writer doesn't see yet is the dangerous one. Both sides have a
//! SeqCst fence between their own store and their load of the other's: the reader between
//! announcing and its first look at the tree, the writer between unlinking and reading the slots.
//! So either the writer sees the announcement, or the reader sees the table unlinked. Every store
//! to a slot is a Release that the writer's load acquires, so that whatever the load finds (a
//! cleared slot, or a later reading by the same reader), what was read before happened before the
//! table is used again. Checked by `loom/frag-alloc/tests/grace.rs`.

use alloc::boxed::Box;

use crate::sync::{AtomicU64, Ordering, fence};

/// Grace periods, as the embedder's own RCU has them: Linux's `start_poll_synchronize_rcu` and
/// `poll_state_synchronize_rcu`.
pub trait Grace {
    /// Starts a grace period (or joins one that has not started yet); returns what to ask for it
    /// by.
    fn start(&self) -> u64;

    /// Whether every reader that was there at the [`start`](Self::start) that returned `cookie` has
    /// left.
    fn passed(&self, cookie: u64) -> bool;
}

/// Grace periods that give out the readers for which they wait: what a tree that threads share
/// needs of its [`Deferred`](crate::Deferred).
///
/// An embedder's own RCU implements it with a [`pgtable::shared::ReadSide`] of its own.
pub trait Readers: Grace {
    /// One thread's reading side.
    type Reader<'a>: pgtable::shared::ReadSide
    where
        Self: 'a;

    /// A reader for one thread; `None` if there can be no more of them now.
    fn reader(&self) -> Option<Self::Reader<'_>>;
}

/// Both traits for a pointer to grace periods.
macro_rules! through {
    ($($pointer:ty),*) => {$(
        impl<G: Grace + ?Sized> Grace for $pointer {
            fn start(&self) -> u64 {
                (**self).start()
            }

            fn passed(&self, cookie: u64) -> bool {
                (**self).passed(cookie)
            }
        }

        impl<G: Readers + ?Sized> Readers for $pointer {
            type Reader<'a>
                = G::Reader<'a>
            where
                Self: 'a;

            fn reader(&self) -> Option<Self::Reader<'_>> {
                (**self).reader()
            }
        }
    )*};
}

through!(&G, Box<G>, alloc::rc::Rc<G>, alloc::sync::Arc<G>);

/// No reader slot is in use.
const QUIET: u64 = 0;
/// Nobody has the slot.
const VACANT: u64 = u64::MAX;

/// A reader's slot, on a cache line of its own: POWER's are of 128 bytes, and some x86 CPUs fetch
/// two of 64 at once.
#[derive(Debug)]
#[repr(align(128))]
struct Slot(AtomicU64);

/// Epochs for a fixed number of readers.
#[derive(Debug)]
pub struct Epochs {
    now: AtomicU64,
    slots: Box<[Slot]>,
}

impl Epochs {
    /// For up to `readers` readers at a time.
    #[must_use]
    pub fn new(readers: usize) -> Self {
        let slots = (0..readers).map(|_| Slot(AtomicU64::new(VACANT))).collect();
        Self { now: AtomicU64::new(1), slots }
    }

    /// A slot for one thread's reading; `None` if all are in use.
    pub fn reader(&self) -> Option<Reader<'_>> {
        let free = |slot: &&Slot| {
            slot.0.compare_exchange(VACANT, QUIET, Ordering::AcqRel, Ordering::Relaxed).is_ok()
        };
        self.slots.iter().find(free).map(|slot| Reader { epochs: self, slot })
    }
}

impl Grace for Epochs {
    fn start(&self) -> u64 {
        self.now.fetch_add(1, Ordering::AcqRel) + 1
    }

    fn passed(&self, cookie: u64) -> bool {
        fence(Ordering::SeqCst);
        let left = |slot: &Slot| match slot.0.load(Ordering::Acquire) {
            QUIET | VACANT => true,
            since => since >= cookie,
        };
        self.slots.iter().all(left)
    }
}

impl Readers for Epochs {
    type Reader<'a> = Reader<'a>;

    fn reader(&self) -> Option<Reader<'_>> {
        Self::reader(self)
    }
}

/// One thread's right to read.
#[derive(Debug)]
pub struct Reader<'e> {
    epochs: &'e Epochs,
    slot: &'e Slot,
}

impl Reader<'_> {
    /// Starts reading: what is reachable from now on stays until the [`Reading`] is dropped.
    pub fn read(&mut self) -> Reading<'_> {
        // Release: a writer that finds this reading has to see that the one before has ended.
        self.slot.0.store(self.epochs.now.load(Ordering::Acquire), Ordering::Release);
        fence(Ordering::SeqCst);
        Reading { slot: self.slot }
    }
}

/// What a writer of a tree that many change at once descends under.
impl pgtable::shared::ReadSide for Reader<'_> {
    type Reading<'r>
        = Reading<'r>
    where
        Self: 'r;

    fn read(&mut self) -> Reading<'_> {
        Reader::read(self)
    }

    fn wait(turns: u32) -> bool {
        // What is done with a table locked takes a microsecond or two. Beyond that, the other
        // writer may have lost the CPU to us. A range that stays locked for longer than a million
        // yields (about a second, if nothing else runs) is an error of the verb that waits for it.
        #[cfg(feature = "std")]
        if turns > 1 << 10 {
            std::thread::yield_now();
        }
        // A model checker has to be told, or it would explore every number of turns.
        #[cfg(pgtable_loom)]
        loom::thread::yield_now();
        core::hint::spin_loop();
        turns < 1 << 20
    }
}

impl Drop for Reader<'_> {
    fn drop(&mut self) {
        self.slot.0.store(VACANT, Ordering::Release);
    }
}

/// While it lives, no table that was reachable when it began is handed out again.
#[derive(Debug)]
#[must_use = "dropping it ends the reading"]
pub struct Reading<'r> {
    slot: &'r Slot,
}

impl Drop for Reading<'_> {
    fn drop(&mut self) {
        self.slot.0.store(QUIET, Ordering::Release);
    }
}
