//! From what the user says and what the image tells to the root of the tables.
//!
//! | architecture | root as the user gives it | where else it is looked for |
//! | --- | --- | --- |
//! | `x86-64`, `x86-64-la57` | CR3 | CR3 and CR4 of a CPU in QEMU's notes; `swapper_pg_dir` in VMCOREINFO |
//! | `ept` | EPTP: its walk length says how many levels; 0 there is four as well | |
//! | `ppc64-radix` | the process table's address, with PRTS in its low five bits or without | `swapper_pg_dir` in VMCOREINFO (process 0); the table itself, by its looks |
//! | `ppc64-hash` | HTABORG and HTABSIZE as in SDR1 | |
//!
//! A process table looks like this: at a multiple of 4 KiB, an entry 0 for a supported tree (Power
//! ISA v3.0B Book III, "Process Table") whose root is in the image and which maps the effective
//! address 0xc000000000000000 to 0, as every Linux on POWER does.

use arch_ppc64::hash::{HptOrder, Layout, Slb};
use arch_ppc64::radix::{
    Granule, GuestMmu, ProcessScoped, ProcessTable, ProcessTableWord, Prte, RcPolicy, Strictness,
};
use arch_x86::{Controls, Cr3, Cr4, Ept, EptControls, Eptp, Levels, LongMode};
use pgtable::{Access, Cause, Gpa, Gva, Hpa, Walker};

use super::hash::{HashTable, HashView};
use memory_image::{Allowance, Image, Source, VmcoreInfo};

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
    /// Intel's second stage.
    Ept,
}

/// What the user says.
#[derive(Clone, Debug, Default)]
pub struct Request {
    /// Which tables; `None`: as the core's machine and notes say.
    pub arch: Option<Arch>,
    /// The root; `None`: to be found.
    pub root: Option<u64>,
    /// Which process, on POWER.
    pub pid: Option<u32>,
    /// Whose registers of a core with several CPUs.
    pub cpu: usize,
    /// The layout of hashed entries.
    pub layout: Layout,
    /// Segments for a hashed page table, if they are not Linux's.
    pub slb: Option<Box<Slb>>,
}

/// Where the tables begin.
#[derive(Clone, Debug)]
pub enum Root {
    /// A guest's tree on x86-64.
    LongMode(LongMode, Gpa),
    /// An extended page table.
    Ept(Ept, Hpa),
    /// The tree of a process on POWER.
    Radix(ProcessScoped, Gpa),
    /// A hashed page table.
    Hash(HashTable, HashView),
}

/// A root, and where it was found.
#[derive(Clone, Debug)]
pub struct Located {
    /// Which tables.
    pub arch: Arch,
    /// Where they begin.
    pub root: Root,
    /// Who said so, in words.
    pub source: String,
}

/// Why there is no root.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum RootError {
    /// Neither the user nor the image says which tables.
    #[error("the image does not tell its architecture: give --arch")]
    NoArch,
    /// Neither the user nor the image says where they begin.
    #[error("the image does not tell where the tables begin: give --root ({0})")]
    NoRoot(&'static str),
    /// The core has fewer CPUs.
    #[error("the core has the registers of {cpus} CPUs: there is no CPU {cpu}")]
    NoCpu {
        /// Which was asked for.
        cpu: usize,
        /// How many there are.
        cpus: usize,
    },
    /// The root that was given is none.
    #[error("{root:#x} is no root: {why}")]
    Bad {
        /// What was given.
        root: u64,
        /// What is wrong with it.
        why: &'static str,
    },
    /// The process has no tree.
    #[error("process {pid} has no tree: its entry in the process table at {table:#x} {cause}")]
    NoProcess {
        /// Which process.
        pid: u32,
        /// Where the process table stands.
        table: u64,
        /// What is wrong with the entry.
        cause: Cause,
    },
}

/// `e_machine` of x86-64 and of POWER (System V ABI).
const EM_X86_64: u16 = 62;
const EM_PPC64: u16 = 21;
/// Where Linux on x86-64 has its own image (`__START_KERNEL_map`).
const X86_KERNEL_MAP: u64 = 0xffff_ffff_8000_0000;
/// Where Linux on POWER has its linear map (`PAGE_OFFSET`).
const PPC64_LINEAR_MAP: u64 = 0xc000_0000_0000_0000;

