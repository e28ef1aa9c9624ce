//! RISC-V: roots as Linux tells them, wrong ones, Svnapot, and a guest behind its hypervisor's
//! stage.

use pgtable::{Gpa, Hpa, Prot};
use pgtable_riscv64::{Controls, Extensions, GuestControls, Mode, Sv, SvX4};

use crate::cores::core;
use crate::support::{Bench, Memory, build, json, number, text};
use crate::synthetic::vmcoreinfo;

const RISCV: u16 = 243;
const RAM: u64 = 0x8000_0000;
/// Where the kernel's image is mapped, and where it stands.
const LINK: u64 = 0xffff_ffff_8000_0000;
const LOADED: u64 = RAM + 0x20_0000;
/// Within the image.
const SWAPPER: u64 = 0x10_0000;

fn sv(mode: Mode) -> Sv {
    Sv::new(mode, Controls::new())
}

/// Memory with a kernel's tree: the image by pages of 2 MiB, and a page of a process.
fn kernel(mode: Mode) -> Memory {
    let memory = Memory::new(RAM, 4 << 20);
    let rows = [
        (LINK, LOADED, 0x20_0000, 21, Prot::RWX),
        (0x1_0000, RAM + 0x3000, 0x1000, 12, Prot::RW.for_user()),
    ];
    let (root, _) = build(sv(mode), &memory, LOADED + SWAPPER, &rows);
    assert_eq!(root, LOADED + SWAPPER);
    memory
}

/// Each row: mode, what VMCOREINFO says besides the release and swapper_pg_dir, options; what is
/// said on standard error, and whether tables are found.
#[test]
fn case_roots_that_linux_tells() {
    let bench = Bench::new();
    let offset = format!("NUMBER(va_kernel_pa_offset)={:#x}\n", LINK - LOADED);
    let with = |bits: u32| format!("NUMBER(VA_BITS)={bits}\n{offset}");
    let link = format!("NUMBER(KERNEL_LINK_ADDR)={LINK:#x}\n");
    let old = |base: u64| format!("NUMBER(VA_BITS)=39\nNUMBER(phys_ram_base)={base}\n{link}");
    let root = sv(Mode::Sv48).satp(Gpa::new(LOADED + SWAPPER), 3).into_bits();
    let by_hand = format!("--root {root:#x}");
    let rows = [
        (Mode::Sv39, with(39), "", "riscv64, swapper_pg_dir in VMCOREINFO", true),
        (Mode::Sv48, with(48), "", "riscv64, swapper_pg_dir in VMCOREINFO", true),
        (Mode::Sv57, with(57), "--root kernel", "riscv64, swapper_pg_dir in VMCOREINFO", true),
        (Mode::Sv39, offset.clone(), "", "riscv64, swapper_pg_dir in VMCOREINFO", true),
        (Mode::Sv39, old(RAM), "", "behind phys_ram_base", true),
        (Mode::Sv39, old(LOADED), "", "behind phys_ram_base", true),
        (Mode::Sv39, old(RAM + 0x1000), "", "does not tell va_kernel_pa_offset", false),
        (Mode::Sv39, link.clone(), "", "does not tell va_kernel_pa_offset", false),
        (Mode::Sv39, with(64), "", "VA_BITS=64: that is no mode of RV64", false),
        (Mode::Sv48, String::new(), &by_hand, "riscv64, --root", true),
        (Mode::Sv48, String::new(), "--root 0x80300000", "its MODE (bits 63:60) is 8", false),
        (Mode::Sv48, with(48), "--root user", "--root user says nothing about riscv64", false),
        (Mode::Sv48, with(48), "--cpu 0", "--cpu says nothing about riscv64", false),
    ];
    for (n, (mode, said_by_linux, options, said, found)) in rows.into_iter().enumerate() {
        let bytes = kernel(mode).bytes();
        let swapper = LINK + SWAPPER;
        let info = format!("OSRELEASE=6.12.0\nSYMBOL(swapper_pg_dir)={swapper:x}\n{said_by_linux}");
        let notes = [("CORE", 1, vec![0; 376]), vmcoreinfo(&info)];
        let image = core(false, RISCV, &notes, &[(RAM, &bytes, 0)]);
        let image = bench.file(&format!("core{n}"), &image);
        let (status, _, error) = text(&image, options);
        assert!(error.contains(said), "{n}: {error}");
        assert!(!error.contains("do not map"), "{n}: {error}");
        assert_eq!(status == 0, found, "{n}: {error}");
        if found {
            let words = format!("{options} translate {:#x} 0x10123", LINK + 0x1234);
            let (status, answer) = json(&image, &words);
            let [kernel, user] = [&answer[0], &answer[1]].map(|answer| number(&answer["pa"]));
            assert_eq!((status, kernel, user), (0, Some(LOADED + 0x1234), Some(RAM + 0x3123)));
        }
    }
}

