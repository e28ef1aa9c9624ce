//! What trees can do beyond an address space: cursors, splitting and promoting, remapping, batches,
//! the forms of iteration. Same harness, same flat map, same TLB that forgets nothing.

use crate::support::harness::{Choice, Harness, Op, Pages, Place, budget, op, pages, place, prot};
use crate::support::{Arena, Tables};
use arch_ppc64::radix::{Granule, PartitionScoped, ProcessScoped};
use arch_x86::{Controls, Ept, EptControls, Levels, LongMode};
use pgtable::{
    Access, Address, AddressSpace, Attributes, DirectMap, Error, Format, Gather, Groups, Input,
    Leaves, Output, PageTable, Prot, Writers, low_bits,
};
use pgtable_conformance::lpa::Lpa;
use pgtable_conformance::sv::Sv;
use proptest::prelude::*;
use std::ops::ControlFlow;

#[derive(Clone, Debug)]
pub(crate) enum TreeOp {
    /// What every address space can do.
    Space(Op),
    /// A cursor walks over pages: (place, Some(output) to map, None to unmap).
    Cursor(Vec<(Place, Option<u64>)>, Prot, usize),
    Split(Place, u64, usize, usize),
    Promote(Place, u64),
    Remap(Place, u64, u64, Prot),
    /// Protects while nobody else writes.
    Protect(Place, Pages, Prot, usize),
}

fn tree_op() -> impl Strategy<Value = TreeOp> {
    let steps =
        proptest::collection::vec((place(), proptest::option::weighted(0.6, 0u64..4096)), 1..60);
    prop_oneof![
        4 => op().prop_map(TreeOp::Space),
        3 => (steps, prot(), budget()).prop_map(|(steps, prot, budget)| TreeOp::Cursor(steps, prot, budget)),
        1 => (place(), 1u64..1200, 0usize..4, budget()).prop_map(|(at, n, size, budget)| TreeOp::Split(at, n, size, budget)),
        2 => (place(), 1u64..2400).prop_map(|(at, pages)| TreeOp::Promote(at, pages)),
        1 => (place(), 1u64..40, 0u64..4096, prot()).prop_map(|(at, n, output, prot)| TreeOp::Remap(at, n, output, prot)),
        2 => (place(), pages(), prot(), budget()).prop_map(|(at, n, prot, budget)| TreeOp::Protect(at, n, prot, budget)),
    ]
}

type Tree<'h, F> = PageTable<F, DirectMap<'h, Output<F>>, &'h Tables<'h>>;

/// Whether a last-level table of pages of another size than the usual one covers `input`: smaller
/// ones, or, as POWER's 64K pages in a tree of 4K pages, larger ones.
fn stands_in_odd_pages<F: Format>(harness: &Harness<'_, Tree<'_, F>>, input: u64) -> bool {
    let trace = harness.space.walker().trace(Input::<F>::new(input));
    let usual = harness.space.format().geometry().page_shift();
    trace.last().is_some_and(|last| last.at.level.0 == 0 && last.at.shift != usual)
}

