//! Scenes: registers, and the trees that the library builds for them.

use std::error::Error;

use fastrand::Rng;
use pgtable::allocator::TableAllocator;
use pgtable::format::{Entry, Format};
use pgtable::memory::DirectMap;
use pgtable::tree::PageTable;
use pgtable::walk::Walker;
use pgtable::{Address, Gpa, Gva, Hpa, Leaves, Prot, low_bits};
use pgtable_aarch64::{
    Granule, Hcr, Mair, Paging, Processor, Regime, Registers, Shareability, Stage1Attributes,
    Stage1Controls, Stage2Attributes, Stage2Controls, Stage2Execute, Stage2Memory, Tcr, VaRange,
    VmsaStage1, VmsaStage2, stage2_of,
};

use super::memory::{Memory, ROOM};
use super::records::{CODE, DATA, Order, TABLES};

/// How many mappings are tried in a tree.
const MAPPINGS: usize = 40;
/// What else is set in SCTLR_EL1 and SCTLR_EL2: reserved bits, caches.
const SCTLR: [u64; 2] = [0x30d0_1804, 0x30c5_1834];
/// The contiguous hint of a block or page descriptor.
pub const CONTIGUOUS: u64 = 1 << 52;
/// Memory types of stage 1: usual ones; halves that differ; every device; allocation hints, of
/// which some are transient.
const MAIRS: [u64; 4] =
    [0x0004_0044_bbff_4fff, Mair::USUAL.0, 0xff0c_0844_00bb_fff4, 0x9dd9_11ee_4d94_0c99];
const GRANULES: [Granule; 3] = [Granule::K4, Granule::K16, Granule::K64];

/// A machine, by what its processor has.
#[derive(Clone, Copy, Debug)]
pub struct Machine {
    pub processor: Processor,
    /// 16-KiB granules.
    pub k16: bool,
    /// EL2&0.
    pub vhe: bool,
    pub pan: bool,
}

/// Whose accesses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// EL1&0, stage 1 alone.
    First,
    /// EL2.
    El2,
    /// EL2&0.
    El20,
    /// Stage 2 alone.
    Second,
    /// Both stages of EL1&0.
    Both,
}

/// An input address, log2 of the page's size, its output.
pub type Mapping = (u64, u8, u64);

/// Registers and trees.
pub struct Scene {
    pub mode: Mode,
    /// The registers, in a record with nothing else.
    pub order: Order,
    pub mair: Mair,
    pub pan: bool,
    pub paging: Paging,
    /// What the manual says to the same registers: TTBRs hold address bits 51:48 under DS, whatever
    /// the output size is (`AArch64.S1TTBaseAddress`).
    pub strict: Paging,
    /// Bits 5:2 of TTBR1_EL1 are not all 0.
    pub odd_root: bool,
    /// As `paging`, without PAN: what most AT instructions take.
    pub paging_without_pan: Paging,
    /// The same without hardware-managed dirty state: what QEMU takes for instruction fetches.
    pub paging_without_hd: Paging,
    /// The same without WXN too.
    pub paging_without_wxn: Paging,
    pub second: Option<(VmsaStage2, Hpa)>,
    /// Where the guest finds its code.
    pub code: u64,
    /// What is mapped in the first stage (in the second, if there is no first).
    pub mappings: Vec<Mapping>,
}

/// The stage-1 input sizes that are tried, of a granule.
fn sizes(machine: &Machine, granule: Granule, stage2: bool) -> Vec<(u8, bool)> {
    let Processor { lva, lpa2, lpa2_stage2, small_tables, physical_bits, .. } = machine.processor;
    let [k4, k16] = if stage2 { lpa2_stage2 } else { lpa2 };
    let (wide, ds) = match granule {
        Granule::K4 => (k4, k4),
        Granule::K16 => (k16, k16),
        Granule::K64 if stage2 => (physical_bits == 52, false),
        Granule::K64 => (lva, false),
    };
    let mut sizes: Vec<_> = [48, 47, 43, 42, 40, 39, 37, 36, 33, 32, 31, 30, 25]
        .into_iter()
        .filter(|bits| !stage2 || *bits <= physical_bits)
        .map(|bits| (bits, false))
        .collect();
    if wide {
        sizes.extend([(52, ds), (50, ds)]);
    }
    if ds {
        sizes.extend([(48, true), (39, true)]);
    }
    if small_tables {
        sizes.extend([(21, false), (18, false)]);
    }
    sizes
}

