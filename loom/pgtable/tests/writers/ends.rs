//! Every interleaving of two writers, and what is mapped at the end.

use std::collections::BTreeSet;
use std::sync::atomic::Ordering;
use std::sync::{Arc as StdArc, Mutex};

use crate::tiny::{self, Plain, Tiny};
use loom::sync::Arc;
use pgtable::format::{Entry, Format};
use pgtable::invalidate::{Gather, Unused};
use pgtable::memory::TableMemory;
use pgtable::tree::PageTable;
use pgtable::{Gpa, Hpa, Leaves, Position};

use crate::memory::{Memory, TABLES, WHO};
use crate::tables::{Own, Tables, Tree, Writer};

/// The pages that are mapped at the end, and to what.
pub(crate) type Mapped = BTreeSet<(u64, u64)>;

/// In every interleaving of `one` with `other`, after `first`: what is mapped at the end, and how
/// many tables are left in the tree. Every count is checked.
pub(crate) fn ends(
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
        let tables = Arc::new(Tables::new(&memory, deferred));
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

pub(crate) const PAGE: u64 = 0x1000;
/// What a table of pages covers.
pub(crate) const LARGE: u64 = 4 * PAGE;

pub(crate) fn map(writer: &Writer<'_>, at: u64, bytes: u64) {
    writer.map(Gpa::new(at), Hpa::new(0x10_0000 + at), bytes, Plain, Leaves::Largest).unwrap();
}

pub(crate) fn unmap(writer: &Writer<'_>, tree: &Tree, at: u64, bytes: u64) {
    let mut gather = Gather::new(&Unused, ());
    writer.unmap(Gpa::new(at), bytes, &mut gather).unwrap();
    gather.finish(tree.tables()).unwrap();
}

/// Those pages, each where `map` maps it to.
pub(crate) fn pages(pages: &[u64]) -> Mapped {
    pages.iter().map(|&page| (page, 0x10_0000 + page)).collect()
}

/// What a table of tables covers.
pub(crate) const HUGE: u64 = 4 * LARGE;

/// Trees of three levels: tables are taken out whole, by `drop_tables`, and chains of them one by
/// one.
pub(crate) fn deep(
    first: impl Fn(&Writer<'_>) + Send + Sync + 'static,
    one: impl Fn(&Writer<'_>, &Tree) + Send + Sync + Copy + 'static,
    other: impl Fn(&Writer<'_>, &Tree) + Send + Sync + 'static,
) -> BTreeSet<(Mapped, usize)> {
    ends(Tiny::DEEP, true, first, one, other)
}
