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
use loom::sync::atomic::{AtomicBool, AtomicU64};
use pgtable::allocator::{AllocError, Contents, TableAllocator, TableLayout, TableState};
use pgtable::format::{Entry, Format};
use pgtable::invalidate::{Gather, Unused};
use pgtable::memory::{MemoryError, ReadMemory, TableMemory};
use pgtable::shared::{DeferringAllocator, LockedRange, SharedPageTable, Writer as OneOf};
use pgtable::tree::{PageTable, Recorded, Writers};
use pgtable::{Access, Gpa, Hpa, Leaves, Position, Stage2};

#[path = "support/tiny.rs"]
mod tiny;
use tiny::{Plain, Tiny};

/// A root and six more tables.
const TABLES: usize = 7;
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
    /// Which tables are nobody's.
    idle: Vec<AtomicBool>,
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

impl DeferringAllocator<Hpa> for Own<Tables> {
    type Reader<'a> = Reader<'a>;

    fn reader(&self) -> Option<Reader<'_>> {
        self.0.epochs.reader()
    }
}

type Tree = SharedPageTable<Tiny, Own<Memory>, Own<Tables>>;
type Writer<'t> = OneOf<'t, Tiny, Own<Memory>, Own<Tables>>;

/// The pages that are mapped at the end, and to what.
type Mapped = BTreeSet<(u64, u64)>;

