//! Every address space against a flat map: random operations, running out of tables, a TLB that forgets nothing.
//!
//! One harness; a format is one line at the end.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod support;

use std::collections::BTreeMap;
use std::ops::ControlFlow;

use arch_ppc64::radix::{Granule, PartitionScoped, ProcessScoped};
use arch_x86::{Controls, Levels, LongMode};
use pgtable::{
    Access, Address, AddressSpace, Attributes, Error, Format, Gather, InputOf, Leaves, Output, OutputOf, PageTable,
    Prot, RangeError,
};
use proptest::prelude::*;
use support::{Arena, Tables, Tlb};

/// One operation, in units of the smallest page, at places that make neighbours and overlaps likely.
#[derive(Clone, Debug)]
enum Op {
    Map { at: Place, pages: Pages, output: u64, prot: Prot, leaves: Choice, budget: usize },
    Unmap { at: Place, pages: Pages, budget: usize },
    Protect { at: Place, pages: Pages, prot: Prot, budget: usize },
}

/// A place in the space: a far part (which large page) and a near part (which small page in it).
#[derive(Clone, Copy, Debug)]
struct Place {
    far: u64,
    near: u64,
}

#[derive(Clone, Copy, Debug)]
enum Pages {
    /// So many of the smallest.
    Small(u64),
    /// So many of the nth size.
    Large(usize, u64),
}

#[derive(Clone, Copy, Debug)]
enum Choice {
    Largest,
    AtMost(usize),
    Exactly(usize),
}

fn prot() -> impl Strategy<Value = Prot> {
    (0u8..16).prop_map(|bits| Prot::from_bits(bits).with_read(true))
}

fn place() -> impl Strategy<Value = Place> {
    (0u64..6, prop_oneof![Just(0u64), 0..40u64, 500..520u64]).prop_map(|(far, near)| Place { far, near })
}

fn pages() -> impl Strategy<Value = Pages> {
    prop_oneof![
        4 => (1u64..40).prop_map(Pages::Small),
        2 => (0usize..4, 1u64..3).prop_map(|(size, count)| Pages::Large(size, count)),
        1 => (500u64..1100).prop_map(Pages::Small),
    ]
}

fn budget() -> impl Strategy<Value = usize> {
    prop_oneof![3 => Just(usize::MAX), 1 => 0usize..4]
}

fn op() -> impl Strategy<Value = Op> {
    let choice = prop_oneof![
        3 => Just(Choice::Largest),
        1 => (0usize..4).prop_map(Choice::AtMost),
        1 => (0usize..4).prop_map(Choice::Exactly)
    ];
    prop_oneof![
        4 => (place(), pages(), 0u64..4096, prot(), choice, budget())
            .prop_map(|(at, pages, output, prot, leaves, budget)| Op::Map { at, pages, output, prot, leaves, budget }),
        2 => (place(), pages(), budget()).prop_map(|(at, pages, budget)| Op::Unmap { at, pages, budget }),
        2 => (place(), pages(), prot(), budget())
            .prop_map(|(at, pages, prot, budget)| Op::Protect { at, pages, prot, budget }),
    ]
}

/// A space and the flat map that says what it must hold: page → (output, attributes).
struct Harness<'h, S: AddressSpace> {
    space: S,
    unit: u64,
    shifts: Vec<u8>,
    model: BTreeMap<u64, (u64, S::Attributes)>,
    tables: &'h Tables<'h>,
    tlb: Tlb,
}

