//! How many words of table memory the operations ask for: bounded by the levels and the pages.

use pgtable::format::{Format, Input, Output};
use pgtable::{Access, Address, AddressSpace, Attributes, Leaves};

use crate::machine::{Machine, Tree};
use crate::memory::{Arena, Tables};
use crate::mmu::Caches;
use crate::tree::ARENA;
use crate::words::ACCESSES;

/// Walks and verbs on single pages, and on pages of one table, ask for no more words than this:
/// a walk, a word for each level, once by shortcuts and once by decoding; a verb, as a walk, and
/// once more for each level whose table it makes or gives back; and one for each page.
///
/// # Panics
/// If one asks for more.
pub fn bounded<F: Format>(format: F) {
    let arena = Arena::new(ARENA);
    let tables = Tables::new(&arena);
    let machine = Machine::new(format, &arena, &tables, Caches::STRICT);
    let mut tree = machine.tree().expect("room for a root");
    if tree.range().1 >> format.geometry().page_shift() < 64 {
        // No room for the pages.
        return machine.destroy(tree);
    }
    let shift = format.geometry().page_shift();
    let levels = usize::from(format.geometry().levels());
    let (start, bytes) = tree.range();
    let at = |page: u64| Input::<F>::new(start.get() + bytes / 2 + (page << shift));
    let page = 1u64 << shift;
    let Some((rw, read)) = crate::words::usable(&format) else { return machine.destroy(tree) };
    let attributes = F::Attributes::from(rw);
    let no_more = |what: &str, most: usize| {
        let words = machine.words();
        assert!(words <= most, "{what}: {words} words, not {most}, of {format:?}");
    };
    let (walk, tables_too) = (2 * levels, 4 * levels);
    let map = |tree: &mut Tree<'_, F>, first: u64, pages: u64| {
        let to = Output::<F>::new((1 << 21) + (first << shift));
        let small = Leaves::Exactly(shift);
        tree.map(at(first), to, pages << shift, attributes, small).expect("room");
    };
    machine.words();
    // The first page makes the tables, which its neighbours find.
    for (first, pages, most) in [(0, 1, tables_too), (1, 1, walk), (2, 14, walk + 2 * 14)] {
        map(&mut tree, first, pages);
        no_more("map", most + pages as usize);
    }
    // What is mapped, what is not, and what has no table.
    for input in [at(0), at(15), at(17), Input::<F>::new(start.get())] {
        for access in ACCESSES {
            let _ = tree.translate(input, access);
            no_more("translate", walk);
            let _ = tree.walker().access(input, access);
            no_more("access", 2 * walk);
        }
        let _ = tree.walker().query(input);
        no_more("query", walk);
        let _ = tree.walker().trace(input);
        no_more("trace", levels);
    }
    let inputs: Vec<_> = (0..16).map(at).collect();
    let mut outputs = vec![None; inputs.len()];
    tree.walker().translate_batch(&inputs, Access::READ, &mut outputs);
    // One that the batch cannot do by shortcuts is translated alone.
    no_more("translate_batch", (walk + levels) * inputs.len());
    let mut anchored = tree.anchored();
    machine.words();
    let _ = anchored.translate(at(0), read);
    // What shortcuts translate is translated from the anchor.
    let quick = machine.words() == levels && format.shortcuts(Some(read)).is_some();
    let each = if quick { 2 } else { walk };
    for &input in &inputs {
        let _ = anchored.translate(input, read);
    }
    no_more("translate, anchored", each * inputs.len());

    let mut gather = machine.gather();
    for (first, pages) in [(3, 1), (3, 8)] {
        let most = walk + 2 * pages as usize;
        tree.protect(at(first), pages * page, rw.with_write(false), &mut gather).expect("in place");
        no_more("protect", 2 * most);
        let device = |leaf: pgtable::walk::LeafOf<F>| leaf.attributes.with_prot(rw);
        tree.modify(at(first), pages * page, device, &mut gather).expect("in place");
        no_more("modify", 2 * most);
    }
    // The last page takes the tables along.
    for (first, pages, most) in [(0, 1, walk), (1, 14, walk + 14), (15, 1, tables_too)] {
        tree.unmap(at(first), pages * page, &mut gather).expect("in place");
        no_more("unmap", most + pages as usize);
    }
    gather.finish(&&machine).expect("nothing fails");
    assert_eq!(tables.live(), 1);
    machine.destroy(tree);
}
