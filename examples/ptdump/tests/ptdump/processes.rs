//! `ps` and `--process` of kernels that tell little: root tables by their looks.
//!
//! A kernel that tells all is a test of `table-dump`'s, and of `cargo xtask ptdump-proof`.

use serde_json::json;

use crate::cores::core;
use crate::support::{Bench, json, text, whole_json};
use crate::synthetic::{CR0, CR4, X86, qemu, vmcoreinfo};

const EM_X86_64: u16 = 62;
const ROOT: u64 = 0x1_0000;
const OTHER: u64 = 0x2_0000;
const STALE: u64 = 0x2_1000;
const END: u64 = 0x3_0000;

/// A kernel's root with three entries in the upper half, two roots of processes with the same, and
/// two pages that are none: one with another upper half, and one with nothing in the lower.
fn memory() -> Vec<u8> {
    let mut x86 = X86::new(ROOT, 4);
    x86.map(0xffff_8880_0000_0000, 0, 30, 0x63);
    x86.map(0xffff_c900_0000_0000, 0x20_0000, 21, 0x63);
    x86.map(0xffff_ffff_8100_0000, 0x100_0000, 21, 0x63);
    for (root, lower, without) in
        [(OTHER, true, 0), (STALE, true, 0), (0x2_2000, true, 2), (0x2_3000, false, 0)]
    {
        let upper: Vec<_> = (256..512).filter(|n| x86.read(ROOT + n * 8) != 0).collect();
        for n in upper.into_iter().skip(without) {
            // The accessed flag is each root's own.
            let word = x86.read(ROOT + n * 8) & !0x20;
            x86.write(root + n * 8, word);
        }
        if lower {
            x86.write(root, 0x3067);
        }
    }
    x86.bytes(END)
}

#[test]
fn case_roots_by_their_looks() {
    let bench = Bench::new();
    let bytes = memory();
    let info =
        "OSRELEASE=5.4.0\nSYMBOL(swapper_pg_dir)=ffffffff81010000\nNUMBER(phys_base)=-16777216\n";
    for (name, notes, why) in [
        ("none", vec![qemu(CR0, ROOT, CR4, 0x10)], "no VMCOREINFO"),
        ("old", vec![vmcoreinfo(info)], "does not say where the kernel's symbols are"),
    ] {
        let image = bench.file(name, &core(false, EM_X86_64, &notes, &[(0, &bytes, 0)]));
        let (status, out, error) = text(&image, "ps");
        assert_eq!(status, 0, "{error}");
        assert!(error.contains(why) && error.contains("by their looks"), "{error}");
        let roots: Vec<_> = out.lines().skip(1).map(str::trim).collect();
        let line = |root: u64| format!("-        -  {root:#018x}");
        assert_eq!(roots, [line(OTHER), line(STALE)]);
        let (status, all) = json(&image, "ps");
        let process = |root: &str| json!({ "pid": null, "parent": null, "name": null, "root": root, "kernel": false });
        let processes = json!([process("0x20000"), process("0x21000")]);
        let want = json!({ "found_by": "looks", "fault": null, "processes": processes });
        assert_eq!((status, all), (0, want));
        let (status, _, error) = text(&image, "--process init");
        assert!(status == 3 && error.contains(why), "{error}");
    }
}

#[test]
fn case_what_has_no_processes() {
    let bench = Bench::new();
    let image = bench.file("raw", &memory());
    for (options, said) in [
        ("ps --arch ept --root 0x1005e", "have no looks"),
        ("ps --arch x86-64", "does not tell where the tables begin"),
        ("--arch ppc64-radix --process 1 --root user", "the image does not tell"),
    ] {
        let (status, _, error) = text(&image, options);
        assert!(status == 3 && error.contains(said), "{options}: {error}");
    }
    let (status, _, error) = text(&image, "--process 1 --pid 1");
    assert!(status == 2 && error.contains("cannot be used with"), "{error}");
    let (_, all) = whole_json(&image, &format!("ps --arch x86-64 --root {ROOT:#x}"));
    assert_eq!(all["processes"]["processes"].as_array().map(Vec::len), Some(2), "{all}");
}
