//! What crash says of the same memory: where the kernel's addresses go and a process's (`vtop`),
//! which processes there are (`ps`), what stands in memory (`rd`).
//!
//! The line `PHYSICAL` of `vtop` is no witness: above the start of the direct map it is computed,
//! whatever is mapped. Its walk is: the line `PAGE`.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use duct::cmd;

use super::compare::Outcome;
use super::ptdump::Ptdump;
use crate::report;
use crate::toolbox::table::{CRASH, SYMBOLS_AMD64};
use crate::xtask::Xtask;

/// How many words are read.
const WORDS: usize = 64;

/// The program, with what it is run on.
pub struct Crash {
    program: PathBuf,
    symbols: PathBuf,
    vmcore: PathBuf,
}

impl Crash {
    pub fn new(xtask: &Xtask, vmcore: &Path) -> Result<Self> {
        let folder = xtask.toolbox.root(&SYMBOLS_AMD64)?.join("usr/lib/debug/boot");
        let symbols = std::fs::read_dir(&folder)?.next().context("the kernel's symbols")??.path();
        let program = xtask.toolbox.program(&CRASH, "crash")?;
        Ok(Self { program, symbols, vmcore: vmcore.to_path_buf() })
    }

    /// How it is called.
    pub fn words(&self) -> Vec<String> {
        let files = [&self.program, &self.symbols, &self.vmcore];
        let [program, symbols, vmcore] = files.map(|file| file.display().to_string());
        vec![program, "-s".to_owned(), "--no_panic".to_owned(), symbols, vmcore]
    }

    /// What it is told, to walk to these addresses: of the kernel (`-k`) or the process (`-u`).
    pub fn commands(which: &str, addresses: &[u64]) -> String {
        addresses.iter().map(|address| format!("vtop {which} {address:x}\n")).collect()
    }

    /// What it says to these commands.
    fn ask(&self, commands: &str) -> Result<String> {
        let words = self.words();
        let run = cmd(&words[0], &words[1..]);
        let input = format!("{commands}quit\n");
        let said = run.stdin_bytes(input).stderr_to_stdout().read().context("crash")?;
        ensure!(!said.contains("do not match"), "crash has the symbols of another kernel:\n{said}");
        Ok(said)
    }

    /// Where its walks end.
    fn walks(&self, before: &str, which: &str, addresses: &[u64]) -> Result<Vec<Option<u64>>> {
        let commands = Self::commands(which, addresses);
        let walks = walks(&self.ask(&format!("{before}{commands}"))?);
        let of = |address: &u64| {
            walks
                .get(address)
                .copied()
                .with_context(|| format!("crash says nothing of {address:#x}"))
        };
        addresses.iter().map(of).collect()
    }
}

/// Where each walk in an answer ends.
pub fn walks(said: &str) -> BTreeMap<u64, Option<u64>> {
    let (mut all, mut address, mut is_next) = (BTreeMap::new(), None, false);
    for line in said.lines() {
        let words: Vec<_> = line.split_whitespace().collect();
        if is_next {
            address = words.first().and_then(|word| u64::from_str_radix(word, 16).ok());
            all.extend(address.map(|address| (address, None)));
        }
        is_next = words == ["VIRTUAL", "PHYSICAL"];
        if let (Some(address), ["PAGE:", page, size @ ..]) = (address, &words[..]) {
            let bits = match size {
                ["(2MB)"] => 21,
                ["(1GB)"] => 30,
                _ => 12,
            };
            let within = address & ((1 << bits) - 1);
            all.insert(address, u64::from_str_radix(page, 16).ok().map(|page| page | within));
        }
    }
    all
}

/// The processes in an answer to `ps`: number, parent, name.
fn processes(said: &str) -> Vec<(u64, u64, String)> {
    let process = |line: &str| {
        let words: Vec<_> = line.trim_start_matches('>').split_whitespace().collect();
        let [pid, parent, _, _, _, _, _, _, name, ..] = words[..] else { return None };
        let name = name.trim_matches(['[', ']']).to_owned();
        Some((pid.parse().ok()?, parent.parse().ok()?, name))
    };
    // The idle tasks are none of the list of tasks.
    said.lines().filter_map(process).filter(|it| it.0 != 0).collect()
}

/// Fails where answers differ; returns how many addresses are mapped.
fn differ(
    what: &str,
    addresses: &[u64],
    ours: &[Option<u64>],
    theirs: &[Option<u64>],
) -> Result<usize> {
    let mut all = addresses.iter().zip(ours.iter().zip(theirs));
    match all.find(|(_, (ours, theirs))| ours != theirs) {
        None => Ok(ours.iter().flatten().count()),
        Some((address, (ours, theirs))) => {
            bail!("{what} {address:#x}: crash says {theirs:x?}, ptdump {ours:x?}")
        }
    }
}

/// The addresses among these that the kernel maps in every process.
fn of_kernel(outcomes: &[(Vec<String>, Outcome)]) -> Vec<u64> {
    let all = outcomes.iter().flat_map(|(_, outcome)| outcome.answers.iter().map(|it| it.0));
    all.filter(|address| address >> 47 == 0x1ffff).collect()
}

