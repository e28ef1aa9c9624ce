//! Which locked ranges of a shared tree are alive.
//!
//! A table that a [`LockedRange`](crate::shared::LockedRange) has locked names it by a number. When
//! the range ends, its number is dead from then on, and so is each lock that names it, whether or
//! not the range could find the table again: a guest that writes the tables can hide one.
//!
//! A number is a slot, of which a range has one to itself while it lives, and how often the slot
//! was used. So two ranges that are alive have two numbers, and a lock that is left over names a
//! range that is alive only after 2^13 more ranges of that slot. Then it belongs to that range
//! alone, until that ends.

use core::sync::atomic::Ordering;

#[cfg(not(pgtable_loom))]
use core::sync::atomic::{AtomicU16, AtomicU32, fence};
#[cfg(pgtable_loom)]
use loom::sync::atomic::{AtomicU16, AtomicU32, fence};

/// Ranges of one tree that are alive at once. (One that was forgotten lives as long as the tree is
/// shared.)
const SLOTS: usize = if cfg!(pgtable_loom) { 2 } else { 128 };
/// Bits of a number that say how often its slot was used.
const USES: u32 = 13;

/// How often a slot may have been used before a tree is shared (again): its ranges get other
/// numbers than ranges that were forgotten before.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Uses(u16);

/// The locked ranges of a tree.
#[derive(Debug)]
pub(crate) struct Ranges {
    /// How often each slot was used, and in bit 0 whether a range has it.
    slots: [AtomicU16; SLOTS],
    /// Writers that were ever made.
    writers: AtomicU32,
    /// What all slots began with.
    before: Uses,
}

impl Ranges {
    /// Those of a tree that is shared from now on, in which slots were used before.
    pub(crate) fn after(before: Uses) -> Self {
        let slots = core::array::from_fn(|_| AtomicU16::new(before.0 << 1));
        Self { slots, writers: AtomicU32::new(0), before }
    }

    /// How often slots were used when the tree is shared no more.
    pub(crate) fn uses(&self) -> Uses {
        let all = (1 << USES) - 1;
        let since = |slot: &AtomicU16| {
            (slot.load(Ordering::Relaxed) >> 1).wrapping_sub(self.before.0) & all
        };
        Uses(self.before.0.wrapping_add(self.slots.iter().map(since).max().unwrap_or(0)) & all)
    }

    /// The number of a new writer.
    pub(crate) fn writer(&self) -> u32 {
        self.writers.fetch_add(1, Ordering::Relaxed)
    }

    /// Whether the range of that number has not ended. For a thread that has read the number in
    /// the state of a table.
    pub(crate) fn is_alive(&self, number: u32) -> bool {
        let (slot, uses) = parts(number);
        // With the fence of `begin`: who sees a lock of the range sees that the range began.
        fence(Ordering::Acquire);
        // Whoever finds it dead sees what the range stored.
        self.slots.get(slot).is_some_and(|it| it.load(Ordering::SeqCst) == uses << 1 | 1)
    }

    /// The number of a new range, alive from now on; `None` if there are too many. Looks for a slot
    /// from the one of `hint` on.
    fn begin(&self, hint: u32) -> Option<u32> {
        (0..SLOTS).map(|index| (index + hint as usize) % SLOTS).find_map(|slot| {
            let cell = self.slots.get(slot)?;
            let free = cell.load(Ordering::Relaxed);
            if free & 1 != 0 {
                return None;
            }
            let uses = ((free >> 1) + 1) & ((1 << USES) - 1);
            let (order, failed) = (Ordering::SeqCst, Ordering::Relaxed);
            cell.compare_exchange(free, uses << 1 | 1, order, failed).ok()?;
            // Before any lock of the range, and any later store to the same word.
            fence(Ordering::Release);
            Some((slot as u32) << USES | u32::from(uses))
        })
    }

    /// The range of that number ended.
    fn end(&self, number: u32) {
        let (slot, uses) = parts(number);
        if let Some(cell) = self.slots.get(slot) {
            cell.store(uses << 1, Ordering::Release);
        }
    }
}

/// The slot of a number, and its use.
fn parts(number: u32) -> (usize, u16) {
    ((number >> USES) as usize, (number & ((1 << USES) - 1)) as u16)
}

/// A range that is alive until this is dropped.
#[derive(Debug)]
pub(crate) struct Alive<'t> {
    ranges: &'t Ranges,
    number: u32,
}

impl<'t> Alive<'t> {
    /// A new range; `None` if there are too many. Looks for a slot from the one of `hint` on.
    pub(crate) fn begin(ranges: &'t Ranges, hint: u32) -> Option<Self> {
        Some(Self { ranges, number: ranges.begin(hint)? })
    }

    pub(crate) fn number(&self) -> u32 {
        self.number
    }
}

impl Drop for Alive<'_> {
    fn drop(&mut self) {
        self.ranges.end(self.number);
    }
}

#[cfg(all(test, not(pgtable_loom)))]
mod tests {
    use super::{Alive, Ranges, SLOTS, USES, Uses};
    extern crate std;
    use std::collections::BTreeSet;
    use std::vec::Vec;

    /// Ranges that are alive have different numbers, and a number is not used again for as long as
    /// it can be.
    #[test]
    fn numbers() {
        let ranges = Ranges::after(Uses::default());
        let all: Vec<_> = (0..SLOTS).map_while(|_| Alive::begin(&ranges, 77)).collect();
        assert_eq!(all.len(), SLOTS);
        assert!(Alive::begin(&ranges, 0).is_none(), "one too many");
        let numbers: BTreeSet<u32> = all.iter().map(Alive::number).collect();
        assert_eq!(numbers.len(), SLOTS);
        assert!(numbers.iter().all(|&number| number < 1 << 20 && ranges.is_alive(number)));
        drop(all);
        assert!(!numbers.iter().any(|&number| ranges.is_alive(number)));
        let again: BTreeSet<u32> = (0..(1 << USES) - 1)
            .map(|_| Alive::begin(&ranges, 77).expect("there is room").number())
            .collect();
        assert_eq!(again.len(), (1 << USES) - 1);
        assert!(again.is_disjoint(&numbers));
        assert!(numbers.contains(&Alive::begin(&ranges, 77).expect("there is room").number()));
    }

    /// A range that was forgotten stays dead when the tree is shared again, however often.
    #[test]
    fn forgotten_numbers_do_not_come_back() {
        let (mut before, mut forgotten) = (Uses::default(), BTreeSet::new());
        for share in 0..100u32 {
            let ranges = Ranges::after(before);
            assert!(!forgotten.iter().any(|&number| ranges.is_alive(number)), "share {share}");
            for turn in 0..share % 7 {
                let alive = Alive::begin(&ranges, turn * 3).expect("there is room");
                assert!(!forgotten.contains(&alive.number()));
                if turn % 2 == 0 {
                    forgotten.insert(alive.number());
                    core::mem::forget(alive);
                }
            }
            before = ranges.uses();
        }
    }
}
