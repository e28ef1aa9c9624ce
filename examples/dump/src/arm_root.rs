//! The root on AArch64: a TTBR with TCR_EL1, or VTTBR_EL2 with VTCR_EL2; or what Linux says of
//! itself.
//!
//! No form of image has these registers. Source of what Linux says:
//! `arch/arm64/kernel/vmcore_info.c`, and `crash_core.c` before Linux 6.9.

use memory_image::{Allowance, Image, VmcoreInfo};
use pgtable::walk::Walker;
use pgtable::{Gpa, Gva};
use pgtable_aarch64::{
    Granule, Hcr, Paging, Processor, Regime, Registers, Sctlr, Stage1Controls, Tcr, Ttbr, VaRange,
    VmsaStage1, stage2_of,
};

use super::root::{Arch, Infos, Located, Request, Root, RootChoice};
use super::root_error::RootError;

/// A second stage, by VTTBR_EL2 and VTCR_EL2.
pub(crate) fn stage2(request: &Request) -> Result<Located, RootError> {
    let (Some(RootChoice::Address(vttbr)), Some(vtcr)) = (request.root, request.tcr) else {
        return Err(RootError::NoRoot("VTTBR_EL2, and VTCR_EL2 by --tcr".to_owned()));
    };
    let hcr = Hcr::new().with_vm(true).into_bits();
    match stage2_of(vtcr, vttbr, hcr, &Processor::MAX) {
        Ok(Some((format, root))) => {
            Ok(Located::new(Arch::Aarch64Stage2, Root::VmsaStage2(format, root), "--root"))
        }
        Ok(None) => Err(RootError::NoPaging("there is no second stage".to_owned())),
        Err(why) => Err(RootError::Unsupported(format!("VTCR_EL2 {vtcr:#x}: {why}"))),
    }
}

/// A first stage: of TTBR0_EL1, of TTBR1_EL1, or the kernel's own tables.
pub(crate) fn locate(
    image: &Image<'_>,
    request: &Request,
    infos: Infos<'_>,
) -> Result<Located, RootError> {
    // Without a root, or with the kernel's, the upper range is meant.
    let lower = matches!(request.root, Some(RootChoice::Address(_)));
    let (arch, range) = match request.arch {
        Some(Arch::Aarch64Upper) => (Arch::Aarch64Upper, VaRange::Upper),
        Some(_) => (Arch::Aarch64, VaRange::Lower),
        None if lower => (Arch::Aarch64, VaRange::Lower),
        None => (Arch::Aarch64Upper, VaRange::Upper),
    };
    let register = if range == VaRange::Upper { "TTBR1_EL1" } else { "TTBR0_EL1" };
    let no = |what: &str| RootError::NoRoot(format!("{register}{what}"));
    let info = || infos.one()?.ok_or_else(|| no(", and TCR_EL1 by --tcr"));
    let (ttbr, source) = match (request.root, range) {
        (Some(RootChoice::Address(ttbr)), _) => (ttbr, "--root"),
        // A process's root stands in its task, and no image says which one ran.
        (_, VaRange::Lower) => return Err(no("")),
        _ => {
            let info = info()?;
            let no = |what: &str| no(&format!(": VMCOREINFO does not {what}"));
            let symbol = info.symbol("swapper_pg_dir").ok_or_else(|| no("name swapper_pg_dir"))?;
            let offset = info.number("kimage_voffset").ok_or_else(|| no("tell kimage_voffset"))?;
            (symbol.wrapping_sub(offset as u64), "swapper_pg_dir in VMCOREINFO")
        }
    };
    let (format, root) = match request.tcr {
        Some(tcr) => by_tcr(range, tcr, ttbr)?,
        None => {
            let format = by_linux(range, info()?)?;
            // What the kernel tells is an address; a register holds bits 51:48 elsewhere.
            let root = if source == "--root" { Ttbr::from_bits(ttbr).root(true) } else { ttbr };
            (format, Gpa::new(root))
        }
    };
    let mut located = Located::new(arch, Root::VmsaStage1(format, root), source);
    let symbol = infos.chosen.and_then(|info| info.symbol("swapper_pg_dir"));
    if let (Some(symbol), None | Some(RootChoice::Kernel)) = (symbol, request.root) {
        if !maps_itself(image, format, root, symbol) {
            located.remarks.push(format!(
                "the tables at {root} do not map swapper_pg_dir ({symbol:#x}) there"
            ));
        }
    }
    Ok(located)
}

/// The tree that TCR_EL1 and a TTBR say, on a processor that has everything.
fn by_tcr(range: VaRange, tcr: u64, ttbr: u64) -> Result<(VmsaStage1, Gpa), RootError> {
    let upper = range == VaRange::Upper;
    // The other range may be anything.
    let only = Tcr::from_bits(tcr).with_epd0(upper).with_epd1(!upper);
    let registers = Registers {
        tcr: only.into_bits(),
        ttbr0: ttbr,
        ttbr1: ttbr,
        sctlr: Sctlr::new().with_m(true).into_bits(),
        hcr: Hcr::new().with_rw(true).into_bits(),
        ..Registers::default()
    };
    let unsupported = |why: &str| RootError::Unsupported(format!("TCR_EL1 {tcr:#x}: {why}"));
    let paging = Paging::of(Regime::El10, registers, &Processor::MAX)
        .map_err(|why| unsupported(&why.to_string()))?;
    let half = paging.half(range).ok_or_else(|| unsupported("the range is off"))?;
    Ok((half.format, half.root))
}

/// The lower range, as Linux has it.
pub(crate) fn lower(info: &VmcoreInfo) -> Result<VmsaStage1, RootError> {
    by_linux(VaRange::Lower, info)
}

/// The tree that Linux says. Both ranges have one size. What depends on registers that nothing
/// tells is there: 52-bit addresses with 64-KiB pages, and dirty state that hardware manages, which
/// a kernel of another processor does itself with the same bits.
fn by_linux(range: VaRange, info: &VmcoreInfo) -> Result<VmsaStage1, RootError> {
    let unsupported = |what: String| RootError::Unsupported(format!("VMCOREINFO says {what}"));
    let granule = match info.get("PAGESIZE") {
        Some("4096") => Granule::K4,
        Some("16384") => Granule::K16,
        Some("65536") => Granule::K64,
        other => return Err(unsupported(format!("PAGESIZE={}", other.unwrap_or("nothing")))),
    };
    // T1SZ is told since Linux 5.9; VA_BITS may be more than the processor has.
    let size = info.number("TCR_EL1_T1SZ").map(|size| (64 - (size & 63), "TCR_EL1_T1SZ"));
    let told = size.or_else(|| Some((info.number("VA_BITS")?, "VA_BITS")));
    let (bits, name) =
        told.ok_or_else(|| unsupported("neither TCR_EL1_T1SZ nor VA_BITS".into()))?;
    let controls = Stage1Controls {
        range,
        granule,
        input_bits: u8::try_from(bits).unwrap_or(0),
        output_bits: 52,
        physical_bits: 52,
        lva: true,
        ds: bits == 52,
        ha: true,
        hd: true,
        ..Stage1Controls::new()
    };
    VmsaStage1::new(controls).map_err(|why| unsupported(format!("{name}: {why}")))
}

/// Whether the tables at `root` lead from the address `symbol` to themselves.
fn maps_itself(image: &Image<'_>, format: VmsaStage1, root: Gpa, symbol: u64) -> bool {
    let tables = image.tables(Allowance { words: 64, bytes: 1 << 18 });
    let found = Walker::new(format, &tables, root).query(Gva::new(symbol));
    found.ok().flatten().is_some_and(|found| found.output == root)
}
