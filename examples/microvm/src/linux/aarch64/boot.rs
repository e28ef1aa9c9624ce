//! Putting an `Image`, its initrd and the device tree where they belong.
//!
//! Linux `Documentation/arch/arm64/booting.rst`: the kernel stands at an offset from a multiple of
//! 2 MiB, and is entered at EL1 with translation off, interrupts masked, and X0 at the device tree.

use kvm_ioctls::VcpuFd;
use probe_guest::aarch64::register::{self, PC, PSTATE, core};
use vm_fdt::FdtWriter;
use vm_memory::{Address, Bytes, GuestAddress, GuestMemoryBackend, GuestMemoryMmap};

use crate::report::Failure;

/// Guest-physical addresses.
pub mod at {
    /// GICv3: the distributor, 64 KiB,
    pub const DISTRIBUTOR: u64 = 0x0800_0000;
    /// and the redistributors, 128 KiB for each CPU.
    pub const REDISTRIBUTORS: u64 = 0x080a_0000;
    /// The serial port.
    pub const SERIAL: u64 = 0x0a00_0000;
    /// Its interrupt among the shared ones,
    pub const SERIAL_SPI: u32 = 1;
    /// and as KVM_IRQ_LINE names it: shared ones begin at 32.
    pub const SERIAL_LINE: u32 = 1 << 24 | (32 + SERIAL_SPI);
    /// Memory.
    pub const MEMORY: u64 = 0x8000_0000;
}

/// What the device tree may take.
const TREE_BYTES: u64 = 0x20_0000;
/// PSTATE: EL1 with its own stack pointer, everything masked.
const PSTATE_AT_ENTRY: u64 = 0x3c5;

/// Addresses that are always the same, and one set of tables for user and kernel, so that what the
/// CPU's TTBRs name is all there is.
const COMMAND_LINE: &str = "console=ttyS0 rdinit=/init panic=-1 nokaslr kpti=0 nowatchdog";

/// Fills memory, and sets the vCPU's registers.
pub fn boot(
    memory: &GuestMemoryMmap,
    vcpu: &VcpuFd,
    cpus: u32,
    kernel: &[u8],
    initrd: &[u8],
    append: &str,
) -> Result<(), Failure> {
    let Header { offset, bytes } = Header::read(kernel).ok_or("the kernel is no arm64 Image")?;
    let entry = at::MEMORY.checked_add(offset).ok_or("the kernel is nowhere")?;
    // The device tree at memory's end, the initrd below it.
    let end = memory.last_addr().raw_value() + 1;
    let tree_at = end - TREE_BYTES;
    let initrd_at = tree_at.checked_sub(initrd.len() as u64).map(|it| it & !0xfff);
    let used = entry.checked_add(bytes.max(kernel.len() as u64));
    let initrd_at = initrd_at.filter(|place| used.is_some_and(|used| used <= *place));
    let initrd_at = initrd_at
        .ok_or_else(|| format!("kernel and initrd do not fit into memory that ends at {end:#x}"))?;
    memory.write_slice(kernel, GuestAddress(entry))?;
    memory.write_slice(initrd, GuestAddress(initrd_at))?;
    let tree = device_tree(&Tree {
        cpus,
        memory: end - at::MEMORY,
        initrd: (initrd_at, initrd_at + initrd.len() as u64),
        command_line: &format!("{COMMAND_LINE} {append}"),
    })?;
    if tree.len() as u64 > TREE_BYTES {
        return Err("the device tree is too long".into());
    }
    memory.write_slice(&tree, GuestAddress(tree_at))?;
    for (number, value) in [(core(0), tree_at), (PC, entry), (PSTATE, PSTATE_AT_ENTRY)] {
        register::set(vcpu, number, value)?;
    }
    Ok(())
}

/// What an `Image` says of itself.
struct Header {
    /// How far from a multiple of 2 MiB it stands.
    offset: u64,
    /// How much memory it takes.
    bytes: u64,
}

impl Header {
    fn read(image: &[u8]) -> Option<Self> {
        let word = |at: usize| Some(u64::from_le_bytes(image.get(at..at + 8)?.try_into().ok()?));
        let is_image = image.get(56..60)? == b"ARM\x64";
        is_image.then_some(Self { offset: word(8)?, bytes: word(16)? })
    }
}

