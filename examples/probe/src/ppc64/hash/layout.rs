//! What is where: the guest's memory, its segments, the pages that cases are about.

use pgtable::Gva;
use pgtable_ppc64::hash::{PageSize, Segment, SegmentSize, Slb, SlbEsid, VirtualPage};

const MIB: usize = 1 << 20;

/// Memory: three regions with much nothing between, so that the high bits of page addresses matter:
/// first address, bytes.
pub const REGIONS: [(u64, usize); 3] = [(0, 32 * MIB), (1 << 30, 4 * MIB), (1 << 45, 4 * MIB)];
/// Where cases may write: first address, bytes. All multiples of 64 KiB.
pub const DATA: [(u64, u64); 3] =
    [(0x100_0000, 0x100_0000), (1 << 30, 0x40_0000), (1 << 45, 0x40_0000)];
/// Addresses without memory: behind a region, between, far away.
pub const DEVICES: [u64; 5] = [0x200_0000, 0x7f00_0000, 1 << 40, (1 << 45) + 0x100_0000, 1 << 55];

/// log2 of the bytes of the table at first.
pub const ORDER: u64 = 18;

/// Whether a case may write at `address`.
pub fn is_data(address: u64) -> bool {
    DATA.iter().any(|&(start, bytes)| address >= start && address - start < bytes)
}

/// Whether the `bytes` bytes from `address` on are memory.
pub fn is_memory(address: u64, bytes: u64) -> bool {
    REGIONS.iter().any(|&(start, size)| {
        address >= start && address.checked_add(bytes).is_some_and(|end| end <= start + size as u64)
    })
}

/// A segment, and the effective address at which it begins.
#[derive(Clone, Copy, Debug)]
pub struct Place {
    /// Its first effective address.
    pub start: u64,
    /// The segment.
    pub segment: Segment,
}

const fn place(start: u64, vsid: u64, size: SegmentSize, base: PageSize) -> Place {
    Place {
        start,
        segment: Segment { vsid, size, base, ks: false, kp: true, n: false, class: false },
    }
}

/// The segment in which the stubs are. Its pages are of 4 KiB: no host backs memory with smaller
/// ones, and KVM refuses pages larger than their backing.
pub const STUBS: Place = place(0xc000_0000_0000_0000, 0xc0_de15, SegmentSize::T1, PageSize::K4);
/// The segment that real mode has (Power ISA v3.0B Book III 5.7.3.4): its VSID. KVM takes the size
/// of its pages from the first entry of it that is written into the table.
pub const REAL_MODE: Segment = place(0, 0x1ff_ffff, SegmentSize::T1, PageSize::K4).segment;
/// How many pages of both are the guest's code.
pub const CODE_PAGES: u64 = 3;
/// The virtual page class key of the pages that hold the guest's code: nobody may forbid it.
pub const CODE_KEY: u8 = 29;

/// The segments that cases use. No two begin with the same address, or overlap.
pub const PLACES: [Place; 8] = [
    place(0x1000_0000, 0x1_2345, SegmentSize::M256, PageSize::K4),
    place(0x2000_0000, 0x3f_fedc_ba98, SegmentSize::M256, PageSize::K64),
    place(0x3000_0000, 0x7_7777, SegmentSize::M256, PageSize::M16),
    place(0x5000_0000_0000, 0x2_4680, SegmentSize::T1, PageSize::K4),
    place(0x6_0000_0000_0000, 0x3ff_fffe, SegmentSize::T1, PageSize::K64),
    place(0x7_0100_0000_0000, 0x5_5aa5, SegmentSize::T1, PageSize::M16),
    place(0xffff_ffff_f000_0000, 0x21_0123_4567, SegmentSize::M256, PageSize::K4),
    place(0xffff_fe00_0000_0000, 0x123_4567, SegmentSize::T1, PageSize::K4),
];

impl Place {
    /// How many pages of its base size it has.
    pub fn pages(&self) -> u64 {
        1 << (self.segment.size.shift() - self.segment.base.shift())
    }

    /// The effective address of page `number`, counted modulo their number.
    pub fn address(&self, number: u64) -> Gva {
        Gva::new(self.start + ((number % self.pages()) << self.segment.base.shift()))
    }

    /// Page `number`.
    pub fn page(&self, number: u64) -> VirtualPage {
        VirtualPage::of(&self.segment, self.address(number))
    }

    /// Whether `page` is one of it.
    pub fn has(&self, page: &VirtualPage) -> bool {
        (self.segment.vsid, self.segment.size) == (page.vsid, page.segment)
    }

    /// Its SLB entry's first word.
    pub fn esid(&self) -> SlbEsid {
        SlbEsid::from_bits(self.start).with_v(true)
    }

    /// The pages that cases use: many that meet in one group of the smallest table, some whose
    /// groups are the others' secondary ones.
    pub fn numbers(&self) -> impl Iterator<Item = u64> {
        let first = self.segment.vsid % 97;
        let together = (0..7).map(move |turn| first + turn * 2048);
        let complement = (0..4).map(move |turn| (first ^ 2047) + turn * 2048);
        together.chain(complement).chain([first + 1, u64::MAX])
    }
}

/// The pages that the guest itself needs: its code, for real mode and where the stubs are.
pub fn code() -> impl Iterator<Item = (Segment, VirtualPage)> {
    let pages = |segment: Segment| {
        (0..CODE_PAGES).map(move |number| {
            let at = Gva::new(number << segment.base.shift());
            (segment, VirtualPage::of(&segment, at))
        })
    };
    [REAL_MODE, STUBS.segment].into_iter().flat_map(pages)
}

/// An SLB with the stubs' segment and all of [`PLACES`].
pub fn slb(change: impl Fn(usize, Segment) -> Option<Segment>) -> Slb {
    let mut slb = Slb::new();
    let places = PLACES.iter().enumerate().filter_map(|(index, place)| {
        let segment = change(index, place.segment)?;
        Some(Place { segment, ..*place })
    });
    for (index, place) in (0..).zip([STUBS].into_iter().chain(places)) {
        // None of them has a reserved value, and they are fewer than the SLB's entries.
        let _ = slb.slbmte(place.esid().with_index(index), place.segment.slb_word());
    }
    slb
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_page_lies_in_its_segment() {
        let slb = slb(|_, segment| Some(segment));
        for place in PLACES.iter().chain([&STUBS]) {
            for number in place.numbers() {
                assert_eq!(
                    slb.lookup(place.address(number)),
                    Ok(place.segment),
                    "{place:x?}, page {number:#x}"
                );
            }
        }
    }
}
