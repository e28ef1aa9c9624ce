//! The goals, as data.

use crate::loads::Loads;
use crate::row::Row;
use bench_harness::{Goal, Row as _, Table};

/// `row` of `column` takes at most `ratio` times `against_row` of `against`.
struct Bound {
    name: &'static str,
    row: Row,
    column: &'static str,
    against_row: Row,
    against: &'static str,
    ratio: f64,
}

const fn bound(
    name: &'static str,
    row: (Row, &'static str),
    against: (Row, &'static str),
    ratio: f64,
) -> Bound {
    Bound { name, row: row.0, column: row.1, against_row: against.0, against: against.1, ratio }
}

const HAND: &str = "by hand";
const X86: &str = "x86";
const K4: &str = "radix 4K";
const K64: &str = "radix 64K";
const EPT: &str = "x86, EPT";
const TWO_K4: &str = "radix 4K, 4K";
const TWO_K64: &str = "radix 64K, 64K";

const BOUNDS: &[Bound] = &[
    bound("walk-hot-4k-x86", (Row::WalkHot, K4), (Row::WalkHot, X86), 1.25),
    bound("walk-hot-64k-x86", (Row::WalkHot, K64), (Row::WalkHot, X86), 1.25),
    bound("walk-hot-4k-floor", (Row::WalkHot, K4), (Row::WalkHot, HAND), 2.5),
    bound("walk-cold-4k-x86", (Row::WalkCold, K4), (Row::WalkCold, X86), 1.1),
    bound("walk-cold-64k-x86", (Row::WalkCold, K64), (Row::WalkCold, X86), 1.1),
    bound("batch-cold-4k-x86", (Row::BatchCold, K4), (Row::BatchCold, X86), 1.15),
    bound("batch-cold-64k-x86", (Row::BatchCold, K64), (Row::BatchCold, X86), 1.25),
    bound("batch-cold-4k-floor", (Row::BatchCold, K4), (Row::WalkCold, HAND), 1.25),
    bound("map-4k-x86", (Row::Map, K4), (Row::Map, X86), 1.25),
    bound("map-64k-x86", (Row::Map, K64), (Row::Map, X86), 1.25),
    bound("map-4k-floor", (Row::Map, K4), (Row::Map, HAND), 2.5),
    bound("harvest-4k-x86", (Row::Harvest, K4), (Row::Harvest, X86), 1.1),
    bound("harvest-64k-x86", (Row::Harvest, K64), (Row::Harvest, X86), 1.5),
    bound("harvest-4k-floor", (Row::Harvest, K4), (Row::Harvest, HAND), 2.5),
    bound("two-stage-warm-cache-4k", (Row::TwoWarmCached, TWO_K4), (Row::WalkWarm, K4), 2.0),
    bound("two-stage-warm-cache-64k", (Row::TwoWarmCached, TWO_K64), (Row::WalkWarm, K64), 2.0),
    bound("two-stage-hot-4k-x86", (Row::TwoHot, TWO_K4), (Row::TwoHot, EPT), 1.25),
    bound("two-stage-hot-64k-x86", (Row::TwoHot, TWO_K64), (Row::TwoHot, EPT), 1.25),
    bound("two-stage-hot-4k-floor", (Row::TwoHot, TWO_K4), (Row::TwoHot, HAND), 2.5),
];

/// The goals whose rows were run.
pub fn goals(table: &Table, loads: &Loads) -> Vec<Goal> {
    let loads = Goal {
        name: "two-stage-loads".to_owned(),
        measured: loads.without_cache as f64,
        bound: 24.0,
    };
    let ratios = BOUNDS.iter().filter_map(|bound| {
        let ours = table.get(bound.row.title(), bound.column)?;
        let theirs = table.best(bound.against_row.title(), &[bound.against])?;
        Some(Goal { name: bound.name.to_owned(), measured: ours / theirs, bound: bound.ratio })
    });
    [loads].into_iter().chain(ratios).collect()
}
