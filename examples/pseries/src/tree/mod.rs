//! The flattened device tree: what Linux must know that firmware would tell (PAPR appendix B; Linux
//! `arch/powerpc/kernel/prom.c`).
//!
//! There is no negotiation without firmware: `ibm,architecture-vec-5` states its result, so the MMU
//! is settled here.

mod long_name;

use pgtable_ppc64::hash::{GROUP_ENTRIES, HptOrder, PageSize};
use vm_fdt::{Error, FdtReserveEntry, FdtWriter};

use super::layout::Layout;
use super::rtas::TOKENS;

/// The unit address of the virtual terminal.
pub(super) const VTY: u32 = 0x7100_0000;
/// The phandle of the interrupt controllers' node.
const CONTROLLERS: u32 = 0x1111;
/// POWER9's time base, in Hz (Linux takes 125 MHz if nobody tells).
const TIMEBASE: u32 = 512_000_000;

/// How a property is called while the tree is written, and in the end.
const AP_ENCODINGS: (&str, &str) = ("radix-AP-encodings", "ibm,processor-radix-AP-encodings");

/// Which translation the guest uses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mmu {
    /// Radix trees.
    Radix,
    /// A hashed page table.
    Hash {
        /// Its size.
        order: HptOrder,
        /// The largest page that the host takes into it, which is that of the real-mode area, too:
        /// 4 KiB or 64 KiB. KVM refuses pages larger than those that back the guest's memory.
        largest: PageSize,
    },
}

impl Machine {
    /// How many bytes of memory from address 0 on the guest reaches in real mode. A hashed guest
    /// has an entry in each group of its table for that (Linux `kvmppc_map_vrma`).
    pub(super) fn real_mode(&self, memory: u64) -> u64 {
        match self.mmu {
            Mmu::Radix => memory,
            Mmu::Hash { order, largest } => {
                memory.min(order.entries() / GROUP_ENTRIES as u64 * largest.bytes())
            }
        }
    }
}

/// What the machine is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Machine {
    /// Its CPUs, numbered from 0.
    pub cpus: u32,
    /// How it translates.
    pub mmu: Mmu,
}

/// The tree for a machine.
pub(super) fn device_tree(
    machine: Machine,
    layout: &Layout,
    command_line: &str,
) -> Result<Vec<u8>, Error> {
    let reserved = [(layout.initrd, layout.initrd_bytes), (layout.rtas, layout.rtas_bytes)];
    let reserved = reserved.into_iter().filter(|(_, bytes)| *bytes > 0);
    let reserved = reserved
        .map(|(from, bytes)| FdtReserveEntry::new(from, bytes))
        .collect::<Result<Vec<_>, _>>()?;
    let mut tree = FdtWriter::new_with_mem_reserv(&reserved)?;
    let root = tree.begin_node("")?;
    tree.property_u32("#address-cells", 2)?;
    tree.property_u32("#size-cells", 2)?;
    // Without it Linux does not take the machine for pseries.
    tree.property_string("device_type", "chrp")?;
    tree.property_string("model", "microvm")?;
    tree.property_string("compatible", "qemu,pseries")?;
    chosen(&mut tree, machine, layout, command_line)?;
    rtas(&mut tree, layout)?;
    cpus(&mut tree, machine)?;
    memory(&mut tree, machine, layout)?;
    terminal(&mut tree)?;
    controllers(&mut tree, machine)?;
    tree.end_node(root)?;
    let mut tree = tree.finish()?;
    let (short, long) = AP_ENCODINGS;
    long_name::rename(&mut tree, short, long).ok_or(Error::InvalidPropertyName)?;
    Ok(tree)
}

