//! The state words of tables, one for each granule (the smallest table): where each stands. They
//! belong to the trees that the tables stand in; this crate keeps them, and neither reads nor
//! writes them.
//!
//! Tables that are handed out one after the other often are the affair of different threads, each
//! of which writes its own's state all the time. So neighbours' words do not stand side by side: of
//! 256 granules (a frame of 64 KiB), tables of 256 bytes and of 4 KiB that follow each other have
//! theirs in different cache lines.

use alloc::boxed::Box;

use pgtable::allocator::TableState;

/// Words in a block, within which they change places. (Models have few, and no cache lines.)
const BLOCK: u32 = if cfg!(pgtable_loom) { 1 } else { 256 };

#[derive(Debug)]
pub(crate) struct States {
    words: Box<[TableState]>,
}

impl States {
    /// For so many granules, all zero.
    pub(crate) fn new(granules: u32) -> Self {
        let words = u64::from(granules).next_multiple_of(u64::from(BLOCK));
        Self { words: (0..words).map(|_| TableState::new()).collect() }
    }

    /// Bytes of them.
    pub(crate) fn bytes(&self) -> usize {
        size_of_val(&*self.words)
    }

    /// That of a granule.
    #[inline]
    pub(crate) fn of(&self, granule: u32) -> &TableState {
        &self.words[place(granule) as usize]
    }
}

/// Where in its block: a line is 8 words, and the low bits of a small table's number choose it.
/// (Tables of 4 KiB are 16 granules apart.)
#[inline]
fn place(granule: u32) -> u32 {
    if BLOCK == 1 {
        return granule;
    }
    granule ^ ((granule & 0b111) << 3)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_has_its_own_place_in_its_block() {
        let mut taken = [false; 3 * BLOCK as usize];
        for granule in 0..3 * BLOCK {
            assert_eq!(place(granule) / BLOCK, granule / BLOCK);
            assert!(!core::mem::replace(&mut taken[place(granule) as usize], true), "{granule}");
        }
    }

    #[test]
    fn neighbours_are_in_different_lines() {
        let line = |granule| place(granule) as usize * size_of::<TableState>() / 64;
        for (step, but) in [(1, 4), (16, 0)] {
            let starts = (0..BLOCK - step).step_by(step as usize);
            let same = starts.filter(|granule| line(*granule) == line(granule + step)).count();
            assert!(same <= but, "{same} neighbours of {step} granules in one line");
        }
    }
}
