//! The words by which trees and tables are found: process and partition table entries, PTCR (Power
//! ISA v3.0B Book III, "Partition Table" and "Process Table").

use bitfield_struct::bitfield;
use pgtable::Hpa;

use super::geometry::{ADDRESS_BITS, RPDS, RTS};
use super::policy::Strictness;

/// Where a tree's root is, and its size: doubleword 0 of a radix process table entry (ISA "Process
/// Table") and of a radix partition table entry (ISA "Partition Table").
#[bitfield(u64, order = Msb)]
#[derive(PartialEq, Eq, Hash)]
pub struct RadixRoot {
    /// 0: Host Radix, in a partition table entry; reserved in a process table entry.
    pub hr: bool,
    /// 1:2: the two high bits of the Radix Tree Size.
    #[bits(2)]
    pub rts_high: u8,
    /// 3: reserved.
    pub reserved_3: bool,
    /// 4:55: Root Page Directory Base, in units of 256 bytes. Aligned to the size of the root.
    #[bits(52)]
    pub rpdb: u64,
    /// 56:58: the three low bits of the Radix Tree Size.
    #[bits(3)]
    pub rts_low: u8,
    /// 59:63: Root Page Directory Size: log2 of the root's entries.
    #[bits(5)]
    pub rpds: u8,
}

impl RadixRoot {
    const BASE: u64 = Self::new().with_rpdb((1 << Self::RPDB_BITS) - 1).into_bits();
    const SUPPORTED: Self = Self::new().with_rts(RTS).with_rpds(RPDS);
    /// log2 of the bytes of a supported root.
    pub(crate) const ROOT_SHIFT: u8 = RPDS + 3;

    /// The 52-bit tree whose root stands at `root`. `None` if it is not aligned to 64 KiB, or
    /// beyond 2^60.
    ///
    /// ```
    /// # use pgtable_ppc64::radix::RadixRoot;
    /// assert_eq!(RadixRoot::of_tree(0x10_0000).map(u64::from), Some(0x4000_0000_0010_00ad));
    /// ```
    #[must_use]
    pub const fn of_tree(root: u64) -> Option<Self> {
        if root & !(Self::BASE & !pgtable::low_bits(Self::ROOT_SHIFT)) != 0 {
            return None;
        }
        Some(Self::from_bits(Self::SUPPORTED.into_bits() | root))
    }

    /// Radix Tree Size, put together from its two pieces.
    #[must_use]
    pub const fn rts(self) -> u8 {
        self.rts_high() << 3 | self.rts_low()
    }

    /// The same with this Radix Tree Size, taken apart. Bits beyond the low five are ignored.
    #[must_use]
    pub const fn with_rts(self, rts: u8) -> Self {
        self.with_rts_high(rts >> 3 & 3).with_rts_low(rts & 7)
    }

    /// Address bits that the tree translates.
    #[must_use]
    pub const fn address_bits(self) -> u8 {
        self.rts() + 31
    }

    /// The address of the root.
    #[must_use]
    pub const fn base(self) -> u64 {
        self.into_bits() & Self::BASE
    }

    /// Whether the tree has the one size that hardware supports: 52 bits, with 13 of them in the
    /// root.
    #[must_use]
    pub const fn is_supported(self) -> bool {
        self.address_bits() == ADDRESS_BITS && self.rpds() == RPDS
    }

    /// The address of the root if the tree can be walked at that level of strictness.
    #[must_use]
    pub const fn root(self, strictness: Strictness) -> Option<u64> {
        let aligned = self.base() & pgtable::low_bits(Self::ROOT_SHIFT) == 0;
        let accepted = match strictness {
            Strictness::Qemu => true,
            Strictness::Kvm => aligned,
            Strictness::Strict => aligned && !self.reserved_3(),
        };
        if accepted && self.is_supported() { Some(self.base()) } else { None }
    }
}

/// A process table entry (PRTE, ISA "Process Table"): the tree of one process.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct Prte {
    /// Doubleword 0: the tree.
    pub tree: RadixRoot,
    /// Doubleword 1: reserved in a radix entry.
    pub reserved: u64,
}

impl Prte {
    /// The entry for the 52-bit tree whose root stands at `root`. `None` if it is not aligned to 64
    /// KiB, or beyond 2^60.
    #[must_use]
    pub const fn of_tree(root: u64) -> Option<Self> {
        match RadixRoot::of_tree(root) {
            Some(tree) => Some(Self { tree, reserved: 0 }),
            None => None,
        }
    }

    /// The address of the tree's root if it can be walked at that level of strictness.
    #[must_use]
    pub const fn root(self, strictness: Strictness) -> Option<u64> {
        if matches!(strictness, Strictness::Strict) && (self.reserved != 0 || self.tree.hr()) {
            return None;
        }
        self.tree.root(strictness)
    }
}

/// A partition table entry for a radix partition (PATE, ISA "Partition Table"): the hypervisor's
/// tree for the partition, and where the partition's process table is.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct Pate {
    /// Doubleword 0: the partition-scoped tree, with HR set.
    pub tree: RadixRoot,
    /// Doubleword 1: the process table.
    pub process_table: ProcessTableWord,
}

impl Pate {
    /// The entry by which hardware finds the partition-scoped tree whose root table is at `root`
    /// ([`PageTable::root`](pgtable::tree::PageTable::root)), with the guest's process table.
    /// `None` if the root lies where no entry can name it (beyond 2^60).
    ///
    /// When an entry that hardware may have seen is replaced, invalidate the whole partition
    /// ([`Invalidation::all`](crate::radix::Invalidation::all)).
    ///
    /// ```
    /// use pgtable_ppc64::radix::{Pate, ProcessTableWord};
    /// use pgtable::Hpa;
    ///
    /// let process_table = ProcessTableWord::from_bits(0x8000_0000_0013_0004);
    /// let pate = Pate::of_tree(Hpa::new(0x4000_0000), process_table);
    /// let word = pate.map(|pate| pate.tree.into_bits());
    /// assert_eq!(word, Some(0xc000_0000_4000_00ad));
    /// ```
    #[must_use]
    pub fn of_tree(root: Hpa, process_table: ProcessTableWord) -> Option<Self> {
        let tree = RadixRoot::of_tree(root.get())?.with_hr(true);
        Some(Self { tree, process_table })
    }

