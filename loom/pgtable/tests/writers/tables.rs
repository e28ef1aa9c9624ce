//! The allocator of the models, and memory and allocator as a shared tree owns them.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::sync::atomic::{AtomicU64 as Copied, Ordering};

use crate::tiny::Tiny;
use frag_alloc::{Epochs, Grace, Reader};
use loom::sync::Arc;
use loom::sync::atomic::AtomicBool;
use pgtable::Hpa;
use pgtable::allocator::{AllocError, Contents, TableAllocator, TableLayout, TableState};
use pgtable::memory::{MemoryError, ReadMemory, TableMemory};
use pgtable::shared::{DeferringAllocator, SharedPageTable, Writer as OneOf};

use crate::memory::{Memory, TABLES, THREADS};

/// Hands freed tables out again as soon as it may: at once, or once the readers who may see them
/// have left.
pub(crate) struct Tables {
    memory: Arc<Memory>,
    epochs: Arc<Epochs>,
    deferred: bool,
    pub(crate) free: RefCell<Vec<u64>>,
    pub(crate) waiting: RefCell<Vec<(u64, u64)>>,
    /// Those that came back as they were, until they are handed out again.
    stale: RefCell<BTreeSet<u64>>,
    /// Which tables are nobody's.
    pub(crate) idle: Vec<AtomicBool>,
    pub(crate) states: Vec<TableState>,
}

impl Tables {
    /// All of `memory`'s tables, free.
    pub(crate) fn new(memory: &Arc<Memory>, deferred: bool) -> Self {
        Self {
            memory: memory.clone(),
            epochs: Arc::new(Epochs::new(THREADS)),
            deferred,
            free: RefCell::new((0..TABLES as u64).rev().map(|table| table * 32).collect()),
            waiting: RefCell::default(),
            stale: RefCell::default(),
            idle: (0..TABLES).map(|_| AtomicBool::new(true)).collect(),
            states: (0..TABLES).map(|_| TableState::new()).collect(),
        }
    }
}

impl TableAllocator<Hpa> for Tables {
    fn allocate(&self, layout: TableLayout) -> Result<Hpa, AllocError> {
        self.memory.store();
        let waiting = std::mem::take(&mut *self.waiting.borrow_mut());
        for (table, cookie) in waiting {
            if self.epochs.passed(cookie) {
                self.free.borrow_mut().push(table);
            } else {
                self.waiting.borrow_mut().push((table, cookie));
            }
        }
        let table = self.free.borrow_mut().pop().ok_or(AllocError::Exhausted { layout })?;
        self.idle[table as usize / 32].swap(false, Ordering::AcqRel);
        if self.stale.borrow_mut().remove(&table) {
            // Nobody reads it any more.
            let words = self.memory.table(Hpa::new(table), 4).unwrap();
            words.iter().for_each(|word| word.store(0, Ordering::Relaxed));
            self.memory.store();
        }
        Ok(Hpa::new(table))
    }

    fn free(&self, table: Hpa, _: TableLayout, contents: Contents) -> Result<(), AllocError> {
        self.memory.store();
        let idle = self.idle[table.get() as usize / 32].swap(true, Ordering::AcqRel);
        assert!(!idle, "a table is freed twice");
        if contents == Contents::Stale {
            self.stale.borrow_mut().insert(table.get());
        }
        if self.deferred {
            let cookie = self.epochs.start();
            self.waiting.borrow_mut().push((table.get(), cookie));
        } else {
            self.free.borrow_mut().push(table.get());
        }
        Ok(())
    }

    /// As frag-alloc: none of a table that is free, or waits, which is said by a Release.
    fn state(&self, table: Hpa, _: TableLayout) -> Option<&TableState> {
        self.memory.store();
        let table = table.get() as usize / 32;
        let idle = self.idle.get(table)?.load(Ordering::Acquire);
        self.states.get(table).filter(|_| !idle)
    }
}

/// Memory and allocator as a tree that threads share owns them.
pub(crate) struct Own<T>(pub(crate) Arc<T>);

impl<T: TableMemory<Hpa>> ReadMemory<Hpa> for Own<T> {
    pgtable::words_in_place!(Hpa);
}

impl<T: TableMemory<Hpa>> TableMemory<Hpa> for Own<T> {
    fn word(&self, address: Hpa) -> Result<&Copied, MemoryError> {
        self.0.word(address)
    }

    fn table(&self, address: Hpa, words: usize) -> Result<&[Copied], MemoryError> {
        self.0.table(address, words)
    }

    fn wrote(&self, address: Hpa, words: usize) {
        self.0.wrote(address, words);
    }
}

impl<T: TableAllocator<Hpa>> TableAllocator<Hpa> for Own<T> {
    fn allocate(&self, layout: TableLayout) -> Result<Hpa, AllocError> {
        self.0.allocate(layout)
    }

    fn free(&self, table: Hpa, layout: TableLayout, contents: Contents) -> Result<(), AllocError> {
        self.0.free(table, layout, contents)
    }

    fn state(&self, table: Hpa, layout: TableLayout) -> Option<&TableState> {
        self.0.state(table, layout)
    }
}

impl DeferringAllocator<Hpa> for Own<Tables> {
    type Reader<'a> = Reader<'a>;

    fn reader(&self) -> Option<Reader<'_>> {
        self.0.epochs.reader()
    }
}

pub(crate) type Tree = SharedPageTable<Tiny, Own<Memory>, Own<Tables>>;
pub(crate) type Writer<'t> = OneOf<'t, Tiny, Own<Memory>, Own<Tables>>;
