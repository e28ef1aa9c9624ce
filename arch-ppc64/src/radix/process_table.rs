//! The process table (ISA "Process Table"): a tree per process, in guest memory.

use pgtable::memory::{ReadMemory, TableMemory};
use pgtable::{Cause, Gpa};

use super::descriptor::{ProcessTableWord, Prte};
use super::indexed::{Indexed, TableError};
use super::policy::Strictness;

/// A partition's process table: where it is, and how many processes it has room for.
///
/// ```
/// use pgtable_ppc64::radix::{ProcessTable, Prte, Strictness};
/// use core::sync::atomic::AtomicU64;
/// use pgtable::memory::DirectMap;
/// use pgtable::Gpa;
///
/// let words = [const { AtomicU64::new(0) }; 512];
/// let memory = DirectMap::new(&words, Gpa::new(0x13_0000));
/// let table = ProcessTable::new(Gpa::new(0x13_0000), 0).ok_or("4 KiB, aligned to that")?;
/// table.write(&memory, 1, Prte::of_tree(0x10_0000).ok_or("aligned to 64 KiB")?)?;
/// assert_eq!(table.root(&memory, 1, Strictness::Strict), Ok(Gpa::new(0x10_0000)));
/// # Ok::<(), Box<dyn core::error::Error>>(())
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ProcessTable(Indexed<Gpa>);

impl ProcessTable {
    /// The table of `2^(12 + prts)` bytes at `base`. `None` if it is not aligned to that, beyond
    /// 2^60, or larger than Linux takes (PRTS 24).
    #[must_use]
    pub fn new(base: Gpa, prts: u8) -> Option<Self> {
        Indexed::new(base, prts).map(Self)
    }

    /// The table that a partition table entry names; `None` as for [`new`](Self::new).
    #[must_use]
    pub fn of_word(word: ProcessTableWord) -> Option<Self> {
        Self::new(Gpa::new(word.base()), word.prts())
    }

    /// The table that a partition table entry names, as `strictness` reads it:
    /// [`Qemu`](Strictness::Qemu) knows no largest size, [`Kvm`](Strictness::Kvm) no alignment, and
    /// [`Strict`](Strictness::Strict) refuses reserved bits (but not bit 0, which Linux sets).
    #[must_use]
    pub fn of_word_as(word: ProcessTableWord, strictness: Strictness) -> Option<Self> {
        match strictness {
            Strictness::Qemu => Indexed::of_any_size(Gpa::new(word.base()), word.prts()).map(Self),
            Strictness::Kvm => Indexed::anywhere(Gpa::new(word.base()), word.prts()).map(Self),
            Strictness::Strict if word.has_reserved_bits() => None,
            Strictness::Strict => Self::of_word(word),
        }
    }

    /// The word by which it is found: a partition table entry's second, and what
    /// `KVM_PPC_CONFIGURE_V3_MMU` takes as `process_table`.
    #[must_use]
    pub fn word(self) -> ProcessTableWord {
        ProcessTableWord::new()
            .with_gr(true)
            .with_prtb(self.0.base().get() >> 12)
            .with_prts(self.0.size())
    }

    /// Its address.
    #[must_use]
    pub fn base(self) -> Gpa {
        self.0.base()
    }

    /// How many processes it has room for.
    #[must_use]
    pub fn entries(self) -> u64 {
        self.0.entries()
    }

    /// The address of the entry of process `pid`.
    ///
    /// # Errors
    /// [`TableError::Beyond`].
    pub fn entry(self, pid: u32) -> Result<Gpa, TableError> {
        self.0.entry(pid)
    }

    /// The entry of process `pid`.
    ///
    /// # Errors
    /// [`TableError`].
    pub fn read<M: ReadMemory<Gpa>>(self, memory: &M, pid: u32) -> Result<Prte, TableError> {
        let [tree, reserved] = self.0.read(memory, pid)?;
        Ok(Prte { tree: tree.into(), reserved })
    }

    /// Stores the entry of process `pid`. If hardware may have seen the old one, it must be
    /// invalidated ([`Invalidation::all`](super::Invalidation::all)).
    ///
    /// # Errors
    /// [`TableError`].
    pub fn write<M: TableMemory<Gpa>>(
        self,
        memory: &M,
        pid: u32,
        entry: Prte,
    ) -> Result<(), TableError> {
        self.0.write(memory, pid, [entry.tree.into(), entry.reserved])
    }

