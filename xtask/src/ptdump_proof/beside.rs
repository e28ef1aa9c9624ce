//! Other tools beside `ptdump` on one core: time to the first answer, the whole list, 100,000
//! translations, most memory; and whether they say the same.
//!
//! drgn and volatility3 are Python packages: `--beside` names an interpreter that has them. drgn is
//! given what Linux says of itself, reads eight bytes at each address, and has no list; volatility3
//! is given the root, and knows physical memory that the core holds. memflow is a library: a
//! program of ours (`ask_memflow`) gives it the root and the core's map of memory. With `--crash`
//! crash is beside them, on the core as Linux would have written it; it has no list either.

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Context, Result, bail, ensure};
use duct::cmd;
use fastrand::Rng;
use tempfile::NamedTempFile;

use super::compare::{Space, addresses};
use super::crash::{Crash, walks};
use super::ptdump::{Mapped, Ptdump, number};
use crate::cargo::cargo;
use crate::toolbox::table::TIME;
use crate::xtask::Xtask;
use crate::{command, report};

const ASK_DRGN: &str = include_str!("ask_drgn.py");
const VOLATILITY: &str = include_str!("ask_volatility.py");
/// What the tools are called in the table.
const MEMFLOW: &str = "memflow";
const VOLATILITY3: &str = "volatility3";
const DRGN: &str = "drgn";
const CRASH: &str = "crash";
/// How many addresses are asked for.
const MANY: usize = 100_000;

/// What a run said, and what it took.
struct Run {
    output: String,
    seconds: f64,
    mib: u64,
}

/// Runs a program with this on standard input, under GNU time, which has hardly any memory of its
/// own: a process has at least as much as the one that started it.
fn run(time: &Path, words: &[String], input: &str) -> Result<Run> {
    let file = NamedTempFile::new()?;
    let place = file.path().display().to_string();
    let before = ["-q", "-f", "%M", "-o", &place].map(str::to_owned);
    let begin = Instant::now();
    let run = cmd(time, before.iter().chain(words))
        .stdin_bytes(input)
        .stdout_capture()
        .stderr_capture()
        .unchecked()
        .run()?;
    let seconds = begin.elapsed().as_secs_f64();
    // 1 says that some address does not translate.
    if !matches!(run.status.code(), Some(0 | 1)) {
        bail!("{}: {}", run.status, String::from_utf8_lossy(&run.stderr));
    }
    let kib: u64 = fs::read_to_string(file.path())?.trim().parse().context("what time says")?;
    let output = String::from_utf8_lossy(&run.stdout).into_owned();
    Ok(Run { output, seconds, mib: kib >> 10 })
}

/// Other tools.
pub struct Beside<'b> {
    /// An interpreter that has drgn and volatility3.
    pub python: &'b Path,
    pub crash: Option<&'b Crash>,
    /// A kdump-compressed file of the same machine, packed with snappy.
    pub snappy: &'b Path,
}

/// A program: how it is asked for addresses on standard input, and how for a list if it has one.
struct Tool {
    name: &'static str,
    ask: Vec<String>,
    list: Option<Vec<String>>,
}