/// What the device tree says that is not always the same.
struct Tree<'a> {
    cpus: u32,
    memory: u64,
    initrd: (u64, u64),
    command_line: &'a str,
}

/// The machine: CPUs that PSCI starts, memory, a GICv3, the architecture's timer, a serial port.
fn device_tree(tree: &Tree<'_>) -> Result<Vec<u8>, vm_fdt::Error> {
    const CONTROLLER: u32 = 1;
    const CLOCK_HZ: u32 = 1_843_200;
    // Kinds of interrupts, and when they are: at an edge, or while a level is high.
    const SHARED: u32 = 0;
    const PRIVATE: u32 = 1;
    const EDGE: u32 = 1;
    const HIGH: u32 = 4;
    let mut fdt = FdtWriter::new()?;
    let root = fdt.begin_node("")?;
    fdt.property_string("compatible", "linux,dummy-virt")?;
    fdt.property_u32("#address-cells", 2)?;
    fdt.property_u32("#size-cells", 2)?;
    fdt.property_u32("interrupt-parent", CONTROLLER)?;

    let node = fdt.begin_node("chosen")?;
    fdt.property_string("bootargs", tree.command_line)?;
    fdt.property_u64("linux,initrd-start", tree.initrd.0)?;
    fdt.property_u64("linux,initrd-end", tree.initrd.1)?;
    fdt.end_node(node)?;

    let node = fdt.begin_node(&format!("memory@{:x}", at::MEMORY))?;
    fdt.property_string("device_type", "memory")?;
    fdt.property_array_u64("reg", &[at::MEMORY, tree.memory])?;
    fdt.end_node(node)?;

    let cpus = fdt.begin_node("cpus")?;
    fdt.property_u32("#address-cells", 2)?;
    fdt.property_u32("#size-cells", 0)?;
    for cpu in 0..tree.cpus {
        // MPIDR_EL1 as KVM makes it: 16 CPUs in a cluster.
        let affinity = u64::from(cpu >> 4) << 8 | u64::from(cpu & 15);
        let node = fdt.begin_node(&format!("cpu@{affinity:x}"))?;
        fdt.property_string("device_type", "cpu")?;
        fdt.property_string("compatible", "arm,armv8")?;
        fdt.property_string("enable-method", "psci")?;
        fdt.property_u64("reg", affinity)?;
        fdt.end_node(node)?;
    }
    fdt.end_node(cpus)?;

    let node = fdt.begin_node("psci")?;
    fdt.property_string("compatible", "arm,psci-0.2")?;
    fdt.property_string("method", "hvc")?;
    fdt.end_node(node)?;

    let node = fdt.begin_node("timer")?;
    fdt.property_string("compatible", "arm,armv8-timer")?;
    let timers = [13, 14, 11, 10].map(|number| [PRIVATE, number, HIGH]);
    fdt.property_array_u32("interrupts", timers.as_flattened())?;
    fdt.property_null("always-on")?;
    fdt.end_node(node)?;

    let node = fdt.begin_node(&format!("interrupt-controller@{:x}", at::DISTRIBUTOR))?;
    fdt.property_string("compatible", "arm,gic-v3")?;
    fdt.property_null("interrupt-controller")?;
    fdt.property_u32("#interrupt-cells", 3)?;
    let redistributors = u64::from(tree.cpus) << 17;
    let places = [at::DISTRIBUTOR, 0x1_0000, at::REDISTRIBUTORS, redistributors];
    fdt.property_array_u64("reg", &places)?;
    fdt.property_phandle(CONTROLLER)?;
    fdt.end_node(node)?;

    let node = fdt.begin_node(&format!("serial@{:x}", at::SERIAL))?;
    fdt.property_string("compatible", "ns16550a")?;
    fdt.property_array_u64("reg", &[at::SERIAL, 0x1000])?;
    fdt.property_u32("clock-frequency", CLOCK_HZ)?;
    fdt.property_array_u32("interrupts", &[SHARED, at::SERIAL_SPI, EDGE])?;
    fdt.end_node(node)?;
    fdt.end_node(root)?;
    fdt.finish()
}
