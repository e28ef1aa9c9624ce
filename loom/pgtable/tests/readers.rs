//! A model check of readers without locks beside the one writer, on a small tree: in every
//! interleaving, with the deferral of frees and without.
//!
//! What runs is the shipped walker, the shipped verbs (map, unmap, relocate) and frag-alloc's
//! shipped [`Epochs`]. Only the words of the tables are not the shipped ones, since [`TableMemory`]
//! gives out core's atomics, which loom does not see. So the true words are loom's, and each side
//! has a copy in core's atomics to work on:
//! - The reader's memory loads loom's word into its copy when it is asked for a word. A walk loads
//!   each word once, right after it asked for it.
//! - The writer's memory brings what changed in its copy to loom's words whenever it is asked for
//!   the next word or table, and at every call of the allocator's: entries that link a table
//!   `Release`, as the crate stores them, everything else `Relaxed`. The verbs make such a call
//!   between two stores on whose order something depends.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::sync::atomic::{AtomicU64 as Copied, Ordering};
use std::sync::{Arc as StdArc, Mutex};

use frag_alloc::{Epochs, Grace};
use loom::sync::Arc;
use loom::sync::atomic::AtomicU64;
use pgtable::allocator::{AllocError, Contents, TableAllocator, TableLayout, TableState};
use pgtable::format::{Entry, Format};
use pgtable::invalidate::{Gather, Unused};
use pgtable::memory::{MemoryError, ReadMemory, TableMemory};
use pgtable::tree::PageTable;
use pgtable::walk::Walker;
use pgtable::{Access, Gpa, Hpa, Leaves, Position};

#[path = "support/tiny.rs"]
mod tiny;
use tiny::{Plain, Tiny};

/// A root and two more tables.
const TABLES: usize = 3;
const WORDS: usize = TABLES * 4;

type Words = Arc<Vec<AtomicU64>>;

fn index(address: Hpa, words: usize) -> Result<usize, MemoryError> {
    let index = address.get() as usize / 8;
    let outside = MemoryError::outside(address, words);
    if index + words <= WORDS { Ok(index) } else { Err(outside) }
}

fn copies() -> Vec<Copied> {
    (0..WORDS).map(|_| Copied::new(0)).collect()
}

/// The reader's view.
struct Read {
    words: Words,
    copy: Vec<Copied>,
}

impl ReadMemory<Hpa> for Read {
    pgtable::words_in_place!(Hpa);
}

impl TableMemory<Hpa> for Read {
    fn word(&self, address: Hpa) -> Result<&Copied, MemoryError> {
        let index = index(address, 1)?;
        // As the crate's own loads under loom: it has no dependency ordering.
        self.copy[index].store(self.words[index].load(Ordering::Acquire), Ordering::Relaxed);
        Ok(&self.copy[index])
    }

    fn table(&self, address: Hpa, words: usize) -> Result<&[Copied], MemoryError> {
        let first = index(address, words)?;
        (0..words as u64)
            .try_for_each(|word| self.word(Hpa::new(address.get() + word * 8)).map(|_| ()))?;
        Ok(&self.copy[first..first + words])
    }

    fn wrote(&self, _: Hpa, _: usize) {}
}

/// The writer's view.
struct Write {
    words: Words,
    copy: Vec<Copied>,
    /// What loom's words hold.
    stored: RefCell<Vec<u64>>,
}

impl Write {
    /// Brings what changed to loom's words.
    fn store(&self) {
        for (index, stored) in self.stored.borrow_mut().iter_mut().enumerate() {
            let now = self.copy[index].load(Ordering::Relaxed);
            if now != *stored {
                let links = matches!(
                    Tiny::PAGES.decode(now, Position { level: pgtable::Level(1), shift: 14 }),
                    Entry::Table { .. }
                );
                self.words[index]
                    .store(now, if links { Ordering::Release } else { Ordering::Relaxed });
                *stored = now;
            }
        }
    }
}

impl ReadMemory<Hpa> for Write {
    pgtable::words_in_place!(Hpa);
}

impl TableMemory<Hpa> for Write {
    fn word(&self, address: Hpa) -> Result<&Copied, MemoryError> {
        self.store();
        Ok(&self.copy[index(address, 1)?])
    }

    fn table(&self, address: Hpa, words: usize) -> Result<&[Copied], MemoryError> {
        self.store();
        let first = index(address, words)?;
        Ok(&self.copy[first..first + words])
    }

    fn wrote(&self, _: Hpa, _: usize) {}
}

/// Hands freed tables out again as soon as it may: at once, or once the readers who may see them
/// have left.
struct Tables<'w> {
    memory: &'w Write,
    epochs: Option<Arc<Epochs>>,
    free: RefCell<Vec<u64>>,
    waiting: RefCell<Vec<(u64, u64)>>,
    states: [TableState; TABLES],
}

