//! An address space and the flat map that says what it must hold: random operations, running out of
//! tables, a TLB that forgets nothing.

use std::collections::BTreeMap;
use std::ops::ControlFlow;

use pgtable::{
    Access, Address, AddressSpace, Attributes, Error, Gather, InputOf, Leaves, MappingOf, Memory,
    OutputOf, Prot, RangeError,
};
use proptest::prelude::*;

use super::{Tables, Tlb};

/// One operation, in units of the smallest page, at places that make neighbours and overlaps
/// likely.
#[derive(Clone, Debug)]
pub enum Op {
    Map { at: Place, pages: Pages, output: u64, prot: Prot, leaves: Choice, budget: usize },
    Unmap { at: Place, pages: Pages, budget: usize },
    Protect { at: Place, pages: Pages, prot: Prot, budget: usize },
}

/// A place in the space: a far part (which large page) and a near part (which small page in it).
#[derive(Clone, Copy, Debug)]
pub struct Place {
    pub far: u64,
    pub near: u64,
}

#[derive(Clone, Copy, Debug)]
pub enum Pages {
    /// So many of the smallest.
    Small(u64),
    /// So many of the nth size.
    Large(usize, u64),
}

#[derive(Clone, Copy, Debug)]
pub enum Choice {
    Largest,
    AtMost(usize),
    Exactly(usize),
}

pub fn prot() -> impl Strategy<Value = Prot> {
    (0u8..16).prop_map(|bits| Prot::from_bits(bits).with_read(true))
}

pub fn place() -> impl Strategy<Value = Place> {
    (0u64..6, prop_oneof![Just(0u64), 0..40u64, 500..520u64])
        .prop_map(|(far, near)| Place { far, near })
}

pub fn pages() -> impl Strategy<Value = Pages> {
    prop_oneof![
        4 => (1u64..40).prop_map(Pages::Small),
        2 => (0usize..4, 1u64..3).prop_map(|(size, count)| Pages::Large(size, count)),
        1 => (500u64..1100).prop_map(Pages::Small),
    ]
}

pub fn budget() -> impl Strategy<Value = usize> {
    prop_oneof![3 => Just(usize::MAX), 1 => 0usize..4]
}

pub fn op() -> impl Strategy<Value = Op> {
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
pub struct Harness<'h, S: AddressSpace> {
    pub space: S,
    /// The smallest page.
    pub unit: u64,
    pub shifts: Vec<u8>,
    pub model: BTreeMap<u64, (u64, S::Attributes)>,
    pub tables: &'h Tables<'h>,
    pub tlb: Tlb,
}

impl<'h, S: AddressSpace> Harness<'h, S> {
    pub fn new(space: S, tables: &'h Tables<'h>) -> Self {
        let shifts = space.leaf_shifts().to_vec();
        let unit = 1 << shifts[0];
        Self { space, unit, shifts, model: BTreeMap::new(), tables, tlb: Tlb::default() }
    }

    pub fn input(&self, at: Place) -> u64 {
        let middle = self.shifts.get(1).map_or(0, |shift| 1 << shift);
        let far =
            [0, middle, 2 * middle, 1 << 30, (1 << 30) + middle, 1 << 40][at.far as usize % 6];
        let (start, bytes) = self.space.range();
        start.get() + far.min(bytes / 2) + at.near * self.unit
    }

    pub fn bytes(&self, pages: Pages) -> u64 {
        match pages {
            Pages::Small(count) => count * self.unit,
            // The model has an entry for each of the smallest pages: no sizes that have more than
            // 512 of them.
            Pages::Large(size, count) => self
                .shifts
                .get(size)
                .filter(|shift| **shift <= self.shifts[0] + 9)
                .map_or(self.unit, |shift| count << shift),
        }
    }

