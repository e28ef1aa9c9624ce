//! Trees that `pgtable` built, of every format: what was mapped is what is listed, translated,
//! counted, and compared.

use pgtable::format::Format;
use pgtable::{Gpa, Hpa, Prot};
use pgtable_ppc64::radix::{Granule, ProcessScoped, ProcessTable, Prte, Quadrants};
use pgtable_riscv64::{GuestControls, Mode, Sv, SvX4};
use pgtable_x86::{Controls, Ept, EptControls, Levels, LongMode, Pae, Paging32};
use serde_json::json;

use crate::support::{Bench, Memory, Row, build, json, number, ranges, text};

const START: u64 = 0x4000_0000;

/// What is mapped: in the lower half (or all there is), with one range of each page size.
fn rows(base: u64, shifts: [u8; 3]) -> Vec<Row> {
    let [small, middle, large] = shifts.map(|shift| 1_u64 << shift);
    vec![
        (base + 0x10_0000, 0x7000_0000, 16 * small, shifts[0], Prot::RW),
        (base + 0x10_0000 + 16 * small, 0x9000_0000, 3 * small, shifts[0], Prot::RX.for_user()),
        (base + 0x4000_0000, 0x4000_0000, 5 * middle, shifts[1], Prot::RW.for_user()),
        (base + 0x20_0000_0000, 0x1_0000_0000, 2 * large, shifts[2], Prot::R),
    ]
}

fn check<F: Format>(
    format: F,
    options: &str,
    base: u64,
    shifts: [u8; 3],
    root: impl Fn(&Memory, u64) -> u64,
) {
    check_rows(format, options, &rows(base, shifts), root);
}

