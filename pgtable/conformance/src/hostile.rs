//! Tables that others write, and memory that refuses: verbs end after bounded work, nothing panics,
//! and the allocator's books are right in the end.

use std::ops::ControlFlow;

use pgtable::allocator::TableLayout;
use pgtable::format::{Format, Input, Output, TableWord as _};
use pgtable::{Access, Address, AddressSpace, Attributes, InputOf, Leaves, Level, Position, Prot};
use proptest::prelude::{BoxedStrategy, Just, Strategy, any, prop_oneof};

use crate::machine::{Machine, Tree};
use crate::memory::{Arena, Tables};
use crate::mmu::Caches;
use crate::ops::{Op, Pages, Place, TreeOp};
use crate::words::ACCESSES;

/// What others do to the tables, and the verbs in between.
#[derive(Clone, Debug)]
enum Step {
    /// The entry of a live table holds this word.
    Word { table: usize, entry: u64, word: u64 },
    /// The entry of a live table leads to a live table, itself included, as if it stood so many
    /// levels further down.
    Link { table: usize, entry: u64, to: usize, past: u8 },
    /// The entry of a live table is a leaf.
    Leaf { table: usize, entry: u64, output: u64 },
    /// Every entry of a live table leads to it.
    Circle { table: usize },
    /// Memory refuses a live table from now on; none, if there is no such table.
    Refuse { table: usize },
    /// A verb.
    Verb(TreeOp),
    /// A number is kept in absent entries; 0 clears.
    Annotate { at: Place, pages: Pages, value: u64 },
}

fn steps() -> BoxedStrategy<Vec<Step>> {
    let table = || 0usize..24;
    let entry = || prop_oneof![3 => 0u64..6, 1 => any::<u64>()];
    let step = prop_oneof![
        2 => (table(), entry(), crate::words::any_word())
            .prop_map(|(table, entry, word)| Step::Word { table, entry, word }),
        4 => (table(), entry(), table(), prop_oneof![3 => Just(0), 1 => 1u8..4])
            .prop_map(|(table, entry, to, past)| Step::Link { table, entry, to, past }),
        1 => (table(), entry(), 0u64..4096)
            .prop_map(|(table, entry, output)| Step::Leaf { table, entry, output }),
        1 => table().prop_map(|table| Step::Circle { table }),
        1 => (0usize..48).prop_map(|table| Step::Refuse { table }),
        12 => crate::ops::tree_op().prop_map(Step::Verb),
        2 => (crate::ops::place(), crate::ops::pages(), 0u64..4)
            .prop_map(|(at, pages, value)| Step::Annotate { at, pages, value }),
    ];
    proptest::collection::vec(step, 1..40).boxed()
}

/// Random verbs on a tree whose tables are written by others.
///
/// # Panics
/// If one panics, asks for more words than it may, or leaves the allocator's books wrong.
pub fn random<F: Format>(format: F, cases: u32) {
    crate::cases::run(cases, &steps(), &|steps| {
        let arena = Arena::new(2 << 20);
        let tables = Tables::new(&arena).written_by_others();
        let machine = Machine::new(format, &arena, &tables, Caches::STRICT);
        whatever(&machine, &arena, steps);
    });
}

/// The words of all live tables: what a verb may come to once for each level, and back.
fn words<F: Format>(tables: &Tables<'_>) -> usize {
    tables.all().iter().map(|(_, layout)| layout.bytes() / F::Word::BYTES).sum()
}

