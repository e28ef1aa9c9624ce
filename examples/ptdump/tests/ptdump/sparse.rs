//! An image of 64 GiB that is nearly all holes: what is not needed is not read.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::{Command, Output};
use std::time::{Duration, Instant};

use pgtable::{Gpa, Prot};
use pgtable_ppc64::radix::{Granule, ProcessScoped, ProcessTable, Prte, Quadrants};
use pgtable_x86::{Controls, Levels, LongMode};

use crate::support::{Bench, Memory, build, json, number, ranges};

const SIZE: u64 = 64 << 30;
/// Where the tables stand: near the end.
const TABLES: u64 = SIZE - (1 << 30);

/// Runs the program with no more than this many KiB of address space.
fn confined(image: &Path, words: &str, kibibytes: u32) -> Output {
    let script = format!("ulimit -v {kibibytes}; exec \"$0\" list \"$1\" {words}");
    Command::new("sh")
        .arg("-c")
        .arg(script)
        .arg(env!("CARGO_BIN_EXE_ptdump"))
        .arg(image)
        .output()
        .unwrap()
}

#[test]
fn sixty_four_gigabytes() {
    let bench = Bench::new();
    let memory = Memory::new(TABLES, 64 << 20);
    // 8 GiB in 4-KiB pages (16 MiB of tables), and the rest in large ones.
    let rows = [
        (0xffff_8880_0000_0000, 0, 8 << 30, 12, Prot::RW),
        (0xffff_8882_0000_0000, 8 << 30, 56 << 30, 30, Prot::RW),
    ];
    let (root, tables) =
        build(LongMode::new(Levels::Four, Controls::new()), &memory, TABLES, &rows);
    let path = bench.path("sparse");
    let file = File::create(&path).unwrap();
    file.set_len(SIZE).unwrap();
    file.write_all_at(&memory.bytes(), TABLES).unwrap();
    drop(file);
    let start = Instant::now();
    let options = format!("--arch x86-64 --root {root:#x}");
    let (status, list) = json(&path, &options);
    assert_eq!(status, 0);
    assert_eq!(
        ranges(&list),
        [
            (0xffff_8880_0000_0000, Some(0), 8 << 30, Some(0x1000)),
            (0xffff_8882_0000_0000, Some(8 << 30), 56 << 30, Some(0x4000_0000)),
        ]
    );
    let (_, stats) = json(&path, &format!("{options} stats"));
    let levels = stats["tree"]["levels"].as_array().unwrap();
    assert_eq!(levels.iter().map(|level| level["tables"].as_u64().unwrap()).sum::<u64>(), tables);
    let (_, answer) = json(&path, &format!("{options} translate 0xffff888fffffffff"));
    assert_eq!(number(&answer[0]["pa"]), Some(SIZE - 1));
    assert!(start.elapsed() < Duration::from_secs(60), "{:?}", start.elapsed());
    // Its 16 MiB of tables, and what a program has anyhow: no gigabyte.
    let output = confined(&path, &options, 128 << 10);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(String::from_utf8_lossy(&output.stdout).lines().count(), 3);
}

#[test]
fn a_process_table_behind_sixty_gigabytes_of_nothing() {
    let bench = Bench::new();
    let memory = Memory::new(TABLES, 2 << 20);
    let kernel = [(0xc000_0000_0000_0000, 0, SIZE, 30, Prot::RW)];
    let format = ProcessScoped::new(Granule::K64).with_quadrants(Quadrants::Three);
    let (root, _) = build(format, &memory, TABLES, &kernel);
    let table = ProcessTable::new(Gpa::new(TABLES + (1 << 20)), 8).unwrap();
    table.write(&memory.map(), 0, Prte::of_tree(root).unwrap()).unwrap();
    let path = bench.path("sparse");
    let file = File::create(&path).unwrap();
    file.set_len(SIZE).unwrap();
    file.write_all_at(&memory.bytes(), TABLES).unwrap();
    drop(file);
    let start = Instant::now();
    let (status, list) = json(&path, "--arch ppc64-radix");
    assert_eq!(status, 0);
    assert_eq!(ranges(&list), [(0xc000_0000_0000_0000, Some(0), SIZE, Some(0x4000_0000))]);
    assert!(start.elapsed() < Duration::from_secs(30), "{:?}", start.elapsed());
}
