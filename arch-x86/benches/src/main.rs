//! `cargo xtask bench gva`: what a gdb stub or an instruction emulator asks all the time, where in
//! guest memory an address of the guest's is: by [`gva_to_gpa`] over a `GuestMemoryMmap`, with the
//! registers at hand and with KVM_GET_SREGS for each address, and by KVM_TRANSLATE, which needs no
//! registers, on the same tables. The kernel's where there is a /dev/kvm.

mod guest;
#[cfg(all(target_os = "linux", target_arch = "x86_64"))]
mod kernel;

use bench_harness::{Contestant, Goal, Row as _, compete};
use clap::Parser;
use pgtable::memory::GuestTables;
use pgtable::{Access, Gpa};
use pgtable_x86::gva_to_gpa;
use vm_memory::GuestMemoryMmap;

use guest::{Guest, PAGES, address, page};

/// Measures the translation of guests' addresses.
#[derive(Parser)]
struct Options {
    /// How often every row is run; the fastest counts
    #[arg(long, default_value_t = 9)]
    rounds: usize,
}

/// The one row.
#[derive(Clone, Copy)]
struct Row;

impl bench_harness::Row for Row {
    fn title(&self) -> &'static str {
        "translate"
    }

    fn operations(&self) -> u64 {
        PAGES
    }
}

/// Ours: from the registers as a VMM has them, each time.
struct Ours {
    guest: Guest,
    tables: GuestTables<'static, Gpa>,
}

impl Ours {
    fn new() -> Self {
        let guest = Guest::new();
        // The same memory, for as long as the process.
        let memory: &'static GuestMemoryMmap = Box::leak(Box::new(guest.memory.clone()));
        Self { guest, tables: GuestTables::new(memory).expect("guest memory has regions") }
    }
}

impl Contestant<Row> for Ours {
    fn name(&self) -> &'static str {
        "gva_to_gpa"
    }

    fn has(&self, _: Row) -> bool {
        true
    }

    fn prepare(&mut self, _: Row) {}

    fn run(&mut self, _: Row) {
        let registers = self.guest.boot.registers;
        let (cr0, cr3) = (registers.cr0.into_bits(), registers.cr3.into_bits());
        let (cr4, efer) = (registers.cr4.into_bits(), registers.efer.into_bits());
        for number in 0..PAGES {
            let gpa = gva_to_gpa(cr0, cr3, cr4, efer, &self.tables, address(number), Access::READ);
            assert_eq!(gpa, Ok(page(number)));
        }
    }

    fn verify(&mut self, _: Row) {}
}

#[cfg(all(target_os = "linux", target_arch = "x86_64"))]
fn kernel() -> Option<[Box<dyn Contestant<Row>>; 2]> {
    Some([Box::new(kernel::Fetched::new()?), Box::new(kernel::Kernel::new()?)])
}

#[cfg(not(all(target_os = "linux", target_arch = "x86_64")))]
fn kernel() -> Option<[Box<dyn Contestant<Row>>; 2]> {
    None
}

fn main() {
    let options = Options::parse();
    let mut contestants: Vec<Box<dyn Contestant<Row>>> = vec![Box::new(Ours::new())];
    contestants.extend(kernel().into_iter().flatten());
    let table = compete(&[Row], &mut contestants, options.rounds);
    table.print();
    let cell = |column| table.get(Row.title(), column);
    match (cell("gva_to_gpa"), cell("KVM_TRANSLATE")) {
        (Some(ours), Some(kernel)) => {
            Goal {
                name: "gva-over-kvm-translate".to_owned(),
                measured: ours / kernel,
                bound: 0.02,
            }
            .print();
        }
        _ => println!("/dev/kvm cannot be used here: nothing to compare with"),
    }
}