    /// The address of the partition-scoped tree's root if it can be walked at that level of
    /// strictness; `None` for a hashed partition (HR = 0) too.
    #[must_use]
    pub const fn root(self, strictness: Strictness) -> Option<u64> {
        if self.tree.hr() { self.tree.root(strictness) } else { None }
    }
}

/// Where a process table is, and its size: doubleword 1 of a partition table entry (ISA "Partition
/// Table"), and what `KVM_PPC_CONFIGURE_V3_MMU` takes as `process_table`.
#[bitfield(u64, order = Msb)]
#[derive(PartialEq, Eq, Hash)]
pub struct ProcessTableWord {
    /// 0: the guest uses radix (Linux's `PATB_GR`; reserved in the ISA).
    pub gr: bool,
    #[bits(3)]
    __: u8,
    /// 4:51: Process Table Base, in units of 4 KiB. Aligned to the size of the table.
    #[bits(48)]
    pub prtb: u64,
    #[bits(7)]
    __: u8,
    /// 59:63: Process Table Size: log2 of its bytes, less 12.
    #[bits(5)]
    pub prts: u8,
}

impl ProcessTableWord {
    /// The address of the table.
    #[must_use]
    pub const fn base(self) -> u64 {
        self.prtb() << 12
    }

    /// Whether a reserved bit is set (but for bit 0, [`gr`](Self::gr)).
    #[must_use]
    pub const fn has_reserved_bits(self) -> bool {
        let known = Self::new().with_gr(true).with_prtb(pgtable::low_bits(48)).with_prts(0x1f);
        self.into_bits() & !known.into_bits() != 0
    }
}

/// Partition Table Control Register (PTCR, SPR 464, ISA "Partition Table"): where the partition
/// table is, and its size. Both fields are followed; the other bits are reserved, and ignored, as
/// by QEMU and KVM.
#[bitfield(u64, order = Msb)]
#[derive(PartialEq, Eq, Hash)]
pub struct Ptcr {
    #[bits(4)]
    __: u8,
    /// 4:51: Partition Table Base, in units of 4 KiB. Aligned to the size of the table.
    #[bits(48)]
    pub patb: u64,
    #[bits(7)]
    __: u8,
    /// 59:63: Partition Table Size: log2 of its bytes, less 12.
    #[bits(5)]
    pub pats: u8,
}

impl Ptcr {
    /// The address of the table.
    #[must_use]
    pub const fn base(self) -> u64 {
        self.patb() << 12
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn vectors() {
        let root = RadixRoot::of_tree(0x10_0000).unwrap();
        let process_table = ProcessTableWord::new().with_gr(true).with_prtb(0x130).with_prts(4);
        for (name, word, want) in [
            ("PRTE", root.into_bits(), 0x4000_0000_0010_00ad_u64),
            ("PATE0", root.with_hr(true).into_bits(), 0xc000_0000_0010_00ad),
            ("PATE1", process_table.into_bits(), 0x8000_0000_0013_0004),
            ("RPDB", RadixRoot::BASE, 0x0fff_ffff_ffff_ff00),
            ("RTS", RadixRoot::new().with_rts(31).into_bits(), 3 << 61 | 7 << 5),
            (
                "PRTB",
                ProcessTableWord::new().with_prtb((1 << 48) - 1).into_bits(),
                0x0fff_ffff_ffff_f000,
            ),
            ("PATB", Ptcr::new().with_patb((1 << 48) - 1).into_bits(), 0x0fff_ffff_ffff_f000),
            ("PATS", Ptcr::new().with_pats(31).into_bits(), 0x1f),
        ] {
            assert_eq!(word, want, "{name}");
        }
        assert_eq!(
            (root.rts(), root.address_bits(), root.rpds(), root.base()),
            (21, 52, 13, 0x10_0000)
        );
        assert_eq!(process_table.base(), 0x13_0000);
        assert_eq!(RadixRoot::of_tree(0x10_8000), None);
        assert_eq!(RadixRoot::of_tree(1 << 60), None);
    }

    #[test]
    fn what_can_be_walked() {
        use Strictness::{Kvm, Qemu, Strict};
        for (word, qemu, kvm, strict) in [
            (0x4000_0000_0010_00ad_u64, true, true, true),
            (0x5000_0000_0010_00ad, true, true, false),
            (0x4000_0000_0010_01ad, true, false, false),
            (0, false, false, false),
            (0x4000_0000_0010_00ac, false, false, false),
            (0x4000_0000_0010_008d, false, false, false),
        ] {
            let prte = Prte { tree: RadixRoot::from_bits(word), reserved: 0 };
            let seen = [Qemu, Kvm, Strict].map(|strictness| prte.root(strictness).is_some());
            assert_eq!(seen, [qemu, kvm, strict], "{word:#018x}");
        }
        let host = RadixRoot::from_bits(0xc000_0000_0010_00ad);
        assert_eq!(Pate { tree: host, ..Pate::default() }.root(Strict), Some(0x10_0000));
        assert_eq!(Pate { tree: host.with_hr(false), ..Pate::default() }.root(Qemu), None);
        assert_eq!(Prte { tree: host, reserved: 0 }.root(Strict), None);
    }
}
