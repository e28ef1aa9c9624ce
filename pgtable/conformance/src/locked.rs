//! Several operations under one lock: a [`LockedRange`](pgtable::shared::LockedRange) does what the
//! one writer of an exclusive tree does, verb by verb.

use std::ops::ControlFlow;

use pgtable::format::{Format, Output};
use pgtable::shared::SharedPageTable;
use pgtable::tree::{Recorded, Writers};
use pgtable::{Access, Address, Leaves, Prot};
use proptest::prelude::{BoxedStrategy, Just, Strategy, any, prop_oneof};

use crate::machine::Machine;
use crate::memory::{Arena, Tables};
use crate::mmu::Caches;
use crate::tree::ARENA;

/// What one entry of the second level covers in many formats.
const LARGE: u64 = 1 << 21;
/// The length of the range that is locked.
const BYTES: u64 = 4 * LARGE;

/// Where the range begins that is locked: so that it lies across the border of two tables of the
/// second level in many formats, and what is locked is above both.
fn start<F: Format>(format: &F) -> u64 {
    (1 << format.geometry().address_bits().saturating_sub(1).min(30)) - 2 * LARGE
}

/// One operation, on pages from the start of the range.
#[derive(Clone, Debug)]
enum Op {
    Map { page: u64, pages: u64, output: u64, leaves: Leaves },
    Unmap { page: u64, pages: u64 },
    Protect { page: u64, pages: u64, prot: Prot },
    Split { page: u64, pages: u64 },
    Promote,
    Use { page: u64, store: bool },
    Harvest { page: u64, pages: u64, recorded: Recorded, writers: Writers },
}

/// On pages of `2^shift` bytes.
fn op(shift: u8) -> BoxedStrategy<Op> {
    let large = LARGE >> shift;
    let all = BYTES >> shift;
    let page = prop_oneof![2 => 0..all, 1 => (0..4u64).prop_map(move |part| part * large)];
    let pages = prop_oneof![2 => 1..40u64, 1 => Just(large), 1 => 1..=all];
    let leaves = prop_oneof![2 => Just(Leaves::Largest), 1 => Just(Leaves::Exactly(shift))];
    let place = (page, pages).prop_map(move |(page, pages)| (page, pages.min(all - page)));
    let recorded = prop_oneof![Just(Recorded::Accessed), Just(Recorded::Dirty)];
    let writers = prop_oneof![Just(Writers::Running), Just(Writers::Stopped)];
    let prot = prop_oneof![Just(Prot::R), Just(Prot::RW), Just(Prot::RWX)];
    prop_oneof![
        4 => (place.clone(), 0..3u64, leaves).prop_map(move |((page, pages), output, leaves)| {
            // In step with the input, so that a part may be one leaf again; or not.
            Op::Map { page, pages, output: output * (3 * large + 1) + page, leaves }
        }),
        2 => place.clone().prop_map(|(page, pages)| Op::Unmap { page, pages }),
        2 => (place.clone(), prot).prop_map(|((page, pages), prot)| Op::Protect { page, pages, prot }),
        2 => place.clone().prop_map(|(page, pages)| Op::Split { page, pages }),
        2 => Just(Op::Promote),
        3 => (0..all, any::<bool>()).prop_map(|(page, store)| Op::Use { page, store }),
        2 => (place, recorded, writers)
            .prop_map(|((page, pages), recorded, writers)| Op::Harvest { page, pages, recorded, writers }),
    ]
    .boxed()
}

/// Random operations under one lock.
///
/// # Panics
/// If an operation does anything else than it should.
pub fn random<F: Format>(format: F, caches: Caches, cases: u32) {
    if format.geometry().address_bits() < 26 {
        // No room for the range.
        return;
    }
    let steps = proptest::collection::vec(op(format.geometry().page_shift()), 1..30).boxed();
    crate::cases::run(cases, &steps, &|ops| same(format, caches, ops));
}

