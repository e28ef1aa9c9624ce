//! What people ask, and how they ask it.

use std::io::{BufRead, BufReader, Write};
use std::path::PathBuf;
use std::process::Stdio;

use serde_json::Value;

use crate::cores::core;
use crate::support::{Bench, json, number, program, text};
use crate::synthetic::{CR0, CR4, KERNEL_MAP, machine, qemu};

const ROOT: u64 = 0x1_0000;
const END: u64 = 0x2_0000;
const X86_64: u16 = 62;

fn image(bench: &Bench) -> PathBuf {
    let mut tables = machine(ROOT, 0);
    // A swapped page, one of PROT_NONE, a page of the tables themselves.
    let entry = tables.entry(0x40_0000, 0);
    tables.write(entry + 8, 2 << 59 | ((!0x1234_u64 << 14) >> 5) & ((1 << 59) - 1) & !0x1ff);
    tables.write(entry + 16, 0x0030_1120);
    tables.map(0x50_0000, ROOT, 12, 0x65 | 1 << 63);
    tables.map(0x50_1000, ROOT + 0x1000, 12, 0x65 | 1 << 63);
    let notes = [
        ("CORE", 1, vec![0; 336]),
        qemu(CR0, ROOT, CR4, 0x10),
        ("VMCOREINFO", 0, b"OSRELEASE=6.1.0\n".to_vec()),
    ];
    bench.file("core", &core(false, X86_64, &notes, &[(0, &tables.bytes(END), 0)]))
}

fn strings(value: &Value, key: &str) -> Vec<String> {
    let all = value.as_array().unwrap().iter();
    all.map(|it| it[key].as_str().unwrap_or_default().to_owned()).collect()
}

/// Each line of standard input is answered before the next is waited for; one that is no address
/// ends nothing.
#[test]
fn case_stumble_each_line_is_answered_at_once() {
    let bench = Bench::new();
    for options in [&[][..], &["--json"]] {
        let mut child = program()
            .args(["translate", image(&bench).to_str().unwrap(), "-"])
            .args(options)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut input = child.stdin.take().unwrap();
        let mut output = BufReader::new(child.stdout.take().unwrap());
        if !options.is_empty() {
            output.read_line(&mut String::new()).unwrap();
        }
        for (asked, parts) in [
            ("400123\n", &["300123"][..]),
            ("nonsense\n", &["nonsense"]),
            ("0x1000\n", &["not mapped"]),
            // Whole lines are answered while the next is on its way.
            ("400123\n0x1000\n4001", &["300123", "not mapped"]),
            ("24\n", &["300124"]),
        ] {
            input.write_all(asked.as_bytes()).unwrap();
            for part in parts {
                let mut line = String::new();
                output.read_line(&mut line).unwrap();
                assert!(line.contains(part), "{asked}: {line}");
            }
        }
        drop(input);
        std::io::copy(&mut output, &mut std::io::sink()).unwrap();
        assert_eq!(child.wait().unwrap().code(), Some(1));
    }
}

/// Commands come first; what stands in their place is told, with what to write instead.
#[test]
fn case_stumble_the_command_comes_first() {
    let bench = Bench::new();
    let image = image(&bench);
    let image = image.to_str().unwrap();
    let run = |words: &[&str]| {
        let output = program().args(words).output().unwrap();
        (output.status.code(), String::from_utf8(output.stderr).unwrap())
    };
    for (words, tip) in [
        (&[image][..], format!("ptdump list {image}")),
        (&[image, "translate", "5"], format!("ptdump translate {image}")),
        (&["nowhere.core", "stats"], "ptdump stats nowhere.core".to_owned()),
    ] {
        let (status, error) = run(words);
        assert!(status == Some(2) && error.contains(&tip), "{words:?}: {error}");
    }
    let (status, error) = run(&["lst", image]);
    assert!(status == Some(2) && error.contains("'list'"), "{error}");
}