pub(crate) fn apply<F: Format>(harness: &mut Harness<'_, Tree<'_, F>>, op: &TreeOp) {
    let unit = harness.unit;
    if let TreeOp::Space(op) = op {
        return harness.apply(op);
    }
    harness.fill_tlb();
    let tlb = std::mem::take(&mut harness.tlb);
    let mut gather = Gather::new(&tlb, 7);
    match *op {
        TreeOp::Space(_) => {}
        TreeOp::Cursor(ref steps, prot, budget) => {
            let page = 1 << harness.space.format().geometry().page_shift();
            let attributes = F::Attributes::from(prot);
            let places: Vec<_> = steps
                .iter()
                .map(|&(at, output)| (harness.input(at) & !(page - 1), output))
                .collect();
            // The cursor makes no tables of pages of another size, so it meets those that stand
            // now.
            let odd: Vec<_> =
                places.iter().map(|&(start, _)| stands_in_odd_pages(harness, start)).collect();
            harness.tables.budget.set(budget);
            let mut cursor = harness.space.cursor(&mut gather);
            for ((start, output), odd) in places.into_iter().zip(odd) {
                let input = Input::<F>::new(start);
                let mapped = harness.model.range(start..start + page).next().is_some();
                match output {
                    Some(output) => {
                        let output = output * page;
                        match cursor.map(input, Output::<F>::new(output), attributes) {
                            Ok(()) => {
                                assert!(!mapped, "mapped over a mapping at {input}");
                                for at in (0..page).step_by(unit as usize) {
                                    harness.model.insert(start + at, (output + at, attributes));
                                }
                            }
                            Err(Error::Mapped { .. }) => {
                                assert!(mapped, "nothing is mapped at {input}");
                            }
                            Err(Error::LeafSize) => {
                                assert!(odd, "no pages of another size at {input}");
                            }
                            Err(Error::Alloc(_)) => assert_ne!(budget, usize::MAX),
                            Err(error) => panic!("{error}"),
                        }
                    }
                    None => match cursor.unmap(input) {
                        Ok(true) => {
                            harness.model.retain(|&at, _| at < start || at >= start + page);
                        }
                        Ok(false) => assert!(!mapped),
                        Err(Error::LeafSize) => {}
                        Err(Error::Alloc(_)) => assert_ne!(budget, usize::MAX),
                        Err(error) => panic!("{error}"),
                    },
                }
                let found = cursor
                    .query(input)
                    .unwrap()
                    .map(|found| (found.output.get(), found.attributes));
                assert_eq!(found, harness.model.get(&start).copied(), "{input}");
            }
            cursor.finish().unwrap();
        }
        TreeOp::Split(at, pages, size, budget) => {
            let shift = harness.shifts[size.min(harness.shifts.len() - 1)];
            harness.tables.budget.set(budget);
            let (start, bytes) = (harness.input(at), pages * unit);
            let result = harness.space.split(Input::<F>::new(start), bytes, shift, &mut gather);
            if let Err(error) = &result {
                let expected = matches!(error.error, Error::LeafSize | Error::Alloc(_));
                assert!(expected, "{error}");
            } else {
                let walk = harness.space.for_each(Input::<F>::new(start), bytes, |leaf| {
                    assert!(leaf.shift <= shift, "{leaf:?} is larger than 2^{shift}");
                    ControlFlow::<()>::Continue(())
                });
                assert!(walk.unwrap().is_continue());
            }
        }
        TreeOp::Promote(at, pages) => {
            let (start, bytes) = (harness.input(at), pages * unit);
            let live = harness.tables.live();
            let promoted =
                harness.space.promote(Input::<F>::new(start), bytes, &mut gather).unwrap();
            gather.finish(harness.tables).unwrap();
            // A larger leaf stands for a table, or is a group.
            let gone = live - harness.tables.live();
            let groups = F::GROUPS != Groups::None;
            assert!(gone == promoted || groups && gone < promoted, "{gone} {promoted}");
            gather = Gather::new(&tlb, 7);
        }
        TreeOp::Remap(at, pages, output, prot) => {
            let page = 1 << harness.space.format().geometry().page_shift();
            let (start, bytes, output) =
                (harness.input(at) & !(page - 1), pages * page, output * page);
            let attributes = F::Attributes::from(prot);
            let (input, to) = (Input::<F>::new(start), Output::<F>::new(output));
            let result =
                harness.space.remap(input, to, bytes, attributes, Leaves::Largest, &mut gather);
            let done = result.map_or_else(|error| error.at.get() - start, |()| bytes);
            assert!(
                done == bytes || matches!(result, Err(error) if error.error == Error::LeafSize)
            );
            // From the error on, what was mapped may be unmapped: take what is there, if it was
            // there before.
            let space = &harness.space;
            harness.model.retain(|&at, _| {
                at < start
                    || at >= start + bytes
                    || space.walker().query(Input::<F>::new(at)).unwrap().is_some()
            });
            for at in (0..done).step_by(unit as usize) {
                harness.model.insert(start + at, (output + at, attributes));
            }
        }
        TreeOp::Protect(at, pages, prot, budget) => {
            let (start, bytes) = (harness.input(at), harness.bytes(pages));
            harness.tables.budget.set(budget);
            let (tree, at) = (&mut harness.space, Input::<F>::new(start));
            let result = tree.protect_beside(at, bytes, prot, Writers::Stopped, &mut gather);
            harness.changed(start, bytes, |old| old.with_prot(prot), result);
        }
    }
    harness.tables.budget.set(usize::MAX);
    gather.finish(harness.tables).unwrap();
    drop(gather);
    harness.tlb = tlb;
    harness.check();
    forms_of_reading(harness);
}

