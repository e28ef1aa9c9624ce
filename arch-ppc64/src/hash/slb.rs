//! The segment lookaside buffer: which segment an effective address lies in (Power ISA v3.0B Book
//! III 5.7.8).

use pgtable::Gva;

use super::authority::Allowed;
use super::hpte::Layout;
use super::page_size::PageSize;
use super::search::Search;
use super::segment::{Segment, SegmentSize, SlbEsid, SlbVsid};
use super::virtual_page::VirtualPage;

/// SLB entries of POWER9 and POWER10.
pub const SLB_ENTRIES: usize = 32;

/// Why the SLB was not changed.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SlbError {
    /// The SLB has no such entry.
    #[error("there is no SLB entry {index}")]
    Index {
        /// The entry that was asked for.
        index: u16,
    },
    /// A reserved bit is set.
    #[error("reserved bits are set in an SLB word")]
    Reserved,
    /// B is 0b1x.
    #[error("the segment size is reserved")]
    SegmentSize,
    /// L and LP name no base page size.
    #[error("the base page size is reserved")]
    PageSize,
    /// The invalidation hint of `slbia` is reserved.
    #[error("an invalidation hint of {ih} is reserved")]
    Hint {
        /// The hint.
        ih: u8,
    },
}

/// Why the SLB names no segment for an address.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, thiserror::Error)]
pub enum NoSegment {
    /// No entry is for the address: a segment interrupt.
    #[error("no SLB entry is for the address")]
    Miss,
    /// More than one entry is for the address. That is an error of the software that wrote them,
    /// and hardware may use any of them or take a machine check.
    #[error("more than one SLB entry is for the address")]
    MultiHit,
}

/// Which effective addresses an entry is for: those that are `esid` under `mask`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Tag {
    mask: u64,
    esid: u64,
}

impl Tag {
    /// No address.
    const EMPTY: Self = Self { mask: 0, esid: 1 };

    #[inline(always)]
    const fn fits(self, address: Gva) -> bool {
        address.get() & self.mask == self.esid
    }

    /// Whether both are for some address.
    const fn overlaps(self, other: Self) -> bool {
        let (mask, both) = (self.mask & other.mask, self.mask != 0 && other.mask != 0);
        both && (self.esid ^ other.esid) & mask == 0
    }
}

/// What an entry says of its segment, and what follows from that for every search.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Found {
    pub(super) segment: Segment,
    pub(super) search: Search,
    pub(super) allowed: Allowed,
}

impl Found {
    /// What no address has.
    const NONE: Self = {
        let (size, base) = (SegmentSize::M256, PageSize::K4);
        let segment = Segment { vsid: 0, size, base, ks: true, kp: true, n: true, class: false };
        Self { allowed: Allowed::NOTHING, ..Self::new(segment, Gva::new(0)) }
    };

    /// Of `segment`, in which `address` lies.
    pub(super) const fn new(segment: Segment, address: Gva) -> Self {
        // In a segment beyond what ISA v3.0's layout has room for the quick search compares too
        // little: the careful one decides.
        let v = VirtualPage::of(&segment, address).v();
        let quick = Layout::V3.reaches(v);
        let allowed = if quick { Allowed::new(&segment) } else { Allowed::NOTHING };
        Self { segment, search: Search::new(&segment, address), allowed }
    }
}

/// The effective addresses of a segment of `size` around `address`: mask, and what is under it.
const fn span(size: SegmentSize, address: u64) -> (u64, u64) {
    let mask = !pgtable::low_bits(size.shift());
    (mask, address & mask)
}

/// An SLB of `N` entries, as one processor has it.
///
/// Software must see to it that no two entries are for one address (ISA v3.0B Book III 5.7.8). If
/// they are, an address that both are for has no segment here: [`NoSegment::MultiHit`], where
/// processors differ, and QEMU takes the first.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Slb<const N: usize = SLB_ENTRIES> {
    tags: [Tag; N],
    /// The same, but for those that overlap another: empty.
    alone: [Tag; N],
    /// What stands behind each tag; of an empty one, nothing of use.
    found: [Found; N],
}

impl<const N: usize> Default for Slb<N> {
    fn default() -> Self {
        Self::new()
    }
}

impl<const N: usize> Slb<N> {
    /// An empty SLB.
    #[must_use]
    pub const fn new() -> Self {
        Self { tags: [Tag::EMPTY; N], alone: [Tag::EMPTY; N], found: [Found::NONE; N] }
    }

