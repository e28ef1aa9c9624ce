//! `cargo xtask ptdump-proof`: whether `ptdump` translates as QEMU does.
//!
//! Boots Debian's own kernel under plain emulation, stops it, has QEMU dump its memory into an ELF
//! core, and asks both for hundreds of addresses: QEMU's monitor by `gva2gpa`, which walks the
//! tables of the stopped CPU with QEMU's own walker, and `ptdump translate --json` with nothing but
//! the core. Then QEMU writes the same guest in every other form that it has, and `ptdump` must say
//! the same of each.
//!
//! What a CPU may not read `gva2gpa` calls unmapped. So the guests stand still in the kernel, and
//! on POWER run without the protection that keeps the kernel off user pages (`nosmap`). On RISC-V
//! `ptdump` judges a supervisor's reads too; users' pages are compared with `info mem`. On 32-bit
//! x86 every page is compared with `info tlb`. On AArch64 the guest is stopped a second time, in
//! its process, and asked about the other address range. Of its processes and their pages each
//! guest itself tells ([`processes`]).

mod arm;
mod beside;
mod compare;
mod crash;
mod forms;
mod gdb;
mod guest;
mod info_mem;
mod info_tlb;
mod makedumpfile;
mod processes;
mod ptdump;
mod qmp;
mod snappy;

use anyhow::{Context, Result, bail};
use clap::{Args, ValueEnum};

use crate::emulated_host::{
    AARCH64, AARCH64_16K, Platform, PowerHost, RISCV64, X86_32, X86_64, X86_PAE,
};
use crate::report;
use crate::xtask::Xtask;
use beside::Beside;
use compare::{Space, compare};
use crash::Crash;
use forms::{compare_forms, same};
use guest::Guest;
pub use ptdump::Ptdump;

/// What may be asked for on the command line.
#[derive(Args)]
pub struct Options {
    /// Only these; without one, all
    #[arg(value_enum)]
    cases: Vec<Case>,
    /// What random addresses begin from
    #[arg(long, value_name = "S", default_value_t = 1)]
    seed: u64,
    /// How many addresses of each kind
    #[arg(long, value_name = "N", default_value_t = 300,
          value_parser = |text: &str| text.parse().ok().filter(|&n: &usize| n > 0).ok_or("1 or more"))]
    addresses: usize,
    /// Keep the core in this folder
    #[arg(long, value_name = "FOLDER")]
    keep: Option<std::path::PathBuf>,
    /// Put other tools beside ptdump: memflow, and a Python that has drgn and volatility3. Of
    /// x86-64 alone
    #[arg(long, value_name = "PYTHON")]
    beside: Option<std::path::PathBuf>,
    /// Ask crash the same, too: fetches the kernel's symbols (860 MB). Of x86-64 alone
    #[arg(long)]
    crash: bool,
}

/// A guest.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
enum Case {
    /// x86-64 with four levels
    #[value(name = "x86-64")]
    X86_64,
    /// x86-64 with five levels
    #[value(name = "x86-64-la57")]
    X86_64La57,
    /// x86 with 32-bit paging
    #[value(name = "x86-32")]
    X86_32,
    /// x86 with PAE paging
    #[value(name = "x86-pae")]
    X86Pae,
    /// A pseries guest with radix trees
    #[value(name = "ppc64-radix")]
    Ppc64Radix,
    /// A POWER9 machine with a hashed page table (that of a pseries guest is not in its memory)
    #[value(name = "ppc64-hash")]
    Ppc64Hash,
    /// AArch64 with pages of 4 KiB and 48-bit addresses
    #[value(name = "aarch64-4k")]
    Aarch64K4,
    /// AArch64 with pages of 4 KiB and 52-bit addresses (LPA2)
    #[value(name = "aarch64-4k-lpa2")]
    Aarch64K4Lpa2,
    /// AArch64 with pages of 16 KiB
    #[value(name = "aarch64-16k")]
    Aarch64K16,
    /// AArch64 with granules of 64 KiB: a bare machine, as Debian has no such kernel
    #[value(name = "aarch64-64k")]
    Aarch64K64,
    /// RISC-V with three levels
    #[value(name = "riscv64-sv39")]
    Riscv64Sv39,
    /// RISC-V with four levels
    #[value(name = "riscv64-sv48")]
    Riscv64Sv48,
    /// RISC-V with five levels
    #[value(name = "riscv64-sv57")]
    Riscv64Sv57,
}

