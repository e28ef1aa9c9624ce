//! A debugger's view of a guest: from the registers of a hart to bytes, through Sv48 tables that a
//! VMM wrote at boot.

use pgtable::bytes::{Debugger, GuestBytes};
use pgtable::memory::GuestTables;
use pgtable::{Access, Gpa, Gva, Prot};
use pgtable_riscv64::{
    BootMapping, Controls, Extensions, Mode, Paging, Registers, Sv, boot_tables, gva_to_gpa,
};
use vm_memory::{GuestAddress, GuestMemoryMmap};

fn main() -> Result<(), Box<dyn core::error::Error>> {
    const RAM: u64 = 0x8000_0000;
    let memory = GuestMemoryMmap::<()>::from_ranges(&[(GuestAddress(RAM), 4 << 20)])?;
    let tables = GuestTables::new(&memory)?;

    // What a VMM does: a kernel at the top of the address space, tables in the last 64 KiB.
    let kernel = Gva::new(0xffff_ffff_8000_0000);
    let format = Sv::new(Mode::Sv48, Controls::new());
    let mapping = BootMapping::new(kernel, Gpa::new(RAM), 2 << 20, Prot::RX.into());
    let area = Gpa::new(RAM + 0x3f_0000)..Gpa::new(RAM + 0x40_0000);
    let boot = boot_tables(format, &tables, area, [mapping])?;

    // What a gdb stub does, from the vCPU's registers: a breakpoint in read-only code.
    let registers = Registers { satp: boot.satp.into_bits(), ..Registers::default() };
    let walker = Paging::of(&registers, Extensions::new())?.walker(&tables);
    let bytes = GuestBytes::new(Debugger(walker), &memory);
    let ebreak = 0x0010_0073_u32.to_le_bytes();
    bytes.write(Gva::new(kernel.get() + 0xffe), &ebreak)?;
    let mut read = [0; 4];
    bytes.read(Gva::new(kernel.get() + 0xffe), &mut read)?;
    assert_eq!(read, ebreak);

    // What the guest itself would see.
    let gpa = gva_to_gpa(&registers, &tables, kernel, Access::FETCH)?;
    let fault = gva_to_gpa(&registers, &tables, kernel, Access::WRITE).expect_err("read-only");
    println!("{kernel} is {gpa}; {fault}");
    Ok(())
}
