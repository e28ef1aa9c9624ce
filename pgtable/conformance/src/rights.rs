//! What rights say of a page and what they leave alone, and which pages every verb takes.

use pgtable::format::{Format, Output};
use pgtable::{Address, AddressSpace, Attributes, Leaves, Memory, Prot, RangeError};

use crate::machine::Machine;
use crate::memory::{Arena, Tables};
use crate::mmu::Caches;
use crate::tree::ARENA;

const KINDS: [Memory; 3] = [Memory::Normal, Memory::Uncached, Memory::Device];

fn prots() -> impl Iterator<Item = Prot> {
    (0..16).map(|bits| Prot::from_bits(bits).with_read(true))
}

/// Whether a base page with these attributes can be mapped.
fn encodes<F: Format>(format: &F, attributes: F::Attributes) -> bool {
    let geometry = format.geometry();
    let shift = geometry.page_shift();
    let at = geometry.leaf(shift).map(|(level, _)| pgtable::Position { level, shift });
    at.is_some_and(|at| format.leaves(Output::<F>::new(0), attributes, at).is_ok())
}

/// Attributes made of rights are those of ordinary cached memory. Another kind changes no right.
pub fn ordinary<F: Format>(format: F) {
    let mut encoded = 0;
    for prot in prots() {
        let attributes = F::Attributes::from(prot);
        assert_eq!(attributes.memory(), Memory::Normal, "{prot:?} of {format:?}");
        for kind in KINDS {
            let of_kind = attributes.with_memory(kind);
            assert_eq!(of_kind.prot(), attributes.prot(), "{prot:?} of {kind:?}: {format:?}");
            if encodes(&format, of_kind) {
                encoded += 1;
                // Some formats have one type for all that is not cached, or none.
                let nearest = of_kind.memory();
                let is_kind = nearest == kind || kind != Memory::Normal;
                assert!(is_kind, "{prot:?} of {kind:?} is {nearest:?}: {format:?}");
            }
        }
    }
    assert_ne!(encoded, 0, "no rights have an encoding: {format:?}");
}

/// `protect` and `write_protect` change rights and nothing else, whatever kind of memory it is.
pub fn alone<F: Format>(format: F, caches: Caches) {
    for kind in KINDS {
        for (old, new) in prots().flat_map(|old| prots().map(move |new| (old, new))) {
            let attributes = F::Attributes::from(old).with_memory(kind);
            let changed = attributes.with_prot(new);
            if !encodes(&format, attributes) || !encodes(&format, changed) {
                continue;
            }
            assert_eq!(changed.memory(), attributes.memory(), "{old:?} to {new:?}: {format:?}");
            let arena = Arena::new(ARENA / 4);
            let tables = Tables::new(&arena);
            let machine = Machine::new(format, &arena, &tables, caches);
            let mut tree = machine.tree().expect("room for a root");
            let (start, page) = (format.address(0), 1u64 << format.geometry().page_shift());
            let (to, small) = (Output::<F>::new(0), Leaves::AtMost(page.trailing_zeros() as u8));
            tree.map(start, to, page, attributes, small).expect("nothing fails");
            let said = |tree: &crate::machine::Tree<'_, F>| {
                tree.walker().query(start).expect("in the space").map(|found| found.attributes)
            };
            let before = said(&tree).expect("it is mapped");
            let mut gather = machine.gather();
            assert_eq!(tree.protect(start, page, new, &mut gather), Ok(page));
            assert_eq!(said(&tree), Some(before.with_prot(new)), "{old:?} to {new:?}: {format:?}");
            let read_only = before.with_prot(new).with_prot(new.with_write(false));
            if encodes(&format, read_only) {
                assert_eq!(tree.write_protect(start, page, &mut gather), Ok(page));
                assert_eq!(said(&tree), Some(read_only), "{old:?} without W: {format:?}");
            }
            gather.finish(&&machine).expect("nothing fails");
            drop(gather);
            machine.destroy(tree);
        }
    }
}

/// Ranges of whole base pages can be mapped, changed and unmapped in leaves of every size from the
/// base page on.
pub fn whole<F: Format>(format: F, caches: Caches) {
    let geometry = format.geometry();
    let shift = geometry.page_shift();
    assert!(geometry.leaf_shifts().contains(&shift), "{format:?}");
    let Some((rw, _)) = crate::words::usable(&format) else { return };
    let page = 1u64 << shift;
    for size in geometry.leaf_shifts().into_iter().filter(|size| *size >= shift) {
        let bytes = 1u64 << size;
        if bytes > 1 << (geometry.address_bits() - 1) {
            continue;
        }
        let arena = Arena::new(ARENA / 4);
        let tables = Tables::new(&arena);
        let machine = Machine::new(format, &arena, &tables, caches);
        let mut tree = machine.tree().expect("room for a root");
        assert_eq!(AddressSpace::page_shift(&tree), shift);
        let (start, to) = (format.address(0), Output::<F>::new(0));
        let mut gather = machine.gather();
        let mapped = tree.map(start, to, bytes, rw.into(), Leaves::Largest);
        assert_eq!(mapped, Ok(()), "2^{size}: {format:?}");
        let ro = rw.with_write(false);
        for index in [0, 1, 2, (bytes >> shift) - 1] {
            if index >= bytes >> shift {
                continue;
            }
            let at = format.address(index << shift);
            let case = || format!("page {index} of 2^{size}: {format:?}");
            assert_eq!(tree.protect(at, page, ro, &mut gather), Ok(page), "{}", case());
            assert_eq!(tree.unmap(at, page, &mut gather), Ok(page), "{}", case());
            gather.finish(&&machine).expect("nothing fails");
            let output = Output::<F>::new(index << shift);
            let again = tree.map(at, output, page, ro.into(), Leaves::Largest);
            assert_eq!(again.map_err(|RangeError { error, .. }| error), Ok(()), "{}", case());
        }
        drop(gather);
        machine.destroy(tree);
    }
}
