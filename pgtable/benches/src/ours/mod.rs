//! Ours: any format over any table memory, with checked memory, `Result`s, live counts and freeing.

pub mod memory;

use std::hint::black_box;
use std::ops::ControlFlow;

use pgtable::format::Format;
use pgtable::invalidate::{Gather, Unused};
use pgtable::memory::TableMemory;
use pgtable::tree::{PageTable, Writers};
use pgtable::{Access, Gpa, Gva, Leaves, Prot, Stage1};

use crate::row::Row;
pub use bench_harness::tables::Tables;
use bench_harness::work::{PAGES, PageTables, Work};

pub const ROWS: &[Row] = &Row::ALL;

/// How many addresses are given to a batch translation.
const BATCH: usize = 512;

/// A tree of format `F` in memory `M`.
pub struct Table<F, M> {
    table: PageTable<F, M, &'static Tables>,
    memory: M,
}

impl<F: Format<Stage = Stage1>, M: TableMemory<Gpa> + Copy> Table<F, M> {
    /// An empty tree in `memory`, where `tables` hands out tables.
    pub fn new(format: F, memory: M, tables: &'static Tables) -> Self {
        Self { table: PageTable::new(format, memory, tables).unwrap(), memory }
    }

    fn page(&self) -> (u8, u64) {
        let shift = self.table.format().geometry().page_shift();
        (shift, 1 << shift)
    }
}

fn attributes<F: Format>(writable: bool) -> F::Attributes {
    F::Attributes::from(if writable { Prot::RW } else { Prot::R })
}

impl<F: Format<Stage = Stage1>, M: TableMemory<Gpa> + Copy> PageTables for Table<F, M> {
    fn reset(&mut self) {
        let tables = *self.table.tables();
        tables.clear();
        self.table = PageTable::new(*self.table.format(), self.memory, tables).unwrap();
    }

    #[inline(always)]
    fn map(&mut self, input: u64, output: u64) {
        let (shift, bytes) = self.page();
        let leaves = Leaves::Exactly(shift);
        self.table
            .map(Gva::new(input), Gpa::new(output), bytes, attributes::<F>(true), leaves)
            .unwrap();
    }

    #[inline(always)]
    fn translate(&self, input: u64) -> Option<u64> {
        self.table
            .translate(Gva::new(input), Access::READ)
            .ok()
            .map(|translation| translation.output.get())
    }

    #[inline(always)]
    fn unmap(&mut self, input: u64) {
        let (_, bytes) = self.page();
        let mut gather = Gather::new(&Unused, ());
        assert_eq!(self.table.unmap(Gva::new(input), bytes, &mut gather), Ok(bytes));
        gather.finish(self.table.tables()).unwrap();
    }

    #[inline(never)]
    fn map_range(&mut self, input: u64, output: u64, bytes: u64) {
        self.table
            .map(Gva::new(input), Gpa::new(output), bytes, attributes::<F>(true), Leaves::Largest)
            .unwrap();
    }

    #[inline(never)]
    fn unmap_range(&mut self, input: u64, bytes: u64, present: u64) {
        let mut gather = Gather::new(&Unused, ());
        assert_eq!(self.table.unmap(Gva::new(input), bytes, &mut gather), Ok(present));
        gather.finish(self.table.tables()).unwrap();
    }

    #[inline(never)]
    fn protect_range(&mut self, input: u64, bytes: u64, writable: bool) {
        let mut gather = Gather::new(&Unused, ());
        let prot = if writable { Prot::RW } else { Prot::R };
        assert_eq!(self.table.protect(Gva::new(input), bytes, prot, &mut gather), Ok(bytes));
        gather.finish(self.table.tables()).unwrap();
    }

    #[inline(never)]
    fn iterate(&self, input: u64, bytes: u64) -> u64 {
        let mut sum = 0u64;
        let visited = self.table.walker().for_each(Gva::new(input), bytes, |leaf| {
            sum = sum.wrapping_add(leaf.output.get());
            ControlFlow::<()>::Continue(())
        });
        assert_eq!(visited, Ok(ControlFlow::Continue(())));
        sum
    }

    #[inline(never)]
    fn iterate_runs(&self, input: u64, bytes: u64) -> u64 {
        let mut sum = 0u64;
        let visited = self.table.walker().for_each_run(Gva::new(input), bytes, |run| {
            let visited = run.visit(|leaf| {
                sum = sum.wrapping_add(leaf.output.get());
                ControlFlow::<()>::Continue(())
            });
            assert_eq!(visited, Ok(ControlFlow::Continue(())));
            ControlFlow::<()>::Continue(())
        });
        assert_eq!(visited, Ok(ControlFlow::Continue(())));
        sum
    }