/// The root that `request` names, or that `image` tells. `progress` hears how far a search has
/// come.
///
/// # Errors
/// [`RootError`].
pub fn locate<S: Source>(
    image: &Image<S>,
    request: &Request,
    progress: &dyn Fn(u64, u64),
) -> Result<Located, RootError> {
    let registers = image.notes().x86.get(request.cpu).copied();
    if request.root.is_none() && registers.is_none() && !image.notes().x86.is_empty() {
        return Err(RootError::NoCpu { cpu: request.cpu, cpus: image.notes().x86.len() });
    }
    let info = image.notes().vmcoreinfo.as_ref();
    let la57 = match (registers, info.and_then(|info| info.number("pgtable_l5_enabled"))) {
        (Some(registers), _) => Cr4::from_bits(registers.cr4).la57(),
        (None, told) => told == Some(1),
    };
    let arch = match (request.arch, image.machine()) {
        (Some(arch), _) => arch,
        (None, Some(EM_X86_64)) if la57 => Arch::X86_64La57,
        (None, Some(EM_X86_64)) => Arch::X86_64,
        (None, Some(EM_PPC64)) => Arch::Ppc64Radix,
        (None, _) => return Err(RootError::NoArch),
    };
    let found = |root, source: &str| Ok(Located { arch, root, source: source.to_owned() });
    match arch {
        Arch::X86_64 | Arch::X86_64La57 => {
            let levels = if arch == Arch::X86_64 { Levels::Four } else { Levels::Five };
            let format = LongMode::new(levels, Controls::new());
            let kernel = || info.and_then(x86_kernel_root);
            match (request.root, registers, kernel()) {
                (Some(cr3), ..) => {
                    found(Root::LongMode(format, Cr3::from_bits(cr3).root()), "--root")
                }
                (None, Some(registers), _) => {
                    let source = format!("CR3 of CPU {} in QEMU's notes", request.cpu);
                    found(Root::LongMode(format, Cr3::from_bits(registers.cr3).root()), &source)
                }
                (None, None, Some(root)) => {
                    found(Root::LongMode(format, root), "swapper_pg_dir in VMCOREINFO")
                }
                (None, None, None) => Err(RootError::NoRoot("CR3")),
            }
        }
        Arch::Ept => {
            let eptp = Eptp::from_bits(request.root.ok_or(RootError::NoRoot("EPTP"))?);
            let levels = match eptp.walk_length() {
                0 | 3 => Levels::Four,
                4 => Levels::Five,
                _ => {
                    return Err(RootError::Bad {
                        root: eptp.into_bits(),
                        why: "EPT has four or five levels",
                    });
                }
            };
            let format = Ept::new(levels, EptControls::new());
            found(Root::Ept(format, Hpa::new(eptp.frame() << 12)), "--root")
        }
        Arch::Ppc64Radix => radix(image, request, progress),
        Arch::Ppc64Hash => {
            let sdr1 = request.root.ok_or(RootError::NoRoot("HTABORG and HTABSIZE, as in SDR1"))?;
            let bad = |why| RootError::Bad { root: sdr1, why };
            let order = HptOrder::new(u64::from(HptOrder::MIN.get()) + (sdr1 & 0x1f))
                .ok_or(bad("HTABSIZE is at most 28"))?;
            let base = sdr1 & !0x3_ffff & ((1 << 60) - 1);
            if base & (order.bytes() - 1) != 0 {
                return Err(bad("HTABORG is a multiple of the table's size"));
            }
            let table = HashTable { base: Gpa::new(base), order, layout: request.layout };
            let view = HashView { slb: request.slb.clone(), context: request.pid };
            found(Root::Hash(table, view), "--root")
        }
    }
}

/// Where the kernel's own tree is on x86-64.
fn x86_kernel_root(info: &VmcoreInfo) -> Option<Gpa> {
    let (symbol, base) = (info.symbol("swapper_pg_dir")?, info.number("phys_base")?);
    Some(Gpa::new(symbol.wrapping_sub(X86_KERNEL_MAP).wrapping_add_signed(base)))
}

/// The tree of a process. Entries are judged as by KVM's walker: Linux keeps bits of its own where
/// the manual has reserved ones.
fn radix<S: Source>(
    image: &Image<S>,
    request: &Request,
    progress: &dyn Fn(u64, u64),
) -> Result<Located, RootError> {
    let arch = Arch::Ppc64Radix;
    let pid = request.pid.unwrap_or(0);
    let format = ProcessScoped::new(Granule::K64)
        .with_rc(RcPolicy::HardwareUpdate)
        .with_strictness(Strictness::Kvm);
    // Process 0 is reached from quadrant 3, others from quadrant 0: as while another process runs,
    // or that one.
    let mmu = |table: ProcessTable| GuestMmu::new(table.word(), pid.max(1), format);
    let swapper = image.notes().vmcoreinfo.as_ref().and_then(|info| info.symbol("swapper_pg_dir"));
    let (table, source) = match (request.root, swapper) {
        (Some(root), _) => (
            process_table(root)
                .ok_or(RootError::Bad { root, why: "a process table is aligned to its size" })?,
            "--root",
        ),
        (None, Some(swapper)) if pid == 0 && swapper >= PPC64_LINEAR_MAP => {
            let format = GuestMmu::new(ProcessTableWord::new(), 1, format).format(0);
            let root = Root::Radix(format, Gpa::new(swapper - PPC64_LINEAR_MAP));
            return Ok(Located { arch, root, source: "swapper_pg_dir in VMCOREINFO".to_owned() });
        }
        (None, _) => {
            let table = search(image, &mmu, progress)
                .ok_or(RootError::NoRoot("the process table's address"))?;
            (table, "found by its looks")
        }
    };
    let memory = image.tables(Allowance::default());
    let walker = mmu(table).walker(&memory, pid);
    let walker =
        walker.map_err(|cause| RootError::NoProcess { pid, table: table.base().get(), cause })?;
    let source =
        format!("process {pid} of the process table at {:#x} ({source})", table.base().get());
    Ok(Located { arch, root: Root::Radix(*walker.format(), walker.root()), source })
}

