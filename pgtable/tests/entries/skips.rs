//! Entries that lead past levels, as AMD's IOMMU has them: walkers follow them, and nothing is
//! mapped where the address bits of the levels in between are not zero. Verbs do not touch them.

use std::sync::atomic::Ordering;

use pgtable::{
    Access, Cause, Error, Gather, Gpa, Hpa, Leaves, PageTable, Prot, TranslationCache, Unused,
};
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
        arena
            .word(pgtable::Address::get(tree.root()) + entry * 8)
            .store(word.to_le(), Ordering::Relaxed);
    }
    let walker = tree.walker();
    let found = |at: u64| walker.query(Gpa::new(at)).unwrap().map(|found| found.output.get());
    let generation = pgtable::Generation::new();
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
    // Verbs refuse, and what is there stays.
    let mut gather = Gather::new(&Unused, ());
    for entry in [1, 3] {
        let at = Gpa::new(entry * ROOT_ENTRY + 5 * PAGE);
        let errors = [
            tree.map(at, Hpa::new(0), PAGE, Prot::RW.into(), Leaves::Largest).unwrap_err().error,
            tree.unmap(at, PAGE, &mut gather).unwrap_err().error,
            tree.protect(at, PAGE, Prot::R, &mut gather).unwrap_err().error,
            tree.relocate(|_, _| true, &mut gather).unwrap_err(),
        ];
        for error in errors {
            assert!(matches!(error, Error::Malformed { .. }), "{error}");
        }
    }
    gather.finish(&&tables).unwrap();
    assert_eq!(tree.walker().iter(Gpa::new(0), 6 * ROOT_ENTRY).unwrap().count(), 12);
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
