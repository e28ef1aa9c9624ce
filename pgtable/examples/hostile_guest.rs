//! Reads a guest's memory through page tables that a hostile guest wrote: nothing panics, nothing
//! runs forever, and each error says where and why.

use pgtable::bytes::{Debugger, GuestBytes};
use pgtable::memory::GuestTables;
use pgtable::walk::Walker;
use pgtable::{Access, Gpa, Gva};
use pgtable_x86::{Controls, Levels, LongMode};
use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    // 1 MiB of memory, a hole, and 64 KiB more.
    let ranges = [(GuestAddress(0), 1 << 20), (GuestAddress(1 << 30), 64 << 10)];
    let memory = GuestMemoryMmap::<()>::from_ranges(&ranges)?;
    let entry = |table: u64, index: u64, word: u64| {
        memory.write_obj(word.to_le(), GuestAddress(table + index * 8))
    };
    // The root leads to itself (entry 0), to a table in the hole (1), to nonsense (2), and to one
    // page of 1 GiB of which the first 64 KiB are memory (3).
    entry(0x1000, 0, 0x1000 | 0x63)?;
    entry(0x1000, 1, 0x2000_0000 | 0x63)?;
    entry(0x1000, 2, u64::MAX)?;
    entry(0x1000, 3, 0x2000 | 0x63)?;
    entry(0x2000, 0, (1 << 30) | 0xe3)?;

    let tables = GuestTables::<Gpa>::new(&memory)?;
    let format = LongMode::new(Levels::Four, Controls::new());
    let walker = Walker::new(format, &tables, Gpa::new(0x1000));
    let top = |index: u64| Gva::new(index << 39);

    // A tree that leads to itself is a tree of four levels all the same.
    let found = walker.translate(top(0), Access::READ)?;
    println!("{} -> {}, a page of 2^{} bytes", top(0), found.output, found.shift);
    for index in [1, 2] {
        println!("{}", walker.translate(top(index), Access::READ).expect_err("not allowed"));
    }

    // Bytes: as many as there are, then why no more. A debugger needs no rights.
    let bytes = GuestBytes::new(Debugger(walker), &memory);
    let stopped = bytes.write(top(3), &[0xcc; 100_000]).expect_err("not allowed");
    println!("{stopped}");
    assert_eq!(stopped.done, 64 << 10);
    Ok(())
}