fn chosen(
    tree: &mut FdtWriter,
    machine: Machine,
    layout: &Layout,
    command_line: &str,
) -> Result<(), Error> {
    let node = tree.begin_node("chosen")?;
    let terminal = format!("/vdevice/vty@{VTY:x}");
    tree.property_string("bootargs", command_line)?;
    tree.property_string("linux,stdout-path", &terminal)?;
    tree.property_string("stdout-path", &terminal)?;
    if layout.initrd_bytes > 0 {
        tree.property_u64("linux,initrd-start", layout.initrd)?;
        tree.property_u64("linux,initrd-end", layout.initrd + layout.initrd_bytes)?;
    }
    tree.property("ibm,architecture-vec-5", &vector_5(machine.mmu))?;
    tree.end_node(node)
}

/// Option vector 5 of `ibm,client-architecture-support` (PAPR B.6.2.3), after negotiation. Byte 0
/// is the length byte.
fn vector_5(mmu: Mmu) -> [u8; 28] {
    let mut bytes = [0; 28];
    // A logical partition.
    bytes[2] = 0x80;
    // Form 1 associativity.
    bytes[5] = 0x80;
    // The MMU: bits 0:1 are 00 hashed, 01 radix.
    bytes[24] = match mmu {
        Mmu::Radix => 0x40,
        Mmu::Hash { .. } => 0,
    };
    // Radix guests may use `tlbie` (GTSE).
    bytes[26] = 0x40;
    bytes
}

fn rtas(tree: &mut FdtWriter, layout: &Layout) -> Result<(), Error> {
    let node = tree.begin_node("rtas")?;
    let functions = [
        "hcall-pft",
        "hcall-term",
        "hcall-interrupt",
        "hcall-vio",
        "hcall-splpar",
        // Without it a little-endian kernel cannot take interrupts.
        "hcall-set-mode",
        "hcall-bulk",
    ];
    tree.property_string_list("ibm,hypertas-functions", functions.map(str::to_owned).into())?;
    let base = u32::try_from(layout.rtas).unwrap_or_default();
    tree.property_u32("linux,rtas-base", base)?;
    tree.property_u32("linux,rtas-entry", base)?;
    tree.property_u32("rtas-size", 0x1000)?;
    for (name, token) in TOKENS {
        tree.property_u32(name, token)?;
    }
    // Its presence says that `ibm,os-term` may be called in a panic.
    tree.property_null("ibm,extended-os-term")?;
    tree.end_node(node)
}

fn cpus(tree: &mut FdtWriter, machine: Machine) -> Result<(), Error> {
    let node = tree.begin_node("cpus")?;
    tree.property_u32("#address-cells", 1)?;
    tree.property_u32("#size-cells", 0)?;
    for cpu in 0..machine.cpus {
        let node = tree.begin_node(&format!("PowerPC,POWER9@{cpu:x}"))?;
        tree.property_string("device_type", "cpu")?;
        tree.property_u32("reg", cpu)?;
        tree.property_string("status", "okay")?;
        tree.property_null("64-bit")?;
        tree.property_u32("ibm,ppc-interrupt-server#s", cpu)?;
        tree.property_array_u32("ibm,ppc-interrupt-gserver#s", &[cpu, 0])?;
        // The logical PVR of ISA v3.0.
        tree.property_u32("cpu-version", 0x0f00_0005)?;
        tree.property_u32("timebase-frequency", TIMEBASE)?;
        tree.property_u32("clock-frequency", 1_000_000_000)?;
        for cache in ["d-cache", "i-cache"] {
            tree.property_u32(&format!("{cache}-block-size"), 128)?;
            tree.property_u32(&format!("{cache}-line-size"), 128)?;
            tree.property_u32(&format!("{cache}-size"), 0x8000)?;
        }
        translation(tree, machine.mmu)?;
        // Vectors up to VSX, and decimal floating point.
        tree.property_u32("ibm,vmx", 2)?;
        tree.property_u32("ibm,dfp", 1)?;
        tree.property("ibm,pa-features", &features())?;
        tree.end_node(node)?;
    }
    tree.end_node(node)
}

