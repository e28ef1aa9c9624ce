//! The root on x86-64: from a CPU's registers, or from what Linux says of itself.

use arch_x86::{Controls, Cr3, Levels, LongMode, Paging, Registers};
use memory_image::{Image, VmcoreInfo, X86Registers};
use pgtable::{Gpa, Gva, Walker};

use super::root::{Arch, Infos, Located, Request, Root, RootChoice, unsupported};
use super::root_error::RootError;

/// Where Linux on x86-64 has its own image (`__START_KERNEL_map`).
const KERNEL_MAP: u64 = 0xffff_ffff_8000_0000;
/// With page-table isolation the user's root table follows the kernel's (`arch/x86/mm/pti.c`), and
/// this bit of the PCID is set for it (`X86_CR3_PTI_PCID_USER_BIT`).
const USER_HALF: u64 = 1 << 12;
const USER_PCID: u64 = 1 << 11;
/// Of CR3 what is no tag: no LAM, and no bit that only a MOV has.
const CR3: u64 = FRAME | 0xfff;
/// CR4.LASS and CR4.LAM_SUP, EFER.UAIE (SDM §2.5, §4.4; APM §3.1.7).
const LASS: u64 = 1 << 27;
const LAM_SUP: u64 = 1 << 28;
const UAI: u64 = 1 << 20;
/// The address bits of CR3.
const FRAME: u64 = 0x000f_ffff_ffff_f000;

/// A CPU that translates in long mode.
#[derive(Clone, Copy)]
struct Cpu {
    index: usize,
    registers: X86Registers,
    format: LongMode,
}

impl Cpu {
    /// CR3 holds the user's half of page-table isolation, as far as can be seen.
    fn has_user_half(&self) -> bool {
        let user_mode = self.registers.cs.is_some_and(|cs| cs & 3 == 3);
        let cr3 = self.registers.cr3;
        cr3 & USER_HALF != 0 && (user_mode || cr3 & USER_PCID != 0)
    }
}

/// How a CPU translates; why it does not, in words.
fn paging(index: usize, registers: X86Registers) -> Result<Cpu, String> {
    let X86Registers { cr0, cr3, cr4, efer, rflags, .. } = registers;
    // QEMU's notes have no EFER, but the core is one of x86-64: with paging and PAE it is long
    // mode.
    let long = cr0 >> 31 & 1 != 0 && cr4 >> 5 & 1 != 0;
    let assumed = if long { 0xd00 } else { 0x800 };
    let efer = efer.unwrap_or(assumed);
    // What an address's tag means, and whose addresses a mode may use, is not asked here.
    let raw = Registers::from_raw(cr0, cr3 & CR3, cr4 & !(LASS | LAM_SUP), efer & !UAI);
    let ac = rflags.is_some_and(|flags| flags >> 18 & 1 != 0);
    // Without the register PKRU and IA32_PKRS no key denies anything.
    match Paging::of(raw, Controls { ac, ..Controls::new() }) {
        Ok(Paging::Long { format, .. }) => Ok(Cpu { index, registers, format }),
        Ok(Paging::Bits32 { .. }) => {
            Err(format!("CPU {index} was in 32-bit paging, which is not read"))
        }
        Ok(Paging::Pae { .. }) => Err(format!("CPU {index} was in PAE paging, which is not read")),
        Ok(_) => Err(format!("CPU {index} had paging off (CR0 {cr0:#x})")),
        Err(why) => Err(format!("CPU {index} was in {}", unsupported(why))),
    }
}

/// The CPU that was asked for, or the first that translates; and what was passed over.
fn choose(
    image: &Image<'_>,
    request: &Request,
    remarks: &mut Vec<String>,
) -> Result<Option<Cpu>, RootError> {
    let all = &image.notes().x86;
    if let Some(cpu) = request.cpu {
        let none = RootError::NoCpu { cpu, cpus: all.len() };
        let registers = *all.get(cpu).ok_or(none)?;
        return paging(cpu, registers).map(Some).map_err(RootError::NoPaging);
    }
    for (index, registers) in all.iter().enumerate() {
        match paging(index, *registers) {
            Ok(cpu) => return Ok(Some(cpu)),
            Err(why) => remarks.push(why),
        }
    }
    Ok(None)
}

