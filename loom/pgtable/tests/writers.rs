//! A model check of many writers on a small tree: in every interleaving (of up to three
//! preemptions), two writers on overlapping and on nested ranges, one beside the other's freeing
//! and splitting.
//!
//! What runs is the shipped verbs, the shipped locks and frag-alloc's shipped [`Epochs`]. Only the
//! words of the tables are not the shipped ones, since [`TableMemory`] gives out core's atomics,
//! which loom does not see. So the true words are loom's, and each thread has a copy in core's
//! atomics to work on: whenever it asks for a word, a table or a state, allocates, frees, or says
//! that it wrote, what changed in its copy is brought to loom's words (entries that link a table
//! `Release`, as the crate stores them, everything else `Relaxed`), and what it asked for is loaded
//! from them. The verbs make such a call between any two stores on whose order something depends,
//! and before each change of a lock.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::cell::{Cell, RefCell};
use std::collections::BTreeSet;
use std::sync::atomic::{AtomicU64 as Copied, Ordering};
use std::sync::{Arc as StdArc, Mutex};

use frag_alloc::{Epochs, Grace, Reader};
use loom::sync::Arc;
use loom::sync::atomic::AtomicU64;
use pgtable::{
    Access, AllocError, Contents, Entry, Format, Gather, Gpa, Hpa, Leaves, MemoryError, PageTable,
    Position, ReadMemory, Recorded, SharedCursor, SharedPageTable, Stage2, TableAllocator,
    TableLayout, TableMemory, TableState, Unused, Writer as OneOf, Writers,
};

#[path = "support/tiny.rs"]
mod tiny;
use tiny::{Plain, Tiny};

/// A root and three more tables.
const TABLES: usize = 4;
const WORDS: usize = TABLES * 4;
const THREADS: usize = 2;

loom::thread_local! {
    /// Which of the threads this is.
    static WHO: Cell<usize> = Cell::new(0);
}

/// One thread's copy of the tables.
struct View {
    copy: Vec<Copied>,
    /// What loom's words held when this thread last looked, or what it stored there since.
    known: RefCell<Vec<u64>>,
}

struct Memory {
    words: Vec<AtomicU64>,
    views: Vec<View>,
}

