//! What trees can do beyond an address space: cursors, splitting and promoting, remapping,
//! harvesting, movement.

use std::collections::BTreeSet;
use std::ops::ControlFlow;

use pgtable::format::{Format, Groups, Input, Output};
use pgtable::invalidate::Gather;
use pgtable::tree::{Recorded, Writers};
use pgtable::{Address, AddressSpace, Attributes, Error, Leaves, Prot, RangeError};

use crate::flat::{Flat, Hardware};
use crate::machine::{Machine, Tree};
use crate::memory::{Arena, Tables};
use crate::mmu::Caches;
use crate::ops::{Place, TreeOp};

/// A tree and the flat map that says what it must hold.
pub type FlatTree<'m, F> = Flat<'m, Machine<'m, F>, Tree<'m, F>>;

/// Bytes of memory for the tables of a case.
pub const ARENA: usize = 8 << 20;
/// Every form of reading is compared after so many times `whole` operations, and after the last.
/// The forms read what is there, however it came there.
const READ: usize = 4;

fn encodes<F: Format>(machine: &Machine<'_, F>, output: u64, attributes: F::Attributes) -> bool {
    Hardware::<Tree<'_, F>>::encodes(machine, output, attributes)
}

fn settled<F: Format>(flat: &FlatTree<'_, F>, attributes: F::Attributes) -> F::Attributes {
    Hardware::<Tree<'_, F>>::settled(flat.machine, attributes)
}

/// Random operations on a tree of `format`, which is torn down in the end.
///
/// # Panics
/// If an operation does anything else than it should.
pub fn random<F: Format>(format: F, caches: Caches, cases: u32) {
    crate::cases::run(cases, &crate::ops::tree_ops(20), &|ops| {
        let arena = Arena::new(ARENA);
        let tables = Tables::new(&arena);
        run(&Machine::new(format, &arena, &tables, caches), ops, 1);
    });
}

/// Runs `ops` on an empty tree of `machine`, and compares the whole of it after `whole` of them and
/// after the last.
///
/// # Panics
/// If one of them does anything else than it should, or if anything is left in the end.
pub fn run<'m, F: Format>(machine: &'m Machine<'m, F>, ops: &[TreeOp], whole: usize) {
    let tree = machine.tree().expect("room for a root");
    let mut flat = Flat::new(tree, machine);
    flat.whole = whole;
    for (number, op) in (1..).zip(ops) {
        apply(&mut flat, op);
        let last = number == ops.len();
        if last && number % whole != 0 {
            flat.compare();
        }
        if last || number % (READ * whole) == 0 {
            crate::reading::forms(&flat);
        }
    }
    // Every other case is torn down as it is. Unmapping everything leaves the root alone, so the
    // tree holds no empty table.
    if ops.len() % 2 == 0 {
        let (start, bytes) = flat.space.range();
        let mut gather = machine.gather();
        flat.space.unmap(start, bytes, &mut gather).expect("all can be unmapped");
        gather.finish(&machine).expect("nothing fails");
        assert_eq!(machine.tables.live(), 1, "only the root is left");
        machine.verify();
    }
    machine.destroy(flat.space);
}

/// Whether a last-level table of pages of another size than the base page covers `input`: smaller
/// ones, or, as POWER's 64K pages in a tree of 4K pages, larger ones.
fn stands_in_odd_pages<F: Format>(flat: &FlatTree<'_, F>, input: u64) -> bool {
    let trace = flat.space.walker().trace(Input::<F>::new(input));
    let usual = flat.space.format().geometry().page_shift();
    trace.last().is_some_and(|last| last.at.level.0 == 0 && last.at.shift != usual)
}

/// Does `op` to the tree and to the model, and compares.
///
/// # Panics
/// If they differ.
pub fn apply<'m, F: Format>(flat: &mut FlatTree<'m, F>, op: &TreeOp) {
    let machine = flat.machine;
    if let TreeOp::Space(op) = op {
        return flat.apply(op);
    }
    let mut gather = machine.gather();
    match *op {
        TreeOp::Space(ref op) => flat.apply(op),
        TreeOp::Cursor(ref steps, prot, budget) => cursor(flat, steps, prot, budget, &mut gather),
        TreeOp::Split(at, pages, size, budget) => {
            let shift = flat.shifts[size.min(flat.shifts.len() - 1)];
            let start = flat.input(at);
            split(flat, (start, flat.within(start, pages * flat.unit)), shift, budget, &mut gather);
        }
        TreeOp::Promote(at, pages) => {
            let start = flat.input(at);
            let bytes = flat.within(start, pages * flat.unit);
            flat.watch(start, bytes);
            let live = machine.tables.live();
            let promoted = flat.space.promote(Input::<F>::new(start), bytes, &mut gather);
            gather.finish(&machine).expect("nothing fails");
            // A larger leaf stands for a table, or is a group.
            let (promoted, gone) = (promoted.expect("nothing fails"), live - machine.tables.live());
            assert!(gone == promoted || F::GROUPS != Groups::None && gone < promoted);
        }
        TreeOp::Remap(at, pages, output, prot) => {
            let page = 1 << flat.space.format().geometry().page_shift();
            let (start, output) = (flat.input(at) & !(page - 1), output * page);
            let bytes = flat.within(start, pages * page);
            remap(flat, (start, bytes), output, prot, &mut gather);
        }
        TreeOp::Protect(at, pages, prot, budget) => {
            let (start, bytes) = (flat.input(at), flat.bytes(pages));
            flat.watch(start, bytes);
            // Nobody else writes: hardware included.
            machine.watch([]);
            machine.tables.budget.set(budget);
            let at = Input::<F>::new(start);
            let result = flat.space.protect_beside(at, bytes, prot, Writers::Stopped, &mut gather);
            flat.changed(start, bytes, |_, old| old.with_prot(prot), result);
        }
        TreeOp::Harvest(at, pages, recorded, writers) => {
            let page = 1 << flat.space.format().geometry().page_shift();
            let start = flat.input(at) & !(page - 1);
            let bytes = flat.within(start, pages * page);
            harvest(flat, (start, bytes), recorded, writers, &mut gather);
        }
        TreeOp::Relocate(which, root, budget) => relocate(flat, which, root, budget, &mut gather),
    }
    machine.tables.budget.set(usize::MAX);
    gather.finish(&machine).expect("nothing fails");
    drop(gather);
    flat.check();
}

