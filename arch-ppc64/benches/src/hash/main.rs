//! `cargo xtask bench hash`: the hashed page table beside a hash map that does the same with the
//! same keys; unmapping by remembered slots beside searching; resizing.
//!
//! Warm tables fit the second-level cache, cold ones no cache. Only ratios within one run say
//! anything.

mod huge;
mod keys;
mod lookup;
mod memory;
mod resize;
mod row;
mod unmap;

use std::rc::Rc;

use bench_harness::{Contestant, Goal, Row as _, Table, compete};
use clap::Parser;
use row::{Operation, Row};

#[global_allocator]
static ALLOCATOR: huge::Huge = huge::Huge;

/// Measures hashed page tables.
#[derive(Parser)]
struct Options {
    /// How often every row is run; the fastest counts
    #[arg(long, default_value_t = 9)]
    rounds: usize,
    /// Only rows whose title contains this
    #[arg(long, default_value = "")]
    filter: String,
}

fn main() {
    let options = Options::parse();
    let rows: Vec<_> =
        Row::all().into_iter().filter(|row| row.title().contains(&options.filter)).collect();
    let known = Rc::default();
    let mut contestants: Vec<Box<dyn Contestant<Row>>> = vec![
        Box::new(lookup::Column::<lookup::Ours>::new("hpt", &known)),
        Box::new(lookup::Column::<lookup::OursAlone>::new("alone", &known)),
        Box::new(lookup::Column::<lookup::HashMap>::new("hashbrown", &known)),
        Box::new(lookup::Column::<lookup::LockedHashMap>::new("in a lock", &known)),
        Box::new(unmap::BySlot::default()),
        Box::new(unmap::BySearch::default()),
        Box::new(unmap::Known::default()),
        Box::new(resize::Rehash::default()),
        Box::new(resize::Copy::default()),
    ];
    let table = compete(&rows, &mut contestants, options.rounds);
    table.print();
    goals(&rows, &table).iter().for_each(Goal::print);
}

/// The goals whose rows were run.
fn goals(rows: &[Row], table: &Table) -> Vec<Goal> {
    let goal = |row: &Row, suffix: &str, ours: &str, theirs: Option<&str>, bound: f64| {
        let against = theirs.map_or(Some(1.0), |column| table.get(row.title(), column))?;
        let measured = table.get(row.title(), ours)? / against;
        let title = row.title().replace([',', ' '], "-").replace("--", "-");
        Some(Goal { name: title + suffix, measured, bound })
    };
    rows.iter()
        .flat_map(|row| match row {
            Row::Table(_, _, Operation::Translate | Operation::Batch) => {
                vec![goal(row, "", "hpt", Some("hashbrown"), 1.0)]
            }
            // Like with like: one user each, and many users each.
            Row::Table(..) => vec![
                goal(row, "", "alone", Some("hashbrown"), 1.3),
                goal(row, "-shared", "hpt", Some("in a lock"), 1.3),
            ],
            Row::Unmap(_) => vec![goal(row, "", "by slot", Some("by search"), 0.333)],
            // 50 million entries a second.
            Row::Resize => vec![goal(row, "", "rehash", None, 20.0)],
        })
        .flatten()
        .collect()
}
