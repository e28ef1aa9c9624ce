//! The software page word (Linux's PTE, `asm/book3s/64/{pgtable,hash-4k,hash-64k}.h`): what a page
//! is, and where its entry stands.
//!
//! It is the radix leaf's word, with some more bits in software's hands; 4K and 64K pages put them
//! in different places.

use bitfield_struct::bitfield;
use pgtable::low_bits;

use super::attributes::HashAttributes;
use super::pages::Pages;
use crate::hash::order::Hidx;
use crate::radix::{Att, Eaa};

/// The word of a 4K page.
#[bitfield(u64, order = Msb)]
#[derive(PartialEq, Eq, Hash)]
pub struct Pte4K {
    /// 0 `_PAGE_PRESENT`
    pub v: bool,
    /// 1 `_PAGE_PTE`: a page, not a table.
    pub l: bool,
    /// 2: software bit 0.
    pub sw0: bool,
    /// 3 `H_PAGE_HASHPTE`: it may have entries in the hashed table.
    pub hashpte: bool,
    /// 4:6: the key.
    #[bits(3)]
    pub key: u8,
    /// 7 `H_PAGE_F_SECOND`: its entry is in the secondary group.
    pub f_second: bool,
    /// 8:10 `H_PAGE_F_GIX`: its entry's place in the group.
    #[bits(3)]
    pub f_gix: u8,
    /// 11:51: real page number in units of 4 KiB.
    #[bits(41)]
    pub rpn: u64,
    /// 52:54: software bits 1 to 3.
    #[bits(3)]
    pub sw: u8,
    /// 55: referenced.
    pub r: bool,
    /// 56: changed.
    pub c: bool,
    /// 57 `H_PAGE_BUSY`: somebody makes its entry.
    pub busy: bool,
    /// 58:59: kind of storage.
    #[bits(2)]
    pub att: Att,
    /// 60:63: access authority.
    #[bits(4)]
    pub eaa: Eaa,
}

/// The word of a 64K or 16M page. Where its entries stand is kept elsewhere.
#[bitfield(u64, order = Msb)]
#[derive(PartialEq, Eq, Hash)]
pub struct Pte64K {
    /// 0 `_PAGE_PRESENT`
    pub v: bool,
    /// 1 `_PAGE_PTE`: a page, not a table.
    pub l: bool,
    /// 2: software bit 0.
    pub sw0: bool,
    /// 3:7: the key.
    #[bits(5)]
    pub key: u8,
    /// 8 `H_PAGE_HASHPTE`: it may have entries in the hashed table.
    pub hashpte: bool,
    /// 9:47: real page number in units of 64 KiB.
    #[bits(39)]
    pub rpn: u64,
    /// 48:51: of these, `H_PAGE_COMBO` is the last: its entries are of 4K.
    #[bits(4)]
    pub combo: u8,
    /// 52:54: software bits 1 to 3.
    #[bits(3)]
    pub sw: u8,
    /// 55: referenced.
    pub r: bool,
    /// 56: changed.
    pub c: bool,
    /// 57 `H_PAGE_BUSY`: somebody makes its entries.
    pub busy: bool,
    /// 58:59: kind of storage.
    #[bits(2)]
    pub att: Att,
    /// 60:63: access authority.
    #[bits(4)]
    pub eaa: Eaa,
}

/// `H_PAGE_BUSY`, in both.
pub(crate) const BUSY: u64 = Pte64K::new().with_busy(true).into_bits();
/// Present, in both.
pub(crate) const V: u64 = Pte64K::new().with_v(true).into_bits();
/// Referenced, in both.
pub(crate) const R: u64 = Pte64K::new().with_r(true).into_bits();
/// Changed, in both.
pub(crate) const C: u64 = Pte64K::new().with_c(true).into_bits();

const RPN_4K: u64 = Pte4K::new().with_rpn((1 << Pte4K::RPN_BITS) - 1).into_bits();
const RPN_64K: u64 = Pte64K::new().with_rpn((1 << Pte64K::RPN_BITS) - 1).into_bits();

impl Pages {
    /// The bits of a page word that say where a page of `2^shift` bytes is.
    #[inline]
    pub(crate) const fn rpn(self, shift: u8) -> u64 {
        let all = match self {
            Self::K4 => RPN_4K,
            Self::K64 | Self::K64In4K => RPN_64K,
        };
        all & !low_bits(shift)
    }

    /// `H_PAGE_HASHPTE`.
    #[inline]
    pub(crate) const fn hashpte(self) -> u64 {
        match self {
            Self::K4 => Pte4K::new().with_hashpte(true).into_bits(),
            Self::K64 | Self::K64In4K => Pte64K::new().with_hashpte(true).into_bits(),
        }
    }

    /// All bits that say something about entries: with them zero it has none.
    #[inline]
    pub(crate) const fn hashed(self) -> u64 {
        match self {
            Self::K4 => {
                Pte4K::new().with_hashpte(true).with_f_second(true).with_f_gix(7).into_bits()
            }
            Self::K64 => self.hashpte(),
            Self::K64In4K => Pte64K::new().with_hashpte(true).with_combo(1).into_bits(),
        }
    }

