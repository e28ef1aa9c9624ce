//! What the guest's kernel says of its own processes, in `/proc`, against what `ptdump ps` says of
//! the dump; and where `/proc/PID/pagemap` says that pages are, against `--process PID`.
//!
//! Init says it on the console (`stat`, `page`), before the guest is stopped. Kernel workers come
//! and go until then, and are left out.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context, Result, bail};
use serde_json::Value;

use super::ptdump::{Ptdump, number};
use crate::report;

/// The flag of kernel threads in `/proc/PID/stat` (`PF_KTHREAD`).
const PF_KTHREAD: u64 = 0x20_0000;

/// A process: number, parent's number, name, and whether it is a kernel thread.
type Process = (u64, u64, String, bool);

/// Compares all of it; returns how many processes and pages were the same. `looks` says that roots
/// can be told by their looks.
pub fn compare(console: &str, ptdump: &Ptdump, core: &Path, looks: bool) -> Result<(usize, usize)> {
    let said = |what: &str| -> Vec<&str> {
        let start = format!("ptdump-proof: {what} ");
        console.lines().filter_map(|line| line.trim_end().strip_prefix(&start)).collect()
    };
    let theirs: Option<Vec<Process>> = said("stat").into_iter().map(of_stat).collect();
    let theirs = lasting(theirs.context("a line of /proc/PID/stat on the console")?);
    let listed = ptdump.processes(core)?;
    let ours: Option<Vec<Process>> = listed.iter().map(of_ps).collect();
    let ours = lasting(ours.context("a process of ptdump's")?);
    if theirs.iter().filter(|it| !it.3).count() < 3 {
        bail!("the guest tells of too few processes: {theirs:?}");
    }
    if theirs != ours {
        let missing: Vec<_> = theirs.iter().filter(|it| !ours.contains(it)).collect();
        let more: Vec<_> = ours.iter().filter(|it| !theirs.contains(it)).collect();
        bail!("ptdump ps lacks {missing:?}, and has {more:?}");
    }
    if looks {
        let roots = ptdump.looks(core)?;
        let found = |root: &&Value| roots.iter().all(|it| it["root"] != **root);
        let missing: Vec<_> =
            listed.iter().map(|it| &it["root"]).filter(|it| it.is_string()).filter(found).collect();
        if !missing.is_empty() {
            bail!("ptdump ps --looks does not find {missing:?}");
        }
        report::note(&format!("{} root tables by their looks", roots.len()));
    }
    let unit = said("page-size").first().and_then(|text| text.parse::<u64>().ok());
    let unit = unit.context("the size of pages on the console")? << 10;
    let mut pages: BTreeMap<u64, Vec<(u64, u64)>> = BTreeMap::new();
    for line in said("page") {
        let (pid, address, physical) = of_page(line, unit).with_context(|| line.to_owned())?;
        if let Some(physical) = physical {
            pages.entry(pid).or_default().push((address, physical));
        }
    }
    let count = pages.values().map(Vec::len).sum();
    if pages.len() < 2 || count < 10 {
        bail!("the guest tells of too few pages: {pages:x?}");
    }
    let physical: Vec<_> = pages.values().flatten().map(|it| it.1).collect();
    let aliases = ptdump.reverse(core, &physical)?;
    for (pid, pages) in pages {
        for (address, physical) in &pages {
            let is = |it: &Value| {
                let place = (number(&it["va"]), number(&it["pa"]));
                it["pid"].as_u64() == Some(pid) && place == (Some(*address), Some(*physical))
            };
            if !aliases.iter().any(is) {
                bail!("ptdump reverse does not lead from {physical:#x} to {address:#x} of {pid}");
            }
        }
        let (addresses, theirs): (Vec<_>, Vec<_>) = pages.into_iter().unzip();
        let process = ["--process".to_owned(), pid.to_string()];
        let ours = ptdump.translate(core, &process, &addresses)?;
        for ((address, theirs), ours) in addresses.iter().zip(&theirs).zip(ours) {
            if ours != Some(*theirs) {
                bail!("process {pid}, {address:#x}: pagemap says {theirs:#x}, ptdump {ours:x?}");
            }
        }
    }
    report::note(&format!("{} processes, {count} of their pages, all the same", ours.len()));
    Ok((ours.len(), count))
}

/// Without what comes and goes, in order.
fn lasting(all: Vec<Process>) -> Vec<Process> {
    let mut all: Vec<_> = all.into_iter().filter(|it| !it.2.starts_with("kworker/")).collect();
    all.sort();
    all
}

/// A line of `/proc/PID/stat`: number, name in parentheses, state, parent, four more, flags.
fn of_stat(line: &str) -> Option<Process> {
    let (pid, rest) = line.split_once(" (")?;
    let (name, rest) = rest.rsplit_once(") ")?;
    let words: Vec<_> = rest.split(' ').collect();
    let flags: u64 = words.get(6)?.parse().ok()?;
    let parent = words.get(1)?.parse().ok()?;
    let kernel = flags & PF_KTHREAD != 0;
    // Those of kernel threads are told whole, and kept cut off (`TASK_COMM_LEN`).
    let name = if kernel { name.chars().take(15).collect() } else { name.to_owned() };
    Some((pid.parse().ok()?, parent, name, kernel))
}

fn of_ps(process: &Value) -> Option<Process> {
    let text = |key: &str| process[key].as_u64();
    let (name, kernel) = (process["name"].as_str()?.to_owned(), process["kernel"].as_bool()?);
    // What is no kernel thread has a root, as long as it lives.
    (kernel == number(&process["root"]).is_none()).then_some((
        text("pid")?,
        text("parent")?,
        name,
        kernel,
    ))
}

/// A line of a page: process, first address of a mapping, and the word of pagemap: present in bit
/// 63, the frame in bits 54:0 (`Documentation/admin-guide/mm/pagemap.rst`).
fn of_page(line: &str, unit: u64) -> Option<(u64, u64, Option<u64>)> {
    let words: Vec<_> = line.split_whitespace().collect();
    let [pid, address, word] = words[..] else { return None };
    let [address, word] = [address, word].map(|text| u64::from_str_radix(text, 16).ok());
    let (address, word) = (address?, word?);
    let frame = word & ((1 << 55) - 1);
    Some((pid.parse().ok()?, address, (word >> 63 != 0).then(|| frame * unit)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_proc() {
        let line = "77 (a) b) S 1 77 1 1025 -1 4194560 83 0 0 0 0 0";
        assert_eq!(of_stat(line), Some((77, 1, "a) b".to_owned(), false)));
        let thread = "2 (kthreadd) S 0 0 0 0 -1 2129984 0 0";
        assert_eq!(of_stat(thread), Some((2, 0, "kthreadd".to_owned(), true)));
        let long = "11 (rcu_tasks_kthread) S 2 0 0 0 -1 2129984 0 0";
        assert_eq!(of_stat(long), Some((11, 2, "rcu_tasks_kthre".to_owned(), true)));
        let page = "80 7ffd1000 8000000000012345";
        assert_eq!(of_page(page, 4096), Some((80, 0x7ffd_1000, Some(0x1234_5000))));
        assert_eq!(of_page("80 400000 0000000000000000", 4096), Some((80, 0x40_0000, None)));
        assert_eq!(of_page("80 400000", 4096), None);
    }
}