/// Where code is mapped, of a tree with so many input bits.
fn code_at(bits: u8) -> u64 {
    if bits > 32 { CODE & low_bits(28) } else { 1 << (bits - 1) }
}

fn granules(machine: &Machine) -> impl Iterator<Item = Granule> {
    let k16 = machine.k16;
    GRANULES.into_iter().filter(move |granule| k16 || *granule != Granule::K16)
}

fn any_granule(machine: &Machine, rng: &mut Rng) -> Granule {
    let all: Vec<_> = granules(machine).collect();
    all[rng.usize(..all.len())]
}

/// Every scene of a run: each granule with each size, with random controls.
pub fn scenes(
    machine: &Machine,
    stage2: bool,
    memory: &Memory,
    rng: &mut Rng,
) -> Result<Vec<Scene>, Box<dyn Error>> {
    let mut plans = Vec::new();
    for granule in granules(machine) {
        for size in sizes(machine, granule, stage2) {
            let mode = match (stage2, rng.u8(..6)) {
                (true, 0..4) if size.0 >= 32 => Mode::Both,
                (true, _) => Mode::Second,
                (false, 0) => Mode::El2,
                (false, 1) if machine.vhe => Mode::El20,
                (false, _) => Mode::First,
            };
            plans.push((mode, granule, size));
        }
    }
    rng.shuffle(&mut plans);
    let mut scenes = Vec::new();
    for (mode, granule, size) in plans {
        if !memory.begin() {
            break;
        }
        scenes.extend(scene(machine, mode, (granule, size), memory, rng)?);
    }
    Ok(scenes)
}

fn controls1(
    machine: &Machine,
    regime: Regime,
    (granule, (input_bits, ds)): (Granule, (u8, bool)),
    rng: &mut Rng,
) -> Stage1Controls {
    let p = machine.processor;
    let upper = regime == Regime::El10 && rng.bool();
    let limit = if ds || granule == Granule::K64 { 52 } else { 48 };
    let output_bits = [32, 36, 40, 42, 44, 48, 52][rng.usize(..7)].min(p.physical_bits);
    Stage1Controls {
        regime,
        range: if upper { VaRange::Upper } else { VaRange::Lower },
        granule,
        input_bits,
        output_bits: if rng.bool() { p.physical_bits } else { output_bits.min(limit) },
        physical_bits: p.physical_bits,
        lva: p.lva,
        ds,
        small_tables: p.small_tables,
        contiguous: rng.bool(),
        ha: p.access_flag && rng.u8(..4) != 0,
        hd: p.dirty_state && rng.bool(),
        hpd: p.hierarchical_disable && rng.u8(..4) == 0,
        tbi: rng.bool(),
        wxn: rng.u8(..4) == 0,
        pan: regime.has_el0() && machine.pan && rng.bool(),
        epan: p.epan && regime == Regime::El10 && rng.bool(),
    }
}

fn controls2(
    machine: &Machine,
    (granule, (input_bits, ds)): (Granule, (u8, bool)),
    rng: &mut Rng,
) -> Stage2Controls {
    let p = machine.processor;
    let limit = if ds || granule == Granule::K64 { 52 } else { 48 };
    let small_tables = p.small_tables;
    let usual =
        Stage2Controls { small_tables, ..Stage2Controls::new() }.with_input(granule, input_bits);
    let controls = Stage2Controls {
        output_bits: p.physical_bits.min(if rng.bool() { 52 } else { limit }),
        physical_bits: p.physical_bits,
        ds,
        contiguous: rng.bool(),
        ha: p.access_flag && rng.u8(..4) != 0,
        hd: p.dirty_state && rng.bool(),
        xnx: p.xnx,
        fwb: p.fwb && rng.bool(),
        ..usual
    };
    // The level above, without root tables in a row.
    let deeper = Stage2Controls { start_level: controls.start_level - 1, ..controls };
    if rng.bool() && VmsaStage2::new(deeper).is_ok() { deeper } else { controls }
}

fn attributes1(regime: Regime, rng: &mut Rng) -> Stage1Attributes {
    let mut prot = Prot::from_bits(rng.u8(..16)).with_read(true);
    if !regime.has_el0() {
        prot.set_user(false);
    }
    let attributes = Stage1Attributes::from(prot)
        .with_attr_index(rng.u8(..8))
        .with_accessed(rng.u8(..4) != 0)
        .with_dirty(rng.bool())
        .with_privileged_execute(rng.bool());
    if !regime.has_el0() {
        return attributes;
    }
    attributes.with_user_execute(rng.bool()).with_global(rng.bool())
}

