//! Table memory whose true words are loom's.
//!
//! What runs is the shipped verbs, the shipped locks and frag-alloc's shipped
//! [`Epochs`](frag_alloc::Epochs). Only the words of the tables are not the shipped ones, since
//! [`TableMemory`] gives out core's atomics, which loom does not see. So the true words are loom's,
//! and each thread has a copy in core's atomics to work on: whenever it asks for a word, a table or
//! a state, allocates, frees, or says that it wrote, what changed in its copy is brought to loom's
//! words (entries that link a table `Release`, as the crate stores them, everything else
//! `Relaxed`), and what it asked for is loaded from them. The verbs make such a call between any
//! two stores on whose order something depends, and before each change of a lock.

use std::cell::{Cell, RefCell};
use std::sync::atomic::{AtomicU64 as Copied, Ordering};

use loom::sync::atomic::AtomicU64;
use pgtable::Hpa;
use pgtable::memory::{MemoryError, ReadMemory, TableMemory};

/// A root and six more tables.
pub(crate) const TABLES: usize = 7;
const WORDS: usize = TABLES * 4;
pub(crate) const THREADS: usize = 2;

loom::thread_local! {
    /// Which of the threads this is.
    pub(crate) static WHO: Cell<usize> = Cell::new(0);
}

/// One thread's copy of the tables.
struct View {
    copy: Vec<Copied>,
    /// What loom's words held when this thread last looked, or what it stored there since.
    known: RefCell<Vec<u64>>,
}

pub(crate) struct Memory {
    words: Vec<AtomicU64>,
    views: Vec<View>,
}

impl Memory {
    pub(crate) fn new() -> Self {
        let view = |_| View {
            copy: (0..WORDS).map(|_| Copied::new(0)).collect(),
            known: RefCell::new(vec![0; WORDS]),
        };
        Self {
            words: (0..WORDS).map(|_| AtomicU64::new(0)).collect(),
            views: (0..THREADS).map(view).collect(),
        }
    }

    /// Brings what this thread changed to loom's words.
    pub(crate) fn store(&self) {
        let view = &self.views[WHO.with(Cell::get)];
        for index in 0..WORDS {
            let now = view.copy[index].load(Ordering::Relaxed);
            if now != view.known.borrow()[index] {
                self.words[index]
                    .store(now, if now & 3 == 1 { Ordering::Release } else { Ordering::Relaxed });
                view.known.borrow_mut()[index] = now;
            }
        }
    }
}

impl ReadMemory<Hpa> for Memory {
    pgtable::words_in_place!(Hpa);
}

impl TableMemory<Hpa> for Memory {
    fn word(&self, address: Hpa) -> Result<&Copied, MemoryError> {
        self.table(address, 1).map(|words| &words[0])
    }

    fn table(&self, address: Hpa, words: usize) -> Result<&[Copied], MemoryError> {
        self.store();
        let view = &self.views[WHO.with(Cell::get)];
        let first = address.get() as usize / 8;
        if first + words > WORDS {
            return Err(MemoryError::outside(address, words));
        }
        for index in first..first + words {
            // As the crate's own loads under loom: it has no dependency ordering.
            let now = self.words[index].load(Ordering::Acquire);
            view.copy[index].store(now, Ordering::Relaxed);
            view.known.borrow_mut()[index] = now;
        }
        Ok(&view.copy[first..first + words])
    }

    fn wrote(&self, _: Hpa, _: usize) {
        self.store();
    }
}
