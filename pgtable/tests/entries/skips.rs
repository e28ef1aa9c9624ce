//! Entries that lead past levels, as AMD's IOMMU has them: walkers follow them, and nothing is
//! mapped where the address bits of the levels in between are not zero. Verbs refuse them by name;
//! a snapshot has the levels in between.

use std::sync::atomic::Ordering;

use pgtable::cache::TranslationCache;
use pgtable::invalidate::{Gather, Unused};
use pgtable::memory::DirectMap;
use pgtable::tree::PageTable;
use pgtable::{Access, Cause, Error, Gpa, Hpa, Leaves, Prot};
use pgtable_conformance::amd::Amd;

use crate::support::{Arena, Tables};

const PAGE: u64 = 0x1000;
const ROOT_ENTRY: u64 = 1 << 39;

#[test]
fn levels_are_left_out() {
    let arena = Arena::new(1 << 20);
    let tables = Tables::new(&arena);
    let mut tree = PageTable::new(Amd, arena.memory::<Hpa>(), &tables).unwrap();
    // Ordinary branches before, between and after those that are changed.
    for entry in 0..6 {
        let (at, to) = (entry * ROOT_ENTRY + 5 * PAGE, 0x100_0000 * (entry + 1));
        tree.map(Gpa::new(at), Hpa::new(to), 2 * PAGE, Prot::RW.into(), Leaves::Exactly(12))
            .unwrap();
    }
    let table = |entry: u64, level: usize| {
        tree.walker().trace(Gpa::new(entry * ROOT_ENTRY + 5 * PAGE))[3 - level].address.get()
            & !0xfff
    };
    // The second root entry leads to a table of the last level, the fourth to one of level 1.
    for (entry, level) in [(1, 0), (3, 1)] {
        let word = table(entry, level) | (level as u64 + 1) << 9 | 3 << 61 | 1;
        arena.word(tree.root().get() + entry * 8).store(word.to_le(), Ordering::Relaxed);
    }
    let walker = tree.walker();
    let found = |at: u64| walker.query(Gpa::new(at)).unwrap().map(|found| found.output.get());
    let generation = pgtable::cache::Generation::new();
    let cache = TranslationCache::<Amd, 16>::new(&generation);
    for entry in 0..6 {
        let (base, to) = (entry * ROOT_ENTRY, 0x100_0000 * (entry + 1));
        for (at, want) in
            [(5 * PAGE + 0x678, Some(to + 0x678)), (6 * PAGE, Some(to + PAGE)), (7 * PAGE, None)]
        {
            let at = base + at;
            assert_eq!(found(at), want, "{at:#x}");
            let translated = walker.translate(Gpa::new(at), Access::READ);
            assert_eq!(translated.ok().map(|it| it.output.get()), want, "{at:#x}");
            let cached = cache.translate(&walker, Gpa::new(at), Access::READ);
            assert_eq!(cached.ok().map(|it| it.output.get()), want, "{at:#x}");
            let marked = walker.access(Gpa::new(at), Access::WRITE);
            assert_eq!(marked.ok().map(|it| it.output.get()), want, "{at:#x}");
        }
        // Address bits of the levels that are left out, and of those that are not.
        for bit in 21..39 {
            let fault = walker.translate(Gpa::new(base + 5 * PAGE + (1 << bit)), Access::READ);
            assert_eq!(fault.unwrap_err().cause, Cause::NotPresent, "{entry} {bit}");
        }
        let levels: Vec<_> =
            walker.trace(Gpa::new(base + 5 * PAGE)).iter().map(|it| it.at.level.0).collect();
        let want: &[u8] = match entry {
            1 => &[3, 0],
            3 => &[3, 1, 0],
            _ => &[3, 2, 1, 0],
        };
        assert_eq!(levels, want);
    }
    // Iteration, forwards over all of them; by leaves, and from the middle.
    let leaves = |at: u64, bytes| {
        let all = walker.iter(Gpa::new(at), bytes).unwrap().map(Result::unwrap);
        all.map(|leaf| (leaf.input.get(), leaf.output.get())).collect::<Vec<_>>()
    };
    let all: Vec<_> = (0..6)
        .flat_map(|entry| [0, 1].map(|page| (entry, page)))
        .map(|(entry, page)| {
            (entry * ROOT_ENTRY + (5 + page) * PAGE, 0x100_0000 * (entry + 1) + page * PAGE)
        })
        .collect();
    assert_eq!(leaves(0, 6 * ROOT_ENTRY), all);
    assert_eq!(leaves(ROOT_ENTRY + 6 * PAGE, 3 * ROOT_ENTRY), all[3..9]);
    // Tables, each with the level that it is of.
    let mut levels = Vec::new();
    let _ = walker.for_each_table(|table| {
        levels.push(table.at().level.0);
        std::ops::ControlFlow::<()>::Continue(())
    });
    assert_eq!(levels, [3, 2, 1, 0, 0, 2, 1, 0, 1, 0, 2, 1, 0, 2, 1, 0]);
}