impl Case {
    fn name(self) -> &'static str {
        match self {
            Self::X86_64 => "x86-64",
            Self::X86_64La57 => "x86-64-la57",
            Self::X86_32 => "x86-32",
            Self::X86Pae => "x86-pae",
            Self::Ppc64Radix => "ppc64-radix",
            Self::Ppc64Hash => "ppc64-hash",
            Self::Aarch64K4 => "aarch64-4k",
            Self::Aarch64K4Lpa2 => "aarch64-4k-lpa2",
            Self::Aarch64K16 => "aarch64-16k",
            Self::Aarch64K64 => "aarch64-64k",
            Self::Riscv64Sv39 => "riscv64-sv39",
            Self::Riscv64Sv48 => "riscv64-sv48",
            Self::Riscv64Sv57 => "riscv64-sv57",
        }
    }

    fn platform(self) -> Platform {
        match self {
            Self::X86_64 | Self::X86_64La57 => X86_64,
            Self::X86_32 => X86_32,
            Self::X86Pae => X86_PAE,
            Self::Ppc64Radix | Self::Ppc64Hash => PowerHost::Power9.usual(),
            Self::Aarch64K4 | Self::Aarch64K4Lpa2 | Self::Aarch64K64 => AARCH64,
            Self::Aarch64K16 => AARCH64_16K,
            Self::Riscv64Sv39 | Self::Riscv64Sv48 | Self::Riscv64Sv57 => RISCV64,
        }
    }

    /// Whether it is an AArch64 kernel.
    fn is_arm(self) -> bool {
        matches!(self, Self::Aarch64K4 | Self::Aarch64K4Lpa2 | Self::Aarch64K16)
    }

    /// What makes the machine.
    fn machine(self) -> &'static str {
        match self {
            Self::X86_64 => "-machine q35 -accel tcg -cpu max,la57=off -m 512M",
            Self::X86_64La57 => "-machine q35 -accel tcg -cpu max -m 512M",
            Self::X86_32 | Self::X86Pae => "-machine pc -accel tcg -cpu max -m 512M",
            Self::Ppc64Radix => {
                "-machine pseries,cap-cfpc=broken,cap-sbbc=broken,cap-ibs=broken -accel tcg -cpu POWER9 -m 1G"
            }
            Self::Aarch64K4 => "-machine virt,gic-version=3 -accel tcg -cpu max,lpa2=off -m 512M",
            Self::Aarch64K4Lpa2 | Self::Aarch64K16 | Self::Aarch64K64 => {
                "-machine virt,gic-version=3 -accel tcg -cpu max -m 512M"
            }
            Self::Riscv64Sv39 => {
                "-machine virt -accel tcg -cpu rv64,svnapot=on,svpbmt=on,svadu=on,sv57=off,sv48=off -m 512M"
            }
            Self::Riscv64Sv48 => {
                "-machine virt -accel tcg -cpu rv64,svnapot=on,svpbmt=on,svadu=on,sv57=off -m 512M"
            }
            Self::Riscv64Sv57 => {
                "-machine virt -accel tcg -cpu rv64,svnapot=on,svpbmt=on,svadu=on -m 512M"
            }
            Self::Ppc64Hash => "-machine powernv9 -accel tcg -cpu POWER9 -m 1G",
        }
    }

    /// What the kernel is told besides its console.
    fn kernel_arguments(self) -> &'static str {
        match self {
            // A busy host may be too slow for its check of the timer.
            Self::X86_64 | Self::X86_64La57 | Self::X86_32 | Self::X86Pae => " no_timer_check",
            Self::Riscv64Sv39 | Self::Riscv64Sv48 | Self::Riscv64Sv57 => "",
            Self::Aarch64K4 | Self::Aarch64K4Lpa2 | Self::Aarch64K16 | Self::Aarch64K64 => "",
            Self::Ppc64Radix => " nosmap nosmep",
            Self::Ppc64Hash => " nosmap nosmep disable_radix",
        }
    }
}

/// What makes tables with granules of 64 KiB.
const BARE_64K: &str = "xtask/src/ptdump_proof/bare64k.S";

/// Runs the cases; fails if one of them finds a difference.
pub fn run(xtask: &Xtask, options: &Options) -> Result<()> {
    let all = Case::value_variants();
    let cases = if options.cases.is_empty() { all } else { &options.cases };
    let ptdump = Ptdump::build(xtask)?;
    for case in cases {
        prove(xtask, *case, &ptdump, options).with_context(|| case.name())?;
    }
    Ok(())
}