fn attributes2(rng: &mut Rng) -> Stage2Attributes {
    let execute = [
        Stage2Execute::All,
        Stage2Execute::All,
        Stage2Execute::El0,
        Stage2Execute::El1,
        Stage2Execute::None,
    ][rng.usize(..5)];
    let memory = [
        Stage2Memory::WriteBack,
        Stage2Memory::NonCacheable,
        Stage2Memory::DeviceNgnre,
        Stage2Memory::DeviceGre,
        Stage2Memory::WriteThrough,
        Stage2Memory::Stage1,
    ][rng.usize(..6)];
    let prot = if rng.bool() { Prot::RWX } else { Prot::from_bits(rng.u8(..8)) };
    Stage2Attributes::from(prot)
        .with_execute(execute)
        .with_memory_type(memory)
        .with_accessed(rng.u8(..4) != 0)
        .with_dirty(rng.bool())
}

/// Maps pages of all sizes all over the addresses; `output` chooses where to. What is mapped
/// already, or cannot be said, is left out.
fn map<F: Format, A: TableAllocator<pgtable::format::Output<F>>>(
    tree: &mut PageTable<F, DirectMap<'_, pgtable::format::Output<F>>, A>,
    rng: &mut Rng,
    mut output: impl FnMut(&mut Rng, u8) -> u64,
    mut attributes: impl FnMut(&mut Rng) -> F::Attributes,
) -> Vec<Mapping> {
    let format = *tree.format();
    let sizes: Vec<u8> = format.geometry().leaf_shifts().into_iter().collect();
    let mask = format.geometry().address_mask();
    let far: Vec<u64> = (0..3).map(|_| rng.u64(..) & mask).collect();
    let mut mappings = Vec::new();
    for _ in 0..MAPPINGS {
        let shift = if rng.bool() { sizes[0] } else { sizes[rng.usize(..sizes.len())] };
        // Near one of a few places, so that tables are shared.
        let place = far[rng.usize(..far.len())];
        let offset = (place ^ rng.u64(..) & low_bits(shift + 5) & mask) >> shift << shift;
        let to = output(rng, shift) >> shift << shift;
        let from = format.address(offset);
        let to_address = <pgtable::format::Output<F> as Address>::new(to);
        let attributes = attributes(rng);
        if tree.map(from, to_address, 1 << shift, attributes, Leaves::Exactly(shift)).is_ok() {
            mappings.push((from.get(), shift, to));
        }
    }
    mappings
}

/// Whether every set of contiguous entries is one as the manual wants it: as many entries as the
/// set has, all with the hint, their addresses one after the other, alike in all else (D8.7.1).
fn whole_sets<F: Format>(
    walker: &Walker<F, &DirectMap<'_, pgtable::format::Output<F>>>,
    mappings: &[Mapping],
) -> Result<(), String> {
    for &(from, shift, to) in mappings {
        let Some((_, entries)) = walker.format().geometry().group(shift) else { continue };
        let entry_shift = shift - entries;
        let mut first = None;
        for index in 0..1_u64 << entries {
            let at = <pgtable::format::Input<F> as Address>::new(from + (index << entry_shift));
            let entry = walker.trace(at).pop().ok_or("a set without entries")?;
            let Entry::Leaf { output, attributes } = entry.entry else {
                return Err(format!("a hole in the set at {from:#x}"));
            };
            let alike = *first.get_or_insert(attributes) == attributes;
            let follows = output.get() == to + (index << entry_shift);
            if entry.word & CONTIGUOUS == 0 || !follows || !alike {
                return Err(format!("the set at {from:#x} is misprogrammed: {entry:x?}"));
            }
        }
    }
    Ok(())
}

/// A host-physical address: mostly where data is.
fn output(rng: &mut Rng, _: u8) -> u64 {
    if rng.u8(..4) == 0 { rng.u64(..) >> rng.u8(12..28) } else { rng.u64(DATA.0..DATA.1) }
}