/// Batches and every form of iteration say what one translation and one walk say.
fn forms_of_reading<F: Format>(harness: &Harness<'_, Tree<'_, F>>) {
    let walker = harness.space.walker();
    let (start, bytes) = harness.space.range();

    let mut inputs: Vec<_> =
        harness.model.keys().map(|&page| Input::<F>::new(page + 3)).step_by(7).take(90).collect();
    let beyond = (0..10).map(|hole| Input::<F>::new(start.get() + hole * 0x1234_5000 + 1));
    inputs.extend(beyond.chain([Input::<F>::new(u64::MAX >> 1), Input::<F>::new(1 << 60)]));
    let accesses = [Access::READ, Access::WRITE.by_user(), Access::FETCH];
    for access in accesses {
        let mut outputs = vec![None; inputs.len()];
        let translated = walker.translate_batch(&inputs, access, &mut outputs);
        assert_eq!(translated, outputs.iter().flatten().count());
        for (&input, &output) in inputs.iter().zip(&outputs) {
            assert_eq!(
                output,
                walker.translate(input, access).ok().map(|one| one.output),
                "{input}"
            );
        }
    }
    // One access after the other, here and at the same place of another part of the tree: what is
    // remembered does not serve the wrong part.
    let mut anchored = harness.space.anchored();
    for &input in &inputs {
        for access in accesses {
            for input in [input, Input::<F>::new(input.get() ^ 1 << 40)] {
                assert_eq!(
                    anchored.translate(input, access),
                    walker.translate(input, access),
                    "{access} at {input}"
                );
            }
        }
    }

    let leaves: Vec<_> = walker.iter(start, bytes).unwrap().map(Result::unwrap).collect();
    let mut visited = Vec::new();
    let mut visit = |leaf| {
        visited.push(leaf);
        ControlFlow::<()>::Continue(())
    };
    assert!(walker.for_each(start, bytes, &mut visit).unwrap().is_continue());
    assert_eq!(leaves, visited);

    let mut coalesced = Vec::new();
    let flow = walker.for_each_coalesced(start, bytes, |mapping| {
        coalesced.push(mapping);
        ControlFlow::<()>::Continue(())
    });
    assert!(flow.unwrap().is_continue());
    let flat = |mappings: &[pgtable::LeafOf<F>]| {
        let mut pages = Vec::new();
        for m in mappings {
            for page in (0..m.bytes).step_by(1 << m.shift) {
                pages.push((m.input.get() + page, m.output.get() + page, m.attributes));
            }
        }
        pages
    };
    assert_eq!(flat(&coalesced), flat(&leaves));
    for pair in coalesced.windows(2) {
        let joins = pair[0].input.get() + pair[0].bytes == pair[1].input.get()
            && pair[0].output.get() + pair[0].bytes == pair[1].output.get()
            && (pair[0].shift, pair[0].attributes) == (pair[1].shift, pair[1].attributes);
        assert!(!joins, "{pair:?} should be one");
    }

    // The tables themselves: as many as the allocator has given out, and their leaves are the
    // leaves.
    let (mut tables, mut in_tables) = (0, Vec::new());
    let flow = walker.for_each_table(|table| {
        tables += 1;
        assert_eq!(table.entries().count(), 1 << table.width());
        assert_eq!(table.bytes(), table.words().unwrap().len() as u64 * 8);
        let empty = table.entries().all(|entry| entry.entry == pgtable::Entry::Absent);
        assert!(!empty || table.address() == walker.root(), "an empty table stayed");
        for entry in table.entries() {
            match entry.entry {
                pgtable::Entry::Leaf { output, attributes } => {
                    let group = walker.format().group(entry.word, table.at());
                    let own = match F::GROUPS {
                        Groups::Alike if group > 0 => {
                            let within = low_bits(table.at().shift + group);
                            Output::<F>::new(output.get() + (entry.input.get() & within))
                        }
                        _ => output,
                    };
                    in_tables.push((entry.input, own, table.at().shift, attributes));
                }
                pgtable::Entry::Malformed => panic!("{entry:?}"),
                pgtable::Entry::Absent | pgtable::Entry::Table { .. } => {}
            }
        }
        ControlFlow::<()>::Continue(())
    });
    assert!(flow.is_continue());
    assert_eq!(tables, harness.tables.live());
    in_tables.retain(|leaf| leaf.0.get() - start.get() < bytes);
    in_tables.sort_by_key(|leaf| leaf.0);
    // The entries of a group are one leaf.
    let shift_of = |shift| {
        let group = walker.format().geometry().group(shift);
        shift - group.map_or(0, |(_, group)| group)
    };
    let entries = leaves.iter().flat_map(|it| {
        let shift = shift_of(it.shift);
        (0..it.bytes).step_by(1 << shift).map(move |n| {
            let input = Input::<F>::new(it.input.get() + n);
            (input, Output::<F>::new(it.output.get() + n), shift, it.attributes)
        })
    });
    assert_eq!(in_tables, entries.collect::<Vec<_>>());
    assert_eq!(
        walker.for_each_table(|table| ControlFlow::Break(table.address())),
        ControlFlow::Break(walker.root())
    );

    // Each walk's trace ends at what the address translates to.
    if let Some((&page, &(output, attributes))) = harness.model.first_key_value() {
        let trace = walker.trace(Input::<F>::new(page));
        let last = trace.last().unwrap();
        let pgtable::Entry::Leaf { output: base, attributes: found } = last.entry else {
            panic!("{trace:?}")
        };
        let group = match F::GROUPS {
            Groups::Alike => walker.format().group(last.word, last.at),
            Groups::None | Groups::Apart => 0,
        };
        let within = page & low_bits(last.at.shift + group);
        assert_eq!((base.get() + within, found.prot()), (output, attributes.prot()));
        assert!(
            trace.windows(2).all(|pair| pair[0].at.level.0 == pair[1].at.level.0 + 1),
            "{trace:?}"
        );
    }
}