impl Beside<'_> {
    /// Prints a line for each tool; fails where they differ.
    pub fn compare(&self, xtask: &Xtask, ptdump: &Ptdump, core: &Path, seed: u64) -> Result<()> {
        let view = ["--root".to_owned(), "kernel".to_owned()];
        let many = many(&ptdump.list(core, &view)?, seed);
        let root = format!("{:#x}", ptdump.root(core, &view)?);
        let folder = tempfile::tempdir()?;
        let time = xtask.toolbox.program(&TIME, "time")?;
        let tools = self.tools(xtask, core, &root, folder.path())?;
        println!("| tool | first answer | whole list | {MANY} translations | most memory |");
        println!("| --- | --- | --- | --- | --- |");
        let mut answers = HashMap::new();
        for Tool { name, ask, list } in tools {
            let input = |many: &[u64]| match name {
                CRASH => Crash::commands("-k", many) + "quit\n",
                _ => lines(many),
            };
            let first = run(&time, &ask, &input(&many[..1])).context(name)?;
            let list = list.map(|list| run(&time, &list, "")).transpose().context(name)?;
            let all = run(&time, &ask, &input(&many)).context(name)?;
            let mib = first.mib.max(all.mib).max(list.as_ref().map_or(0, |list| list.mib));
            let list = list.map_or("–".to_owned(), |list| format!("{:.2} s", list.seconds));
            println!(
                "| {name} | {:.2} s | {list} | {:.2} s | {mib} MiB |",
                first.seconds, all.seconds
            );
            answers.insert(name, all.output);
        }
        same(ptdump, core, &root, &many, &answers)?;
        self.snappy(&time, folder.path(), &many, answers.get(DRGN).context(DRGN)?)
    }

    /// All of them. `folder` has what they are given.
    fn tools(&self, xtask: &Xtask, core: &Path, root: &str, folder: &Path) -> Result<Vec<Tool>> {
        fs::write(folder.join("vmcoreinfo"), vmcoreinfo(core)?)?;
        let volatility = folder.join("ask_volatility.py");
        fs::write(&volatility, VOLATILITY)?;
        let shown = |path: &Path| path.display().to_string();
        let (python, volatility, core) = (shown(self.python), shown(&volatility), shown(core));
        let words = |words: &[&str]| words.iter().map(|&word| word.to_owned()).collect::<Vec<_>>();
        let ours = shown(&build_ptdump(xtask)?);
        let memflow = shown(&build_memflow(xtask)?);
        let mut tools = vec![
            Tool {
                name: "ptdump",
                ask: words(&[&ours, "-q", "--root", root, "translate", &core, "-"]),
                list: Some(words(&[&ours, "-q", "--root", root, "list", &core, "--no-fold"])),
            },
            Tool {
                name: MEMFLOW,
                ask: words(&[&memflow, "ask", &core, root]),
                list: Some(words(&[&memflow, "list", &core, root])),
            },
            Tool {
                name: VOLATILITY3,
                ask: words(&[&python, &volatility, "ask", &core, root]),
                list: Some(words(&[&python, &volatility, "list", &core, root])),
            },
            Tool { name: DRGN, ask: self.drgn(folder, Path::new(&core))?, list: None },
        ];
        tools.extend(self.crash.map(|crash| Tool { name: CRASH, ask: crash.words(), list: None }));
        Ok(tools)
    }

    /// How drgn is asked about a file.
    fn drgn(&self, folder: &Path, file: &Path) -> Result<Vec<String>> {
        let program = folder.join("ask_drgn.py");
        fs::write(&program, ASK_DRGN)?;
        let words = [self.python, &program, file, &folder.join("vmcoreinfo")];
        Ok(words.map(|word| word.display().to_string()).into())
    }

    /// Whether drgn reads from the file that is packed with snappy what it read from the core.
    fn snappy(&self, time: &Path, folder: &Path, many: &[u64], said: &str) -> Result<()> {
        let some = &many[..2000];
        let packed = run(time, &self.drgn(folder, self.snappy)?, &lines(some))?;
        let read = packed.output.lines().filter(|line| *line != "-").count();
        ensure!(packed.output.lines().eq(said.lines().take(some.len())), "drgn, of snappy");
        ensure!(read * 2 > some.len(), "drgn reads {read} of {} words", some.len());
        report::note(&format!("kdump-snappy: drgn reads the same at {} addresses", some.len()));
        Ok(())
    }
}

/// Aligned addresses of the kernel's half, most of them mapped.
fn many(listed: &[Mapped], seed: u64) -> Vec<u64> {
    let mut random = Rng::with_seed(seed);
    let mut many = addresses(listed, Space::WIDE, &mut random, MANY / 3);
    many.retain(|address| address >> 63 != 0);
    while many.len() < MANY {
        many.push(many[random.usize(..many.len())] & !7);
    }
    many.truncate(MANY);
    many.iter_mut().for_each(|address| *address &= !7);
    many
}

fn lines(addresses: &[u64]) -> String {
    addresses.iter().map(|address| format!("{address:x}\n")).collect()
}

/// Builds `ptdump` as it is installed.
fn build_ptdump(xtask: &Xtask) -> Result<PathBuf> {
    let build = cargo(xtask, ["build", "--release", "--package", "ptdump"]);
    command::stream("building ptdump", &build)?;
    Ok(xtask.target("release").join("ptdump"))
}

/// Builds the program that asks memflow.
fn build_memflow(xtask: &Xtask) -> Result<PathBuf> {
    let manifest = xtask.root().join("xtask/src/ptdump_proof/ask_memflow/Cargo.toml");
    let target = xtask.target("ask-memflow");
    let manifest = manifest.display().to_string();
    let build = cargo(xtask, ["build", "--release", "--manifest-path", &manifest]);
    command::stream("building memflow", &build.env("CARGO_TARGET_DIR", &target))?;
    Ok(target.join("release/ask-memflow"))
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
    let [physical, bytes, walked] =
        [VOLATILITY3, DRGN, MEMFLOW].map(|name| lines(name).unwrap_or_default());
    let counts = [ours.len(), physical.len(), bytes.len(), walked.len()];
    ensure!(counts == [many.len(); 4], "{counts:?} answers to {}", many.len());
    let crash = answers.get(CRASH).map(|said| walks(said));
    let (mut differ, mut outside, mut read) = (Vec::new(), 0, 0);
    for (n, (address, ours)) in many.iter().zip(&ours).enumerate() {
        match (ours, number(&physical[n].into())) {
            (Some(ours), Some(theirs)) if *ours != theirs => differ.push((address, VOLATILITY3)),
            (None, Some(_)) => differ.push((address, VOLATILITY3)),
            // What the core does not hold volatility3 calls invalid.
            (Some(_), None) => outside += 1,
            _ => {}
        }
        // drgn reads where we say that memory is, and nowhere else.
        read += usize::from(bytes[n] != "-");
        if bytes[n] != "-" && ours.is_none() {
            differ.push((address, DRGN));
        }
        if number(&walked[n].into()) != *ours {
            differ.push((address, MEMFLOW));
        }
        if crash.as_ref().is_some_and(|theirs| theirs.get(address) != Some(ours)) {
            differ.push((address, CRASH));
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
