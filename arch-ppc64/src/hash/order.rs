//! The size of a hashed page table, and where in it a hash leads.

use pgtable::low_bits;

/// log2 of an HPTE's bytes.
pub(crate) const ENTRY_SHIFT: u8 = 4;
/// log2 of a group's entries.
pub(crate) const GROUP_SHIFT: u8 = 3;
/// Entries of a group (PTEG).
pub const GROUP_ENTRIES: usize = 1 << GROUP_SHIFT;

/// log2 of the bytes of a hashed page table: 18 to 46.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct HptOrder(u8);

impl HptOrder {
    /// The smallest.
    pub const MIN: Self = Self(18);
    /// The largest.
    pub const MAX: Self = Self(46);

    /// A table of `2^order` bytes; `None` outside 18 to 46.
    #[must_use]
    pub const fn new(order: u64) -> Option<Self> {
        if order >= Self::MIN.0 as u64 && order <= Self::MAX.0 as u64 {
            Some(Self(order as u8))
        } else {
            None
        }
    }

    /// log2 of its size in bytes.
    #[must_use]
    pub const fn get(self) -> u8 {
        self.0
    }

    /// Its size in bytes; its address is a multiple of that.
    #[must_use]
    pub const fn bytes(self) -> u64 {
        1 << self.0
    }

    /// How many groups it has.
    #[inline]
    #[must_use]
    pub const fn groups(self) -> u64 {
        1 << (self.0 - ENTRY_SHIFT - GROUP_SHIFT)
    }

    /// How many entries it has.
    #[inline]
    #[must_use]
    pub const fn entries(self) -> u64 {
        1 << (self.0 - ENTRY_SHIFT)
    }

    /// The group in which an entry of this `hash` stands.
    #[inline]
    #[must_use]
    pub const fn group(self, hash: PageHash, secondary: bool) -> u64 {
        let hash = if secondary { !hash.0 } else { hash.0 };
        hash & (self.groups() - 1)
    }

    /// The recommended size for a partition with `bytes` of memory: a 128th, as QEMU offers.
    #[must_use]
    pub const fn recommended(bytes: u64) -> Self {
        let mut order = Self::MIN.0;
        while order < Self::MAX.0 && low_bits(order) < bytes.div_ceil(128).saturating_sub(1) {
            order += 1;
        }
        Self(order)
    }
}

/// The hash of a virtual page (Power ISA v3.0B Book III 5.7.9.2), before it is cut down to a
/// table's size.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct PageHash(pub u64);

/// Where an entry stands, given the hash of its page: which of the two groups, which place in it.
/// Linux's `hidx`.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Hidx(u8);

impl Hidx {
    /// The entry `slot` of the primary or secondary group. Only the low three bits of `slot` count.
    #[inline]
    #[must_use]
    pub const fn new(secondary: bool, slot: usize) -> Self {
        Self((secondary as u8) << GROUP_SHIFT | (slot as u8 & 7))
    }

    /// Of four bits: the group above, the place in it below. Higher bits are ignored.
    #[inline]
    #[must_use]
    pub const fn from_bits(bits: u8) -> Self {
        Self(bits & 15)
    }

    /// As four bits.
    #[inline]
    #[must_use]
    pub const fn into_bits(self) -> u8 {
        self.0
    }

    /// Whether it is in the secondary group.
    #[inline]
    #[must_use]
    pub const fn secondary(self) -> bool {
        self.0 >> GROUP_SHIFT != 0
    }

    /// The place in the group.
    #[inline]
    #[must_use]
    pub const fn slot(self) -> usize {
        (self.0 & 7) as usize
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn orders() {
        assert_eq!(
            (HptOrder::new(17), HptOrder::new(47), HptOrder::new(u64::MAX)),
            (None, None, None)
        );
        for order in 18..=46 {
            let it = HptOrder::new(order).unwrap();
            assert_eq!(
                (it.bytes(), it.groups(), it.entries()),
                (1 << order, 1 << (order - 7), 1 << (order - 4))
            );
            for hash in [0, 1, 0x7f_ffff_ffff, 0x123_4567_89ab, u64::MAX] {
                let mask = (1 << (order - 7)) - 1;
                assert_eq!(it.group(PageHash(hash), false), hash & mask);
                assert_eq!(it.group(PageHash(hash), true), !hash & mask);
            }
        }
        for (memory, order) in
            [(0, 18), (64 << 20, 19), (256 << 20, 21), ((256 << 20) + 1, 22), (u64::MAX, 46)]
        {
            assert_eq!(HptOrder::recommended(memory).get(), order, "{memory:#x}");
        }
    }

    #[test]
    fn places() {
        for bits in 0..16 {
            let it = Hidx::from_bits(bits);
            assert_eq!(
                (it.into_bits(), it.secondary(), it.slot()),
                (bits, bits >= 8, usize::from(bits % 8))
            );
            assert_eq!(Hidx::new(it.secondary(), it.slot()), it);
        }
    }
}
