//! Trees of one stage: one page per call, by cursor, by range.

use std::ops::ControlFlow;

use bench_harness::arena::Arena;
use bench_harness::tables::Tables;
use pgtable::format::Format;
use pgtable::invalidate::{Gather, Unused};
use pgtable::memory::DirectMap;
use pgtable::tree::PageTable;
use pgtable::walk::Walker;
use pgtable::{Access, Gpa, Gva, Leaves, Level, Prot, Stage1};

use crate::count;

/// Pages that are mapped: several tables of the last level, and not a power of two.
const PAGES: u64 = 3000;
/// Translations and the like.
const TURNS: u64 = 1 << 14;
/// Pages that are mapped by one call, and how many calls.
const BLOCK: u64 = 256;
const BLOCKS: u64 = 11;
/// Where the mapped range begins.
const INPUT: u64 = 0x20_0000_0000;
/// Where mapped pages lie.
const OUTPUT: u64 = 0x10_0000_0000;
/// Table memory.
const START: u64 = 0x4000_0000;
const BYTES: usize = 4 << 20;
/// Addresses in one batch.
const BATCH: usize = 512;

/// Counts the rows of `format`, each named after `column`.
pub fn rows<F: Format<Stage = Stage1>>(column: &str, format: F) {
    let arena = Arena::new(START, BYTES);
    // SAFETY: arenas are valid as long as the process, and nothing resets this one.
    let memory = unsafe { DirectMap::from_raw(arena.host, arena.bytes, Gpa::new(START)) };
    let tables = <Tables>::new(vec![arena]);
    let mut tree = PageTable::new(format, memory, &tables).unwrap();
    let count = |row, operations, work: &mut dyn FnMut()| {
        count(&format!("{column}, {row}"), operations, work);
    };

    let shift = format.geometry().page_shift();
    let (page, leaves) = (1 << shift, Leaves::Exactly(shift));
    let input = |index: u64| Gva::new(INPUT + (index << shift));
    // An odd factor permutes the pages, and leaves no two of them neighbours.
    let output = |index: u64| Gpa::new(OUTPUT + ((index * 0x9e37_79b1 % 4096) << shift));
    let pages: Vec<_> =
        (0..TURNS).map(|turn| turn * 1231 % PAGES).map(|at| (input(at), output(at))).collect();
    let any: Vec<_> = pages.iter().map(|&(input, _)| input).collect();
    let all = &pages[..PAGES as usize];
    let in_order: Vec<_> = (0..PAGES).map(|at| (input(at), output(at))).collect();
    let sum = pages.iter().fold(0, |sum: u64, (_, output)| sum.wrapping_add(output.get()));
    let attributes = F::Attributes::from(Prot::RW);

    // The tables above the last level are there before and after: it is the page that is counted.
    tree.map(input(PAGES + 4096), output(0), page, attributes, leaves).unwrap();
    count("map", PAGES, &mut || {
        // What is equal for all pages stands in registers, as in an embedder's loop.
        let (page, attributes, leaves) = (page, attributes, leaves);
        for &(input, output) in all {
            tree.map(input, output, page, attributes, leaves).unwrap();
        }
    });
    count("translate", TURNS, &mut || {
        let found = any.iter().fold(0, |sum: u64, &input| {
            let found = tree.translate(input, Access::READ).unwrap();
            sum.wrapping_add(found.output.get())
        });
        assert_eq!(found, sum);
    });
    count("translate by walker", TURNS, &mut || {
        let walker = Walker::new(format, memory, tree.root());
        let found = any.iter().fold(0, |sum: u64, &input| {
            let found = walker.translate(input, Access::READ).unwrap();
            sum.wrapping_add(found.output.get())
        });
        assert_eq!(found, sum);
    });
    // SAFETY: this process alone writes the tree, whose tables stand in the block.
    let trusted = unsafe { memory.trusted() };
    count("translate by walker, trusted memory", TURNS, &mut || {
        let walker = Walker::new(format, trusted, tree.root());
        let found = any.iter().fold(0, |sum: u64, &input| {
            let found = walker.translate(input, Access::READ).unwrap();
            sum.wrapping_add(found.output.get())
        });
        assert_eq!(found, sum);
    });
    count("translate anchored", TURNS, &mut || {
        let mut anchored = tree.anchored();
        let found = any.iter().fold(0, |sum: u64, &input| {
            let found = anchored.translate(input, Access::READ).unwrap();
            sum.wrapping_add(found.output.get())
        });
        assert_eq!(found, sum);
    });
    count("translate batch", TURNS, &mut || {
        let mut outputs = [None; BATCH];
        let mut found = 0u64;
        for inputs in any.chunks_exact(BATCH) {
            let walker = tree.walker();
            assert_eq!(walker.translate_batch(inputs, Access::READ, &mut outputs), BATCH);
            found =
                outputs.iter().fold(found, |sum, output| sum.wrapping_add(output.unwrap().get()));
        }
        assert_eq!(found, sum);
    });
    count("query", TURNS, &mut || {
        let walker = tree.walker();
        let found = any.iter().fold(0, |sum: u64, &input| {
            sum.wrapping_add(walker.query(input).unwrap().unwrap().output.get())
        });
        assert_eq!(found, sum);
    });
    count("iterate", PAGES, &mut || {
        let mut pages = 0;
        let walker = tree.walker();
        let visited = walker.for_each(input(0), PAGES << shift, |leaf| {
            pages += u64::from(leaf.output.get() >= OUTPUT);
            ControlFlow::<()>::Continue(())
        });
        assert_eq!((visited, pages), (Ok(ControlFlow::Continue(())), PAGES));
    });
    count("iterate, Iterator", PAGES, &mut || {
        let walker = tree.walker();
        let leaves = walker.iter(input(0), PAGES << shift).unwrap();
        let pages = leaves.filter(|leaf| leaf.is_ok_and(|leaf| leaf.output.get() >= OUTPUT));
        assert_eq!(pages.count() as u64, PAGES);
    });
    count("unmap", PAGES, &mut || {
        let mut gather = Gather::new(&Unused, ());
        let (mut unmapped, page) = (0, page);
        for &(input, _) in all {
            unmapped += tree.unmap(input, page, &mut gather).unwrap();
        }
        assert_eq!(unmapped, PAGES * page);
        gather.finish(&tables).unwrap();
    });

    count("map by cursor", PAGES, &mut || {
        let mut gather = Gather::new(&Unused, ());
        let mut cursor = tree.cursor(&mut gather);
        let local = attributes;
        for &(input, output) in &in_order {
            cursor.map(input, output, local).unwrap();
        }
        cursor.finish().unwrap();
        gather.finish(&tables).unwrap();
    });
    count("query by cursor", PAGES, &mut || {
        let mut gather = Gather::new(&Unused, ());
        let mut cursor = tree.cursor(&mut gather);
        for &(input, output) in &in_order {
            assert_eq!(cursor.query(input).unwrap().unwrap().output, output);
        }
        cursor.finish().unwrap();
        gather.finish(&tables).unwrap();
    });
    count("unmap by cursor", PAGES, &mut || {
        let mut gather = Gather::new(&Unused, ());
        let mut cursor = tree.cursor(&mut gather);
        for &(input, _) in &in_order {
            assert!(cursor.unmap(input).unwrap());
        }
        cursor.finish().unwrap();
        gather.finish(&tables).unwrap();
    });

    let blocks = || all_blocks(shift);
    count("map, 256 pages a call", BLOCKS * BLOCK, &mut || {
        for (input, output) in blocks() {
            tree.map(input, output, BLOCK << shift, attributes, leaves).unwrap();
        }
    });
    count("unmap, 256 pages a call", BLOCKS * BLOCK, &mut || {
        let mut gather = Gather::new(&Unused, ());
        for (input, _) in blocks() {
            assert_eq!(tree.unmap(input, BLOCK << shift, &mut gather), Ok(BLOCK << shift));
        }
        gather.finish(&tables).unwrap();
    });

    let bytes = PAGES << shift;
    let neighbour = Gpa::new(OUTPUT + page);
    count("map range", PAGES, &mut || {
        tree.map(input(0), neighbour, bytes, attributes, leaves).unwrap();
    });
    count("write-protect range", PAGES, &mut || {
        let mut gather = Gather::new(&Unused, ());
        tree.protect(input(0), bytes, Prot::R, &mut gather).unwrap();
        gather.finish(&tables).unwrap();
    });
    count("unmap range", PAGES, &mut || {
        let mut gather = Gather::new(&Unused, ());
        assert_eq!(tree.unmap(input(0), bytes, &mut gather), Ok(bytes));
        gather.finish(&tables).unwrap();
    });
    large(column, &mut tree, &tables);
    split(column, &mut tree, &tables);
    count("map and unmap, table goes", TURNS, &mut || {
        for _ in 0..TURNS {
            let mut gather = Gather::new(&Unused, ());
            tree.map(input(0), output(0), page, attributes, leaves).unwrap();
            assert_eq!(tree.unmap(input(0), page, &mut gather), Ok(page));
            gather.finish(&tables).unwrap();
        }
    });
}