fn cursor<'m, F: Format>(
    flat: &mut FlatTree<'m, F>,
    steps: &[(Place, Option<u64>)],
    prot: Prot,
    budget: usize,
    gather: &mut Gather<'_, F::Stage, Machine<'m, F>>,
) {
    let (unit, page) = (flat.unit, 1 << flat.space.format().geometry().page_shift());
    let attributes = F::Attributes::from(prot);
    let settled = settled(flat, attributes);
    let places: Vec<_> =
        steps.iter().map(|&(at, output)| (flat.input(at) & !(page - 1), output)).collect();
    // The cursor makes no tables of pages of another size, so it meets those that stand now.
    let odd: Vec<_> = places.iter().map(|&(start, _)| stands_in_odd_pages(flat, start)).collect();
    flat.watch_at(places.iter().map(|&(start, _)| start).collect());
    flat.machine.tables.budget.set(budget);
    let (format, machine) = (*flat.space.format(), flat.machine);
    let mut stale = BTreeSet::new();
    let mut cursor = flat.space.cursor(gather);
    for ((start, output), odd) in places.into_iter().zip(odd) {
        let input = Input::<F>::new(start);
        let mapped = flat.model.range(start..start + page).next().is_some();
        if output.is_some() && stale.contains(&start) {
            // Hardware may hold what was mapped here, and must not hold two translations.
            cursor.finish().expect("nothing fails");
            gather.finish(&machine).expect("nothing fails");
            stale.clear();
            cursor = flat.space.cursor(gather);
        }
        let changed = match output {
            Some(output) => {
                let output = output * page;
                let done = cursor.map(input, Output::<F>::new(output), attributes);
                match done {
                    Ok(()) => {
                        assert!(!mapped, "mapped over a mapping at {input}");
                        let pages = (0..page).step_by(unit as usize);
                        flat.model.extend(pages.map(|at| (start + at, (output + at, settled))));
                    }
                    Err(Error::Mapped { .. }) => assert!(mapped, "nothing is mapped at {input}"),
                    Err(Error::LeafSize) => assert!(odd, "no pages of another size at {input}"),
                    _ => {}
                }
                done
            }
            None => cursor.unmap(input).map(|was| match was {
                true => {
                    stale.insert(start);
                    flat.model.retain(|&at, _| at < start || at >= start + page);
                }
                false => assert!(!mapped, "{input} was not unmapped"),
            }),
        };
        match changed {
            Ok(()) | Err(Error::Mapped { .. } | Error::LeafSize) => {}
            Err(Error::Alloc(_)) => assert_ne!(budget, usize::MAX),
            Err(Error::Unencodable { .. }) => {
                let to = output.unwrap_or(0) * page;
                assert!(!encodes::<F>(machine, to, attributes), "it can be encoded");
            }
            Err(error) => panic!("{error}"),
        }
        let found = cursor.query(input).expect("a place in the space");
        let wanted = flat.model.get(&start).copied();
        assert_eq!(found.map(|found| found.output.get()), wanted.map(|it| it.0), "{input}");
        let prot = |attributes: F::Attributes| attributes.prot();
        assert_eq!(
            found.map(|found| prot(found.attributes)),
            wanted.map(|it| prot(it.1)),
            "{input} of {format:?}"
        );
    }
    cursor.finish().expect("nothing fails");
}

fn split<'m, F: Format>(
    flat: &mut FlatTree<'m, F>,
    (start, bytes): (u64, u64),
    shift: u8,
    budget: usize,
    gather: &mut Gather<'_, F::Stage, Machine<'m, F>>,
) {
    flat.watch(start, bytes);
    flat.machine.tables.budget.set(budget);
    let result = flat.space.split(Input::<F>::new(start), bytes, shift, gather);
    if let Err(error) = &result {
        let expected = matches!(error.error, Error::LeafSize | Error::Alloc(_));
        return assert!(expected, "{error}");
    }
    let walk = flat.space.for_each(Input::<F>::new(start), bytes, |leaf| {
        assert!(leaf.shift <= shift, "{leaf:?} is larger than 2^{shift}");
        ControlFlow::<()>::Continue(())
    });
    assert_eq!(walk, Ok(ControlFlow::Continue(())));
}

