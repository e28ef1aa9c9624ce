//! Segments: the two words of an SLB entry (Power ISA v3.0B Book III 5.7.8.1), and what they say.

use bitfield_struct::bitfield;
use pgtable::low_bits;

use super::page_size::PageSize;

/// The size of a segment (field B).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum SegmentSize {
    /// 256 MiB.
    M256,
    /// 1 TiB.
    T1,
}

impl SegmentSize {
    /// log2 of its size in bytes.
    #[inline]
    #[must_use]
    pub const fn shift(self) -> u8 {
        match self {
            Self::M256 => 28,
            Self::T1 => 40,
        }
    }

    /// How many bits a VSID has: with the offset in the segment, a virtual address has 78.
    #[inline]
    #[must_use]
    pub const fn vsid_bits(self) -> u8 {
        78 - self.shift()
    }

    /// Field B.
    #[inline]
    #[must_use]
    pub const fn b(self) -> u8 {
        match self {
            Self::M256 => 0,
            Self::T1 => 1,
        }
    }

    /// The size that field B names; 0b1x is reserved.
    #[inline]
    #[must_use]
    pub const fn of_b(b: u8) -> Option<Self> {
        match b {
            0 => Some(Self::M256),
            1 => Some(Self::T1),
            _ => None,
        }
    }
}

/// The first word of an SLB entry, as `slbmte` takes it in RB: which effective addresses.
#[bitfield(u64, order = Msb)]
#[derive(PartialEq, Eq, Hash)]
pub struct SlbEsid {
    /// 0:35: Effective Segment ID. Of a 1T segment, bits 24:35 are ignored.
    #[bits(36)]
    pub esid: u64,
    /// 36: valid.
    pub v: bool,
    /// 37:51: reserved.
    #[bits(15)]
    pub reserved_37: u16,
    /// 52:63: which SLB entry.
    #[bits(12)]
    pub index: u16,
}

/// The second word of an SLB entry, as `slbmte` takes it in RS: which virtual segment, and how.
#[bitfield(u64, order = Msb)]
#[derive(PartialEq, Eq, Hash)]
pub struct SlbVsid {
    /// 0:1: segment size.
    #[bits(2)]
    pub b: u8,
    /// 2:51: Virtual Segment ID. Of a 1T segment it stands in bits 2:39.
    #[bits(50)]
    pub vsid: u64,
    /// 52: the storage key of privileged state.
    pub ks: bool,
    /// 53: the storage key of problem state.
    pub kp: bool,
    /// 54: no-execute.
    pub n: bool,
    /// 55: the base page size is not 4K.
    pub l: bool,
    /// 56: class, which selects what `slbia` and `slbie` drop.
    pub c: bool,
    /// 57: reserved.
    pub reserved_57: bool,
    /// 58:59: the base page size.
    #[bits(2)]
    pub lp: u8,
    /// 60:63: reserved.
    #[bits(4)]
    pub reserved_60: u8,
}

/// A virtual segment, as an SLB entry describes it.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Segment {
    /// The Virtual Segment ID, of [`SegmentSize::vsid_bits`] bits.
    pub vsid: u64,
    /// The size of the segment.
    pub size: SegmentSize,
    /// The base page size of the segment.
    pub base: PageSize,
    /// The storage key of privileged state.
    pub ks: bool,
    /// The storage key of problem state.
    pub kp: bool,
    /// Nothing is fetched from it.
    pub n: bool,
    /// The class.
    pub class: bool,
}

impl Segment {
    /// The segment that an SLB entry with this second word describes; `None` where B or the base
    /// page size is reserved.
    #[must_use]
    pub const fn of_slb(word: SlbVsid) -> Option<Self> {
        let (Some(size), Some(base)) =
            (SegmentSize::of_b(word.b()), PageSize::of_llp(word.l(), word.lp()))
        else {
            return None;
        };
        let vsid = word.vsid() >> (size.shift() - SegmentSize::M256.shift());
        Some(Self { vsid, size, base, ks: word.ks(), kp: word.kp(), n: word.n(), class: word.c() })
    }

    /// The second word of an SLB entry for it. VSID bits beyond the segment size's are cut off.
    #[must_use]
    pub const fn slb_word(self) -> SlbVsid {
        let (l, lp) = self.base.llp();
        let vsid = (self.vsid & low_bits(self.size.vsid_bits()))
            << (self.size.shift() - SegmentSize::M256.shift());
        SlbVsid::new()
            .with_b(self.size.b())
            .with_vsid(vsid)
            .with_ks(self.ks)
            .with_kp(self.kp)
            .with_n(self.n)
            .with_c(self.class)
            .with_l(l)
            .with_lp(lp)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Linux's names (`asm/book3s/64/mmu-hash.h`).
    #[test]
    fn bits_stand_where_linux_says() {
        for (name, word, want) in [
            ("SLB_VSID_KS", SlbVsid::new().with_ks(true), 0x800_u64),
            ("SLB_VSID_KP", SlbVsid::new().with_kp(true), 0x400),
            ("SLB_VSID_N", SlbVsid::new().with_n(true), 0x200),
            ("SLB_VSID_L", SlbVsid::new().with_l(true), 0x100),
            ("SLB_VSID_C", SlbVsid::new().with_c(true), 0x80),
            ("SLB_VSID_LP", SlbVsid::new().with_lp(3), 0x30),
            ("SLB_VSID_B_1T", SlbVsid::new().with_b(1), 0x4000_0000_0000_0000),
        ] {
            assert_eq!(word.into_bits(), want, "{name}");
        }
        assert_eq!(SlbEsid::new().with_v(true).into_bits(), 0x0800_0000, "SLB_ESID_V");
        assert_eq!(
            SlbEsid::new().with_esid(0xf_ffff_ffff).into_bits(),
            0xffff_ffff_f000_0000,
            "ESID_MASK"
        );
    }

    #[test]
    fn segments_as_words() {
        let kernel = Segment {
            vsid: 0x1ff_ffff,
            size: SegmentSize::T1,
            base: PageSize::K64,
            ks: false,
            kp: true,
            n: false,
            class: false,
        };
        let user = Segment {
            vsid: 0xf9_463f_51f7,
            size: SegmentSize::M256,
            ks: true,
            class: true,
            ..kernel
        };
        for (name, segment, want) in [
            ("VRMA: VRMA_VSID << 24 | B_1T | LLP", kernel, 0x4001_ffff_ff00_0510_u64),
            ("user, 256M: VSID << 12 | KS | KP | C", user, 0x000f_9463_f51f_7d90),
            ("16M base", Segment { base: PageSize::M16, ..kernel }, 0x4001_ffff_ff00_0500),
            ("16G base", Segment { base: PageSize::G16, ..kernel }, 0x4001_ffff_ff00_0520),
            ("4K base", Segment { base: PageSize::K4, ..kernel }, 0x4001_ffff_ff00_0400),
        ] {
            let word = segment.slb_word();
            assert_eq!(word.into_bits(), want, "{name}: {:#x}", word.into_bits());
            assert_eq!(Segment::of_slb(word), Some(segment), "{name}");
        }
        assert_eq!(Segment::of_slb(SlbVsid::new().with_b(2)), None);
        assert_eq!(Segment::of_slb(SlbVsid::new().with_l(true).with_lp(3)), None);
    }
}
