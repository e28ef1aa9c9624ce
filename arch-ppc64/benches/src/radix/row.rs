//! The rows of the table, as data, and how each is run.

use std::rc::Rc;

use bench_harness::Contestant;
use bench_harness::work::{PAGES, Work};

/// Pages of the warm set: few enough for every cache in play.
pub const WARM: u64 = 256;
/// Translations per run: few, so that a run seldom loses the processor in its midst.
pub const WALKS: usize = 1 << 16;
/// One page in so many is dirty when it is harvested.
pub const DIRTY: u64 = 8;

/// What is measured.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Row {
    Map,
    WalkWarm,
    WalkHot,
    WalkCold,
    BatchHot,
    BatchCold,
    Harvest,
    TwoWarm,
    TwoWarmCached,
    TwoHot,
    TwoCold,
    TwoColdCached,
}

use Row::{
    BatchCold, BatchHot, Harvest, Map, TwoCold, TwoColdCached, TwoHot, TwoWarm, TwoWarmCached,
    WalkCold, WalkHot, WalkWarm,
};

impl Row {
    /// All.
    pub const ALL: [Self; 12] = [
        Map,
        WalkWarm,
        WalkHot,
        BatchHot,
        WalkCold,
        BatchCold,
        Harvest,
        TwoWarm,
        TwoWarmCached,
        TwoHot,
        TwoCold,
        TwoColdCached,
    ];

    /// Whether it goes through two stages.
    fn is_two(self) -> bool {
        matches!(self, TwoWarm | TwoWarmCached | TwoHot | TwoCold | TwoColdCached)
    }
}

impl bench_harness::Row for Row {
    fn title(&self) -> &'static str {
        match self {
            Map => "map, one per call",
            WalkWarm => "walk, warm",
            WalkHot => "walk, hot",
            WalkCold => "walk, cold",
            BatchHot => "walk, hot, batch",
            BatchCold => "walk, cold, batch",
            Harvest => "harvest, one in 8 dirty",
            TwoWarm => "two stages, warm",
            TwoWarmCached => "two stages, warm, cache",
            TwoHot => "two stages, hot",
            TwoCold => "two stages, cold",
            TwoColdCached => "two stages, cold, cache",
        }
    }

    fn operations(&self) -> u64 {
        match self {
            Map | Harvest => PAGES,
            _ => WALKS as u64,
        }
    }
}

/// The addresses of a row, and the sum of what they translate to.
pub struct Order<'w> {
    pub work: &'w Work,
    pub indices: &'w [u32],
}

/// A tree, or two, as the bench calls it. Everything panics on a failure: that is how each result
/// is checked.
pub trait Trees {
    /// Makes it empty and its memory as new.
    fn reset(&mut self);

    /// Maps every page, in order, to its scattered place.
    fn map_each(&mut self, work: &Work);

    /// Translates `order` by one stage; the sum of where the pages lie.
    fn translate_each(&self, order: &Order<'_>) -> u64 {
        unreachable!("no single stage for {}", order.indices.len());
    }

    /// Makes the second stage, unless it is there.
    fn prepare_two(&mut self, _: &Work) {}

    /// Translates `order` by two stages, with a cache of the second if `cached`; the sum of where
    /// the pages lie in the guest's memory.
    fn translate_two(&self, order: &Order<'_>, cached: bool) -> u64 {
        unreachable!("no two stages for {}, {cached}", order.indices.len());
    }

    /// As `translate_each`, many at once.
    fn translate_batch(&self, order: &Order<'_>) -> u64 {
        unreachable!("no batch of {}", order.indices.len());
    }

    /// Makes one page in [`DIRTY`] dirty, and no other.
    fn soil(&mut self, work: &Work) {
        unreachable!("nobody soils {:#x}", work.input(0));
    }

    /// Harvests; returns how many pages were dirty.
    fn harvest(&mut self, work: &Work) -> u64 {
        unreachable!("nobody harvests {:#x}", work.input(0));
    }
}

/// Trees as a contestant.
pub struct Column<T> {
    name: &'static str,
    rows: &'static [Row],
    trees: T,
    work: Rc<Work>,
    warm: Vec<u32>,
    full: bool,
    /// What the last run came to.
    sum: u64,
}

impl<T: Trees + 'static> Column<T> {
    /// `trees` under `name`, in these rows.
    pub fn boxed(
        name: &'static str,
        rows: &'static [Row],
        trees: T,
        work: &Rc<Work>,
    ) -> Box<dyn Contestant<Row>> {
        let warm = work.hot.indices.iter().map(|index| index % WARM as u32).collect();
        Box::new(Self { name, rows, trees, work: Rc::clone(work), warm, full: false, sum: 0 })
    }

    fn order(&self, row: Row) -> Order<'_> {
        let indices = match row {
            WalkWarm | TwoWarm | TwoWarmCached => &self.warm,
            WalkHot | BatchHot | TwoHot => &self.work.hot.indices,
            WalkCold | BatchCold | TwoCold | TwoColdCached => &self.work.cold.indices,
            Map | Harvest => unreachable!("no order"),
        };
        Order { work: &self.work, indices: &indices[..WALKS] }
    }

    fn expected(&self, indices: &[u32]) -> u64 {
        indices.iter().fold(0, |sum, &index| sum.wrapping_add(self.work.scattered(index.into())))
    }
}

impl<T: Trees + 'static> Contestant<Row> for Column<T> {
    fn name(&self) -> &'static str {
        self.name
    }

    fn has(&self, row: Row) -> bool {
        self.rows.contains(&row)
    }

    fn prepare(&mut self, row: Row) {
        if row == Map {
            self.trees.reset();
            self.full = false;
        } else if !self.full {
            self.trees.reset();
            self.trees.map_each(&self.work);
            self.full = true;
        }
        if row.is_two() {
            self.trees.prepare_two(&self.work);
        }
        if row == Harvest {
            self.trees.soil(&self.work);
        }
    }

    fn run(&mut self, row: Row) {
        let sum = match row {
            Map => return self.trees.map_each(&self.work),
            Harvest => return assert_eq!(self.trees.harvest(&self.work), PAGES / DIRTY),
            BatchHot | BatchCold => self.trees.translate_batch(&self.order(row)),
            TwoWarmCached | TwoColdCached => self.trees.translate_two(&self.order(row), true),
            TwoWarm | TwoHot | TwoCold => self.trees.translate_two(&self.order(row), false),
            WalkWarm | WalkHot | WalkCold => self.trees.translate_each(&self.order(row)),
        };
        self.sum = sum;
    }

    fn verify(&mut self, row: Row) {
        match row {
            Map | Harvest => {
                self.full = true;
                let indices: Vec<u32> =
                    (0..PAGES as u32).step_by(61).chain([1, PAGES as u32 - 1]).collect();
                let order = Order { work: &self.work, indices: &indices };
                assert_eq!(
                    self.trees.translate_each(&order),
                    self.expected(&indices),
                    "{} {row:?}",
                    self.name
                );
            }
            _ => assert_eq!(
                self.sum,
                self.expected(self.order(row).indices),
                "{} {row:?}",
                self.name
            ),
        }
    }
}
