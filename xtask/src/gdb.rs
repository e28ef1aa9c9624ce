//! The dialogue of a real gdb with the guest of `examples/gdb-stub`.
//!
//! gdb says what it saw; each line is compared. So it is not ours that says what bytes are, what an
//! address without memory is, and whether a breakpoint is one.

use std::io::{BufRead, BufReader, Read};
use std::path::Path;

use anyhow::{Context, Result, bail, ensure};
use duct::cmd;

use crate::cargo::cargo;
use crate::command;
use crate::report;
use crate::toolbox::table::GDB;
use crate::xtask::Xtask;

/// The example.
const PROGRAM: &str = "gdb-stub";
/// Each answer begins with it.
const MARK: &str = "seen ";

/// A step of the dialogue: what gdb is told, and what it must have seen then. `{tick}`, `{counter}`
/// and `{stop}` are addresses that the program names.
const DIALOGUE: &[(&[&str], Option<&str>)] = &[
    // Registers, and memory at the guest's own addresses.
    (&[r#"printf "seen rip %#lx\n", $rip"#], Some("rip 0xffffffff80000000")),
    (&[r#"printf "seen inc %#x\n", *(unsigned short *)$rip"#], Some("inc 0xff48")),
    // A breakpoint, in a page that the guest may not write; twice, with a step off it in between.
    (&["break *{tick}", "continue"], None),
    (&[r#"printf "seen at tick %d\n", $rip == {tick}"#], Some("at tick 1")),
    (&[r#"printf "seen counter %ld\n", *(long *){counter}"#], Some("counter 1")),
    (&["continue", r#"printf "seen counter %ld\n", *(long *){counter}"#], Some("counter 2")),
    // The guest goes on with what gdb wrote.
    (&["set var *(long *){counter} = 100", "continue"], None),
    (&[r#"printf "seen counter %ld\n", *(long *){counter}"#], Some("counter 101")),
    (&["stepi", r#"printf "seen a step %d\n", $rip > {tick}"#], Some("a step 1")),
    // Over two pages, which do not follow each other in guest memory; and back.
    (&["set var {char[8]}({counter} - 4) = \"overtwo\""], None),
    (&[r#"printf "seen %s\n", (char *)({counter} - 4)"#], Some("overtwo")),
    (&["set var *(long *){counter} = 7"], None),
    // Nothing is mapped behind the two pages.
    (
        &[
            "python\ntry:\n  gdb.selected_inferior().read_memory({counter} + 0x1000, 8)\nexcept gdb.MemoryError as error:\n  print(\"seen \" + str(error))\nend",
        ],
        Some("Cannot access memory at address {end}"),
    ),
    // To its end.
    (&["delete", "set var *(long *){stop} = 1", "continue"], None),
    (&[r#"printf "seen exit code %d\n", $_exitcode"#], Some("exit code 0")),
];

/// Runs the guest, and gdb beside it.
pub fn run(xtask: &Xtask) -> Result<()> {
    let gdb = xtask.toolbox.program(&GDB, "gdb-multiarch")?;
    command::stream("building the guest", &cargo(xtask, ["build", "--package", PROGRAM]))?;
    let guest = cmd!(xtask.target("debug").join(PROGRAM)).stdin_null().unchecked();
    let mut output = BufReader::new(guest.reader().context(PROGRAM)?);
    let mut first = String::new();
    output.read_line(&mut first)?;
    let talked = Symbols::of(&first).and_then(|symbols| talk(&gdb, &symbols));
    if let Err(error) = talked {
        // It may wait for a gdb that does not come.
        output.get_ref().kill()?;
        return Err(error);
    }
    let mut last = String::new();
    output.read_to_string(&mut last)?;
    ensure!(last.trim() == "gdb-stub: ok the guest ended with 0", "{PROGRAM}: {last}");
    report::note(&format!("gdb and the guest agree on {} answers", talked?));
    Ok(())
}

/// What the program says first.
struct Symbols {
    address: String,
    /// Name and address.
    named: Vec<(String, u64)>,
}

impl Symbols {
    fn of(line: &str) -> Result<Self> {
        let parse = || {
            let rest = line.trim().strip_prefix("gdb-stub: listening at ")?;
            let (address, symbols) = rest.split_once("; ")?;
            let words: Vec<_> = symbols.split(' ').collect();
            let named = words.chunks_exact(2).map(|pair| {
                let number = u64::from_str_radix(pair[1].strip_prefix("0x")?, 16).ok()?;
                Some((pair[0].to_owned(), number))
            });
            Some(Self { address: address.to_owned(), named: named.collect::<Option<_>>()? })
        };
        parse().with_context(|| format!("{PROGRAM}: {}", line.trim()))
    }

    /// `text` with the addresses in it.
    fn fill(&self, text: &str) -> String {
        let mut text = text.to_owned();
        for (name, address) in &self.named {
            text = text.replace(&format!("{{{name}}}"), &format!("{address:#x}"));
            if name == "counter" {
                text = text.replace("{end}", &format!("{:#x}", address + 0x1000));
            }
        }
        text
    }
}

/// Has gdb say the dialogue; returns how many answers were right.
fn talk(gdb: &Path, symbols: &Symbols) -> Result<usize> {
    let folder = tempfile::tempdir()?;
    let script = folder.path().join("dialogue.gdb");
    let mut lines = vec![
        "set pagination off".to_owned(),
        "set confirm off".to_owned(),
        "set architecture i386:x86-64".to_owned(),
        format!("target remote {}", symbols.address),
    ];
    lines.extend(DIALOGUE.iter().flat_map(|(said, _)| said.iter().map(|it| symbols.fill(it))));
    std::fs::write(&script, lines.join("\n"))?;
    let said = command::quiet("gdb", &cmd!(gdb, "-nx", "-batch", "-x", &script))?;
    let seen: Vec<_> = said.lines().filter_map(|line| line.strip_prefix(MARK)).collect();
    let wanted: Vec<_> =
        DIALOGUE.iter().filter_map(|(_, seen)| seen.map(|seen| symbols.fill(seen))).collect();
    if seen != wanted {
        bail!("gdb saw {seen:#?}, and should have seen {wanted:#?}\n{said}");
    }
    Ok(seen.len())
}
