//! What QEMU's monitor lists of a RISC-V hart's tree (`info mem`), page by page, against the list
//! that `ptdump` makes: users' pages too, with their rights, which `gva2gpa` cannot see from the
//! kernel.

use anyhow::{Context, Result, bail};
use serde_json::Value;

use super::ptdump::number;
use crate::report;

/// A run of pages: first address, where it goes, bytes, and R, W, X, U, G, A, D as letters.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
struct Run {
    va: u64,
    pa: u64,
    bytes: u64,
    letters: String,
}

/// Compares the two lists.
pub fn compare(monitor: &str, listed: &[Value]) -> Result<usize> {
    let theirs = joined(monitor.lines().skip(2).map(of_line).collect::<Result<_>>()?);
    let ours = joined(listed.iter().map(of_range).collect::<Option<_>>().context("a range")?);
    let first = theirs.iter().zip(&ours).find(|(theirs, ours)| theirs != ours);
    match first {
        Some((theirs, ours)) => bail!("info mem has {theirs:x?}, ptdump lists {ours:x?}"),
        None if theirs.len() != ours.len() => {
            bail!("info mem has {} runs of pages, ptdump {}", theirs.len(), ours.len())
        }
        None => {
            report::note(&format!("info mem: {} runs of pages, all the same", ours.len()));
            Ok(ours.len())
        }
    }
}

/// A line of `info mem`. Its physical address is the entry's bits from 10 on: the memory type and
/// N too.
fn of_line(line: &str) -> Result<Run> {
    let words: Vec<_> = line.split_whitespace().collect();
    let [va, pa, bytes, letters] = words[..] else { bail!("no line of info mem: {line:?}") };
    let number = |word| u64::from_str_radix(word, 16).with_context(|| line.to_owned());
    let pa = number(pa)? & ((1 << 56) - 1);
    Ok(Run { va: number(va)?, pa, bytes: number(bytes)?, letters: letters.to_owned() })
}

/// A range of `ptdump list --json`. Only a user's page allows a user anything.
fn of_range(range: &Value) -> Option<Run> {
    let [supervisor, user] = ["supervisor", "user"].map(|who| range[who].as_str());
    let (rights, u) = if user? == "---" { (supervisor?, '-') } else { (user?, 'u') };
    let said: Vec<_> = range["attributes"].as_str()?.split(' ').collect();
    let letter = |word, letter| if said.contains(&word) { letter } else { '-' };
    let (g, a, d) = (letter("global", 'g'), letter("accessed", 'a'), letter("dirty", 'd'));
    let letters = format!("{rights}{u}{g}{a}{d}");
    let bytes = range["bytes"].as_u64()?;
    Some(Run { va: number(&range["va"])?, pa: number(&range["pa"])?, bytes, letters })
}

/// Neighbours that say the same as one.
fn joined(mut runs: Vec<Run>) -> Vec<Run> {
    runs.sort_unstable();
    let mut all: Vec<Run> = Vec::new();
    for run in runs {
        match all.last_mut() {
            Some(last)
                if last.letters == run.letters
                    && last.va.wrapping_add(last.bytes) == run.va
                    && last.pa.wrapping_add(last.bytes) == run.pa =>
            {
                last.bytes += run.bytes;
            }
            _ => all.push(run),
        }
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    const HEAD: &str = "vaddr            paddr            size             attr\n----\n";

    fn page(va: &str, pa: &str, attributes: &str) -> Value {
        json!({ "va": va, "pa": pa, "bytes": 0x1000, "supervisor": "---", "user": "r-x",
                "attributes": attributes })
    }

    #[test]
    fn lists_are_compared_page_by_page() {
        let monitor = format!(
            "{HEAD}0000000000010000 0000000081234000 0000000000002000 r-xu-ad\n\
             ffffffff80000000 0800000080200000 0000000000001000 rwx-ga-\n"
        );
        let kernel = json!({ "va": "0xffffffff80000000", "pa": "0x80200000", "bytes": 0x1000,
                             "supervisor": "rwx", "user": "---",
                             "attributes": "accessed global io" });
        let mut listed = vec![
            kernel,
            page("0x10000", "0x81234000", "accessed dirty"),
            page("0x11000", "0x81235000", "accessed dirty"),
        ];
        assert_eq!(compare(&monitor, &listed).unwrap(), 2);
        listed[2] = page("0x11000", "0x81235000", "accessed");
        assert!(compare(&monitor, &listed).is_err());
        listed.pop();
        assert!(compare(&monitor, &listed).is_err());
        assert!(compare("one\ntwo\nno line", &[]).is_err());
    }
}
