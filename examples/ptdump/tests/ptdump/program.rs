//! The program itself: exit statuses, manual, completions, pictures, standard input.

use std::io::Write;
use std::os::unix::net::{UnixListener, UnixStream};
use std::process::Stdio;

use pgtable::Prot;
use pgtable_x86::{Controls, Levels, LongMode};
use serde_json::Value;

use crate::support::{Bench, Memory, build, number, program, text};

fn run(words: &[&str]) -> (Option<i32>, String) {
    let output = program().args(words).output().unwrap();
    (output.status.code(), String::from_utf8(output.stdout).unwrap())
}

#[test]
fn manual_and_completions() {
    let (status, manual) = run(&["man"]);
    assert_eq!(status, Some(0));
    for part in [".TH", "ptdump", "EXIT STATUS", "ppc64\\-hash", "unknown"] {
        assert!(manual.contains(part), "{part}");
    }
    for (shell, part) in
        [("bash", "_ptdump()"), ("zsh", "#compdef ptdump"), ("fish", "complete -c ptdump")]
    {
        let (status, script) = run(&["completions", shell]);
        assert_eq!(status, Some(0));
        assert!(script.contains(part), "{shell}");
    }
    assert_eq!(run(&[]).0, Some(2));
    assert_eq!(run(&["list", "image", "--arch", "arm"]).0, Some(2));
    assert_eq!(run(&["list", "image", "--root", "nonsense"]).0, Some(2));
}

/// Nobody reads what it says: that is its reader's affair, and no panic (whose status is 101).
#[test]
fn closed_outputs_are_no_panic() {
    let closed = || Stdio::from(std::os::fd::OwnedFd::from(UnixStream::pair().unwrap().0));
    let bench = Bench::new();
    let (image, options) = image(&bench);
    for command in [
        "list",
        "translate 1000",
        "explain 1000",
        "reverse 5000",
        "audit",
        "read 1000",
        "stats",
        "info",
        "ps",
    ] {
        let (command, rest) = command.split_once(' ').unwrap_or((command, ""));
        let words = format!("{rest} {options}");
        let full = std::fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
        for out in [closed(), full.into()] {
            let mut run = program();
            run.arg(command).arg(&image).args(words.split_whitespace());
            let status = run.stdout(out).stderr(closed()).status().unwrap();
            assert!(matches!(status.code(), Some(0 | 1 | 3)), "{command}: {status}");
        }
    }
    for words in [
        &["list", "no-such-image"][..],
        &["list", "image", "--root", "nonsense"],
        &["completions", "bash"],
        &["man"],
        &["schema"],
        &["--help"],
    ] {
        let status = program().args(words).stdout(closed()).stderr(closed()).status().unwrap();
        assert!(matches!(status.code(), Some(0 | 2 | 3)), "{words:?}: {status}");
    }
}

/// What closes the connection is no reader that has heard enough: there is no answer.
#[test]
fn a_machine_that_goes_away_is_no_answer() {
    let bench = Bench::new();
    let path = bench.path("socket");
    let listener = UnixListener::bind(&path).unwrap();
    let gone = std::thread::spawn(move || {
        let (mut socket, _) = listener.accept().unwrap();
        socket.write_all(b"{\"QMP\":{}}\n").unwrap();
    });
    let (status, said) = run(&["list", &format!("qmp:{}", path.display())]);
    gone.join().unwrap();
    assert_eq!((status, said.as_str()), (Some(3), ""));
}

fn image(bench: &Bench) -> (std::path::PathBuf, String) {
    let memory = Memory::new(0, 1 << 20);
    let rows = [
        (0x1000, 0x5000, 0x2000, 12, Prot::RW),
        (0x40_0000, 0x80_0000, 0x40_0000, 21, Prot::RX.for_user()),
        (0xffff_8000_0000_0000, 0, 1 << 30, 30, Prot::RWX),
    ];
    let (root, _) = build(LongMode::new(Levels::Four, Controls::new()), &memory, 0x1000, &rows);
    (bench.file("image", &memory.bytes()), format!("--arch x86-64 --root {root:#x}"))
}

#[test]
fn addresses_from_standard_input() {
    let bench = Bench::new();
    let (image, options) = image(&bench);
    let mut child = program()
        .arg("translate")
        .arg(&image)
        .args(options.split(' '))
        .args(["--json", "0x1000", "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(b"0x400000 0d4096\nffff800000000123\n").unwrap();
    let output = child.wait_with_output().unwrap();
    let answers: Value = serde_json::from_slice(&output.stdout).unwrap();
    let seen: Vec<_> =
        answers["translations"].as_array().unwrap().iter().map(|it| number(&it["pa"])).collect();
    assert_eq!(seen, [Some(0x5000), Some(0x80_0000), Some(0x5000), Some(0x123)]);
}

#[test]
fn pictures() {
    let bench = Bench::new();
    let (image, options) = image(&bench);
    let (svg, html) = (bench.path("map.svg"), bench.path("map.html"));
    let (status, out, _) =
        text(&image, &format!("{options} list --svg {} --html {}", svg.display(), html.display()));
    assert_eq!((status, out.as_str()), (0, ""));
    let svg = std::fs::read_to_string(svg).unwrap();
    // Two bands: what is low, and the upper half; each range has its tool tip.
    for tip in [
        "0x0000000000001000-0x0000000000002fff",
        "0x0000000000400000-0x00000000007fffff",
        "rwx/---",
    ] {
        assert!(svg.contains(tip), "{svg}");
    }
    assert_eq!(svg.matches("<title>").count(), 3);
    let html = std::fs::read_to_string(html).unwrap();
    assert!(
        html.contains(
            "[\"0xffff800000000000\",\"0xffff80003fffffff\",1073741824,\"0x0\",\"rwx/---\","
        ),
        "{html}"
    );
    assert!(!html.contains("src=") && !html.contains("href="), "self-contained");
}

#[test]
fn text_for_people() {
    let bench = Bench::new();
    let (image, options) = image(&bench);
    let (_, list, note) = text(&image, &options);
    assert_eq!(
        list,
        "---[ lower half ]---\n\
         0x0000000000001000-0x0000000000002fff  0x0000000000005000       8K  rw-/---    4K  accessed dirty\n\
         0x0000000000400000-0x00000000007fffff  0x0000000000800000       4M  r-x/r-x    2M  accessed dirty\n\
         ---[ upper half ]---\n\
         0xffff800000000000-0xffff80003fffffff  0x0000000000000000       1G  rwx/---    1G  accessed dirty\n"
    );
    assert!(note.contains("x86-64, --root"), "{note}");
    let (_, list, _) = text(&image, &format!("{options} --color always"));
    assert!(list.contains("\u{1b}["), "colours if they are asked for");
    let (status, answer, _) = text(&image, &format!("{options} translate 0x1234 0x9000 --walk"));
    assert_eq!(status, 1);
    assert!(
        answer
            .starts_with("0x0000000000001234  0x0000000000005234  rw-/---    4K  accessed dirty\n"),
        "{answer}"
    );
    assert_eq!(answer.matches("\n    P").count(), 8, "{answer}");
    let (status, stats, _) = text(&image, &format!("{options} stats"));
    assert_eq!(status, 0);
    assert!(stats.contains("pages  2 of 4K  2 of 2M  1 of 1G\nmapped  1.00G"), "{stats}");
}