fn prove(xtask: &Xtask, case: Case, ptdump: &Ptdump, options: &Options) -> Result<()> {
    let (platform, arm) = (case.platform(), case.is_arm());
    let (machine, words) = (case.machine(), case.kernel_arguments());
    let mut guest = match case {
        Case::Aarch64K64 => Guest::bare(xtask, &platform, machine, BARE_64K)?,
        _ => Guest::boot(xtask, &platform, machine, words, arm)?,
    };
    if arm {
        arm::stop_at(&mut guest, "EL1h")?;
    }
    let core = match &options.keep {
        Some(folder) => {
            std::fs::create_dir_all(folder)?;
            std::path::absolute(folder)?.join(format!("{}.core", case.name()))
        }
        None => guest.folder().join("guest.core"),
    };
    guest.dump(&core)?;
    if matches!(case, Case::X86_64 | Case::X86_64La57 | Case::X86_32 | Case::X86Pae) {
        ptdump.expect(&core, &format!(": {}, CR3 of CPU 0 in the image's notes", case.name()))?;
    }
    let riscv = matches!(case, Case::Riscv64Sv39 | Case::Riscv64Sv48 | Case::Riscv64Sv57);
    let judging = ptdump.judging(if riscv { &["--access", "read"] } else { &[] });
    let ptdump = &judging;
    let views = match case {
        // All that is to be known stands in the core.
        Case::X86_64 | Case::X86_64La57 => vec![vec![]],
        Case::X86_32 | Case::X86Pae => {
            let huge = if case == Case::X86Pae { 2 << 20 } else { 4 << 20 };
            let listed = ptdump.ranges(&core, &[])?;
            info_tlb::compare(&guest.monitor("info tlb")?, &listed, huge)?;
            vec![vec![]]
        }
        Case::Ppc64Radix => {
            // QEMU calls it so before and since 10.0.
            let pid = guest.number("$PID").or_else(|_| guest.number("$PIDR"))?;
            vec![
                vec!["--pid".to_owned(), "0".to_owned()],
                vec!["--pid".to_owned(), pid.to_string()],
            ]
        }
        Case::Ppc64Hash => hash_views(&mut guest)?,
        Case::Aarch64K4 | Case::Aarch64K4Lpa2 | Case::Aarch64K16 => {
            ptdump.expect(&core, ": aarch64-upper, swapper_pg_dir in VMCOREINFO")?;
            arm::kernel_views(&mut guest)?
        }
        Case::Aarch64K64 => arm::both_views(&mut guest)?,
        Case::Riscv64Sv39 | Case::Riscv64Sv48 | Case::Riscv64Sv57 => {
            ptdump.expect(&core, ": riscv64, swapper_pg_dir in VMCOREINFO")?;
            let satp = format!("{:#x}", guest.register("satp")?);
            // QEMU's kdump files do not name this machine.
            let current = ["--arch", "riscv64", "--root", &satp].map(str::to_owned).to_vec();
            info_mem::compare(&guest.monitor("info mem")?, &ptdump.ranges(&core, &current)?)?;
            vec![vec![], current]
        }
    };
    let plain = ptdump.judging(&[]);
    // Of AArch64's range of processes no half is the kernel's, by which a root could be told.
    let looks = !arm;
    let narrow = matches!(case, Case::X86_32 | Case::X86Pae);
    let (processes, pages) = match case {
        // There is no Linux; and that of Debian's 6.1 on POWER has no BTF.
        Case::Aarch64K64 | Case::Ppc64Radix | Case::Ppc64Hash => (0, 0),
        // Nor have these kernels.
        Case::X86_32 | Case::X86Pae => match plain.processes(&core) {
            Err(why) if format!("{why:#}").contains("CONFIG_DEBUG_INFO_BTF") => (0, 0),
            other => bail!("of a kernel without BTF ptdump ps says {other:?}"),
        },
        _ => processes::compare(&guest.console()?, &plain, &core, looks)?,
    };
    let (mut asked, mut mapped, mut outcomes) = (0, 0, Vec::new());
    for view in views {
        let space = if narrow { Space::OF_32_BITS } else { Space::WIDE };
        let (seed, addresses) = (options.seed, options.addresses);
        let outcome = compare(&mut guest, ptdump, &core, &view, space, seed, addresses)?;
        let count = outcome.answers.len();
        if outcome.mapped * 4 < count {
            bail!("only {} of {count} addresses were mapped: that proves little", outcome.mapped);
        }
        asked += count;
        mapped += outcome.mapped;
        outcomes.push((view, outcome));
    }
    // Bare memory says nothing of itself. (The machine has no hole.)
    let raw = match case {
        Case::X86_64 | Case::X86_64La57 | Case::X86_32 | Case::X86Pae => {
            let root = format!("{:#x}", guest.register("CR3")?);
            Some((0, ["--arch", case.name(), "--root", &root].map(str::to_owned).to_vec()))
        }
        // But for what Linux says of itself somewhere in it.
        Case::Riscv64Sv39 | Case::Riscv64Sv48 | Case::Riscv64Sv57 => {
            let start = 0x8000_0000_u64;
            Some((start, ["--base", &format!("{start:#x}")].map(str::to_owned).to_vec()))
        }
        Case::Aarch64K4 | Case::Aarch64K4Lpa2 | Case::Aarch64K16 => {
            let start = 0x4000_0000_u64;
            Some((start, ["--base", &format!("{start:#x}")].map(str::to_owned).to_vec()))
        }
        // Nothing is in it that says more.
        Case::Aarch64K64 => {
            let mut raw = ["--base", "0x40000000"].map(str::to_owned).to_vec();
            raw.extend(outcomes.first().map(|(view, _)| view.clone()).unwrap_or_default());
            Some((0x4000_0000, raw))
        }
        Case::Ppc64Radix | Case::Ppc64Hash => None,
    };
    let raw = raw.as_ref().map(|(start, options)| (*start, &options[..]));
    let mut forms = compare_forms(&mut guest, ptdump, &core, &outcomes, raw)?;
    if case == Case::X86_64 {
        let vmcore = guest.folder().join("vmcore");
        makedumpfile::vmcore(&plain, &core, &vmcore)?;
        forms += makedumpfile::compare(xtask, ptdump, &vmcore, &outcomes)?;
        let snappy = guest.folder().join("kdump-snappy");
        makedumpfile::with_snappy(xtask, &vmcore, &snappy)?;
        for (view, outcome) in &outcomes {
            same(ptdump, &snappy, view, outcome).context("snappy")?;
        }
        forms += 1;
        let crash = options.crash.then(|| Crash::new(xtask, &vmcore)).transpose()?;
        if let Some(crash) = &crash {
            crash::compare(crash, &plain, &core, &outcomes)?;
            crash::compare_form(&Crash::new(xtask, &snappy)?, &plain, &outcomes)?;
        }
        if let Some(python) = &options.beside {
            let beside = Beside { python, crash: crash.as_ref(), snappy: &snappy };
            beside.compare(xtask, &plain, &core, options.seed)?;
        }
    }
    if arm {
        let user = arm::compare_user(&mut guest, ptdump, options.seed, options.addresses)?;
        asked += user.answers.len();
        mapped += user.mapped;
    }
    println!(
        "ptdump-proof: ok {} addresses={asked} mapped={mapped} forms={} processes={processes} \
        pages={pages} differences=0",
        case.name(),
        forms + 1
    );
    Ok(())
}

