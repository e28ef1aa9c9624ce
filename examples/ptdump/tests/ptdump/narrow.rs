//! Cores of 32-bit x86: which paging mode the registers say, and where Linux's own tables are.

use pgtable::Prot;
use pgtable_x86::{Controls, Pae, Paging32};

use crate::cores::{Note, core};
use crate::support::{Bench, Memory, Row, build, json, number, ranges, text};
use crate::synthetic::{CR0, CR4, machine, qemu, virtualbox, vmcoreinfo};

const EM_386: u16 = 3;
const EM_X86_64: u16 = 62;
const END: u64 = 0x10_0000;
const ROOT: u64 = 0x1_0000;
/// CR4 with PSE, and with PSE and PAE.
const PSE: u64 = 0x10;
const PAE: u64 = 0x30;

/// The kernel's first 4 MiB, a page of a process, and a page at the end.
const ROWS: [Row; 3] = [
    (0x804_8000, 0x30_0000, 0x1000, 12, Prot::RWX.for_user()),
    (0xc000_0000, 0, 0x40_0000, 0, Prot::RWX),
    (0xffff_f000, 0x5000, 0x1000, 12, Prot::RWX),
];

/// The rows, with pages of 2^`huge` bytes for the kernel.
fn rows(huge: u8) -> [Row; 3] {
    ROWS.map(|(va, pa, bytes, shift, prot)| {
        (va, pa, bytes, shift.max(huge * u8::from(shift == 0)), prot)
    })
}

/// Memory with the tables of PAE paging, of 32-bit paging, or of long mode, at [`ROOT`].
fn memory(arch: &str) -> Vec<u8> {
    let memory = Memory::new(0, END as usize);
    let (root, _) = match arch {
        "x86-pae" => build(Pae::new(Controls::new()), &memory, ROOT, &rows(21)),
        "x86-32" => build(Paging32::new(Controls::new()), &memory, ROOT, &rows(22)),
        _ => return machine(ROOT, 0).bytes(END),
    };
    assert_eq!(root, ROOT);
    memory.bytes()
}

fn at(note: Note<'static>, registers: &[(usize, u64)]) -> Note<'static> {
    let (name, kind, mut state) = note;
    for (at, value) in registers {
        state[*at..at + 8].copy_from_slice(&value.to_le_bytes());
    }
    (name, kind, state)
}

/// Name, machine of the core, tables, notes, options; what is said on standard error; the exit
/// status.
type Case<'c> = (&'c str, u16, &'c str, Vec<Note<'c>>, &'c str, &'c str, i32);

