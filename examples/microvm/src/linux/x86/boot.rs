//! Putting a bzImage and its initrd where they belong, with the tables that its first instructions
//! run on.
//!
//! Linux `Documentation/arch/x86/boot.rst`, “64-bit boot protocol”: the kernel is entered 0x200
//! bytes behind its beginning, in long mode, with flat segments, interrupts off, RSI at the boot
//! parameters, and tables that map kernel, parameters and command line to themselves.

use kvm_bindings::{kvm_dtable, kvm_regs};
use kvm_ioctls::VcpuFd;
use kvm_x86::{Features, GDT, long_mode_segments};
use linux_loader::configurator::linux::LinuxBootConfigurator;
use linux_loader::configurator::{BootConfigurator, BootParams};
use linux_loader::loader::bootparam::{boot_e820_entry, boot_params};
use linux_loader::loader::{BzImage, KernelLoader};
use pgtable::memory::GuestTables;
use pgtable::{Gpa, Privilege, Prot};
use pgtable_x86::{BootMapping, Levels, LongMode, boot_tables};
use std::io::Cursor;
use vm_memory::{Address, Bytes, GuestAddress, GuestMemoryBackend, GuestMemoryMmap};

use crate::report::Failure;

/// Where things stand below 640 KiB.
mod at {
    /// The descriptor table.
    pub const GDT: u64 = 0x500;
    /// The boot parameters, a page.
    pub const PARAMETERS: u64 = 0x7000;
    /// The boot tables: six at most.
    pub const TABLES: std::ops::Range<u64> = 0x9000..0x1_0000;
    /// The command line.
    pub const COMMAND_LINE: u64 = 0x2_0000;
    /// Where memory ends that a PC may use (the extended BIOS data area).
    pub const END: u64 = 0x9_fc00;
    /// Where memory goes on.
    pub const HIGH: u64 = 0x10_0000;
}

/// How far the boot tables map.
const MAPPED: u64 = 4 << 30;
/// `type_of_loader`: one that has no number.
const LOADER: u8 = 0xff;
/// An e820 entry's type: memory.
const RAM: u32 = 1;
/// Where the 64-bit entry point is, from the kernel's beginning on.
const ENTRY: u64 = 0x200;

/// Fills memory, and sets the vCPU's registers.
pub fn boot(
    memory: &GuestMemoryMmap,
    vcpu: &VcpuFd,
    features: Features,
    kernel: &[u8],
    initrd: &[u8],
    append: &str,
) -> Result<(), Failure> {
    let loaded =
        BzImage::load(memory, None, &mut Cursor::new(kernel), Some(GuestAddress(at::HIGH)))
            .map_err(|error| format!("the kernel: {error}"))?;
    let mut parameters = boot_params {
        hdr: loaded.setup_header.ok_or("the kernel has no header")?,
        ..Default::default()
    };
    let end = memory.last_addr().raw_value() + 1;

    // At the end of memory, where the kernel does not unpack itself.
    let bytes = initrd.len() as u64;
    let place =
        end.min(u64::from(parameters.hdr.initrd_addr_max)).checked_sub(bytes).map(|it| it & !0xfff);
    let unpacked = u64::from(parameters.hdr.init_size).saturating_add(0x100_0000);
    let place = place.filter(|place| *place >= loaded.kernel_end.max(unpacked));
    let place = place
        .ok_or_else(|| format!("kernel and initrd do not fit into {end:#x} bytes of memory"))?;
    memory.write_slice(initrd, GuestAddress(place))?;

    let command_line = format!("{COMMAND_LINE} {append}\0");
    if command_line.len() as u64 > u64::from(parameters.hdr.cmdline_size) {
        return Err("the command line is too long".into());
    }
    memory.write_slice(command_line.as_bytes(), GuestAddress(at::COMMAND_LINE))?;

    parameters.hdr.type_of_loader = LOADER;
    parameters.hdr.cmd_line_ptr = u32::try_from(at::COMMAND_LINE)?;
    parameters.hdr.ramdisk_image = u32::try_from(place)?;
    parameters.hdr.ramdisk_size = u32::try_from(bytes)?;
    let ram = [(0, at::END), (at::HIGH, end - at::HIGH)];
    for (entry, (addr, size)) in parameters.e820_table.iter_mut().zip(ram) {
        *entry = boot_e820_entry { addr, size, r#type: RAM };
    }
    parameters.e820_entries = ram.len() as u8;
    let parameters = BootParams::new(&parameters, GuestAddress(at::PARAMETERS));
    LinuxBootConfigurator::write_bootparams(&parameters, memory)
        .map_err(|error| error.to_string())?;
    registers(memory, vcpu, features, loaded.kernel_load.raw_value() + ENTRY)
}

/// No firmware, no PCI, no keyboard: nothing is to be looked for. Addresses that are always the
/// same, and one set of tables for user and kernel, so that what the CPU's CR3 names is all there
/// is.
const COMMAND_LINE: &str = "console=ttyS0 rdinit=/init panic=-1 reboot=k nokaslr pti=off pci=off acpi=off no_timer_check \
                            i8042.noaux i8042.nokbd";

fn registers(
    memory: &GuestMemoryMmap,
    vcpu: &VcpuFd,
    features: Features,
    entry: u64,
) -> Result<(), Failure> {
    let tables = GuestTables::<Gpa>::new(memory)?;
    let format = LongMode::new(Levels::Four, features.controls());
    let area = Gpa::new(at::TABLES.start)..Gpa::new(at::TABLES.end);
    let identity = BootMapping::identity(MAPPED, Prot::RWX.into());
    let boot = boot_tables(format, &tables, area, [identity])?;

    for (at, descriptor) in (at::GDT..).step_by(8).zip(GDT) {
        memory.write_obj(descriptor, GuestAddress(at))?;
    }
    let mut sregs = vcpu.get_sregs()?;
    long_mode_segments(&mut sregs, Privilege::Supervisor, (0, 0x67));
    sregs.gdt =
        kvm_dtable { base: at::GDT, limit: size_of_val(&GDT) as u16 - 1, ..kvm_dtable::default() };
    sregs.cr0 |= boot.registers.cr0.into_bits();
    sregs.cr3 = boot.registers.cr3.into_bits();
    sregs.cr4 |= boot.registers.cr4.into_bits();
    sregs.efer |= boot.registers.efer.into_bits();
    vcpu.set_sregs(&sregs)?;
    // EFLAGS: bit 1 is always set, IF is not.
    vcpu.set_regs(&kvm_regs { rip: entry, rsi: at::PARAMETERS, rflags: 2, ..kvm_regs::default() })?;
    Ok(())
}
