//! One stage, ours: any format of a guest's own tree.

use pgtable::format::{ByteOrder, Format, TableWord as _};
use pgtable::invalidate::{Gather, Unused};
use pgtable::memory::DirectMap;
use pgtable::tree::{PageTable, Recorded, Writers};
use pgtable::{Access, Gpa, Gva, Leaves, Level, Position, Prot, Stage1};
use std::sync::atomic::Ordering;

use crate::row::{DIRTY, Order, Row, Trees};
use bench_harness::arena::{self, Arena};
use bench_harness::tables::Tables;
use bench_harness::work::{PAGES, Work};

pub const ROWS: &[Row] = &[
    Row::Map,
    Row::WalkWarm,
    Row::WalkHot,
    Row::WalkCold,
    Row::BatchHot,
    Row::BatchCold,
    Row::Harvest,
];

const START: u64 = 0x4000_0000;
/// How many addresses are given to a batch translation.
const BATCH: usize = 512;

type Memory = DirectMap<'static, Gpa>;

/// A tree of format `F`.
pub struct Table<F> {
    table: PageTable<F, Memory, &'static Tables>,
    memory: Memory,
    bitmap: Vec<u64>,
}

impl<F: Format<Stage = Stage1>> Table<F> {
    pub fn new(format: F) -> Self {
        let arena = Arena::new(START, arena::BYTES);
        // SAFETY: the arena is valid as long as the process, and whoever resets it has no reference
        // into it.
        let memory = unsafe { DirectMap::from_raw(arena.host, arena.bytes, Gpa::new(START)) };
        let tables: &Tables = Box::leak(Box::new(Tables::new(vec![arena])));
        let bitmap = vec![0; PAGES as usize / 64];
        Self { table: PageTable::new(format, memory, tables).unwrap(), memory, bitmap }
    }
}

impl<F: Format<Stage = Stage1>> Trees for Table<F> {
    fn reset(&mut self) {
        let tables = *self.table.tables();
        tables.clear();
        self.table = PageTable::new(*self.table.format(), self.memory, tables).unwrap();
    }

    #[inline(never)]
    fn map_each(&mut self, work: &Work) {
        let leaves = Leaves::Exactly(work.shift);
        let attributes = F::Attributes::from(Prot::RW);
        for index in 0..PAGES {
            let (input, output) = (Gva::new(work.input(index)), Gpa::new(work.scattered(index)));
            self.table.map(input, output, 1 << work.shift, attributes, leaves).unwrap();
        }
    }

    #[inline(never)]
    fn translate_each(&self, order: &Order<'_>) -> u64 {
        let mut sum = 0u64;
        for &index in order.indices {
            let found =
                self.table.translate(Gva::new(order.work.input(index.into())), Access::READ).ok();
            sum = sum.wrapping_add(found.map(|found| found.output.get()).unwrap());
        }
        sum
    }

    #[inline(never)]
    fn translate_batch(&self, order: &Order<'_>) -> u64 {
        let mut sum = 0u64;
        let (mut inputs, mut outputs) = ([Gva::new(0); BATCH], [None; BATCH]);
        let walker = self.table.walker();
        for indices in order.indices.chunks(BATCH) {
            for (input, &index) in inputs.iter_mut().zip(indices) {
                *input = Gva::new(order.work.input(index.into()));
            }
            let count =
                walker.translate_batch(&inputs[..indices.len()], Access::READ, &mut outputs);
            assert_eq!(count, indices.len());
            sum = outputs[..count]
                .iter()
                .fold(sum, |sum, output| sum.wrapping_add(output.unwrap().get()));
        }
        sum
    }

    fn soil(&mut self, work: &Work) {
        let page = Position { level: Level(0), shift: work.shift };
        let bits = self.table.format().bits(page);
        let dirty = F::Word::swap(F::BYTE_ORDER, bits.dirty.hardware.mask);
        assert_eq!(F::BYTE_ORDER == ByteOrder::Little, dirty == bits.dirty.hardware.mask);
        let visited =
            self.table.walker().for_each_run(Gva::new(work.input(0)), work.bytes(), |run| {
                let first = (run.input().get() - work.input(0)) >> work.shift;
                for (index, word) in (first..).zip(run.words()) {
                    if index % DIRTY == 3 {
                        word.or_raw(dirty, Ordering::Relaxed);
                    } else {
                        word.and_raw(!dirty, Ordering::Relaxed);
                    }
                }
                std::ops::ControlFlow::<()>::Continue(())
            });
        assert!(visited.is_ok());
        self.bitmap.fill(0);
    }

    #[inline(never)]
    fn harvest(&mut self, work: &Work) -> u64 {
        let mut gather = Gather::new(&Unused, ());
        let input = Gva::new(work.input(0));
        let (recorded, writers) = (Recorded::Dirty, Writers::Running);
        let set = self.table.harvest(
            input,
            work.bytes(),
            recorded,
            writers,
            &mut self.bitmap,
            &mut gather,
        );
        gather.finish(self.table.tables()).unwrap();
        set.unwrap()
    }
}