fn run<F: Format>(format: F, ops: &[TreeOp]) {
    let arena = Arena::new(8 << 20);
    let tables = Tables::new(&arena);
    let space = PageTable::new(format, arena.memory::<Output<F>>(), &tables).unwrap();
    let mut harness = Harness::new(space, &tables);
    for op in ops {
        apply(&mut harness, op);
    }
    let (start, bytes) = harness.space.range();
    let mut gather = Gather::new(&harness.tlb, 7);
    harness.space.unmap(start, bytes, &mut gather).unwrap();
    gather.finish(&tables).unwrap();
    assert_eq!(tables.live(), 1, "only the root is left");
    harness.space.destroy(Gather::new(&harness.tlb, 7)).map_err(|(_, error)| error).unwrap();
    assert_eq!(tables.live(), 0);
}

/// Small pages that say one thing become the largest leaf, and come back, whatever else is in the
/// tree.
fn there_and_back<F: Format>(format: F) {
    let arena = Arena::new(8 << 20);
    let tables = Tables::new(&arena);
    let space = PageTable::new(format, arena.memory::<Output<F>>(), &tables).unwrap();
    let shifts = space.leaf_shifts();
    let (page, large) = (space.format().geometry().page_shift(), 30);
    assert!(shifts.contains(&large));
    let mut harness = Harness::new(space, &tables);
    let attributes = F::Attributes::from(Prot::RW.for_user());
    let (input, bytes) = (Input::<F>::new(1 << large), 1u64 << large);
    let tree = &mut harness.space;
    tree.map(input, Output::<F>::new(3 << large), bytes, attributes, Leaves::Exactly(page))
        .unwrap();
    let full = tables.live();

    // One page in the middle differs: nothing of that part is promoted.
    let odd = Input::<F>::new((1 << large) + (5 << 21));
    let mut gather = Gather::new(&harness.tlb, 7);
    tree.protect(odd, 1 << page, Prot::R, &mut gather).unwrap();
    assert_eq!(tree.promote(input, bytes, &mut gather).unwrap(), 511);
    gather.finish(&tables).unwrap();
    assert_eq!(tables.live(), full - 511);

    let mut gather = Gather::new(&harness.tlb, 7);
    tree.set_attributes(odd, 1 << page, attributes, &mut gather).unwrap();
    assert_eq!(tree.promote(input, bytes, &mut gather).unwrap(), 2);
    gather.finish(&tables).unwrap();
    let found = tree.walker().query(odd).unwrap().unwrap();
    assert_eq!((found.shift, found.output.get()), (large, (3 << large) + (5 << 21)));

    let mut gather = Gather::new(&harness.tlb, 7);
    assert_eq!(tree.split(input, bytes, page, &mut gather).unwrap(), 513);
    gather.finish(&tables).unwrap();
    assert_eq!(tables.live(), full);
    let found = tree.walker().query(odd).unwrap().unwrap();
    assert_eq!(
        (found.shift, found.output.get(), found.attributes),
        (page, (3 << large) + (5 << 21), attributes)
    );
    harness.space.destroy(Gather::new(&harness.tlb, 7)).map_err(|(_, error)| error).unwrap();
}

