//! An address space and the flat map that says what it must hold.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::ops::ControlFlow;

use pgtable::invalidate::{Gather, Invalidate};
use pgtable::{
    Address, AddressSpace, Attributes, Error, InputOf, MappingOf, Memory, OutputOf, Prot,
    RangeError,
};

use crate::memory::Tables;
use crate::ops::{Op, Pages, Place};

/// Identity of the address space of a test.
pub const IDENTITY: u32 = 7;

/// What a flat map of the space says: page → output and attributes.
pub type Model<S> = BTreeMap<u64, (u64, <S as AddressSpace>::Attributes)>;

/// The hardware that uses a space while it is changed.
pub trait Hardware<S: AddressSpace>: Invalidate<S::Stage, Identity = u32> + Sized {
    /// Where the space's tables come from.
    fn tables(&self) -> &Tables<'_>;

    /// Finishes `gather`, with the space's allocator.
    fn finish(&self, gather: &mut Gather<'_, S::Stage, Self>);

    /// These inputs are used from now on.
    fn watch(&self, space: &S, inputs: &[u64]);

    /// `attributes` as if accessed and dirty were recorded, if hardware may record both at any
    /// time.
    fn settled(&self, attributes: S::Attributes) -> S::Attributes;

    /// Whether a page with these attributes can be mapped to `output`.
    fn encodes(&self, output: u64, attributes: S::Attributes) -> bool {
        let _ = (output, attributes);
        true
    }

    /// What is cached is true, and no record was lost.
    fn verify(&self, model: &Model<S>);

    /// The space translates each access to the page at `input` as it should, where `mapped` is what
    /// the model says.
    fn translates(&self, space: &S, input: u64, mapped: Option<(u64, S::Attributes)>);
}

/// A space and the flat map that says what it must hold.
#[derive(Debug)]
pub struct Flat<'m, H, S: AddressSpace> {
    /// The space.
    pub space: S,
    /// The smallest page.
    pub unit: u64,
    /// log2 of the leaf sizes.
    pub shifts: Vec<u8>,
    /// What must be mapped, with settled attributes.
    pub model: Model<S>,
    /// What uses the space.
    pub machine: &'m H,
    /// The whole space is compared with the model after so many operations. After each one, all
    /// that hardware has cached is, and what the operation was about.
    pub whole: usize,
    /// Checks that were made.
    checks: Cell<usize>,
    /// Some pages that were mapped when the whole space was compared last.
    sample: RefCell<Vec<u64>>,
    /// What the last operation was about.
    watched: RefCell<Vec<u64>>,
}