fn kernel_view() -> [String; 2] {
    ["--root", "kernel"].map(str::to_owned)
}

/// Asks both about addresses of the kernel's, in a file that `crash` reads too.
pub fn compare_form(
    crash: &Crash,
    ptdump: &Ptdump,
    outcomes: &[(Vec<String>, Outcome)],
) -> Result<()> {
    let kernel = of_kernel(outcomes);
    let walked = crash.walks("", "-k", &kernel)?;
    let ours = ptdump.translate(&crash.vmcore, &kernel_view(), &kernel)?;
    let mapped = differ("the kernel's", &kernel, &ours, &walked)?;
    ensure!(mapped > 100, "{mapped} addresses prove little");
    let name = crash.vmcore.file_name().unwrap_or_default();
    report::note(&format!(
        "{}: crash says the same of {} addresses",
        name.to_string_lossy(),
        kernel.len()
    ));
    Ok(())
}

/// Asks both.
pub fn compare(
    crash: &Crash,
    ptdump: &Ptdump,
    core: &Path,
    outcomes: &[(Vec<String>, Outcome)],
) -> Result<()> {
    let kernel = of_kernel(outcomes);
    let view = kernel_view();
    let walked = crash.walks("", "-k", &kernel)?;
    let mapped =
        differ("the kernel's", &kernel, &ptdump.translate(core, &view, &kernel)?, &walked)?;

    let listed = ptdump.processes(core)?;
    let mut ours: Vec<_> = listed
        .iter()
        .filter_map(|it| {
            let name = it["name"].as_str()?.to_owned();
            Some((it["pid"].as_u64()?, it["parent"].as_u64()?, name))
        })
        .collect();
    let mut theirs = processes(&crash.ask("ps\n")?);
    ours.sort();
    theirs.sort();
    ensure!(ours == theirs, "crash has the processes {theirs:?}, ptdump {ours:?}");

    let mut user = 0;
    for process in listed.iter().filter(|it| it["root"].is_string()) {
        let pid = process["pid"].to_string();
        let its = ["--process".to_owned(), pid.clone()];
        let ranges = ptdump.list(core, &its)?;
        let addresses: Vec<u64> =
            ranges.iter().filter(|it| it.va >> 47 == 0).map(|it| it.va + it.bytes / 2).collect();
        let theirs = crash.walks(&format!("set {pid}\n"), "-u", &addresses)?;
        let ours = ptdump.translate(core, &its, &addresses)?;
        user += differ(&format!("process {pid},"), &addresses, &ours, &theirs)?;
    }
    ensure!(mapped > 100 && user > 10, "{mapped} and {user} addresses prove little");

    let in_page =
        |(va, pa): (&u64, &Option<u64>)| pa.filter(|_| va & 0xfff < 0x800).map(|_| va & !7);
    let at = kernel.iter().zip(&walked).find_map(in_page);
    let at = at.context("an address of the kernel's that is mapped")?;
    let said = crash.ask(&format!("rd -64 {at:x} {WORDS}\n"))?;
    let words: Vec<u64> = said
        .lines()
        .filter_map(|line| line.split_once(":  "))
        .flat_map(|(_, rest)| rest.split_whitespace().take(2))
        .filter_map(|word| u64::from_str_radix(word, 16).ok())
        .collect();
    let bytes = ptdump.read(core, &view, at, WORDS * 8)?;
    ensure!(
        bytes == words.iter().flat_map(|word| word.to_le_bytes()).collect::<Vec<_>>(),
        "crash reads other bytes at {at:#x}: {said}"
    );
    report::note(&format!(
        "crash: {} addresses of the kernel's, {mapped} mapped, {user} of processes, {} processes, \
         {WORDS} words at {at:#x}: all the same",
        kernel.len(),
        listed.len()
    ));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_read() {
        let said = "VIRTUAL           PHYSICAL        \nfffffe0000002345  1f218345        \n\n\
            PGD DIRECTORY: fffffffface10000\n   PTE: 1fcf7010 => 800000001f218163\n  PAGE: 1f218000\n\n\
            VIRTUAL           PHYSICAL        \nffffffffab412345  18e12345        \n\n  \
            PAGE: 18e00000  (2MB)\n\n\
            VIRTUAL           PHYSICAL        \nffff8c9680000000  1000000000      \n   PUD: 0\n";
        let want = [
            (0xffff_8c96_8000_0000, None),
            (0xffff_fe00_0000_2345, Some(0x1f21_8345)),
            (0xffff_ffff_ab41_2345, Some(0x18e1_2345)),
        ];
        assert_eq!(walks(said).into_iter().collect::<Vec<_>>(), want);
        let said = "      PID    PPID  CPU       TASK        ST  %MEM      VSZ      RSS  COMM\n\
            >       0       0   0  fffffffface1aa40  RU   0.0        0        0  [swapper/0]\n        \
            1       0   0  ffff8c86811f2100  IN   0.3     2260     1744  init\n        \
            2       0   0  ffff8c86811f0000  IN   0.0        0        0  [kthreadd]\n";
        let want = [(1, 0, "init".to_owned()), (2, 0, "kthreadd".to_owned())];
        assert_eq!(processes(said), want);
    }
}