    /// `slbmte`: writes the entry that `rb` names. An entry with V = 0 is empty. Reserved bits
    /// of `rb` and sizes that do not exist are refused, and reserved bits of `rs` are dropped, as
    /// by QEMU's MMU.
    ///
    /// # Errors
    /// [`SlbError`]; nothing was changed.
    pub fn slbmte(&mut self, rb: SlbEsid, rs: SlbVsid) -> Result<(), SlbError> {
        let index = rb.index();
        if usize::from(index) >= N {
            return Err(SlbError::Index { index });
        }
        if rb.reserved_37() != 0 {
            return Err(SlbError::Reserved);
        }
        let size = SegmentSize::of_b(rs.b()).ok_or(SlbError::SegmentSize)?;
        PageSize::of_llp(rs.l(), rs.lp()).ok_or(SlbError::PageSize)?;
        let (mask, esid) = span(size, SlbEsid::new().with_esid(rb.esid()).into_bits());
        match Segment::of_slb(rs) {
            Some(segment) if rb.v() => {
                let found = Found::new(segment, Gva::new(esid));
                self.set(usize::from(index), Tag { mask, esid }, found);
            }
            _ => self.set(usize::from(index), Tag::EMPTY, Found::NONE),
        }
        Ok(())
    }

    /// The words of entry `index`, as `slbmfee` and `slbmfev` read them (the index left out); zero
    /// if it is empty.
    #[must_use]
    pub fn entry(&self, index: usize) -> (SlbEsid, SlbVsid) {
        match (self.tags.get(index), self.found.get(index)) {
            (Some(tag), Some(found)) if *tag != Tag::EMPTY => {
                (SlbEsid::from_bits(tag.esid).with_v(true), found.segment.slb_word())
            }
            _ => (SlbEsid::new(), SlbVsid::new()),
        }
    }

    /// The segment in which `address` lies.
    ///
    /// # Errors
    /// [`NoSegment`].
    #[inline(always)]
    pub fn lookup(&self, address: Gva) -> Result<Segment, NoSegment> {
        match self.find(address) {
            Some(found) => Ok(found.segment),
            None => Err(self.missed(address)),
        }
    }

    /// As [`lookup`](Self::lookup), with what a search wants; [`missed`](Self::missed) says why
    /// there is nothing.
    #[inline(always)]
    pub(super) fn find(&self, address: Gva) -> Option<&Found> {
        // The first alone, so that what stands in a caller's loop is small.
        match (self.alone.first(), self.found.first()) {
            (Some(tag), Some(found)) if tag.fits(address) => Some(found),
            _ => self.find_further(address),
        }
    }

    #[inline(never)]
    fn find_further(&self, address: Gva) -> Option<&Found> {
        self.all_by(&self.alone, address).next().or_else(|| self.find_among_overlapping(address))
    }

    /// The entries with a tag in `tags` that fits.
    fn all_by<'s>(&'s self, tags: &'s [Tag; N], address: Gva) -> impl Iterator<Item = &'s Found> {
        let fitting = tags.iter().zip(&self.found).filter(move |(tag, _)| tag.fits(address));
        fitting.map(|(_, found)| found)
    }

    /// The one entry that is for `address`, where some overlap.
    #[cold]
    fn find_among_overlapping(&self, address: Gva) -> Option<&Found> {
        let mut all = self.all_by(&self.tags, address);
        all.next().filter(|_| all.next().is_none())
    }

    /// Why there is no segment for `address`.
    #[cold]
    pub(super) fn missed(&self, address: Gva) -> NoSegment {
        match self.all_by(&self.tags, address).next() {
            Some(_) => NoSegment::MultiHit,
            None => NoSegment::Miss,
        }
    }

    fn set(&mut self, index: usize, tag: Tag, found: Found) {
        if let (Some(old_tag), Some(old)) = (self.tags.get_mut(index), self.found.get_mut(index)) {
            let overlapped = *old_tag != self.alone[index];
            (*old_tag, *old) = (tag, found);
            self.alone[index] = tag;
            let others = || (0..N).filter(move |&other| other != index);
            if overlapped || others().any(|other| self.tags[other].overlaps(tag)) {
                self.find_overlaps();
            }
        }
    }

