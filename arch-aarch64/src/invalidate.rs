//! What to execute so that stale translations become unreachable: TLBI operands and barriers, from
//! a [`Stale`].
//!
//! Data only: the instructions themselves are the embedder's, in its
//! [`Invalidate`](pgtable::invalidate::Invalidate). DDI 0487, D8.17 (TLB maintenance), C5.5 (the
//! operands).
//!
//! Inner Shareable forms reach every processor. The order is always [`Barrier::BEFORE`], the
//! operations, [`Barrier::AFTER`]; a second stage has more in between: see [`stage2`].

use core::iter::FusedIterator;

use bitfield_struct::bitfield;
use pgtable::invalidate::{Stale, StaleRange};
use pgtable::{Address, Level, low_bits};

use crate::shape::{Granule, arm_level};

/// A barrier of an invalidation.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Barrier {
    /// `dsb ishst`: stores to tables are seen by walks. Also owed after `map`, before hardware may
    /// rely on the new entry (D8.17.1).
    DsbIshst,
    /// `dsb ish`: the invalidation is complete on every processor.
    DsbIsh,
    /// `isb`: this processor's later instructions use new translations.
    Isb,
}

impl Barrier {
    /// Before the operations.
    pub const BEFORE: &'static [Self] = &[Self::DsbIshst];
    /// After the operations.
    pub const AFTER: &'static [Self] = &[Self::DsbIsh, Self::Isb];
    /// Between stage 2's operations by address and the one for combined translations.
    pub const BETWEEN: &'static [Self] = &[Self::DsbIsh];
}

/// The operand of TLBI operations for one address (C5.5).
#[bitfield(u64)]
#[derive(PartialEq, Eq, Hash)]
pub struct TlbiAddress {
    /// Bits 55:12 of the address.
    #[bits(44)]
    pub page: u64,
    /// TTL: the granule and the level of the leaf, 0 if unknown (FEAT_TTL).
    #[bits(4)]
    pub ttl: u8,
    /// The ASID, for operations of stage 1.
    pub asid: u16,
}

/// The operand of TLBI operations for a range of addresses (C5.5, FEAT_TLBIRANGE).
#[bitfield(u64)]
#[derive(PartialEq, Eq, Hash)]
pub struct TlbiRange {
    /// The first address by the granule's size; with LPA2 by 64 KiB.
    #[bits(37)]
    pub base: u64,
    /// TTL: the level of the leaves, 0 if unknown.
    #[bits(2)]
    pub ttl: u8,
    /// NUM: the range has (NUM + 1) × 2^(5 × SCALE + 1) granules.
    #[bits(5)]
    pub num: u8,
    /// SCALE.
    #[bits(2)]
    pub scale: u8,
    /// TG: 1 for 4 KiB, 2 for 16 KiB, 3 for 64 KiB.
    #[bits(2)]
    pub tg: u8,
    /// The ASID, for operations of stage 1.
    pub asid: u16,
}

/// One TLBI operation and its operand. Names are those of the Inner Shareable forms; for the EL2
/// regimes read E2 for E1 (EL2&0 has both).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Tlbi {
    /// VAE1IS: an address of one ASID, table entries on the way included; VALE1IS, if `last`.
    Va {
        /// The operand.
        operand: TlbiAddress,
        /// Only the last level's entry changed.
        last: bool,
    },
    /// VAAE1IS, VAALE1IS: an address of all ASIDs.
    VaAllAsids {
        /// The operand.
        operand: TlbiAddress,
        /// Only the last level's entry changed.
        last: bool,
    },
    /// RVAE1IS, RVALE1IS: a range of one ASID.
    VaRange {
        /// The operand.
        operand: TlbiRange,
        /// Only last levels' entries changed.
        last: bool,
    },
    /// RVAAE1IS, RVAALE1IS: a range of all ASIDs.
    VaRangeAllAsids {
        /// The operand.
        operand: TlbiRange,
        /// Only last levels' entries changed.
        last: bool,
    },
    /// ASIDE1IS: everything of one ASID that is not global; the ASID stands in bits 63:48.
    Asid(TlbiAddress),
    /// VMALLE1IS: all of stage 1 (with stage 2 combined) of the current VMID.
    VmAllE1,
    /// IPAS2E1IS, IPAS2LE1IS: stage 2's translation of a guest-physical address, for the current
    /// VMID.
    Ipa {
        /// The operand: bits 51:12 of the address; no ASID.
        operand: TlbiAddress,
        /// Only the last level's entry changed.
        last: bool,
    },
    /// RIPAS2E1IS, RIPAS2LE1IS: a range of guest-physical addresses.
    IpaRange {
        /// The operand.
        operand: TlbiRange,
        /// Only last levels' entries changed.
        last: bool,
    },
    /// VMALLS12E1IS: both stages of the current VMID.
    VmAllS12,
}

