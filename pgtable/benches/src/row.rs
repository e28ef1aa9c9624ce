//! The rows of the table, as data, and how a page table runs each.

use std::rc::Rc;

use bench_harness::Contestant;
use bench_harness::work::{HOLES, PAGES, PageTables, Work};

/// What is measured.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Row {
    Map,
    TranslateHot,
    AnchoredHot,
    BatchHot,
    TranslateCold,
    BatchCold,
    TranslateInOrder,
    CursorInOrder,
    Iterate,
    IterateRuns,
    IterateExternal,
    Unmap,
    UnmapAlone,
    MapCursor,
    UnmapCursor,
    MapRange,
    ProtectRange,
    ProtectStopped,
    UnmapRange,
    UnmapMixed,
    ChurnAlone,
    ChurnBeside,
}

use Row::{
    AnchoredHot, BatchCold, BatchHot, ChurnAlone, ChurnBeside, CursorInOrder, Iterate,
    IterateExternal, IterateRuns, Map, MapCursor, MapRange, ProtectRange, ProtectStopped,
    TranslateCold, TranslateHot, TranslateInOrder, Unmap, UnmapAlone, UnmapCursor, UnmapMixed,
    UnmapRange,
};

/// What a table holds.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Held {
    /// Nothing, and its memory is as new.
    New,
    /// All pages, scattered.
    Scattered,
    /// All pages, following each other.
    Contiguous,
    /// The same less one in [`HOLES`].
    Mixed,
    /// One page, beside the one that is churned.
    Neighbour,
    /// Nothing; tables may be left.
    Nothing,
}

impl Row {
    /// All, in an order in which most begin with what the one before left.
    pub const ALL: [Self; 22] = [
        Map,
        TranslateHot,
        AnchoredHot,
        BatchHot,
        TranslateCold,
        BatchCold,
        TranslateInOrder,
        CursorInOrder,
        Iterate,
        IterateRuns,
        IterateExternal,
        Unmap,
        UnmapAlone,
        MapCursor,
        UnmapCursor,
        MapRange,
        ProtectRange,
        ProtectStopped,
        UnmapRange,
        UnmapMixed,
        ChurnAlone,
        ChurnBeside,
    ];

    /// What the table holds at the beginning, and at the end.
    fn held(self) -> (Held, Held) {
        match self {
            Map | MapCursor => (Held::New, Held::Scattered),
            TranslateHot | AnchoredHot | BatchHot | TranslateCold | BatchCold
            | TranslateInOrder | CursorInOrder | Iterate | IterateRuns | IterateExternal => {
                (Held::Scattered, Held::Scattered)
            }
            Unmap | UnmapAlone | UnmapCursor => (Held::Scattered, Held::Nothing),
            MapRange => (Held::New, Held::Contiguous),
            ProtectRange | ProtectStopped => (Held::Contiguous, Held::Contiguous),
            UnmapRange => (Held::Contiguous, Held::Nothing),
            UnmapMixed => (Held::Mixed, Held::Nothing),
            ChurnAlone => (Held::New, Held::Nothing),
            ChurnBeside => (Held::Neighbour, Held::Neighbour),
        }
    }
}

impl bench_harness::Row for Row {
    fn title(&self) -> &'static str {
        match self {
            Map => "map, one per call",
            TranslateHot => "translate, hot",
            AnchoredHot => "translate, hot, anchored",
            BatchHot => "translate, hot, batch",
            TranslateCold => "translate, cold",
            BatchCold => "translate, cold, batch",
            TranslateInOrder => "translate, in order",
            CursorInOrder => "translate, in order, cursor",
            Iterate => "iterate",
            IterateRuns => "iterate, runs",
            IterateExternal => "iterate, Iterator",
            Unmap => "unmap, one per call",
            UnmapAlone => "unmap, a gather per call",
            MapCursor => "map, cursor",
            UnmapCursor => "unmap, cursor",
            MapRange => "map range",
            ProtectRange => "protect range",
            ProtectStopped => "protect range, CPUs stopped",
            UnmapRange => "unmap range",
            UnmapMixed => "unmap range, holes",
            ChurnAlone => "map and unmap, table goes",
            ChurnBeside => "map and unmap, table stays",
        }
    }

    fn operations(&self) -> u64 {
        match self {
            UnmapMixed => PAGES - PAGES / HOLES,
            _ => PAGES,
        }
    }
}

/// A page table as a contestant.
pub struct Column<T> {
    name: &'static str,
    rows: &'static [Row],
    table: T,
    work: Rc<Work>,
    held: Held,
    writable: bool,
}