type Tree<'m> = PageTable<Amd, DirectMap<'m, Hpa>, &'m Tables<'m>>;

/// A tree with entries that lead from level 3 to 0 and 1, and from 2 to 0: two pages each, and an
/// ordinary branch. The addresses of the pages, and the entries that lead on.
fn skipping<'m>(arena: &'m Arena, tables: &'m Tables<'m>) -> (Tree<'m>, Vec<u64>, Vec<u64>) {
    let mut tree = PageTable::new(Amd, arena.memory::<Hpa>(), tables).unwrap();
    let at = |entry: u64| entry * ROOT_ENTRY + 5 * PAGE;
    for entry in 0..4 {
        let to = Hpa::new(0x100_0000 * (entry + 1));
        tree.map(Gpa::new(at(entry)), to, 2 * PAGE, Prot::RW.into(), Leaves::Exactly(12)).unwrap();
    }
    let mut links = Vec::new();
    // Which branch, from which level, past which to which.
    for (entry, from, to) in [(1, 3, 0), (2, 3, 1), (3, 2, 0)] {
        let trace = tree.walker().trace(Gpa::new(at(entry)));
        let (link, table) = (trace[3 - from].address.get(), trace[3 - to].address.get() & !0xfff);
        let word = table | (to as u64 + 1) << 9 | 3 << 61 | 1;
        arena.word(link).store(word.to_le(), Ordering::Relaxed);
        links.push(link);
    }
    (tree, (0..4).map(at).collect(), links)
}

/// Verbs that would change an entry below one that leads past levels refuse by name, and change
/// nothing.
#[test]
fn case_c1_verbs_refuse() {
    let arena = Arena::new(1 << 20);
    let tables = Tables::new(&arena);
    let (mut tree, pages, links) = skipping(&arena, &tables);
    let before: Vec<_> = tree.walker().iter(Gpa::new(0), 1 << 48).unwrap().collect();
    let mut gather = Gather::new(&Unused, ());
    for (&at, link) in pages[1..].iter().zip(links) {
        // Below the entry, and beside what its table covers.
        let beside = Gpa::new(at + (1 << 29));
        let at = Gpa::new(at);
        let to = Hpa::new(1 << 30);
        let mut cursor = tree.cursor(&mut gather);
        let by_cursor =
            [cursor.map(at, to, Prot::RW.into()).unwrap_err(), cursor.unmap(at).unwrap_err()];
        cursor.finish().unwrap();
        let errors = [
            tree.map(at, to, PAGE, Prot::RW.into(), Leaves::Largest).unwrap_err().error,
            tree.map(beside, to, PAGE, Prot::RW.into(), Leaves::Largest).unwrap_err().error,
            tree.map(beside, to, PAGE, Prot::RW.into(), Leaves::Exactly(12)).unwrap_err().error,
            tree.unmap(at, PAGE, &mut gather).unwrap_err().error,
            tree.unmap_with(at, PAGE, |_| (), &mut gather).unwrap_err().error,
            tree.protect(at, PAGE, Prot::R, &mut gather).unwrap_err().error,
            tree.split(at, PAGE, 12, &mut gather).unwrap_err().error,
            tree.annotate(at, PAGE, 1, &mut gather).unwrap_err().error,
            by_cursor[0],
            by_cursor[1],
            tree.relocate(|_, _| true, &mut gather).unwrap_err(),
        ];
        for (n, error) in errors.into_iter().enumerate() {
            match error {
                Error::SkipsLevels { entry, .. } if n < 10 => assert_eq!(entry, link, "{n}"),
                Error::SkipsLevels { .. } => {}
                error => panic!("{n}: {error}"),
            }
        }
        assert_eq!(tree.promote(at, 1 << 30, &mut gather), Ok(0));
    }
    gather.finish(&&tables).unwrap();
    let after: Vec<_> = tree.walker().iter(Gpa::new(0), 1 << 48).unwrap().collect();
    assert_eq!(after, before);
}