/// The last two rows are of large pages, or of none that counts; nothing is mapped at 0x3000_0000
/// beyond the first row's beginning.
fn check_rows<F: Format>(
    format: F,
    options: &str,
    rows: &[Row],
    root: impl Fn(&Memory, u64) -> u64,
) {
    let bench = Bench::new();
    let base = rows[0].0 - 0x10_0000;
    let memory = Memory::new(START, 2 << 20);
    let (tree, tables) = build(format, &memory, START + 0x1_0000, rows);
    let options = format!("{options} --base {START:#x} --root {:#x}", root(&memory, tree));
    let image = bench.file("before.raw", &memory.bytes());

    // The list: exactly the rows.
    let (status, list) = json(&image, &options);
    assert_eq!(status, 0, "{list}");
    let want: Vec<_> = rows
        .iter()
        .map(|&(va, pa, bytes, shift, _)| (va, Some(pa), bytes, Some(1 << shift)))
        .collect();
    assert_eq!(ranges(&list), want);
    for (range, row) in list.as_array().unwrap().iter().zip(rows) {
        let letters = |prot: Prot| {
            [(prot.read(), 'r'), (prot.write(), 'w'), (prot.execute(), 'x')]
                .map(|(allowed, letter)| if allowed { letter } else { '-' })
                .iter()
                .collect::<String>()
        };
        // On RISC-V a supervisor has no access to a user's page (without SUM); every access of a
        // guest is a user's.
        let alike = options.contains("ept") || options.contains("-guest");
        let (own, users) = (!options.contains("riscv64 ") || !row.4.user(), row.4.user() || alike);
        let supervisor = if own { row.4 } else { Prot::new() };
        assert_eq!(range["supervisor"], letters(supervisor), "{range}");
        let user = if users { row.4 } else { Prot::new() };
        assert_eq!(range["user"], letters(user), "{range}");
        assert_eq!(range["fault"], json!(null));
    }

    // Translations: in each range its first and last byte, and one in the middle; and beyond.
    for &(va, pa, bytes, shift, _) in rows {
        let words = format!(
            "{options} translate {va:#x} {:#x} {:#x}",
            va + bytes / 2 + 0x123,
            va + bytes - 1
        );
        let (status, all) = json(&image, &words);
        assert_eq!(status, 0);
        for (answer, within) in
            all.as_array().unwrap().iter().zip([0, bytes / 2 + 0x123, bytes - 1])
        {
            assert_eq!(
                (number(&answer["va"]), number(&answer["pa"])),
                (Some(va + within), Some(pa + within))
            );
            assert_eq!(answer["size"], 1_u64 << shift);
        }
    }
    let (status, all) =
        json(&image, &format!("{options} translate {:#x} --walk", base + 0x3000_0000));
    assert_eq!((status, &all[0]["pa"]), (1, &json!(null)));
    let fault = all[0]["fault"].as_str().unwrap();
    assert!(fault.contains("is not mapped") && fault.contains("level"), "{fault}");
    assert_eq!(all[0]["walk"].as_array().unwrap().last().unwrap()["entry"], "absent");

    // Counts: as many tables as were allocated, as many bytes as were mapped.
    let (status, stats) = json(&image, &format!("{options} stats"));
    assert_eq!(status, 0);
    let levels = stats["tree"]["levels"].as_array().unwrap();
    assert_eq!(levels.iter().map(|level| level["tables"].as_u64().unwrap()).sum::<u64>(), tables);
    let pages = stats["tree"]["pages"].as_object().unwrap();
    for shift in rows.iter().map(|row| row.3) {
        let bytes: u64 = rows.iter().filter(|row| row.3 == shift).map(|row| row.2).sum();
        assert_eq!(pages[&(1_u64 << shift).to_string()], bytes >> shift, "{stats}");
    }

    // The same image differs nowhere; one with another page does, there.
    assert_eq!(json(&image, &format!("{options} diff {}", image.display())), (0, json!([])));
    let mut changed = rows.to_vec();
    let far = if format.geometry().address_mask() >> 32 == 0 { 1 << 29 } else { 1 << 40 };
    changed[2].1 += far;
    changed.remove(3);
    let memory = Memory::new(START, 2 << 20);
    let (other, _) = build(format, &memory, START + 0x1_0000, &changed);
    let _ = root(&memory, other);
    let after = bench.file("after.raw", &memory.bytes());
    let (status, differences) = json(&image, &format!("{options} diff {}", after.display()));
    assert_eq!(status, 1);
    let seen = differences.as_array().unwrap().iter().map(|it| {
        let side = |name: &str| number(&it[name]["pa"]);
        (number(&it["va"]).unwrap(), it["bytes"].as_u64().unwrap(), side("before"), side("after"))
    });
    let (two, three) = (rows[2], rows[3]);
    let want =
        [(two.0, two.2, Some(two.1), Some(two.1 + far)), (three.0, three.2, Some(three.1), None)];
    assert_eq!(seen.collect::<Vec<_>>(), want);

    // For people: a line for each row, with its addresses and its size.
    let (status, list, _) = text(&image, &options);
    assert_eq!(status, 0);
    let lines: Vec<_> = list.lines().filter(|line| !line.starts_with("---[")).collect();
    assert_eq!(lines.len(), rows.len(), "{list}");
    for (line, &(va, pa, bytes, ..)) in lines.iter().zip(rows) {
        assert!(
            line.starts_with(&format!("{va:#018x}-{:#018x}  {pa:#018x} ", va + bytes - 1)),
            "{line}"
        );
    }
    assert!(!list.contains('\u{1b}'), "no colour but on a terminal");
}

#[test]
fn radix() {
    for granule in [Granule::K64, Granule::K4] {
        for (pid, base) in [(0, 0xc000_0000_0000_0000), (42, 0)] {
            let quadrant = if pid == 0 { Quadrants::Three } else { Quadrants::Zero };
            let format = ProcessScoped::new(granule).with_quadrants(quadrant);
            let small = if granule == Granule::K64 { 16 } else { 12 };
            check(
                format,
                &format!("--arch ppc64-radix --pid {pid}"),
                base,
                [small, 21, 30],
                |memory, root| {
                    let table = ProcessTable::new(Gpa::new(START), 0).unwrap();
                    table.write(&memory.map(), pid, Prte::of_tree(root).unwrap()).unwrap();
                    START
                },
            );
        }
    }
}