impl<S: AddressSpace> Harness<'_, S> {
    fn input(&self, at: Place) -> u64 {
        let middle = self.shifts.get(1).map_or(0, |shift| 1 << shift);
        let far = [0, middle, 2 * middle, 1 << 30, (1 << 30) + middle, 1 << 40][at.far as usize % 6];
        self.space.range().0.get() + far + at.near * self.unit
    }

    fn bytes(&self, pages: Pages) -> u64 {
        match pages {
            Pages::Small(count) => count * self.unit,
            // The model is a page per entry: nothing above 4 MiB.
            Pages::Large(size, count) => {
                self.shifts.get(size).filter(|shift| **shift <= 21).map_or(self.unit, |shift| count << shift)
            }
        }
    }

    fn leaves(&self, choice: Choice) -> Leaves {
        let shift = |n: usize| self.shifts.get(n).copied().unwrap_or(self.shifts[0]);
        match choice {
            Choice::Largest => Leaves::Largest,
            Choice::AtMost(n) => Leaves::AtMost(shift(n)),
            Choice::Exactly(n) => Leaves::Exactly(shift(n)),
        }
    }

    /// How far an operation came: all of it, or to the error's address.
    fn done<T>(start: u64, bytes: u64, result: &Result<T, RangeError<InputOf<S>>>) -> u64 {
        match result {
            Ok(_) => bytes,
            Err(error) => {
                assert!(error.at.get() >= start && error.at.get() < start + bytes, "{error} is outside the range");
                error.at.get() - start
            }
        }
    }

    fn apply(&mut self, op: &Op) {
        // The TLB holds everything that is mapped now.
        let cached =
            self.model.iter().map(|(&page, &(output, attributes))| (page, (output, attributes.prot().into_bits())));
        *self.tlb.cached.borrow_mut() = cached.collect();
        let tlb = std::mem::take(&mut self.tlb);
        let mut gather = Gather::new(&tlb, 7);
        match *op {
            Op::Map { at, pages, output, prot, leaves, budget } => {
                let (start, bytes, leaves) = (self.input(at), self.bytes(pages), self.leaves(leaves));
                let output = if output % 3 == 0 { output << 21 } else { output * self.unit };
                let attributes = S::Attributes::from(prot);
                self.tables.budget.set(budget);
                let result =
                    self.space.map(InputOf::<S>::new(start), OutputOf::<S>::new(output), bytes, attributes, leaves);
                let done = Self::done(start, bytes, &result);
                for page in (0..done).step_by(self.unit as usize) {
                    let old = self.model.insert(start + page, (output + page, attributes));
                    assert_eq!(old, None, "mapped over a mapping at {:#x}", start + page);
                }
                match result {
                    Ok(()) => {}
                    Err(RangeError { at, error: Error::Mapped { at: entry } }) => {
                        let taken = self.model.range(at.get()..at.get() + entry.size().max(self.unit)).next().is_some();
                        assert!(taken, "nothing is mapped at {at}");
                    }
                    Err(RangeError { error: Error::Alloc(_), .. }) => assert_ne!(budget, usize::MAX),
                    Err(RangeError { error: Error::LeafSize, .. }) => {}
                    Err(error) => panic!("{error}: {op:?}"),
                }
            }
            Op::Unmap { at, pages, budget } => {
                let (start, bytes) = (self.input(at), self.bytes(pages));
                self.tables.budget.set(budget);
                let result = self.space.unmap(InputOf::<S>::new(start), bytes, &mut gather);
                let done = Self::done(start, bytes, &result);
                let before = self.model.len();
                self.model.retain(|&page, _| page < start || page >= start + done);
                match result {
                    Ok(unmapped) => assert_eq!(unmapped, (before - self.model.len()) as u64 * self.unit),
                    Err(RangeError { error: Error::Alloc(_), .. }) => assert_ne!(budget, usize::MAX),
                    Err(RangeError { error: Error::LeafSize, .. }) => {}
                    Err(error) => panic!("{error}: {op:?}"),
                }
            }
            Op::Protect { at, pages, prot, budget } => {
                let (start, bytes) = (self.input(at), self.bytes(pages));
                let attributes = S::Attributes::from(prot);
                self.tables.budget.set(budget);
                let result = self.space.protect(InputOf::<S>::new(start), bytes, attributes, &mut gather);
                let done = Self::done(start, bytes, &result);
                let mut touched = 0;
                for (_, (_, old)) in self.model.range_mut(start..start + done) {
                    *old = attributes;
                    touched += 1;
                }
                match result {
                    Ok(changed) => assert_eq!(changed, touched * self.unit),
                    Err(RangeError { error: Error::Alloc(_), .. }) => assert_ne!(budget, usize::MAX),
                    Err(RangeError { error: Error::LeafSize, .. }) => {}
                    Err(error) => panic!("{error}: {op:?}"),
                }
            }
        }
        self.tables.budget.set(usize::MAX);
        gather.finish(&self.tables).unwrap();
        self.tlb = tlb;
        self.check();
    }

    fn check(&self) {
        // Iteration lists exactly the model.
        let (start, bytes) = self.space.range();
        let mut listed = BTreeMap::new();
        let flow = self.space.for_each(start, bytes, |leaf| {
            for page in (0..leaf.bytes).step_by(self.unit as usize) {
                listed.insert(leaf.input.get() + page, (leaf.output.get() + page, leaf.attributes));
            }
            ControlFlow::<()>::Continue(())
        });
        assert_eq!(flow.unwrap(), ControlFlow::Continue(()));
        assert_eq!(listed.len(), self.model.len());
        assert!(listed == self.model, "the iteration differs from the model");

        // Each mapped page translates to its place (a sample), and its neighbours outside do not.
        for (&page, &(output, attributes)) in self.model.iter().step_by(self.model.len() / 50 + 1) {
            let input = InputOf::<S>::new(page + 5);
            for access in [Access::READ, Access::WRITE, Access::FETCH].into_iter().flat_map(|a| [a, a.by_user()]) {
                if let Ok(translation) = self.space.translate(input, access) {
                    assert_eq!((translation.output.get(), translation.attributes), (output + 5, attributes), "{input}");
                }
            }
            let supervisor = self.space.translate(input, Access::READ);
            let user = self.space.translate(input, Access::READ.by_user());
            assert!(supervisor.is_ok() || user.is_ok(), "{input} is mapped readable: {}", supervisor.unwrap_err());
            for neighbour in [page.wrapping_sub(self.unit), page + self.unit] {
                if !self.model.contains_key(&neighbour) && neighbour >= start.get() {
                    let fault = self.space.translate(InputOf::<S>::new(neighbour), Access::READ);
                    assert!(fault.is_err(), "{neighbour:#x} translates and should not");
                }
            }
        }

        // What the TLB still holds is still true.
        for (page, &(output, prot)) in self.tlb.cached.borrow().iter() {
            let now = self.model.get(page).map(|(output, attributes)| (*output, attributes.prot().into_bits()));
            assert_eq!(now, Some((output, prot)), "stale translation of {page:#x} survived");
        }
    }
}