fn remap<'m, F: Format>(
    flat: &mut FlatTree<'m, F>,
    (start, bytes): (u64, u64),
    output: u64,
    prot: Prot,
    gather: &mut Gather<'_, F::Stage, Machine<'m, F>>,
) {
    flat.watch(start, bytes);
    let attributes = F::Attributes::from(prot);
    let (input, to) = (Input::<F>::new(start), Output::<F>::new(output));
    let result = flat.space.remap(input, to, bytes, attributes, Leaves::Largest, gather);
    let done = result.map_or_else(|error| error.at.get() - start, |()| bytes);
    let unencodable = !encodes::<F>(flat.machine, output + done, attributes);
    let expected = match result {
        Err(RangeError { error: Error::Unencodable { .. }, .. }) => unencodable,
        _ => done == bytes || matches!(result, Err(error) if error.error == Error::LeafSize),
    };
    assert!(expected, "{result:?}");
    // From the error on, what was mapped may be unmapped: take what is there, if it was there
    // before.
    let space = &flat.space;
    let found = |at| space.walker().query(Input::<F>::new(at)).expect("a place in the space");
    flat.model.retain(|&at, _| at < start || at >= start + bytes || found(at).is_some());
    let settled = settled(flat, attributes);
    for at in (0..done).step_by(flat.unit as usize) {
        flat.model.insert(start + at, (output + at, settled));
    }
    let offset = flat.space.format().offset(input).expect("a place in the space");
    flat.machine.mmu(|mmu| mmu.told(offset, bytes));
}

/// Every store that was recorded since the last harvest is told of.
fn harvest<'m, F: Format>(
    flat: &mut FlatTree<'m, F>,
    (start, bytes): (u64, u64),
    recorded: Recorded,
    writers: Writers,
    gather: &mut Gather<'_, F::Stage, Machine<'m, F>>,
) {
    let shift = flat.space.format().geometry().page_shift();
    flat.watch(start, bytes);
    let input = Input::<F>::new(start);
    let offset = flat.space.format().offset(input).expect("a place in the space");
    // Which stores were recorded before it began.
    let dirtied = flat.machine.mmu(|mmu| mmu.dirtied()).unwrap_or_default();
    if writers == Writers::Stopped {
        flat.machine.watch([]);
    }
    let mut bitmap = vec![0; (bytes >> shift).div_ceil(64) as usize];
    let harvested = flat.space.harvest(input, bytes, recorded, writers, &mut bitmap, gather);
    let set: u32 = bitmap.iter().map(|word| word.count_ones()).sum();
    match harvested {
        Ok(found) => assert_eq!(found, u64::from(set)),
        Err(error) => {
            let base = crate::words::bits(flat.space.format());
            let record = if recorded == Recorded::Dirty { base.dirty } else { base.accessed };
            return assert!(error.error == Error::NoRecord && !record.exists(), "{error}");
        }
    }
    if recorded == Recorded::Accessed {
        return;
    }
    let told = |page: u64| {
        let bit = (page - offset) >> shift;
        bitmap[(bit / 64) as usize] >> (bit % 64) & 1 == 1
    };
    for range in dirtied {
        for page in (range.start.max(offset)..range.end.min(offset + bytes)).step_by(1 << shift) {
            assert!(told(page), "a store at {page:#x} was recorded before, and is not told of");
        }
    }
    flat.machine.mmu(|mmu| mmu.harvested(offset, bytes, told));
}

fn relocate<'m, F: Format>(
    flat: &mut FlatTree<'m, F>,
    which: u64,
    root: bool,
    budget: usize,
    gather: &mut Gather<'_, F::Stage, Machine<'m, F>>,
) {
    let machine = flat.machine;
    flat.watch(0, flat.space.range().1);
    let before = machine.tables.live();
    machine.tables.budget.set(budget);
    let mut asked = 0;
    let moves = |table: Output<F>, _| {
        asked += 1;
        which == 0 || table.get() >> 8 & which != 0
    };
    match flat.space.relocate(moves, gather) {
        Ok(moved) => {
            assert_eq!(asked, before - 1, "every table but the root is asked about");
            assert!(which != 0 || moved == before - 1);
        }
        Err(Error::Alloc(_)) => assert_ne!(budget, usize::MAX),
        Err(error) => panic!("{error}"),
    }
    machine.tables.budget.set(usize::MAX);
    if root {
        let old = flat.space.root();
        let new = flat.space.relocate_root(|root| machine.load(root), gather);
        assert!(new != Ok(old) && new == Ok(flat.space.root()), "{new:?}");
    }
    gather.finish(&machine).expect("nothing fails");
    assert_eq!(machine.tables.live(), before);
}
