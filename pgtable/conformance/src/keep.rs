//! Hysteresis: the table that became empty last stays, one at a time, and leaves when it is asked
//! to; what is mapped is not concerned.

use std::collections::{BTreeMap, BTreeSet};

use pgtable::format::{Format, Output};
use pgtable::{Address, Leaves, Level};
use proptest::prelude::{BoxedStrategy, Just, Strategy, any, prop_oneof};

use crate::machine::Machine;
use crate::memory::{Arena, Tables};
use crate::mmu::Caches;
use crate::tree::ARENA;

#[derive(Clone, Debug)]
enum Step {
    Map(u64),
    /// The three pages of one table, in a row.
    MapAll(u64),
    Unmap(u64),
    /// A range, which never leaves a table empty.
    UnmapAll(u64, u64),
    Keep(bool),
    Trim,
}

fn step() -> BoxedStrategy<Step> {
    prop_oneof![
        6 => (0u64..12).prop_map(Step::Map),
        1 => (0u64..4).prop_map(Step::MapAll),
        6 => (0u64..12).prop_map(Step::Unmap),
        1 => (0u64..12, 1u64..6).prop_map(|(first, count)| Step::UnmapAll(first, count)),
        1 => any::<bool>().prop_map(Step::Keep),
        1 => Just(Step::Trim),
    ]
    .boxed()
}

/// Page `number` of a few that stand in the same table, in neighbouring ones, and far away.
fn page<F: Format>(format: &F, number: u64) -> u64 {
    let geometry = format.geometry();
    let table = u64::from(geometry.width(Level(0)) + geometry.page_shift());
    (number % 3) << geometry.page_shift()
        | (number / 3 % 2) << table
        | (number / 6) << (geometry.address_bits() - 2)
}

/// The tables that these pages need, the root included.
fn needed<F: Format>(format: &F, pages: &BTreeMap<u64, u64>) -> usize {
    let root = format.geometry().root().0;
    let tables = |level: u8| {
        let span = format.geometry().shift(Level(level)) + format.geometry().width(Level(level));
        pages.keys().map(|&page| page >> span).collect::<BTreeSet<_>>().len()
    };
    1 + (0..root).map(tables).sum::<usize>()
}

/// Random pages come and go.
///
/// # Panics
/// If a table leaves too early or too late.
pub fn random<F: Format>(format: F, caches: Caches, cases: u32) {
    let geometry = format.geometry();
    if geometry.address_bits() < geometry.page_shift() + geometry.width(Level(0)) + 4 {
        // No room for the places.
        return;
    }
    let steps = proptest::collection::vec(step(), 1..60).boxed();
    crate::cases::run(cases, &steps, &|steps| run(format, caches, steps));
}

fn run<F: Format>(format: F, caches: Caches, steps: &[Step]) {
    let arena = Arena::new(ARENA);
    let tables = Tables::new(&arena);
    let machine = Machine::new(format, &arena, &tables, caches);
    let Some((rw, _)) = crate::words::usable(&format) else { return };
    let mut space = machine.tree().expect("room for a root");
    let pages = (0..12).filter_map(|n| format.offset(format.address(page(&format, n))));
    machine.watch(pages);
    let size = 1u64 << format.geometry().page_shift();
    let mut model = BTreeMap::new();
    let mut gather = machine.gather();
    for (time, step) in (1..).zip(steps) {
        match *step {
            Step::Map(number) => {
                let (at, output) = (page(&format, number), time * size);
                let (input, to) = (format.address(at), Output::<F>::new(output));
                let mapped = space.map(
                    input,
                    to,
                    size,
                    rw.into(),
                    Leaves::Exactly(size.trailing_zeros() as u8),
                );
                assert_eq!(mapped.is_ok(), !model.contains_key(&at));
                model.entry(at).or_insert(output);
            }
            Step::MapAll(table) => {
                let (at, output) = (page(&format, 3 * table), time * size);
                let (input, to) = (format.address(at), Output::<F>::new(output));
                let leaves = Leaves::Exactly(size.trailing_zeros() as u8);
                let mapped = space.map(input, to, 3 * size, rw.into(), leaves);
                let done = mapped.map_or_else(|error| error.at.get() - input.get(), |()| 3 * size);
                let first =
                    model.range(at..at + 3 * size).next().map_or(3 * size, |(taken, _)| taken - at);
                assert_eq!(done, first);
                model.extend(
                    (0..done).step_by(size as usize).map(|page| (at + page, output + page)),
                );
            }
            Step::Unmap(number) => {
                let at = page(&format, number);
                let unmapped =
                    space.unmap(format.address(at), size, &mut gather).expect("nothing fails");
                assert_eq!(unmapped > 0, model.remove(&at).is_some());
            }
            Step::UnmapAll(first, count) => {
                let (start, end) = (page(&format, first), page(&format, first) + count * size);
                space
                    .unmap(format.address(start), end - start, &mut gather)
                    .expect("nothing fails");
                model.retain(|&at, _| at < start || at >= end);
            }
            Step::Keep(keep) => space.keep_last_empty(keep),
            Step::Trim => space.trim(&mut gather).expect("nothing fails"),
        }
        gather.finish(&&machine).expect("nothing fails");
        machine.verify();
        let (needed, root) = (needed(&format, &model), usize::from(format.geometry().root().0));
        assert!(
            (needed..=needed + root).contains(&tables.live()),
            "{step:?}: {} live, {needed} needed",
            tables.live()
        );
        if matches!(step, Step::Trim) {
            assert_eq!(tables.live(), needed, "after trimming");
        }
        for number in 0..12 {
            let at = page(&format, number);
            let found = space
                .walker()
                .query(format.address(at))
                .expect("nothing fails")
                .map(|found| found.output.get());
            assert_eq!(found, model.get(&at).copied());
        }
    }
    drop(gather);
    machine.destroy(space);
}
