//! Two stages, ours: a guest's tree, whose tables and pages lie where the hypervisor's tree says.

use pgtable::cache::{Generation, TranslationCache};
use pgtable::format::{FirstStage, SecondStage};
use pgtable::memory::{DirectMap, TableMemory};
use pgtable::tree::PageTable;
use pgtable::two_stage::TwoStage;
use pgtable::{Access, Gpa, Gva, Hpa, Leaves, Prot};

use crate::row::{Order, Row, Trees};
use bench_harness::arena::{self, Arena};
use bench_harness::tables::Tables;
use bench_harness::work::{PAGES, Work};

pub const ROWS: &[Row] =
    &[Row::TwoWarm, Row::TwoWarmCached, Row::TwoHot, Row::TwoCold, Row::TwoColdCached];

/// Where the guest keeps its tables, in its own memory; beyond its pages.
const GUEST_TABLES: u64 = 0x80_0000_0000;
/// Where the host has them.
const START: u64 = 0x40_0000_0000;
/// What the host adds to a guest address.
pub const OFFSET: u64 = 0x100_0000_0000;
/// Slots of the cache: for each page of the warm set, and the tables on the way to them.
const CACHE: usize = 1024;

/// Both trees.
pub struct Both<F1, F2> {
    pub guest: PageTable<F1, DirectMap<'static, Gpa>, &'static Tables>,
    pub host: PageTable<F2, DirectMap<'static, Hpa>, &'static Tables>,
    generation: Generation,
}

impl<F1: FirstStage, F2: SecondStage> Both<F1, F2> {
    pub fn new(stage1: F1, stage2: F2) -> Self {
        let arena = Arena::new(START, 3 * arena::BYTES);
        // SAFETY: the first part of the arena; it is valid as long as the process, and every access
        // to it is atomic.
        let guest_memory =
            unsafe { DirectMap::from_raw(arena.host, arena::BYTES, Gpa::new(GUEST_TABLES)) };
        // SAFETY: all of the arena, likewise.
        let host_memory = unsafe { DirectMap::from_raw(arena.host, arena.bytes, Hpa::new(START)) };
        let guest_arena = Arena { start: GUEST_TABLES, bytes: arena::BYTES, ..arena };
        let rest = START + arena::BYTES as u64;
        let host_arena = Arena { host: arena.pointer(rest), start: rest, bytes: 2 * arena::BYTES };
        let tables = |arena| -> &'static Tables { Box::leak(Box::new(Tables::new(vec![arena]))) };
        Self {
            guest: PageTable::new(stage1, guest_memory, tables(guest_arena)).unwrap(),
            host: PageTable::new(stage2, host_memory, tables(host_arena)).unwrap(),
            generation: Generation::new(),
        }
    }

    /// Maps what the guest has in the second stage, page by page, so that no walk is short.
    pub fn map_guest(&mut self, work: &Work) {
        let leaves = Leaves::Exactly(work.shift);
        let rwx = F2::Attributes::from(Prot::RWX);
        let pages = (0..PAGES).map(|index| work.scattered(index)).min().unwrap_or(0);
        let (pages, bytes) = (Gpa::new(pages), work.bytes());
        self.host.map(pages, Hpa::new(pages.get() + OFFSET), bytes, rwx, leaves).unwrap();
        let tables = Gpa::new(GUEST_TABLES);
        self.host.map(tables, Hpa::new(START), arena::BYTES as u64, rwx, leaves).unwrap();
    }

    /// Translates `order`; the sum of where the pages lie, less what the host adds.
    #[inline(always)]
    fn sum<M: TableMemory<Hpa>, const N: usize>(
        stages: &TwoStage<'_, F1, F2, M, N>,
        order: &Order<'_>,
    ) -> u64 {
        let mut sum = 0u64;
        for &index in order.indices {
            let found =
                stages.translate(Gva::new(order.work.input(index.into())), Access::READ).ok();
            sum = sum.wrapping_add(found.map(|found| found.output().get()).unwrap() - OFFSET);
        }
        sum
    }
}

impl<F1: FirstStage, F2: SecondStage> Trees for Both<F1, F2> {
    fn reset(&mut self) {
        self.guest.tables().clear();
        self.host.tables().clear();
        self.guest =
            PageTable::new(*self.guest.format(), *self.guest.memory(), *self.guest.tables())
                .unwrap();
        self.host =
            PageTable::new(*self.host.format(), *self.host.memory(), *self.host.tables()).unwrap();
        self.generation.advance();
    }

    fn map_each(&mut self, work: &Work) {
        let attributes = F1::Attributes::from(Prot::RW);
        for index in 0..PAGES {
            let (input, output) = (Gva::new(work.input(index)), Gpa::new(work.scattered(index)));
            self.guest
                .map(input, output, 1 << work.shift, attributes, Leaves::Exactly(work.shift))
                .unwrap();
        }
        self.map_guest(work);
    }

    #[inline(never)]
    fn translate_two(&self, order: &Order<'_>, cached: bool) -> u64 {
        let stages = TwoStage::new(*self.guest.format(), self.guest.root(), self.host.walker());
        if cached {
            let cache = TranslationCache::<F2, CACHE>::new(&self.generation);
            Self::sum(&stages.with_cache(&cache), order)
        } else {
            Self::sum(&stages, order)
        }
    }
}
