//! Trees that many writers share: one writer alone does what the writer of an exclusive tree does.

use pgtable::format::Format;
use pgtable::shared::SharedPageTable;

use crate::flat::Flat;
use crate::machine::Machine;
use crate::memory::{Arena, Tables};
use crate::mmu::Caches;
use crate::ops::Op;
use crate::tree::ARENA;

/// Random operations by the only writer of a shared tree.
///
/// # Panics
/// If an operation does anything else than it should.
pub fn alone<F: Format>(format: F, caches: Caches, cases: u32) {
    crate::cases::run(cases, &crate::ops::ops(20), &|ops| {
        let arena = Arena::new(ARENA);
        let tables = Tables::new(&arena);
        by_a_writer(&Machine::new(format, &arena, &tables, caches), ops);
    });
}

fn by_a_writer<'m, F: Format>(machine: &'m Machine<'m, F>, ops: &[Op]) {
    let shared = SharedPageTable::from(machine.tree().expect("room for a root"));
    let writer = shared.writer().expect("the first writer");
    let mut flat = Flat::new(writer, machine);
    for op in ops {
        flat.apply(op);
    }
    drop(flat);
    machine.destroy(shared.into_inner());
}
