//! Invalidation from a real gather: a TLB that forgets only what an instruction or a hypercall
//! tells it to.
//!
//! Random maps and unmaps; before each unmap every page is cached. What is still cached afterwards
//! must still be true, and no table may be freed while the page-walk cache could lead to it.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

use core::cell::{Cell, RefCell};
use core::sync::atomic::AtomicU64;
use std::collections::BTreeSet;
use std::ops::ControlFlow;

use pgtable::allocator::{AllocError, Contents, TableAllocator, TableLayout, TableState};
use pgtable::invalidate::{Gather, Invalidate, InvalidateFailed, Stale};
use pgtable::memory::DirectMap;
use pgtable::tree::PageTable;
use pgtable::{AddressSpace, Gpa, Gva, Leaves, Prot, Stage1};
use pgtable_ppc64::radix::{
    Granule, Invalidation, PageAttributes, ProcessScoped, Processor, Reach, Ric, RptInvalidate,
    Step, Tlbie,
};
use proptest::prelude::*;

/// What processor 0 has cached of one process: pages, and whether directory entries.
#[derive(Default)]
struct Tlb {
    pages: RefCell<BTreeSet<(u64, u8)>>,
    directories: Cell<bool>,
}

/// How the TLB is told.
#[derive(Clone, Copy, Debug)]
enum By {
    Instructions(Reach, Processor),
    Hypercalls,
}

const PID: u32 = 7;

impl Tlb {
    fn tlbie(&self, it: Tlbie<Stage1>, local: bool) {
        let mut pages = self.pages.borrow_mut();
        if it.rs().pid() != PID {
            return;
        }
        assert!(it.prs());
        if it.ric() != Ric::Tlb {
            self.directories.set(false);
        }
        match it.rb().is() {
            0 => {
                let shift = match it.rb().ap() {
                    0 => 12,
                    5 => 16,
                    1 => 21,
                    2 => 30,
                    ap => panic!("AP {ap}"),
                };
                pages.remove(&(it.rb().epn() << 12, shift));
            }
            1 if it.ric() == Ric::WalkCache => {}
            // One set of the TLB at a time, which is chosen by the page number here.
            1 if local => pages.retain(|(page, shift)| page >> shift & 127 != it.rb().epn()),
            1 => pages.clear(),
            is => panic!("IS {is}"),
        }
    }

    fn rpt(&self, call: RptInvalidate) {
        let [id, target, types, sizes, start, end] = call.arguments();
        assert_eq!((id, target), (u64::from(PID), 1));
        if types & 4 != 0 {
            self.directories.set(false);
        }
        if types & 2 != 0 {
            self.pages.borrow_mut().retain(|&(page, shift)| {
                let size = match shift {
                    12 => 1,
                    16 => 2,
                    21 => 4,
                    _ => 8,
                };
                sizes & size == 0 || page < start || page >= end
            });
        }
    }
}

struct Machine<'m> {
    tlb: &'m Tlb,
    by: By,
}

impl Invalidate<Stage1> for Machine<'_> {
    type Identity = ();

    fn invalidate(&self, (): (), stale: &Stale<Gva>) -> Result<(), InvalidateFailed> {
        match self.by {
            By::Hypercalls => {
                RptInvalidate::each::<Stage1>(stale, PID, false, |call| self.tlb.rpt(call));
            }
            By::Instructions(reach, processor) => {
                let mut last = None;
                Invalidation::of_process(PID, 0, reach, processor).steps(stale, |step| {
                    match step {
                        Step::Tlbie(it) => self.tlb.tlbie(it, false),
                        Step::Tlbiel(it) => self.tlb.tlbie(it, !processor.isa_3_1),
                        _ => {}
                    }
                    last = Some(step);
                });
                assert!(
                    matches!(last, Some(Step::Ptesync | Step::Isync | Step::CpAbort)),
                    "{last:?}"
                );
            }
        }
        Ok(())
    }

    fn abandoned(&self, (): (), tables: usize, _: Result<(), InvalidateFailed>) {
        assert!(std::thread::panicking(), "a gather was dropped with {tables} tables");
    }
}