/// What a CPU's MMU takes.
fn translation(tree: &mut FdtWriter, mmu: Mmu) -> Result<(), Error> {
    tree.property_u32("ibm,slb-size", 32)?;
    // Segments of 2^28 and 2^40 bytes, and no others.
    tree.property_array_u32("ibm,processor-segment-sizes", &[28, 40, u32::MAX, u32::MAX])?;
    // Per base page size: shift, L‖LP of the SLB entry, how many actual sizes, and of each its
    // shift and LP in an HPTE.
    let sizes = [12, 0, 1, 12, 0, 16, 0x110, 1, 16, 1];
    let small = matches!(mmu, Mmu::Hash { largest: PageSize::K4, .. });
    let sizes = if small { &sizes[..5] } else { &sizes[..] };
    tree.property_array_u32("ibm,segment-page-sizes", sizes)?;
    // AP << 29 | shift: 4K, 64K, 2M, 1G.
    let encodings = [0x0000_000c, 0xa000_0010, 0x2000_0015, 0x4000_001e];
    tree.property_array_u32(AP_ENCODINGS.0, &encodings)?;
    let order = match mmu {
        Mmu::Hash { order, .. } => order.get(),
        Mmu::Radix => 24,
    };
    tree.property_array_u32("ibm,pft-size", &[0, order.into()])
}

/// `ibm,pa-features` of a POWER9 (PAPR C.6.2; as QEMU gives it): 66 bytes behind their length and
/// an attribute type 0.
fn features() -> Vec<u8> {
    let mut bytes = vec![66, 0];
    bytes.extend([0xf6, 0x3f, 0xc7, 0xc0, 0x80, 0xf0, 0x80]);
    bytes.resize(2 + 66, 0);
    // From byte 16 on each even one but 22 has its highest bit; 34 has two.
    for at in (16..66).step_by(2).filter(|at| *at != 22) {
        bytes[2 + at] = if at == 34 { 0xc0 } else { 0x80 };
    }
    bytes
}

/// The first node is what the guest reaches in real mode: Linux takes it so.
fn memory(tree: &mut FdtWriter, machine: Machine, layout: &Layout) -> Result<(), Error> {
    let first = machine.real_mode(layout.memory);
    let nodes = [(0, first), (first, layout.memory - first)];
    for (at, bytes) in nodes.into_iter().filter(|(_, bytes)| *bytes > 0) {
        let node = tree.begin_node(&format!("memory@{at:x}"))?;
        tree.property_string("device_type", "memory")?;
        tree.property_array_u64("reg", &[at, bytes])?;
        tree.end_node(node)?;
    }
    Ok(())
}

/// The terminal has no interrupt: Linux asks for input from time to time.
fn terminal(tree: &mut FdtWriter) -> Result<(), Error> {
    let node = tree.begin_node("vdevice")?;
    tree.property_u32("#address-cells", 1)?;
    tree.property_u32("#size-cells", 0)?;
    tree.property_string("device_type", "vdevice")?;
    tree.property_string("compatible", "IBM,vdevice")?;
    let vty = tree.begin_node(&format!("vty@{VTY:x}"))?;
    tree.property_string("device_type", "serial")?;
    tree.property_string("compatible", "hvterm1")?;
    tree.property_u32("reg", VTY)?;
    tree.end_node(vty)?;
    tree.end_node(node)
}

fn controllers(tree: &mut FdtWriter, machine: Machine) -> Result<(), Error> {
    let node = tree.begin_node("interrupt-controller")?;
    tree.property_string("device_type", "PowerPC-External-Interrupt-Presentation")?;
    tree.property_string("compatible", "IBM,ppc-xicp")?;
    tree.property_null("interrupt-controller")?;
    tree.property_u32("#interrupt-cells", 2)?;
    tree.property_array_u32("ibm,interrupt-server-ranges", &[0, machine.cpus])?;
    tree.property_phandle(CONTROLLERS)?;
    tree.end_node(node)
}
