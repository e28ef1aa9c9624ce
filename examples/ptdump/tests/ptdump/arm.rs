//! AArch64: roots as Linux tells them, by registers, wrong ones, sets of contiguous entries, and a
//! guest behind its hypervisor's stage.

use pgtable::{Gpa, Prot};
use pgtable_aarch64::{
    Granule, Stage1Attributes, Stage1Controls, Stage2Controls, Ttbr, VaRange, VmsaStage1,
    VmsaStage2,
};

use crate::cores::core;
use crate::support::{Bench, Memory, build, json, number, text};
use crate::synthetic::vmcoreinfo;

const AARCH64: u16 = 183;
const RAM: u64 = 0x4000_0000;
/// Where the kernel's image is mapped, and where it stands.
const LINK: u64 = 0xffff_8000_8000_0000;
const LOADED: u64 = RAM + 0x20_0000;
/// Within the image.
const SWAPPER: u64 = 0x10_0000;
/// Where a process's root stands.
const PROCESS: u64 = RAM + 0x8_0000;

fn stage1(range: VaRange, granule: Granule, input_bits: u8) -> VmsaStage1 {
    let wide = input_bits == 52;
    let bits = if wide { 52 } else { 48 };
    VmsaStage1::new(Stage1Controls {
        range,
        granule,
        input_bits,
        output_bits: bits,
        physical_bits: bits,
        lva: wide,
        ds: wide,
        ..Stage1Controls::new()
    })
    .unwrap()
}

/// Memory with a kernel's tree, which maps its image by pages, and a process's.
fn memory(granule: Granule, bits: u8) -> Memory {
    let memory = Memory::new(RAM, 4 << 20);
    let shift = granule.shift();
    let page = 1 << shift;
    let rows = [(LINK, LOADED, 0x20_0000, shift, Prot::RX)];
    let kernel = stage1(VaRange::Upper, granule, bits);
    assert_eq!(build(kernel, &memory, LOADED + SWAPPER, &rows).0, LOADED + SWAPPER);
    let rows = [(0x40_0000, RAM + 0x3_0000, page, shift, Prot::RW.for_user())];
    build(stage1(VaRange::Lower, granule, bits), &memory, PROCESS, &rows);
    memory
}

/// Each row: granule, bits, what VMCOREINFO says besides the release and swapper_pg_dir, options;
/// what is said on standard error, and whether tables are found.
#[test]
fn case_roots_that_linux_tells() {
    let bench = Bench::new();
    let offset = format!("NUMBER(kimage_voffset)={:#x}\n", LINK - LOADED);
    let with = |page: u64, va: u8, bits: u8| {
        let size = 64 - bits;
        format!("PAGESIZE={page}\nNUMBER(VA_BITS)={va}\nNUMBER(TCR_EL1_T1SZ)={size:#x}\n{offset}")
    };
    let old = format!("PAGESIZE=4096\nNUMBER(VA_BITS)=48\n{offset}");
    let k4 = Granule::K4;
    let tcr = stage1(VaRange::Upper, Granule::K64, 48).tcr().into_bits();
    let by_hand = format!("--arch aarch64-upper --tcr {tcr:#x} --root {:#x}", LOADED + SWAPPER);
    let found = "aarch64-upper, swapper_pg_dir in VMCOREINFO";
    let rows = [
        (k4, 48, with(4096, 48, 48), "", found, true),
        (k4, 48, with(4096, 52, 48), "", found, true),
        (k4, 52, with(4096, 52, 52), "--root kernel", found, true),
        (Granule::K16, 48, with(16384, 48, 48), "", found, true),
        (Granule::K16, 52, with(16384, 52, 52), "", found, true),
        (Granule::K64, 48, with(65536, 52, 48), "", found, true),
        (Granule::K64, 52, with(65536, 52, 52), "--arch aarch64-upper", found, true),
        (k4, 48, old, "", found, true),
        (k4, 48, String::new(), "", "does not tell kimage_voffset", false),
        (k4, 48, offset.clone(), "", "VMCOREINFO says PAGESIZE=nothing", false),
        (k4, 48, format!("PAGESIZE=4096\n{offset}"), "", "neither TCR_EL1_T1SZ nor", false),
        (k4, 48, with(4096, 48, 60), "", "TCR_EL1_T1SZ: an input address size of 60", false),
        (Granule::K64, 48, String::new(), &by_hand, "aarch64-upper, --root", true),
        (k4, 48, with(4096, 48, 48), "--arch aarch64", "give --root (TTBR0_EL1", false),
        (k4, 48, with(4096, 48, 48), "--root user", "says nothing about aarch64", false),
        (k4, 48, with(4096, 48, 48), "--cpu 0", "--cpu says nothing about aarch64", false),
    ];
    for (n, (granule, bits, said_by_linux, options, said, found)) in rows.into_iter().enumerate() {
        let bytes = memory(granule, bits).bytes();
        let swapper = LINK + SWAPPER;
        let info = format!("OSRELEASE=6.12.0\nSYMBOL(swapper_pg_dir)={swapper:x}\n{said_by_linux}");
        let notes = [("CORE", 1, vec![0; 392]), vmcoreinfo(&info)];
        let image = core(false, AARCH64, &notes, &[(RAM, &bytes, 0)]);
        let image = bench.file(&format!("core{n}"), &image);
        let (status, _, error) = text(&image, options);
        assert!(error.contains(said), "{n}: {error}");
        assert!(!error.contains("do not map"), "{n}: {error}");
        assert_eq!(status == 0, found, "{n}: {error}");
        if !found {
            continue;
        }
        let words = format!("{options} translate {:#x} 0x401234", LINK + 0x1234);
        let (status, answer) = json(&image, &words);
        let [kernel, user] = [&answer[0], &answer[1]].map(|answer| number(&answer["pa"]));
        // A process is not in the kernel's range.
        assert_eq!((status, kernel, user), (1, Some(LOADED + 0x1234), None), "{n}");
        // A TTBR alone is a process's, of the kernel's sizes. It has an ASID.
        if options.is_empty() {
            let ttbr = Ttbr::of(PROCESS, 7, bits == 52).into_bits();
            let (status, answer) = json(&image, &format!("--root {ttbr:#x} translate 0x401234"));
            let want = RAM + 0x3_0000 + 0x1234 % (1 << granule.shift());
            let outside = granule == Granule::K4;
            let want = if outside { None } else { Some(want) };
            assert_eq!((status, number(&answer[0]["pa"])), (i32::from(outside), want), "{n}");
        }
    }
}

