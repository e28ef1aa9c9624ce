//! Addresses of every kind, and what both say of each.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Result, bail};
use fastrand::Rng;

use super::guest::Guest;
use super::ptdump::{Mapped, Ptdump};
use crate::report;

/// How large an address space is.
#[derive(Clone, Copy)]
pub struct Space {
    /// log2 of a region's bytes, of which each is as likely as any other.
    region: u32,
    /// How many bits of an address are translated.
    bits: u32,
    /// Where the kernel's part begins.
    kernel: u64,
}

impl Space {
    pub const WIDE: Self = Self { region: 39, bits: 48, kernel: 1 << 63 };
    pub const OF_32_BITS: Self = Self { region: 26, bits: 32, kernel: 0xc000_0000 };
}

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
    space: Space,
    seed: u64,
    count: usize,
) -> Result<Outcome> {
    let listed = ptdump.list(core, view)?;
    let addresses = addresses(&listed, space, &mut Rng::with_seed(seed), count);
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
        "{view}: {} ranges, {} addresses: {}",
        listed.len(),
        addresses.len(),
        kinds(&listed, space, &addresses)
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

/// How many addresses there are of each kind, in words.
fn kinds(listed: &[Mapped], space: Space, addresses: &[u64]) -> String {
    let smallest = listed.iter().map(|range| range.size).min().unwrap_or(0);
    let mut counts = [("kernel's", 0), ("users'", 0), ("in huge pages", 0), ("not mapped", 0)];
    for address in addresses {
        let after = listed.partition_point(|range| range.va <= *address);
        let range = listed[..after].last().filter(|it| *address - it.va < it.bytes);
        let kind = match range {
            None => 3,
            Some(range) => {
                counts[2].1 += usize::from(range.size > smallest);
                usize::from(*address < space.kernel)
            }
        };
        counts[kind].1 += 1;
    }
    counts.map(|(kind, count)| format!("{count} {kind}")).join(", ")
}

/// Addresses in ranges that are listed, at their edges and beyond, and in the holes. Each region is
/// as likely as any other, in it each range, or each byte: else the many small ranges of one region
/// would be all that is seen.
pub fn addresses(listed: &[Mapped], space: Space, random: &mut Rng, count: usize) -> Vec<u64> {
    let mut regions: BTreeMap<u64, Vec<&Mapped>> = BTreeMap::new();
    for range in listed {
        regions.entry(range.va >> space.region).or_default().push(range);
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
            addresses.push(range.va ^ 1 << random.u32(12..space.bits));
        }
    }
    if space.bits == 32 {
        // Beyond there is nothing to ask about.
        addresses.retain(|address| address >> 32 == 0);
    }
    addresses
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_region_is_asked_about_inside_and_outside() {
        let page = |va, bytes| Mapped { va, size: bytes, bytes };
        let listed: Vec<_> = (0..1000)
            .map(|n| page(0xffff_ff00_0000_0000 + n * 0x1_0000, 0x1000))
            .chain([page(0x40_0000, 0x20_0000), page(u64::MAX - 0xfff, 0x1000)])
            .collect();
        let addresses = addresses(&listed, Space::WIDE, &mut Rng::with_seed(1), 300);
        let inside = |address: &u64, range: &Mapped| {
            (range.va..=range.va + (range.bytes - 1)).contains(address)
        };
        let low = addresses.iter().filter(|address| inside(address, &listed[1000])).count();
        assert!(low > 150, "{low}");
        let mapped =
            addresses.iter().filter(|it| listed.iter().any(|range| inside(it, range))).count();
        assert!(mapped > 600 && mapped < addresses.len() - 100, "{mapped} of {}", addresses.len());
        let mut sorted = listed;
        sorted.sort_by_key(|range| range.va);
        let asked = [0x40_0123, 0x3f_ffff, u64::MAX, 0xffff_ff00_0000_1000];
        let kinds = super::kinds(&sorted, Space::WIDE, &asked);
        assert_eq!(kinds, "1 kernel's, 1 users', 1 in huge pages, 2 not mapped");
        let narrow = [page(0xffff_f000, 0x1000)];
        let addresses = super::addresses(&narrow, Space::OF_32_BITS, &mut Rng::with_seed(1), 300);
        assert!(addresses.len() > 600 && addresses.iter().all(|address| address >> 32 == 0));
        let kinds = super::kinds(&narrow, Space::OF_32_BITS, &[0xffff_f000, 0x1000]);
        assert_eq!(kinds, "1 kernel's, 0 users', 0 in huge pages, 1 not mapped");
        assert!(super::addresses(&[], Space::WIDE, &mut Rng::with_seed(1), 300).is_empty());
    }
}
