//! Linux's algorithm, as a C programmer would write it: a page's count in an array, a pointer that
//! moves through the page, a lock around it; pages from a free list, zeroed when taken. No checks
//! but the one that Linux has.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use crate::contenders::{Contender, FRAME, Tables, arena};

pub struct Linux {
    words: &'static [AtomicU64],
    counts: Box<[AtomicUsize]>,
    free: spin::Mutex<Vec<usize>>,
    /// The next fragment, per size.
    fragment: [spin::Mutex<usize>; 16],
}

impl Linux {
    pub fn new(frames: usize) -> Self {
        let words = arena(frames);
        let start = words.as_ptr() as usize;
        Self {
            words,
            counts: (0..frames).map(|_| AtomicUsize::new(0)).collect(),
            free: spin::Mutex::new(
                (0..frames).rev().map(|frame| start + (frame << FRAME)).collect(),
            ),
            fragment: [const { spin::Mutex::new(0) }; 16],
        }
    }

    fn count(&self, table: usize) -> &AtomicUsize {
        &self.counts[(table - self.words.as_ptr() as usize) >> FRAME]
    }

    /// Pages in use.
    pub fn pages(&self) -> usize {
        self.counts.len() - self.free.lock().len()
    }

    #[cold]
    fn refill(&self, shift: u8) -> usize {
        let page = self.free.lock().pop().expect("enough pages");
        let first = (page - self.words.as_ptr() as usize) / 8;
        for word in &self.words[first..first + (1 << (FRAME - 3))] {
            word.store(0, Ordering::Relaxed);
        }
        self.count(page).store(1, Ordering::Relaxed);
        let mut fragment = self.fragment[usize::from(shift)].lock();
        if *fragment == 0 {
            self.count(page).store(1 << (FRAME - shift), Ordering::Relaxed);
            *fragment = page + (1 << shift);
        }
        page
    }
}

impl Contender for Linux {
    type Thread<'a> = &'a Self;

    fn name(&self) -> &'static str {
        "Linux's algorithm"
    }

    fn thread(&self) -> &Self {
        self
    }
}

impl Tables for &Linux {
    #[inline(always)]
    fn take(&self, shift: u8) -> usize {
        let mut fragment = self.fragment[usize::from(shift)].lock();
        let table = *fragment;
        if table != 0 {
            let next = table + (1 << shift);
            *fragment = if next & ((1 << FRAME) - 1) == 0 { 0 } else { next };
            return table;
        }
        drop(fragment);
        self.refill(shift)
    }

    #[inline(always)]
    fn give(&self, table: usize, _: u8, _: bool) {
        let before = self.count(table).fetch_sub(1, Ordering::AcqRel);
        assert!(before > 0);
        if before == 1 {
            self.free.lock().push(table & !((1 << FRAME) - 1));
        }
    }
}
