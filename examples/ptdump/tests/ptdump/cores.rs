//! ELF cores as QEMU and Linux write them: memory in pieces, at odd places of the file, and notes
//! that tell where the tables are.

use std::path::PathBuf;

use crate::support::{Bench, Memory, build, json, number, ranges, text};
use pgtable::{Gpa, Prot};
use pgtable_ppc64::radix::{Granule, ProcessScoped, ProcessTable, Prte, Quadrants};
use pgtable_x86::{Controls, Levels, LongMode};

/// The words of an ELF file in one byte order.
struct Elf {
    big: bool,
    bytes: Vec<u8>,
}

impl Elf {
    fn word(&mut self, size: usize, value: u64) {
        let little = value.to_le_bytes();
        let mut bytes = little[..size].to_vec();
        if self.big {
            bytes.reverse();
        }
        self.bytes.extend(bytes);
    }
}

/// A note: name, type, description.
pub type Note<'n> = (&'n str, u32, Vec<u8>);

/// An ELF core (System V ABI, chapters 4 and 5) with these notes and pieces of memory: address,
/// content, bytes of zero behind it.
pub fn core(big: bool, machine: u16, notes: &[Note<'_>], pieces: &[(u64, &[u8], u64)]) -> Vec<u8> {
    let mut all = Elf { big, bytes: Vec::new() };
    for (name, kind, description) in notes {
        for value in [name.len() as u64 + 1, description.len() as u64, u64::from(*kind)] {
            all.word(4, value);
        }
        for field in [[name.as_bytes(), b"\0"].concat(), description.clone()] {
            all.bytes.extend(&field);
            all.bytes.resize(all.bytes.len().next_multiple_of(4), 0);
        }
    }
    let notes = all.bytes;
    let mut elf =
        Elf { big, bytes: vec![0x7f, b'E', b'L', b'F', 2, if big { 2 } else { 1 }, 1, 0] };
    elf.bytes.resize(16, 0);
    let headers = pieces.len() as u64 + 1;
    for (size, value) in [
        (2, 4),
        (2, u64::from(machine)),
        (4, 1),
        (8, 0),
        (8, 64),
        (8, if headers < 0xffff { 0 } else { 64 + 56 * headers }),
        (4, 0),
        (2, 64),
        (2, 56),
        (2, headers.min(0xffff)),
        (2, 0),
        (2, 0),
        (2, 0),
    ] {
        elf.word(size, value);
    }
    // More headers than fit: the first section says how many.
    let section = if headers < 0xffff { 0 } else { 64 };
    let mut offset = 64 + 56 * headers + section;
    let header = |elf: &mut Elf, kind, offset, address, stored, bytes| {
        for (size, value) in
            [(4, kind), (4, 0), (8, offset), (8, 0), (8, address), (8, stored), (8, bytes), (8, 0)]
        {
            elf.word(size, value);
        }
    };
    header(&mut elf, 4, offset, 0, notes.len() as u64, notes.len() as u64);
    offset += notes.len() as u64;
    for (address, content, zeros) in pieces {
        let stored = content.len() as u64;
        header(&mut elf, 1, offset, *address, stored, stored + zeros);
        offset += stored;
    }
    for (size, value) in [(44, 0), (4, headers), (16, 0)].into_iter().filter(|_| section > 0) {
        if size == 4 { elf.word(4, value) } else { elf.bytes.extend(vec![0; size]) }
    }
    elf.bytes.extend(notes);
    pieces.iter().for_each(|(_, content, _)| elf.bytes.extend(*content));
    elf.bytes
}

/// QEMU's note of an x86-64 CPU: `QEMUCPUState` of `target/i386/arch_dump.c`.
fn qemu(cr3: u64, la57: bool) -> Note<'static> {
    let mut state = vec![0; 440];
    state[0] = 1;
    state[4..6].copy_from_slice(&440_u16.to_le_bytes());
    let cr4 = 0x20 | if la57 { 1 << 12 } else { 0 };
    for (at, value) in [(392, 0x8000_0001), (416, cr3), (424, cr4)] {
        state[at..at + 8].copy_from_slice(&u64::to_le_bytes(value));
    }
    ("QEMU", 0, state)
}

const START: u64 = 0x1000_0000;

