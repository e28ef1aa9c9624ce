//! What translation caches hold, and what an invalidation removes.

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
/// that any architecture may hold, and removes no more than was asked for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Caches {
    /// The levels whose table entries are cached, one bit each.
    pub table_levels: u8,
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
        tables_removed: TablesRemoved::None,
        by_size: true,
        one_translation: true,
    };
}