/// Does the same to an exclusive tree and, under one lock, to a shared one: every answer is the
/// same, and so is every leaf at the end of it.
fn same<F: Format>(format: F, caches: Caches, ops: &[Op]) {
    let (here, there) = (Arena::new(ARENA), Arena::new(ARENA));
    let (tables, others) = (Tables::new(&here), Tables::new(&there));
    let alone = Machine::new(format, &here, &tables, caches);
    let machine = Machine::new(format, &there, &others, caches);
    let mut one = alone.tree().expect("room for a root");
    let shared = SharedPageTable::from(machine.tree().expect("room for a root"));
    let writer = shared.writer().expect("the first writer");
    let from = start(&format);
    let shift = format.geometry().page_shift();
    let (mut stale, mut gather) = (alone.gather(), machine.gather());
    let mut cursor = writer.lock(format.address(from), BYTES).expect("no other has it");
    let input = |page: u64| format.address(from + (page << shift));
    for op in ops {
        match *op {
            Op::Map { page, pages, output, leaves } => {
                let (at, to, bytes) =
                    (input(page), Output::<F>::new(output << shift), pages << shift);
                let attributes = F::Attributes::from(Prot::RW);
                let (exclusive, locked) = (
                    one.map(at, to, bytes, attributes, leaves),
                    cursor.map(at, to, bytes, attributes, leaves),
                );
                assert_eq!(exclusive, locked, "{op:?}");
            }
            Op::Unmap { page, pages } => {
                let (at, bytes) = (input(page), pages << shift);
                assert_eq!(
                    one.unmap(at, bytes, &mut stale),
                    cursor.unmap(at, bytes, &mut gather),
                    "{op:?}"
                );
            }
            Op::Protect { page, pages, prot } => {
                let (at, bytes, attributes) =
                    (input(page), pages << shift, F::Attributes::from(prot));
                let exclusive = one.set_attributes(at, bytes, attributes, &mut stale);
                assert_eq!(
                    exclusive,
                    cursor.set_attributes(at, bytes, attributes, &mut gather),
                    "{op:?}"
                );
            }
            Op::Split { page, pages } => {
                let (at, bytes) = (input(page), pages << shift);
                let exclusive = one.split(at, bytes, shift, &mut stale);
                assert_eq!(exclusive, cursor.split(at, bytes, shift, &mut gather), "{op:?}");
            }
            Op::Promote => {
                let exclusive = one.promote(input(0), BYTES, &mut stale);
                assert_eq!(exclusive, cursor.promote(input(0), BYTES, &mut gather), "{op:?}");
            }
            Op::Use { page, store } => {
                let access = if store { Access::WRITE } else { Access::READ };
                let exclusive = one.walker().access(input(page), access).is_ok();
                assert_eq!(
                    exclusive,
                    shared.walker().access(input(page), access).is_ok(),
                    "{op:?}"
                );
            }
            Op::Harvest { page, pages, recorded, writers } => {
                let (at, bytes, mut bits) = (input(page), pages << shift, [[0; 40]; 2]);
                let exclusive = one.harvest(at, bytes, recorded, writers, &mut bits[0], &mut stale);
                let locked =
                    cursor.harvest(at, bytes, recorded, writers, &mut bits[1], &mut gather);
                assert_eq!((exclusive, bits[0]), (locked, bits[1]), "{op:?}");
            }
        }
        // No page is mapped anew while hardware may hold what was mapped there.
        stale.finish(&&alone).expect("nothing fails");
        gather.finish(&&machine).expect("nothing fails");
        assert_eq!(one.walker().query(input(0)), cursor.query(input(0)).map_err(|it| it.error));
    }
    cursor.finish(&mut gather);
    let leaves = |walker: pgtable::walk::Walker<F, &&Machine<'_, F>>| {
        let mut leaves = Vec::new();
        let visited = walker.for_each(format.address(from), BYTES, |leaf| {
            leaves.push(leaf);
            ControlFlow::<()>::Continue(())
        });
        assert_eq!(visited, Ok(ControlFlow::Continue(())));
        leaves
    };
    assert_eq!(leaves(one.walker()), leaves(shared.walker()));
    // No table was lost, none is left behind.
    let (at, mut two) = (format.address(from), shared.into_inner());
    let _ = (one.unmap(at, BYTES, &mut stale), two.unmap(at, BYTES, &mut gather));
    stale.finish(&&alone).expect("nothing fails");
    gather.finish(&&machine).expect("nothing fails");
    assert_eq!(tables.live(), others.live());
    alone.destroy(one);
    machine.destroy(two);
}
