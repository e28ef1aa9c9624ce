//! The root on x86, in each paging mode: from a CPU's registers, or from what Linux says of itself.

use memory_image::{Image, VmcoreInfo, X86Registers};
use pgtable::format::FirstStage;
use pgtable::walk::Walker;
use pgtable::{Gpa, Gva};
use pgtable_x86::{
    Controls, Cr3, Cr3Pae, Levels, LongMode, Pae, Paging, Paging32, Registers, Unsupported,
};

use super::root::{Arch, EM_386, Infos, Located, Request, Root, RootChoice};
use super::root_error::RootError;

/// Where Linux on x86-64 has its own image (`__START_KERNEL_map`).
const KERNEL_MAP: u64 = 0xffff_ffff_8000_0000;
/// Where Linux on 32-bit x86 may have its direct map (`CONFIG_VMSPLIT_*` of `arch/x86/Kconfig`),
/// the default first.
const PAGE_OFFSETS: [u64; 5] = [0xc000_0000, 0xb000_0000, 0x8000_0000, 0x7800_0000, 0x4000_0000];
/// With page-table isolation the user's root table follows the kernel's (`arch/x86/mm/pti.c`), and
/// this bit of the PCID is set for it (`X86_CR3_PTI_PCID_USER_BIT`).
pub(crate) const USER_HALF: u64 = 1 << 12;
const USER_PCID: u64 = 1 << 11;
/// Of CR3 what is no tag: no LAM, and no bit that only a MOV has.
const CR3: u64 = FRAME | 0xfff;
/// CR4.LASS and CR4.LAM_SUP, EFER.UAIE (SDM §2.5, §4.4; APM §3.1.7).
const LASS: u64 = 1 << 27;
const LAM_SUP: u64 = 1 << 28;
const UAI: u64 = 1 << 20;
/// The address bits of CR3.
const FRAME: u64 = 0x000f_ffff_ffff_f000;

/// A paging mode, with what the registers say of accesses.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Mode {
    Long(LongMode),
    Pae(Pae),
    Bits32(Paging32),
}

impl Mode {
    /// The mode of `arch`, under `controls`.
    fn of(arch: Arch, controls: Controls) -> Self {
        match arch {
            Arch::X86_32 => Self::Bits32(Paging32::new(controls)),
            Arch::X86Pae => Self::Pae(Pae::new(controls)),
            Arch::X86_64La57 => Self::Long(LongMode::new(Levels::Five, controls)),
            _ => Self::Long(LongMode::new(Levels::Four, controls)),
        }
    }

    fn arch(self) -> Arch {
        match self {
            Self::Bits32(_) => Arch::X86_32,
            Self::Pae(_) => Arch::X86Pae,
            Self::Long(format) if format.levels() == Levels::Five => Arch::X86_64La57,
            Self::Long(_) => Arch::X86_64,
        }
    }

    fn controls(self) -> Controls {
        match self {
            Self::Bits32(format) => *format.controls(),
            Self::Pae(format) => *format.controls(),
            Self::Long(format) => *format.controls(),
        }
    }

    /// Bits that are set in no CR3: reserved ones (Intel SDM volume 3, "Control Registers", and
    /// "Use of CR3 with 4-Level Paging"; bits 63:61 are flags).
    fn no_root(self) -> u64 {
        match self {
            Self::Long(_) => 0x1ff << 52,
            _ => !u64::from(u32::MAX),
        }
    }

    /// The tables that `cr3` refers to; `foreign` bits are no address.
    fn root(self, cr3: u64, foreign: u64) -> Root {
        let root = Gpa::new(Cr3::from_bits(cr3).root().get() & !foreign);
        let narrow = cr3 & u64::from(u32::MAX);
        match self {
            Self::Bits32(format) => Root::Paging32(format, Cr3::from_bits(narrow).root()),
            // The image may be one of a machine that QEMU emulated in software.
            Self::Pae(format) => {
                Root::Pae(format.with_marked_pdptes(), Cr3Pae::from_bits(narrow).root())
            }
            Self::Long(format) => Root::LongMode(format, root),
        }
    }