impl TableAllocator<Hpa> for Tables<'_> {
    fn allocate(&self, layout: TableLayout) -> Result<Hpa, AllocError> {
        self.memory.store();
        let mut waiting = self.waiting.borrow_mut();
        if let Some(epochs) = &self.epochs {
            waiting.retain(|&(table, cookie)| {
                let passed = epochs.passed(cookie);
                if passed {
                    self.put(table);
                }
                !passed
            });
        }
        self.free.borrow_mut().pop().map(Hpa::new).ok_or(AllocError::Exhausted { layout })
    }

    fn free(&self, table: Hpa, _: TableLayout, _: Contents) -> Result<(), AllocError> {
        self.memory.store();
        match &self.epochs {
            Some(epochs) => self.waiting.borrow_mut().push((table.get(), epochs.start())),
            None => self.put(table.get()),
        }
        Ok(())
    }

    fn state(&self, table: Hpa, _: TableLayout) -> Option<&TableState> {
        self.memory.store();
        self.states.get(table.get() as usize / 32)
    }
}

impl Tables<'_> {
    /// Zeroed, it is the next to be handed out.
    fn put(&self, table: u64) {
        let first = table as usize / 8;
        self.memory.copy[first..first + 4].iter().for_each(|word| word.store(0, Ordering::Relaxed));
        self.memory.store();
        self.free.borrow_mut().push(table);
    }
}

/// What a reader saw of the page that was mapped before it began.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
enum Seen {
    ItsPage,
    Nothing,
    /// Somewhere it never led.
    Garbage(u64),
}

const PAGE: Gpa = Gpa::new(0x1000);
const ITS: Hpa = Hpa::new(0xa000);
/// The same place in another table, leading elsewhere.
const OTHER: Gpa = Gpa::new(0x5000);
const ELSEWHERE: Hpa = Hpa::new(0xb000);

type Tree<'t> = PageTable<Tiny, &'t Write, &'t Tables<'t>>;

/// In every interleaving of `write` with one reader: what the reader sees.
fn seen(
    deferred: bool,
    write: impl Fn(&mut Tree<'_>, &Tables<'_>) + Send + Sync + 'static,
) -> BTreeSet<Seen> {
    let all = StdArc::new(Mutex::new(BTreeSet::new()));
    let collected = all.clone();
    loom::model(move || {
        let words: Words = Arc::new((0..WORDS).map(|_| AtomicU64::new(0)).collect());
        let epochs = Arc::new(Epochs::new(1));
        let memory =
            Write { words: words.clone(), copy: copies(), stored: RefCell::new(vec![0; WORDS]) };
        let tables = Tables {
            memory: &memory,
            epochs: deferred.then(|| epochs.clone()),
            free: RefCell::new((0..TABLES as u64).rev().map(|table| table * 32).collect()),
            waiting: RefCell::default(),
            states: Default::default(),
        };
        let mut tree = PageTable::new(Tiny::PAGES, &memory, &tables).unwrap();
        tree.map(PAGE, ITS, 0x1000, Plain, Leaves::Largest).unwrap();
        memory.store();
        let (root, all) = (tree.root(), all.clone());
        let reader = loom::thread::spawn(move || {
            let mut reader = epochs.reader().unwrap();
            let reading = reader.read();
            let walker = Walker::new(Tiny::PAGES, Read { words, copy: copies() }, root);
            let seen = match walker.translate(PAGE, Access::READ) {
                Ok(found) if found.output == ITS => Seen::ItsPage,
                Ok(found) => Seen::Garbage(found.output.get()),
                Err(_) => Seen::Nothing,
            };
            drop(reading);
            all.lock().unwrap().insert(seen);
        });
        write(&mut tree, &tables);
        memory.store();
        reader.join().unwrap();
    });
    let seen = collected.lock().unwrap();
    seen.clone()
}

/// The page is unmapped, which frees its table; then another page is mapped, which takes it (or the
/// other one).
fn unmap_and_map_another(tree: &mut Tree<'_>, tables: &Tables<'_>) {
    let mut gather = Gather::new(&Unused, ());
    tree.unmap(PAGE, 0x1000, &mut gather).unwrap();
    gather.finish(&tables).unwrap();
    tree.map(OTHER, ELSEWHERE, 0x1000, Plain, Leaves::Largest).unwrap();
}

/// The page's table moves; then another page is mapped, into the place where it was if that may be
/// used again.
fn move_and_map_another(tree: &mut Tree<'_>, tables: &Tables<'_>) {
    let mut gather = Gather::new(&Unused, ());
    assert_eq!(tree.relocate(|_, _| true, &mut gather), Ok(1));
    gather.finish(&tables).unwrap();
    // There is no third table: with a reader about, there may be none at all.
    let _ = tree.map(OTHER, ELSEWHERE, 0x1000, Plain, Leaves::Largest);
}

#[test]
fn a_table_that_waits_for_readers_never_shows_garbage() {
    assert_eq!(seen(true, unmap_and_map_another), [Seen::ItsPage, Seen::Nothing].into());
}

#[test]
fn a_table_that_is_used_again_at_once_does() {
    let garbage = Seen::Garbage(ELSEWHERE.get());
    assert_eq!(seen(false, unmap_and_map_another), [Seen::ItsPage, Seen::Nothing, garbage].into());
}

#[test]
fn a_page_stays_mapped_while_its_table_moves() {
    assert_eq!(seen(true, move_and_map_another), [Seen::ItsPage].into());
}

#[test]
fn it_does_not_if_the_old_table_is_used_again_at_once() {
    let garbage = Seen::Garbage(ELSEWHERE.get());
    assert_eq!(seen(false, move_and_map_another), [Seen::ItsPage, Seen::Nothing, garbage].into());
}
