//! A host: memory for tables, an allocator, and processors whose TLB forgets only what an
//! instruction tells it to.

use core::cell::{Cell, RefCell};
use core::sync::atomic::AtomicU64;
use std::collections::{BTreeMap, BTreeSet};
use std::ops::ControlFlow;

use frag_alloc::{Cache, Frames, Kind, Owner, Policy, Region};
use pgtable::allocator::{AllocError, Contents, TableAllocator, TableLayout, TableState};
use pgtable::invalidate::{Invalidate, InvalidateFailed, Stale};
use pgtable::memory::{DirectMap, TableMemory};
use pgtable::{Gpa, Hpa, Stage2};
use pgtable_ppc64::radix::{Invalidation, Processor, Reach, Ric, Step, Tlbie};
use pgtable_ppc64::second_stage::{Leaf, SecondStage};

/// Where tables lie; far from what the tests map.
pub const TABLES: u64 = 0x4000_0000_0000;
/// Frames of 64 KiB for them.
const FRAMES: usize = 40;

/// Memory for tables.
pub fn memory() -> Vec<AtomicU64> {
    (0..FRAMES << 13).map(|_| AtomicU64::new(0)).collect()
}

/// Leaves by their first address and the log2 of their size.
type Leaves = BTreeMap<(u64, u8), Leaf>;

/// What the processors have cached, by partition: leaves, and whether directory entries.
#[derive(Debug, Default)]
pub struct Tlb {
    leaves: RefCell<BTreeMap<u32, Leaves>>,
    directories: RefCell<BTreeSet<u32>>,
    pub instructions: Cell<usize>,
}

impl Tlb {
    /// Caches all of `stage`.
    pub fn fill<M: TableMemory<Hpa>, A: TableAllocator<Hpa>>(&self, stage: &SecondStage<M, A>) {
        let all =
            leaves(stage).into_iter().map(|leaf| ((leaf.input.get(), leaf.shift), leaf)).collect();
        self.leaves.borrow_mut().insert(stage.identity(), all);
        self.directories.borrow_mut().insert(stage.identity());
    }

    /// Panics if anything is still cached that says more than `stage` does.
    pub fn verify<M: TableMemory<Hpa>, A: TableAllocator<Hpa>>(&self, stage: &SecondStage<M, A>) {
        let now: Leaves =
            leaves(stage).into_iter().map(|leaf| ((leaf.input.get(), leaf.shift), leaf)).collect();
        for (key, cached) in self.leaves.borrow().get(&stage.identity()).into_iter().flatten() {
            let Some(leaf) = now.get(key) else { panic!("still cached: {cached:?}") };
            let (old, new) = (cached.attributes, leaf.attributes);
            assert_eq!(cached.output, leaf.output, "still cached: {cached:?}");
            assert_eq!(
                old.eaa().into_bits() & !new.eaa().into_bits(),
                0,
                "still allowed: {cached:?}, now {leaf:?}"
            );
            assert!(!old.c() || new.c(), "writes go on unrecorded: {cached:?}, now {leaf:?}");
        }
    }

    fn tlbie(&self, it: Tlbie<Stage2>) {
        self.instructions.set(self.instructions.get() + 1);
        let lpid = it.rs().lpid();
        let mut leaves = self.leaves.borrow_mut();
        let cached = leaves.entry(lpid).or_default();
        if it.ric() != Ric::Tlb {
            self.directories.borrow_mut().remove(&lpid);
        }
        match (it.rb().is(), it.ric()) {
            (0, _) => {
                let shift = match it.rb().ap() {
                    0 => 12,
                    5 => 16,
                    1 => 21,
                    2 => 30,
                    ap => panic!("AP {ap}"),
                };
                cached.remove(&(it.rb().epn() << 12, shift));
            }
            (2, Ric::WalkCache) => {}
            (2, _) => cached.clear(),
            (is, _) => panic!("IS {is}"),
        }
    }
}

impl Invalidate<Stage2> for Tlb {
    type Identity = u32;

    fn invalidate(&self, lpid: u32, stale: &Stale<Gpa>) -> Result<(), InvalidateFailed> {
        Invalidation::of_partition(lpid, Reach::Global, Processor::POWER10).steps(stale, |step| {
            if let Step::Tlbie(it) = step {
                self.tlbie(it);
            }
        });
        Ok(())
    }

    fn abandoned(&self, _: u32, tables: usize, _: Result<(), InvalidateFailed>) {
        assert!(std::thread::panicking(), "a gather was dropped with {tables} tables");
    }
}

type TableFrames<'m> = Frames<Hpa, Region<Hpa, DirectMap<'m, Hpa>>>;

/// The fragment allocator, which sees to it that no processor may still walk what it takes back.
pub struct Tables<'m> {
    pub cache: Cache<Hpa, Region<Hpa, DirectMap<'m, Hpa>>, std::rc::Rc<TableFrames<'m>>>,
    tlb: &'m Tlb,
    lpid: u32,
}

impl<'m> Tables<'m> {
    pub fn frames(words: &'m [AtomicU64]) -> std::rc::Rc<TableFrames<'m>> {
        let frames = (words.len() >> 13) as u32;
        let region = Region::new(direct(words), Hpa::new(TABLES), frames, 16).unwrap();
        std::rc::Rc::new(Frames::new(region).unwrap())
    }

    pub fn new(frames: &std::rc::Rc<TableFrames<'m>>, tlb: &'m Tlb, lpid: u32) -> Self {
        let cache = Cache::new(frames.clone(), Owner(lpid as _), Kind::Kernel, Policy::Reuse);
        Self { cache, tlb, lpid }
    }
}

/// The memory that tables stand in.
pub fn direct(words: &[AtomicU64]) -> DirectMap<'_, Hpa> {
    DirectMap::new(words, Hpa::new(TABLES))
}

impl TableAllocator<Hpa> for Tables<'_> {
    fn allocate(&self, layout: TableLayout) -> Result<Hpa, AllocError> {
        self.cache.allocate(layout)
    }

    fn free(&self, table: Hpa, layout: TableLayout, contents: Contents) -> Result<(), AllocError> {
        let cached = self.tlb.directories.borrow().contains(&self.lpid);
        assert!(!cached, "freed while a page-walk cache may lead to it");
        self.cache.free(table, layout, contents)
    }

    fn state(&self, table: Hpa, layout: TableLayout) -> Option<&TableState> {
        self.cache.state(table, layout)
    }
}

/// Every leaf of `stage`.
pub fn leaves<M: TableMemory<Hpa>, A: TableAllocator<Hpa>>(stage: &SecondStage<M, A>) -> Vec<Leaf> {
    let mut leaves = Vec::new();
    let visited = stage.walker().for_each(Gpa::new(0), 1 << 52, |leaf| {
        leaves.push(leaf);
        ControlFlow::<()>::Continue(())
    });
    assert!(visited.is_ok(), "{visited:?}");
    leaves
}
