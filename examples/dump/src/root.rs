//! From what the user says and what the image tells to the root of the tables.
//!
//! | architecture | root as the user gives it | where else it is looked for |
//! | --- | --- | --- |
//! | `x86-64`, `x86-64-la57` | CR3 | the registers of a CPU; `swapper_pg_dir` in VMCOREINFO |
//! | `x86-32`, `x86-pae` | CR3 | likewise |
//! | `aarch64` | TTBR0_EL1, with TCR_EL1 (`--tcr`) or the sizes of Linux's notes | |
//! | `aarch64-upper` | TTBR1_EL1, likewise | `swapper_pg_dir` in VMCOREINFO |
//! | `aarch64-stage2` | VTTBR_EL2, with VTCR_EL2 (`--tcr`) | |
//! | `riscv64` | satp or vsatp: its MODE says how many levels | `swapper_pg_dir` in VMCOREINFO |
//! | `riscv64-guest` | hgatp: its MODE says how many levels | |
//! | `ept` | EPTP: its walk length says how many levels; 0 there is four as well | |
//! | `ppc64-radix` | the process table's address, with PRTS in its low five bits or without | `swapper_pg_dir` in VMCOREINFO (process 0); the table itself, by its looks |
//! | `ppc64-hash` | HTABORG and HTABSIZE as in SDR1 | |
//!
//! Where the image has several candidates none is taken silently: either all are named and the user
//! has to choose, or [`Located::remarks`] says which was taken and what the others are.

use memory_image::{Image, VmcoreInfo};
use pgtable::{Gpa, Hpa};
use pgtable_aarch64::{VmsaStage1, VmsaStage2};
use pgtable_ppc64::hash::{Layout, Slb};
use pgtable_ppc64::radix::ProcessScoped;
use pgtable_riscv64::{Sv, SvX4};
use pgtable_x86::{Ept, EptControls, Eptp, Levels, LongMode, Pae, Paging32};

use super::hash::{HashTable, HashView};
use super::linux::LinuxLayout;
use super::root_error::{RootError, Several};
use super::search::search_vmcoreinfo;
use super::{arm_root, hash_root, radix_root, riscv_root, x86_root};

/// Which tables an image is looked at through.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Arch {
    /// POWER, radix trees.
    Ppc64Radix,
    /// POWER, a hashed page table.
    Ppc64Hash,
    /// x86-64 with four levels.
    X86_64,
    /// x86-64 with five levels.
    X86_64La57,
    /// x86 with 32-bit paging: entries of 4 bytes.
    X86_32,
    /// x86 with PAE paging: addresses of 32 bits, entries of 8 bytes.
    X86Pae,
    /// Intel's second stage.
    Ept,
    /// AArch64, the lower range of EL1&0 (TTBR0).
    Aarch64,
    /// AArch64, the upper range of EL1&0 (TTBR1).
    Aarch64Upper,
    /// AArch64, a second stage.
    Aarch64Stage2,
    /// RISC-V, a first stage.
    Riscv64,
    /// RISC-V, a guest stage.
    Riscv64Guest,
}

impl Arch {
    /// Its name on the command line.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Ppc64Radix => "ppc64-radix",
            Self::Ppc64Hash => "ppc64-hash",
            Self::X86_64 => "x86-64",
            Self::X86_64La57 => "x86-64-la57",
            Self::X86_32 => "x86-32",
            Self::X86Pae => "x86-pae",
            Self::Ept => "ept",
            Self::Aarch64 => "aarch64",
            Self::Aarch64Upper => "aarch64-upper",
            Self::Aarch64Stage2 => "aarch64-stage2",
            Self::Riscv64 => "riscv64",
            Self::Riscv64Guest => "riscv64-guest",
        }
    }
}

/// Which root the user asks for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum RootChoice {
    /// This one, as the architecture's register holds it.
    Address(u64),
    /// The kernel's own tables; of a CPU whose CR3 has the user's half of Linux's page-table
    /// isolation, the kernel's half.
    Kernel,
    /// The user's half of Linux's page-table isolation.
    User,
}