/// VMCOREINFO that a raw image has in memory, and tables that are not the kernel's own.
#[test]
fn case_a_raw_image_of_linux() {
    let bench = Bench::new();
    for (told, remark) in [(LINK - LOADED, None), (LINK - RAM, Some("do not map swapper_pg_dir"))] {
        let mut bytes = kernel(Mode::Sv39).bytes();
        let info = format!(
            "OSRELEASE=6.12.0\nPAGESIZE=4096\nSYMBOL(swapper_pg_dir)={:x}\n\
            NUMBER(VA_BITS)=39\nNUMBER(va_kernel_pa_offset)={told:#x}\n",
            LINK + SWAPPER
        );
        bytes[0x3000..][..info.len()].copy_from_slice(info.as_bytes());
        let image = bench.file("raw", &bytes);
        let (_, _, error) = text(&image, &format!("--base {RAM:#x}"));
        assert!(error.contains("VMCOREINFO was found in memory"), "{error}");
        assert!(error.contains("riscv64, swapper_pg_dir"), "{error}");
        assert_eq!(remark.is_some(), remark.is_some_and(|it| error.contains(it)), "{error}");
    }
}

/// Pages of 64 KiB, memory types, and what each entry of a walk says.
#[test]
fn case_extensions_are_read() {
    let bench = Bench::new();
    let extensions = Extensions { svnapot: true, ..Extensions::new() };
    let format = Sv::new(Mode::Sv39, Controls { extensions, ..Controls::new() });
    let memory = Memory::new(RAM, 1 << 20);
    let (root, _) = build(format, &memory, RAM, &[(0x4_0000, 0x9_0000, 0x1_0000, 16, Prot::RW)]);
    let options = format!(
        "--arch riscv64 --base {RAM:#x} --root {:#x}",
        format.satp(Gpa::new(root), 0).into_bits()
    );
    let image = bench.file("napot", &memory.bytes());
    let (status, answer) = json(&image, &format!("{options} translate 0x45678"));
    assert_eq!((status, number(&answer[0]["pa"])), (0, Some(0x9_5678)));
    let (_, said, _) = text(&image, &format!("{options} explain 0x45678"));
    assert!(said.contains("one of 16 entries of a page of 64 KiB"), "{said}");
    assert!(said.contains("level-0 PTE"), "{said}");
}

/// A guest's tables in its host's memory, behind a guest stage: the guest's root and pages are
/// where the stage says.
#[test]
fn case_a_guest_behind_hgatp() {
    let bench = Bench::new();
    let guest = kernel(Mode::Sv39);
    let host = Memory::new(0, 8 << 20);
    let stage = SvX4::new(Mode::Sv48, GuestControls::new());
    // The two halves of the guest's memory are exchanged.
    let half = 0x20_0000;
    let rows =
        [(RAM, 0x60_0000, half, 21, Prot::RWX), (RAM + half, 0x40_0000, half, 21, Prot::RWX)];
    let (root, _) = build(stage, &host, 0x1_0000, &rows);
    let mut bytes = host.bytes();
    let all = guest.bytes();
    bytes[0x60_0000..][..half as usize].copy_from_slice(&all[..half as usize]);
    bytes[0x40_0000..][..half as usize].copy_from_slice(&all[half as usize..]);
    let image = bench.file("host", &bytes);
    let hgatp = stage.hgatp(Hpa::new(root), 5).into_bits();
    let satp = sv(Mode::Sv39).satp(Gpa::new(LOADED + SWAPPER), 0).into_bits();
    let options = format!("--through hgatp:{hgatp:#x} --arch riscv64 --root {satp:#x}");
    let (status, answer) = json(&image, &format!("{options} translate {LINK:#x} 0x10000"));
    let [kernel, user] = [&answer[0], &answer[1]].map(|answer| number(&answer["pa"]));
    assert_eq!((status, kernel, user), (0, Some(LOADED), Some(RAM + 0x3000)));
    let (status, _, error) = text(&image, "--through hgatp:0x10000 --arch riscv64 --root 0");
    assert!(status == 3 && error.contains("its MODE"), "{error}");
    let (status, _, error) = text(&image, "--through npt:0x10000");
    assert!(status == 2 && error.contains("hgatp:HGATP"), "{error}");
}