fn whatever<'m, F: Format>(machine: &'m Machine<'m, F>, arena: &Arena, steps: &[Step]) {
    let mut tree = machine.tree().expect("room for a root");
    let levels = usize::from(tree.format().geometry().levels());
    for step in steps {
        if !matches!(step, Step::Verb(_) | Step::Annotate { .. }) {
            write(machine, arena, tree.format(), step);
            walks(machine, &tree);
            continue;
        }
        machine.words();
        let (before, given) = (words::<F>(machine.tables), machine.tables.handed_out());
        attempt(&mut tree, machine, step);
        // Tables that it made, or copied, count too.
        let all = before + machine.tables.handed_out() - given;
        let (asked, most) = (machine.words(), 8 * levels * all + 4 * 2400);
        assert!(asked <= most, "{step:?} asked for {asked} words, of {all}");
    }
    machine.refuse(None);
    let live = machine.tables.live();
    let done = tree.destroy(machine.gather()).map_err(|(_, error)| error).expect("nothing fails");
    // What no way leads to any more stays allocated, and nothing is freed twice (the allocator
    // looks).
    assert_eq!((done.refused, machine.tables.live()), (0, live - done.tables));
}

/// A write by others.
fn write<F: Format>(machine: &Machine<'_, F>, arena: &Arena, format: &F, step: &Step) {
    let (all, memory) = (machine.tables.all(), arena.memory::<Output<F>>());
    let geometry = format.geometry();
    let nth = |n: usize| all[n % all.len()];
    let at = |layout: TableLayout| {
        let shift = geometry.shift(layout.level);
        Position { level: layout.level, shift }
    };
    let store = |(table, layout): (u64, TableLayout), entry: u64, word: u64| {
        let entry = entry % (layout.bytes() >> F::Word::SHIFT) as u64;
        let address = Output::<F>::new(table + (entry << F::Word::SHIFT));
        let slot = F::Word::word_in(&memory, address).expect("a live table");
        slot.store_raw(F::Word::swap(F::BYTE_ORDER, word), std::sync::atomic::Ordering::Relaxed);
    };
    let link = |from: TableLayout, to: u64, past: u8| {
        let level = Level(from.level.0.checked_sub(past)?);
        let below = Level(level.0.checked_sub(1)?);
        let at = Position { level, shift: geometry.shift(level) };
        format.table(Output::<F>::new(to), geometry.width(below), at).ok()
    };
    match *step {
        Step::Word { table, entry, word } => store(nth(table), entry, word),
        Step::Link { table, entry, to, past } => {
            if let Some(word) = link(nth(table).1, nth(to).0, past) {
                store(nth(table), entry, word);
            }
        }
        Step::Leaf { table, entry, output } => {
            let at = at(nth(table).1);
            let output = Output::<F>::new(output << at.shift);
            if let Ok(words) = format.leaves(output, F::Attributes::from(Prot::RWX), at) {
                store(nth(table), entry, words.first);
            }
        }
        Step::Circle { table } => {
            let (address, layout) = nth(table);
            if let Some(word) = link(layout, address, 0) {
                (0..(layout.bytes() >> F::Word::SHIFT) as u64)
                    .for_each(|entry| store(nth(table), entry, word));
            }
        }
        Step::Refuse { table } => {
            let refused = all.get(table).map(|&(table, layout)| (table, layout.bytes() as u64));
            machine.refuse(refused);
        }
        Step::Verb(_) | Step::Annotate { .. } => {}
    }
}

/// Every walk ends, after so many words.
fn walks<F: Format>(machine: &Machine<'_, F>, tree: &Tree<'_, F>) {
    let walk = 2 * usize::from(tree.format().geometry().levels());
    let (start, bytes) = tree.range();
    machine.words();
    for n in 0..4 {
        let input = Input::<F>::new(start.get() + bytes / 4 * n + 5);
        for access in ACCESSES {
            let _ = tree.translate(input, access);
            assert!(machine.words() <= walk, "{access} at {input}");
            let _ = tree.walker().access(input, access);
            assert!(machine.words() <= 16 * 2 * walk, "{access} at {input}, recorded");
        }
        let _ = tree.walker().query(input);
        let _ = tree.walker().trace(input);
        assert!(machine.words() <= 2 * walk, "{input}");
    }
}