#[test]
fn case_registers_say_the_mode() {
    const RIP: usize = 8 + 16 * 8;
    let bench = Bench::new();
    let linux = |offset: u64, text: &str| {
        vmcoreinfo(&format!("OSRELEASE=6.1.0\nSYMBOL(swapper_pg_dir)={:x}\n{text}", offset + ROOT))
    };
    let off = || qemu(0x6000_0010, 0, 0, 0);
    let pae = || qemu(CR0, ROOT, PAE, 0x60);
    let narrow = || qemu(CR0, ROOT, PSE, 0x60);
    let wide = || at(qemu(CR0, ROOT, CR4, 0x10), &[(RIP, 0xffff_ffff_8100_0000)]);
    let by_hand = format!("--arch x86-pae --root {ROOT:#x}");
    let rows: Vec<Case<'_>> = vec![
        ("pae", EM_386, "x86-pae", vec![pae()], "", "x86-pae, CR3 of CPU 0", 0),
        ("32", EM_386, "x86-32", vec![narrow()], "", "x86-32, CR3 of CPU 0", 0),
        ("off-pae", EM_386, "x86-pae", vec![off(), pae()], "", "x86-pae, CR3 of CPU 1", 0),
        // QEMU's word for a machine of 64 bits whose first CPU is off.
        ("off-long", EM_386, "x86-64", vec![off(), wide()], "", "x86-64, CR3 of CPU 1", 0),
        (
            "pcide",
            EM_386,
            "x86-64",
            vec![qemu(CR0, ROOT, CR4 | 1 << 17, 0x10)],
            "",
            "x86-64, CR3",
            0,
        ),
        ("insisted", EM_386, "x86-64", vec![pae()], "--arch x86-64", "x86-64, CR3 of CPU 0", 0),
        ("64-32", EM_X86_64, "x86-32", vec![narrow()], "", "x86-32, CR3 of CPU 0", 0),
        ("64-pae", EM_X86_64, "x86-pae", vec![pae()], "--arch x86-pae", "x86-pae, CR3 of CPU 0", 0),
        (
            "box",
            EM_X86_64,
            "x86-pae",
            vec![virtualbox(CR0, ROOT, PAE, 0x800)],
            "",
            "x86-pae, CR3",
            0,
        ),
        ("root", EM_386, "x86-pae", vec![off()], &by_hand, "x86-pae, --root", 0),
        ("all-off", EM_386, "x86-pae", vec![off(), off()], "", "no tables to read", 3),
        (
            "linux-pae",
            EM_386,
            "x86-pae",
            vec![off(), linux(0xc000_0000, "CONFIG_X86_PAE=y\n")],
            "",
            "x86-pae, swapper_pg_dir in VMCOREINFO",
            0,
        ),
        (
            "linux-32",
            EM_386,
            "x86-32",
            vec![linux(0xc000_0000, "")],
            "",
            "x86-32, swapper_pg_dir in VMCOREINFO",
            0,
        ),
        (
            "elsewhere",
            EM_386,
            "x86-32",
            vec![linux(0xd000_0000, "")],
            "",
            "at none of Linux's usual places",
            3,
        ),
        (
            "c-bit",
            EM_386,
            "x86-pae",
            vec![pae()],
            "--c-bit 47",
            "--c-bit says nothing about x86-32",
            2,
        ),
    ];
    for (name, machine, tables, notes, options, said, status) in rows {
        let notes = [vec![("CORE", 1, vec![0; 336])], notes].concat();
        let bytes = memory(tables);
        let image =
            bench.file(name, &core(false, machine, &notes, &[(0, &bytes, 0x40_0000 - END)]));
        let (code, _, error) = text(&image, options);
        assert!(error.contains(said), "{name}: {error}");
        assert_eq!(code, status, "{name}: {error}");
        if status != 0 || tables == "x86-64" {
            continue;
        }
        let (_, list) = json(&image, options);
        let want = self::rows(if tables == "x86-pae" { 21 } else { 22 });
        let want: Vec<_> = want
            .iter()
            .map(|&(va, pa, bytes, shift, _)| (va, Some(pa), bytes, Some(1 << shift)))
            .collect();
        assert_eq!(ranges(&list), want, "{name}");
    }
}

/// What an entry of 4 bytes says, the kernel's half of the addresses, and a process that is in user
/// mode behind page-table isolation.
#[test]
fn case_entries_and_halves() {
    let bench = Bench::new();
    let bytes = memory("x86-32");
    let image = bench.file("raw", &bytes);
    let options = format!("--arch x86-32 --root {ROOT:#x}");
    let (status, said, _) = text(&image, &format!("{options} explain 0xc0012345"));
    assert_eq!(status, 0, "{said}");
    assert!(
        said.contains("PDE ") && said.contains("PS=1: a page") && !said.contains("XD"),
        "{said}"
    );
    let (status, list, _) = text(&image, &format!("{options} audit"));
    assert!(status == 1 && !list.contains("open to user mode"), "{list}");
    let (_, answer) = json(&image, &format!("{options} translate 0xc0012345 0x100000000"));
    assert_eq!(number(&answer[0]["pa"]), Some(0x1_2345));
    assert_eq!(answer[1]["state"], "not-mapped", "{answer}");
    let notes = [qemu(CR0, ROOT | 0x1000, PAE, 0x73)];
    let mut bytes = memory("x86-pae");
    let half = ROOT as usize + 0x1000;
    bytes[half..half + 32].fill(0);
    let image = bench.file("half", &core(false, EM_386, &notes, &[(0, &bytes, 0)]));
    let (status, _, error) = text(&image, "translate 0xc0000000");
    assert_eq!(status, 1);
    assert!(error.contains("the user's half of page-table isolation"), "{error}");
}
