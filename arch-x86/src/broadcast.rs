//! INVLPGA and INVLPGB: invalidation by ASID, on this processor and on all.

use bitfield_struct::bitfield;
use pgtable::invalidate::{Stale, StaleRange};
use pgtable::{Gpa, Gva};

use crate::registers::Pcid;

/// One INVLPGA: the address in rAX, the ASID in ECX (APM volume 3, INVLPGA). It drops the
/// translation of one address of that ASID, whatever the page's size, and no table entries.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Invlpga {
    /// rAX.
    pub address: Gva,
    /// ECX.
    pub asid: u32,
}

/// The INVLPGAs that make `stale` unreachable under `asid` on this processor, or `None` if it has
/// no instruction for that: too many pages, everything, or tables that left the tree. Then the next
/// VMRUN flushes ([`tlb_control`](crate::tlb_control)).
#[must_use]
pub fn invlpga(
    stale: &Stale<Gva>,
    asid: u32,
    ceiling: u64,
) -> Option<impl Iterator<Item = Invlpga>> {
    let pages = match pgtable::invalidate::Flush::of(stale, ceiling) {
        pgtable::invalidate::Flush::Nothing => None,
        pgtable::invalidate::Flush::Pages(pages) if !stale.tables() => Some(pages),
        _ => return None,
    };
    Some(pages.into_iter().flatten().map(move |address| Invlpga { address, asid }))
}

/// rAX of INVLPGB (APM volume 3, INVLPGB).
#[bitfield(u64)]
#[derive(PartialEq, Eq, Hash)]
pub struct InvlpgbAddress {
    /// The address is valid: translations of it alone.
    pub address_valid: bool,
    /// The PCID is valid: translations under it alone.
    pub pcid_valid: bool,
    /// The ASID is valid: translations under it alone.
    pub asid_valid: bool,
    /// Global translations too.
    pub globals: bool,
    /// Only translations of pages, not the entries of tables on the way.
    pub final_only: bool,
    /// Nested translations too.
    pub nested: bool,
    #[bits(6)]
    __: u8,
    /// Bits 63:12 of the address.
    #[bits(52)]
    pub page: u64,
}

/// ECX of INVLPGB.
#[bitfield(u32)]
#[derive(PartialEq, Eq, Hash)]
pub struct InvlpgbCount {
    /// How many pages besides the first: at most EDX\[15:0\] of CPUID function 80000008H.
    pub more: u16,
    #[bits(15)]
    __: u16,
    /// The pages have 2 MiB.
    pub huge: bool,
}

/// EDX of INVLPGB.
#[bitfield(u32)]
#[derive(PartialEq, Eq, Hash)]
pub struct InvlpgbContext {
    /// The ASID; 0 is the host.
    pub asid: u16,
    /// The PCID.
    #[bits(12)]
    pub pcid: u16,
    #[bits(4)]
    __: u8,
}

/// One INVLPGB, which reaches all processors. When all are issued, TLBSYNC on the same processor
/// waits until they are done; nothing may be freed before.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Invlpgb {
    /// rAX.
    pub address: InvlpgbAddress,
    /// ECX.
    pub count: InvlpgbCount,
    /// EDX.
    pub context: InvlpgbContext,
}

/// Whose translations INVLPGB drops.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct BroadcastTarget {
    /// The ASID: 0 is the host, others are guests.
    pub asid: u16,
    /// The PCID, if the address space has one; otherwise all PCIDs.
    pub pcid: Option<Pcid>,
    /// Translations of the space may be global.
    pub globals: bool,
}

impl BroadcastTarget {
    /// Everything of the target.
    const fn whole(self, nested: bool) -> Invlpgb {
        let pcid = match self.pcid {
            Some(pcid) => pcid.get(),
            None => 0,
        };
        Invlpgb {
            address: InvlpgbAddress::new()
                .with_asid_valid(true)
                .with_pcid_valid(self.pcid.is_some())
                .with_globals(self.globals)
                .with_nested(nested),
            count: InvlpgbCount::new(),
            context: InvlpgbContext::new().with_asid(self.asid).with_pcid(pcid),
        }
    }
}

/// The INVLPGBs that make `stale` unreachable on all processors: one for each run of at most `most
/// + 1` pages, where `most` is EDX\[15:0\] of CPUID function 80000008H; or one for everything, if
/// there would be more than `ceiling`. A TLBSYNC is owed after them if there is any.
pub fn invlpgb(
    stale: &Stale<Gva>,
    target: BroadcastTarget,
    most: u16,
    ceiling: u64,
) -> impl Iterator<Item = Invlpgb> {
    let per = u64::from(most) + 1;
    let runs = |range: &StaleRange<Gva>| match range.shift {
        12 | 21 => range.pages().div_ceil(per),
        // Any address of a larger page drops all of it.
        _ => range.pages(),
    };
    let count = stale.ranges().iter().map(runs).fold(0, u64::saturating_add);
    let everything = stale.everything() || count > ceiling || count == 0;
    let ranges = if everything { &[] } else { stale.ranges() };
    let whole = target.whole(false);
    let final_only = !stale.tables();
    let each = ranges.iter().flat_map(move |range| {
        let (huge, per) = match range.shift {
            12 => (false, per),
            21 => (true, per),
            _ => (false, 1),
        };
        let pages = range.pages();
        (0..pages.div_ceil(per)).map(move |run| {
            let first = run * per;
            let more = (pages - first).min(per) - 1;
            let address = range.start.get().wrapping_add(first << range.shift);
            Invlpgb {
                address: whole
                    .address
                    .with_address_valid(true)
                    .with_final_only(final_only)
                    .with_page(address >> 12),
                // Less than `per`, which fits.
                count: InvlpgbCount::new().with_more(more as u16).with_huge(huge),
                ..whole
            }
        })
    });
    each.chain((everything && !stale.is_empty()).then_some(whole))
}

