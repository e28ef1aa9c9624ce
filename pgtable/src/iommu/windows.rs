//! Windows: translations that devices use, and how they are forgotten.
//!
//! A window belongs to whoever has it locked. Which translations it may keep is counted: each
//! [`forget`](Windows::forget) begins a new generation, and whoever locks a window that is of an
//! older one empties it. So a forget has nothing to empty, and it waits only for those that locked
//! their window in an older generation; who locks one later has seen what was changed before. That
//! nobody overtakes it for ever, a window for which a forget waits is left to it while another is
//! free.

extern crate std;

use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::boxed::Box;
use std::sync::{Mutex, MutexGuard, PoisonError, TryLockError};

use vm_memory::Permissions;
use vm_memory::iommu::Iotlb;

/// The translations of one page, or of the pages of one request.
#[derive(Debug, Default)]
pub(super) struct Window {
    /// In which generation they were made.
    pub(super) generation: u64,
    /// The addresses that it answers for; none if they are equal.
    pub(super) start: u64,
    pub(super) end: u64,
    /// What all of it allows.
    pub(super) allows: Option<Permissions>,
    pub(super) iotlb: Iotlb,
}

impl Window {
    /// Has nothing any more, as of `generation`.
    fn empty(&mut self, generation: u64) {
        *self = Self { generation, ..Self::default() };
    }

    /// Has what `filled` has, as of the same generation.
    pub(super) fn fill(&mut self, filled: Self) {
        *self = Self { generation: self.generation, ..filled };
    }
}

#[derive(Debug, Default)]
struct Slot {
    window: Mutex<Window>,
    /// In which generation it was locked last.
    since: AtomicU64,
    /// How many forgets wait for it.
    waiting: AtomicU32,
}

/// All windows.
#[derive(Debug)]
pub(super) struct Windows {
    slots: Box<[Slot]>,
    generation: AtomicU64,
}

impl Windows {
    pub(super) fn new(windows: usize) -> Self {
        let slots = (0..windows).map(|_| Slot::default()).collect();
        Self { slots, generation: AtomicU64::new(0) }
    }

    /// A window that nobody uses, the first from the `home`th on, round and round.
    #[inline]
    pub(super) fn lock(&self, home: u64) -> Option<MutexGuard<'_, Window>> {
        let home = (home % self.slots.len().max(1) as u64) as usize;
        let (before, from) = self.slots.split_at_checked(home)?;
        let left = |slot: &&Slot| slot.waiting.load(Ordering::Relaxed) == 0;
        let slots = || from.iter().chain(before);
        slots()
            .filter(left)
            .find_map(|slot| self.take(slot))
            .or_else(|| slots().find_map(|slot| self.take(slot)))
    }

    #[inline]
    fn take<'w>(&self, slot: &'w Slot) -> Option<MutexGuard<'w, Window>> {
        let (mut window, whole) = match slot.window.try_lock() {
            Ok(window) => (window, true),
            Err(TryLockError::Poisoned(poisoned)) => {
                slot.window.clear_poison();
                (poisoned.into_inner(), false)
            }
            Err(TryLockError::WouldBlock) => return None,
        };
        // What was changed before the generation began is seen from here on.
        let generation = self.generation.load(Ordering::Acquire);
        slot.since.store(generation, Ordering::Release);
        if !whole || window.generation != generation {
            window.empty(generation);
        }
        Some(window)
    }

    /// Forgets everything, and waits for those who locked a window before.
    pub(super) fn forget(&self) {
        let generation = self.generation.fetch_add(1, Ordering::AcqRel) + 1;
        for slot in &self.slots {
            let busy = matches!(slot.window.try_lock(), Err(TryLockError::WouldBlock));
            if busy && slot.since.load(Ordering::Acquire) < generation {
                slot.waiting.fetch_add(1, Ordering::Relaxed);
                drop(slot.window.lock().unwrap_or_else(PoisonError::into_inner));
                slot.waiting.fetch_sub(1, Ordering::Relaxed);
            }
        }
    }
}

#[cfg(test)]
#[path = "windows_tests.rs"]
mod tests;
