//! What an access asks for, and what a mapping allows, in words that all architectures share.

use core::fmt;

use bitfield_struct::bitfield;

/// What an access does.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum AccessKind {
    /// A data load.
    Read,
    /// A data store.
    Write,
    /// An instruction fetch.
    Fetch,
}

/// Who makes an access.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Privilege {
    /// User mode: x86 CPL 3, POWER problem state (`MSR[PR]` = 1).
    User,
    /// Supervisor mode: x86 CPL 0 to 2, POWER privileged state (`MSR[PR]` = 0).
    Supervisor,
}

/// One access to memory, as a walker judges it.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Access {
    /// What it does.
    pub kind: AccessKind,
    /// Who makes it.
    pub privilege: Privilege,
}

impl Access {
    /// A supervisor's load.
    pub const READ: Self = Self { kind: AccessKind::Read, privilege: Privilege::Supervisor };
    /// A supervisor's store.
    pub const WRITE: Self = Self { kind: AccessKind::Write, privilege: Privilege::Supervisor };
    /// A supervisor's instruction fetch.
    pub const FETCH: Self = Self { kind: AccessKind::Fetch, privilege: Privilege::Supervisor };

    /// The same access made in user mode.
    #[must_use]
    pub const fn by_user(self) -> Self {
        Self { kind: self.kind, privilege: Privilege::User }
    }
}

impl fmt::Display for Access {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let who = match self.privilege {
            Privilege::User => "user",
            Privilege::Supervisor => "supervisor",
        };
        let what = match self.kind {
            AccessKind::Read => "read",
            AccessKind::Write => "write",
            AccessKind::Fetch => "fetch",
        };
        write!(f, "{who} {what}")
    }
}

/// What a mapping allows, as far as every architecture can say it.
///
/// The coarse, portable part of an architecture's [`Attributes`]; code that is written against
/// [`AddressSpace`](crate::AddressSpace) needs no more.
#[bitfield(u8)]
#[derive(PartialEq, Eq, Hash)]
pub struct Prot {
    /// Loads are allowed. (x86 long mode cannot forbid them on a present page.)
    pub read: bool,
    /// Stores are allowed.
    pub write: bool,
    /// Instruction fetches are allowed.
    pub execute: bool,
    /// User mode is allowed too. (A second stage does not know privilege, and ignores it.)
    pub user: bool,
    #[bits(4)]
    __: u8,
}

impl Prot {
    /// Supervisor, read only.
    pub const R: Self = Self::new().with_read(true);
    /// Supervisor, read and write.
    pub const RW: Self = Self::R.with_write(true);
    /// Supervisor, read and execute.
    pub const RX: Self = Self::R.with_execute(true);
    /// Supervisor, everything.
    pub const RWX: Self = Self::RW.with_execute(true);

    /// The same for user mode too.
    #[must_use]
    pub const fn for_user(self) -> Self {
        self.with_user(true)
    }
}

/// What kind of memory a mapping leads to, as far as every architecture can say it.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub enum Memory {
    /// Ordinary memory: cached, accessed speculatively and out of order.
    #[default]
    Normal,
    /// Memory without side effects that is not cached: frame buffers. Stores may be combined.
    Uncached,
    /// Registers of devices: not cached, not accessed speculatively, in order. Some architectures
    /// refuse to fetch instructions from it.
    Device,
}

/// An architecture's leaf attributes: permissions, memory type, software bits.
///
/// They are made from a [`Prot`] (ordinary cached memory, marked accessed and dirty so that
/// hardware which does not set these bits by itself takes no fault for them) and then refined,
/// portably by the methods here, or by the architecture's own setters.
///
/// ```
/// use pgtable_x86::{EptAttributes, MemoryType};
/// use pgtable::{Attributes, Memory, Prot};
///
/// let registers = EptAttributes::from(Prot::RW).with_memory(Memory::Device);
/// assert_eq!(registers.memory_type(), MemoryType::Uncacheable);
/// // Rights change, and nothing else.
/// assert_eq!(registers.with_prot(Prot::R).memory(), Memory::Device);
/// ```
pub trait Attributes: Copy + Eq + fmt::Debug + From<Prot> + Send + Sync + 'static {
    /// What the leaf allows, as far as [`Prot`] can say it. The entries above the leaf may allow
    /// less.
    fn prot(&self) -> Prot;

    /// The same attributes with other rights. Memory type, software bits and what hardware recorded
    /// stay. (Where read-only and dirty share a bit, dirt moves into a software bit.) Rights that
    /// [`Prot`] does not tell apart (execution by one privilege alone) stay where the right that
    /// stands for them stays; with the same rights nothing changes.
    #[must_use]
    fn with_prot(self, prot: Prot) -> Self;

    /// The kind of memory, or the one that is nearest to what the leaf says.
    fn memory(&self) -> Memory;

    /// The same attributes for another kind of memory. Nothing changes if it is that kind already.
    #[must_use]
    fn with_memory(self, memory: Memory) -> Self;
}
