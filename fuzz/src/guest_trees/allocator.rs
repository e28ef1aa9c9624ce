//! The allocators: a guest's, which is checked against what it handed out, and a stranger's.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::atomic::{AtomicU64, Ordering};

use frag_alloc::{Cache, Deferred, Epochs, Frames, Reader, Reading, Region};
use pgtable::Gpa;
use pgtable::allocator::{AllocError, Contents, TableAllocator, TableLayout, TableState};
use pgtable::memory::{DirectMap, TableMemory};
use pgtable::shared::{DeferringAllocator, ReadSide};

type Source = Region<Gpa, DirectMap<'static, Gpa>>;
pub(super) type Table = Frames<Gpa, Source>;
pub(super) type Allocator = Deferred<Gpa, Source, Rc<Table>, Epochs>;

/// The tables that a guest's allocator has handed out: their sizes, which the allocator itself is
/// checked against.
pub(super) type Live = RefCell<BTreeMap<u64, u8>>;

/// A guest's allocator, and what it must say.
#[derive(Clone)]
pub(super) struct Checked {
    inner: Rc<Allocator>,
    live: Rc<Live>,
}

impl Checked {
    pub(super) fn new(inner: Rc<Allocator>, live: Rc<Live>) -> Self {
        Self { inner, live }
    }

    fn took(&self, table: Gpa, layout: TableLayout) {
        let (start, end) = (table.get(), table.get() + layout.bytes() as u64);
        for (&other, &shift) in self.live.borrow().iter() {
            assert!(end <= other || other + (1 << shift) <= start, "{table} is alive already");
        }
        self.live.borrow_mut().insert(start, layout.shift);
    }

    fn is_live(&self, table: Gpa, layout: TableLayout) -> bool {
        self.live.borrow().get(&table.get()) == Some(&layout.shift)
    }
}

impl TableAllocator<Gpa> for Checked {
    fn allocate(&self, layout: TableLayout) -> Result<Gpa, AllocError> {
        let table = self.inner.allocate(layout)?;
        self.took(table, layout);
        Ok(table)
    }

    fn allocate_stale(&self, layout: TableLayout) -> Result<Gpa, AllocError> {
        let table = self.inner.allocate_stale(layout)?;
        self.took(table, layout);
        Ok(table)
    }

    fn free(&self, table: Gpa, layout: TableLayout, contents: Contents) -> Result<(), AllocError> {
        let freed = self.inner.free(table, layout, contents);
        assert_eq!(freed.is_ok(), self.is_live(table, layout), "the free of {table}, {layout:?}");
        if freed.is_ok() {
            self.live.borrow_mut().remove(&table.get());
        }
        freed
    }

    fn state(&self, table: Gpa, layout: TableLayout) -> Option<&TableState> {
        let state = self.inner.state(table, layout);
        let live = self.is_live(table, layout);
        assert_eq!(state.is_some(), live, "the state of {table}, {layout:?}");
        state
    }
}

impl DeferringAllocator<Gpa> for Checked {
    type Reader<'a> = Beside<'a>;

    fn reader(&self) -> Option<Beside<'_>> {
        self.inner.reader().map(Beside)
    }
}

/// A reader whose writer hardly waits: the other one goes on when this one's verb ends.
pub(super) struct Beside<'e>(Reader<'e>);

impl ReadSide for Beside<'_> {
    type Reading<'r>
        = Reading<'r>
    where
        Self: 'r;

    fn read(&mut self) -> Reading<'_> {
        self.0.read()
    }

    fn wait(turns: u32) -> bool {
        turns < 4
    }
}

/// Somebody else's tables in the same frames.
pub(super) struct Stranger {
    cache: Cache<Gpa, Source, Rc<Table>>,
    memory: DirectMap<'static, Gpa>,
    tables: Vec<(Gpa, u8)>,
}

impl Stranger {
    pub(super) fn new(
        cache: Cache<Gpa, Source, Rc<Table>>,
        memory: DirectMap<'static, Gpa>,
    ) -> Self {
        Self { cache, memory, tables: Vec::new() }
    }

    fn words(&self, (table, shift): (Gpa, u8)) -> &[AtomicU64] {
        self.memory.table(table, 1 << (shift - 3)).expect("within")
    }

    fn pattern(table: Gpa) -> u64 {
        table.get() ^ 0x5555_aaaa_0000_ffff
    }

    /// The number of its tables.
    pub(super) fn count(&self) -> usize {
        self.tables.len()
    }

    pub(super) fn take(&mut self, shift: u8) {
        if self.tables.len() == 6 {
            return;
        }
        let Ok(table) = self.cache.take(shift) else { return };
        for word in self.words((table, shift)) {
            let before = word.swap(Self::pattern(table), Ordering::Relaxed);
            assert_eq!(before, 0, "{table} is not zeroed");
        }
        self.tables.push((table, shift));
    }

    pub(super) fn give(&mut self) {
        if let Some((table, shift)) = self.tables.pop() {
            self.cache.give(table, shift, Contents::Stale).expect("alive");
        }
    }

    pub(super) fn check(&self) {
        for &table in &self.tables {
            let kept = |word: &AtomicU64| word.load(Ordering::Relaxed) == Self::pattern(table.0);
            assert!(self.words(table).iter().all(kept), "a stranger's {} was written", table.0);
        }
    }

    pub(super) fn end(mut self) {
        while !self.tables.is_empty() {
            self.give();
        }
        self.cache.close().expect("counted right");
    }
}