/// How the hashed table is looked at: through Linux's VSIDs undone, and through the CPU's own
/// segments.
///
/// PTCR names the partition table, whose first entry names the table as SDR1 did (Power ISA v3.0B
/// Book III, "Partition Table").
fn hash_views(guest: &mut Guest) -> Result<Vec<Vec<String>>> {
    let ptcr = guest.number("$PTCR")?;
    let pate = guest.physical_word(ptcr & 0x0fff_ffff_ffff_f000)?;
    if pate >> 63 != 0 {
        bail!("the machine came up with radix trees: PATE {pate:#x}");
    }
    let sdr1 = pate & 0x0fff_ffff_fffc_001f;
    let table = ["--arch", "ppc64-hash", "--root", &format!("{sdr1:#x}")].map(str::to_owned);
    let linux = [&table[..], &["--pid".to_owned(), "0".to_owned()]].concat();
    let mut segments = table.to_vec();
    let slb = guest.monitor("info tlb")?;
    for line in slb.lines() {
        let words: Vec<_> = line.split_whitespace().collect();
        if let [_, esid, vsid] = words[..] {
            if esid.starts_with("0x") {
                segments.extend(["--slb".to_owned(), format!("{esid}:{vsid}")]);
            }
        }
    }
    if segments.len() == table.len() {
        bail!("the monitor shows no segments:\n{slb}");
    }
    report::note(&format!(
        "hashed page table {sdr1:#x}, {} segments",
        (segments.len() - table.len()) / 2
    ));
    Ok(vec![linux, segments])
}
