//! Timing contestants against each other: interleaved, best of several rounds, as a table of ns per
//! operation. And what several benches do it on: memory, tables, work.
//!
//! In each round every row is run by every contestant in turn, so that whatever else the
//! machine does meanwhile hits all of a row; of each cell the fastest round counts.

pub mod arena;
pub mod by_hand;
pub mod tables;
pub mod work;

use std::time::Instant;

/// What is measured: a row of the table.
pub trait Row: Copy {
    /// Its title.
    fn title(&self) -> &'static str;
    /// How many operations one run makes.
    fn operations(&self) -> u64;
}

/// Who is measured: a column of the table.
pub trait Contestant<R> {
    /// The column's title.
    fn name(&self) -> &'static str;
    /// Whether there is such an operation.
    fn has(&self, row: R) -> bool;
    /// Brings about what `row` begins with. Not timed.
    fn prepare(&mut self, row: R);
    /// Does what `row` is about, checking each result as it comes. Timed.
    fn run(&mut self, row: R);
    /// Checks what `run` left behind. Not timed.
    fn verify(&mut self, row: R);
}

/// Nanoseconds per operation, by row and column.
pub struct Table {
    columns: Vec<&'static str>,
    rows: Vec<(&'static str, Vec<Option<f64>>)>,
}

/// Runs every row of every contestant `rounds` times.
pub fn compete<R: Row>(
    rows: &[R],
    contestants: &mut [Box<dyn Contestant<R>>],
    rounds: usize,
) -> Table {
    let columns: Vec<_> = contestants.iter().map(|contestant| contestant.name()).collect();
    let mut table = Table {
        rows: rows.iter().map(|row| (row.title(), vec![None; columns.len()])).collect(),
        columns,
    };
    for _ in 0..rounds {
        for (&row, (_, cells)) in rows.iter().zip(&mut table.rows) {
            for (contestant, cell) in contestants.iter_mut().zip(cells) {
                if contestant.has(row) {
                    let ns = time(contestant.as_mut(), row);
                    *cell = Some(cell.map_or(ns, |best: f64| best.min(ns)));
                }
            }
        }
    }
    table
}

fn time<R: Row>(contestant: &mut dyn Contestant<R>, row: R) -> f64 {
    contestant.prepare(row);
    let start = Instant::now();
    contestant.run(row);
    let elapsed = start.elapsed();
    contestant.verify(row);
    elapsed.as_secs_f64() * 1e9 / row.operations() as f64
}

impl Table {
    /// The cell of `row` and `column`, both by title.
    pub fn get(&self, row: &str, column: &str) -> Option<f64> {
        let column = self.columns.iter().position(|&name| name == column)?;
        let (_, cells) = self.rows.iter().find(|&&(title, _)| title == row)?;
        cells[column]
    }

    /// The smallest cell of `row` among `columns`.
    pub fn best(&self, row: &str, columns: &[&str]) -> Option<f64> {
        columns.iter().filter_map(|column| self.get(row, column)).min_by(f64::total_cmp)
    }

    /// Prints the table, each column as wide as its title.
    pub fn print(&self) {
        let width = self.rows.iter().map(|(title, _)| title.chars().count()).max().unwrap_or(0);
        let widths: Vec<_> = self.columns.iter().map(|name| name.chars().count().max(7)).collect();
        print!("{:width$}", "ns/operation");
        self.columns.iter().zip(&widths).for_each(|(name, width)| print!("  {name:>width$}"));
        println!();
        for (title, cells) in &self.rows {
            print!("{title:width$}");
            for (cell, width) in cells.iter().zip(&widths) {
                match cell {
                    Some(ns) => print!("  {ns:>width$.2}"),
                    None => print!("  {:>width$}", "–"),
                }
            }
            println!();
        }
    }
}

/// A ratio that was to be reached.
pub struct Goal {
    /// Its name.
    pub name: String,
    /// What was measured.
    pub measured: f64,
    /// What it may be at most.
    pub bound: f64,
}

impl Goal {
    /// Prints the line that `cargo xtask bench` counts.
    pub fn print(&self) {
        let Self { name, measured, bound } = self;
        let verdict = if measured <= bound { "ok" } else { "short" };
        println!("goal {name} {measured:.3} {bound} {verdict}");
    }
}