/// What the user says.
#[derive(Clone, Debug, Default)]
pub struct Request {
    /// Which tables; `None`: as the image says.
    pub arch: Option<Arch>,
    /// The root; `None`: to be found.
    pub root: Option<RootChoice>,
    /// On AArch64: TCR_EL1, or VTCR_EL2 of a second stage; `None`: the sizes are Linux's.
    pub tcr: Option<u64>,
    /// Which process, on POWER.
    pub pid: Option<u32>,
    /// What Linux says of itself is looked for in memory even if the root is known without.
    pub linux: bool,
    /// Whose registers; `None`: the first CPU's that has paging on.
    pub cpu: Option<usize>,
    /// Which of several VMCOREINFO notes, counted from 0.
    pub vmcoreinfo: Option<usize>,
    /// The bit of addresses that marks encrypted memory; `None`: as the image tells.
    pub c_bit: Option<u8>,
    /// EPT: "mode-based execute control" is on.
    pub mode_based_execute: bool,
    /// The layout of hashed entries; `None`: as they tell.
    pub layout: Option<Layout>,
    /// Segments for a hashed page table, if they are not Linux's.
    pub slb: Option<Box<Slb>>,
    /// How Linux lays out its addresses under a hashed page table; `None`: as the image says.
    pub linux_layout: Option<LinuxLayout>,
}

impl Request {
    /// Whether the root alone does not say what tables it begins, and Linux's notes may.
    fn needs_sizes(&self) -> bool {
        matches!(self.arch, Some(Arch::Aarch64 | Arch::Aarch64Upper)) && self.tcr.is_none()
    }
}

/// Where the tables begin.
#[derive(Clone, Debug)]
pub enum Root {
    /// A guest's tree on x86-64.
    LongMode(LongMode, Gpa),
    /// A guest's tree in PAE paging.
    Pae(Pae, Gpa),
    /// A guest's tree in 32-bit paging.
    Paging32(Paging32, Gpa),
    /// An extended page table.
    Ept(Ept, Hpa),
    /// The tree of a process on POWER.
    Radix(ProcessScoped, Gpa),
    /// A hashed page table.
    Hash(HashTable, HashView),
    /// A tree of a first stage on AArch64.
    VmsaStage1(VmsaStage1, Gpa),
    /// A tree of a second stage on AArch64.
    VmsaStage2(VmsaStage2, Hpa),
    /// A first stage's tree on RISC-V.
    Sv(Sv, Gpa),
    /// A guest stage's tree on RISC-V.
    SvX4(SvX4, Hpa),
}

impl Root {
    /// The physical address of the root table.
    #[must_use]
    pub fn address(&self) -> u64 {
        match self {
            Self::LongMode(_, root)
            | Self::Pae(_, root)
            | Self::Paging32(_, root)
            | Self::Radix(_, root)
            | Self::VmsaStage1(_, root)
            | Self::Sv(_, root) => root.get(),
            Self::Ept(_, root) | Self::VmsaStage2(_, root) | Self::SvX4(_, root) => root.get(),
            Self::Hash(table, _) => table.base.get(),
        }
    }

    /// How many bytes of the root table must be in the image: all, or its first page. (A hashed
    /// page table is looked at in parts; its first and last group are asked for elsewhere.)
    fn least_bytes(&self) -> u64 {
        match self {
            Self::Hash(..) => 0,
            Self::Pae(..) => 32,
            _ => 4096,
        }
    }
}

/// A root, and where it was found.
#[derive(Clone, Debug)]
pub struct Located {
    /// Which tables.
    pub arch: Arch,
    /// Where they begin.
    pub root: Root,
    /// Where the root comes from, in words.
    pub source: String,
    /// What else the user should know: what was passed over, what other candidates there are.
    pub remarks: Vec<String>,
    /// What to say when an address of the kernel is not mapped.
    pub kernel_hint: Option<String>,
    /// Bits of table words that are no part of them: the C-bit of encrypted memory.
    pub foreign: u64,
    /// What Linux says of itself.
    pub linux: Option<VmcoreInfo>,
}