/// The INVLPGB that makes a guest's `stale` nested translations unreachable on all processors, if
/// anything is stale: there is no form for one guest-physical address. TLBSYNC is owed after it.
///
/// It needs CPUID.80000008H:EBX\[21\] (INVLPGB of nested translations).
#[must_use]
pub fn invlpgb_nested(stale: &Stale<Gpa>, asid: u16) -> Option<Invlpgb> {
    let target = BroadcastTarget { asid, pcid: None, globals: true };
    (!stale.is_empty()).then_some(target.whole(true))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::invalidate::tests::gather;
    use pgtable::{Stage1, Stage2};
    extern crate std;
    use std::vec::Vec;

    const GUEST: BroadcastTarget = BroadcastTarget { asid: 5, pcid: None, globals: true };

    fn raw(operations: impl Iterator<Item = Invlpgb>) -> Vec<(u64, u32, u32)> {
        operations
            .map(|it| (it.address.into_bits(), it.count.into_bits(), it.context.into_bits()))
            .collect()
    }

    /// Each field alone, against the bit positions of the manual.
    #[test]
    fn positions() {
        let address = InvlpgbAddress::new;
        for (name, word, bits) in [
            ("address", address().with_address_valid(true).into_bits(), 1_u64),
            ("PCID", address().with_pcid_valid(true).into_bits(), 2),
            ("ASID", address().with_asid_valid(true).into_bits(), 4),
            ("globals", address().with_globals(true).into_bits(), 8),
            ("final", address().with_final_only(true).into_bits(), 0x10),
            ("nested", address().with_nested(true).into_bits(), 0x20),
            ("page", address().with_page(u64::MAX >> 12).into_bits(), !0xfff),
            ("count", InvlpgbCount::new().with_more(u16::MAX).into_bits().into(), 0xffff),
            ("2 MiB", InvlpgbCount::new().with_huge(true).into_bits().into(), 1 << 31),
            ("asid", InvlpgbContext::new().with_asid(u16::MAX).into_bits().into(), 0xffff),
            ("pcid", InvlpgbContext::new().with_pcid(0xfff).into_bits().into(), 0xfff_0000),
        ] {
            assert_eq!(word, bits, "{name}: {word:#x}");
        }
    }

    /// Runs no longer than the processor takes, and everything where they would be too many.
    #[test]
    fn case_counts() {
        type Row<'a> = (&'a [(u64, u64, u8)], u16, u64, &'a [(u64, u32)]);
        let rows: &[Row<'_>] = &[
            (&[], 7, 33, &[]),
            (&[(0x1000, 0x1000, 12)], 7, 33, &[(0x101d, 0)]),
            (&[(0x1000, 0x8000, 12)], 7, 33, &[(0x101d, 7)]),
            (&[(0x1000, 0x9000, 12)], 7, 33, &[(0x101d, 7), (0x901d, 0)]),
            (&[(0x1000, 0x3000, 12)], 0, 33, &[(0x101d, 0), (0x201d, 0), (0x301d, 0)]),
            (&[(0x1000, 0x3000, 12)], 0, 2, &[(0xc, 0)]),
            (
                &[(0x20_0000, 0x60_0000, 21)],
                1,
                33,
                &[(0x20_001d, 1 << 31 | 1), (0x60_001d, 1 << 31)],
            ),
            (&[(0, 1 << 30, 30)], 7, 33, &[(0x1d, 0), (1 << 30 | 0x1d, 0)]),
            (
                &[(0xffff_ffff_ffff_e000, 0xffff_ffff_ffff_f000, 12)],
                7,
                33,
                &[(0xffff_ffff_ffff_e01d, 1)],
            ),
        ];
        for &(ranges, most, ceiling, want) in rows {
            let gather = gather::<Stage1>(ranges, false);
            let got = raw(invlpgb(gather.stale(), GUEST, most, ceiling));
            let want: Vec<_> = want.iter().map(|&(address, count)| (address, count, 5)).collect();
            assert_eq!(got, want, "{ranges:x?}, {most} more, at most {ceiling}");
        }
        let everything = gather::<Stage1>(&[], true);
        let host = BroadcastTarget { asid: 0, pcid: Pcid::new(0x123), globals: false };
        assert_eq!(raw(invlpgb(everything.stale(), host, 7, 33)), [(6, 0, 0x123_0000)]);
        let some = gather::<Stage2>(&[(0x1000, 0x1000, 12)], false);
        let nested = invlpgb_nested(some.stale(), 5).into_iter();
        assert_eq!(raw(nested), [(0x2c, 0, 5)]);
        assert_eq!(invlpgb_nested(gather::<Stage2>(&[], false).stale(), 5), None);
    }

    #[test]
    fn case_invlpga() {
        let some = gather::<Stage1>(&[(0x1000, 0x2000, 12)], false);
        let got: Vec<_> = invlpga(some.stale(), 5, 33).unwrap().collect();
        let page = |address| Invlpga { address: Gva::new(address), asid: 5 };
        assert_eq!(got, [page(0x1000), page(0x2000)]);
        assert!(invlpga(some.stale(), 5, 1).is_none(), "too many");
        assert!(invlpga(gather::<Stage1>(&[], true).stale(), 5, 33).is_none(), "everything");
        assert_eq!(invlpga(gather::<Stage1>(&[], false).stale(), 5, 33).unwrap().count(), 0);
    }
}