pub(crate) fn locate(
    image: &Image<'_>,
    request: &Request,
    arch: Arch,
    infos: Infos<'_>,
) -> Result<Located, RootError> {
    let mut remarks = Vec::new();
    let by_hand = matches!(request.root, Some(RootChoice::Address(_)));
    let cpu = match choose(image, request, &mut remarks) {
        // A root that is given needs no CPU, unless one was asked for.
        Err(_) if by_hand && request.cpu.is_none() => None,
        other => other?,
    };
    let told = infos.chosen.and_then(|info| info.number("pgtable_l5_enabled"));
    let (levels, controls) = match (request.arch, cpu, told) {
        (Some(_), ..) => {
            let levels = if arch == Arch::X86_64 { Levels::Four } else { Levels::Five };
            if cpu.is_some_and(|cpu| cpu.format.levels() != levels) && !by_hand {
                remarks.push("CR4.LA57 of the CPU says another number of levels".to_owned());
            }
            (levels, cpu.map(|cpu| *cpu.format.controls()))
        }
        (None, Some(cpu), _) => (cpu.format.levels(), Some(*cpu.format.controls())),
        (None, None, Some(1)) => (Levels::Five, None),
        (None, None, _) => (Levels::Four, None),
    };
    let arch = if levels == Levels::Four { Arch::X86_64 } else { Arch::X86_64La57 };
    let format = LongMode::new(levels, controls.unwrap_or_default());

    let mut hint = None;
    let (cr3, source) = match (request.root, cpu) {
        (Some(RootChoice::Address(cr3)), _) => (cr3, "--root".to_owned()),
        (Some(RootChoice::User), Some(cpu)) => {
            (cpu.registers.cr3 | USER_HALF, format!("the user's half of CPU {}", cpu.index))
        }
        (Some(RootChoice::Kernel), Some(cpu)) if infos.all.is_empty() => {
            let source = format!("CR3 of CPU {}, with bit 12 cleared", cpu.index);
            (cpu.registers.cr3 & !USER_HALF, source)
        }
        (None, Some(cpu)) => {
            remarks.extend(others(image, cpu));
            if cpu.registers.cr4 & LASS != 0 {
                remarks.push("CR4.LASS is set: it is not judged".to_owned());
            }
            if cpu.has_user_half() {
                let Cpu { index, registers, .. } = cpu;
                let half = format!(
                    "CPU {index} was in user mode, and CR3 {:#x} is the user's half of page-table \
                    isolation: --root kernel has the kernel's",
                    registers.cr3
                );
                remarks.push(half.clone());
                hint = Some(half);
            }
            (cpu.registers.cr3, format!("CR3 of CPU {} in the image's notes", cpu.index))
        }
        (Some(RootChoice::User), None) => {
            return Err(RootError::NoRoot("CR3: the image has no CPU's".to_owned()));
        }
        (None | Some(RootChoice::Kernel), _) => match infos.one()? {
            Some(info) => kernel_root(image, info, format)?,
            None if !remarks.is_empty() => {
                let all = remarks.join("; ");
                return Err(RootError::NoPaging(format!("{all}: no tables to read (--root)")));
            }
            None => return Err(RootError::NoRoot("CR3".to_owned())),
        },
    };
    let foreign = c_bit(image, request, infos, cr3, &mut remarks);
    let root = Gpa::new(Cr3::from_bits(cr3).root().get() & !foreign);
    let mut located = Located::new(arch, Root::LongMode(format, root), source);
    located.kernel_hint = hint;
    located.foreign = foreign;
    if let (Some(info), "swapper_pg_dir in VMCOREINFO") = (infos.chosen, located.source.as_str()) {
        remarks.extend(stray(image, info, format, root, foreign));
    }
    located.remarks = remarks;
    Ok(located)
}