impl Located {
    /// The first address at which a kernel keeps its own memory: the upper half; of 32 bits what
    /// Linux takes, the last GiB by default.
    #[must_use]
    pub fn kernel_start(&self) -> u64 {
        if matches!(self.arch, Arch::X86_32 | Arch::X86Pae) {
            x86_root::page_offset(self.linux.as_ref())
        } else {
            1 << 63
        }
    }

    pub(crate) fn new(arch: Arch, root: Root, source: impl Into<String>) -> Self {
        Self {
            arch,
            root,
            source: source.into(),
            remarks: Vec::new(),
            kernel_hint: None,
            foreign: 0,
            linux: None,
        }
    }
}

/// `e_machine` of the machines that are known (System V ABI).
pub(crate) const EM_386: u16 = 3;
const EM_PPC64: u16 = 21;
const EM_X86_64: u16 = 62;
const EM_AARCH64: u16 = 183;
const EM_RISCV: u16 = 243;

/// The root that `request` names, or that `image` tells. `progress` hears how far a search has
/// come.
///
/// # Errors
/// [`RootError`].
pub fn locate(
    image: &Image<'_>,
    request: &Request,
    progress: &dyn Fn(u64, u64),
) -> Result<Located, RootError> {
    let mut infos = image.notes().vmcoreinfo.clone();
    let by_hand = matches!(request.root, Some(RootChoice::Address(_)));
    let registers = !image.notes().x86.is_empty();
    let mut remarks = Vec::new();
    if infos.is_empty()
        && (request.linux || !registers && (!by_hand || request.needs_sizes()))
        && (request.linux || request.arch != Some(Arch::Ppc64Hash))
        && !matches!(request.arch, Some(Arch::Ept | Arch::Aarch64Stage2 | Arch::Riscv64Guest))
    {
        let (found, complete) = search_vmcoreinfo(image, progress);
        if !found.is_empty() {
            remarks.push("VMCOREINFO was found in memory".to_owned());
        }
        if !complete {
            remarks.push("the search for VMCOREINFO was given up".to_owned());
        }
        infos = found;
    }
    let arch = match (request.arch, architecture(image, &infos)?) {
        (Some(arch), _) => arch,
        (None, Some(arch)) => arch,
        (None, None) => return Err(RootError::NoArch),
    };
    check_options(request, arch)?;
    let info = choose_info(&infos, request)?;
    let mut located = match arch {
        Arch::X86_64 | Arch::X86_64La57 | Arch::X86_32 | Arch::X86Pae => {
            x86_root::locate(image, request, arch, info)?
        }
        Arch::Ept => ept(request)?,
        Arch::Aarch64 | Arch::Aarch64Upper => arm_root::locate(image, request, info)?,
        Arch::Aarch64Stage2 => arm_root::stage2(request)?,
        Arch::Riscv64 => riscv_root::locate(image, request, info)?,
        Arch::Riscv64Guest => riscv_root::guest_stage(request)?,
        Arch::Ppc64Radix => radix_root::locate(image, request, info, progress)?,
        Arch::Ppc64Hash => hash_root::locate(image, request, info)?,
    };
    located.linux = info.chosen.cloned();
    located.remarks.splice(0..0, remarks);
    let root = located.root.address();
    if !image.holds(root, located.root.least_bytes()) {
        let (source_of_root, held) = (located.source, image.piece(root).held);
        return Err(RootError::Unreadable { root, source_of_root, held });
    }
    Ok(located)
}