    /// What a page word says about entries once one was made, at `at`.
    #[inline]
    pub(crate) const fn hashed_at(self, at: Hidx) -> u64 {
        match self {
            Self::K4 => {
                let word = Pte4K::new().with_hashpte(true).with_f_second(at.secondary());
                word.with_f_gix(at.slot() as u8).into_bits()
            }
            Self::K64 | Self::K64In4K => self.hashed(),
        }
    }

    /// Where the entry of a 4K page stands.
    #[inline]
    pub(crate) const fn slot_in(word: u64) -> Option<Hidx> {
        let pte = Pte4K::from_bits(word);
        if pte.hashpte() { Some(Hidx::new(pte.f_second(), pte.f_gix() as usize)) } else { None }
    }

    /// The word of a page at 0 with these attributes; `None` if they do not fit.
    pub(crate) const fn word(self, attributes: HashAttributes) -> Option<u64> {
        let software = attributes.software();
        let key = attributes.key();
        if !attributes.allows_anything() {
            return None;
        }
        let common = Pte64K::new()
            .with_v(true)
            .with_l(true)
            .with_sw0(software & 8 != 0)
            .with_sw(software & 7)
            .with_r(attributes.r())
            .with_c(attributes.c())
            .with_att(attributes.att())
            .with_eaa(attributes.eaa());
        match self {
            Self::K4 if key > 7 => None,
            Self::K4 => Some(Pte4K::from_bits(common.into_bits()).with_key(key).into_bits()),
            Self::K64 | Self::K64In4K => Some(common.with_key(key).into_bits()),
        }
    }

    /// The attributes of the page whose word this is.
    #[inline]
    pub(crate) const fn attributes(self, word: u64) -> HashAttributes {
        let pte = Pte64K::from_bits(word);
        let key = match self {
            Self::K4 => Pte4K::from_bits(word).key(),
            Self::K64 | Self::K64In4K => pte.key(),
        };
        HashAttributes::new()
            .with_eaa(pte.eaa())
            .with_att(pte.att())
            .with_r(pte.r())
            .with_c(pte.c())
            .with_key(key)
            .with_software((pte.sw0() as u8) << 3 | pte.sw())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use pgtable::Prot;

    #[test]
    fn bits_stand_where_linux_says() {
        let (small, large) = (Pte4K::new, Pte64K::new);
        for (name, word, want) in [
            ("_PAGE_PRESENT", large().with_v(true).into_bits(), 1_u64 << 63),
            ("_PAGE_PTE", large().with_l(true).into_bits(), 1 << 62),
            ("H_PAGE_BUSY", large().with_busy(true).into_bits(), 0x40),
            ("H_PAGE_BUSY, 4K", small().with_busy(true).into_bits(), 0x40),
            ("H_PAGE_HASHPTE, 4K", small().with_hashpte(true).into_bits(), 0x1000_0000_0000_0000),
            ("H_PAGE_F_SECOND", small().with_f_second(true).into_bits(), 0x0100_0000_0000_0000),
            ("H_PAGE_F_GIX", small().with_f_gix(7).into_bits(), 0x00e0_0000_0000_0000),
            ("H_PAGE_HASHPTE, 64K", large().with_hashpte(true).into_bits(), 0x0080_0000_0000_0000),
            ("H_PAGE_COMBO", large().with_combo(1).into_bits(), 0x1000),
            ("H_PTE_PKEY, 64K", large().with_key(31).into_bits(), 0x1f00_0000_0000_0000),
            ("H_PTE_PKEY, 4K", small().with_key(7).into_bits(), 0x0e00_0000_0000_0000),
        ] {
            assert_eq!(word, want, "{name}: {word:#x}");
        }
    }

    #[test]
    fn attributes_there_and_back() {
        for pages in [Pages::K4, Pages::K64, Pages::K64In4K] {
            for prot in [Prot::R, Prot::RW, Prot::RX, Prot::RWX.for_user()] {
                let plain = HashAttributes::from(prot);
                for it in [
                    plain,
                    plain.with_c(false).with_key(7).with_software(0b1010).with_att(Att::Tolerant),
                ] {
                    let word = pages.word(it).unwrap();
                    assert_eq!(pages.attributes(word), it);
                    assert_eq!(
                        pages.attributes(word | pages.hashed_at(Hidx::new(true, 5)) | BUSY),
                        it
                    );
                    assert_eq!(word & (pages.hashed() | pages.rpn(12)), 0);
                }
            }
        }
        assert_eq!(Pages::K4.word(HashAttributes::from(Prot::R).with_key(8)), None);
        assert_eq!(Pages::K64.word(HashAttributes::from(Prot::new())), None);
        assert_eq!(
            Pages::slot_in(Pages::K4.hashed_at(Hidx::new(true, 5))),
            Some(Hidx::new(true, 5))
        );
        assert_eq!(Pages::slot_in(0), None);
    }
}