/// The first addresses of [`BLOCK`] pages, and where they are mapped.
fn all_blocks(shift: u8) -> impl Iterator<Item = (Gva, Gpa)> {
    (0..BLOCKS).map(move |block| {
        let at = block * 7 % BLOCKS * (BLOCK << shift);
        (Gva::new(INPUT + at), Gpa::new(OUTPUT + at))
    })
}

/// The leaf of the highest of the lower three levels that has any (1 GiB, or 512 MiB with granules
/// of 64 KiB), split into pages at once.
fn split<F: Format<Stage = Stage1>>(
    column: &str,
    tree: &mut PageTable<F, DirectMap<'_, Gpa>, &Tables>,
    tables: &Tables,
) {
    let geometry = *tree.format().geometry();
    let shift = geometry.page_shift();
    let level = if geometry.is_leaf_level(Level(2)) { Level(2) } else { Level(1) };
    let (whole, bytes) = (geometry.shift(level), 1 << geometry.shift(level));
    let (input, output) = (Gva::new(INPUT + (INPUT >> 2)), Gpa::new(OUTPUT));
    let attributes = F::Attributes::from(Prot::RW);
    tree.map(input, output, bytes, attributes, Leaves::Exactly(whole)).unwrap();
    let mut gather = Gather::new(&Unused, ());
    count(&format!("{column}, {} split, a page", size(whole)), bytes >> shift, || {
        tree.split(input, bytes, shift, &mut gather).unwrap();
    });
    assert_eq!(tree.unmap(input, bytes, &mut gather), Ok(bytes));
    gather.finish(tables).unwrap();
}

