//! What a leaf says besides its address.

use pgtable::{Attributes, Memory, Prot};

use crate::entry::{A, D, N, PPN, PageTableEntry, R, U, V, W, X};

/// Leaf attributes: of a first stage, or ([`GuestAttributes`]) of a guest stage.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct LeafAttributes<const GUEST: bool> {
    /// The leaf without V, N and address.
    word: PageTableEntry,
}

/// Leaf attributes of a first stage: satp, vsatp.
pub type PageAttributes = LeafAttributes<false>;

/// Leaf attributes of a guest stage: hgatp.
///
/// Every access counts as one of user mode there, so U stands in every leaf that is made, and
/// [`Prot::user`] means nothing.
pub type GuestAttributes = LeafAttributes<true>;

impl<const GUEST: bool> LeafAttributes<GUEST> {
    /// The same page with these software bits: bits 1:0 in RSW, bits 3:2 in the entry's bits 60:59,
    /// which have an encoding only with Svrsw60t59b. Higher bits do not count.
    #[must_use]
    pub const fn with_software(self, bits: u8) -> Self {
        Self { word: self.word.with_rsw(bits & 3).with_rsw_high(bits >> 2 & 3) }
    }

    /// The software bits.
    #[must_use]
    pub const fn software(self) -> u8 {
        self.word.rsw() | self.word.rsw_high() << 2
    }

    /// The same page, accessed or not.
    #[must_use]
    pub const fn with_accessed(self, accessed: bool) -> Self {
        Self { word: self.word.with_a(accessed) }
    }

    /// Whether it is marked accessed.
    #[must_use]
    pub const fn accessed(self) -> bool {
        self.word.a()
    }

    /// The same page, dirty or not.
    #[must_use]
    pub const fn with_dirty(self, dirty: bool) -> Self {
        Self { word: self.word.with_d(dirty) }
    }

    /// Whether it is marked dirty.
    #[must_use]
    pub const fn dirty(self) -> bool {
        self.word.d()
    }
}

impl PageAttributes {
    /// The same page, global or not: a global mapping exists in all address spaces, and fences by
    /// ASID do not reach it.
    #[must_use]
    pub const fn with_global(self, global: bool) -> Self {
        Self { word: self.word.with_g(global) }
    }

    /// Whether it is global.
    #[must_use]
    pub const fn global(self) -> bool {
        self.word.g()
    }
}

/// Attributes as words of leaves.
pub trait Leaf: Attributes {
    /// The attributes of the leaf `word`.
    fn from_leaf(word: u64) -> Self;
    /// The leaf at address 0 with these attributes.
    fn to_leaf(self) -> u64;
}

impl<const GUEST: bool> Leaf for LeafAttributes<GUEST> {
    #[inline(always)]
    fn from_leaf(word: u64) -> Self {
        Self { word: PageTableEntry::from_bits(word & !(V | N | PPN)) }
    }

    #[inline(always)]
    fn to_leaf(self) -> u64 {
        self.word.into_bits() | V
    }
}

/// R, W, X and U of `prot`.
#[inline(always)]
const fn rights(prot: Prot, guest: bool) -> u64 {
    PageTableEntry::new()
        .with_r(prot.read())
        .with_w(prot.write())
        .with_x(prot.execute())
        .with_u(guest || prot.user())
        .into_bits()
}

impl<const GUEST: bool> From<Prot> for LeafAttributes<GUEST> {
    #[inline]
    fn from(prot: Prot) -> Self {
        Self { word: PageTableEntry::from_bits(rights(prot, GUEST) | A | D) }
    }
}

impl<const GUEST: bool> Attributes for LeafAttributes<GUEST> {
    /// Nothing at all for a guest stage's leaf with U = 0, which no guest can access.
    #[inline]
    fn prot(&self) -> Prot {
        let prot = Prot::new()
            .with_read(self.word.r())
            .with_write(self.word.w())
            .with_execute(self.word.x());
        match (GUEST, self.word.u()) {
            (false, user) => prot.with_user(user),
            (true, true) => prot,
            (true, false) => Prot::new(),
        }
    }

    #[inline]
    fn with_prot(self, prot: Prot) -> Self {
        if prot == self.prot() {
            return self;
        }
        let others = self.word.into_bits() & !(R | W | X | U);
        Self { word: PageTableEntry::from_bits(others | rights(prot, GUEST)) }
    }

    /// The page-based memory type (Svpbmt): PMA, NC or IO.
    #[inline]
    fn memory(&self) -> Memory {
        match self.word.pbmt() {
            0 => Memory::Normal,
            1 => Memory::Uncached,
            _ => Memory::Device,
        }
    }

    /// Other memory than [`Memory::Normal`], which is as the physical address or the guest stage
    /// says, has an encoding only with Svpbmt.
    #[inline]
    fn with_memory(self, memory: Memory) -> Self {
        let pbmt = match memory {
            Memory::Normal => 0,
            Memory::Uncached => 1,
            Memory::Device => 2,
        };
        Self { word: self.word.with_pbmt(pbmt) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn setters_do_not_reach_beyond_their_field() {
        let page = PageAttributes::from(Prot::R);
        assert_eq!(page.to_leaf(), 0xc3);
        assert_eq!(GuestAttributes::from(Prot::R).to_leaf(), 0xd3);
        for (name, word, bits) in [
            ("NC", page.with_memory(Memory::Uncached), 1 << 61),
            ("IO", page.with_memory(Memory::Device), 1 << 62),
            ("global", page.with_global(true), 1 << 5),
            ("software", page.with_software(u8::MAX), 0x1800_0000_0000_0300),
            ("software 1:0", page.with_software(3), 0x300),
            ("write", page.with_prot(Prot::RW), 4),
            ("execute", page.with_prot(Prot::RX), 8),
            ("user", page.with_prot(Prot::R.for_user()), 0x10),
        ] {
            assert_eq!(word.to_leaf(), page.to_leaf() | bits, "{name}");
        }
        assert_eq!(page.with_software(0b1001).software(), 0b1001);
        assert!(!page.with_accessed(false).accessed() && !page.with_dirty(false).dirty());
        for memory in [Memory::Normal, Memory::Uncached, Memory::Device] {
            assert_eq!(page.with_memory(memory).memory(), memory);
        }
    }
}