#[test]
fn promote_and_split_are_inverse() {
    there_and_back(ProcessScoped::new(Granule::K64));
    there_and_back(PartitionScoped::new(Granule::K4));
    there_and_back(LongMode::new(Levels::Four, Controls::new()));
    there_and_back(Ept::new(Levels::Four, EptControls::new()));
}

/// A cursor comes to a table of larger pages than its own, and to one of smaller pages.
#[test]
fn case_a9_a_cursor_meets_pages_of_another_size() {
    let at = Place { far: 0, near: 0 };
    // Of 64 KiB in a tree of 4 KiB pages (the second size), of 4 KiB in one of 64 KiB (the first).
    for (granule, size) in [(Granule::K4, 1), (Granule::K64, 0)] {
        let map = TreeOp::Space(Op::Map {
            at,
            pages: Pages::Small(32),
            output: 768,
            prot: Prot::RW,
            leaves: Choice::Exactly(size),
            budget: usize::MAX,
        });
        let over = TreeOp::Cursor(vec![(at, Some(0))], Prot::R, usize::MAX);
        let out = TreeOp::Cursor(vec![(at, None), (at, Some(0))], Prot::R, usize::MAX);
        run(PartitionScoped::new(granule), &[map, over, out]);
    }
}

macro_rules! formats {
    ($($name:ident: $format:expr;)*) => {
        proptest! {
            #![proptest_config(ProptestConfig { cases: 64, max_shrink_iters: 2000, failure_persistence: None, ..ProptestConfig::default() })]
            $(#[test]
            fn $name(ops in proptest::collection::vec(tree_op(), 1..20)) {
                run($format, &ops);
            })*
        }
    };
}

formats! {
    sv39: Sv::SV39;
    sv48: Sv::SV48.with_sum();
    sv48_napot: Sv::SV48.with_napot();
    lpa: Lpa::PLAIN;
    lpa_contiguous: Lpa::CONTIGUOUS;
    radix_64k_process: ProcessScoped::new(Granule::K64);
    radix_4k_partition: PartitionScoped::new(Granule::K4);
    x86_4_level: LongMode::new(Levels::Four, Controls::new());
    ept_5_level: Ept::new(Levels::Five, EptControls::new());
}
