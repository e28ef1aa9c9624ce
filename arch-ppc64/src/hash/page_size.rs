//! Page sizes of hashed translation: the base size that a segment has, the actual size that a page
//! has, and how SLB and HPTE say them.

/// A page size of hashed translation.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum PageSize {
    /// 4 KiB.
    K4,
    /// 64 KiB.
    K64,
    /// 16 MiB.
    M16,
    /// 16 GiB. KVM does not offer it to guests.
    G16,
}

impl PageSize {
    /// All, ascending.
    pub const ALL: [Self; 4] = [Self::K4, Self::K64, Self::M16, Self::G16];

    /// The page of `2^shift` bytes, if there is one.
    #[inline]
    #[must_use]
    pub const fn of_shift(shift: u8) -> Option<Self> {
        match shift {
            12 => Some(Self::K4),
            16 => Some(Self::K64),
            24 => Some(Self::M16),
            34 => Some(Self::G16),
            _ => None,
        }
    }

    /// log2 of its size in bytes.
    #[inline]
    #[must_use]
    pub const fn shift(self) -> u8 {
        match self {
            Self::K4 => 12,
            Self::K64 => 16,
            Self::M16 => 24,
            Self::G16 => 34,
        }
    }

    /// Its size in bytes.
    #[inline]
    #[must_use]
    pub const fn bytes(self) -> u64 {
        1 << self.shift()
    }

    /// How an SLB entry names it as the base size of a segment: L, and LP.
    #[must_use]
    pub const fn llp(self) -> (bool, u8) {
        match self {
            Self::K4 => (false, 0),
            Self::K64 => (true, 1),
            Self::M16 => (true, 0),
            Self::G16 => (true, 2),
        }
    }

    /// The base size that an SLB entry with these L and LP names.
    #[must_use]
    pub const fn of_llp(l: bool, lp: u8) -> Option<Self> {
        match (l, lp) {
            (false, 0) => Some(Self::K4),
            (true, 1) => Some(Self::K64),
            (true, 0) => Some(Self::M16),
            (true, 2) => Some(Self::G16),
            _ => None,
        }
    }
}

/// A page of an actual size in a segment of a base size: one of the pairs that hardware knows.
///
/// | base \ actual | 4K | 64K | 16M | 16G |
/// | --- | --- | --- | --- | --- |
/// | 4K | L = 0 | LP 7 | LP 0x38 | |
/// | 64K | | LP 1 | LP 8 | |
/// | 16M | | | LP 0 | |
/// | 16G | | | | LP 3 |
///
/// (POWER8 User's Manual, table "page size encodings"; Linux's `mmu_psize_defs`.)
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct PageSizes {
    base: PageSize,
    actual: PageSize,
}

impl PageSizes {
    /// All pairs.
    pub const ALL: [Self; 7] = [
        Self { base: PageSize::K4, actual: PageSize::K4 },
        Self { base: PageSize::K4, actual: PageSize::K64 },
        Self { base: PageSize::K4, actual: PageSize::M16 },
        Self { base: PageSize::K64, actual: PageSize::K64 },
        Self { base: PageSize::K64, actual: PageSize::M16 },
        Self { base: PageSize::M16, actual: PageSize::M16 },
        Self { base: PageSize::G16, actual: PageSize::G16 },
    ];

    /// Pages of `actual` in a segment of `base`, if there are such.
    #[must_use]
    pub fn new(base: PageSize, actual: PageSize) -> Option<Self> {
        Self::ALL.into_iter().find(|it| it.base == base && it.actual == actual)
    }

    /// Pages of the segment's own size.
    #[must_use]
    pub const fn only(size: PageSize) -> Self {
        Self { base: size, actual: size }
    }

    /// The segment's size: the one by which addresses are hashed.
    #[inline]
    #[must_use]
    pub const fn base(self) -> PageSize {
        self.base
    }

    /// The page's own size.
    #[inline]
    #[must_use]
    pub const fn actual(self) -> PageSize {
        self.actual
    }

    /// What an HPTE says: LP, in its low bits of the real page number; `None` stands for L = 0.
    #[inline]
    #[must_use]
    pub const fn lp(self) -> Option<u8> {
        match (self.base, self.actual) {
            (PageSize::K4, PageSize::K64) => Some(7),
            (PageSize::K4, PageSize::M16) => Some(0x38),
            (PageSize::K64, PageSize::K64) => Some(1),
            (PageSize::K64, PageSize::M16) => Some(8),
            (PageSize::M16, _) => Some(0),
            (PageSize::G16, _) => Some(3),
            (PageSize::K4 | PageSize::K64, _) => None,
        }
    }

    /// The pair that an HPTE with this L and this low byte of its real page number names, whatever
    /// segment it is met in. Of 64 KiB pages four bits count, of larger ones eight.
    #[inline]
    #[must_use]
    pub const fn of_entry(l: bool, lp: u8) -> Option<Self> {
        let (base, actual) = match (l, lp & 15, lp >> 4) {
            (false, ..) => (PageSize::K4, PageSize::K4),
            (true, 0, 0) => (PageSize::M16, PageSize::M16),
            (true, 1, _) => (PageSize::K64, PageSize::K64),
            (true, 3, 0) => (PageSize::G16, PageSize::G16),
            (true, 7, _) => (PageSize::K4, PageSize::K64),
            (true, 8, 0) => (PageSize::K64, PageSize::M16),
            (true, 8, 3) => (PageSize::K4, PageSize::M16),
            _ => return None,
        };
        Some(Self { base, actual })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_pair_says_itself_and_no_other() {
        for sizes in PageSizes::ALL {
            assert_eq!(
                PageSizes::of_entry(sizes.lp().is_some(), sizes.lp().unwrap_or(0)),
                Some(sizes)
            );
            assert_eq!(PageSizes::new(sizes.base(), sizes.actual()), Some(sizes));
        }
        // Bits of the page number above the encoding do not matter: four bits of it for 64K pages,
        // eight for larger.
        for lp in 0..=255_u8 {
            let want = match lp {
                _ if lp & 15 == 7 => PageSizes::new(PageSize::K4, PageSize::K64),
                _ if lp & 15 == 1 => Some(PageSizes::only(PageSize::K64)),
                0x38 => PageSizes::new(PageSize::K4, PageSize::M16),
                8 => PageSizes::new(PageSize::K64, PageSize::M16),
                0 => Some(PageSizes::only(PageSize::M16)),
                3 => Some(PageSizes::only(PageSize::G16)),
                _ => None,
            };
            assert_eq!(PageSizes::of_entry(true, lp), want, "LP {lp:#x}");
            assert_eq!(PageSizes::of_entry(false, lp), Some(PageSizes::only(PageSize::K4)));
        }
        assert_eq!(PageSizes::new(PageSize::K64, PageSize::K4), None);
        assert_eq!(PageSizes::new(PageSize::M16, PageSize::G16), None);
    }

    #[test]
    fn base_sizes_in_the_slb() {
        for size in PageSize::ALL {
            let (l, lp) = size.llp();
            assert_eq!(PageSize::of_llp(l, lp), Some(size));
            assert_eq!(PageSize::of_shift(size.shift()), Some(size));
        }
        assert_eq!(
            (PageSize::of_llp(true, 3), PageSize::of_llp(false, 1), PageSize::of_shift(20)),
            (None, None, None)
        );
    }
}