/// Whose translations stage 1's operations name.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Asids {
    /// Those of one ASID, none of which is global.
    One(u16),
    /// Those of all: global ones, and what several address spaces share.
    All,
}

/// What the processor has for invalidations.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct TlbiFeatures {
    /// The granule of the tree.
    pub granule: Granule,
    /// FEAT_TTL: operands name the level of the leaf.
    pub ttl: bool,
    /// FEAT_TLBIRANGE: operations by range.
    pub ranges: bool,
    /// The tree has 52-bit addresses by LPA2 (TCR.DS): bases of ranges are in units of 64 KiB.
    pub ds: bool,
    /// More operations than this become one for everything.
    pub ceiling: u64,
}

impl TlbiFeatures {
    /// Linux's `MAX_DVM_OPS`: as many operations as a table has entries.
    pub const CEILING: u64 = 512;

    /// Operations by page, without level hints.
    #[must_use]
    pub const fn new(granule: Granule) -> Self {
        Self { granule, ttl: false, ranges: false, ds: false, ceiling: Self::CEILING }
    }

    /// TG: the granule in operands.
    const fn tg(self) -> u8 {
        match self.granule {
            Granule::K4 => 1,
            Granule::K16 => 2,
            Granule::K64 => 3,
        }
    }

    /// log2 of the entry that a leaf of `2^shift` bytes is made of: less, if the leaf is a group of
    /// contiguous entries, each of which may be cached alone.
    const fn entry(self, shift: u8) -> u8 {
        let above = shift.saturating_sub(self.granule.shift());
        self.granule.shift() + above / self.granule.stride() * self.granule.stride()
    }

    /// The level of leaves of `2^shift` bytes in Arm's numbering; 0 if it has no hint: level 0
    /// itself, with 16-KiB granules level 1, or no leaf of that size.
    const fn level(self, shift: u8) -> u8 {
        let mut level = 0;
        while level < 4 {
            if self.granule.shift() + self.granule.stride() * level == shift {
                let arm = arm_level(Level(level));
                let hinted = arm > 0 && !(matches!(self.granule, Granule::K16) && arm == 1);
                return if hinted { arm as u8 } else { 0 };
            }
            level += 1;
        }
        0
    }

    /// The operand for the page of `2^shift` bytes at `address`.
    const fn address(self, address: u64, shift: u8, asid: u16) -> TlbiAddress {
        let level = if self.ttl { self.level(shift) } else { 0 };
        let ttl = if level == 0 { 0 } else { self.tg() << 2 | level };
        TlbiAddress::new().with_page(address >> 12 & low_bits(44)).with_ttl(ttl).with_asid(asid)
    }

    /// A range by entries: its first address, its granules, log2 of its entries.
    fn stretch<A: Address>(self, range: &StaleRange<A>) -> (u64, u64, u8) {
        let granule = self.granule.shift();
        let first = range.start.get() & !low_bits(granule);
        let bytes = range.last.get().saturating_sub(first);
        let last = 1u64.checked_shl(range.shift.saturating_sub(granule).into()).unwrap_or(1);
        (first, (bytes >> granule).saturating_add(last), self.entry(range.shift))
    }

    /// Whether operations by range take several pages of `page` granules each, of so many granules.
    const fn by_range(self, granules: u64, page: u64) -> bool {
        self.ranges && granules > page && page < MOST_GRANULES
    }

    /// How many operations the pages of `range` take.
    fn count<A: Address>(self, range: &StaleRange<A>) -> u64 {
        let (_, granules, shift) = self.stretch(range);
        let page = 1 << (shift - self.granule.shift());
        let pages = granules / page;
        if !self.by_range(granules, page) {
            return pages;
        }
        // What is left of whole ranges takes one operation of each scale and one for a single
        // granule, and with LPA2 up to 15 before the first multiple of 64 KiB.
        pages.min(granules / MOST_GRANULES + if self.ds { 20 } else { 5 })
    }
}

/// The most granules that an operation by range takes: NUM = 31, SCALE = 3.
const MOST_GRANULES: u64 = 1 << 21;

/// The addresses and ranges of a gather as operands.
#[derive(Clone, Debug)]
struct Operands<'s, A> {
    ranges: core::slice::Iter<'s, StaleRange<A>>,
    /// What is left of the range that was begun: first address, granules, shift.
    rest: Option<(u64, u64, u8)>,
    features: TlbiFeatures,
    asid: u16,
}

/// One address or one range.
enum Operand {
    Address(TlbiAddress),
    Range(TlbiRange),
}

