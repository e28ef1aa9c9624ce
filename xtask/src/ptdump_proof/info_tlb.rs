//! What QEMU's monitor lists of a 32-bit x86 CPU's tables (`info tlb`), page by page, against the
//! list that `ptdump` makes: where each page goes, accessed, dirty and global as its leaf says; and
//! that no page allows more than its leaf does.

use std::collections::BTreeMap;

use anyhow::{Context, Result, bail};
use serde_json::Value;

use super::ptdump::number;
use crate::report;

const PAGE: u64 = 0x1000;

/// A page of 4 KiB, whatever the size of its leaf.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Page {
    pa: u64,
    /// Global, dirty, accessed.
    marks: [bool; 3],
    /// User, write, execute.
    rights: [bool; 3],
}

type Pages = BTreeMap<u64, Page>;

/// Compares the two lists; leaves that QEMU shows as huge have `huge` bytes. Returns how many pages
/// there are.
pub fn compare(monitor: &str, listed: &[Value], huge: u64) -> Result<usize> {
    let mut theirs = Pages::new();
    for line in monitor.lines().filter(|line| !line.trim().is_empty()) {
        let (va, bytes, page) = of_line(line, huge)?;
        put(&mut theirs, va, bytes, page);
    }
    let mut ours = Pages::new();
    for range in listed {
        let (va, bytes, page) = of_range(range).with_context(|| range.to_string())?;
        put(&mut ours, va, bytes, page);
    }
    let all: Vec<_> = theirs.keys().chain(ours.keys()).collect();
    let differs = |va: &&&u64| match (theirs.get(**va), ours.get(**va)) {
        (Some(theirs), Some(ours)) => {
            let more = theirs.rights.iter().zip(ours.rights).any(|(leaf, page)| page && !leaf);
            more || (theirs.pa, theirs.marks) != (ours.pa, ours.marks)
        }
        _ => true,
    };
    if let Some(va) = all.iter().find(differs) {
        let (theirs, ours) = (theirs.get(*va), ours.get(*va));
        bail!("at {va:#x} info tlb has {theirs:x?}, ptdump lists {ours:x?}");
    }
    report::note(&format!("info tlb: {} pages, all the same", ours.len()));
    Ok(ours.len())
}

fn put(pages: &mut Pages, va: u64, bytes: u64, page: Page) {
    for at in (0..bytes).step_by(PAGE as usize) {
        pages.insert(va + at, Page { pa: page.pa + at, ..page });
    }
}

/// A line of `info tlb`: the address, where it goes (with XD as bit 63), and as letters XD, G, PS,
/// D, A, PCD, PWT, U and W.
fn of_line(line: &str, huge: u64) -> Result<(u64, u64, Page)> {
    let words: Vec<_> = line.split_whitespace().collect();
    let [va, pa, letters] = words[..] else { bail!("no line of info tlb: {line:?}") };
    let number = |word| u64::from_str_radix(word, 16).with_context(|| line.to_owned());
    let has = |letter| letters.contains(letter);
    let bytes = if has('P') { huge } else { PAGE };
    let page = Page {
        pa: number(pa)? & ((1 << 52) - 1) & !(bytes - 1),
        marks: ['G', 'D', 'A'].map(has),
        rights: [has('U'), has('W'), !has('X')],
    };
    Ok((number(va.trim_end_matches(':'))?, bytes, page))
}

/// A range of `ptdump list --json`.
fn of_range(range: &Value) -> Option<(u64, u64, Page)> {
    let [supervisor, user] = ["supervisor", "user"].map(|who| range[who].as_str());
    let (supervisor, user) = (supervisor?, user?);
    let said: Vec<_> = range["attributes"].as_str()?.split(' ').collect();
    let either = |letter| supervisor.contains(letter) || user.contains(letter);
    let page = Page {
        pa: number(&range["pa"])?,
        marks: ["global", "dirty", "accessed"].map(|word| said.contains(&word)),
        rights: [user != "---", either('w'), either('x')],
    };
    Some((number(&range["va"])?, range["bytes"].as_u64()?, page))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn range(va: &str, pa: &str, bytes: u64, rights: [&str; 2], attributes: &str) -> Value {
        json!({ "va": va, "pa": pa, "bytes": bytes, "supervisor": rights[0], "user": rights[1],
                "attributes": attributes })
    }

    #[test]
    fn lists_are_compared_page_by_page() {
        let monitor = "0000000008048000: 800000000123a000 X---A--U-\n\
                       00000000c0000000: 0000000000000000 -GPDA---W\n";
        let kernel = range("0xc0000000", "0x0", 0x20_0000, ["rwx", "---"], "accessed dirty global");
        let user = |pa, right| range("0x8048000", pa, 0x1000, ["r--", right], "accessed");
        let with = |user| compare(monitor, &[user, kernel.clone()], 0x20_0000);
        assert_eq!(with(user("0x123a000", "r--")).unwrap(), 513);
        // Another page; more than the leaf allows; less marks; a page less.
        assert!(with(user("0x123b000", "r--")).is_err());
        assert!(with(user("0x123a000", "rw-")).is_err());
        assert!(with(range("0x8048000", "0x123a000", 0x1000, ["r--", "r--"], "")).is_err());
        assert!(compare(monitor, &[kernel], 0x20_0000).is_err());
        assert!(compare("no line", &[], PAGE).is_err());
    }
}