#[test]
fn long_mode() {
    for (levels, arch, bases) in [
        (Levels::Four, "x86-64", [0, 0xffff_8000_0000_0000]),
        (Levels::Five, "x86-64-la57", [0, 0xff00_0000_0000_0000]),
    ] {
        for base in bases {
            // CR3's low bits are PCID, or how the root is cached: no address.
            let format = LongMode::new(levels, Controls::new());
            check(format, &format!("--arch {arch}"), base, [12, 21, 30], |_, root| root | 0x18);
        }
    }
}

/// Entries of 4 bytes, and roots of 32 bytes: what addresses of 32 bits have room for.
#[test]
fn narrow_modes() {
    let rows = |huge: u8| -> Vec<Row> {
        vec![
            (0x10_0000, 0x7000_0000, 0x1_0000, 12, Prot::RWX),
            (0x11_0000, 0x9000_0000, 0x3000, 12, Prot::RX.for_user()),
            (0xc000_0000, 0x4000_0000, 5 << huge, huge, Prot::RWX.for_user()),
            (0xfffff000, 0x5000, 0x1000, 12, Prot::RWX),
        ]
    };
    let pae = Pae::new(Controls::new());
    check_rows(pae, "--arch x86-pae", &rows(21), |_, root| root | 0x18);
    let bits32 = Paging32::new(Controls::new());
    check_rows(bits32, "--arch x86-32", &rows(22), |_, root| root | 0x18);
}

#[test]
fn ept() {
    for (levels, length) in [(Levels::Four, 3), (Levels::Five, 4)] {
        let format = Ept::new(levels, EptControls::new());
        check(format, "--arch ept", 0, [12, 21, 30], |_, root| root | length << 3 | 6);
    }
}

#[test]
fn sv() {
    for (mode, high) in [
        (Mode::Sv39, 0xffff_ffc0_0000_0000),
        (Mode::Sv48, 0xffff_8000_0000_0000),
        (Mode::Sv57, 0xff00_0000_0000_0000),
    ] {
        for base in [0, high] {
            let format = Sv::new(mode, pgtable_riscv64::Controls::new());
            // The ASID is no address.
            check(format, "--arch riscv64 ", base, [12, 21, 30], |_, root| {
                format.satp(Gpa::new(root), 0x77).into_bits()
            });
        }
        let format = SvX4::new(mode, GuestControls::new());
        check(format, "--arch riscv64-guest", 0, [12, 21, 30], |_, root| {
            format.hgatp(Hpa::new(root), 0x77).into_bits()
        });
    }
}

/// What a table above a page restricts is taken off what the page says.
#[test]
fn rights_are_those_of_the_whole_way() {
    let bench = Bench::new();
    let memory = Memory::new(START, 1 << 20);
    let rows = [(0x1000, 0x5000, 0x2000, 12, Prot::RWX.for_user())];
    let (root, _) = build(LongMode::new(Levels::Four, Controls::new()), &memory, START, &rows);
    let top = memory.words[0].load(std::sync::atomic::Ordering::Relaxed);
    // In the root: not writable, supervisor, not executable.
    memory.put::<Gpa>(root, top & !6 | 1 << 63);
    let image = bench.file("image", &memory.bytes());
    let options = format!("--arch x86-64 --base {START:#x} --root {root:#x}");
    let (_, list) = json(&image, &options);
    assert_eq!((&list[0]["supervisor"], &list[0]["user"]), (&json!("r--"), &json!("---")));
    let (status, answer) = json(&image, &format!("{options} translate 0x1000 --access write"));
    assert_eq!((status, &answer[0]["pa"]), (1, &json!(null)));
    assert!(answer[0]["fault"].as_str().unwrap().contains("#PF error 0x3"), "{answer}");
    assert_eq!(json(&image, &format!("{options} translate 0x1000 --access read")).0, 0);
    assert_eq!(json(&image, &format!("{options} translate 0x1000 --access read --user")).0, 1);
}
