//! Hysteresis: the table that became empty last stays, one at a time, and leaves when it is asked
//! to; what is mapped is not concerned.

use std::collections::BTreeMap;

use crate::support::{Arena, Tables};
use arch_ppc64::radix::{Granule, PartitionScoped, ProcessScoped};
use arch_x86::{Controls, Levels, LongMode};
use pgtable::{Address, Format, Gather, Input, Leaves, Output, PageTable, Prot, Unused};
use proptest::prelude::*;

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

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => (0u64..12).prop_map(Step::Map),
        1 => (0u64..4).prop_map(Step::MapAll),
        6 => (0u64..12).prop_map(Step::Unmap),
        1 => (0u64..12, 1u64..6).prop_map(|(first, count)| Step::UnmapAll(first, count)),
        1 => any::<bool>().prop_map(Step::Keep),
        1 => Just(Step::Trim),
    ]
}

/// Page `number` of a few that stand in the same table, in neighbouring ones, and far away.
fn page<F: Format>(format: &F, number: u64) -> u64 {
    let geometry = format.geometry();
    let table = u64::from(geometry.width(pgtable::Level(0)) + geometry.page_shift());
    (number % 3) << geometry.page_shift() | (number / 3 % 2) << table | (number / 6) << 39
}

/// The tables that these pages need, the root included.
fn needed<F: Format>(format: &F, pages: &BTreeMap<u64, u64>) -> usize {
    let root = format.geometry().root().0;
    let tables = |level: u8| {
        let span = format.geometry().shift(pgtable::Level(level))
            + format.geometry().width(pgtable::Level(level));
        pages.keys().map(|&page| page >> span).collect::<std::collections::BTreeSet<_>>().len()
    };
    1 + (0..root).map(tables).sum::<usize>()
}

fn run<F: Format>(format: F, steps: &[Step]) {
    let arena = Arena::new(4 << 20);
    let tables = Tables::new(&arena);
    let mut space = PageTable::new(format, arena.memory::<Output<F>>(), &tables).unwrap();
    let size = 1u64 << format.geometry().page_shift();
    let mut model = BTreeMap::new();
    let mut gather = Gather::new(&Unused, ());
    for (time, step) in (1..).zip(steps) {
        match *step {
            Step::Map(number) => {
                let (at, output) = (page(&format, number), time * size);
                let (input, to) = (Input::<F>::new(at), Output::<F>::new(output));
                let mapped = space.map(
                    input,
                    to,
                    size,
                    Prot::RW.into(),
                    Leaves::Exactly(size.trailing_zeros() as u8),
                );
                assert_eq!(mapped.is_ok(), !model.contains_key(&at));
                model.entry(at).or_insert(output);
            }
            Step::MapAll(table) => {
                let (at, output) = (page(&format, 3 * table), time * size);
                let (input, to) = (Input::<F>::new(at), Output::<F>::new(output));
                let leaves = Leaves::Exactly(size.trailing_zeros() as u8);
                let mapped = space.map(input, to, 3 * size, Prot::RW.into(), leaves);
                let done = mapped.map_or_else(|error| error.at.get() - at, |()| 3 * size);
                let first =
                    model.range(at..at + 3 * size).next().map_or(3 * size, |(taken, _)| taken - at);
                assert_eq!(done, first);
                model.extend(
                    (0..done).step_by(size as usize).map(|page| (at + page, output + page)),
                );
            }
            Step::Unmap(number) => {
                let at = page(&format, number);
                let unmapped = space.unmap(Input::<F>::new(at), size, &mut gather).unwrap();
                assert_eq!(unmapped > 0, model.remove(&at).is_some());
            }
            Step::UnmapAll(first, count) => {
                let (start, end) = (page(&format, first), page(&format, first) + count * size);
                space.unmap(Input::<F>::new(start), end - start, &mut gather).unwrap();
                model.retain(|&at, _| at < start || at >= end);
            }
            Step::Keep(keep) => space.keep_last_empty(keep),
            Step::Trim => space.trim(&mut gather).unwrap(),
        }
        gather.finish(&tables).unwrap();
        gather = Gather::new(&Unused, ());
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
            let found =
                space.walker().query(Input::<F>::new(at)).unwrap().map(|found| found.output.get());
            assert_eq!(found, model.get(&at).copied());
        }
    }
    space.destroy(gather).map_err(|(_, error)| error).unwrap();
    assert_eq!(tables.live(), 0);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 128, failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn x86(steps in proptest::collection::vec(step(), 1..60)) {
        run(LongMode::new(Levels::Four, Controls::new()), &steps);
    }
    #[test]
    fn radix_64k(steps in proptest::collection::vec(step(), 1..60)) {
        run(ProcessScoped::new(Granule::K64), &steps);
    }
    #[test]
    fn radix_4k_partition(steps in proptest::collection::vec(step(), 1..60)) {
        run(PartitionScoped::new(Granule::K4), &steps);
    }
}

/// The point of it: a page that comes and goes costs no table each time.
#[test]
fn a_page_that_comes_and_goes() {
    let arena = Arena::new(1 << 20);
    let tables = Tables::new(&arena);
    let format = LongMode::new(Levels::Four, Controls::new());
    let mut space = PageTable::new(format, arena.memory(), &tables).unwrap();
    let input = pgtable::Gva::new(0x1234_5000);
    space.keep_last_empty(true);
    for time in 0..3 {
        space
            .map(input, pgtable::Gpa::new(0x1000), 0x1000, Prot::RW.into(), Leaves::Largest)
            .unwrap();
        let mut gather = Gather::new(&Unused, ());
        assert_eq!(space.unmap(input, 0x1000, &mut gather), Ok(0x1000));
        assert_eq!(gather.finish(&tables).unwrap().tables, 0, "time {time}");
        assert_eq!(tables.live(), 4);
    }
    let mut gather = Gather::new(&Unused, ());
    space.trim(&mut gather).unwrap();
    assert_eq!(gather.finish(&tables).unwrap().tables, 3);
    space.destroy(Gather::new(&Unused, ())).map_err(|(_, error)| error).unwrap();
}

/// A table that stays takes what is mapped next, page after page; a page that would stand in its
/// place comes as smaller ones.
#[test]
fn what_is_mapped_into_a_table_that_stayed() {
    let arena = Arena::new(1 << 20);
    let tables = Tables::new(&arena);
    let mut space =
        PageTable::new(LongMode::new(Levels::Four, Controls::new()), arena.memory(), &tables)
            .unwrap();
    space.keep_last_empty(true);
    let (start, to, large) = (pgtable::Gva::new(2 << 20), pgtable::Gpa::new(6 << 20), 2 << 20);
    for bytes in [0x3000, large] {
        space.map(start, to, 0x1000, Prot::RW.into(), Leaves::Largest).unwrap();
        let mut gather = Gather::new(&Unused, ());
        assert_eq!(space.unmap(start, 0x1000, &mut gather), Ok(0x1000));
        space.map(start, to, bytes, Prot::RW.into(), Leaves::Largest).unwrap();
        let leaves: Vec<_> =
            space.walker().iter(start, large).unwrap().map(Result::unwrap).collect();
        assert_eq!(leaves.len() as u64, bytes >> 12);
        for leaf in leaves {
            assert_eq!(leaf.output.get() - to.get(), leaf.input.get() - start.get());
        }
        assert_eq!(space.unmap(start, bytes, &mut gather), Ok(bytes));
        gather.finish(&tables).unwrap();
    }
    space.destroy(Gather::new(&Unused, ())).map_err(|(_, error)| error).unwrap();
}