/// Does the verb of `step`, whatever comes of it.
fn attempt<'m, F: Format>(tree: &mut Tree<'m, F>, machine: &'m Machine<'m, F>, step: &Step) {
    let shifts = tree.leaf_shifts().to_vec();
    let unit = 1u64 << shifts[0];
    let (start, whole) = tree.range();
    let input = |at: Place| {
        let far = [0, 1 << shifts[shifts.len() / 2], 1 << 30, (1 << 30) + unit, 1 << 40, whole / 4];
        InputOf::<Tree<'m, F>>::new(
            start.get() + far[at.far as usize % 6].min(whole / 2) + at.near * unit,
        )
    };
    // A range may be the whole space.
    let bytes = |pages: Pages| match pages {
        Pages::Small(count) => count * unit,
        Pages::Large(size, count) => shifts.get(size).map_or(whole / 4, |shift| count << shift),
    };
    let output = |output: u64| Output::<F>::new(output * unit);
    let mut gather = machine.gather();
    let budget = &machine.tables.budget;
    let op = match *step {
        Step::Verb(ref op) => op,
        Step::Annotate { at, pages, value } => {
            let _ = tree.annotate(input(at), bytes(pages), value, &mut gather);
            let _ = gather.finish(&machine);
            // As long as its range.
            let flow = |_| ControlFlow::<()>::Continue(());
            let _ = tree.walker().for_each_annotation(input(at), 64 * unit, flow);
            return;
        }
        _ => return,
    };
    match *op {
        TreeOp::Space(Op::Map { at, pages, output: to, prot, leaves, budget: tables }) => {
            budget.set(tables);
            let (leaves, attributes) = (leaves.leaves(&shifts), prot.into());
            let bytes = bytes(pages).min(unit * 2048);
            let _ = tree.map(input(at), output(to), bytes, attributes, leaves);
        }
        TreeOp::Space(Op::Unmap { at, pages, budget: tables }) => {
            budget.set(tables);
            let _ = tree.unmap(input(at), bytes(pages), &mut gather);
        }
        TreeOp::Space(Op::Protect { at, pages, prot, budget: tables })
        | TreeOp::Protect(at, pages, prot, tables) => {
            budget.set(tables);
            let edit = |leaf: pgtable::walk::LeafOf<F>| leaf.attributes.with_prot(prot);
            let _ = tree.modify(input(at), bytes(pages), edit, &mut gather);
        }
        TreeOp::Cursor(ref steps, prot, tables) => {
            budget.set(tables);
            let mut cursor = tree.cursor(&mut gather);
            for &(at, to) in steps {
                match to {
                    Some(to) => drop(cursor.map(input(at), output(to), prot.into())),
                    None => drop(cursor.unmap(input(at))),
                }
                let _ = cursor.query(input(at));
            }
            let _ = cursor.finish();
        }
        TreeOp::Split(at, pages, size, tables) => {
            budget.set(tables);
            let shift = shifts[size.min(shifts.len() - 1)];
            let _ = tree.split(input(at), pages * unit, shift, &mut gather);
        }
        TreeOp::Promote(at, pages) => {
            let _ = tree.promote(input(at), pages * unit, &mut gather);
        }
        TreeOp::Remap(at, pages, to, prot) => {
            let (to, attributes) = (output(to), prot.into());
            let bytes = pages * unit;
            let _ = tree.remap(input(at), to, bytes, attributes, Leaves::Largest, &mut gather);
        }
        TreeOp::Harvest(at, pages, recorded, writers) => {
            let bits = &mut [0; 40];
            let _ = tree.harvest(input(at), pages * unit, recorded, writers, bits, &mut gather);
        }
        TreeOp::Relocate(which, root, tables) => {
            budget.set(tables);
            let moves = |table: Output<F>, _| which == 0 || table.get() >> 8 & which != 0;
            let _ = tree.relocate(moves, &mut gather);
            if root {
                let _ = tree.relocate_root(|_| (), &mut gather);
            }
        }
    }
    budget.set(usize::MAX);
    let _ = gather.finish(&machine);
    let _ = tree.translate(input(Place { far: 0, near: 0 }), Access::READ);
}
