//! The root on RISC-V: satp or hgatp as registers hold them, or what Linux says of itself.
//!
//! No form of image has these registers. Source of what Linux says:
//! `arch/riscv/kernel/vmcore_info.c`, and `crash_core.c` before Linux 6.9.

use memory_image::{Allowance, Image, VmcoreInfo};
use pgtable::walk::Walker;
use pgtable::{Gpa, Gva};
use pgtable_riscv64::{Controls, Extensions, GuestControls, Hgatp, Mode, Satp, Sv, SvX4};

use super::root::{Arch, Infos, Located, Request, Root, RootChoice};
use super::root_error::RootError;

/// How far behind the start of memory a kernel stands that does not tell `va_kernel_pa_offset`:
/// there, or 2 MiB behind it, where its firmware is that start.
const LOADED: [u64; 2] = [0, 0x20_0000];

/// What entries may say: all of it, as a register that the image does not have decides. A hart
/// without an extension faults at entries that use it, so a system that runs has none of them.
const EXTENSIONS: Extensions =
    Extensions { adue: true, pbmte: true, svnapot: true, rsw60t59b: true };

fn first_stage(mode: Mode) -> Sv {
    Sv::new(mode, Controls { extensions: EXTENSIONS, ..Controls::new() })
}

fn mode(root: u64, code: u8) -> Result<Mode, RootError> {
    let why = "its MODE (bits 63:60) is 8 for Sv39, 9 for Sv48, or 10 for Sv57";
    Mode::from_code(code).ok_or(RootError::Bad { root, why })
}

/// A guest stage, by hgatp.
pub(crate) fn guest_stage(request: &Request) -> Result<Located, RootError> {
    let Some(RootChoice::Address(root)) = request.root else {
        return Err(RootError::NoRoot("hgatp".to_owned()));
    };
    let hgatp = Hgatp::from_bits(root);
    let controls = GuestControls { extensions: EXTENSIONS, ..GuestControls::new() };
    let format = SvX4::new(mode(root, hgatp.mode())?, controls);
    Ok(Located::new(Arch::Riscv64Guest, Root::SvX4(format, hgatp.root()), "--root"))
}

/// A first stage: satp, vsatp, or the kernel's own tables.
pub(crate) fn locate(
    image: &Image<'_>,
    request: &Request,
    infos: Infos<'_>,
) -> Result<Located, RootError> {
    let (mode, root, source) = match request.root {
        Some(RootChoice::Address(root)) => {
            let satp = Satp::from_bits(root);
            (mode(root, satp.mode())?, satp.root(), "--root".to_owned())
        }
        _ => match infos.one()? {
            Some(info) => kernel_root(image, info)?,
            None => return Err(RootError::NoRoot("satp".to_owned())),
        },
    };
    let format = first_stage(mode);
    let mut located = Located::new(Arch::Riscv64, Root::Sv(format, root), source);
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

/// Where the kernel's own tree is.
fn kernel_root(image: &Image<'_>, info: &VmcoreInfo) -> Result<(Mode, Gpa, String), RootError> {
    let no = |what: &str| RootError::NoRoot(format!("satp: VMCOREINFO does not {what}"));
    let symbol = info.symbol("swapper_pg_dir").ok_or_else(|| no("name swapper_pg_dir"))?;
    // Before Linux 5.17 there was Sv39 alone.
    let mode = match info.number("VA_BITS") {
        None | Some(39) => Mode::Sv39,
        Some(48) => Mode::Sv48,
        Some(57) => Mode::Sv57,
        Some(bits) => {
            let why = format!("VMCOREINFO says VA_BITS={bits}: that is no mode of RV64");
            return Err(RootError::Unsupported(why));
        }
    };
    if let Some(offset) = info.number("va_kernel_pa_offset") {
        let root = Gpa::new(symbol.wrapping_sub(offset as u64));
        return Ok((mode, root, "swapper_pg_dir in VMCOREINFO".to_owned()));
    }
    // Told since Linux 6.4.
    let start = info.number("phys_ram_base").map(|base| base as u64);
    let link = info.number("KERNEL_LINK_ADDR").map(|link| link as u64);
    let (Some(start), Some(link)) = (start, link) else {
        return Err(no("tell va_kernel_pa_offset"));
    };
    let at = |loaded| Gpa::new(symbol.wrapping_sub(link).wrapping_add(start + loaded));
    let root = LOADED.map(at).into_iter().find(|root| {
        image.holds(root.get(), 4096) && maps_itself(image, first_stage(mode), *root, symbol)
    });
    let source = "swapper_pg_dir in VMCOREINFO, behind phys_ram_base".to_owned();
    Ok((mode, root.ok_or_else(|| no("tell va_kernel_pa_offset"))?, source))
}

/// Whether the tables at `root` lead from the address `symbol` to themselves.
fn maps_itself(image: &Image<'_>, format: Sv, root: Gpa, symbol: u64) -> bool {
    let tables = image.tables(Allowance { words: 64, bytes: 1 << 17 });
    let found = Walker::new(format, &tables, root).query(Gva::new(symbol));
    found.ok().flatten().is_some_and(|found| found.output == root)
}