    /// Finds out anew which entries overlap.
    #[cold]
    fn find_overlaps(&mut self) {
        let tags = self.tags;
        for (index, tag) in tags.iter().enumerate() {
            let others = tags.iter().enumerate().filter(|&(other, _)| other != index);
            let overlaps = others.into_iter().any(|(_, other)| other.overlaps(*tag));
            self.alone[index] = if overlaps { Tag::EMPTY } else { *tag };
        }
    }

    /// `slbie`: drops the entry of the segment in which `address` lies.
    pub fn slbie(&mut self, address: Gva) {
        for index in 0..N {
            if self.tags[index].fits(address) {
                self.set(index, Tag::EMPTY, Found::NONE);
            }
        }
    }

    /// `slbia` (ISA v3.0B Book III 5.9.3.2): drops entries, as `ih` says.
    ///
    /// | IH | entries that go |
    /// | --- | --- |
    /// | 0, 1, 2, 6 | all but entry 0 |
    /// | 3 | those of class 1, entry 0 included |
    /// | 4 | all, entry 0 included |
    /// | 7 | none |
    ///
    /// In what else they drop, which is translations that a processor caches, 0 to 2, 6 and 7
    /// differ; an SLB alone has none.
    ///
    /// # Errors
    /// [`SlbError::Hint`] for any other value; nothing was changed. (QEMU takes 5 for 0.)
    pub fn slbia(&mut self, ih: u8) -> Result<(), SlbError> {
        let (first, class_1_only) = match ih {
            0 | 1 | 2 | 6 => (1, false),
            3 => (0, true),
            4 => (0, false),
            7 => (N, false),
            _ => return Err(SlbError::Hint { ih }),
        };
        for index in first..N {
            let class = self.found[index].segment.class;
            if class || !class_1_only {
                self.set(index, Tag::EMPTY, Found::NONE);
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SEGMENT: Segment = Segment {
        vsid: 0x123,
        size: SegmentSize::M256,
        base: PageSize::K4,
        ks: true,
        kp: true,
        n: false,
        class: true,
    };

    #[test]
    fn lookup_by_both_sizes() {
        let mut slb = Slb::<32>::new();
        let large = Segment { size: SegmentSize::T1, vsid: 7, ..SEGMENT };
        slb.slbmte(SlbEsid::from_bits(0x1000_0000).with_v(true).with_index(1), SEGMENT.slb_word())
            .unwrap();
        slb.slbmte(
            SlbEsid::from_bits(0xc000_0123_4000_0000).with_v(true).with_index(31),
            large.slb_word(),
        )
        .unwrap();
        for (address, want) in [
            (0x1000_0000, Ok(SEGMENT)),
            (0x1fff_ffff, Ok(SEGMENT)),
            (0x2000_0000, Err(NoSegment::Miss)),
            (0x0fff_ffff, Err(NoSegment::Miss)),
            (0xc000_0100_0000_0000, Ok(large)),
            (0xc000_01ff_ffff_ffff, Ok(large)),
            (0xc000_0200_0000_0000, Err(NoSegment::Miss)),
            (0, Err(NoSegment::Miss)),
            (u64::MAX, Err(NoSegment::Miss)),
        ] {
            assert_eq!(slb.lookup(Gva::new(address)), want, "{address:#x}");
        }
        assert_eq!(slb.entry(1), (SlbEsid::from_bits(0x1800_0000), SEGMENT.slb_word()));
        slb.slbie(Gva::new(0xc000_0100_0000_0000));
        assert_eq!(slb.lookup(Gva::new(0xc000_0100_0000_0000)), Err(NoSegment::Miss));
        slb.slbia(0).unwrap();
        assert_eq!(slb, Slb::new());
    }

    /// Against a list of what was entered, each with its first address and its size. Segments of 1
    /// TiB lie over segments of 256 MiB, and over one another.
    #[test]
    fn case_b12_as_a_list_of_segments() {
        let mut hits = [0; 3];
        let mut slb = Slb::<8>::new();
        let mut list: [Option<(u64, Segment)>; 8] = [None; 8];
        for step in 0..20_000_u64 {
            let random = step
                .wrapping_mul(0x9e37_79b9_7f4a_7c15)
                .rotate_left(23)
                .wrapping_mul(0xd6e8_feb8_6659_fd93);
            let (index, address) = (random as usize % 8, random >> 8 & 0x0003_0000_7000_0000);
            let size = if random & 0x80 == 0 { SegmentSize::M256 } else { SegmentSize::T1 };
            let segment =
                Segment { size, vsid: random >> 56, class: random & 0x40 != 0, ..SEGMENT };
            let start = |size: SegmentSize| address & !pgtable::low_bits(size.shift());
            let here = |entry: &Option<(u64, Segment)>| {
                entry.is_some_and(|(first, it)| start(it.size) == first)
            };
            match random >> 3 & 7 {
                0 => {
                    let ih = (random >> 60 & 7) as u8;
                    let kept = |index: usize, class: bool| match ih {
                        0 | 1 | 2 | 6 => index == 0,
                        3 => !class,
                        4 => false,
                        _ => true,
                    };
                    let error = SlbError::Hint { ih };
                    assert_eq!(slb.slbia(ih), if ih == 5 { Err(error) } else { Ok(()) });
                    for (index, entry) in list.iter_mut().enumerate() {
                        *entry = entry.filter(|(_, segment)| kept(index, segment.class));
                    }
                }
                1 | 2 => {
                    slb.slbie(Gva::new(address));
                    list.iter_mut().filter(|entry| here(entry)).for_each(|entry| *entry = None);
                }
                kind => {
                    let rb = SlbEsid::from_bits(address).with_v(kind != 3).with_index(index as u16);
                    slb.slbmte(rb, segment.slb_word()).unwrap();
                    list[index] = (kind != 3).then_some((start(size), segment));
                }
            }
            let mut all = list.iter().filter(|entry| here(entry)).flatten();
            let want = match (all.next(), all.next()) {
                (None, _) => Err(NoSegment::Miss),
                (Some(it), None) => Ok(it.1),
                _ => Err(NoSegment::MultiHit),
            };
            assert_eq!(slb.lookup(Gva::new(address)), want, "step {step}");
            hits[match want {
                Ok(_) => 0,
                Err(NoSegment::Miss) => 1,
                Err(NoSegment::MultiHit) => 2,
            }] += 1;
            for (index, entry) in list.iter().enumerate() {
                let want = entry.map_or((SlbEsid::new(), SlbVsid::new()), |(first, it)| {
                    (SlbEsid::from_bits(first).with_v(true), it.slb_word())
                });
                assert_eq!(slb.entry(index), want, "entry {index} after step {step}");
            }
        }
        assert!(hits.iter().all(|&count| count > 1000), "{hits:?}");
    }

    #[test]
    fn case_b17_each_hint_of_slbia() {
        for (ih, left) in [
            (0, [true, false, false]),
            (1, [true, false, false]),
            (2, [true, false, false]),
            (3, [false, true, false]),
            (4, [false, false, false]),
            (6, [true, false, false]),
            (7, [true, true, true]),
        ] {
            let mut slb = Slb::<4>::new();
            for (index, class) in [(0, true), (1, false), (2, true)] {
                let rb = SlbEsid::from_bits(u64::from(index) << 28).with_v(true).with_index(index);
                slb.slbmte(rb, Segment { class, ..SEGMENT }.slb_word()).unwrap();
            }
            slb.slbia(ih).unwrap();
            assert_eq!([0, 1, 2].map(|index| slb.entry(index).0.v()), left, "IH {ih}");
        }
        for ih in [5, 8, u8::MAX] {
            assert_eq!(Slb::<4>::new().slbia(ih), Err(SlbError::Hint { ih }));
        }
    }

    #[test]
    fn bad_words_are_refused() {
        let mut slb = Slb::<32>::new();
        let (rb, rs) = (SlbEsid::new().with_v(true), SEGMENT.slb_word());
        for (rb, rs, error) in [
            (rb.with_index(32), rs, SlbError::Index { index: 32 }),
            (rb.with_reserved_37(1), rs, SlbError::Reserved),
            (rb, rs.with_b(2), SlbError::SegmentSize),
            (rb, rs.with_b(3), SlbError::SegmentSize),
            (rb, rs.with_l(true).with_lp(3), SlbError::PageSize),
            (rb, rs.with_lp(1), SlbError::PageSize),
        ] {
            assert_eq!(slb.slbmte(rb, rs), Err(error));
        }
        assert_eq!(slb, Slb::new());
    }
}