/// What other CPUs have in CR3.
fn others(image: &Image<'_>, cpu: Cpu) -> Option<String> {
    let root = |registers: &X86Registers| registers.cr3 & FRAME;
    let mut others = image.notes().x86.iter().enumerate().filter(|(index, registers)| {
        paging(*index, **registers).is_ok() && root(registers) != root(&cpu.registers)
    });
    let (index, registers) = others.next()?;
    let more = match others.count() {
        0 => String::new(),
        more => format!(", and {more} more CPUs have others"),
    };
    Some(format!("CPU {index} has another root, {:#x} (--cpu {index}){more}", root(registers)))
}

/// Where the kernel's own tree is.
fn kernel_root(
    image: &Image<'_>,
    info: &VmcoreInfo,
    format: LongMode,
) -> Result<(u64, String), RootError> {
    let names = ["swapper_pg_dir", "init_top_pgt", "init_level4_pgt"];
    let Some((name, symbol)) = names.iter().find_map(|name| Some((*name, info.symbol(name)?)))
    else {
        return Err(RootError::NoRoot("CR3: VMCOREINFO does not name swapper_pg_dir".to_owned()));
    };
    let at = |base| symbol.wrapping_sub(KERNEL_MAP).wrapping_add_signed(base);
    if let Some(base) = info.number("phys_base") {
        return Ok((at(base), format!("{name} in VMCOREINFO")));
    }
    // Before phys_base was told it was 0, unless the kernel was relocated.
    let root = Gpa::new(at(0));
    if maps_itself(image, format, root, symbol, 0) {
        return Ok((root.get(), format!("{name} in VMCOREINFO, as without phys_base")));
    }
    Err(RootError::NoRoot("CR3: VMCOREINFO does not tell phys_base".to_owned()))
}

/// Whether the tables at `root` lead from the address `symbol` to themselves.
fn maps_itself(image: &Image<'_>, format: LongMode, root: Gpa, symbol: u64, foreign: u64) -> bool {
    let tables =
        image.tables(memory_image::Allowance { words: 64, bytes: 1 << 17 }).without(foreign);
    let found = Walker::new(format, &tables, root).query(Gva::new(symbol));
    found.ok().flatten().is_some_and(|found| found.output == root)
}

/// What to say if the tables at the root are not those of the kernel that names them.
fn stray(
    image: &Image<'_>,
    info: &VmcoreInfo,
    format: LongMode,
    root: Gpa,
    foreign: u64,
) -> Option<String> {
    let symbol = info.symbol("swapper_pg_dir")?;
    let itself = maps_itself(image, format, root, symbol, foreign);
    (!itself).then(|| format!("the tables at {root} do not map swapper_pg_dir ({symbol:#x}) there"))
}

/// The C-bit, as a mask: as the user says, as Linux says (`sme_mask`), or the one bit of CR3
/// without which the root is in the image.
fn c_bit(
    image: &Image<'_>,
    request: &Request,
    infos: Infos<'_>,
    cr3: u64,
    remarks: &mut Vec<String>,
) -> u64 {
    let told = infos.chosen.and_then(|info| info.number("sme_mask")).map_or(0, |it| it as u64);
    let (mask, who) = match request.c_bit {
        Some(bit) => (1_u64.checked_shl(bit.into()).unwrap_or(0), "--c-bit"),
        None if told != 0 => (told, "sme_mask in VMCOREINFO"),
        None => {
            let root = cr3 & FRAME;
            let bits = (43..52).map(|bit| 1_u64 << bit).filter(|bit| root & bit != 0);
            let mut fit = bits.filter(|bit| image.holds(root & !bit, 4096));
            match fit.next() {
                Some(bit) if !image.holds(root, 4096) => (bit, "CR3"),
                _ => (0, ""),
            }
        }
    };
    if mask != 0 {
        let bit = mask.trailing_zeros();
        remarks.push(format!("memory is encrypted: bit {bit} of addresses is the C-bit ({who})"));
    }
    mask
}
