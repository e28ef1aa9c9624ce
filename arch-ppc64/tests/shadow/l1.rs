//! L1: a hypervisor that is a guest. It is written with this very crate, keeps a tree per L2 in its
//! own memory, and tells us by hypercalls what it changed.

use core::cell::{Cell, RefCell};
use core::sync::atomic::AtomicU64;

use pgtable::allocator::{AllocError, Contents, TableAllocator, TableLayout, TableState};
use pgtable::invalidate::{Gather, Invalidate, InvalidateFailed, Stale};
use pgtable::memory::DirectMap;
use pgtable::tree::{PageTable, Recorded, Writers};
use pgtable::{Gpa, Hpa, Leaves, Stage2};
use pgtable_ppc64::radix::{
    Granule, PageAttributes, PartitionScoped, PartitionTable, Pate, ProcessTableWord, RadixRoot,
    RptInvalidate, h_tlb_invalidate,
};
use pgtable_ppc64::shadow::L1Memory;

/// Where L1 keeps its tables, in its own memory; the partition table first.
pub const TABLES: u64 = 0x80_0000_0000;
const BYTES: u64 = 2 << 20;
/// L1's L2s.
pub const L2S: [u32; 2] = [3, 4094];

/// A hypercall of L1's.
#[derive(Clone, Copy, Debug)]
pub enum Call {
    TlbInvalidate([u64; 3]),
    RptInvalidate(RptInvalidate),
}

/// Collects the hypercalls that L1's gathers end in.
pub struct Calls {
    pub calls: RefCell<Vec<Call>>,
    pub rpt: Cell<bool>,
}

impl Invalidate<Stage2> for Calls {
    type Identity = u32;

    fn invalidate(&self, lpid: u32, stale: &Stale<Gpa>) -> Result<(), InvalidateFailed> {
        let mut calls = self.calls.borrow_mut();
        if self.rpt.get() {
            RptInvalidate::each::<Stage2>(stale, lpid, false, |call| {
                calls.push(Call::RptInvalidate(call));
            });
        } else {
            h_tlb_invalidate(stale, lpid, |call| calls.push(Call::TlbInvalidate(call)));
        }
        Ok(())
    }

    fn abandoned(&self, _: u32, tables: usize, _: Result<(), InvalidateFailed>) {
        assert!(std::thread::panicking(), "a gather was dropped with {tables} tables");
    }
}

/// Tables one behind the other.
pub struct Bump {
    top: Cell<u64>,
    states: Vec<TableState>,
}

impl TableAllocator<Hpa> for Bump {
    fn allocate(&self, layout: TableLayout) -> Result<Hpa, AllocError> {
        let table = self.top.get().next_multiple_of(layout.bytes() as u64);
        let end = table + layout.bytes() as u64;
        if end > TABLES + BYTES {
            return Err(AllocError::Exhausted { layout });
        }
        self.top.set(end);
        Ok(Hpa::new(table))
    }

    fn free(&self, _: Hpa, _: TableLayout, _: Contents) -> Result<(), AllocError> {
        Ok(())
    }

    fn state(&self, table: Hpa, _: TableLayout) -> Option<&TableState> {
        self.states.get((table.get().wrapping_sub(TABLES) / 256) as usize)
    }
}

/// L1's memory as far as tables lie in it.
pub fn memory() -> Vec<AtomicU64> {
    (0..BYTES / 8).map(|_| AtomicU64::new(0)).collect()
}

pub fn direct(words: &[AtomicU64]) -> DirectMap<'_, Gpa> {
    DirectMap::new(words, Gpa::new(TABLES))
}

pub fn bump() -> Bump {
    Bump {
        top: Cell::new(TABLES + 0x1_0000),
        states: (0..BYTES / 256).map(|_| TableState::new()).collect(),
    }
}

pub type Tree<'m> = PageTable<PartitionScoped, L1Memory<'m, DirectMap<'m, Gpa>>, &'m Bump>;

/// The hypervisor.
pub struct L1<'m> {
    pub trees: [Tree<'m>; 2],
    pub calls: &'m Calls,
}

impl<'m> L1<'m> {
    /// Makes an empty tree per L2 and the partition table; returns what it puts into PTCR.
    pub fn boot(memory: &'m DirectMap<'m, Gpa>, tables: &'m Bump, calls: &'m Calls) -> (Self, u64) {
        let format = PartitionScoped::new(Granule::K4);
        let partitions = PartitionTable::new(Hpa::new(TABLES), 4).unwrap();
        let trees = L2S.map(|l2| {
            let tree = PageTable::new(format, L1Memory(memory), tables).unwrap();
            let root = RadixRoot::of_tree(tree.root().get()).unwrap().with_hr(true);
            let process_table =
                ProcessTableWord::from_bits(0x8000_0000_0000_0004 | u64::from(l2) << 20);
            partitions.write(&L1Memory(memory), l2, Pate { tree: root, process_table }).unwrap();
            tree
        });
        (Self { trees, calls }, partitions.ptcr().into_bits())
    }

    pub fn map(
        &mut self,
        index: usize,
        n_gpa: u64,
        gpa: u64,
        shift: u8,
        attributes: PageAttributes,
    ) -> bool {
        let (input, output) = (Gpa::new(n_gpa), Hpa::new(gpa));
        self.trees[index].map(input, output, 1 << shift, attributes, Leaves::Exactly(shift)).is_ok()
    }

    /// Unmaps, and tells us.
    pub fn unmap(&mut self, index: usize, n_gpa: u64, bytes: u64) {
        let tree = &mut self.trees[index];
        let mut gather = Gather::new(self.calls, L2S[index]);
        tree.unmap(Gpa::new(n_gpa), bytes, &mut gather).unwrap();
        gather.finish(tree.tables()).unwrap();
    }

    /// Clears R or C of everything, and tells us.
    pub fn harvest(&mut self, index: usize, recorded: Recorded) {
        let tree = &mut self.trees[index];
        let mut gather = Gather::new(self.calls, L2S[index]);
        let mut bitmap = vec![0; (4 << 30 >> 12) / 64];
        tree.harvest(Gpa::new(0), 4 << 30, recorded, Writers::Running, &mut bitmap, &mut gather)
            .unwrap();
        gather.finish(tree.tables()).unwrap();
    }
}