fn x86(levels: Levels) -> (Memory, u64) {
    let memory = Memory::new(START, 1 << 20);
    let rows = [
        (0x40_0000, 0x7000_0000, 0x3000, 12, Prot::RX.for_user()),
        (0xffff_ffff_8000_0000, 0x100_0000, 0x40_0000, 21, Prot::RWX),
    ];
    let (root, _) = build(LongMode::new(levels, Controls::new()), &memory, START + 0x1000, &rows);
    (memory, root)
}

#[test]
fn qemus_notes_tell_the_root_and_the_levels() {
    let bench = Bench::new();
    for (levels, la57) in [(Levels::Four, false), (Levels::Five, true)] {
        let (memory, root) = x86(levels);
        let bytes = memory.bytes();
        // Two pieces which meet in the middle of the tables; the prstatus note is as long as
        // QEMU's, so nothing is aligned to 8.
        let (low, high) = bytes.split_at(0x3000);
        let notes = [("CORE", 1, vec![0; 333]), qemu(0x666_6000, la57), qemu(root | 0x3, la57)];
        let pieces = [(START + 0x3000, high, 0x1000), (START, low, 0), (0, &[1, 2, 3][..], 0)];
        let image = bench.file("core", &core(false, 62, &notes, &pieces));
        let (status, list) = json(&image, "--cpu 1");
        assert_eq!(status, 0);
        assert_eq!(
            ranges(&list),
            [
                (0x40_0000, Some(0x7000_0000), 0x3000, Some(0x1000)),
                (0xffff_ffff_8000_0000, Some(0x100_0000), 0x40_0000, Some(0x20_0000)),
            ]
        );
        let (_, _, notes) = text(&image, "--cpu 1 stats");
        let arch = if la57 { "x86-64-la57" } else { "x86-64" };
        assert!(notes.contains(&format!("{arch}, CR3 of CPU 1 in the image's notes")), "{notes}");
        // CPU 0's root is not in the image, and there is no CPU 2.
        let (status, _, error) = text(&image, "translate 0x400000");
        assert_eq!(status, 3);
        assert!(error.contains("unknown: the root table at 0x666"), "{error}");
        let (status, _, error) = text(&image, "--cpu 2");
        assert_eq!(status, 3);
        assert!(error.contains("there is no CPU 2"), "{error}");
    }
}

/// A vmcore: no CR3, but what Linux tells of itself; the kernel's image is there twice.
#[test]
fn vmcoreinfo_tells_the_root() {
    let bench = Bench::new();
    let (memory, root) = x86(Levels::Four);
    let bytes = memory.bytes();
    let info = format!(
        "SYMBOL(swapper_pg_dir)={:x}\nNUMBER(phys_base)=-4096\n",
        0xffff_ffff_8000_0000_u64 + root + 4096
    );
    let notes = [("CORE", 1, vec![0; 336]), ("VMCOREINFO", 0, info.into_bytes())];
    let twice = [(START, &bytes[..], 0), (START + 0x1000, &bytes[0x1000..0x5000], 0)];
    let image = bench.file("vmcore", &core(false, 62, &notes, &twice));
    let (status, answer) = json(&image, "translate 0xffffffff80123456 0x400fff");
    assert_eq!(status, 0);
    assert_eq!(
        [number(&answer[0]["pa"]), number(&answer[1]["pa"])],
        [Some(0x112_3456), Some(0x7000_0fff)]
    );
}

