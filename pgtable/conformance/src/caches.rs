//! What translation caches hold, and what an invalidation removes, as data.

/// The table entries that an invalidation of a range of pages removes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum TablesRemoved {
    /// None: they have an invalidation of their own (POWER's RIC=1, RISC-V's `sfence.vma` without
    /// an address).
    None,
    /// Those on the way to the range (AArch64 `TLBI VAE1`).
    OnTheWay,
    /// All of the address space (x86 `INVLPG`, `INVPCID`).
    All,
}

/// What an architecture's translation caches hold, and what an invalidation removes.
///
/// [`STRICT`](Self::STRICT) is the default of [`conformance!`](crate::conformance): it holds all
/// that any architecture may hold, and removes no more than was asked for. So a format that passes
/// with it passes with the rules of every architecture:
///
/// | | table entries | absent entries | removed by a range | other sizes | two at once |
/// | --- | --- | --- | --- | --- | --- |
/// | [`STRICT`](Self::STRICT) | yes | yes | leaves | stay | never |
/// | [`X86`](Self::X86) | yes | no | leaves, all table entries | go | may be |
/// | [`POWER`](Self::POWER) | yes | no | leaves | stay | never |
/// | [`AARCH64`](Self::AARCH64) | yes | no | leaves, table entries on the way | go | never |
/// | [`RISCV`](Self::RISCV) | yes | yes | leaves | go | may be |
///
/// The test `mutants` of this crate says of each what its invalidations must name: the kit fails
/// where that is left out.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Caches {
    /// The levels whose table entries are cached, one bit each.
    pub table_levels: u8,
    /// Whether it is cached that an entry is absent, so that an entry that appears needs an
    /// invalidation ([`TableMemory::appeared`](pgtable::memory::TableMemory::appeared)).
    pub absent: bool,
    /// What an invalidation of a range does to cached table entries.
    pub tables_removed: TablesRemoved,
    /// Whether an invalidation of a range removes pages of the size that it names only (POWER's
    /// `tlbie` with its actual page size, AArch64's TTL hint).
    pub by_size: bool,
    /// Whether two different translations of one address must never be cached at once, so that a
    /// change of size or output needs break-before-make.
    pub one_translation: bool,
}

impl Caches {
    /// All that any architecture may hold, and the least that an invalidation may remove.
    pub const STRICT: Self = Self {
        table_levels: u8::MAX,
        absent: true,
        tables_removed: TablesRemoved::None,
        by_size: true,
        one_translation: true,
    };
    /// Intel SDM volume 3A, 4.10.2 to 4.10.4: entries that are not present are never cached;
    /// `INVLPG` removes every paging-structure-cache entry of the PCID, and pages of each size; a
    /// page may have several translations for a while.
    pub const X86: Self = Self {
        absent: false,
        tables_removed: TablesRemoved::All,
        by_size: false,
        one_translation: false,
        ..Self::STRICT
    };
    /// Power ISA v3.0B Book III, 5.9.3.3 and 5.10.1: `tlbie` with RIC=0 removes translations of the
    /// actual page size that it names, and no page walk cache; more than one match is an error.
    pub const POWER: Self = Self { absent: false, ..Self::STRICT };
    /// Arm DDI 0487, D8.16 and D8.17: what faults is not cached; `TLBI VAE1` without a TTL removes
    /// entries of every level for the address; break-before-make.
    pub const AARCH64: Self = Self {
        absent: false,
        tables_removed: TablesRemoved::OnTheWay,
        by_size: false,
        ..Self::STRICT
    };
    /// RISC-V Privileged Architecture, "Supervisor Memory-Management Fence Instruction": harts
    /// without Svvptc may cache that an entry is invalid; `sfence.vma` with an address orders leaf
    /// entries alone; either of two translations may be used.
    pub const RISCV: Self = Self { by_size: false, one_translation: false, ..Self::STRICT };
}
