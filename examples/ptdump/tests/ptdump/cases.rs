//! Images that were answered wrongly once, a row each: what is said, and with which exit status.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::cores::{Note, core};
use crate::support::{Bench, json, number, ranges, text, whole_json};
use crate::synthetic::{CR0, CR4, KERNEL_MAP, X86, machine, qemu, virtualbox, vmcoreinfo};

const ROOT: u64 = 0x1_0000;
const END: u64 = 0x2_0000;
const KERNEL_TEXT: u64 = KERNEL_MAP + 0x100_0000;
const X86_64: u16 = 62;
const POWER: u16 = 21;

fn status() -> Note<'static> {
    ("CORE", 1, vec![0; 336])
}

/// A core of the usual machine, with these notes.
fn usual(bench: &Bench, name: &str, notes: &[Note<'_>]) -> PathBuf {
    let bytes = machine(ROOT, 0).bytes(END);
    bench.file(name, &core(false, X86_64, notes, &[(0, &bytes, 0x40_0000 - END)]))
}

/// Where the kernel's text and the process's page go.
fn both(image: &Path, options: &str) -> (i32, [Option<u64>; 2]) {
    let (status, answer) = json(image, &format!("{options} translate {KERNEL_TEXT:#x} 0x400123"));
    (status, [number(&answer[0]["pa"]), number(&answer[1]["pa"])])
}

const BOTH: (i32, [Option<u64>; 2]) = (0, [Some(0x100_0000), Some(0x30_0123)]);

/// Each row: notes, options; what is said on standard error; whether kernel and process are found.
#[test]
fn case_registers_decide_and_nothing_is_taken_silently() {
    let bench = Bench::new();
    let swapper = |phys: &str| {
        let root = KERNEL_MAP + ROOT;
        vmcoreinfo(&format!("OSRELEASE=6.1.0\nSYMBOL(swapper_pg_dir)={root:x}\n{phys}"))
    };
    let on = || qemu(CR0, ROOT, CR4, 0x10);
    let reset = || qemu(0x6000_0010, 0, 0, 0);
    let rows: Vec<(&str, Vec<Note<'_>>, &str, &str, bool)> = vec![
        ("plain", vec![on()], "", "CR3 of CPU 0", true),
        ("lam", vec![qemu(CR0, ROOT | 5 | 7 << 61, 0x2_0020, 0x10)], "", "CR3 of CPU 0", true),
        ("cpu0-off", vec![reset(), on()], "", "CPU 0 had paging off", true),
        ("cpu0-off-asked", vec![reset(), on()], "--cpu 0", "CPU 0 had paging off", false),
        ("all-off", vec![reset(), reset()], "", "no tables to read", false),
        (
            "off-vmcoreinfo",
            vec![reset(), swapper("NUMBER(phys_base)=0\n")],
            "",
            "swapper_pg_dir in VMCOREINFO",
            true,
        ),
        (
            "two-roots",
            vec![on(), qemu(CR0, 0x3000, CR4, 0x10)],
            "",
            "CPU 1 has another root, 0x3000 (--cpu 1)",
            true,
        ),
        ("no-cpu", vec![on()], "--cpu 7", "there is no CPU 7", false),
        (
            "vmcoreinfo",
            vec![swapper("NUMBER(phys_base)=0\n")],
            "",
            "swapper_pg_dir in VMCOREINFO",
            true,
        ),
        ("no-phys-base", vec![swapper("")], "", "does not tell phys_base", false),
        (
            "two-infos",
            vec![swapper("NUMBER(phys_base)=0\n"), vmcoreinfo("OSRELEASE=5.10.0\n")],
            "",
            "2 VMCOREINFO notes that differ: give --vmcoreinfo 0 (Linux 6.1.0",
            false,
        ),
        (
            "first-info",
            vec![swapper("NUMBER(phys_base)=0\n"), vmcoreinfo("OSRELEASE=5.10.0\n")],
            "--vmcoreinfo 0",
            "swapper_pg_dir in VMCOREINFO",
            true,
        ),
        ("virtualbox", vec![virtualbox(CR0, ROOT, CR4, 0xd01)], "", "CR3 of CPU 0", true),
        ("virtualbox-off", vec![virtualbox(0x10, 0, 0, 0)], "", "CPU 0 had paging off", false),
        ("root", vec![reset()], "--root 0x10000", "--root", true),
        (
            "root-outside",
            vec![on()],
            "--root 0x70000000",
            "unknown: the root table at 0x70000000 (--root) is not in the image",
            false,
        ),
        ("root-flags", vec![on()], "--root 0xe000000000010000", "--root", true),
        (
            "root-reserved",
            vec![on()],
            "--root 0x100000000010000",
            "0x100000000010000 is no root: CR3 has no such bits",
            false,
        ),
        (
            "phys-base",
            vec![swapper("NUMBER(phys_base)=-9223372036854775808\n")],
            "",
            "phys_base in VMCOREINFO leads beyond all memory",
            false,
        ),
    ];
    for (name, notes, options, said, found) in rows {
        let notes = [vec![status()], notes].concat();
        let image = usual(&bench, name, &notes);
        let (status, _, error) = text(&image, options);
        assert!(error.contains(said), "{name}: {error}");
        assert_eq!(status, if found { 0 } else { 3 }, "{name}: {error}");
        if found {
            assert_eq!(both(&image, options), BOTH, "{name}");
        }
    }
}

#[test]
fn case_five_levels_survive_a_reset_cpu() {
    let bench = Bench::new();
    let mut five = X86::new(ROOT, 5);
    five.map(0x00aa_0000_0000_0000, 0x30_0000, 12, 0x67);
    let notes = [status(), qemu(0x6000_0010, 0, 0, 0), qemu(CR0, ROOT, 0x1020, 0x10)];
    let image = bench.file("la57", &core(false, X86_64, &notes, &[(0, &five.bytes(END), 0)]));
    let (status, answer) = json(&image, "translate 0x00aa000000000123");
    assert_eq!((status, number(&answer[0]["pa"])), (0, Some(0x30_0123)));
}

/// SMEP, SMAP and PKE as CR4 of the note has them: a supervisor's access to a user's page.
#[test]
fn case_controls_are_those_of_the_note() {
    let bench = Bench::new();
    let (smep, smap) = (1 << 20, 1 << 21);
    for (cr4, access, fault) in [
        (CR4, "fetch", false),
        (CR4 | smep, "fetch", true),
        (CR4 | smep, "read", false),
        (CR4 | smap, "read", true),
        (CR4 | smap, "fetch", false),
    ] {
        let image = usual(&bench, "core", &[status(), qemu(CR0, ROOT, cr4, 0x10)]);
        let (status, answer) = json(&image, &format!("translate 0x400000 --access {access}"));
        assert_eq!(status, i32::from(fault), "{cr4:#x} {access}: {answer}");
        let state = if fault { "denied" } else { "mapped" };
        assert_eq!(answer[0]["state"], state, "{answer}");
        let (status, _) = json(&image, &format!("translate 0x400000 --access {access} --user"));
        assert_eq!(status, 0, "a user's access");
    }
}

/// The entry that denies an access is named, whichever level it is of.
#[test]
fn case_the_entry_that_denies_is_named() {
    let bench = Bench::new();
    let names = ["PTE", "PDE", "PDPTE", "PML4E"];
    for level in 0..4 {
        for (bit, access) in
            [(1, "--access write"), (2, "--access read --user"), (63, "--access fetch")]
        {
            let mut tables = machine(ROOT, 0);
            let entry = tables.entry(0x40_0000, level);
            let word = tables.read(entry) ^ 1 << bit;
            tables.write(entry, word);
            let image = bench.file("raw", &tables.bytes(END));
            let (status, answer) = json(
                &image,
                &format!("--arch x86-64 --root {ROOT:#x} translate 0x400000 {access}"),
            );
            assert_eq!((status, &answer[0]["state"]), (1, &Value::from("denied")));
            assert_eq!(number(&answer[0]["entry"]), Some(entry), "{answer}");
            let said = format!("by the {} {word:#018x} at gpa {entry:#x}", names[level as usize]);
            assert!(answer[0]["fault"].as_str().unwrap().contains(&said), "{said}: {answer}");
        }
    }
}

/// What a table above the leaf restricts is a difference: U, W, NX.
#[test]
fn case_diff_sees_rights_of_upper_entries() {
    let bench = Bench::new();
    let before = bench.file("before", &machine(ROOT, 0).bytes(END));
    for level in 1..4 {
        for (bit, rights) in [(1, ("r-x", "r-x")), (2, ("rwx", "---")), (63, ("rw-", "rw-"))] {
            let mut tables = machine(ROOT, 0);
            let entry = tables.entry(0x40_0000, level);
            tables.write(entry, tables.read(entry) ^ 1 << bit);
            let after = bench.file("after", &tables.bytes(END));
            let (status, list) =
                json(&before, &format!("--arch x86-64 --root {ROOT:#x} diff {}", after.display()));
            assert_eq!((status, list.as_array().unwrap().len()), (1, 1), "{list}");
            let it = &list[0];
            assert_eq!((number(&it["va"]), it["bytes"].as_u64()), (Some(0x40_0000), Some(0x1000)));
            assert_eq!(
                (&it["before"]["supervisor"], &it["before"]["user"]),
                (&"rwx".into(), &"rwx".into())
            );
            let seen = (it["after"]["supervisor"].as_str(), it["after"]["user"].as_str());
            assert_eq!(seen, (Some(rights.0), Some(rights.1)), "level {level} bit {bit}");
        }
    }
}

/// Encrypted memory: the C-bit in CR3 and in each entry.
#[test]
fn case_the_c_bit_is_no_address() {
    let bench = Bench::new();
    for bit in [47, 51] {
        let c_bit = 1_u64 << bit;
        let bytes = machine(ROOT, c_bit).bytes(END);
        let info = format!(
            "OSRELEASE=6.1\nSYMBOL(swapper_pg_dir)={:x}\nNUMBER(phys_base)=0\nNUMBER(sme_mask)={c_bit}\n",
            KERNEL_MAP + ROOT
        );
        for (name, note, options) in [
            ("cr3", qemu(CR0, ROOT | c_bit, CR4, 0x10), String::new()),
            ("sme-mask", vmcoreinfo(&info), String::new()),
            ("option", status(), format!("--root {ROOT:#x} --c-bit {bit}")),
        ] {
            let image =
                bench.file(name, &core(false, X86_64, &[status(), note], &[(0, &bytes, 0)]));
            assert_eq!(both(&image, &options), BOTH, "{name} {bit}");
            let (_, _, error) = text(&image, &options);
            assert!(error.contains(&format!("bit {bit} of addresses is the C-bit")), "{error}");
        }
    }
}

/// Page-table isolation: the user's half has no kernel; its halves are reached by name.
#[test]
fn case_page_table_isolation_has_two_roots() {
    let bench = Bench::new();
    let mut tables = X86::new(ROOT, 4);
    let user = tables.skip_page();
    tables.map(KERNEL_TEXT, 0x100_0000, 21, 0x63);
    tables.map(0x40_0000, 0x30_0000, 12, 0x67);
    tables.write(user, tables.read(ROOT));
    let bytes = tables.bytes(END);
    for (name, cr3, cs, hint) in [
        ("pcid", user | 0x802, 0x10, true),
        ("cpl", user, 0x33, true),
        ("kernel", ROOT | 2, 0x33, false),
    ] {
        let notes = [status(), qemu(CR0, cr3, 0x2_0020, cs)];
        let image = bench.file(name, &core(false, X86_64, &notes, &[(0, &bytes, 0)]));
        let (status, _, error) = text(&image, &format!("translate {KERNEL_TEXT:#x}"));
        assert_eq!((status == 1, error.contains("--root kernel")), (hint, hint), "{name}: {error}");
        assert_eq!(both(&image, "--root kernel"), BOTH, "{name}");
        let (status, answer) = json(&image, &format!("--root user translate {KERNEL_TEXT:#x}"));
        assert_eq!((status, &answer[0]["state"]), (1, &"not-mapped".into()), "{name}");
    }
}

/// A kernel without page-table isolation has no user's half: whatever stands behind its root.
#[test]
fn case_no_user_half_is_said() {
    let bench = Bench::new();
    for (behind, status, said) in [
        (0, 3, "runs without page-table isolation"),
        (0x1234, 3, "runs without page-table isolation"),
        (machine(ROOT, 0).read(ROOT) | 1 << 63, 0, "the user's half of CPU 0"),
    ] {
        let mut tables = machine(ROOT, 0);
        tables.write(ROOT | 0x1000, behind);
        let mut bytes = tables.bytes(END);
        // What stood there is of no interest here.
        bytes[0x1_1008..0x1_2000].fill(0);
        let notes = [self::status(), qemu(CR0, ROOT, CR4, 0x10)];
        let image = bench.file("half", &core(false, X86_64, &notes, &[(0, &bytes, 0)]));
        let (seen, _, error) = text(&image, "info --root user");
        assert_eq!(seen, status, "{behind:#x}: {error}");
        let (_, out, error) = text(&image, "info --root user");
        assert!((out + &error).contains(said), "{behind:#x}: {error}");
    }
}

/// What the file does not hold is unknown: left out by the writer, cut off, not there at all.
#[test]
fn case_unknown_is_never_not_mapped() {
    let bench = Bench::new();
    let tables = machine(ROOT, 0);
    let bytes = tables.bytes(END);
    // The page of the table of the process's 2-MiB range.
    let lost = tables.read(tables.entry(0x40_0000, 1)) & !0xfff;
    let (low, high) = bytes.split_at(lost as usize);
    let notes = || [status(), qemu(CR0, ROOT, CR4, 0x10)];
    let all = core(false, X86_64, &notes(), &[(0, &bytes, 0)]);
    for (name, file, why, warned) in [
        (
            "left-out",
            core(false, X86_64, &notes(), &[(0, low, 0x1_0000)]),
            "left out of the image",
            false,
        ),
        (
            "missing",
            core(false, X86_64, &notes(), &[(0, low, 0), (lost + 0x1000, &high[0x1000..], 0)]),
            "not in the image",
            false,
        ),
        ("cut", all[..all.len() - high.len()].to_vec(), "behind the end of the file", true),
    ] {
        let image = bench.file(name, &file);
        let (status, answer) = json(&image, "translate 0x400123");
        assert_eq!((status, &answer[0]["state"]), (3, &"unknown".into()), "{name}");
        let fault = answer[0]["fault"].as_str().unwrap();
        assert!(fault.contains(&format!("the table at {lost:#x} is {why}")), "{name}: {fault}");
        let (status, list) = whole_json(&image, "list");
        assert_eq!((status, &list["unknown"]), (3, &true.into()), "{name}");
        let (status, _, error) = text(&image, &format!("translate {KERNEL_TEXT:#x}"));
        assert_eq!((status, error.contains("the file is cut off")), (0, warned), "{name}: {error}");
        let (status, _, error) = text(&image, "read 0x400000 16");
        assert_eq!(status, 3, "{name}: {error}");
    }
}

/// A machine with a hole below 4 GiB: the file has none.
#[test]
fn case_raw_memory_in_pieces() {
    let bench = Bench::new();
    let (base, hole) = (4_u64 << 30, 2_u64 << 30);
    let mut tables = X86::new(base, 4);
    tables.map(KERNEL_TEXT, 0x100_0000, 21, 0x63);
    tables.map(0x40_0000, 0x30_0000, 12, 0x67);
    let path = bench.path("q35.raw");
    let file = File::create(&path).unwrap();
    file.set_len(5 << 30).unwrap();
    for page in (base..base + 0x1_0000).step_by(8) {
        let word = tables.read(page);
        if word != 0 {
            file.write_all_at(&word.to_le_bytes(), page - hole).unwrap();
        }
    }
    let options = format!("--arch x86-64 --root {base:#x}");
    let (status, out, error) = text(&path, &options);
    assert_eq!((status, out.as_str()), (1, ""));
    assert!(error.contains("nothing is mapped"), "{error}");
    let pieces = format!("{options} --extent 0:2G@0 --extent 4G:3G@2G");
    assert_eq!(both(&path, &pieces), BOTH);
    // The upper piece in a file of its own.
    let upper = bench.path("upper.raw");
    let file = File::create(&upper).unwrap();
    file.set_len(3 << 30).unwrap();
    for page in (base..base + 0x1_0000).step_by(8) {
        file.write_all_at(&tables.read(page).to_le_bytes(), page - base).unwrap();
    }
    let two = format!("{options} --extent 0:2G@0 --extent 4G:3G@0:{}", upper.display());
    assert_eq!(both(&path, &two), BOTH);
    let (status, _, error) = text(&path, &format!("{options} --extent 0:2G@0"));
    assert!(status == 3 && error.contains("unknown: the root table"), "{error}");
}

/// More program headers than fit in 16 bits.
#[test]
fn case_any_number_of_program_headers() {
    let bench = Bench::new();
    let bytes = machine(ROOT, 0).bytes(END);
    for extra in [65533, 65534, 65535, 70000, 131_073] {
        let mut pieces = vec![(0, &bytes[..], 0)];
        let end = pieces.len() as u64 + extra;
        pieces.extend((1..end).map(|n| (0x100_0000 + n * 0x2000, &b""[..], 0x1000)));
        let notes = [status(), qemu(CR0, ROOT, CR4, 0x10)];
        let image = bench.file("many", &core(false, X86_64, &notes, &pieces));
        assert_eq!(both(&image, ""), BOTH, "{extra}");
    }
}

/// Segments that lie over one another, in memory or in the file.
#[test]
fn case_a8_overlapping_segments_cost_no_more_than_the_file() {
    let bench = Bench::new();
    let bytes = vec![0_u8; 1 << 20];
    let pieces: Vec<_> = (0..60_000_u64).map(|n| (n << 21, &bytes[..0], 0)).collect();
    let mut file = core(false, POWER, &[status()], &pieces);
    // Each header has the same megabyte of the file.
    let data = file.len() as u64;
    for n in 0..pieces.len() {
        let header = 64 + 56 * (n + 1);
        file[header + 8..header + 16].copy_from_slice(&data.to_le_bytes());
        file[header + 32..header + 40].copy_from_slice(&(1_u64 << 20).to_le_bytes());
        file[header + 40..header + 48].copy_from_slice(&(1_u64 << 20).to_le_bytes());
    }
    file.extend(&bytes);
    let image = bench.file("overlapping", &file);
    let start = Instant::now();
    let (status, _, error) = text(&image, "list");
    assert_eq!(status, 3);
    assert!(error.contains("the search was given up"), "{error}");
    assert!(start.elapsed() < Duration::from_secs(10), "{:?}", start.elapsed());
}

/// What an image holds is no command to a terminal.
#[test]
fn case_control_characters_are_shown() {
    let bench = Bench::new();
    let info = vmcoreinfo("OSRELEASE=6.1\x1b[2J\x07\n");
    let image = usual(&bench, "escapes", &[status(), qemu(CR0, ROOT, CR4, 0x10), info]);
    let (_, out, error) = text(&image, "info");
    assert!(out.contains("Linux 6.1\\u{1b}[2J\\u{7}"), "{out}");
    assert!(!(out + &error).contains(['\x1b', '\x07']));
}

/// Two pieces with the same memory and other bytes: it is said.
#[test]
fn case_pieces_that_contradict_each_other() {
    let bench = Bench::new();
    let bytes = machine(ROOT, 0).bytes(END);
    let mut other = bytes.clone();
    other[0x1_0000 + 8] ^= 1;
    for (second, doubt) in [(&bytes, false), (&other, true)] {
        let notes = [status(), qemu(CR0, ROOT, CR4, 0x10)];
        let pieces = [(0, &bytes[..], 0), (0x1_0000, &second[0x1_0000..], 0)];
        let image = bench.file("twice", &core(false, X86_64, &notes, &pieces));
        let (_, _, error) = text(&image, "info");
        assert_eq!(error.contains("memory at 0x10008 stands in it twice"), doubt, "{error}");
        assert_eq!(both(&image, ""), BOTH);
    }
}

/// Files of other forms are refused by name, never taken for raw memory.
#[test]
fn case_other_forms_are_refused_by_name() {
    let bench = Bench::new();
    for (magic, name) in [
        (&b"\x1f\x8b\x08"[..], "gzip"),
        (b"\x28\xb5\x2f\xfd", "zstd"),
        (b"QFI\xfb\0\0\0\x03", "qcow2"),
        (b"LibvirtQemudSave", "libvirt"),
        (b"QEVM\0\0\0\x03", "QEMU migration stream"),
        (b"PAGEDU64", "Windows crash dump"),
        (b"HIBR", "hibernation"),
        (b"DISKDUMP", "diskdump"),
        (b"\xed\x23\x8f\x61\x73\x01\x19\xa8", "LKCD"),
        (b"\xd0\xbe\xd2\xbe\x08\0\0\0\x01\0\0\0", "VMware state file of 32 bits"),
        (b"\xd2\xbe\xd2\xbe\x08\0\0\0\x01\0\0\0", "VMware state file"),
        (b"KDUMP   ", "kdump-compressed"),
        (b"AVML\x02\0\0\0", "AVML"),
        (b"EMiL\x02\0\0\0", "LiME"),
    ] {
        let mut file = magic.to_vec();
        file.resize(0x2000, 0);
        let image = bench.file("image", &file);
        let (status, out, error) = text(&image, "--arch x86-64 --root 0x1000");
        assert_eq!((status, out.as_str()), (3, ""), "{name}");
        assert!(error.contains(name), "{name}: {error}");
    }
}

/// Options that say nothing about what is asked are errors of the command line.
#[test]
fn case_options_that_do_not_apply_are_errors() {
    let bench = Bench::new();
    let image = usual(&bench, "core", &[status(), qemu(CR0, ROOT, CR4, 0x10)]);
    for (options, said) in [
        ("--pid 3", "--pid says nothing about x86-64"),
        ("--slb 1:2", "--slb says nothing about x86-64"),
        ("--mode-based-execute", "--mode-based-execute says nothing about x86-64"),
        ("--hpte-layout isa2", "--hpte-layout says nothing about x86-64"),
        ("list --json --svg /dev/null", "cannot be used with"),
        ("list --json --html /dev/null", "cannot be used with"),
        ("translate xyz", "an address is hexadecimal"),
        ("--base 5", "--base says nothing about this image (ELF core)"),
        ("search x --most 0", "0 is not in 1.."),
        ("read 1000 1e3", "a size is a number"),
        ("--arch ppc64-radix --cpu 0 --root 0x1000", "--cpu says nothing about ppc64-radix"),
    ] {
        let (status, out, error) = text(&image, options);
        assert_eq!((status, out.as_str()), (2, ""), "{options}: {error}");
        assert!(error.contains(said), "{options}: {error}");
    }
}

/// EPT with mode-based execute: a page that only user mode may execute.
#[test]
fn case_mode_based_execute_is_an_option() {
    let bench = Bench::new();
    let mut bytes = vec![0_u8; 0x1_0000];
    let mut put = |at: usize, word: u64| bytes[at..at + 8].copy_from_slice(&word.to_le_bytes());
    (1..4).for_each(|n| put(n * 0x1000, (n as u64 + 1) << 12 | 0x407));
    for (n, rights) in [0x401, 0x400, 0x5, 0x3].into_iter().enumerate() {
        put(0x4000 + n * 8, (n as u64 + 5) << 12 | 6 << 3 | rights);
    }
    let image = bench.file("mbec", &bytes);
    let options = "--arch ept --root 0x105e";
    let rights = |options: &str| -> Vec<(String, String)> {
        let (_, list) = json(&image, options);
        let letters = |it: &Value, mode: &str| it[mode].as_str().unwrap().to_owned();
        let list = list.as_array().unwrap();
        list.iter().map(|it| (letters(it, "supervisor"), letters(it, "user"))).collect()
    };
    let pair = |one: &str, two: &str| (one.to_owned(), two.to_owned());
    assert_eq!(rights(options), [pair("r--", "r--"), pair("r-x", "r-x"), pair("rw-", "rw-")]);
    assert_eq!(
        rights(&format!("{options} --mode-based-execute")),
        [pair("r--", "r-x"), pair("---", "--x"), pair("r-x", "r--"), pair("rw-", "rw-")]
    );
}

/// Linux's espfix stacks: one page, many thousand times.
#[test]
fn case_regular_aliases_are_one_line() {
    let bench = Bench::new();
    let mut tables = machine(ROOT, 0);
    for n in 0..512 {
        tables.map(0xffff_ff00_0000_0000 + n * 0x1_0000, 0x7000, 12, 0x61);
    }
    let image = bench.file("raw", &tables.bytes(0x8_0000));
    let options = format!("--arch x86-64 --root {ROOT:#x}");
    let (_, list) = json(&image, &options);
    let list = list.as_array().unwrap();
    assert_eq!(list.len(), 4, "{list:#?}");
    assert_eq!(list[2]["repeats"], serde_json::json!({ "count": 512, "stride": 0x1_0000 }));
    let (_, all) = json(&image, &format!("{options} list --no-fold"));
    assert_eq!(ranges(&all).len(), 515);
    let (status, aliases) = json(&image, &format!("{options} reverse 0x7123"));
    assert_eq!((status, aliases.as_array().unwrap().len()), (0, 2), "{aliases}");
}
