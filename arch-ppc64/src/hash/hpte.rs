//! The two doublewords of a hashed page table entry (HPTE), in both layouts.
//!
//! Hypercalls, KVM's stream and this crate's interfaces speak the older layout ([`HpteV`],
//! [`HpteR`]; ISA v2.07 Book III-S 5.7.7.1). Processors of ISA v3.0 read tables in the newer
//! ([`HpteV3`], [`HpteR3`]; v3.0B Book III 5.7.9.1), where the segment size has moved from the
//! first doubleword to the second. [`Layout`] converts.

use bitfield_struct::bitfield;

use super::page_size::PageSizes;

/// The first doubleword, as before ISA v3.0 and in hypercalls.
#[bitfield(u64, order = Msb)]
#[derive(PartialEq, Eq, Hash)]
pub struct HpteV {
    /// 0:1: segment size.
    #[bits(2)]
    pub b: u8,
    /// 2:56: Abbreviated Virtual Page Number: the virtual address in units of 8 MiB; bits below the
    /// segment's base page size are zero.
    #[bits(55)]
    pub avpn: u64,
    /// 57 (software): somebody changes the entry. KVM's HVLOCK.
    pub hvlock: bool,
    /// 58 (software): changed since the last incremental read. (KVM has its ABSENT here, and no
    /// guest ever sees either.)
    pub modified: bool,
    /// 59 (software): Linux's BOLTED, an entry that is not evicted.
    pub bolted: bool,
    /// 60 (software): Linux's own lock bit.
    pub lock: bool,
    /// 61: large page; the second doubleword's LP says how large.
    pub l: bool,
    /// 62: the entry stands in its secondary group.
    pub h: bool,
    /// 63: valid.
    pub v: bool,
}

/// The first doubleword in the layout of ISA v3.0.
#[bitfield(u64, order = Msb)]
#[derive(PartialEq, Eq, Hash)]
pub struct HpteV3 {
    /// 0:11: reserved.
    #[bits(12)]
    pub reserved_0: u16,
    /// 12:56: AVPN, of which ten bits fewer are left.
    #[bits(45)]
    pub avpn: u64,
    /// 57:60: software bits.
    #[bits(4)]
    pub software: u8,
    /// 61: large page.
    pub l: bool,
    /// 62: secondary group.
    pub h: bool,
    /// 63: valid.
    pub v: bool,
}

/// The second doubleword, as before ISA v3.0 and in hypercalls.
#[bitfield(u64, order = Msb)]
#[derive(PartialEq, Eq, Hash)]
pub struct HpteR {
    /// 0: the upper bit of the page protection.
    pub pp0: bool,
    /// 1: tags; KVM keeps a bit of its own here and never shows it.
    pub ts: bool,
    /// 2:3: the upper bits of the virtual page class key.
    #[bits(2)]
    pub key_high: u8,
    /// 4:51: Abbreviated Real Page Number in units of 4 KiB, and in its low bits LP if the page is
    /// large.
    #[bits(48)]
    pub rpn: u64,
    /// 52:54: the lower bits of the key.
    #[bits(3)]
    pub key_low: u8,
    /// 55: Reference.
    pub r: bool,
    /// 56: Change.
    pub c: bool,
    /// 57: Write through.
    pub w: bool,
    /// 58: caching Inhibited.
    pub i: bool,
    /// 59: Memory coherence required.
    pub m: bool,
    /// 60: Guarded.
    pub g: bool,
    /// 61: No execute.
    pub n: bool,
    /// 62:63: the lower bits of the page protection.
    #[bits(2)]
    pub pp: u8,
}

/// The second doubleword in the layout of ISA v3.0.
#[bitfield(u64, order = Msb)]
#[derive(PartialEq, Eq, Hash)]
pub struct HpteR3 {
    /// 0: the upper bit of the page protection.
    pub pp0: bool,
    /// 1: tags.
    pub ts: bool,
    /// 2:3: the upper bits of the key.
    #[bits(2)]
    pub key_high: u8,
    /// 4:5: segment size.
    #[bits(2)]
    pub b: u8,
    /// 6:51: real page number and LP.
    #[bits(46)]
    pub rpn: u64,
    /// 52:63: as in [`HpteR`].
    #[bits(12)]
    pub low: u16,
}