    #[inline(never)]
    fn iterate_external(&self, input: u64, bytes: u64) -> u64 {
        let mut sum = 0u64;
        for leaf in self.table.walker().iter(Gva::new(input), bytes).unwrap() {
            sum = sum.wrapping_add(leaf.unwrap().output.get());
        }
        sum
    }

    #[inline(never)]
    fn map_by_cursor(&mut self, work: &Work) {
        let attributes = attributes::<F>(true);
        let mut gather = Gather::new(&Unused, ());
        let mut cursor = self.table.cursor(&mut gather);
        for index in 0..PAGES {
            cursor
                .map(Gva::new(work.input(index)), Gpa::new(work.scattered(index)), attributes)
                .unwrap();
        }
        cursor.finish().unwrap();
        gather.finish(self.table.tables()).unwrap();
    }

    #[inline(never)]
    fn unmap_by_cursor(&mut self, work: &Work) {
        let mut gather = Gather::new(&Unused, ());
        let mut cursor = self.table.cursor(&mut gather);
        for index in 0..PAGES {
            assert_eq!(cursor.unmap(Gva::new(work.input(index))), Ok(true));
        }
        cursor.finish().unwrap();
        gather.finish(self.table.tables()).unwrap();
    }

    #[inline(never)]
    fn translate_by_cursor(&mut self, work: &Work) -> u64 {
        let mut sum = 0u64;
        let mut gather = Gather::new(&Unused, ());
        let mut cursor = self.table.cursor(&mut gather);
        for index in 0..PAGES {
            let found = cursor.query(Gva::new(work.input(index))).unwrap();
            sum = sum.wrapping_add(found.unwrap().output.get());
        }
        cursor.finish().unwrap();
        gather.finish(self.table.tables()).unwrap();
        sum
    }

    #[inline(never)]
    fn translate_batch(&self, work: &Work, order: &[u32]) -> u64 {
        let mut sum = 0u64;
        let (mut inputs, mut outputs) = ([Gva::new(0); BATCH], [None; BATCH]);
        let walker = self.table.walker();
        for order in order.chunks(BATCH) {
            for (input, &index) in inputs.iter_mut().zip(order) {
                *input = Gva::new(work.input(index.into()));
            }
            assert_eq!(
                walker.translate_batch(&inputs[..order.len()], Access::READ, &mut outputs),
                order.len()
            );
            for output in &outputs[..order.len()] {
                sum = sum.wrapping_add(output.unwrap().get());
            }
        }
        sum
    }

    #[inline(never)]
    fn translate_anchored(&self, work: &Work, order: &[u32]) -> u64 {
        let mut sum = 0u64;
        let mut anchored = self.table.anchored();
        for &index in order {
            sum = sum.wrapping_add(
                anchored
                    .translate(Gva::new(work.input(index.into())), Access::READ)
                    .unwrap()
                    .output
                    .get(),
            );
        }
        sum
    }

    #[inline(never)]
    fn protect_range_stopped(&mut self, input: u64, bytes: u64, writable: bool) {
        let mut gather = Gather::new(&Unused, ());
        let (prot, input) = (if writable { Prot::RW } else { Prot::R }, Gva::new(input));
        assert_eq!(
            self.table.protect_beside(input, bytes, prot, Writers::Stopped, &mut gather),
            Ok(bytes)
        );
        gather.finish(self.table.tables()).unwrap();
    }

    /// With the last empty table kept, and a gather for each call.
    #[inline(never)]
    fn churn(&mut self, work: &Work) {
        self.table.keep_last_empty(true);
        for index in 0..PAGES {
            self.map(black_box(work.input(0)), work.scattered(index));
            self.unmap(black_box(work.input(0)));
        }
        let mut gather = Gather::new(&Unused, ());
        self.table.trim(&mut gather).unwrap();
        gather.finish(self.table.tables()).unwrap();
        self.table.keep_last_empty(false);
    }

    /// One gather for all: it frees tables whenever it is full.
    #[inline(never)]
    fn unmap_each(&mut self, work: &Work) {
        let (_, bytes) = self.page();
        let mut gather = Gather::new(&Unused, ());
        for index in 0..PAGES {
            assert_eq!(
                self.table.unmap(Gva::new(work.input(index)), bytes, &mut gather),
                Ok(bytes)
            );
        }
        gather.finish(self.table.tables()).unwrap();
    }
}
