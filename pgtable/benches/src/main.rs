//! `cargo xtask bench pgtable`: this crate against hand-written loops and other crates, in one
//! process.
//!
//! 1,048,576 pages are mapped, each to a scattered place where calls are per page, to neighbouring
//! ones where they are per range. Only ratios within one run say anything.

mod goals;
mod hypervisor;
mod ours;
mod peers;
mod row;

use std::rc::Rc;

use clap::Parser;
use pgtable_aarch64::{Stage1Controls, VmsaStage1};
use pgtable_ppc64::radix::{Granule, ProcessScoped};
use pgtable_riscv64::{Mode, Sv};
use pgtable_x86::{Controls, Levels, LongMode};

use bench_harness::arena;
use bench_harness::by_hand::ByHand;
use bench_harness::work::Work;
use bench_harness::{Contestant, Row as _, compete};
use ours::memory::{direct, guest};
use row::{Column, Row};

/// Measures page tables.
#[derive(Parser)]
struct Options {
    /// How often every row is run; the fastest counts
    #[arg(long, default_value_t = 9)]
    rounds: usize,
    /// Only rows whose title contains this
    #[arg(long, default_value = "")]
    filter: String,
    /// Only this column; may be repeated
    #[arg(long)]
    only: Vec<String>,
}

fn main() {
    let options = Options::parse();
    let rows: Vec<_> =
        Row::ALL.into_iter().filter(|row| row.title().contains(&options.filter)).collect();
    let mut contestants = contestants();
    contestants.retain(|contestant| {
        options.only.is_empty() || options.only.iter().any(|name| name == contestant.name())
    });
    let table = compete(&rows, &mut contestants, options.rounds);
    table.print();
    let hypervisor = if options.only.is_empty() {
        hypervisor::run(&options.filter, options.rounds)
    } else {
        Vec::new()
    };
    goals::goals(&table).iter().chain(&hypervisor).for_each(bench_harness::Goal::print);
}

/// The columns.
fn contestants() -> Vec<Box<dyn Contestant<Row>>> {
    let (small, large) = (Rc::new(Work::new(12)), Rc::new(Work::new(16)));
    let long_mode = LongMode::new(Levels::Four, Controls::new());
    let (radix_4k, radix_64k) = (ProcessScoped::new(Granule::K4), ProcessScoped::new(Granule::K64));
    let over_direct = |format| {
        let (memory, tables) = direct();
        ours::Table::new(format, memory, tables)
    };
    let over_vmsa = |granule| {
        let (memory, tables) = direct();
        let usual = Stage1Controls::new();
        let format = VmsaStage1::new(Stage1Controls { granule, ha: true, hd: true, ..usual });
        ours::Table::new(format.unwrap(), memory, tables)
    };
    let over_sv = |mode| {
        let (memory, tables) = direct();
        ours::Table::new(Sv::new(mode, pgtable_riscv64::Controls::new()), memory, tables)
    };
    let (memory, tables) = guest();
    let over_regions = ours::Table::new(long_mode, memory, tables);
    let radix = |format| {
        let (memory, tables) = direct();
        ours::Table::new(format, memory, tables)
    };
    #[cfg_attr(
        not(feature = "memflow"),
        expect(unused_mut, reason = "only memflow is put in afterwards")
    )]
    let mut columns = vec![
        Column::boxed("flat", peers::flat::ROWS, peers::flat::Flat::new(false), &small),
        Column::boxed("flat, locked", &[Row::ProtectRange], peers::flat::Flat::new(true), &small),
        Column::boxed(
            "by hand",
            peers::hand_written::ROWS,
            peers::hand_written::HandWritten::new(),
            &small,
        ),
        Column::boxed("by hand, checked", peers::CHECKED, ByHand::new(arena::BYTES), &small),
        Column::boxed("x86_64 mapped", peers::x86_64::ROWS, peers::x86_64::mapped(), &small),
        Column::boxed("x86_64 offset", peers::x86_64::ROWS, peers::x86_64::offset(), &small),
        Column::boxed(
            "multiarch",
            peers::page_table_multiarch::ROWS,
            peers::page_table_multiarch::Table::new(),
            &small,
        ),
        Column::boxed(
            "generic",
            peers::page_table_generic::ROWS,
            peers::page_table_generic::Table::new(),
            &small,
        ),
        Column::boxed(
            "aarch64",
            peers::aarch64_paging::ROWS,
            peers::aarch64_paging::Table::new(),
            &small,
        ),
        Column::boxed(
            "hyperlight",
            peers::hyperlight::ROWS,
            peers::hyperlight::Table::new(),
            &small,
        ),
        Column::boxed("iotlb", peers::iotlb::ROWS, peers::iotlb::Cache::new(), &small),
        Column::boxed("x86", ours::ROWS, over_direct(long_mode), &small),
        Column::boxed("radix 4K", ours::ROWS, radix(radix_4k), &small),
        Column::boxed("radix 64K", ours::ROWS, radix(radix_64k), &large),
        Column::boxed("AArch64 4K", ours::ROWS, over_vmsa(pgtable_aarch64::Granule::K4), &small),
        Column::boxed("AArch64 64K", ours::ROWS, over_vmsa(pgtable_aarch64::Granule::K64), &large),
        Column::boxed("Sv39", ours::ROWS, over_sv(Mode::Sv39), &small),
        Column::boxed("Sv48", ours::ROWS, over_sv(Mode::Sv48), &small),
        Column::boxed("x86, 4 regions", ours::ROWS, over_regions, &small),
    ];
    #[cfg(feature = "memflow")]
    columns.insert(
        8,
        Column::boxed("memflow", peers::memflow::ROWS, peers::memflow::Table::new(), &small),
    );
    columns
}