    pub fn leaves(&self, choice: Choice) -> Leaves {
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
                assert!(
                    error.at.get() >= start && error.at.get() < start + bytes,
                    "{error} is outside the range"
                );
                error.at.get() - start
            }
        }
    }

    /// The TLB holds everything that is mapped now: each page was used, so a space that learns of
    /// its pages by their use knows them all.
    pub fn fill_tlb(&mut self) {
        let entry = |(&page, &(output, attributes)): (&u64, &(u64, S::Attributes))| {
            let used = [Access::READ, Access::READ.by_user()]
                .map(|it| self.space.translate(InputOf::<S>::new(page), it));
            assert!(used.iter().any(Result::is_ok), "{page:#x} is mapped readable");
            (page, (output, attributes.prot().into_bits()))
        };
        *self.tlb.cached.borrow_mut() = self.model.iter().map(entry).collect();
    }

    pub fn apply(&mut self, op: &Op) {
        self.fill_tlb();
        let tlb = std::mem::take(&mut self.tlb);
        let mut gather = Gather::new(&tlb, 7);
        match *op {
            Op::Map { at, pages, output, prot, leaves, budget } => {
                let (start, bytes, leaves) =
                    (self.input(at), self.bytes(pages), self.leaves(leaves));
                let large = self.shifts.get(1).map_or(21, |shift| 21.max(*shift));
                let output = if output % 3 == 0 { output << large } else { output * self.unit };
                let attributes = S::Attributes::from(prot);
                self.tables.budget.set(budget);
                let result = self.space.map(
                    InputOf::<S>::new(start),
                    OutputOf::<S>::new(output),
                    bytes,
                    attributes,
                    leaves,
                );
                let done = Self::done(start, bytes, &result);
                for page in (0..done).step_by(self.unit as usize) {
                    let old = self.model.insert(start + page, (output + page, attributes));
                    assert_eq!(old, None, "mapped over a mapping at {:#x}", start + page);
                }
                match result {
                    Ok(()) => {}
                    Err(RangeError { at, error: Error::Mapped { at: entry } }) => {
                        let taken = self
                            .model
                            .range(at.get()..at.get() + entry.size().max(self.unit))
                            .next()
                            .is_some();
                        assert!(taken, "nothing is mapped at {at}");
                    }
                    Err(RangeError { error: Error::Alloc(_), .. }) => {
                        assert_ne!(budget, usize::MAX);
                    }
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
                    Ok(unmapped) => {
                        assert_eq!(unmapped, (before - self.model.len()) as u64 * self.unit);
                    }
                    Err(RangeError { error: Error::Alloc(_), .. }) => {
                        assert_ne!(budget, usize::MAX);
                    }
                    Err(RangeError { error: Error::LeafSize, .. }) => {}
                    Err(error) => panic!("{error}: {op:?}"),
                }
            }
            Op::Protect { at, pages, prot, budget } => {
                let (start, bytes) = (self.input(at), self.bytes(pages));
                let at = InputOf::<S>::new(start);
                self.tables.budget.set(budget);
                // Each of the verbs that change attributes.
                let read_only = |old: S::Attributes| old.with_prot(old.prot().with_write(false));
                match (start / self.unit + bytes / self.unit + u64::from(prot.into_bits())) % 4 {
                    0 => {
                        let result = self.space.protect(at, bytes, prot, &mut gather);
                        self.changed(start, bytes, |old| old.with_prot(prot), result);
                    }
                    1 => {
                        let result = self.space.write_protect(at, bytes, &mut gather);
                        self.changed(start, bytes, read_only, result);
                    }
                    2 => {
                        let attributes = S::Attributes::from(prot);
                        let result = self.space.set_attributes(at, bytes, attributes, &mut gather);
                        self.changed(start, bytes, |_| attributes, result);
                    }
                    _ => {
                        // By where a leaf is and where it leads.
                        let device = |output: OutputOf<S>| output.get() >> 21 & 1 != 0;
                        let of = |old: S::Attributes, device| {
                            old.with_memory(if device { Memory::Device } else { Memory::Normal })
                        };
                        let mut leaves = BTreeMap::new();
                        let edit = |leaf: MappingOf<S>| {
                            let device = device(leaf.output);
                            (0..leaf.bytes).step_by(self.unit as usize).for_each(|page| {
                                leaves.insert(leaf.input.get() + page, device);
                            });
                            of(leaf.attributes, device)
                        };
                        let result = self.space.modify(at, bytes, edit, &mut gather);
                        self.changed_each(
                            start,
                            bytes,
                            |page, old| leaves.get(&page).map_or(old, |&device| of(old, device)),
                            result,
                        );
                    }
                }
            }
        }
        self.tables.budget.set(usize::MAX);
        gather.finish(&self.tables).unwrap();
        drop(gather);
        self.tlb = tlb;
        self.check();
    }

    /// What is mapped in the `bytes` bytes from `start` on was given the attributes that `new`
    /// makes of the old ones, as far as `result` says.
    pub fn changed(
        &mut self,
        start: u64,
        bytes: u64,
        new: impl Fn(S::Attributes) -> S::Attributes,
        result: Result<u64, RangeError<InputOf<S>>>,
    ) {
        self.changed_each(start, bytes, |_, old| new(old), result);
    }

    fn changed_each(
        &mut self,
        start: u64,
        bytes: u64,
        new: impl Fn(u64, S::Attributes) -> S::Attributes,
        result: Result<u64, RangeError<InputOf<S>>>,
    ) {
        let done = Self::done(start, bytes, &result);
        let mut touched = 0;
        for (&page, (_, old)) in self.model.range_mut(start..start + done) {
            *old = new(page, *old);
            touched += 1;
        }
        match result {
            Ok(changed) => assert_eq!(changed, touched * self.unit),
            Err(RangeError { error: Error::Alloc(_), .. }) => {
                assert_ne!(self.tables.budget.get(), usize::MAX);
            }
            Err(RangeError { error: Error::LeafSize, .. }) => {}
            Err(error) => panic!("{error}"),
        }
    }

    pub fn check(&self) {
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
            for access in [Access::READ, Access::WRITE, Access::FETCH]
                .into_iter()
                .flat_map(|a| [a, a.by_user()])
            {
                if let Ok(translation) = self.space.translate(input, access) {
                    assert_eq!(
                        (translation.output.get(), translation.attributes),
                        (output + 5, attributes),
                        "{input}"
                    );
                }
            }
            let supervisor = self.space.translate(input, Access::READ);
            let user = self.space.translate(input, Access::READ.by_user());
            assert!(
                supervisor.is_ok() || user.is_ok(),
                "{input} is mapped readable: {}",
                supervisor.unwrap_err()
            );
            for neighbour in [page.wrapping_sub(self.unit), page + self.unit] {
                if !self.model.contains_key(&neighbour) && neighbour >= start.get() {
                    let fault = self.space.translate(InputOf::<S>::new(neighbour), Access::READ);
                    assert!(fault.is_err(), "{neighbour:#x} translates and should not");
                }
            }
        }

        // What the TLB still holds is still true.
        for (page, &(output, prot)) in self.tlb.cached.borrow().iter() {
            let now = self
                .model
                .get(page)
                .map(|(output, attributes)| (*output, attributes.prot().into_bits()));
            assert_eq!(now, Some((output, prot)), "stale translation of {page:#x} survived");
        }
    }
}