    /// The root of the tree of process `pid`.
    ///
    /// # Errors
    /// What hardware makes of it, in its order: [`Cause::NotPresent`] for a process beyond the
    /// table, [`Cause::TableAccess`] for an entry outside memory, [`Cause::Malformed`] for a tree
    /// that is not supported.
    pub fn root<M: ReadMemory<Gpa>>(
        self,
        memory: &M,
        pid: u32,
        strictness: Strictness,
    ) -> Result<Gpa, Cause> {
        match self.read(memory, pid) {
            Ok(entry) => entry.root(strictness).map(Gpa::new).ok_or(Cause::Malformed),
            Err(TableError::Beyond { .. }) => Err(Cause::NotPresent),
            Err(TableError::Memory(_)) => Err(Cause::TableAccess),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::radix::RadixRoot;
    use core::sync::atomic::{AtomicU64, Ordering};
    use pgtable::memory::DirectMap;

    #[test]
    fn what_kvm_is_told() {
        let table = ProcessTable::new(Gpa::new(0x13_0000), 4).unwrap();
        assert_eq!(table.word().into_bits(), 0x8000_0000_0013_0004);
        assert_eq!(ProcessTable::of_word(table.word()), Some(table));
        assert_eq!(table.entries(), 4096);
        let huge = |prts: u8| ProcessTableWord::from_bits(1 << 63 | u64::from(prts));
        for (prts, qemu, others) in [
            (24, Some(1 << 32), Some(1 << 32)),
            (25, Some(1 << 33), None),
            (31, Some(1 << 39), None),
        ] {
            let entries = |strictness| {
                ProcessTable::of_word_as(huge(prts), strictness).map(ProcessTable::entries)
            };
            assert_eq!(entries(Strictness::Qemu), qemu, "{prts}");
            assert_eq!([Strictness::Kvm, Strictness::Strict].map(entries), [others; 2], "{prts}");
        }
        for (base, prts) in [(0x13_1000, 4), (0x13_0000, 5), (0, 25), (0, 255), (1 << 60, 0)] {
            assert_eq!(ProcessTable::new(Gpa::new(base), prts), None, "{base:#x} {prts}");
        }
    }

    /// Each reserved bit of a process table entry, and of the word that names the table, alone:
    /// ignored by QEMU and KVM, malformed by the manual (ISA v3.0B Book III 5.7.6: reserved fields
    /// of both are to be zero).
    #[test]
    fn case_b12_reserved_bits_of_a_process_table() {
        let words = [const { AtomicU64::new(0) }; 512];
        let memory = DirectMap::new(&words, Gpa::new(0x1000));
        let table = ProcessTable::new(Gpa::new(0x1000), 0).unwrap();
        let entry = Prte::of_tree(0x10_0000).unwrap();
        let root = Ok(Gpa::new(0x10_0000));
        // In the numbering of the manual: bit 0 is the highest.
        let first = [0, 3].map(|bit| (1 << (63 - bit), 0));
        let second = (0..64).map(|bit| (0, 1_u64 << (63 - bit)));
        for (tree, reserved) in first.into_iter().chain(second) {
            let tree = RadixRoot::from_bits(u64::from(entry.tree) | tree);
            table.write(&memory, 0, Prte { tree, reserved }).unwrap();
            for (strictness, want) in [
                (Strictness::Qemu, root),
                (Strictness::Kvm, root),
                (Strictness::Strict, Err(Cause::Malformed)),
            ] {
                let seen = table.root(&memory, 0, strictness);
                assert_eq!(seen, want, "{tree:?}, {reserved:#x}, {strictness:?}");
            }
        }
        for bit in 0..64_u32 {
            let word = ProcessTableWord::from_bits(table.word().into_bits() ^ 1 << (63 - bit));
            let named = |strictness| ProcessTable::of_word_as(word, strictness);
            if matches!(bit, 1..=3 | 52..=58) {
                assert_eq!(named(Strictness::Qemu), Some(table), "{bit}");
                assert_eq!(named(Strictness::Kvm), Some(table), "{bit}");
                assert_eq!(named(Strictness::Strict), None, "{bit}");
            } else if bit == 0 {
                assert_eq!(named(Strictness::Strict), Some(table), "Linux's bit");
            } else {
                assert_ne!(named(Strictness::Qemu), Some(table), "{bit} is no reserved bit");
            }
        }
    }

    #[test]
    fn entries_are_big_endian_and_bounded() {
        let words = [const { AtomicU64::new(0) }; 256];
        let memory = DirectMap::new(&words, Gpa::new(0x1000));
        let table = ProcessTable::new(Gpa::new(0x1000), 0).unwrap();
        let entry = Prte::of_tree(0x10_0000).unwrap();
        table.write(&memory, 3, entry).unwrap();
        assert_eq!(
            words[6].load(Ordering::Relaxed).to_ne_bytes(),
            [0x40, 0, 0, 0, 0, 0x10, 0, 0xad]
        );
        assert_eq!(table.read(&memory, 3), Ok(entry));
        for (pid, want) in [
            (3, Ok(Gpa::new(0x10_0000))),
            (2, Err(Cause::Malformed)),
            (128, Err(Cause::TableAccess)),
            (255, Err(Cause::TableAccess)),
            (256, Err(Cause::NotPresent)),
            (u32::MAX, Err(Cause::NotPresent)),
        ] {
            assert_eq!(table.root(&memory, pid, Strictness::Strict), want, "PID {pid}");
        }
    }
}
