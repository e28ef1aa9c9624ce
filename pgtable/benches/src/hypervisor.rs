//! What a hypervisor does besides: harvests dirty pages, walks two stages, reads beside a writer,
//! translates for devices. A table of its own, with goals of its own.

mod harvest;
mod iommu;
mod readers;
mod stages;

use bench_harness::{Contestant, Goal, Row as _, Table, compete};

/// What is measured.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Row {
    HarvestClean,
    HarvestSome,
    HarvestAll,
    OneStage,
    TwoStagesWarm,
    TwoStagesUncached,
    Device,
}

use Row::{
    Device, HarvestAll, HarvestClean, HarvestSome, OneStage, TwoStagesUncached, TwoStagesWarm,
};

const ROWS: [Row; 7] =
    [HarvestClean, HarvestSome, HarvestAll, OneStage, TwoStagesWarm, TwoStagesUncached, Device];

impl bench_harness::Row for Row {
    fn title(&self) -> &'static str {
        match self {
            HarvestClean => "harvest, nothing dirty",
            HarvestSome => "harvest, 1 page in 64 dirty",
            HarvestAll => "harvest, all dirty",
            OneStage => "translate, one stage",
            TwoStagesWarm => "translate, two stages, cached",
            TwoStagesUncached => "translate, two stages",
            Device => "translate for a device",
        }
    }

    fn operations(&self) -> u64 {
        match self {
            HarvestClean | HarvestSome | HarvestAll => bench_harness::work::PAGES,
            OneStage | TwoStagesWarm | TwoStagesUncached => stages::TRANSLATIONS,
            Device => iommu::TRANSLATIONS,
        }
    }
}

/// The operations of one column, as closures: what comes before (not timed), and what is timed.
pub struct Cells {
    name: &'static str,
    cells: Vec<(Row, Act, Act)>,
}

type Act = Box<dyn FnMut()>;

impl Cells {
    fn new(name: &'static str) -> Self {
        Self { name, cells: Vec::new() }
    }

    fn with(
        mut self,
        row: Row,
        prepare: impl FnMut() + 'static,
        run: impl FnMut() + 'static,
    ) -> Self {
        self.cells.push((row, Box::new(prepare), Box::new(run)));
        self
    }

    fn find(&mut self, row: Row) -> &mut (Row, Act, Act) {
        self.cells
            .iter_mut()
            .find(|cell| cell.0 == row)
            .expect("only rows that it has are asked for")
    }
}

impl Contestant<Row> for Cells {
    fn name(&self) -> &'static str {
        self.name
    }

    fn has(&self, row: Row) -> bool {
        self.cells.iter().any(|cell| cell.0 == row)
    }

    fn prepare(&mut self, row: Row) {
        (self.find(row).1)();
    }

    fn run(&mut self, row: Row) {
        (self.find(row).2)();
    }

    /// Each run checks its own results.
    fn verify(&mut self, _: Row) {}
}

/// Runs the rows whose titles contain `filter`, and prints the table; returns the goals.
pub fn run(filter: &str, rounds: usize) -> Vec<Goal> {
    let rows: Vec<_> = ROWS.into_iter().filter(|row| row.title().contains(filter)).collect();
    let mut goals = Vec::new();
    if !rows.is_empty() {
        let mut columns: Vec<Box<dyn Contestant<Row>>> = Vec::new();
        columns.extend(harvest::columns());
        columns.extend(stages::columns());
        columns.extend(iommu::columns());
        let table = compete(&rows, &mut columns, rounds);
        println!();
        table.print();
        goals = bounds(&table);
    }
    if "readers beside a writer".contains(filter) {
        println!();
        goals.push(readers::run(rounds));
        goals.push(stages::loads());
    }
    goals
}

fn bounds(table: &Table) -> Vec<Goal> {
    let cell = |row: Row, column| table.get(row.title(), column);
    let goal = |name: &str, ours: Option<f64>, theirs: Option<f64>, bound| {
        Some(Goal { name: name.to_owned(), measured: ours? / theirs?, bound })
    };
    let (scan, exchange) = (cell(HarvestClean, "flat"), cell(HarvestAll, "flat"));
    [
        goal("harvest-clean-x86", cell(HarvestClean, "x86"), scan, 1.2),
        goal("harvest-some-x86", cell(HarvestSome, "x86"), scan, 3.5),
        goal("harvest-all-x86", cell(HarvestAll, "x86"), exchange, 1.05),
        goal("harvest-clean-radix4k", cell(HarvestClean, "radix 4K"), scan, 1.2),
        goal("harvest-some-radix4k", cell(HarvestSome, "radix 4K"), scan, 3.5),
        goal("harvest-all-radix4k", cell(HarvestAll, "radix 4K"), exchange, 1.05),
        goal(
            "two-stages-warm",
            cell(TwoStagesWarm, "x86 on EPT"),
            cell(OneStage, "x86 on EPT"),
            2.0,
        ),
        goal("iommu", cell(Device, "our tables"), cell(Device, "Iotlb"), 0.3),
    ]
    .into_iter()
    .flatten()
    .collect()
}