impl Memory {
    fn new() -> Self {
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
    fn store(&self) {
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

/// Hands freed tables out again as soon as it may: at once, or once the readers who may see them
/// have left.
struct Tables {
    memory: Arc<Memory>,
    epochs: Arc<Epochs>,
    deferred: bool,
    free: RefCell<Vec<u64>>,
    waiting: RefCell<Vec<(u64, u64)>>,
    /// Those that came back as they were, until they are handed out again.
    stale: RefCell<BTreeSet<u64>>,
    states: Vec<TableState>,
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
        self.states[table as usize / 32].reset();
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

    fn state(&self, table: Hpa, _: TableLayout) -> Option<&TableState> {
        self.memory.store();
        self.states.get(table.get() as usize / 32)
    }
}

/// Memory and allocator as a tree that threads share owns them.
struct Own<T>(Arc<T>);

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

type Tree = SharedPageTable<Tiny, Own<Memory>, Own<Tables>>;
type Writer<'t> = OneOf<'t, Tiny, Own<Memory>, Own<Tables>, Reader<'t>>;

/// The pages that are mapped at the end, and to what.
type Mapped = BTreeSet<(u64, u64)>;

/// In every interleaving of `one` with `other`, after `first`: what is mapped at the end, and how
/// many tables are left in the tree. Every count is checked.
fn ends(
    deferred: bool,
    first: impl Fn(&Writer<'_>) + Send + Sync + 'static,
    one: impl Fn(&Writer<'_>, &Tree) + Send + Sync + Copy + 'static,
    other: impl Fn(&Writer<'_>, &Tree) + Send + Sync + 'static,
) -> BTreeSet<(Mapped, usize)> {
    let all = StdArc::new(Mutex::new(BTreeSet::new()));
    let collected = all.clone();
    let mut model = loom::model::Builder::new();
    model.preemption_bound = Some(3);
    model.check(move || {
        let memory = Arc::new(Memory::new());
        let epochs = Arc::new(Epochs::new(THREADS));
        let tables = Arc::new(Tables {
            memory: memory.clone(),
            epochs: epochs.clone(),
            deferred,
            free: RefCell::new((0..TABLES as u64).rev().map(|table| table * 32).collect()),
            waiting: RefCell::default(),
            stale: RefCell::default(),
            states: (0..TABLES).map(|_| TableState::new()).collect(),
        });
        let tree = PageTable::new(Tiny::BOTH, Own(memory.clone()), Own(tables.clone())).unwrap();
        let tree = Arc::new(Tree::from(tree));
        let writer = tree.writer(epochs.reader().unwrap());
        first(&writer);
        memory.store();
        let thread = loom::thread::spawn({
            let (tree, epochs, memory) = (tree.clone(), epochs.clone(), memory.clone());
            move || {
                WHO.with(|who| who.set(1));
                one(&tree.writer(epochs.reader().unwrap()), &tree);
                memory.store();
            }
        });
        other(&writer, &tree);
        memory.store();
        thread.join().unwrap();

        let live = |table: u64| tables.states[table as usize / 32].raw();
        let words = |table: u64| {
            memory
                .table(Hpa::new(table), 4)
                .unwrap()
                .iter()
                .map(|word| word.load(Ordering::Relaxed))
                .collect::<Vec<_>>()
        };
        let (mut mapped, mut left) = (Mapped::new(), 1);
        let root = words(0);
        assert_eq!(
            usize::from(live(0)),
            root.iter().filter(|word| **word != 0).count(),
            "the root's count, unlocked"
        );
        for (index, &word) in root.iter().enumerate() {
            let at = (index as u64) << 14;
            match Tiny::BOTH.decode(word, Position { level: pgtable::Level(1), shift: 14 }) {
                Entry::Table { table, .. } => {
                    left += 1;
                    let pages = words(table.get());
                    let present = pages.iter().filter(|word| **word != 0).count();
                    assert_eq!(
                        usize::from(live(table.get())),
                        present,
                        "a table's count, unlocked"
                    );
                    assert_ne!(present, 0, "an empty table stays in the tree");
                    let present = pages.iter().enumerate().filter(|(_, word)| **word != 0);
                    mapped.extend(
                        present
                            .map(|(page, word)| (at + ((page as u64) << 12), word & 0xffff_f000)),
                    );
                }
                Entry::Leaf { output, .. } => {
                    mapped.extend(
                        (0..4).map(|page| (at + (page << 12), output.get() + (page << 12))),
                    );
                }
                _ => {}
            }
        }
        // Those that still wait, or are free, are all the others.
        assert_eq!(
            left + tables.free.borrow().len() + tables.waiting.borrow().len(),
            TABLES,
            "a table is lost"
        );
        all.lock().unwrap().insert((mapped, left));
    });
    let all = collected.lock().unwrap().clone();
    all
}

const PAGE: u64 = 0x1000;
/// What a table of pages covers.
const LARGE: u64 = 4 * PAGE;

fn map(writer: &Writer<'_>, at: u64, bytes: u64) {
    writer.map(Gpa::new(at), Hpa::new(0x10_0000 + at), bytes, Plain, Leaves::Largest).unwrap();
}

fn unmap(writer: &Writer<'_>, tree: &Tree, at: u64, bytes: u64) {
    let mut gather = Gather::new(&Unused, ());
    writer.unmap(Gpa::new(at), bytes, &mut gather).unwrap();
    gather.finish(tree.tables()).unwrap();
}

/// Those pages, each where `map` maps it to.
fn pages(pages: &[u64]) -> Mapped {
    pages.iter().map(|&page| (page, 0x10_0000 + page)).collect()
}

#[test]
fn two_make_the_same_table() {
    let ends =
        ends(true, |_| (), |writer, _| map(writer, 0, PAGE), |writer, _| map(writer, PAGE, PAGE));
    assert_eq!(ends, [(pages(&[0, PAGE]), 2)].into());
}

#[test]
fn one_range_twice() {
    // The second to come finds what the first has mapped.
    let first = |writer: &Writer<'_>| map(writer, 0, 2 * PAGE);
    let ends = ends(
        true,
        first,
        |writer, tree| unmap(writer, tree, 0, 2 * PAGE),
        |writer, tree| {
            unmap(writer, tree, PAGE, PAGE);
            map(writer, PAGE, PAGE);
        },
    );
    assert_eq!(ends, [(pages(&[]), 1), (pages(&[PAGE]), 2)].into());
}

#[test]
fn nested_ranges() {
    let first = |writer: &Writer<'_>| {
        map(writer, 0, PAGE);
        map(writer, LARGE, PAGE);
    };
    let ends = ends(
        true,
        first,
        |writer, tree| unmap(writer, tree, 0, 2 * LARGE),
        |writer, _| {
            map(writer, LARGE + PAGE, PAGE);
        },
    );
    assert_eq!(ends, [(pages(&[]), 1), (pages(&[LARGE + PAGE]), 2)].into());
}

/// Unmaps the only page of a table, and maps one elsewhere, into the same table if that may be used
/// again.
fn free_and_use_again(writer: &Writer<'_>, tree: &Tree) {
    unmap(writer, tree, 0, PAGE);
    map(writer, LARGE, PAGE);
}

#[test]
fn a_table_that_is_freed_under_a_waiting_writer() {
    let first = |writer: &Writer<'_>| map(writer, 0, PAGE);
    let ends = ends(true, first, free_and_use_again, |writer, _| map(writer, PAGE, PAGE));
    assert_eq!(ends, [(pages(&[LARGE, PAGE]), 3)].into());
}

/// Why the allocator has to wait for who descends: the writer locks a table that is another by now.
#[test]
#[should_panic(expected = "a table's count, unlocked")]
fn one_that_is_used_again_at_once_breaks_the_books() {
    let first = |writer: &Writer<'_>| map(writer, 0, PAGE);
    ends(false, first, free_and_use_again, |writer, _| map(writer, PAGE, PAGE));
}

#[test]
fn a_large_page_that_both_split() {
    let first = |writer: &Writer<'_>| map(writer, 0, LARGE);
    let ends = ends(
        true,
        first,
        |writer, tree| unmap(writer, tree, 0, PAGE),
        |writer, tree| {
            unmap(writer, tree, PAGE, PAGE);
        },
    );
    assert_eq!(ends, [(pages(&[2 * PAGE, 3 * PAGE]), 2)].into());
}

#[test]
fn translations_beside_two_writers() {
    // Whatever the others do, a page that neither of them touches translates.
    let first = |writer: &Writer<'_>| map(writer, 0, 2 * PAGE);
    let one = |writer: &Writer<'_>, tree: &Tree| unmap(writer, tree, 0, PAGE);
    let ends = ends(true, first, one, |writer, _| {
        let found = writer.translate(Gpa::new(PAGE), Access::READ).unwrap();
        assert_eq!(found.output.get(), 0x10_0000 + PAGE);
        map(writer, 2 * PAGE, PAGE);
    });
    assert_eq!(ends, [(pages(&[PAGE, 2 * PAGE]), 2)].into());
}

/// Several things to one range under one lock, as one thing to everybody else.
fn locked(
    writer: &Writer<'_>,
    tree: &Tree,
    (at, bytes): (u64, u64),
    verbs: impl Fn(
        &mut SharedCursor<'_, '_, Tiny, Own<Memory>, Own<Tables>, Reader<'_>>,
        &mut Gather<'_, Stage2, Unused>,
    ),
) {
    let mut gather = Gather::new(&Unused, ());
    let mut cursor = writer.lock(Gpa::new(at), bytes).unwrap();
    verbs(&mut cursor, &mut gather);
    cursor.finish(&mut gather);
    gather.finish(tree.tables()).unwrap();
}

#[test]
fn a_large_page_that_is_split_under_a_lock() {
    // The other unmaps one of its pages, before (then it is he who splits it) or after, never in
    // between: the page that was moved is where one put it.
    let first = |writer: &Writer<'_>| map(writer, 0, LARGE);
    let ends = ends(
        true,
        first,
        |writer, tree| {
            locked(writer, tree, (0, LARGE), |cursor, gather| {
                assert!(cursor.split(Gpa::new(0), LARGE, 12, gather).unwrap() <= 1);
                assert_eq!(cursor.unmap(Gpa::new(0), PAGE, gather), Ok(PAGE));
                let elsewhere = Hpa::new(0x20_0000);
                assert_eq!(
                    cursor.map(Gpa::new(0), elsewhere, PAGE, Plain, Leaves::Largest),
                    Ok(())
                );
            });
        },
        |writer, tree| unmap(writer, tree, PAGE, PAGE),
    );
    let mut left = pages(&[2 * PAGE, 3 * PAGE]);
    left.insert((0, 0x20_0000));
    assert_eq!(ends, [(left, 2)].into());
}

#[test]
fn a_table_that_is_promoted_under_a_lock() {
    // Either the table is whole, and becomes a page that the other splits again; or the other was
    // there first, and nothing is promoted.
    let first = |writer: &Writer<'_>| {
        (0..4).for_each(|page| map(writer, page * PAGE, PAGE));
    };
    let ends = ends(
        true,
        first,
        |writer, tree| {
            locked(writer, tree, (0, 2 * LARGE), |cursor, gather| {
                let whole = cursor.query(Gpa::new(PAGE)).unwrap().is_some();
                assert_eq!(cursor.promote(Gpa::new(0), LARGE, gather), Ok(usize::from(whole)));
            });
        },
        |writer, tree| unmap(writer, tree, PAGE, PAGE),
    );
    assert_eq!(ends, [(pages(&[0, 2 * PAGE, 3 * PAGE]), 2)].into());
}

#[test]
fn a_record_that_is_harvested_under_a_lock() {
    // What the page says that it was used for is harvested before the other takes it out, or not at
    // all; never from the page that comes in its place.
    let first = |writer: &Writer<'_>| {
        map(writer, 0, 2 * PAGE);
        writer.read(|walker| walker.access(Gpa::new(PAGE), Access::WRITE).unwrap());
    };
    let ends = ends(
        true,
        first,
        |writer, tree| {
            locked(writer, tree, (0, LARGE), |cursor, gather| {
                let found = cursor.query(Gpa::new(PAGE)).unwrap();
                let mut bits = [0];
                let harvested = cursor.harvest(
                    Gpa::new(0),
                    LARGE,
                    Recorded::Dirty,
                    Writers::Running,
                    &mut bits,
                    gather,
                );
                let used = found.is_some_and(|found| found.output.get() == 0x10_0000 + PAGE);
                assert_eq!((harvested, bits[0]), (Ok(u64::from(used)), u64::from(used) << 1));
            });
        },
        |writer, tree| {
            unmap(writer, tree, PAGE, PAGE);
            writer.map(Gpa::new(PAGE), Hpa::new(0x20_0000), PAGE, Plain, Leaves::Largest).unwrap();
        },
    );
    let mut left = pages(&[0]);
    left.insert((PAGE, 0x20_0000));
    assert_eq!(ends, [(left, 2)].into());
}