    /// Where the tables at `cr3` say that `va` is.
    fn query(self, image: &Image<'_>, cr3: u64, foreign: u64, va: u64) -> Option<Gpa> {
        fn find<F: FirstStage<Fault = pgtable_x86::LongModeFault>>(
            image: &Image<'_>,
            format: F,
            root: Gpa,
            foreign: u64,
            va: u64,
        ) -> Option<Gpa> {
            let allowance = memory_image::Allowance { words: 64, bytes: 1 << 17 };
            let tables = image.tables(allowance).without(foreign);
            Some(Walker::new(format, &tables, root).query(Gva::new(va)).ok()??.output)
        }
        match self.root(cr3, foreign) {
            Root::LongMode(format, root) => find(image, format, root, foreign, va),
            Root::Pae(format, root) => find(image, format, root, foreign, va),
            Root::Paging32(format, root) => find(image, format, root, foreign, va),
            _ => None,
        }
    }
}

/// A CPU that translates.
#[derive(Clone, Copy)]
struct Cpu {
    index: usize,
    registers: X86Registers,
    mode: Mode,
}

impl Cpu {
    /// CR3 holds the user's half of page-table isolation, as far as can be seen.
    fn has_user_half(&self) -> bool {
        let user_mode = self.registers.cs.is_some_and(|cs| cs & 3 == 3);
        let cr3 = self.registers.cr3;
        let half = cr3 & USER_HALF != 0;
        match self.mode {
            Mode::Long(_) => half && (user_mode || cr3 & USER_PCID != 0),
            // Without isolation roots stand at multiples of 32 bytes, with it at the first of a
            // page.
            Mode::Pae(_) => half && user_mode && Cr3Pae::from_bits(cr3).root().get() & 0xfff == 0,
            // Linux has isolation in PAE paging and long mode alone.
            Mode::Bits32(_) => false,
        }
    }
}

/// Whether the CPUs of `image` were in long mode, where no EFER says it.
///
/// QEMU calls a machine one of x86-64 if its first CPU was in long mode, which it is not after
/// reset: then the registers of another say it, if these could be no others' than long mode's.
fn is_long(image: &Image<'_>, request: &Request, registers: &X86Registers) -> bool {
    const LA57_OR_PCIDE: u64 = 1 << 12 | 1 << 17;
    match request.arch {
        Some(Arch::X86_32 | Arch::X86Pae) => false,
        Some(_) => true,
        None if image.machine() != Some(EM_386) => true,
        None => registers.cr4 & LA57_OR_PCIDE != 0 || registers.wide,
    }
}

/// How a CPU translates; why it does not, in words.
fn paging(image: &Image<'_>, request: &Request, index: usize) -> Result<Cpu, String> {
    let registers = image.notes().x86[index];
    let X86Registers { cr0, cr3, cr4, efer, rflags, .. } = registers;
    // QEMU's notes have no EFER. With paging and PAE a core of x86-64 is in long mode.
    let long = cr0 >> 31 & 1 != 0 && cr4 >> 5 & 1 != 0 && is_long(image, request, &registers);
    let assumed = if long { 0xd00 } else { 0x800 };
    let efer = efer.unwrap_or(assumed);
    // What an address's tag means, and whose addresses a mode may use, is not asked here.
    let raw = Registers::from_raw(cr0, cr3 & CR3, cr4 & !(LASS | LAM_SUP), efer & !UAI);
    let ac = rflags.is_some_and(|flags| flags >> 18 & 1 != 0);
    // Without the register PKRU and IA32_PKRS no key denies anything.
    let mode = match Paging::of(raw, Controls { ac, ..Controls::new() }) {
        Ok(Paging::Long { format, .. }) => Mode::Long(format),
        Ok(Paging::Pae { format, .. }) => Mode::Pae(format),
        Ok(Paging::Bits32 { format, .. }) => Mode::Bits32(format),
        Ok(Paging::Off) => return Err(format!("CPU {index} had paging off (CR0 {cr0:#x})")),
        Err(why) => return Err(format!("CPU {index} was in {}", unsupported(why))),
    };
    Ok(Cpu { index, registers, mode })
}