#[test]
fn case_stumble_every_command_has_its_page() {
    let bench = Bench::new();
    let folder = bench.path("man1");
    let output = program().args(["man", "--all", folder.to_str().unwrap()]).output().unwrap();
    assert!(output.status.success());
    let help = String::from_utf8(program().arg("--help").output().unwrap().stdout).unwrap();
    let commands: Vec<_> = help
        .split("Commands:")
        .nth(1)
        .unwrap()
        .lines()
        .skip(1)
        .take_while(|line| !line.is_empty())
        .filter_map(|line| line.strip_prefix("  ")?.split(' ').next().filter(|it| !it.is_empty()))
        .collect();
    assert!(commands.len() >= 13, "{commands:?}");
    let whole = std::fs::read_to_string(folder.join("ptdump.1")).unwrap();
    for command in commands {
        let page = std::fs::read_to_string(folder.join(format!("ptdump-{command}.1"))).unwrap();
        assert!(page.contains(&format!(".TH ptdump-{command} 1")), "{page}");
        // Each page that the program's names is there.
        assert!(whole.contains(&format!("ptdump\\-{command}(1)")), "{command}");
        let one = program().args(["man", command]).output().unwrap();
        assert_eq!(String::from_utf8(one.stdout).unwrap(), page);
    }
    for group in ["The image:", "The tables:", "On POWER:", "Output:", "Limits:"] {
        assert!(help.contains(group), "{group}");
    }
}

#[test]
fn case_stumble_pictures_go_to_standard_output() {
    let bench = Bench::new();
    let (status, svg, _) = text(&image(&bench), "list --svg -");
    assert!(status == 0 && svg.starts_with("<svg") && svg.ends_with("</svg>\n"), "{svg}");
    let (status, html, _) = text(&image(&bench), "list --html -");
    assert!(status == 0 && html.contains("</html>"));
    // It opens on the bands, each of which is written out.
    assert!(html.contains("let banded = true") && html.contains("[\"0xffff888000000000\",\""));
    assert!(!std::path::Path::new("-").exists());
}

#[test]
fn case_question_explain() {
    let bench = Bench::new();
    let image = image(&bench);
    for (question, status, parts) in [
        ("explain 400123", 0, &["PML4E", "PDPTE", "U/S=1: user", "0x0000000000300123"][..]),
        ("explain 401000", 1, &["swapped out, to offset 0x1234 of swap area 2"]),
        ("explain 402000", 1, &["PROT_NONE"]),
        ("explain 500000 --access write", 1, &["R/W=0: read-only", "<- this one decides"]),
        ("explain 500000 --access fetch --user", 1, &["XD=1: no instruction fetches"]),
    ] {
        let (seen, out, error) = text(&image, question);
        assert_eq!(seen, status, "{question}: {out}{error}");
        for part in parts {
            assert!(out.contains(part), "{question}: {part}: {out}");
        }
    }
    let (status, answer) = json(&image, "explain 500000 --access write");
    assert_eq!((status, &answer["state"]), (1, &"denied".into()));
    assert_eq!(answer["entry"], answer["entries"][3]["address"]);
}

#[test]
fn case_question_reverse() {
    let bench = Bench::new();
    let image = image(&bench);
    let (status, aliases) = json(&image, "reverse 0x10008 0x300123");
    assert_eq!(status, 0);
    assert_eq!(
        strings(&aliases, "va"),
        ["0x500008", "0xffff888000010008", "0x400123", "0xffff888000300123"]
    );
    assert_eq!(strings(&aliases, "physical")[2], "0x300123");
    // A kernel that does not tell of its processes.
    let (status, _, error) = text(&image, "reverse 0x10008 --all-processes");
    assert!(status == 3 && error.contains("ptdump: "), "{error}");
    let (status, _, error) = text(&image, "reverse 0x99999999000");
    assert!(status == 1 && error.contains("nothing leads to"), "{error}");
}