/// VMCOREINFO that a raw image has in memory, and tables that are not the kernel's own.
#[test]
fn case_a_raw_image_of_linux() {
    let bench = Bench::new();
    for (told, remark) in [(LINK - LOADED, None), (LINK - RAM, Some("do not map swapper_pg_dir"))] {
        let mut bytes = memory(Granule::K4, 48).bytes();
        let info = format!(
            "OSRELEASE=6.12.0\nPAGESIZE=4096\nSYMBOL(swapper_pg_dir)={:x}\n\
            NUMBER(VA_BITS)=48\nNUMBER(kimage_voffset)={told:#x}\n",
            LINK + SWAPPER
        );
        bytes[0x3000..][..info.len()].copy_from_slice(info.as_bytes());
        let image = bench.file("raw", &bytes);
        let (_, _, error) = text(&image, &format!("--base {RAM:#x}"));
        assert!(error.contains("VMCOREINFO was found in memory"), "{error}");
        assert!(error.contains("aarch64-upper, swapper_pg_dir"), "{error}");
        assert_eq!(remark.is_some(), remark.is_some_and(|it| error.contains(it)), "{error}");
    }
}

/// Sets of contiguous entries, memory types, and what each entry of a walk says.
#[test]
fn case_a_walk_is_explained() {
    let bench = Bench::new();
    let controls = Stage1Controls { contiguous: true, ..Stage1Controls::new() };
    let format = VmsaStage1::new(controls).unwrap();
    let memory = Memory::new(RAM, 1 << 20);
    let rows = [(0x4_0000, 0x9_0000, 0x1_0000, 16, Prot::RW.for_user())];
    let (root, _) = build(format, &memory, RAM, &rows);
    let tcr = format.tcr().into_bits();
    let options = format!("--arch aarch64 --base {RAM:#x} --tcr {tcr:#x} --root {root:#x}");
    let image = bench.file("contiguous", &memory.bytes());
    let (status, answer) = json(&image, &format!("{options} translate 0x45678"));
    assert_eq!((status, number(&answer[0]["pa"])), (0, Some(0x9_5678)));
    let (_, said, _) = text(&image, &format!("{options} explain 0x45678"));
    for words in ["one of a set of contiguous entries", "level 3", "AttrIndx: 0", "EL0 too"] {
        assert!(said.contains(words), "{words}: {said}");
    }
    let (_, said, _) = text(&image, &options);
    assert!(said.contains("attr0") && said.contains("accessed"), "{said}");
    let reserved = text(&image, "--arch aarch64 --tcr 0xc010 --root 0x40000000");
    assert!(reserved.0 == 3 && reserved.2.contains("the granule of TCR.TG0"), "{reserved:?}");
    let none = text(&image, "--arch aarch64 --root 0x40000000");
    assert!(none.0 == 3 && none.2.contains("TCR_EL1 by --tcr"), "{none:?}");
    let attributes = Stage1Attributes::from(Prot::RW);
    assert!(attributes.dirty(), "what a page of ours says");
}

/// A guest's tables in its host's memory, behind a second stage: the guest's root and pages are
/// where the stage says.
#[test]
fn case_a_guest_behind_a_second_stage() {
    let bench = Bench::new();
    let guest = memory(Granule::K4, 48);
    let host = Memory::new(0, 8 << 20);
    let stage = VmsaStage2::new(Stage2Controls::new()).unwrap();
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
    let vtcr = stage.vtcr().into_bits();
    let vttbr = Ttbr::of(root, 5, false).into_bits();
    let tcr = stage1(VaRange::Upper, Granule::K4, 48).tcr().into_bits();
    let options = format!(
        "--through vttbr:{vttbr:#x}:{vtcr:#x} --arch aarch64-upper --tcr {tcr:#x} --root {:#x}",
        LOADED + SWAPPER
    );
    let (status, answer) = json(&image, &format!("{options} translate {LINK:#x}"));
    assert_eq!((status, number(&answer[0]["pa"])), (0, Some(LOADED)));
    let stage2 = format!("--arch aarch64-stage2 --tcr {vtcr:#x} --root {vttbr:#x}");
    let (status, answer) = json(&image, &format!("{stage2} translate {LOADED:#x}"));
    assert_eq!((status, number(&answer[0]["pa"])), (0, Some(0x40_0000)));
    let (_, said, _) = text(&image, &format!("{stage2} explain {LOADED:#x}"));
    assert!(said.contains("XN: executed by EL1 and EL0"), "{said}");
    let (status, _, error) = text(&image, "--through vttbr:0x10000 --arch aarch64 --root 0");
    assert!(status == 2 && error.contains("vttbr:VTTBR:VTCR"), "{error}");
    let (status, _, error) = text(&image, "--arch aarch64-stage2 --root 0x10000");
    assert!(status == 3 && error.contains("VTCR_EL2 by --tcr"), "{error}");
    assert_eq!(Gpa::new(root).get() & 0x1fff, 0, "two root tables in a row");
}
