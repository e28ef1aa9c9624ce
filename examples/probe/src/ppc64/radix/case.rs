//! A case: an access, and the tables that stand behind it. Nothing here knows the library: a tree
//! is plain numbers, from the manual.

use std::fmt;

use pgtable::Access;

use super::layout::{PROCESS_TABLE, PRTS, QUADRANT_3, TABLES, processes, prte};

/// Every way to access a place.
pub const ACCESSES: [Access; 6] = [
    Access::READ,
    Access::WRITE,
    Access::FETCH,
    Access::READ.by_user(),
    Access::WRITE.by_user(),
    Access::FETCH.by_user(),
];
/// One of each kind.
pub const KINDS: [Access; 3] = [Access::READ, Access::WRITE.by_user(), Access::FETCH];

/// log2 of the sizes of leaves, and so the levels where they stand.
pub const SIZES: [u8; 5] = [12, 16, 21, 30, 39];

/// Valid.
pub const V: u64 = 1 << 63;
/// Leaf.
pub const L: u64 = 1 << 62;
/// Reference.
pub const R: u64 = 0x100;
/// Change.
pub const C: u64 = 0x80;
/// For anybody: loads, stores, fetches.
pub const RWX: u64 = 7;
/// A process table entry's sizes of a tree that is supported: 52 bits, of which the root has 13.
pub const TREE: u64 = 2 << 61 | 5 << 5 | 13;

/// One word of a table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Slot {
    /// Its guest real address.
    pub address: u64,
    /// Its content, in the architecture's bit order.
    pub word: u64,
}

/// An access, and the tables that stand behind it.
#[derive(Clone, Debug)]
pub struct Case {
    /// What it is about.
    pub kind: &'static str,
    /// The process that runs.
    pub pidr: u32,
    /// The effective address.
    pub address: u64,
    /// What is done there.
    pub access: Access,
    /// The Authority Mask Register.
    pub amr: u64,
    /// The Instruction Authority Mask Register.
    pub iamr: u64,
    /// The partition table entry's second doubleword.
    pub process_table: u64,
    /// Both doublewords of the process table entry; none for the kernel's tree, which has one, and
    /// for a process beyond the table.
    pub prte: Vec<Slot>,
    /// An entry of each table on the way, from the root down.
    pub entries: Vec<Slot>,
}

impl Case {
    /// Every word that it puts into memory.
    pub fn slots(&self) -> impl Iterator<Item = &Slot> {
        self.prte.iter().chain(&self.entries)
    }

    /// Changes one of the entries.
    pub fn entry(mut self, index: usize, change: impl FnOnce(u64) -> u64) -> Self {
        let slot = &mut self.entries[index];
        slot.word = change(slot.word);
        self
    }

    /// Changes the leaf.
    pub fn leaf(self, change: impl FnOnce(u64) -> u64) -> Self {
        let last = self.entries.len() - 1;
        self.entry(last, change)
    }

    /// Changes a doubleword of the process table entry.
    pub fn prte(mut self, index: usize, change: impl FnOnce(u64) -> u64) -> Self {
        let slot = &mut self.prte[index];
        slot.word = change(slot.word);
        self
    }
}

impl fmt::Display for Case {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { pidr, address, access, amr, iamr, process_table, .. } = self;
        writeln!(
            f,
            "  access    {access} at {address:#018x}, PIDR {pidr:#x}, AMR {amr:#018x}, IAMR {iamr:#018x}"
        )?;
        write!(f, "  tables    process table {process_table:#018x}")?;
        for Slot { address, word } in self.slots() {
            write!(f, "\n            {address:#x}: {word:#018x}")?;
        }
        Ok(())
    }
}

/// From where a tree is reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Regime {
    /// Quadrant 0, while the process runs.
    Process(u32),
    /// Quadrant 3, while the process runs.
    Kernel(u32),
}

impl Regime {
    /// All but in their processes.
    pub const ALL: [Self; 4] =
        [Self::Process(42), Self::Kernel(42), Self::Process(0), Self::Kernel(0)];

    fn pidr(self) -> u32 {
        match self {
            Self::Process(pid) | Self::Kernel(pid) => pid,
        }
    }

    /// Whether the tree is the kernel's: its process table entry and entry 0 of its root are taken.
    pub fn shares_kernel(self) -> bool {
        matches!(self, Self::Kernel(_) | Self::Process(0))
    }
}

/// A tree in which everything is as it should be: what cases are made from.
#[derive(Clone, Copy, Debug)]
pub struct Shape {
    /// From where it is reached.
    pub regime: Regime,
    /// Where its tables stand: root first.
    pub tables: [u64; 4],
    /// log2 of the leaf's size.
    pub size: u8,
    /// The address that is to be reached.
    pub target: u64,
    /// Address bits; those within the leaf are the target's.
    pub high: u64,
    /// The leaf's bits besides V, L and the address.
    pub leaf: u64,
    /// The size of the process table.
    pub prts: u8,
}

impl Shape {
    /// Process 42 reaches the first data by a 4 KiB page that allows everything.
    pub const PLAIN: Self = Self {
        regime: Regime::Process(42),
        tables: TABLES[0],
        size: 12,
        target: super::layout::DATA[0].0 + 0x3_5678,
        high: 0x5_4321_0fed_c000,
        leaf: R | C | RWX,
        prts: PRTS,
    };

    /// The case.
    pub fn case(&self, kind: &'static str, access: Access) -> Case {
        let Self { regime, size, target, prts, .. } = *self;
        let within = (1 << size) - 1;
        let mut offset = (self.high & !within | target & within) & ((1 << 52) - 1);
        let kernel = regime.shares_kernel();
        if kernel && offset >> 39 == 0 {
            offset |= 1 << 39;
        }
        let mut tables = self.tables;
        if kernel {
            tables[0] = super::layout::KERNEL[0];
        }
        let pidr = regime.pidr();
        let prte = match kernel || pidr >= processes(prts) {
            true => Vec::new(),
            false => [tables[0] | TREE, 0]
                .into_iter()
                .zip([prte(pidr), prte(pidr) + 8])
                .map(|(word, address)| Slot { address, word })
                .collect(),
        };
        let mut entries = Vec::new();
        let mut bits = 13;
        let mut shift = 52;
        for level in 0.. {
            shift -= bits;
            let address = tables[level] + 8 * (offset >> shift & ((1 << bits) - 1));
            if shift == size {
                entries.push(Slot { address, word: V | L | target & !within | self.leaf });
                break;
            }
            bits = if shift == 21 && size == 16 { 5 } else { 9 };
            entries.push(Slot { address, word: V | tables[level + 1] | u64::from(bits) });
        }
        let address = match regime {
            Regime::Process(_) => offset,
            Regime::Kernel(_) => offset | QUADRANT_3,
        };
        let process_table = V | PROCESS_TABLE | u64::from(prts);
        Case { kind, pidr, address, access, amr: 0, iamr: 0, process_table, prte, entries }
    }
}