impl<'m, H, S> Flat<'m, H, S>
where
    H: Hardware<S>,
    S: AddressSpace,
{
    /// `space`, which is empty, and which `machine` uses.
    pub fn new(space: S, machine: &'m H) -> Self {
        let shifts = space.leaf_shifts().to_vec();
        Self {
            space,
            unit: 1 << shifts[0],
            shifts,
            model: BTreeMap::new(),
            machine,
            whole: 1,
            checks: Cell::new(0),
            sample: RefCell::default(),
            watched: RefCell::default(),
        }
    }

    /// An empty gather for the space.
    pub fn gather(&self) -> Gather<'m, S::Stage, H> {
        Gather::new(self.machine, IDENTITY)
    }

    /// The input address of a place.
    pub fn input(&self, at: Place) -> u64 {
        let middle = self.shifts.get(1).map_or(0, |shift| 1 << shift);
        let far =
            [0, middle, 2 * middle, 1 << 30, (1 << 30) + middle, 1 << 40][at.far as usize % 6];
        let (start, bytes) = self.space.range();
        let from = far.min(bytes / 2) + at.near * self.unit;
        // A small space has fewer places.
        start.get() + if from + 4096 * self.unit <= bytes { from } else { from % (bytes / 2) }
    }

    /// `bytes`, or as many as the space has from `start` on.
    pub fn within(&self, start: u64, bytes: u64) -> u64 {
        let range = self.space.range();
        bytes.min(range.1 - (start - range.0.get()))
    }

    /// A length in bytes.
    pub fn bytes(&self, pages: Pages) -> u64 {
        let bytes = match pages {
            Pages::Small(count) => count * self.unit,
            // The model has an entry for each of the smallest pages: no sizes that have more than
            // 512 of them.
            Pages::Large(size, count) => self
                .shifts
                .get(size)
                .filter(|shift| **shift <= self.shifts[0] + 9)
                .map_or(self.unit, |shift| count << shift),
        };
        // A place of a small space is in its first half.
        bytes.min(self.space.range().1 / 2)
    }

    /// The hardware is interested in the `bytes` bytes from `start` on and what lies around them.
    pub fn watch(&self, start: u64, bytes: u64) {
        let (unit, end) = (self.unit, start + bytes);
        let edges = [start.saturating_sub(unit), start, start + unit, end - unit, end];
        let within = (0..8).map(|n| start + bytes / 8 * n);
        let mut inputs: Vec<_> = edges.into_iter().chain(within).collect();
        inputs.extend(&*self.sample.borrow());
        self.watch_at(inputs);
    }

    /// The hardware is interested in these inputs, before and after what follows.
    pub fn watch_at(&self, inputs: Vec<u64>) {
        self.machine.watch(&self.space, &inputs);
        self.watched.replace(inputs);
    }

    /// How far an operation came: all of it, or to the error's address.
    fn done<T>(start: u64, bytes: u64, result: &Result<T, RangeError<InputOf<S>>>) -> u64 {
        match result {
            Ok(_) => bytes,
            Err(error) => {
                let inside = error.at.get() >= start && error.at.get() < start + bytes;
                assert!(inside, "{error} is outside the range");
                error.at.get() - start
            }
        }
    }

    /// Whether the allocator may run out of tables.
    fn limited(&self) -> bool {
        self.machine.tables().budget.get() != usize::MAX
    }

    /// Does `op` to the space and to the model, and compares.
    ///
    /// # Panics
    /// If they differ.
    pub fn apply(&mut self, op: &Op) {
        let mut gather = self.gather();
        match *op {
            Op::Map { at, pages, output, prot, leaves, budget } => {
                let (start, bytes) = (self.input(at), self.bytes(pages));
                let large = self.shifts.get(1).map_or(21, |shift| 21.max(*shift));
                let output = if output % 3 == 0 { output << large } else { output * self.unit };
                let attributes = S::Attributes::from(prot);
                self.watch(start, bytes);
                self.machine.tables().budget.set(budget);
                let result = self.space.map(
                    InputOf::<S>::new(start),
                    OutputOf::<S>::new(output),
                    bytes,
                    attributes,
                    leaves.leaves(&self.shifts),
                );
                self.mapped(start, bytes, output, attributes, result);
            }
            Op::Unmap { at, pages, budget } => {
                let (start, bytes) = (self.input(at), self.bytes(pages));
                self.watch(start, bytes);
                self.machine.tables().budget.set(budget);
                let result = self.space.unmap(InputOf::<S>::new(start), bytes, &mut gather);
                let done = Self::done(start, bytes, &result);
                let before = self.model.len();
                self.model.retain(|&page, _| page < start || page >= start + done);
                let unmapped = (before - self.model.len()) as u64 * self.unit;
                self.counted(unmapped, result);
            }
            Op::Protect { at, pages, prot, budget } => {
                let (start, bytes) = (self.input(at), self.bytes(pages));
                self.watch(start, bytes);
                self.machine.tables().budget.set(budget);
                self.protect(start, bytes, prot, &mut gather);
            }
        }
        self.machine.tables().budget.set(usize::MAX);
        self.machine.finish(&mut gather);
        drop(gather);
        self.check();
    }

    /// `map` ended with `result`.
    pub fn mapped(
        &mut self,
        start: u64,
        bytes: u64,
        output: u64,
        attributes: S::Attributes,
        result: Result<(), RangeError<InputOf<S>>>,
    ) {
        let done = Self::done(start, bytes, &result);
        let settled = self.machine.settled(attributes);
        for page in (0..done).step_by(self.unit as usize) {
            let old = self.model.insert(start + page, (output + page, settled));
            assert_eq!(old, None, "mapped over a mapping at {:#x}", start + page);
        }
        match result {
            Ok(()) | Err(RangeError { error: Error::LeafSize, .. }) => {}
            Err(RangeError { at, error: Error::Mapped { at: entry } }) => {
                let end = at.get() + entry.size().max(self.unit);
                let taken = self.model.range(at.get()..end).next().is_some();
                assert!(taken, "nothing is mapped at {at}");
            }
            Err(RangeError { error: Error::Alloc(_), .. }) => assert!(self.limited()),
            Err(RangeError { error: Error::Unencodable { .. }, .. }) => {
                assert!(!self.machine.encodes(output + done, attributes), "it can be encoded");
            }
            Err(error) => panic!("{error}"),
        }
    }

    /// A verb on what is mapped found `bytes` bytes, or failed as it may.
    fn counted(&self, bytes: u64, result: Result<u64, RangeError<InputOf<S>>>) {
        match result {
            Ok(found) => assert_eq!(found, bytes),
            Err(RangeError { error: Error::Alloc(_), .. }) => assert!(self.limited()),
            Err(RangeError { error: Error::LeafSize | Error::Unencodable { .. }, .. }) => {}
            Err(error) => panic!("{error}"),
        }
    }

    /// Each of the verbs that change attributes.
    fn protect(
        &mut self,
        start: u64,
        bytes: u64,
        prot: Prot,
        gather: &mut Gather<'_, S::Stage, H>,
    ) {
        let at = InputOf::<S>::new(start);
        match (start / self.unit + bytes / self.unit + u64::from(prot.into_bits())) % 4 {
            0 => {
                let result = self.space.protect(at, bytes, prot, gather);
                self.changed(start, bytes, |_, old| old.with_prot(prot), result);
            }
            1 => {
                let read_only = |old: S::Attributes| old.with_prot(old.prot().with_write(false));
                let result = self.space.write_protect(at, bytes, gather);
                self.changed(start, bytes, |_, old| read_only(old), result);
            }
            2 => {
                let attributes = S::Attributes::from(prot);
                let result = self.space.set_attributes(at, bytes, attributes, gather);
                self.changed(start, bytes, |_, _| attributes, result);
            }
            _ => {
                // By where a leaf leads.
                let device = |output: OutputOf<S>| output.get() >> 21 & 1 != 0;
                let of = |old: S::Attributes, device| {
                    old.with_memory(if device { Memory::Device } else { Memory::Normal })
                };
                let (mut leaves, unit) = (BTreeMap::new(), self.unit as usize);
                let edit = |leaf: MappingOf<S>| {
                    let device = device(leaf.output);
                    let pages = (0..leaf.bytes).step_by(unit);
                    leaves.extend(pages.map(|page| (leaf.input.get() + page, device)));
                    of(leaf.attributes, device)
                };
                let result = self.space.modify(at, bytes, edit, gather);
                let new = |page: u64, old| leaves.get(&page).map_or(old, |&device| of(old, device));
                self.changed(start, bytes, new, result);
            }
        }
    }

    /// What is mapped in the `bytes` bytes from `start` on was given the attributes that `new`
    /// makes of the old ones, as far as `result` says.
    pub fn changed(
        &mut self,
        start: u64,
        bytes: u64,
        new: impl Fn(u64, S::Attributes) -> S::Attributes,
        result: Result<u64, RangeError<InputOf<S>>>,
    ) {
        let done = Self::done(start, bytes, &result);
        let pages: Vec<_> =
            self.model.range(start..start + done).map(|(&page, &(_, old))| (page, old)).collect();
        let touched = pages.len() as u64 * self.unit;
        if let Err(RangeError { error: Error::Unencodable { .. }, .. }) = result {
            let mut refused = self.model.range(start + done..start + bytes);
            let can = |(page, (output, old)): (&u64, &(u64, S::Attributes))| {
                self.machine.encodes(*output, new(*page, *old))
            };
            assert!(!refused.all(can), "all can be encoded");
        }
        for (page, old) in pages {
            let settled = self.machine.settled(new(page, old));
            if let Some((_, attributes)) = self.model.get_mut(&page) {
                *attributes = settled;
            }
        }
        self.counted(touched, result);
    }

    /// The space translates as the model says; what the hardware has cached is true, and no record
    /// is lost. Once in [`whole`](Self::whole) times the space holds what the model holds.
    ///
    /// # Panics
    /// If they differ.
    pub fn check(&self) {
        self.machine.verify(&self.model);
        // The hardware uses what there is now, and rests while it is read.
        let watched = self.watched.take();
        self.machine.watch(&self.space, &watched);
        self.machine.watch(&self.space, &[]);
        self.checks.set(self.checks.get() + 1);
        let pages = match self.checks.get() % self.whole {
            0 => self.compare(),
            _ => watched.into_iter().map(|input| input & !(self.unit - 1)).collect(),
        };
        for page in pages {
            self.translates(page);
        }
    }

    /// The space translates as it should at `page`, if that is in it.
    fn translates(&self, page: u64) {
        let (start, bytes) = self.space.range();
        if page >= start.get() && page - start.get() < bytes {
            self.machine.translates(&self.space, page, self.model.get(&page).copied());
        }
    }

    /// The space holds what the model holds, page by page. Returns some of the pages, and their
    /// neighbours.
    ///
    /// # Panics
    /// If they differ.
    pub fn compare(&self) -> Vec<u64> {
        let (start, bytes) = self.space.range();
        // In the order of addresses, as the model.
        let mut listed = Vec::with_capacity(self.model.len());
        // Many pages of one leaf say the same.
        let mut last = None;
        let flow = self.space.for_each(start, bytes, |leaf| {
            let attributes = match last {
                Some((old, settled)) if old == leaf.attributes => settled,
                _ => self.machine.settled(leaf.attributes),
            };
            last = Some((leaf.attributes, attributes));
            for page in (0..leaf.bytes).step_by(self.unit as usize) {
                listed.push((leaf.input.get() + page, (leaf.output.get() + page, attributes)));
            }
            ControlFlow::<()>::Continue(())
        });
        assert_eq!(flow, Ok(ControlFlow::Continue(())));
        assert_eq!(listed.len(), self.model.len(), "the number of mapped pages");
        let wanted = self.model.iter().map(|(&page, &mapping)| (page, mapping));
        let differs = listed.iter().copied().zip(wanted).find(|(found, wanted)| found != wanted);
        assert_eq!(differs, None, "the iteration differs from the model");

        let pages = |step: usize| listed.iter().step_by(step).map(|&(page, _)| page);
        self.sample.replace(pages(listed.len() / 6 + 1).collect());
        let beside = |page: u64| [page.wrapping_sub(self.unit), page, page + self.unit];
        pages(listed.len() / 20 + 1).flat_map(beside).collect()
    }
}
