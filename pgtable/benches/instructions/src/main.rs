//! `cargo xtask bench instructions`: instructions per operation, which hold on any CPU.
//!
//! Every operation runs in a loop inside [`count_this`]; `callgrind` counts what happens there and
//! nothing else, instructions and the locked ones of them, and writes one total for each call. So
//! this program does its work silently, checks each result, and prints what the totals are of: a
//! line per call, name and operations.

mod books;
mod hashed;
mod jobs;
mod stages;
mod trees;

use std::hint::black_box;

use pgtable_aarch64::{Stage1Controls, VmsaStage1};
use pgtable_ppc64::radix::{Granule, ProcessScoped};
use pgtable_riscv64::{Mode, Sv};
use pgtable_x86::{Controls, Levels, LongMode};

/// What is counted: `callgrind` knows this function by its name.
#[unsafe(no_mangle)]
#[inline(never)]
fn count_this(work: &mut dyn FnMut()) {
    black_box(work)();
}

/// Counts `work`, which is `operations` times what `name` says.
pub fn count(name: &str, operations: u64, mut work: impl FnMut()) {
    count_this(&mut work);
    println!("{name}\t{operations}");
}

/// EL1&0 with addresses of 48 bits, and a processor that records accesses and writes.
fn aarch64(granule: pgtable_aarch64::Granule) -> VmsaStage1 {
    let usual = Stage1Controls::new();
    VmsaStage1::new(Stage1Controls { granule, ha: true, hd: true, ..usual }).unwrap()
}

fn main() {
    let riscv = pgtable_riscv64::Controls::new();
    let long_mode = |levels| LongMode::new(levels, Controls::new());
    trees::rows("x86", long_mode(Levels::Four));
    trees::rows("x86 LA57", long_mode(Levels::Five));
    trees::rows("radix 4K", ProcessScoped::new(Granule::K4));
    trees::rows("radix 64K", ProcessScoped::new(Granule::K64));
    trees::rows("AArch64 4K", aarch64(pgtable_aarch64::Granule::K4));
    trees::rows("AArch64 64K", aarch64(pgtable_aarch64::Granule::K64));
    trees::rows("Sv39", Sv::new(Mode::Sv39, riscv));
    trees::rows("Sv48", Sv::new(Mode::Sv48, riscv));
    stages::rows();
    jobs::rows();
    books::rows();
    hashed::rows();
}