impl<T: PageTables + 'static> Column<T> {
    /// `table` under `name`, in these rows.
    pub fn boxed(
        name: &'static str,
        rows: &'static [Row],
        table: T,
        work: &Rc<Work>,
    ) -> Box<dyn Contestant<Row>> {
        Box::new(Self {
            name,
            rows,
            table,
            work: Rc::clone(work),
            held: Held::Nothing,
            writable: true,
        })
    }

    fn reset(&mut self) {
        self.table.reset();
        self.writable = true;
        self.held = Held::New;
    }

    fn fill(&mut self, held: Held) {
        self.reset();
        let work = &self.work;
        match held {
            Held::New | Held::Nothing => {}
            Held::Scattered => self.table.map_each(work),
            Held::Contiguous => self.map_contiguous(),
            Held::Mixed => {
                self.map_contiguous();
                self.table.punch(&self.work);
            }
            Held::Neighbour => self.table.map(work.input(1), work.scattered(1)),
        }
        self.held = held;
    }

    fn map_contiguous(&mut self) {
        let work = &self.work;
        if self.rows.contains(&MapRange) {
            self.table.map_range(work.input(0), work.contiguous(0), work.bytes());
        } else {
            (0..PAGES).for_each(|index| self.table.map(work.input(index), work.contiguous(index)));
        }
    }

    /// What page `index` must translate to.
    fn expected(&self, index: u64) -> Option<u64> {
        match self.held {
            Held::Scattered => Some(self.work.scattered(index)),
            Held::Contiguous => Some(self.work.contiguous(index)),
            Held::Neighbour if index == 1 => Some(self.work.scattered(1)),
            Held::Mixed => unreachable!("no row ends with it"),
            Held::New | Held::Nothing | Held::Neighbour => None,
        }
    }
}

impl<T: PageTables + 'static> Contestant<Row> for Column<T> {
    fn name(&self) -> &'static str {
        self.name
    }

    fn has(&self, row: Row) -> bool {
        self.rows.contains(&row)
    }

    fn prepare(&mut self, row: Row) {
        let (before, _) = row.held();
        if self.held != before {
            self.fill(before);
        }
    }

    fn run(&mut self, row: Row) {
        let work = Rc::clone(&self.work);
        let (input, bytes) = (work.input(0), work.bytes());
        match row {
            Map => self.table.map_each(&work),
            TranslateHot => {
                assert_eq!(self.table.translate_each(&work, &work.hot.indices), work.hot.sum);
            }
            AnchoredHot => {
                assert_eq!(self.table.translate_anchored(&work, &work.hot.indices), work.hot.sum);
            }
            BatchHot => {
                assert_eq!(self.table.translate_batch(&work, &work.hot.indices), work.hot.sum);
            }
            BatchCold => {
                assert_eq!(self.table.translate_batch(&work, &work.cold.indices), work.cold.sum);
            }
            CursorInOrder => assert_eq!(self.table.translate_by_cursor(&work), work.total),
            IterateRuns => assert_eq!(self.table.iterate_runs(input, bytes), work.total),
            IterateExternal => assert_eq!(self.table.iterate_external(input, bytes), work.total),
            MapCursor => self.table.map_by_cursor(&work),
            UnmapCursor => self.table.unmap_by_cursor(&work),
            TranslateCold => {
                assert_eq!(self.table.translate_each(&work, &work.cold.indices), work.cold.sum);
            }
            TranslateInOrder => assert_eq!(self.table.translate_in_order(&work), work.total),
            Iterate => assert_eq!(self.table.iterate(input, bytes), work.total),
            Unmap => self.table.unmap_each(&work),
            UnmapAlone => self.table.unmap_alone(&work),
            MapRange => self.table.map_range(input, work.contiguous(0), bytes),
            ProtectRange => {
                self.writable = !self.writable;
                self.table.protect_range(input, bytes, self.writable);
            }
            ProtectStopped => {
                self.writable = !self.writable;
                self.table.protect_range_stopped(input, bytes, self.writable);
            }
            UnmapRange => self.table.unmap_range(input, bytes, bytes),
            UnmapMixed => self.table.unmap_range(input, bytes, bytes - bytes / HOLES),
            ChurnAlone | ChurnBeside => self.table.churn(&work),
        }
    }

    fn verify(&mut self, row: Row) {
        (_, self.held) = row.held();
        for index in (0..PAGES).step_by(61).chain([1, PAGES - 1]) {
            let input = self.work.input(index);
            assert_eq!(
                self.table.translate(input),
                self.expected(index),
                "{} {row:?} {input:#x}",
                self.name
            );
        }
    }
}