impl HpteV {
    /// The lock bit.
    pub(crate) const HVLOCK: u64 = Self::new().with_hvlock(true).into_bits();
    /// The change bit of incremental reading.
    pub(crate) const MODIFIED: u64 = Self::new().with_modified(true).into_bits();
    /// V.
    pub(crate) const V: u64 = Self::new().with_v(true).into_bits();
    /// L.
    pub(crate) const L: u64 = Self::new().with_l(true).into_bits();
    /// H.
    pub(crate) const H: u64 = Self::new().with_h(true).into_bits();
    /// The bits that are this crate's own, which nobody else sees or sets.
    pub(crate) const OWN: u64 = Self::HVLOCK | Self::MODIFIED;
    /// Segment size and AVPN: what an AVPN argument of a hypercall is compared with.
    pub(crate) const PAGE: u64 =
        Self::new().with_b(3).with_avpn((1 << Self::AVPN_BITS) - 1).into_bits();
    /// What a search compares: segment size, AVPN, H, V.
    pub(crate) const SEARCH: u64 = Self::PAGE | Self::H | Self::V;

    /// The entry of this segment size and AVPN, of which as many bits count as the field has, and
    /// nothing else.
    pub(crate) const fn of_page(b: u8, avpn: u64) -> Self {
        Self::new().with_b(b & 3).with_avpn(avpn & ((1 << Self::AVPN_BITS) - 1))
    }

    /// The same without the bits that are this crate's own.
    #[must_use]
    pub const fn visible(self) -> Self {
        Self::from_bits(self.into_bits() & !Self::OWN)
    }
}

impl HpteR {
    /// The page at `real`, and nothing else. Bits of the address that the field does not have are
    /// cut off.
    pub(crate) const fn of_page(real: u64) -> Self {
        Self::new().with_rpn(real >> 12 & ((1 << Self::RPN_BITS) - 1))
    }

    /// The page protection, all three bits.
    #[inline]
    #[must_use]
    pub const fn protection(self) -> u8 {
        (self.pp0() as u8) << 2 | self.pp()
    }

    /// The same with this page protection, of which three bits count.
    #[must_use]
    pub const fn with_protection(self, pp: u8) -> Self {
        self.with_pp0(pp & 4 != 0).with_pp(pp & 3)
    }

    /// The virtual page class key.
    #[inline]
    #[must_use]
    pub const fn key(self) -> u8 {
        self.key_high() << 3 | self.key_low()
    }

    /// The same with this key, of which five bits count.
    #[must_use]
    pub const fn with_key(self, key: u8) -> Self {
        self.with_key_high(key >> 3 & 3).with_key_low(key & 7)
    }

    /// The address of the page, of these sizes.
    #[inline]
    #[must_use]
    pub const fn page(self, sizes: PageSizes) -> u64 {
        (self.rpn() << 12) & !pgtable::low_bits(sizes.actual().shift())
    }

    /// The same with LP for these sizes; those bits of the page number must be zero before.
    #[must_use]
    pub const fn with_sizes(self, sizes: PageSizes) -> Self {
        match sizes.lp() {
            Some(lp) => self.with_rpn(self.rpn() | lp as u64),
            None => self,
        }
    }
}

/// An entry, as hypercalls and streams have it.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct Hpte {
    /// The first doubleword.
    pub v: HpteV,
    /// The second doubleword.
    pub r: HpteR,
}

impl Hpte {
    /// The page sizes that it names; `None` if there are none such.
    #[inline]
    #[must_use]
    pub const fn sizes(self) -> Option<PageSizes> {
        PageSizes::of_entry(self.v.l(), self.r.rpn() as u8)
    }
}