#[test]
fn case_question_audit_and_filters() {
    let bench = Bench::new();
    let image = image(&bench);
    let (status, findings) = json(&image, "audit");
    assert_eq!(status, 1);
    assert_eq!(strings(&findings, "check"), ["w+x"; 3]);
    let (status, findings) = json(&image, "audit --range 500000-501fff");
    assert_eq!((status, findings.as_array().unwrap().len()), (0, 0));

    // Code that is read-only where it is executed, and writable elsewhere; a kernel page for users.
    let mut tables = crate::synthetic::X86::new(ROOT, 4);
    tables.map(0x40_0000, 0x30_0000, 12, 0x65);
    tables.map(0x60_0000, 0x30_0000, 12, 0x67 | 1 << 63);
    tables.map(KERNEL_MAP, 0x100_0000, 21, 0x65 | 1 << 63);
    let raw = bench.file("raw", &tables.bytes(END));
    let options = format!("--arch x86-64 --root {ROOT:#x}");
    let (status, findings) = json(&raw, &format!("{options} audit"));
    assert_eq!(
        (status, strings(&findings, "check")),
        (1, vec!["user-kernel".into(), "w+x-alias".into()])
    );
    assert_eq!(number(&findings[1]["other"]["va"]), Some(0x60_0000));

    for (filter, count) in [
        ("--only w+x", 0),
        ("--only x", 1),
        ("--only w", 1),
        ("--only user", 3),
        ("--only user-kernel", 1),
        ("--only huge", 1),
        ("--only w --only huge", 0),
        ("--range 400000+4K", 1),
        ("--range 0-500000 --only x", 1),
    ] {
        let (status, list) = json(&raw, &format!("{options} list {filter}"));
        assert_eq!(list.as_array().unwrap().len(), count, "{filter}");
        assert_eq!(status, i32::from(count == 0), "{filter}");
    }
}

#[test]
fn case_question_bytes() {
    let bench = Bench::new();
    let image = image(&bench);
    let core = std::fs::read(&image).unwrap();
    let memory = &core[core.len() - END as usize..];
    // Across two pages which lie side by side, and into one that the image does not hold.
    let out = bench.path("bytes");
    let (status, _, error) = text(&image, &format!("read 500ff0 32 --out {}", out.display()));
    assert_eq!(status, 0, "{error}");
    assert_eq!(std::fs::read(&out).unwrap(), memory[0x1_0ff0..0x1_1010]);
    let (status, dump, _) = text(&image, "read 500ff8 16");
    let first = memory[0x1_0ff8];
    assert!(status == 0 && dump.contains(&format!("{first:02x}")), "{dump}");
    let (status, dump, _) = text(&image, "read 400000 16");
    assert!(status == 3 && dump.contains("unknown: memory at 0x300000"), "{dump}");
    let (status, dump, _) = text(&image, "read 1000 16");
    assert!(status == 1 && dump.contains("not mapped"), "{dump}");
    // The last byte that there can be.
    for (question, lines) in [
        ("read ffffffffffffffff 1", 2),
        ("read ffffffffffffffe8 24", 2),
        ("read ffffffffffff0000 65536", 1),
        ("read fffffffffffffff0 16 --physical", 3),
    ] {
        let (status, dump, error) = text(&image, question);
        assert!(matches!(status, 1 | 3), "{question}: {error}");
        assert_eq!(dump.lines().count(), lines, "{question}: {dump}");
    }
    let (status, pieces) = json(&image, "read 0x10000 8 --physical");
    let hex: String = memory[0x1_0000..0x1_0008].iter().map(|byte| format!("{byte:02x}")).collect();
    assert_eq!((status, pieces[0]["bytes"].as_str()), (0, Some(&hex[..])));

    // What lies across the end of a page is found, at each address that leads there.
    let end: String = memory[0x1_0ff8..0x1_1001].iter().map(|byte| format!("{byte:02x}")).collect();
    let output = program()
        .args(["search", image.to_str().unwrap(), &end, "--hex", "--json", "--range"])
        .arg("500000-501fff")
        .output()
        .unwrap();
    let found: Value = serde_json::from_slice(&output.stdout).unwrap();
    crate::schema::check(&found);
    assert_eq!(strings(&found["matches"], "va"), ["0x500ff8"]);
    assert_eq!(strings(&found["matches"], "pa"), ["0x10ff8"]);
    let (status, _, error) = text(&image, "search NotThere --range 500000-501fff");
    assert!(status == 1 && error.contains("not found"), "{error}");
}

