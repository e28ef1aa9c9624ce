//! A TLB for spaces whose tables are no trees: it remembers every translation that the space ever
//! gave, until it is invalidated.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;

use pgtable::allocator::TableAllocator;
use pgtable::invalidate::{Gather, Invalidate, InvalidateFailed, Stale};
use pgtable::{Access, Address, AddressSpace, Attributes, InputOf, OutputOf, Stage};

use crate::flat::{Hardware, Model};
use crate::memory::Tables;

/// A TLB of unlimited size.
#[derive(Debug, Default)]
pub struct Tlb {
    /// Input page → output and rights, in pages of the test's unit.
    pub cached: RefCell<BTreeMap<u64, (u64, u8)>>,
    /// The number of invalidations.
    pub invalidations: Cell<usize>,
}

impl<S: Stage> Invalidate<S> for Tlb {
    type Identity = u32;

    fn invalidate(&self, _: u32, stale: &Stale<S::Input>) -> Result<(), InvalidateFailed> {
        self.invalidations.set(self.invalidations.get() + 1);
        let mut cached = self.cached.borrow_mut();
        if stale.everything() {
            cached.clear();
        }
        for range in stale.ranges() {
            let end = range.last.get() + ((1u64 << range.shift) - 1);
            cached.retain(|&page, _| page < range.start.get() || page > end);
        }
        Ok(())
    }

    fn abandoned(&self, _: u32, tables: usize, _: Result<(), InvalidateFailed>) {
        assert!(std::thread::panicking(), "a gather was dropped with {tables} tables");
    }
}

/// A TLB, and where the space's tables come from.
#[derive(Debug)]
pub struct TlbOf<'m> {
    /// The TLB.
    pub tlb: Tlb,
    tables: &'m Tables<'m>,
}

impl<'m> TlbOf<'m> {
    /// An empty TLB.
    #[must_use]
    pub fn new(tables: &'m Tables<'m>) -> Self {
        Self { tlb: Tlb::default(), tables }
    }
}

impl<S: Stage> Invalidate<S> for TlbOf<'_> {
    type Identity = u32;

    fn invalidate(&self, identity: u32, stale: &Stale<S::Input>) -> Result<(), InvalidateFailed> {
        Invalidate::<S>::invalidate(&self.tlb, identity, stale)
    }

    fn abandoned(&self, identity: u32, tables: usize, failed: Result<(), InvalidateFailed>) {
        Invalidate::<S>::abandoned(&self.tlb, identity, tables, failed);
    }
}

impl<S: AddressSpace> Hardware<S> for TlbOf<'_>
where
    for<'a> Tables<'a>: TableAllocator<OutputOf<S>>,
{
    fn tables(&self) -> &Tables<'_> {
        self.tables
    }

    fn finish(&self, gather: &mut Gather<'_, S::Stage, Self>) {
        gather.finish(self.tables).expect("nothing fails");
    }

    fn watch(&self, space: &S, inputs: &[u64]) {
        let unit = 1u64 << space.leaf_shifts()[0];
        for page in inputs.iter().map(|input| input & !(unit - 1)) {
            for access in [Access::READ, Access::READ.by_user()] {
                if let Ok(found) = space.translate(InputOf::<S>::new(page), access) {
                    let said = (found.output.get(), found.attributes.prot().into_bits());
                    self.tlb.cached.borrow_mut().insert(page, said);
                }
            }
        }
    }

    fn settled(&self, attributes: S::Attributes) -> S::Attributes {
        attributes
    }

    fn verify(&self, model: &Model<S>) {
        for (page, &said) in self.tlb.cached.borrow().iter() {
            let now = model
                .get(page)
                .map(|(output, attributes)| (*output, attributes.prot().into_bits()));
            assert_eq!(now, Some(said), "stale translation of {page:#x} survived");
        }
    }

    fn translates(&self, space: &S, input: u64, mapped: Option<(u64, S::Attributes)>) {
        let at = InputOf::<S>::new(input + 5);
        let accesses = [Access::READ, Access::WRITE, Access::FETCH];
        let mut readable = false;
        for access in accesses.into_iter().flat_map(|access| [access, access.by_user()]) {
            let Ok(found) = space.translate(at, access) else { continue };
            readable |= access.kind == pgtable::AccessKind::Read;
            let said = (found.output.get() - 5, found.attributes);
            assert_eq!(Some(said), mapped, "{access} at {at}");
        }
        assert_eq!(readable, mapped.is_some(), "whether {at} is mapped readable");
    }
}
