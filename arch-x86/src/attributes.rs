//! What a page of the long-mode layout says besides its address.

use pgtable::{Attributes, Level, Memory, Prot};

use crate::privacy::Privacy;

use crate::entry::{HugePageEntry, PageEntry};

// A walk tests and makes whole words; see the tree's masks.
const P: u64 = PageEntry::new().with_p(true).into_bits();
const PAT: u64 = PageEntry::new().with_pat(true).into_bits();
const HUGE_PAT: u64 = HugePageEntry::new().with_pat(true).into_bits();
const PS: u64 = HugePageEntry::new().with_ps(true).into_bits();

/// Leaf attributes in long mode.
///
/// The memory type is an index into the PAT (SDM §12.12; APM §7.8), 0 to 7, wherever a page of that
/// size keeps its three bits. At reset index 0 is write-back, 1 write-through, 2 uncached unless an
/// MTRR says write-combining, 3 uncached, and 4 to 7 are the same again.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct PageAttributes {
    /// The word of a 4-KiB page at address 0, but for the bit that [`Privacy`] names. P = 0 stands
    /// for attributes without [`Prot::read`], which have no encoding.
    page: PageEntry,
}

impl PageAttributes {
    /// The same page with another memory type: an index into the PAT. Only the low three bits of
    /// `index` count.
    #[must_use]
    pub const fn with_pat(self, index: u8) -> Self {
        let page =
            self.page.with_pwt(index & 1 != 0).with_pcd(index & 2 != 0).with_pat(index & 4 != 0);
        Self { page }
    }

    /// The index into the PAT.
    #[must_use]
    pub const fn pat(self) -> u8 {
        self.page.pwt() as u8 | (self.page.pcd() as u8) << 1 | (self.page.pat() as u8) << 2
    }

    /// The same page, global or not: global translations survive a change of CR3.
    #[must_use]
    pub const fn with_global(self, global: bool) -> Self {
        Self { page: self.page.with_g(global) }
    }

    /// Whether it is global.
    #[must_use]
    pub const fn global(self) -> bool {
        self.page.g()
    }

    /// The same page with another protection key. Only the low four bits of `key` count.
    #[must_use]
    pub const fn with_protection_key(self, key: u8) -> Self {
        Self { page: self.page.with_protection_key(key & 0xf) }
    }

    /// The protection key (SDM §4.6.2).
    #[must_use]
    pub const fn protection_key(self) -> u8 {
        self.page.protection_key()
    }

    /// The same page with these software bits: bits 2:0 in the entry's bits 11:9, bits 9:3 in its
    /// bits 58:52. Higher bits do not count.
    #[must_use]
    pub const fn with_software(self, bits: u16) -> Self {
        Self { page: self.page.with_avl((bits & 7) as u8).with_avl_high((bits >> 3 & 0x7f) as u8) }
    }

    /// The software bits.
    #[must_use]
    pub const fn software(self) -> u16 {
        self.page.avl() as u16 | (self.page.avl_high() as u16) << 3
    }

    /// The same page, accessed or not.
    #[must_use]
    pub const fn with_accessed(self, accessed: bool) -> Self {
        Self { page: self.page.with_a(accessed) }
    }

    /// Whether it is marked accessed.
    #[must_use]
    pub const fn accessed(self) -> bool {
        self.page.a()
    }

    /// The same page, dirty or not.
    #[must_use]
    pub const fn with_dirty(self, dirty: bool) -> Self {
        Self { page: self.page.with_d(dirty) }
    }

    /// Whether it is marked dirty.
    #[must_use]
    pub const fn dirty(self) -> bool {
        self.page.d()
    }

    /// The 4-KiB page that maps address 0 with these attributes, if P is set.
    #[inline(always)]
    pub(crate) const fn page(self) -> PageEntry {
        self.page
    }

    /// The same page, private or shared, where `privacy` has a bit for that. Pages are made with
    /// the bit clear.
    #[must_use]
    pub const fn with_private(self, privacy: Privacy, private: bool) -> Self {
        let page = self.page.into_bits() & !privacy.mask() | privacy.of(private);
        Self { page: PageEntry::from_bits(page) }
    }

    /// Whether the page is private. Without a bit for that, all are.
    #[must_use]
    pub const fn is_private(self, privacy: Privacy) -> bool {
        self.page.into_bits() & privacy.mask() == privacy.of(true)
    }

    /// The same page as a shadow stack: read-only and dirty (SDM §4.6.1). In effect while CR4.CET =
    /// 1 and if the tables above allow writes.
    #[must_use]
    pub const fn with_shadow_stack(self) -> Self {
        Self { page: self.page.with_rw(false).with_d(true) }
    }

    /// Whether the page is a shadow stack while CR4.CET = 1. Pages that are made from a [`Prot`]
    /// are marked dirty: of a guest that uses shadow stacks, mark read-only ones clean.
    #[must_use]
    pub const fn is_shadow_stack(self) -> bool {
        !self.page.rw() && self.page.d()
    }