/// In every interleaving of `one` with `other`, after `first`: what is mapped at the end, and how
/// many tables are left in the tree. Every count is checked.
fn ends(
    format: Tiny,
    deferred: bool,
    first: impl Fn(&Writer<'_>) + Send + Sync + 'static,
    one: impl Fn(&Writer<'_>, &Tree) + Send + Sync + Copy + 'static,
    other: impl Fn(&Writer<'_>, &Tree) + Send + Sync + 'static,
) -> BTreeSet<(Mapped, usize)> {
    let all = StdArc::new(Mutex::new(BTreeSet::new()));
    let collected = all.clone();
    let mut model = loom::model::Builder::new();
    model.preemption_bound = Some(if format == Tiny::DEEP { 2 } else { 3 });
    model.check(move || {
        let memory = Arc::new(Memory::new());
        let hook = tiny::Hook::new({
            let memory = memory.clone();
            move || memory.store()
        });
        let epochs = Arc::new(Epochs::new(THREADS));
        let tables = Arc::new(Tables {
            memory: memory.clone(),
            epochs: epochs.clone(),
            deferred,
            free: RefCell::new((0..TABLES as u64).rev().map(|table| table * 32).collect()),
            waiting: RefCell::default(),
            stale: RefCell::default(),
            idle: (0..TABLES).map(|_| AtomicBool::new(true)).collect(),
            states: (0..TABLES).map(|_| TableState::new()).collect(),
        });
        let tree = PageTable::new(format, Own(memory.clone()), Own(tables.clone())).unwrap();
        let tree = Arc::new(Tree::from(tree));
        let writer = tree.writer().unwrap();
        first(&writer);
        memory.store();
        let thread = loom::thread::spawn({
            let (tree, memory) = (tree.clone(), memory.clone());
            move || {
                WHO.with(|who| who.set(1));
                one(&tree.writer().unwrap(), &tree);
                memory.store();
            }
        });
        other(&writer, &tree);
        memory.store();
        thread.join().unwrap();

        let live = |table: u64| {
            let state = &tables.states[table as usize / 32];
            assert!(state.is_open(), "a table in the tree is locked, or has left");
            state.live() as usize
        };
        let words = |table: u64| {
            memory
                .table(Hpa::new(table), 4)
                .unwrap()
                .iter()
                .map(|word| word.load(Ordering::Relaxed))
                .collect::<Vec<_>>()
        };
        let (mut mapped, mut left) = (Mapped::new(), 0);
        let root = format.geometry().root().0;
        let mut below = vec![(0, root, 0)];
        while let Some((table, level, base)) = below.pop() {
            left += 1;
            let entries = words(table);
            let present = entries.iter().filter(|word| **word != 0).count();
            assert_eq!(live(table), present, "the count of a table of level {level}");
            assert!(present > 0 || level == root, "an empty table of level {level} stays");
            let shift = 12 + 2 * level;
            for (index, &word) in entries.iter().enumerate() {
                let at = base + ((index as u64) << shift);
                match format.decode(word, Position { level: pgtable::Level(level), shift }) {
                    Entry::Table { table, .. } => below.push((table.get(), level - 1, at)),
                    Entry::Leaf { output, .. } => mapped.extend(
                        (0..1 << shift)
                            .step_by(PAGE as usize)
                            .map(|page| (at + page, output.get() + page)),
                    ),
                    _ => {}
                }
            }
        }
        // Those that still wait, or are free, are all the others.
        assert_eq!(
            left + tables.free.borrow().len() + tables.waiting.borrow().len(),
            TABLES,
            "a table is lost"
        );
        drop(hook);
        all.lock().unwrap().insert((mapped, left));
    });
    let seen = collected.lock().unwrap();
    seen.clone()
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
    let ends = ends(
        Tiny::BOTH,
        true,
        |_| (),
        |writer, _| map(writer, 0, PAGE),
        |writer, _| map(writer, PAGE, PAGE),
    );
    assert_eq!(ends, [(pages(&[0, PAGE]), 2)].into());
}

#[test]
fn one_range_twice() {
    // The second to come finds what the first has mapped.
    let first = |writer: &Writer<'_>| map(writer, 0, 2 * PAGE);
    let ends = ends(
        Tiny::BOTH,
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
        Tiny::BOTH,
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
    let ends =
        ends(Tiny::BOTH, true, first, free_and_use_again, |writer, _| map(writer, PAGE, PAGE));
    assert_eq!(ends, [(pages(&[LARGE, PAGE]), 3)].into());
}

/// Why the allocator has to wait for a writer that descends: the writer locks a table that is
/// another by now, and maps its page elsewhere.
#[test]
fn one_that_is_used_again_at_once_is_another_table() {
    let first = |writer: &Writer<'_>| map(writer, 0, PAGE);
    let ends =
        ends(Tiny::BOTH, false, first, free_and_use_again, |writer, _| map(writer, PAGE, PAGE));
    assert!(ends.iter().any(|(mapped, _)| *mapped != pages(&[LARGE, PAGE])), "{ends:?}");
}

#[test]
fn a_large_page_that_both_split() {
    let first = |writer: &Writer<'_>| map(writer, 0, LARGE);
    let ends = ends(
        Tiny::BOTH,
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
    let ends = ends(Tiny::BOTH, true, first, one, |writer, _| {
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
        &mut LockedRange<'_, '_, Tiny, Own<Memory>, Own<Tables>>,
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
        Tiny::BOTH,
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
        Tiny::BOTH,
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
        Tiny::BOTH,
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

/// What a table of tables covers.
const HUGE: u64 = 4 * LARGE;

/// Trees of three levels: tables are taken out whole, by `drop_tables`, and chains of them one by
/// one.
fn deep(
    first: impl Fn(&Writer<'_>) + Send + Sync + 'static,
    one: impl Fn(&Writer<'_>, &Tree) + Send + Sync + Copy + 'static,
    other: impl Fn(&Writer<'_>, &Tree) + Send + Sync + 'static,
) -> BTreeSet<(Mapped, usize)> {
    ends(Tiny::DEEP, true, first, one, other)
}

#[test]
fn case_a15_both_take_the_last_pages_of_a_chain() {
    let found = deep(
        |w| [0, PAGE].iter().for_each(|&page| map(w, page, PAGE)),
        |w, tree| unmap(w, tree, 0, PAGE),
        |w, tree| unmap(w, tree, PAGE, PAGE),
    );
    assert_eq!(found, [(pages(&[]), 1)].into());
}

#[test]
fn case_a15_a_whole_range_goes_beside_a_page() {
    let found = deep(
        |w| [0, LARGE].iter().for_each(|&page| map(w, page, PAGE)),
        |w, tree| unmap(w, tree, 0, HUGE),
        |w, _| map(w, PAGE, PAGE),
    );
    assert_eq!(found, [(pages(&[]), 1), (pages(&[PAGE]), 3)].into());
}

#[test]
fn case_a15_two_ranges_of_tables_go() {
    let found = deep(
        |w| [0, LARGE, 2 * LARGE].iter().for_each(|&page| map(w, page, PAGE)),
        |w, tree| unmap(w, tree, 0, 2 * LARGE),
        |w, tree| unmap(w, tree, LARGE, 2 * LARGE),
    );
    assert_eq!(found, [(pages(&[]), 1)].into());
}

#[test]
fn case_a15_a_whole_range_goes_beside_a_page_that_goes_and_comes() {
    let found = deep(
        |w| [0, LARGE].iter().for_each(|&page| map(w, page, PAGE)),
        |w, tree| unmap(w, tree, 0, HUGE),
        |w, tree| {
            unmap(w, tree, LARGE, PAGE);
            map(w, LARGE, PAGE);
        },
    );
    assert_eq!(found, [(pages(&[]), 1), (pages(&[LARGE]), 3)].into());
}

/// A range over several tables is one writer's alone: what another unmaps there goes before all
/// that is done to it, or after. (Under a lock on the table above alone it could go between.)
#[test]
fn case_a11_a_locked_range_excludes() {
    let all = [0, LARGE];
    let found = deep(
        move |w| all.iter().for_each(|&page| map(w, page, PAGE)),
        move |w, tree| {
            locked(w, tree, (0, 2 * LARGE), |range, gather| {
                // One after the other, each from the old page to the next one.
                for at in all {
                    range.unmap(Gpa::new(at), PAGE, gather).unwrap();
                    let (page, to) = (Gpa::new(at + PAGE), Hpa::new(0x10_0000 + at + PAGE));
                    range.map(page, to, PAGE, Plain, Leaves::Largest).unwrap();
                }
            });
        },
        |w, tree| unmap(w, tree, 0, 2 * LARGE),
    );
    assert_eq!(found, [(pages(&[]), 1), (pages(&[PAGE, LARGE + PAGE]), 4)].into());
}

/// A range whose tables are made while it is locked.
#[test]
fn case_a11_what_is_made_in_a_locked_range_is_locked() {
    let found = deep(
        |_| (),
        |w, tree| {
            locked(w, tree, (0, 2 * LARGE), |range, _| {
                for at in [0, LARGE] {
                    let to = Hpa::new(0x10_0000 + at);
                    range.map(Gpa::new(at), to, PAGE, Plain, Leaves::Largest).unwrap();
                }
            });
        },
        |w, tree| unmap(w, tree, 0, 2 * LARGE),
    );
    assert_eq!(found, [(pages(&[]), 1), (pages(&[0, LARGE]), 4)].into());
}

/// What the entry at `at` holds.
fn held(tree: &Tree, at: u64) -> u64 {
    tree.walker().memory().word(Hpa::new(at)).unwrap().load(Ordering::Relaxed)
}

/// A guest's store.
fn guest_stores(tree: &Tree, at: u64, word: u64) {
    let walker = tree.walker();
    walker.memory().word(Hpa::new(at)).unwrap().store(word, Ordering::Relaxed);
    walker.memory().wrote(Hpa::new(at), 1);
}

/// The entry of the first table of level 1 that covers `at`: it is the second table that a tree of
/// three levels allocates.
fn entry(at: u64) -> u64 {
    32 + at / LARGE * 8
}

/// In every interleaving of `one` with `other` on a tree of three levels with one page, at 0, whose
/// entries a guest writes: no table is freed twice, and every table that is not free can be locked.
fn guest(
    one: impl Fn(&Writer<'_>, &Tree) + Send + Sync + Copy + 'static,
    other: impl Fn(&Writer<'_>, &Tree) + Send + Sync + 'static,
) {
    let mut model = loom::model::Builder::new();
    model.preemption_bound = Some(2);
    model.check(move || {
        let memory = Arc::new(Memory::new());
        let hook = tiny::Hook::new({
            let memory = memory.clone();
            move || memory.store()
        });
        let epochs = Arc::new(Epochs::new(THREADS));
        let tables = Arc::new(Tables {
            memory: memory.clone(),
            epochs: epochs.clone(),
            deferred: true,
            free: RefCell::new((0..TABLES as u64).rev().map(|table| table * 32).collect()),
            waiting: RefCell::default(),
            stale: RefCell::default(),
            idle: (0..TABLES).map(|_| AtomicBool::new(true)).collect(),
            states: (0..TABLES).map(|_| TableState::new()).collect(),
        });
        let tree = PageTable::new(Tiny::DEEP, Own(memory.clone()), Own(tables.clone())).unwrap();
        let tree = Arc::new(Tree::from(tree));
        let writer = tree.writer().unwrap();
        map(&writer, 0, PAGE);
        guest_stores(&tree, entry(2 * LARGE), held(&tree, entry(0)));
        memory.store();
        let thread = loom::thread::spawn({
            let (tree, memory) = (tree.clone(), memory.clone());
            move || {
                WHO.with(|who| who.set(1));
                one(&tree.writer().unwrap(), &tree);
                memory.store();
            }
        });
        other(&writer, &tree);
        memory.store();
        thread.join().unwrap();
        // A range takes each table of pages that is left, also one that was left locked; the others
        // are unlocked.
        for (table, idle) in tables.idle.iter().enumerate() {
            if idle.load(Ordering::Acquire) || table == 0 {
                continue;
            }
            let level_1 = table == 1;
            if !level_1 {
                guest_stores(&tree, 0, 32 | 1);
                guest_stores(&tree, entry(0), (table as u64 * 32) | 1);
                drop(writer.lock(Gpa::new(0), LARGE).unwrap());
            }
            assert!(tables.states[table].is_open(), "table {table} is locked");
        }
        assert!(tables.states[0].is_open(), "the root is locked");
        drop(hook);
    });
}

/// Does something to a range, if it can be locked.
fn range(
    writer: &Writer<'_>,
    tree: &Tree,
    (at, bytes): (u64, u64),
    verbs: impl Fn(
        &mut LockedRange<'_, '_, Tiny, Own<Memory>, Own<Tables>>,
        &mut Gather<'_, Stage2, Unused>,
    ),
) {
    let mut gather = Gather::new(&Unused, ());
    if let Ok(mut locked) = writer.lock(Gpa::new(at), bytes) {
        verbs(&mut locked, &mut gather);
        locked.finish(&mut gather);
    }
    gather.finish(tree.tables()).unwrap();
}

/// Two ranges, each of which has one of the two ways to a table: each takes out what it can.
#[test]
fn case_a1_two_ranges_with_a_way_each_to_one_table() {
    guest(
        |w, tree| {
            range(w, tree, (0, 2 * LARGE), |range, gather| {
                let _ = range.unmap(Gpa::new(0), LARGE, gather);
            });
        },
        |w, tree| {
            range(w, tree, (2 * LARGE, LARGE), |range, gather| {
                let _ = range.unmap(Gpa::new(2 * LARGE), PAGE, gather);
            });
        },
    );
}

/// A verb by one way beside a range by the other.
#[test]
fn case_a1_a_verb_and_a_range_with_a_way_each_to_one_table() {
    guest(
        |w, tree| {
            let mut gather = Gather::new(&Unused, ());
            let _ = w.unmap(Gpa::new(2 * LARGE), LARGE, &mut gather);
            gather.finish(tree.tables()).unwrap();
        },
        |w, tree| {
            range(w, tree, (0, LARGE), |range, gather| {
                let _ = range.unmap(Gpa::new(0), PAGE, gather);
                let _ =
                    range.map(Gpa::new(PAGE), Hpa::new(0x20_0000), PAGE, Plain, Leaves::Largest);
            });
        },
    );
}

/// A table that a guest hides while a range has it locked: another writer takes it over when the
/// range has ended, and not before.
#[test]
fn case_a1_a_hidden_table_is_taken_over() {
    guest(
        |w, _| {
            let _ = w.map(Gpa::new(PAGE), Hpa::new(0x20_0000), PAGE, Plain, Leaves::Largest);
        },
        |w, tree| {
            range(w, tree, (0, 2 * LARGE), |range, _| {
                let to = Hpa::new(0x20_0000);
                range.map(Gpa::new(2 * PAGE), to, PAGE, Plain, Leaves::Largest).unwrap();
                guest_stores(tree, entry(0), 0);
            });
            guest_stores(tree, entry(0), held(tree, entry(2 * LARGE)));
        },
    );
}