impl<A: Address> Iterator for Operands<'_, A> {
    type Item = Operand;

    fn next(&mut self) -> Option<Operand> {
        let features = self.features;
        let granule = features.granule.shift();
        let (address, granules, shift) = match self.rest.take() {
            Some(rest) => rest,
            None => features.stretch(self.ranges.next()?),
        };
        let page = 1u64 << (shift - granule);
        let mut operand = Operand::Address(features.address(address, shift, self.asid));
        let mut done = page.min(granules);
        if features.by_range(granules, page) {
            // The base of a range is a multiple of 64 KiB with LPA2.
            let unit = if features.ds { 16 } else { granule };
            let aligned = address & low_bits(unit) == 0;
            if let Some((scale, num)) = scale_and_num(granules).filter(|_| aligned) {
                let level = if features.ttl { features.level(shift) } else { 0 };
                done = (u64::from(num) + 1) << (5 * scale + 1);
                operand = Operand::Range(
                    TlbiRange::new()
                        .with_base(address >> unit & low_bits(37))
                        .with_ttl(level)
                        .with_num(num)
                        .with_scale(scale)
                        .with_tg(features.tg())
                        .with_asid(self.asid),
                );
            }
        }
        if done < granules {
            let next = address.wrapping_add(done << granule);
            self.rest = Some((next, granules - done, shift));
        }
        Some(operand)
    }
}

impl<A: Address> FusedIterator for Operands<'_, A> {}

/// The largest SCALE and NUM that do not reach beyond `granules`; `None` for a single granule.
fn scale_and_num(granules: u64) -> Option<(u8, u8)> {
    (0..4u8).rev().find_map(|scale| {
        let unit = 1u64 << (5 * scale + 1);
        let count = (granules / unit).min(32);
        count.checked_sub(1).map(|num| (scale, num as u8))
    })
}

/// The operands of `stale`, if they are no more than the ceiling and there is no table among what
/// left the tree that the operations would not name.
fn operands<A: Address>(
    stale: &Stale<A>,
    features: TlbiFeatures,
    asid: u16,
) -> Option<Operands<'_, A>> {
    let count = |sum: u64, range| sum.saturating_add(features.count(range));
    let fits = stale.ranges().iter().fold(0, count) <= features.ceiling;
    // Tables that left the tree without a stale range can be anywhere.
    let nowhere = stale.tables() && stale.ranges().is_empty();
    (!stale.everything() && fits && !nowhere).then(|| Operands {
        ranges: stale.ranges().iter(),
        rest: None,
        features,
        asid,
    })
}

/// The operations that make stage 1's `stale` translations of `asids` unreachable.
pub fn stage1<A: Address>(
    stale: &Stale<A>,
    asids: Asids,
    features: TlbiFeatures,
) -> impl Iterator<Item = Tlbi> {
    let last = !stale.tables();
    let asid = match asids {
        Asids::One(asid) => asid,
        Asids::All => 0,
    };
    let some = operands(stale, features, asid);
    let whole = (some.is_none() && !stale.is_empty()).then_some(match asids {
        Asids::One(asid) => Tlbi::Asid(TlbiAddress::new().with_asid(asid)),
        Asids::All => Tlbi::VmAllE1,
    });
    let one = matches!(asids, Asids::One(_));
    some.into_iter()
        .flatten()
        .map(move |operand| match (operand, one) {
            (Operand::Address(operand), true) => Tlbi::Va { operand, last },
            (Operand::Address(operand), false) => Tlbi::VaAllAsids { operand, last },
            (Operand::Range(operand), true) => Tlbi::VaRange { operand, last },
            (Operand::Range(operand), false) => Tlbi::VaRangeAllAsids { operand, last },
        })
        .chain(whole)
}

/// The operations that make stage 2's `stale` translations unreachable for the VMID in VTTBR_EL2.
///
/// The first part are those by address, and the second one is VMALLE1IS, which drops what
/// processors combined of both stages (D8.17.6.1); [`Barrier::BETWEEN`] is owed between them. Where
/// the first part is empty, the second one is VMALLS12E1IS, which does for everything and needs
/// nothing before it. `None`: nothing is stale.
pub fn stage2<A: Address>(
    stale: &Stale<A>,
    features: TlbiFeatures,
) -> (impl Iterator<Item = Tlbi>, Option<Tlbi>) {
    let last = !stale.tables();
    let some = operands(stale, features, 0);
    let combined = match (&some, stale.is_empty()) {
        (_, true) => None,
        (Some(_), false) => Some(Tlbi::VmAllE1),
        (None, false) => Some(Tlbi::VmAllS12),
    };
    let by_address = some.into_iter().flatten().map(move |operand| match operand {
        Operand::Address(operand) => Tlbi::Ipa { operand, last },
        Operand::Range(operand) => Tlbi::IpaRange { operand, last },
    });
    (by_address, combined)
}