/// What the image says of its architecture.
fn architecture(image: &Image<'_>, infos: &[VmcoreInfo]) -> Result<Option<Arch>, RootError> {
    match image.machine() {
        // Which mode it is, registers say.
        Some(EM_386) => Ok(Some(Arch::X86_32)),
        Some(EM_X86_64) => Ok(Some(Arch::X86_64)),
        Some(EM_PPC64) => Ok(Some(Arch::Ppc64Radix)),
        Some(EM_AARCH64) => Ok(Some(Arch::Aarch64)),
        // Linux names the two classes alike.
        Some(EM_RISCV) => Ok(Some(Arch::Riscv64)),
        _ if !image.notes().x86.is_empty() => Ok(Some(Arch::X86_64)),
        _ if infos.iter().any(|info| info.get("NUMBER(phys_base)").is_some()) => {
            Ok(Some(Arch::X86_64))
        }
        _ if infos.iter().any(|info| info.get("CONFIG_X86_PAE").is_some()) => {
            Ok(Some(Arch::X86Pae))
        }
        // Linux says since 6.7 which MMU it uses; before, only that it is on POWER
        // (`arch/powerpc/kexec/core.c`).
        _ if infos.iter().any(|info| {
            ["NUMBER(RADIX_MMU)", "SYMBOL(vmemmap_list)"].iter().any(|it| info.get(it).is_some())
        }) =>
        {
            Ok(Some(Arch::Ppc64Radix))
        }
        _ if infos.iter().any(|info| info.get("NUMBER(kimage_voffset)").is_some()) => {
            Ok(Some(Arch::Aarch64))
        }
        _ if infos.iter().any(|info| info.get("NUMBER(va_kernel_pa_offset)").is_some()) => {
            Ok(Some(Arch::Riscv64))
        }
        _ => Ok(None),
    }
}

/// Options that say nothing about these tables are errors.
fn check_options(request: &Request, arch: Arch) -> Result<(), RootError> {
    let long = matches!(arch, Arch::X86_64 | Arch::X86_64La57);
    let x86 = long || matches!(arch, Arch::X86_32 | Arch::X86Pae);
    let power = matches!(arch, Arch::Ppc64Radix | Arch::Ppc64Hash);
    let hash = arch == Arch::Ppc64Hash;
    let arm = matches!(arch, Arch::Aarch64 | Arch::Aarch64Upper);
    let given = [
        ("--pid", request.pid.is_some(), power),
        ("--tcr", request.tcr.is_some(), arm || arch == Arch::Aarch64Stage2),
        ("--cpu", request.cpu.is_some(), x86),
        ("--c-bit", request.c_bit.is_some(), long),
        ("--mode-based-execute", request.mode_based_execute, arch == Arch::Ept),
        ("--slb", request.slb.is_some(), hash),
        ("--hpte-layout", request.layout.is_some(), hash),
        ("--linux-layout", request.linux_layout.is_some(), hash),
        ("--root user", request.root == Some(RootChoice::User), x86),
        (
            "--root kernel",
            request.root == Some(RootChoice::Kernel),
            x86 || arm || matches!(arch, Arch::Ppc64Radix | Arch::Riscv64),
        ),
    ];
    match given.into_iter().find(|(_, given, applies)| *given && !applies) {
        Some((option, ..)) => Err(RootError::Option { option, arch }),
        None => Ok(()),
    }
}

/// What Linux says of itself: one, or one of several that has yet to be chosen.
#[derive(Clone, Copy)]
pub(crate) struct Infos<'i> {
    pub all: &'i [VmcoreInfo],
    pub chosen: Option<&'i VmcoreInfo>,
}

impl<'i> Infos<'i> {
    /// The one; an error if there are several.
    pub(crate) fn one(self) -> Result<Option<&'i VmcoreInfo>, RootError> {
        if self.chosen.is_some() || self.all.is_empty() {
            return Ok(self.chosen);
        }
        let candidates = self.all.iter().enumerate().map(|(n, info)| {
            let release = info.get("OSRELEASE").unwrap_or("no release");
            let root = info.symbol("swapper_pg_dir");
            let root = root.map_or(String::new(), |root| format!(", swapper_pg_dir {root:#x}"));
            format!("--vmcoreinfo {n} (Linux {release}{root})")
        });
        let what = "VMCOREINFO notes that differ";
        Err(RootError::Several(Several { what, candidates: candidates.collect() }))
    }
}

