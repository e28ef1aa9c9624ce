//! Other tools beside `ptdump` on one core: time to the first answer, the whole list, 100,000
//! translations, most memory; and whether they say the same.
//!
//! drgn and volatility3 are Python packages: `--beside` names an interpreter that has them. drgn is
//! given what Linux says of itself, reads eight bytes at each address, and has no list; volatility3
//! is given the root, and knows physical memory that the core holds. With `--crash` crash is beside
//! them, on the core as Linux would have written it; it has no list either.

use std::collections::HashMap;
use std::fs;
use std::path::Path;
use std::time::Instant;

use anyhow::{Context, Result, bail};
use duct::cmd;
use fastrand::Rng;

use super::compare::{Space, addresses};
use super::crash::{Crash, walks};
use super::ptdump::{Ptdump, number};
use crate::report;

/// Runs the rest of its arguments, and says on standard error how many KiB they took at most.
const MEASURE: &str = "import resource, subprocess, sys\n\
    run = subprocess.run(sys.argv[1:])\n\
    print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss, file=sys.stderr)\n\
    sys.exit(run.returncode if run.returncode > 1 else 0)\n";
const DRGN: &str = include_str!("ask_drgn.py");
const VOLATILITY: &str = include_str!("ask_volatility.py");
/// How many addresses are asked for.
const MANY: usize = 100_000;

/// What a run said, and what it took.
struct Run {
    output: String,
    seconds: f64,
    mib: u64,
}

fn run(python: &Path, words: &[String], input: &str) -> Result<Run> {
    let words = ["-c".to_owned(), MEASURE.to_owned()].into_iter().chain(words.iter().cloned());
    let begin = Instant::now();
    let run = cmd(python, words)
        .stdin_bytes(input)
        .stdout_capture()
        .stderr_capture()
        .unchecked()
        .run()?;
    let seconds = begin.elapsed().as_secs_f64();
    let said = String::from_utf8_lossy(&run.stderr).into_owned();
    let kib: Option<u64> = said.lines().last().and_then(|line| line.trim().parse().ok());
    match kib.filter(|_| run.status.success()) {
        Some(kib) => {
            let output = String::from_utf8_lossy(&run.stdout).into_owned();
            Ok(Run { output, seconds, mib: kib >> 10 })
        }
        None => bail!("{}: {said}", run.status),
    }
}

/// Prints a line for each tool; fails where they differ.
pub fn compare(
    ptdump: &Ptdump,
    core: &Path,
    python: &Path,
    seed: u64,
    crash: Option<&Crash>,
) -> Result<()> {
    let view = ["--root".to_owned(), "kernel".to_owned()];
    let listed = ptdump.list(core, &view)?;
    let mut random = Rng::with_seed(seed);
    let mut many = addresses(&listed, Space::WIDE, &mut random, MANY / 3);
    many.retain(|address| address >> 63 != 0);
    while many.len() < MANY {
        many.push(many[random.usize(..many.len())] & !7);
    }
    many.truncate(MANY);
    many.iter_mut().for_each(|address| *address &= !7);
    let lines = |addresses: &[u64]| -> String {
        addresses.iter().map(|address| format!("{address:x}\n")).collect()
    };
    let text = |word: &str| word.to_owned();
    let (core_text, program) = (core.display().to_string(), ptdump.program().display().to_string());
    let root = format!("{:#x}", ptdump.root(core, &view)?);
    let folder = tempfile::tempdir()?;
    let place = |name: &str, content: &[u8]| -> Result<String> {
        let path = folder.path().join(name);
        fs::write(&path, content)?;
        Ok(path.display().to_string())
    };
    let python_text = python.display().to_string();
    let vmcoreinfo = place("vmcoreinfo", &vmcoreinfo(core)?)?;
    let volatility = place("ask_volatility.py", VOLATILITY.as_bytes())?;
    let drgn = place("ask_drgn.py", DRGN.as_bytes())?;
    let ours = [text("-q"), text("--root"), root.clone()];
    let ours = |words: &[String]| [std::slice::from_ref(&program), words, &ours[..]].concat();
    let theirs = |words: &[&String]| -> Vec<String> {
        [&python_text].into_iter().chain(words.iter().copied()).cloned().collect()
    };
    let (ask, list) = (text("ask"), text("list"));
    let mut tools = vec![
        (
            "ptdump",
            ours(&[text("translate"), core_text.clone(), text("-")]),
            Some(ours(&[list.clone(), core_text.clone(), text("--no-fold")])),
        ),
        (
            "volatility3",
            theirs(&[&volatility, &ask, &core_text, &root]),
            Some(theirs(&[&volatility, &list, &core_text, &root])),
        ),
        ("drgn", theirs(&[&drgn, &core_text, &vmcoreinfo]), None),
    ];
    tools.extend(crash.map(|crash| ("crash", crash.words(), None)));
    println!("| tool | first answer | whole list | {MANY} translations | most memory |");
    println!("| --- | --- | --- | --- | --- |");
    let mut answers = HashMap::new();
    for (name, ask, list) in tools {
        let input = |many: &[u64]| match name {
            "crash" => Crash::commands("-k", many) + "quit\n",
            _ => lines(many),
        };
        let first = run(python, &ask, &input(&many[..1])).context(name)?;
        let list = list.map(|list| run(python, &list, "")).transpose().context(name)?;
        let all = run(python, &ask, &input(&many)).context(name)?;
        let mib = first.mib.max(all.mib).max(list.as_ref().map_or(0, |list| list.mib));
        let list = list.map_or("–".to_owned(), |list| format!("{:.2} s", list.seconds));
        println!("| {name} | {:.2} s | {list} | {:.2} s | {mib} MiB |", first.seconds, all.seconds);
        answers.insert(name, all.output);
    }
    same(ptdump, core, &root, &many, &answers)
}

