//! `cargo xtask bench radix`: POWER's radix trees, with 4 KiB and 64 KiB pages, beside x86's and
//! beside loops written by hand for exactly one shape.
//!
//! 1,048,576 pages are mapped, each to a scattered place. One stage is the guest's own; two stages
//! are the guest's tree behind the hypervisor's. Only ratios within one run say anything.

mod by_hand;
mod goals;
mod loads;
mod one_stage;
mod row;
mod two_stage;

use std::rc::Rc;

use clap::Parser;
use pgtable_ppc64::radix::{Granule, PartitionScoped, ProcessScoped};
use pgtable_x86::{Controls, Ept, EptControls, Levels, LongMode};

use bench_harness::work::Work;
use bench_harness::{Contestant, Row as _, compete};
use row::{Column, Row};

/// Measures radix trees.
#[derive(Parser)]
struct Options {
    /// How often every row is run; the fastest counts
    #[arg(long, default_value_t = 25)]
    rounds: usize,
    /// Only rows whose title contains this
    #[arg(long, default_value = "")]
    filter: String,
}

fn main() {
    let options = Options::parse();
    let rows: Vec<_> =
        Row::ALL.into_iter().filter(|row| row.title().contains(&options.filter)).collect();
    let table = compete(&rows, &mut contestants(), options.rounds);
    table.print();
    let loads = loads::worst();
    println!("loads of a two-stage walk at worst: {}", loads.without_cache);
    println!("the same with a warm cache: {}", loads.with_cache);
    goals::goals(&table, &loads).iter().for_each(bench_harness::Goal::print);
}

/// The columns.
fn contestants() -> Vec<Box<dyn Contestant<Row>>> {
    let (small, large) = (Rc::new(Work::new(12)), Rc::new(Work::new(16)));
    let long_mode = LongMode::new(Levels::Four, Controls::new());
    let ept = Ept::new(Levels::Four, EptControls { accessed_dirty: false, ..EptControls::new() });
    let process = ProcessScoped::new;
    let partition = PartitionScoped::new;
    let (k4, k64) = (Granule::K4, Granule::K64);
    vec![
        Column::boxed("by hand", by_hand::ROWS, by_hand::ByHand::new(), &small),
        Column::boxed("x86", one_stage::ROWS, one_stage::Table::new(long_mode), &small),
        Column::boxed("radix 4K", one_stage::ROWS, one_stage::Table::new(process(k4)), &small),
        Column::boxed("radix 64K", one_stage::ROWS, one_stage::Table::new(process(k64)), &large),
        Column::boxed("x86, EPT", two_stage::ROWS, two_stage::Both::new(long_mode, ept), &small),
        Column::boxed(
            "radix 4K, 4K",
            two_stage::ROWS,
            two_stage::Both::new(process(k4), partition(k4)),
            &small,
        ),
        Column::boxed(
            "radix 64K, 64K",
            two_stage::ROWS,
            two_stage::Both::new(process(k64), partition(k64)),
            &large,
        ),
    ]
}
