//! Ours: any format over any table memory, with checked memory, `Result`s, live counts and freeing.

pub mod memory;
mod tables;

use std::ops::ControlFlow;

use pgtable::{Access, AddressSpace, Format, Gather, Gpa, Gva, Leaves, PageTable, Prot, Stage1, TableMemory, Unused};

use crate::row::Row;
use crate::work::{PAGES, PageTables, Work};
pub use tables::Tables;

pub const ROWS: &[Row] = &Row::ALL;

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
        self.table.map(Gva::new(input), Gpa::new(output), bytes, attributes::<F>(true), leaves).unwrap();
    }

    #[inline(always)]
    fn translate(&self, input: u64) -> Option<u64> {
        self.table.translate(Gva::new(input), Access::READ).ok().map(|translation| translation.output.get())
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
        self.table.map(Gva::new(input), Gpa::new(output), bytes, attributes::<F>(true), Leaves::Largest).unwrap();
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
        let attributes = attributes::<F>(writable);
        assert_eq!(self.table.protect(Gva::new(input), bytes, attributes, &mut gather), Ok(bytes));
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

    /// One gather for all: it frees tables whenever it is full.
    #[inline(never)]
    fn unmap_each(&mut self, work: &Work) {
        let (_, bytes) = self.page();
        let mut gather = Gather::new(&Unused, ());
        for index in 0..PAGES {
            assert_eq!(self.table.unmap(Gva::new(work.input(index)), bytes, &mut gather), Ok(bytes));
        }
        gather.finish(self.table.tables()).unwrap();
    }
}