/// Whether the answers are the same: addresses, and the bytes that stand there.
fn same(
    ptdump: &Ptdump,
    core: &Path,
    root: &str,
    many: &[u64],
    answers: &HashMap<&str, String>,
) -> Result<()> {
    let ours = ptdump.translate(core, &["--root".to_owned(), root.to_owned()], many)?;
    let lines = |name| answers.get(name).map(|text| text.lines().collect::<Vec<_>>());
    let physical = lines("volatility3").context("volatility3")?;
    let bytes = lines("drgn").context("drgn")?;
    if [ours.len(), physical.len(), bytes.len()] != [many.len(); 3] {
        bail!("{} and {} answers to {}", physical.len(), bytes.len(), many.len());
    }
    let (mut differ, mut outside, mut read) = (Vec::new(), 0, 0);
    for (((address, ours), physical), bytes) in many.iter().zip(&ours).zip(physical).zip(bytes) {
        match (ours, number(&physical.into())) {
            (Some(ours), Some(theirs)) if *ours != theirs => differ.push((address, "volatility3")),
            (None, Some(_)) => differ.push((address, "volatility3")),
            // What the core does not hold volatility3 calls invalid.
            (Some(_), None) => outside += 1,
            _ => {}
        }
        // drgn reads where we say that memory is, and nowhere else.
        read += usize::from(bytes != "-");
        if bytes != "-" && ours.is_none() {
            differ.push((address, "drgn"));
        }
    }
    if let Some(said) = answers.get("crash") {
        let theirs = walks(said);
        if let Some((address, _)) =
            many.iter().zip(&ours).find(|(address, ours)| theirs.get(address) != Some(ours))
        {
            differ.push((address, "crash"));
        }
    }
    report::note(&format!(
        "{} addresses: drgn reads {read}, volatility3 has no physical memory for {outside}",
        many.len()
    ));
    if read * 2 < many.len() || outside * 4 > many.len() {
        bail!("the other tools answer too little: that proves nothing");
    }
    match differ.first() {
        None => Ok(()),
        Some((address, tool)) => bail!("{} differences, {address:#x} in {tool}", differ.len()),
    }
}

/// What Linux says of itself, somewhere in the core.
pub fn vmcoreinfo(core: &Path) -> Result<Vec<u8>> {
    let bytes = fs::read(core)?;
    let mut from = 0;
    while let Some(at) = find(&bytes[from..], b"OSRELEASE=") {
        let text = &bytes[from + at..(from + at + 4096).min(bytes.len())];
        let text = text.split(|byte| *byte == 0).next().unwrap_or_default();
        if find(text, b"SYMBOL(swapper_pg_dir)").is_some() {
            return Ok(text.to_vec());
        }
        from += at + 1;
    }
    bail!("the core has no VMCOREINFO")
}

fn find(bytes: &[u8], what: &[u8]) -> Option<usize> {
    bytes.windows(what.len()).position(|window| window == what)
}