/// In which layout entries stand in a table's memory.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub enum Layout {
    /// Before ISA v3.0.
    V2,
    /// ISA v3.0: POWER9, POWER10.
    #[default]
    V3,
}

impl Layout {
    /// The doublewords of `hpte` as they stand in memory (but for the byte order). What the layout
    /// has no room for is cut off: [`holds`](Self::holds).
    #[inline]
    #[must_use]
    pub const fn encode(self, hpte: Hpte) -> [u64; 2] {
        match self {
            Self::V2 => [hpte.v.into_bits(), hpte.r.into_bits()],
            Self::V3 => {
                let v = hpte.v.into_bits() & Self::COMMON;
                [v, HpteR3::from_bits(hpte.r.into_bits()).with_b(hpte.v.b()).into_bits()]
            }
        }
    }

    /// Whether the layout has room for all that `hpte` says: of ISA v3.0 a virtual address of 68
    /// bits, and a real page number whose upper two bits, in the place of B, are zero.
    ///
    /// ```
    /// use pgtable_ppc64::hash::{Hpte, HpteR, HpteV, Layout};
    ///
    /// let page = Hpte { v: HpteV::from_bits(1), r: HpteR::from_bits(1 << 58 | 0x1010) };
    /// assert!(Layout::V2.holds(page) && !Layout::V3.holds(page));
    /// ```
    #[inline]
    #[must_use]
    pub const fn holds(self, hpte: Hpte) -> bool {
        let Hpte { v, r } = self.decode(self.encode(hpte));
        v.into_bits() == hpte.v.into_bits() && r.into_bits() == hpte.r.into_bits()
    }

    /// The entry whose doublewords stand in memory like this.
    #[inline]
    #[must_use]
    pub const fn decode(self, [v, r]: [u64; 2]) -> Hpte {
        match self {
            Self::V2 => Hpte { v: HpteV::from_bits(v), r: HpteR::from_bits(r) },
            Self::V3 => {
                let b = HpteR3::from_bits(r).b();
                let r = HpteR::from_bits(HpteR3::from_bits(r).with_b(0).into_bits());
                Hpte { v: HpteV::from_bits(v & Self::COMMON).with_b(b), r }
            }
        }
    }

    /// The bits of a first doubleword that memory holds in this layout, of those in `mask`.
    #[inline]
    pub(crate) const fn stored(self, mask: u64) -> u64 {
        match self {
            Self::V2 => mask,
            Self::V3 => mask & Self::COMMON,
        }
    }

    /// Whether the layout has room for the virtual address in `v`.
    #[inline(always)]
    pub(crate) const fn reaches(self, v: HpteV) -> bool {
        const LOST: u64 = !Layout::COMMON & !HpteV::new().with_b(3).into_bits();
        match self {
            Self::V2 => true,
            Self::V3 => v.into_bits() & LOST == 0,
        }
    }

    /// As [`encode`](Self::encode), if the layout has room for the virtual address.
    #[inline(always)]
    pub(crate) const fn encode_whole(self, hpte: Hpte) -> Option<[u64; 2]> {
        match self {
            Self::V3 if !self.reaches(hpte.v) => None,
            _ => Some(self.encode(hpte)),
        }
    }