/// The process table at `root`: PRTS in its low bits, or as large as its alignment allows and Linux
/// makes it (16 MiB).
fn process_table(root: u64) -> Option<ProcessTable> {
    let word = ProcessTableWord::from_bits(root);
    match word.prts() {
        0 => {
            let largest = (root.trailing_zeros() as u8).clamp(12, 24) - 12;
            ProcessTable::new(Gpa::new(word.base()), largest)
        }
        _ => ProcessTable::of_word(word),
    }
}

/// Looks for a process table at every multiple of 4 KiB that is no hole of the image.
fn search<S: Source>(
    image: &Image<S>,
    mmu: &dyn Fn(ProcessTable) -> GuestMmu,
    progress: &dyn Fn(u64, u64),
) -> Option<ProcessTable> {
    /// Read at a time.
    const CHUNK: usize = 1 << 20;
    const STEP: u64 = 1 << 12;
    let total = image.extents().bytes();
    let mut before = 0;
    let mut buffer = vec![0; CHUNK];
    for extent in image.extents().iter() {
        // To the next multiple; there may be none, at the end of the address space.
        let mut skip = extent.start.wrapping_neg() % STEP;
        while skip < extent.stored {
            progress(before + skip, total);
            // Holes are passed over by whole steps. What follows in memory may stand further ahead
            // in the file.
            let Some(data) = image.source().next_data(extent.offset + skip) else { break };
            let data = data.saturating_sub(extent.offset);
            skip += (data.max(skip) - skip) / STEP * STEP;
            let length =
                usize::try_from(extent.stored.saturating_sub(skip)).unwrap_or(CHUNK).min(CHUNK);
            let read = image.source().read_at(extent.offset + skip, &mut buffer[..length]).ok()?;
            for (index, entry) in buffer[..read].chunks(STEP as usize).enumerate() {
                let at = extent.start + skip + index as u64 * STEP;
                if let Some(table) = looks_like(image, mmu, at, entry) {
                    return Some(table);
                }
            }
            skip += CHUNK as u64;
        }
        before += extent.bytes;
    }
    None
}

fn looks_like<S: Source>(
    image: &Image<S>,
    mmu: &dyn Fn(ProcessTable) -> GuestMmu,
    at: u64,
    entry: &[u8],
) -> Option<ProcessTable> {
    let word = |n: usize| Some(u64::from_be_bytes(entry.get(n * 8..n * 8 + 8)?.try_into().ok()?));
    let prte = Prte { tree: word(0)?.into(), reserved: word(1)? };
    let root = prte.root(Strictness::Strict).filter(|root| image.extents().hold(*root, 1 << 16))?;
    let table = process_table(at)?;
    let memory = image.tables(Allowance { words: 64, bytes: 1 << 17 });
    let format = mmu(table).format(0);
    let walker = Walker::new(format, &memory, Gpa::new(root));
    let linear = walker.translate(Gva::new(PPC64_LINEAR_MAP), Access::READ).ok()?;
    (linear.output == Gpa::new(0)).then_some(table)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may panic")]
mod tests {
    use super::*;

    fn located(arch: Arch, root: Option<u64>) -> Result<Located, RootError> {
        let image = Image::open(&[0_u8; 64][..], 0).unwrap();
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
    }

    #[test]
    fn process_tables_by_their_address() {
        for (root, base, entries) in [
            (0x600_0000, 0x600_0000, 1 << 20),
            (0x600_000c, 0x600_0000, 1 << 20),
            (0x13_0000, 0x13_0000, 4096),
            (0x13_1000, 0x13_1000, 256),
            (0x600_0004, 0x600_0000, 4096),
        ] {
            let table = process_table(root).unwrap();
            assert_eq!((table.base(), table.entries()), (Gpa::new(base), entries), "{root:#x}");
        }
        assert_eq!(process_table(0x1004), None);
    }
}
