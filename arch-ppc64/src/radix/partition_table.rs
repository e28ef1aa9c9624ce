//! The partition table (ISA "Partition Table"): a partition-scoped tree and a process table per
//! partition, in host memory.

use pgtable::memory::{ReadMemory, TableMemory};
use pgtable::{Cause, Hpa};

use super::descriptor::{Pate, Ptcr};
use super::indexed::{Indexed, TableError};
use super::policy::Strictness;

/// The partition table: where it is, and how many partitions it has room for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PartitionTable(Indexed<Hpa>);

impl PartitionTable {
    /// The table of `2^(12 + pats)` bytes at `base`. `None` if it is not aligned to that, beyond
    /// 2^60, or of PATS greater than 24.
    #[must_use]
    pub fn new(base: Hpa, pats: u8) -> Option<Self> {
        Indexed::new(base, pats).map(Self)
    }

    /// The table that PTCR names; `None` as for [`new`](Self::new).
    #[must_use]
    pub fn of_ptcr(ptcr: Ptcr) -> Option<Self> {
        Self::new(Hpa::new(ptcr.base()), ptcr.pats())
    }

    /// What PTCR is to hold.
    #[must_use]
    pub fn ptcr(self) -> Ptcr {
        Ptcr::new().with_patb(self.0.base().get() >> 12).with_pats(self.0.size())
    }

    /// Its address.
    #[must_use]
    pub fn base(self) -> Hpa {
        self.0.base()
    }

    /// How many partitions it has room for.
    #[must_use]
    pub fn entries(self) -> u64 {
        self.0.entries()
    }

    /// The address of the entry of partition `lpid`.
    ///
    /// # Errors
    /// [`TableError::Beyond`].
    pub fn entry(self, lpid: u32) -> Result<Hpa, TableError> {
        self.0.entry(lpid)
    }

    /// The entry of partition `lpid`.
    ///
    /// # Errors
    /// [`TableError`].
    pub fn read<M: ReadMemory<Hpa>>(self, memory: &M, lpid: u32) -> Result<Pate, TableError> {
        let [tree, process_table] = self.0.read(memory, lpid)?;
        Ok(Pate { tree: tree.into(), process_table: process_table.into() })
    }

    /// Stores the entry of partition `lpid`, the process table first, as Linux does. If hardware
    /// may have seen the old one, it must be invalidated
    /// ([`Invalidation::all`](super::Invalidation::all)).
    ///
    /// # Errors
    /// [`TableError`].
    pub fn write<M: TableMemory<Hpa>>(
        self,
        memory: &M,
        lpid: u32,
        entry: Pate,
    ) -> Result<(), TableError> {
        self.0.write(memory, lpid, [entry.tree.into(), entry.process_table.into()])
    }

    /// The root of the partition-scoped tree of partition `lpid`.
    ///
    /// # Errors
    /// [`Cause::Malformed`] for a partition beyond the table (hardware: HDSISR 0x00080000), one
    /// that is hashed, or a tree that is not supported; [`Cause::TableAccess`] for an entry outside
    /// memory.
    pub fn root<M: ReadMemory<Hpa>>(
        self,
        memory: &M,
        lpid: u32,
        strictness: Strictness,
    ) -> Result<Hpa, Cause> {
        match self.read(memory, lpid) {
            Ok(entry) => entry.root(strictness).map(Hpa::new).ok_or(Cause::Malformed),
            Err(TableError::Beyond { .. }) => Err(Cause::Malformed),
            Err(TableError::Memory(_)) => Err(Cause::TableAccess),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::radix::{ProcessTableWord, RadixRoot};
    use core::sync::atomic::{AtomicU64, Ordering};
    use pgtable::memory::DirectMap;

    /// Each bit of PTCR, beside an ordinary table of 4 KiB: it moves the table, or makes it larger,
    /// or is reserved and does neither.
    #[test]
    fn case_b17_every_bit_of_ptcr() {
        const BASE: u64 = 1 << 58;
        let of = |ptcr: u64| {
            PartitionTable::of_ptcr(ptcr.into()).map(|it| (it.base().get(), it.entries()))
        };
        assert_eq!(of(BASE), Some((BASE, 256)));
        for bit in 0..64 {
            let want = match bit {
                58 => Some((0, 256)),
                12..60 => Some((BASE | 1 << bit, 256)),
                0..4 => Some((BASE, 256 << (1 << bit))),
                4 => Some((BASE, 256 << 16)),
                // Reserved.
                _ => Some((BASE, 256)),
            };
            assert_eq!(of(BASE ^ 1 << bit), want, "bit {bit}");
        }
        // Larger than QEMU and Linux take, and not aligned to its size.
        for pats in 0..32 {
            let want = (pats <= 24).then_some((BASE, 256 << pats));
            assert_eq!(of(BASE | pats), want, "PATS {pats}");
            assert_eq!(of(BASE | 0x1000 | pats), (pats == 0).then_some((BASE | 0x1000, 256)));
        }
    }

    #[test]
    fn from_ptcr_to_a_root() {
        let words = [const { AtomicU64::new(0) }; 512];
        let memory = DirectMap::new(&words, Hpa::new(0x1_0000));
        let table = PartitionTable::of_ptcr(Ptcr::from_bits(0x1_0000)).unwrap();
        let pate = Pate {
            tree: RadixRoot::of_tree(0x10_0000).unwrap().with_hr(true),
            process_table: ProcessTableWord::from_bits(0x8000_0000_0013_0004),
        };
        table.write(&memory, 7, pate).unwrap();
        assert_eq!(u64::from_be(words[14].load(Ordering::Relaxed)), 0xc000_0000_0010_00ad);
        assert_eq!(u64::from_be(words[15].load(Ordering::Relaxed)), 0x8000_0000_0013_0004);
        assert_eq!(table.read(&memory, 7), Ok(pate));
        for (lpid, want) in
            [(7, Ok(Hpa::new(0x10_0000))), (8, Err(Cause::Malformed)), (256, Err(Cause::Malformed))]
        {
            assert_eq!(table.root(&memory, lpid, Strictness::Strict), want, "LPID {lpid}");
        }
        let linux = PartitionTable::new(Hpa::new(0x1_0000), 4).unwrap();
        assert_eq!((linux.entries(), linux.ptcr().into_bits()), (4096, 0x1_0004));
    }
}