/// POWER: big-endian headers and little-endian ones; the process table is found by its looks.
#[test]
fn a_process_table_is_found() {
    let bench = Bench::new();
    let memory = Memory::new(0, 4 << 20);
    let kernel = [(0xc000_0000_0000_0000, 0, 0x4000_0000, 30, Prot::RW)];
    let user = [(0x1000_0000, 0x20_0000, 0x3_0000, 16, Prot::RX.for_user())];
    let format = ProcessScoped::new(Granule::K64);
    let (root, _) = build(format.with_quadrants(Quadrants::Three), &memory, 0x10_0000, &kernel);
    let (other, _) = build(format, &memory, 0x20_0000, &user);
    let table = ProcessTable::new(Gpa::new(0x38_0000), 7).unwrap();
    table.write(&memory.map(), 0, Prte::of_tree(root).unwrap()).unwrap();
    table.write(&memory.map(), 7, Prte::of_tree(other).unwrap()).unwrap();
    // Something that looks like one at first sight: its tree does not map the kernel.
    let fake = ProcessTable::new(Gpa::new(0x8_0000), 0).unwrap();
    fake.write(&memory.map(), 0, Prte::of_tree(other).unwrap()).unwrap();
    let bytes = memory.bytes();
    let images: [PathBuf; 3] = [
        bench.file("raw", &bytes),
        bench.file("little", &core(false, 21, &[("CORE", 1, vec![0; 504])], &[(0, &bytes, 0)])),
        bench.file("big", &core(true, 21, &[("CORE", 1, vec![0; 504])], &[(0, &bytes, 0)])),
    ];
    for image in images {
        let arch = if image.ends_with("raw") { "--arch ppc64-radix" } else { "" };
        let (status, list) = json(&image, arch);
        assert_eq!(status, 0);
        assert_eq!(
            ranges(&list),
            [(0xc000_0000_0000_0000, Some(0), 0x4000_0000, Some(0x4000_0000))]
        );
        let (_, list) = json(&image, &format!("{arch} --pid 7"));
        assert_eq!(ranges(&list), [(0x1000_0000, Some(0x20_0000), 0x3_0000, Some(0x1_0000))]);
        let (status, _, error) = text(&image, &format!("{arch} --pid 8"));
        assert_eq!(status, 3);
        assert!(
            error.contains("process 8 has no tree: its entry in the process table at 0x380000"),
            "{error}"
        );
        let (_, _, note) = text(&image, &format!("{arch} --pid 7"));
        assert!(
            note.contains("process 7 of the process table at 0x380000 (found by its looks)"),
            "{note}"
        );
    }
}

/// A vmcore of POWER: the kernel's tree without a process table; other processes need one.
#[test]
fn vmcoreinfo_tells_the_root_on_power() {
    let bench = Bench::new();
    let memory = Memory::new(0, 2 << 20);
    let kernel = [(0xc000_0000_0000_0000, 0, 0x8000_0000, 30, Prot::RW)];
    let format = ProcessScoped::new(Granule::K64).with_quadrants(Quadrants::Three);
    let (root, _) = build(format, &memory, 0x10_0000, &kernel);
    let info = format!("SYMBOL(swapper_pg_dir)={:x}\n", 0xc000_0000_0000_0000 | root);
    let notes = [("CORE", 1, vec![0; 504]), ("VMCOREINFO", 0, info.into_bytes())];
    let image = bench.file("vmcore", &core(false, 21, &notes, &[(0, &memory.bytes(), 0)]));
    let (status, list) = json(&image, "");
    assert_eq!(status, 0);
    assert_eq!(ranges(&list), [(0xc000_0000_0000_0000, Some(0), 0x8000_0000, Some(0x4000_0000))]);
    let (status, _, error) = text(&image, "--pid 5");
    assert_eq!(status, 3);
    assert!(error.contains("give --root (the process table's address)"), "{error}");
}

#[test]
fn what_is_no_core_is_said() {
    let bench = Bench::new();
    let good = core(false, 62, &[("CORE", 1, vec![0; 333])], &[(START, &[0; 0x1000], 0)]);
    let changed = |at: usize, byte: u8| {
        let mut bytes = good.clone();
        bytes[at] = byte;
        bytes
    };
    for (name, bytes, why) in [
        ("class", changed(4, 3), "neither of 32 nor of 64 bits"),
        ("program", changed(16, 2), "is a program"),
        ("short", good[..20].to_vec(), "damaged"),
        ("headers", changed(54, 55), "damaged"),
        ("kdump", b"KDUMP   \0\0\0\0\0\0".to_vec(), "kdump-compressed file is damaged"),
        ("flattened", b"makedumpfile\0\0\0\0".to_vec(), "flattened file is damaged"),
        ("no-arch", changed(18, 0), "give --arch"),
    ] {
        let (status, out, error) = text(&bench.file(name, &bytes), "");
        assert_eq!((status, out.as_str()), (3, ""), "{name}");
        assert!(error.contains(why), "{name}: {error}");
    }
    let (status, _, error) = text(&bench.path("nothing"), "");
    assert_eq!(status, 3);
    assert!(error.contains("No such file"), "{error}");
}