/// Runs `ops` on a tree of `format`, tears it down, and looks for what was left behind.
fn tree<F: Format>(format: F, ops: &[Op]) {
    let arena = Arena::new(8 << 20);
    let tables = Tables::new(&arena);
    let space = PageTable::new(format, arena.memory::<Output<F>>(), &tables).unwrap();
    let shifts = space.leaf_shifts().to_vec();
    let unit = 1 << shifts[0];
    let mut harness = Harness { space, unit, shifts, model: BTreeMap::new(), tables: &tables, tlb: Tlb::default() };
    harness.check();
    for op in ops {
        harness.apply(op);
    }

    // Unmapping everything leaves the root alone; so the tree holds no empty table.
    let (start, bytes) = harness.space.range();
    let mut gather = Gather::new(&harness.tlb, 7);
    harness.space.unmap(start, bytes, &mut gather).unwrap();
    gather.finish(&tables).unwrap();
    assert_eq!(tables.live(), 1, "only the root is left");
    harness.space.destroy(Gather::new(&harness.tlb, 7)).map_err(|(_, error)| error).unwrap();
    assert_eq!(tables.live(), 0);
}

/// Builds a tree with `ops` and tears it down as it is.
fn teardown<F: Format>(format: F, ops: &[Op]) {
    let arena = Arena::new(8 << 20);
    let tables = Tables::new(&arena);
    let space = PageTable::new(format, arena.memory::<Output<F>>(), &tables).unwrap();
    let shifts = space.leaf_shifts().to_vec();
    let unit = 1 << shifts[0];
    let mut harness = Harness { space, unit, shifts, model: BTreeMap::new(), tables: &tables, tlb: Tlb::default() };
    for op in ops {
        harness.apply(op);
    }
    let live = tables.live();
    let finished = harness.space.destroy(Gather::new(&harness.tlb, 7)).map_err(|(_, error)| error).unwrap();
    assert_eq!((finished.tables, tables.live()), (live, 0));
}

macro_rules! formats {
    ($($name:ident: $format:expr;)*) => {$(
        mod $name {
            use super::*;
            proptest! {
                #![proptest_config(ProptestConfig { cases: 64, max_shrink_iters: 2000, failure_persistence: None, ..ProptestConfig::default() })]
                #[test]
                fn against_a_flat_map(ops in proptest::collection::vec(op(), 1..30)) {
                    tree($format, &ops);
                }
                #[test]
                fn teardown_leaves_nothing(ops in proptest::collection::vec(op(), 1..12)) {
                    teardown($format, &ops);
                }
            }
        }
    )*};
}

formats! {
    radix_64k_process: ProcessScoped::new(Granule::K64);
    radix_4k_process: ProcessScoped::new(Granule::K4);
    radix_64k_partition: PartitionScoped::new(Granule::K64);
    radix_4k_partition: PartitionScoped::new(Granule::K4);
    x86_4_level: LongMode::new(Levels::Four, Controls::new());
    x86_5_level: LongMode::new(Levels::Five, Controls::new());
}