/// A size as rows name it.
fn size(shift: u8) -> String {
    let (units, unit) = if shift < 30 { (shift - 20, 'M') } else { (shift - 30, 'G') };
    format!("{}{unit}", 1 << units)
}

/// Leaves of the level above the last: 2 MiB, or 512 MiB with granules of 64 KiB.
fn large<F: Format<Stage = Stage1>>(
    column: &str,
    tree: &mut PageTable<F, DirectMap<'_, Gpa>, &Tables>,
    tables: &Tables,
) {
    const LEAVES: u64 = 300;
    let shift = tree.format().geometry().shift(Level(1));
    let count = |row, operations, work: &mut dyn FnMut()| {
        count(&format!("{column}, {}, {row}", size(shift)), operations, work);
    };
    let page = 1 << shift;
    let pages: Vec<_> = (0..LEAVES)
        .map(|turn| turn * 7 % LEAVES)
        .map(|at| (Gva::new((INPUT + (INPUT >> 1)) + at * page), Gpa::new(OUTPUT + at * page)))
        .collect();
    let sum = pages.iter().fold(0, |sum: u64, (_, output)| sum.wrapping_add(output.get()));
    let attributes = F::Attributes::from(Prot::RW);
    let (first, beside) = (Gva::new((INPUT + (INPUT >> 1)) + LEAVES * page), Gpa::new(OUTPUT));
    tree.map(first, beside, page, attributes, Leaves::Exactly(shift)).unwrap();
    count("map", LEAVES, &mut || {
        for &(input, output) in &pages {
            tree.map(input, output, page, attributes, Leaves::Exactly(shift)).unwrap();
        }
    });
    count("translate", LEAVES, &mut || {
        let walker = Walker::new(*tree.format(), *tree.memory(), tree.root());
        let found = pages.iter().fold(0, |sum: u64, &(input, _)| {
            let found = walker.translate(input, Access::READ).unwrap();
            sum.wrapping_add(found.output.get())
        });
        assert_eq!(found, sum);
    });
    count("unmap", LEAVES, &mut || {
        let mut gather = Gather::new(&Unused, ());
        for &(input, _) in &pages {
            assert_eq!(tree.unmap(input, page, &mut gather), Ok(page));
        }
        gather.finish(tables).unwrap();
    });
}