    /// What both layouts have in their first doubleword.
    const COMMON: u64 =
        !HpteV3::new().with_reserved_0((1 << HpteV3::RESERVED_0_BITS) - 1).into_bits();
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn bits_stand_where_linux_says() {
        let (v, r) = (HpteV::new, HpteR::new);
        for (name, word, want) in [
            ("HPTE_V_SSIZE_SHIFT", v().with_b(3), 0xc000_0000_0000_0000_u64),
            ("HPTE_V_AVPN", v().with_avpn((1 << 55) - 1), 0x3fff_ffff_ffff_ff80),
            ("HPTE_V_HVLOCK", v().with_hvlock(true), 0x40),
            ("HPTE_V_ABSENT", v().with_modified(true), 0x20),
            ("HPTE_V_BOLTED", v().with_bolted(true), 0x10),
            ("HPTE_V_LOCK", v().with_lock(true), 8),
            ("HPTE_V_LARGE", v().with_l(true), 4),
            ("HPTE_V_SECONDARY", v().with_h(true), 2),
            ("HPTE_V_VALID", v().with_v(true), 1),
        ] {
            assert_eq!(word.into_bits(), want, "{name}");
        }
        for (name, word, want) in [
            ("HPTE_R_PP0", r().with_pp0(true), 0x8000_0000_0000_0000_u64),
            ("HPTE_R_TS", r().with_ts(true), 0x4000_0000_0000_0000),
            ("HPTE_R_KEY_HI", r().with_key_high(3), 0x3000_0000_0000_0000),
            ("HPTE_R_RPN", r().with_rpn((1 << 48) - 1), 0x0fff_ffff_ffff_f000),
            ("HPTE_R_KEY_LO", r().with_key_low(7), 0xe00),
            ("HPTE_R_R", r().with_r(true), 0x100),
            ("HPTE_R_C", r().with_c(true), 0x80),
            ("HPTE_R_W", r().with_w(true), 0x40),
            ("HPTE_R_I", r().with_i(true), 0x20),
            ("HPTE_R_M", r().with_m(true), 0x10),
            ("HPTE_R_G", r().with_g(true), 8),
            ("HPTE_R_N", r().with_n(true), 4),
            ("HPTE_R_PP", r().with_pp(3), 3),
            ("protection 6", r().with_protection(6), 0x8000_0000_0000_0002),
            ("key 31", r().with_key(31), 0x3000_0000_0000_0e00),
        ] {
            assert_eq!(word.into_bits(), want, "{name}");
        }
        assert_eq!(HpteR3::new().with_b(3).into_bits(), 3 << 58, "HPTE_R_3_0_SSIZE_SHIFT");
        assert_eq!(Layout::COMMON, 0x000f_ffff_ffff_ffff, "HPTE_V_COMMON_BITS");
    }

    #[test]
    fn kvms_real_mode_entry() {
        let hpte =
            Hpte { v: HpteV::from_bits(0x4001_ffff_ff00_03d5), r: HpteR::from_bits(0x3ff_1190) };
        assert_eq!(hpte.sizes(), Some(PageSizes::only(crate::hash::PageSize::K64)));
        assert_eq!((hpte.v.b(), hpte.v.bolted(), hpte.v.h()), (1, true, false));
        assert_eq!(
            (hpte.r.page(hpte.sizes().unwrap()), hpte.r.r(), hpte.r.m()),
            (0x3ff_0000, true, true)
        );
        assert_eq!(Layout::V3.encode(hpte), [0x0001_ffff_ff00_03d5, 0x0400_0000_03ff_1190]);
    }

    proptest! {
        #[test]
        fn layouts_convert_both_ways(v: u64, r: u64) {
            // As Linux's hpte_old_to_new_v, _r and hpte_new_to_old_v, _r.
            let [v3, r3] = Layout::V3.encode(Hpte { v: v.into(), r: r.into() });
            prop_assert_eq!(v3, v & 0x000f_ffff_ffff_ffff);
            prop_assert_eq!(r3, (r & !(3 << 58)) | (v >> 62) << 58);
            let old = Layout::V3.decode([v, r]);
            prop_assert_eq!(old.v.into_bits(), (v & 0x000f_ffff_ffff_ffff) | (r & 3 << 58) << 4);
            prop_assert_eq!(old.r.into_bits(), r & !(3 << 58));
            // What v3.0 can hold at all survives.
            let fits = Hpte { v: HpteV::from_bits(v & 0xc00f_ffff_ffff_ffff), r: HpteR::from_bits(r & !(3 << 58)) };
            prop_assert_eq!(Layout::V3.decode(Layout::V3.encode(fits)), fits);
            prop_assert_eq!(Layout::V2.decode([v, r]), Hpte { v: v.into(), r: r.into() });
            prop_assert_eq!(Layout::V2.encode(Layout::V2.decode([v, r])), [v, r]);
        }
    }
}