    /// The attributes of the leaf `word`, which stands at `level`; the bits in `kept` are
    /// attributes.
    #[inline(always)]
    pub(crate) const fn from_leaf(word: u64, level: Level, kept: u64) -> Self {
        let page = word & kept;
        if level.0 == 0 {
            return Self { page: PageEntry::from_bits(page) };
        }
        let pat = if word & HUGE_PAT != 0 { PAT } else { 0 };
        Self { page: PageEntry::from_bits(page & !PAT | pat) }
    }

    /// The leaf at `level` that maps address 0 with these attributes; `None` if they do not allow
    /// reading.
    #[inline(always)]
    pub(crate) const fn to_leaf(self, level: Level) -> Option<u64> {
        let word = self.page.into_bits();
        if word & P == 0 {
            return None;
        }
        if level.0 == 0 {
            return Some(word);
        }
        // Bits 6:0, 11:8 and 63:52 are the same in a huge page; the PAT bit gives its place to PS.
        Some(word | PS | if word & PAT != 0 { HUGE_PAT } else { 0 })
    }
}

impl From<Prot> for PageAttributes {
    #[inline]
    fn from(prot: Prot) -> Self {
        Self {
            page: PageEntry::new()
                .with_p(prot.read())
                .with_rw(prot.write())
                .with_us(prot.user())
                .with_xd(!prot.execute())
                .with_a(true)
                .with_d(true),
        }
    }
}

impl Attributes for PageAttributes {
    #[inline]
    fn prot(&self) -> Prot {
        Prot::new()
            .with_read(self.page.p())
            .with_write(self.page.rw())
            .with_execute(!self.page.xd())
            .with_user(self.page.us())
    }

    #[inline]
    fn with_prot(self, prot: Prot) -> Self {
        let page = self.page.with_p(prot.read()).with_rw(prot.write());
        Self { page: page.with_us(prot.user()).with_xd(!prot.execute()) }
    }

    /// By what the indices into the PAT mean at reset: write-through counts as normal.
    #[inline]
    fn memory(&self) -> Memory {
        match self.pat() & 3 {
            0 | 1 => Memory::Normal,
            2 => Memory::Uncached,
            _ => Memory::Device,
        }
    }

    /// By what the indices into the PAT mean at reset: 0 write-back, 2 uncached unless an MTRR says
    /// write-combining, 3 uncached.
    #[inline]
    fn with_memory(self, memory: Memory) -> Self {
        if self.memory() == memory {
            return self;
        }
        self.with_pat(match memory {
            Memory::Normal => 0,
            Memory::Uncached => 2,
            Memory::Device => 3,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The known bug class: the third PAT bit is bit 7 of a PTE, and bit 12 of a huge page, whose
    /// bit 7 is PS.
    #[test]
    fn the_pat_bit_moves() {
        let (page, kept) = (PageAttributes::from(Prot::RW), 0xfff0_0000_0000_0fff);
        for (index, small, huge) in [
            (0, 0x8000_0000_0000_0063, 0x8000_0000_0000_00e3_u64),
            (1, 0x8000_0000_0000_006b, 0x8000_0000_0000_00eb),
            (2, 0x8000_0000_0000_0073, 0x8000_0000_0000_00f3),
            (3, 0x8000_0000_0000_007b, 0x8000_0000_0000_00fb),
            (4, 0x8000_0000_0000_00e3, 0x8000_0000_0000_10e3),
            (7, 0x8000_0000_0000_00fb, 0x8000_0000_0000_10fb),
        ] {
            let page = page.with_pat(index);
            assert_eq!(page.pat(), index);
            assert_eq!(page.to_leaf(Level(0)), Some(small), "index {index}");
            assert_eq!(page.to_leaf(Level(1)), Some(huge), "index {index}");
            assert_eq!(page.to_leaf(Level(2)), Some(huge), "index {index}");
            assert_eq!(PageAttributes::from_leaf(small, Level(0), kept), page, "index {index}");
            assert_eq!(PageAttributes::from_leaf(huge, Level(1), kept), page, "index {index}");
        }
    }

    #[test]
    fn setters_do_not_reach_beyond_their_field() {
        let page = PageAttributes::from(Prot::R);
        for (name, word, bits) in [
            ("pat", page.with_pat(u8::MAX), 0x98),
            ("global", page.with_global(true), 1 << 8),
            ("key", page.with_protection_key(u8::MAX), 0x7800_0000_0000_0000),
            ("software", page.with_software(u16::MAX), 0x07f0_0000_0000_0e00),
            ("software 2:0", page.with_software(7), 0xe00),
        ] {
            assert_eq!(
                word.to_leaf(Level(0)),
                page.to_leaf(Level(0)).map(|plain| plain | bits),
                "{name}"
            );
        }
        assert_eq!(page.with_software(0x155).software(), 0x155);
        assert_eq!(page.with_protection_key(9).protection_key(), 9);
        assert!(!page.with_accessed(false).accessed() && !page.with_dirty(false).dirty());
    }

    #[test]
    fn prot_and_back() {
        for bits in 0..16 {
            let prot = Prot::from_bits(bits);
            let page = PageAttributes::from(prot);
            assert_eq!(page.prot(), prot);
            assert_eq!(page.to_leaf(Level(0)).is_some(), prot.read(), "{prot:?}");
        }
    }
}
