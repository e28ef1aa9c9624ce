//! The guest: one loop, which counts until it is told to stop.
//!
//! Its two pages follow each other in the higher half; in guest memory the second stands before the
//! first, and they do not touch.

use std::arch::global_asm;
use std::error::Error;
use std::slice;

use kvm_x86::{Features, GDT};
use pgtable::memory::GuestTables;
use pgtable::{Gpa, Gva, Prot};
use pgtable_x86::{BootMapping, Levels, LongMode, Registers, boot_tables};
use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};

/// Bytes of guest memory.
pub const MEMORY: usize = 4 << 20;
/// The port at which the guest says that it has come to its end.
pub const PORT_DONE: u16 = 0xe0;
/// Where the guest begins, and its first instruction.
pub const BASE: Gva = Gva::new(0xffff_ffff_8000_0000);
/// The descriptor table, in the page of data.
pub const DESCRIPTORS: Gva = Gva::new(BASE.get() + PAGE + 0x800);
/// The task state segment, which nothing uses.
pub const TASK: u64 = BASE.get() + PAGE + 0x900;

const PAGE: u64 = 0x1000;
const CODE: Gpa = Gpa::new(0x20_0000);
const DATA: Gpa = Gpa::new(0x10_0000);
/// The root, and a table for each level below it.
const TABLES: u64 = 0x9000;

global_asm!(
    r#"
    .pushsection .rodata.gdb_guest, "a", @progbits
    .balign 4096
gdb_guest_start:
    inc qword ptr [rip + gdb_guest_counter]
gdb_guest_tick:
    mov rax, qword ptr [rip + gdb_guest_stop]
    test rax, rax
    jz gdb_guest_start
    out 0xe0, al
    hlt
    .org gdb_guest_start + 4096
gdb_guest_counter:
    .quad 0
gdb_guest_stop:
    .quad 0
    .org gdb_guest_start + 8192
gdb_guest_end:
    .popsection
"#
);

unsafe extern "C" {
    static gdb_guest_start: [u8; 2 * PAGE as usize];
    static gdb_guest_tick: u8;
    static gdb_guest_counter: u8;
    static gdb_guest_stop: u8;
}

/// The guest's address of a symbol.
fn address(symbol: *const u8) -> u64 {
    let start = (&raw const gdb_guest_start) as u64;
    BASE.get() + (symbol as u64 - start)
}

/// What a person, or a script, asks gdb about.
pub fn symbols() -> String {
    let symbols = [
        ("tick", &raw const gdb_guest_tick),
        ("counter", &raw const gdb_guest_counter),
        ("stop", &raw const gdb_guest_stop),
    ];
    symbols.map(|(name, symbol)| format!("{name} {:#x}", address(symbol))).join(" ")
}

/// Puts code, data, descriptors and tables into `memory`; returns what the vCPU translates by.
pub fn load(
    memory: &GuestMemoryMmap,
    tables: &GuestTables<'_, Gpa>,
    features: Features,
) -> Result<Registers, Box<dyn Error>> {
    // SAFETY: the code above defines these bytes in a read-only section; they never change.
    let image = unsafe { slice::from_raw_parts((&raw const gdb_guest_start).cast::<u8>(), 8192) };
    let (code, data) = image.split_at(PAGE as usize);
    memory.write_slice(code, GuestAddress(CODE.get()))?;
    memory.write_slice(data, GuestAddress(DATA.get()))?;
    let descriptors = DATA.get() + (DESCRIPTORS.get() - BASE.get() - PAGE);
    memory.write_slice(GDT.map(u64::to_le_bytes).as_flattened(), GuestAddress(descriptors))?;

    let format = LongMode::new(Levels::Four, features.controls());
    // The guest may not write its code; a debugger may.
    let mappings = [
        BootMapping::new(BASE, CODE, PAGE, Prot::RX.into()),
        BootMapping::new(Gva::new(BASE.get() + PAGE), DATA, PAGE, Prot::RW.into()),
    ];
    let area = Gpa::new(TABLES)..Gpa::new(TABLES + 4 * PAGE);
    Ok(boot_tables(format, tables, area, mappings)?.registers)
}