/// No output takes the place of what is read, by whatever name.
#[test]
fn case_nothing_is_written_over_an_image() {
    let bench = Bench::new();
    let image = image(&bench);
    let before = std::fs::read(&image).unwrap();
    let (link, hard) = (bench.path("link"), bench.path("hard"));
    std::os::unix::fs::symlink(&image, &link).unwrap();
    std::fs::hard_link(&image, &hard).unwrap();
    for path in [&image, &link, &hard] {
        let path = path.display();
        for question in [
            format!("read 500000 16 --out {path}"),
            format!("list --svg {path}"),
            format!("list --html {path}"),
            format!("diff {} --html {path}", image.display()),
        ] {
            let (status, _, error) = text(&image, &question);
            assert!(status == 2 && error.contains("nothing is written over it"), "{error}");
            assert!(std::fs::read(&image).unwrap() == before, "{question}");
        }
    }
    let same = bench.path("same").display().to_string();
    let (status, _, error) = text(&image, &format!("list --svg {same} --html {same}"));
    assert!(status == 2 && error.contains("the same file"), "{error}");
}

/// A guest's tables in its host's memory, behind EPT: the guest's root and pages are where EPT
/// says.
#[test]
fn case_question_through_a_second_stage() {
    let bench = Bench::new();
    let guest = machine(ROOT, 0);
    // The guest's pages stand in the reverse order in the host, from 1 MiB on.
    let frames = END / 0x1000;
    let host_of = |frame: u64| 0x10_0000 + (frames - 1 - frame) * 0x1000;
    let mut bytes = vec![0_u8; 0x20_0000];
    let memory = guest.bytes(END);
    let mut put =
        |at: u64, word: u64| bytes[at as usize..][..8].copy_from_slice(&word.to_le_bytes());
    for level in 0..3 {
        put(0x1000 + level * 0x1000, (0x2000 + level * 0x1000) | 7);
    }
    (0..frames).for_each(|frame| put(0x4000 + frame * 8, host_of(frame) | 0x37));
    for frame in 0..frames {
        let page = &memory[(frame * 0x1000) as usize..][..0x1000];
        bytes[host_of(frame) as usize..][..0x1000].copy_from_slice(page);
    }
    let image = bench.file("host", &bytes);
    let options = format!("--through ept:0x101e --arch x86-64 --root {ROOT:#x}");
    let (status, answer) =
        json(&image, &format!("{options} translate 0x400123 0xffff888000010000"));
    // The guest maps both, and the second stage has nothing where one of them leads.
    assert_eq!(status, 1);
    assert_eq!(
        [number(&answer[0]["pa"]), number(&answer[1]["pa"])],
        [Some(0x30_0123), Some(0x1_0000)]
    );
    let (_, _, error) = text(&image, &format!("{options} translate 0x400123"));
    assert!(error.contains("physical addresses are the guest's"), "{error}");
    assert!(error.contains("the second stage maps no page at guest physical 0x300123"), "{error}");
    let (status, _, error) = text(&image, &format!("{options} translate 0xffff888000010000"));
    assert!(status == 0 && !error.contains("maps no page"), "{error}");
    let (status, pieces) = json(&image, &format!("{options} read 0xffff888000010000 8"));
    let hex: String = memory[0x1_0000..0x1_0008].iter().map(|byte| format!("{byte:02x}")).collect();
    assert_eq!((status, pieces[0]["bytes"].as_str()), (0, Some(&hex[..])));
    let (status, _, error) = text(&image, "--through ept:0x701e --arch x86-64 --root 0x10000");
    assert!(status == 3 && error.contains("maps nothing"), "{error}");
}
