//! Operations as data: what random cases consist of. Nothing here depends on a format.

use pgtable::tree::{Recorded, Writers};
use pgtable::{Leaves, Prot};
use proptest::collection::vec;
use proptest::prelude::{BoxedStrategy, Just, Strategy, any, prop_oneof};

/// An operation of any address space, in units of the smallest page, at places that make neighbours
/// and overlaps likely. `budget` is the number of tables that the allocator still gives.
#[derive(Clone, Debug)]
#[allow(missing_docs, reason = "the parameters of the verbs")]
pub enum Op {
    /// `map`
    Map { at: Place, pages: Pages, output: u64, prot: Prot, leaves: Choice, budget: usize },
    /// `unmap`
    Unmap { at: Place, pages: Pages, budget: usize },
    /// One of the verbs that change attributes.
    Protect { at: Place, pages: Pages, prot: Prot, budget: usize },
}

/// An operation of a tree.
#[derive(Clone, Debug)]
pub enum TreeOp {
    /// What every address space can do.
    Space(Op),
    /// A cursor goes to pages, one after the other, and maps `Some(output)` or unmaps.
    Cursor(Vec<(Place, Option<u64>)>, Prot, usize),
    /// `split`: pages, which size, budget.
    Split(Place, u64, usize, usize),
    /// `promote`
    Promote(Place, u64),
    /// `remap`: pages, output, rights.
    Remap(Place, u64, u64, Prot),
    /// `protect` while no other writes.
    Protect(Place, Pages, Prot, usize),
    /// `harvest` of so many pages.
    Harvest(Place, u64, Recorded, Writers),
    /// `relocate` of the tables whose address, in units of 256 bytes, has one of these bits set (of
    /// all, if it is 0); of the root too; budget.
    Relocate(u64, bool, usize),
}

/// A place in the space: a far part (which large page) and a near part (which small page in it).
#[derive(Clone, Copy, Debug)]
pub struct Place {
    /// Which of six large pages.
    pub far: u64,
    /// Which small page from there on.
    pub near: u64,
}

/// A length.
#[derive(Clone, Copy, Debug)]
pub enum Pages {
    /// So many of the smallest pages.
    Small(u64),
    /// So many of the nth size.
    Large(usize, u64),
}

/// Which sizes `map` may use.
#[derive(Clone, Copy, Debug)]
pub enum Choice {
    /// Any.
    Largest,
    /// None larger than the nth size.
    AtMost(usize),
    /// The nth size.
    Exactly(usize),
}

impl Choice {
    /// As the parameter of `map`, of a space with leaves of these sizes.
    #[must_use]
    pub fn leaves(self, shifts: &[u8]) -> Leaves {
        let shift = |n: usize| shifts.get(n).copied().unwrap_or(shifts[0]);
        match self {
            Self::Largest => Leaves::Largest,
            Self::AtMost(n) => Leaves::AtMost(shift(n)),
            Self::Exactly(n) => Leaves::Exactly(shift(n)),
        }
    }
}

fn prot() -> BoxedStrategy<Prot> {
    (0u8..16).prop_map(|bits| Prot::from_bits(bits).with_read(true)).boxed()
}

pub(crate) fn place() -> BoxedStrategy<Place> {
    (0u64..6, prop_oneof![Just(0u64), 0..40u64, 500..520u64])
        .prop_map(|(far, near)| Place { far, near })
        .boxed()
}

pub(crate) fn pages() -> BoxedStrategy<Pages> {
    prop_oneof![
        4 => (1u64..40).prop_map(Pages::Small),
        2 => (0usize..4, 1u64..3).prop_map(|(size, count)| Pages::Large(size, count)),
        1 => (500u64..1100).prop_map(Pages::Small),
    ]
    .boxed()
}

/// Plenty of tables, or few.
pub fn budget() -> BoxedStrategy<usize> {
    prop_oneof![3 => Just(usize::MAX), 1 => 0usize..4].boxed()
}

fn op() -> BoxedStrategy<Op> {
    let choice = prop_oneof![
        3 => Just(Choice::Largest),
        1 => (0usize..4).prop_map(Choice::AtMost),
        1 => (0usize..4).prop_map(Choice::Exactly)
    ];
    let map = (place(), pages(), 0u64..4096, prot(), choice, budget()).prop_map(
        |(at, pages, output, prot, leaves, budget)| Op::Map {
            at,
            pages,
            output,
            prot,
            leaves,
            budget,
        },
    );
    let unmap = (place(), pages(), budget()).prop_map(|(at, pages, budget)| Op::Unmap {
        at,
        pages,
        budget,
    });
    let protect = (place(), pages(), prot(), budget())
        .prop_map(|(at, pages, prot, budget)| Op::Protect { at, pages, prot, budget });
    prop_oneof![4 => map, 2 => unmap, 2 => protect].boxed()
}

fn recorded() -> BoxedStrategy<(Recorded, Writers)> {
    let recorded = prop_oneof![Just(Recorded::Accessed), Just(Recorded::Dirty)];
    (recorded, prop_oneof![Just(Writers::Running), Just(Writers::Stopped)]).boxed()
}

/// One operation of a tree.
pub fn tree_op() -> BoxedStrategy<TreeOp> {
    let steps = vec((place(), proptest::option::weighted(0.6, 0u64..4096)), 1..60);
    prop_oneof![
        4 => op().prop_map(TreeOp::Space),
        3 => (steps, prot(), budget()).prop_map(|(steps, prot, budget)| TreeOp::Cursor(steps, prot, budget)),
        1 => (place(), 1u64..1200, 0usize..4, budget()).prop_map(|(at, n, size, budget)| TreeOp::Split(at, n, size, budget)),
        2 => (place(), 1u64..2400).prop_map(|(at, pages)| TreeOp::Promote(at, pages)),
        1 => (place(), 1u64..40, 0u64..4096, prot()).prop_map(|(at, n, output, prot)| TreeOp::Remap(at, n, output, prot)),
        2 => (place(), pages(), prot(), budget()).prop_map(|(at, n, prot, budget)| TreeOp::Protect(at, n, prot, budget)),
        2 => (place(), 1u64..1200, recorded()).prop_map(|(at, n, (recorded, writers))| TreeOp::Harvest(at, n, recorded, writers)),
        1 => (prop_oneof![Just(0u64), 1u64..64], any::<bool>(), budget()).prop_map(|(which, root, budget)| TreeOp::Relocate(which, root, budget)),
    ]
    .boxed()
}

/// Fewer than `most` operations of an address space.
pub fn ops(most: usize) -> BoxedStrategy<Vec<Op>> {
    vec(op(), 1..most).boxed()
}

/// Fewer than `most` operations of a tree.
pub fn tree_ops(most: usize) -> BoxedStrategy<Vec<TreeOp>> {
    vec(tree_op(), 1..most).boxed()
}
