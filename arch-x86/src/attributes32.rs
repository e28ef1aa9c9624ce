//! What a page of 32-bit paging says besides its address.

use pgtable::{Attributes, Level, Memory, Prot};

use crate::attributes::PageAttributes;

/// Leaf attributes in 32-bit paging: those of long mode, as far as a 4-byte entry has them. Every
/// page may be executed.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Attributes32 {
    page: PageAttributes,
}

/// The bits of an entry that are attributes, of a 4-KiB page.
const KEPT: u64 = 0xfff;

impl Attributes32 {
    /// The attributes in long mode's terms.
    #[must_use]
    pub const fn page(self) -> PageAttributes {
        self.page
    }

    /// The same page with another memory type: an index into the PAT. Only the low three bits of
    /// `index` count.
    #[must_use]
    pub const fn with_pat(self, index: u8) -> Self {
        Self { page: self.page.with_pat(index) }
    }

    /// The same page, global or not: global translations survive a change of CR3.
    #[must_use]
    pub const fn with_global(self, global: bool) -> Self {
        Self { page: self.page.with_global(global) }
    }

    /// The same page with these software bits, in the entry's bits 11:9. Higher bits do not count.
    #[must_use]
    pub const fn with_software(self, bits: u8) -> Self {
        Self { page: self.page.with_software((bits & 7) as u16) }
    }

    /// The same page, accessed or not.
    #[must_use]
    pub const fn with_accessed(self, accessed: bool) -> Self {
        Self { page: self.page.with_accessed(accessed) }
    }

    /// The same page, dirty or not.
    #[must_use]
    pub const fn with_dirty(self, dirty: bool) -> Self {
        Self { page: self.page.with_dirty(dirty) }
    }

    /// The attributes of the leaf `word`, which stands at `level`.
    #[inline(always)]
    pub(crate) const fn from_leaf(word: u64, level: Level) -> Self {
        // A 4-MiB page has its PAT bit where a 2-MiB page has it.
        Self { page: PageAttributes::from_leaf(word, level, KEPT) }
    }

    /// The leaf at `level` that maps address 0 with these attributes; `None` if they do not allow
    /// reading.
    #[inline(always)]
    pub(crate) const fn to_leaf(self, level: Level) -> Option<u64> {
        self.page.to_leaf(level)
    }
}

impl From<Prot> for Attributes32 {
    fn from(prot: Prot) -> Self {
        Self { page: prot.with_execute(true).into() }
    }
}

impl Attributes for Attributes32 {
    fn prot(&self) -> Prot {
        self.page.prot()
    }

    fn with_prot(self, prot: Prot) -> Self {
        Self { page: self.page.with_prot(prot.with_execute(true)) }
    }

    fn memory(&self) -> Memory {
        self.page.memory()
    }

    fn with_memory(self, memory: Memory) -> Self {
        Self { page: self.page.with_memory(memory) }
    }
}
