//! Addresses of every kind, and what both say of each.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Result, bail};
use fastrand::Rng;

use super::guest::Guest;
use super::ptdump::{Mapped, Ptdump};
use crate::report;

/// What came of it.
pub struct Outcome {
    /// Each address, and where both say that it goes.
    pub answers: Vec<(u64, Option<u64>)>,
    pub mapped: usize,
}

/// Asks both for `count` addresses of each kind, in the address space that `view` names.
pub fn compare(
    guest: &mut Guest,
    ptdump: &Ptdump,
    core: &Path,
    view: &[String],
    seed: u64,
    count: usize,
) -> Result<Outcome> {
    let listed = ptdump.list(core, view)?;
    let addresses = addresses(&listed, &mut Rng::with_seed(seed), count);
    let ours = ptdump.translate(core, view, &addresses)?;
    let mut differences = Vec::new();
    for (address, ours) in addresses.iter().zip(&ours) {
        let theirs = guest.gva2gpa(*address)?;
        if theirs != *ours {
            differences
                .push(format!("  {address:#018x}: QEMU says {theirs:x?}, ptdump says {ours:x?}"));
        }
    }
    let mapped = ours.iter().flatten().count();
    let view = if view.is_empty() { "no options".to_owned() } else { view.join(" ") };
    report::note(&format!(
        "{view}: {} ranges, {} addresses, {mapped} mapped",
        listed.len(),
        addresses.len()
    ));
    if !differences.is_empty() {
        let first: Vec<_> = differences.iter().take(20).cloned().collect();
        bail!(
            "{} of {} addresses differ ({view}):\n{}",
            differences.len(),
            addresses.len(),
            first.join("\n")
        );
    }
    Ok(Outcome { answers: addresses.into_iter().zip(ours).collect(), mapped })
}

/// Addresses in ranges that are listed, at their edges and beyond, and in the holes. Each region of
/// 512 GiB is as likely as any other, in it each range, or each byte: else the many small ranges of
/// one region would be all that is seen.
fn addresses(listed: &[Mapped], random: &mut Rng, count: usize) -> Vec<u64> {
    let mut regions: BTreeMap<u64, Vec<&Mapped>> = BTreeMap::new();
    for range in listed {
        regions.entry(range.va >> 39).or_default().push(range);
    }
    let regions: Vec<_> = regions.into_values().collect();
    let mut addresses = Vec::new();
    for _ in 0..if regions.is_empty() { 0 } else { count } {
        let region = &regions[random.usize(..regions.len())];
        let range = region[random.usize(..region.len())];
        addresses.push(range.va + random.u64(..range.bytes));
        let bytes: u64 = region.iter().map(|range| range.bytes).sum();
        let mut byte = random.u64(..bytes);
        for range in region {
            if byte < range.bytes {
                addresses.push(range.va + byte);
                break;
            }
            byte -= range.bytes;
        }
        let last = range.va + (range.bytes - 1);
        let edges = [range.va, range.va.wrapping_sub(1), last, last.wrapping_add(1)];
        addresses.push(edges[random.usize(..edges.len())]);
        if random.u8(..3) == 0 {
            addresses.push(range.va ^ 1 << random.u32(12..48));
        }
    }
    addresses
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_region_is_asked_about_inside_and_outside() {
        let listed: Vec<_> = (0..1000)
            .map(|n| Mapped { va: 0xffff_ff00_0000_0000 + n * 0x1_0000, bytes: 0x1000 })
            .chain([
                Mapped { va: 0x40_0000, bytes: 0x20_0000 },
                Mapped { va: u64::MAX - 0xfff, bytes: 0x1000 },
            ])
            .collect();
        let addresses = addresses(&listed, &mut Rng::with_seed(1), 300);
        let inside = |address: &u64, range: &Mapped| {
            (range.va..=range.va + (range.bytes - 1)).contains(address)
        };
        let low = addresses.iter().filter(|address| inside(address, &listed[1000])).count();
        assert!(low > 150, "{low}");
        let mapped =
            addresses.iter().filter(|it| listed.iter().any(|range| inside(it, range))).count();
        assert!(mapped > 600 && mapped < addresses.len() - 100, "{mapped} of {}", addresses.len());
        assert!(super::addresses(&[], &mut Rng::with_seed(1), 300).is_empty());
    }
}