/// Tables one behind the other; those that come back are not used again.
struct Tables<'m> {
    top: Cell<u64>,
    states: Vec<TableState>,
    tlb: &'m Tlb,
}

impl TableAllocator<Gpa> for Tables<'_> {
    fn allocate(&self, layout: TableLayout) -> Result<Gpa, AllocError> {
        let table = self.top.get().next_multiple_of(layout.bytes() as u64);
        self.top.set(table + layout.bytes() as u64);
        Ok(Gpa::new(table))
    }

    fn free(&self, _: Gpa, _: TableLayout, _: Contents) -> Result<(), AllocError> {
        assert!(!self.tlb.directories.get(), "freed while the page-walk cache may lead to it");
        Ok(())
    }

    fn state(&self, table: Gpa, _: TableLayout) -> Option<&TableState> {
        self.states.get((table.get() / 256) as usize)
    }
}

/// Every page that is mapped, and log2 of its size.
fn leaves(tree: &impl AddressSpace<Stage = Stage1>) -> BTreeSet<(u64, u8)> {
    let mut leaves = BTreeSet::new();
    let (start, bytes) = tree.range();
    let visited = tree.for_each(start, bytes, |leaf| {
        leaves.extend(
            (0..leaf.bytes >> leaf.shift)
                .map(|page| (leaf.input.get() + (page << leaf.shift), leaf.shift)),
        );
        ControlFlow::<()>::Continue(())
    });
    assert!(visited.is_ok());
    leaves
}

fn by() -> impl Strategy<Value = By> {
    prop_oneof![
        Just(By::Instructions(Reach::Global, Processor::POWER9)),
        Just(By::Instructions(Reach::Global, Processor::POWER10)),
        Just(By::Instructions(Reach::Local, Processor::POWER9)),
        Just(By::Instructions(Reach::Local, Processor::POWER10)),
        Just(By::Hypercalls),
    ]
}

proptest! {
    #![proptest_config(pgtable_conformance::cases::config(256))]

    #[test]
    fn nothing_stale_survives(
        by in by(),
        granule in prop_oneof![Just(Granule::K4), Just(Granule::K64)],
        maps in proptest::collection::vec((0usize..4, 0u64..40, 1u64..60), 1..6),
        unmaps in proptest::collection::vec((0usize..4, 0u64..80, 1u64..60), 1..6),
    ) {
        const SHIFTS: [u8; 4] = [12, 16, 21, 30];
        let words: Vec<AtomicU64> = (0..1 << 18).map(|_| AtomicU64::new(0)).collect();
        let tlb = Tlb::default();
        let tables = Tables { top: Cell::new(0), states: (0..1 << 13).map(|_| TableState::new()).collect(), tlb: &tlb };
        let memory = DirectMap::new(&words, Gpa::new(0));
        let mut tree = PageTable::new(ProcessScoped::new(granule), memory, &tables).unwrap();
        for (size, first, count) in maps {
            let shift = SHIFTS[size];
            let attributes = PageAttributes::from(Prot::RW.for_user());
            // What is mapped already stays.
            let _ = tree.map(Gva::new(first << shift), Gpa::new(first << shift), count << shift, attributes, Leaves::Exactly(shift));
        }
        let machine = Machine { tlb: &tlb, by };
        for (size, first, count) in unmaps {
            *tlb.pages.borrow_mut() = leaves(&tree);
            tlb.directories.set(true);
            let shift = SHIFTS[size];
            let mut gather = Gather::new(&machine, ());
            // A part of a 64 KiB page cannot be unmapped; what comes before it is.
            let _ = tree.unmap(Gva::new(first << shift), count << shift, &mut gather);
            gather.finish(&tables).unwrap();
            let now = leaves(&tree);
            prop_assert!(tlb.pages.borrow().is_subset(&now), "{:?}", tlb.pages.borrow().difference(&now).collect::<Vec<_>>());
        }
    }
}