/// Why a paging mode is not read, in words.
fn unsupported(why: Unsupported) -> &'static str {
    match why {
        Unsupported::Impossible(_) => "no paging mode: its control registers contradict each other",
        // An encrypted guest's CR3, a reserved bit.
        _ => "paging with a control bit that changes translation and is not read",
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
        if cpu >= all.len() {
            return Err(RootError::NoCpu { cpu, cpus: all.len() });
        }
        return paging(image, request, cpu).map(Some).map_err(RootError::NoPaging);
    }
    for index in 0..all.len() {
        match paging(image, request, index) {
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
    let (arch, controls) = match (request.arch, cpu) {
        (Some(_), cpu) => {
            if cpu.is_some_and(|cpu| cpu.mode.arch() != arch) && !by_hand {
                remarks.push("the control registers of the CPU say another paging mode".to_owned());
            }
            (arch, cpu.map(|cpu| cpu.mode.controls()))
        }
        (None, Some(cpu)) => (cpu.mode.arch(), Some(cpu.mode.controls())),
        (None, None) => (told(arch, infos), None),
    };
    let mode = Mode::of(arch, controls.unwrap_or_default());

    let mut hint = None;
    let (cr3, source) = match (request.root, cpu) {
        (Some(RootChoice::Address(cr3)), _) => (cr3, "--root".to_owned()),
        (Some(RootChoice::User), Some(cpu)) => {
            let long = matches!(cpu.mode, Mode::Long(_));
            if long && !has_user_half(image, cpu.registers.cr3) {
                let why = "the tables of the CPU have no user's half: the kernel runs without \
                    page-table isolation";
                return Err(RootError::NoPaging(why.to_owned()));
            }
            (cpu.registers.cr3 | USER_HALF, format!("the user's half of CPU {}", cpu.index))
        }
        (Some(RootChoice::Kernel), Some(cpu)) if infos.all.is_empty() => {
            let source = format!("CR3 of CPU {}, with bit 12 cleared", cpu.index);
            (cpu.registers.cr3 & !USER_HALF, source)
        }
        (None, Some(cpu)) => {
            remarks.extend(others(image, request, cpu));
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
            Some(info) => kernel_root(image, info, mode)?,
            None if !remarks.is_empty() => {
                let all = remarks.join("; ");
                return Err(RootError::NoPaging(format!("{all}: no tables to read (--root)")));
            }
            None => return Err(RootError::NoRoot("CR3".to_owned())),
        },
    };
    if cr3 & mode.no_root() != 0 {
        let why = "CR3 has no such bits of an address in this mode";
        return Err(RootError::Bad { root: cr3, why });
    }
    let foreign = match mode {
        Mode::Long(_) => c_bit(image, request, infos, cr3, &mut remarks),
        _ => 0,
    };
    let mut located = Located::new(arch, mode.root(cr3, foreign), source);
    located.kernel_hint = hint;
    located.foreign = foreign;
    if let (Some(info), "swapper_pg_dir in VMCOREINFO") = (infos.chosen, located.source.as_str()) {
        remarks.extend(stray(image, info, mode, cr3, foreign));
    }
    located.remarks = remarks;
    Ok(located)
}

/// Whether the page behind the root table at `cr3` is the user's half of page-table isolation:
/// Linux keeps the lower half of both alike (`__pti_set_user_pgtbl`), but for the right to execute
/// and what hardware records. Where that cannot be told, it may be.
pub(crate) fn has_user_half(image: &Image<'_>, cr3: u64) -> bool {
    const LOWER: usize = 2048;
    const OTHERWISE: u64 = 1 << 63 | 0x20;
    let root = cr3 & FRAME & !USER_HALF;
    let halves = [root, root | USER_HALF].map(|at| {
        let mut half = vec![0; LOWER];
        image.read(at, &mut half).is_ok().then_some(half)
    });
    let [Some(kernel), Some(user)] = halves else { return true };
    let entries = |half: &[u8]| -> Vec<u64> {
        let word = |it: &[u8]| it.iter().rev().fold(0, |sum, byte| sum << 8 | u64::from(*byte));
        half.chunks_exact(8).map(|it| word(it) & !OTHERWISE).collect()
    };
    let (kernel, user) = (entries(&kernel), entries(&user));
    // One may be on its way from the one to the other.
    let same = |(one, two): (&u64, &u64)| *one != 0 && one == two;
    kernel.iter().all(|entry| *entry == 0) || kernel.iter().zip(&user).any(same)
}

/// What the image says of the mode, if no CPU does.
fn told(arch: Arch, infos: Infos<'_>) -> Arch {
    match arch {
        Arch::X86_64
            if infos.chosen.and_then(|info| info.number("pgtable_l5_enabled")) == Some(1) =>
        {
            Arch::X86_64La57
        }
        Arch::X86_32 if infos.chosen.is_some_and(|info| info.get("CONFIG_X86_PAE").is_some()) => {
            Arch::X86Pae
        }
        other => other,
    }
}

/// What other CPUs have in CR3.
fn others(image: &Image<'_>, request: &Request, cpu: Cpu) -> Option<String> {
    let root = |registers: &X86Registers| {
        registers.cr3 & if let Mode::Pae(_) = cpu.mode { !0x1f } else { FRAME }
    };
    let mut others = image.notes().x86.iter().enumerate().filter(|(index, registers)| {
        paging(image, request, *index).is_ok() && root(registers) != root(&cpu.registers)
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
    mode: Mode,
) -> Result<(u64, String), RootError> {
    let names = ["swapper_pg_dir", "init_top_pgt", "init_level4_pgt"];
    let Some((name, symbol)) = names.iter().find_map(|name| Some((*name, info.symbol(name)?)))
    else {
        return Err(RootError::NoRoot("CR3: VMCOREINFO does not name swapper_pg_dir".to_owned()));
    };
    if !matches!(mode, Mode::Long(_)) {
        // A kernel of 32 bits does not tell where it has its direct map: its tables do.
        let root = PAGE_OFFSETS
            .iter()
            .map(|offset| symbol.wrapping_sub(*offset))
            .find(|root| *root >> 32 == 0 && maps_itself(image, mode, *root, symbol, 0));
        let none = "CR3: the tables that VMCOREINFO names are at none of Linux's usual places";
        let root = root.ok_or_else(|| RootError::NoRoot(none.to_owned()))?;
        return Ok((root, format!("{name} in VMCOREINFO")));
    }
    let at = |base| symbol.wrapping_sub(KERNEL_MAP).wrapping_add_signed(base);
    if let Some(base) = info.number("phys_base") {
        let root = at(base);
        if root >> 52 != 0 {
            let why = "phys_base in VMCOREINFO leads beyond all memory";
            return Err(RootError::Bad { root, why });
        }
        return Ok((root, format!("{name} in VMCOREINFO")));
    }
    // Before phys_base was told it was 0, unless the kernel was relocated.
    if maps_itself(image, mode, at(0), symbol, 0) {
        return Ok((at(0), format!("{name} in VMCOREINFO, as without phys_base")));
    }
    Err(RootError::NoRoot("CR3: VMCOREINFO does not tell phys_base".to_owned()))
}

/// Where a kernel of 32 bits has its direct map: by the address of its tables, the default without.
pub(crate) fn page_offset(info: Option<&VmcoreInfo>) -> u64 {
    let symbol = info.and_then(|info| info.symbol("swapper_pg_dir"));
    let below = |offset: &u64| symbol.is_none_or(|symbol| *offset <= symbol);
    PAGE_OFFSETS.into_iter().find(below).unwrap_or(PAGE_OFFSETS[0])
}

/// Whether the tables at `cr3` lead from the address `symbol` to themselves.
fn maps_itself(image: &Image<'_>, mode: Mode, cr3: u64, symbol: u64, foreign: u64) -> bool {
    let root = mode.root(cr3, foreign).address();
    mode.query(image, cr3, foreign, symbol) == Some(Gpa::new(root))
}

/// What to say if the tables at the root are not those of the kernel that names them.
fn stray(
    image: &Image<'_>,
    info: &VmcoreInfo,
    mode: Mode,
    cr3: u64,
    foreign: u64,
) -> Option<String> {
    let symbol = info.symbol("swapper_pg_dir")?;
    let itself = maps_itself(image, mode, cr3, symbol, foreign);
    let root = mode.root(cr3, foreign).address();
    (!itself)
        .then(|| format!("the tables at {root:#x} do not map swapper_pg_dir ({symbol:#x}) there"))
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