fn scene(
    machine: &Machine,
    mode: Mode,
    size: (Granule, (u8, bool)),
    memory: &Memory,
    rng: &mut Rng,
) -> Result<Option<Scene>, Box<dyn Error>> {
    let mut order = Order::default();
    let mut hcr = Hcr::new().with_rw(true);
    let mut first_mappings = Vec::new();
    let mair = Mair(MAIRS[rng.usize(..MAIRS.len())]);
    let id = rng.u16(1..256);

    // Stage 2 first: stage 1's pages are among its own.
    let mut second = None;
    let mut second_mappings: Vec<Mapping> = Vec::new();
    let mut code = CODE;
    let is_second = matches!(mode, Mode::Second | Mode::Both);
    let controls2 = controls2(machine, size, rng);
    let mut tree2 = None;
    if is_second {
        let format =
            VmsaStage2::new(controls2).map_err(|error| format!("{error}: {controls2:?}"))?;
        let mut tree = PageTable::new(format, memory.map::<Hpa>(), memory)?;
        code = code_at(controls2.input_bits);
        let plain = Stage2Attributes::from(Prot::RX);
        let leaves = Leaves::AtMost(16);
        tree.map(Gpa::new(code), Hpa::new(CODE), 0x1_0000, plain, leaves)
            .map_err(|error| format!("code: {error}"))?;
        second_mappings = map(&mut tree, rng, output, attributes2);
        whole_sets(&tree.walker(), &second_mappings)?;
        order.vtcr = format.vtcr().into_bits();
        order.vttbr = format.vttbr(tree.root(), id).into_bits();
        hcr = hcr.with_vm(true).with_fwb(controls2.fwb);
        second = Some((format, tree.root()));
        tree2 = Some(tree);
    }
    let regime = match mode {
        Mode::El2 => Regime::El2,
        Mode::El20 => Regime::El20,
        _ => Regime::El10,
    };
    order.sctlr = SCTLR[usize::from(regime != Regime::El10)];
    let mut registers = Registers::default();
    // What QEMU takes for no bits of TTBR1, and whether there are any.
    let (mut beyond, mut odd_root) = (0, false);
    if mode != Mode::Second {
        // Behind a second stage, any granule and size; tables must be in its reach.
        let size = if is_second {
            let granule = any_granule(machine, rng);
            let sizes = sizes(machine, granule, false);
            (granule, sizes[rng.usize(..sizes.len())])
        } else {
            size
        };
        let controls = controls1(machine, regime, size, rng);
        let format = VmsaStage1::new(controls).map_err(|error| format!("{error}: {controls:?}"))?;
        if is_second && !memory.begin() {
            return Ok(None);
        }
        let before = memory.next.get();
        let mut tree = PageTable::new(format, memory.map::<Gpa>(), memory)?;
        let upper = controls.range == VaRange::Upper;
        // Code in a range of its own, so that the other one's root may be anywhere.
        let apart = mode == Mode::First && upper && (controls.ds || rng.bool());
        let lower = VmsaStage1::new(Stage1Controls { range: VaRange::Lower, ..controls })
            .map_err(|error| format!("{error}: {controls:?}"))?;
        let mut code_tree = match apart {
            true => Some(PageTable::new(lower, memory.map::<Gpa>(), memory)?),
            false => None,
        };
        let of_code = code_tree.as_mut().unwrap_or(&mut tree);
        let at = of_code.format().address(code_at(controls.input_bits));
        let mut plain = Stage1Attributes::from(Prot::RX).with_shareability(Shareability::Inner);
        if regime.has_el0() {
            plain = Stage1Attributes::from(Prot::RX.for_user()).with_privileged_execute(true);
            plain = plain.with_user_execute(true);
        }
        let leaves = Leaves::AtMost(16);
        of_code
            .map(at, Gpa::new(code), 0x1_0000, plain, leaves)
            .map_err(|error| format!("code: {error}: {controls:?}"))?;
        code = at.get();
        if regime != Regime::El10 {
            // The hypervisor's own code.
            let own = Stage1Attributes::from(Prot::RX);
            tree.map(Gva::new(0), Gpa::new(0), 0x1_0000, own, leaves)
                .map_err(|error| format!("hypervisor: {error}: {controls:?}"))?;
        }
        let reachable = second_mappings.clone();
        let to = |rng: &mut Rng, shift: u8| match reachable.len() {
            0 => output(rng, shift),
            n => {
                let (ipa, size, _) = reachable[rng.usize(..n)];
                ipa | rng.u64(..) & low_bits(size)
            }
        };
        first_mappings = map(&mut tree, rng, to, |rng| attributes1(regime, rng));
        whole_sets(&tree.walker(), &first_mappings)?;
        let root = tree.root();
        if let Some(tree2) = &mut tree2 {
            // Stage 1's tables, page by page, so that each can be patched alone.
            let page = 1u64 << controls2.granule.shift();
            let mut at = before;
            // Stage 2's own tables come from the end.
            memory.end.set(TABLES.1.min(memory.next.get() + ROOM));
            let end = memory.next.get().next_multiple_of(0x1_0000);
            memory.next.set(end);
            let rw = Stage2Attributes::from(Prot::RW);
            while at < end {
                if tree2
                    .map(
                        Gpa::new(at),
                        Hpa::new(at),
                        page,
                        rw,
                        Leaves::Exactly(page.trailing_zeros() as u8),
                    )
                    .is_err()
                {
                    break;
                }
                at += page;
            }
        }
        let mut tcr = format.tcr();
        if let Some(tree) = &code_tree {
            registers.ttbr0 = lower.ttbr(tree.root(), 0).into_bits();
            let both = Tcr::from_bits(tcr.into_bits() | lower.tcr().into_bits());
            tcr = both.with_epd0(false).with_epd1(false);
        }
        let e0pd = machine.processor.e0pd && rng.u8(..6) == 0;
        registers = Registers {
            tcr: match regime {
                Regime::El2 => format.tcr_el2().into_bits(),
                _ if upper => tcr
                    .with_tbid1(rng.bool() && machine.processor.tbid)
                    .with_e0pd1(e0pd)
                    .into_bits(),
                _ => tcr
                    .with_tbid0(rng.bool() && machine.processor.tbid)
                    .with_e0pd0(e0pd)
                    .into_bits(),
            },
            pan: controls.pan,
            ..registers
        };
        let ttbr = format.ttbr(root, 0).into_bits();
        *if upper { &mut registers.ttbr1 } else { &mut registers.ttbr0 } = ttbr;
        // Bits 5:2 of a register for a root of 64 bytes or more: address bits 51:48, or none.
        let geometry = format.geometry();
        if apart && geometry.width(geometry.root()) >= 3 && rng.bool() {
            let bits = rng.u64(1..16) << 2;
            odd_root = true;
            let counted =
                !controls.ds || controls.granule == Granule::K64 || controls.output_bits == 52;
            *if counted { &mut registers.ttbr1 } else { &mut beyond } |= bits;
        }
        order.sctlr |= format.sctlr().into_bits();
        if regime == Regime::El20 {
            hcr = hcr.with_e2h(true).with_tge(true);
        }
    }
    registers.sctlr = order.sctlr;
    registers.hcr = hcr.into_bits();
    let paging = Paging::of(regime, registers, &machine.processor)?;
    let ttbr1 = registers.ttbr1 | beyond;
    let strict = Paging::of(regime, Registers { ttbr1, ..registers }, &machine.processor)?;
    let paging_without_pan =
        Paging::of(regime, Registers { pan: false, ..registers }, &machine.processor)?;
    let without_hd = if regime == Regime::El2 { !(1 << 22) } else { !(1 << 40) };
    let without_hd = Registers { tcr: registers.tcr & without_hd, ..registers };
    let paging_without_hd = Paging::of(regime, without_hd, &machine.processor)?;
    let without_wxn = Registers { sctlr: registers.sctlr & !(1 << 19), ..without_hd };
    let paging_without_wxn = Paging::of(regime, without_wxn, &machine.processor)?;
    if let Some((format, root)) = second {
        let read = stage2_of(order.vtcr, order.vttbr, registers.hcr, &machine.processor)?;
        // Registers say nothing of contiguous sets.
        let plain = VmsaStage2::new(Stage2Controls { contiguous: false, ..*format.controls() })?;
        assert_eq!(read, Some((plain, root)), "VTCR_EL2 says the format");
    }
    order.mode = u64::from(regime != Regime::El10);
    order.hcr = registers.hcr;
    order.tcr = registers.tcr;
    (order.ttbr0, order.ttbr1) = (registers.ttbr0, ttbr1);
    order.mair = mair.0;
    let mappings = if mode == Mode::Second { second_mappings } else { first_mappings };
    let pan = registers.pan;
    Ok((!mappings.is_empty()).then_some(Scene {
        mode,
        order,
        mair,
        pan,
        paging,
        strict,
        odd_root,
        paging_without_pan,
        paging_without_hd,
        paging_without_wxn,
        second,
        code,
        mappings,
    }))
}