/// A copy says the same and has the tables in between: every verb works on it.
#[test]
fn case_c2_a_snapshot_may_be_changed() {
    let arena = Arena::new(1 << 20);
    let tables = Tables::new(&arena);
    let (tree, pages, _) = skipping(&arena, &tables);
    let before = tables.live();
    let mut copy = tree.walker().snapshot(arena.memory::<Hpa>(), &tables).unwrap();
    // A root, and three tables for each branch.
    assert_eq!(tables.live() - before, 13);
    let all = 1 << 48;
    let mut changes = 0;
    let _ = tree.walker().diff(&copy.walker(), Gpa::new(0), all, |_| {
        changes += 1;
        std::ops::ControlFlow::<()>::Continue(())
    });
    assert_eq!(changes, 0);
    let mut gather = Gather::new(&Unused, ());
    for at in pages {
        let levels: Vec<_> =
            copy.walker().trace(Gpa::new(at)).iter().map(|it| it.at.level.0).collect();
        assert_eq!(levels, [3, 2, 1, 0], "{at:#x}");
        assert_eq!(copy.protect(Gpa::new(at), PAGE, Prot::R, &mut gather), Ok(PAGE));
        assert!(copy.translate(Gpa::new(at), Access::WRITE).is_err(), "{at:#x}");
        assert!(copy.translate(Gpa::new(at + PAGE), Access::WRITE).is_ok(), "{at:#x}");
        let beside = Gpa::new(at + (1 << 29));
        copy.map(beside, Hpa::new(1 << 30), PAGE, Prot::RW.into(), Leaves::Largest).unwrap();
        assert_eq!(copy.walker().query(beside).unwrap().unwrap().output, Hpa::new(1 << 30));
        assert_eq!(copy.unmap(beside, PAGE, &mut gather), Ok(PAGE));
    }
    assert_eq!(copy.unmap(Gpa::new(0), all, &mut gather), Ok(8 * PAGE));
    gather.finish(&&tables).unwrap();
    assert_eq!(tables.live() - before, 1);
    // A copy for which there are too few tables leaves none behind.
    for budget in 0..13 {
        let live = tables.live();
        tables.budget.set(budget);
        let copy = tree.walker().snapshot(arena.memory::<Hpa>(), &tables);
        assert!(matches!(copy, Err(Error::Alloc(_))), "{budget}");
        assert_eq!(tables.live(), live, "{budget}");
    }
}

/// Pages of every power of two.
#[test]
fn pages_of_any_size() {
    let arena = Arena::new(1 << 20);
    let tables = Tables::new(&arena);
    let mut tree = PageTable::new(Amd, arena.memory::<Hpa>(), &tables).unwrap();
    let shifts = pgtable::AddressSpace::leaf_shifts(&tree);
    assert_eq!(shifts.as_slice(), (12..=38).collect::<Vec<_>>());
    let mut gather = Gather::new(&Unused, ());
    for shift in shifts {
        let (at, to) = (Gpa::new(3 << shift), Hpa::new(5 << shift));
        let size = 1u64 << shift;
        tree.map(at, to, size, Prot::RW.into(), Leaves::Largest).unwrap();
        let leaf = tree.walker().iter(Gpa::new(0), 1 << 48).unwrap().next().unwrap().unwrap();
        assert_eq!((leaf.input, leaf.output, leaf.bytes), (at, to, size));
        let inside = tree.translate(Gpa::new((4 << shift) - 1), Access::WRITE).unwrap();
        assert_eq!((inside.output.get(), inside.shift), ((6 << shift) - 1, shift));
        // A page of it goes, the rest stays.
        let bytes = tree.unmap(at, 1 << 12, &mut gather).unwrap();
        assert_eq!(bytes, 1 << 12);
        assert_eq!(tree.walker().query(at), Ok(None));
        assert_eq!(tree.unmap(Gpa::new(0), 1 << 48, &mut gather), Ok(size - bytes), "2^{shift}");
    }
    gather.finish(&&tables).unwrap();
    assert_eq!(tables.live(), 1);
}