fn choose_info<'i>(infos: &'i [VmcoreInfo], request: &Request) -> Result<Infos<'i>, RootError> {
    let chosen = match (request.vmcoreinfo, infos) {
        (Some(n), _) => Some(infos.get(n).ok_or_else(|| {
            let (count, what) = (infos.len(), "VMCOREINFO notes");
            RootError::NoPaging(format!("--vmcoreinfo {n}: the image has {count} {what}"))
        })?),
        (None, [info]) => Some(info),
        (None, _) => None,
    };
    Ok(Infos { all: infos, chosen })
}

fn ept(request: &Request) -> Result<Located, RootError> {
    let Some(RootChoice::Address(root)) = request.root else {
        return Err(RootError::NoRoot("EPTP".to_owned()));
    };
    let eptp = Eptp::from_bits(root);
    let levels = match eptp.walk_length() {
        0 | 3 => Levels::Four,
        4 => Levels::Five,
        _ => return Err(RootError::Bad { root, why: "EPT has four or five levels" }),
    };
    let controls =
        EptControls { mode_based_execute: request.mode_based_execute, ..EptControls::new() };
    let root = Root::Ept(Ept::new(levels, controls), Hpa::new(eptp.frame() << 12));
    Ok(Located::new(Arch::Ept, root, "--root"))
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may panic")]
mod tests {
    use super::*;
    use memory_image::Held;

    fn located(arch: Arch, root: Option<u64>) -> Result<Located, RootError> {
        let page = [0_u8; 4096];
        let extents = [0x1234_5000, 0x8000_0000, 0x1000].map(|start| memory_image::Extent {
            start,
            bytes: 4096,
            file: 0,
            offset: 0,
        });
        let image = Image::raw(vec![Box::new(&page[..])], extents).unwrap();
        let root = root.map(RootChoice::Address);
        locate(&image, &Request { arch: Some(arch), root, ..Request::default() }, &|_, _| ())
    }

    #[test]
    fn roots_as_registers_hold_them() {
        let Root::LongMode(format, root) =
            located(Arch::X86_64La57, Some(0x1234_5018)).unwrap().root
        else {
            panic!()
        };
        assert_eq!((format.levels(), root), (Levels::Five, Gpa::new(0x1234_5000)));
        let Root::Ept(_, root) = located(Arch::Ept, Some(0x8000_005e)).unwrap().root else {
            panic!()
        };
        assert_eq!(root, Hpa::new(0x8000_0000));
        assert!(matches!(located(Arch::Ept, Some(0x8000_0010)), Err(RootError::Bad { .. })));
        let Root::Hash(table, _) = located(Arch::Ppc64Hash, Some(0x400_0006)).unwrap().root else {
            panic!()
        };
        assert_eq!((table.base, table.order.get()), (Gpa::new(0x400_0000), 24));
        assert!(matches!(located(Arch::Ppc64Hash, Some(0x404_0006)), Err(RootError::Bad { .. })));
        assert!(matches!(located(Arch::Ppc64Hash, Some(29)), Err(RootError::Bad { .. })));
        for arch in [Arch::X86_64, Arch::Ept, Arch::Ppc64Radix, Arch::Ppc64Hash] {
            assert!(matches!(located(arch, None), Err(RootError::NoRoot(_))), "{arch:?}");
        }
        assert!(matches!(
            located(Arch::Ppc64Radix, Some(0x1000)),
            Err(RootError::NoProcess { pid: 0, .. })
        ));
        assert!(matches!(
            located(Arch::X86_64, Some(0x9000)),
            Err(RootError::Unreadable { root: 0x9000, held: Held::Outside, .. })
        ));
    }
}
